"""Token shards: complete or absent, self-contained, of one codec."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from magnet_cli.data.tokens import TokenFolder, TokenFormat, TokenWriter
from magnet_cli.errors import DataError

FORMAT = TokenFormat("tiny", "abc", 100, 10.0, 2, 16)


def codes(seed: int, frames: int, card: int = 16) -> Tensor:
    return torch.randint(0, card, (2, frames), generator=torch.Generator().manual_seed(seed))


def write(folder: Path, count: int, format_: TokenFormat = FORMAT, start: int = 0) -> TokenWriter:
    writer = TokenWriter(folder, format_, clips_per_shard=2)
    for n in range(start, start + count):
        writer.add(
            f"clip-{n}", f"key-{n}", codes(n, 5 + n, format_.card), (f"caption {n} 🎹",), ("t",)
        )
    writer.flush()
    return writer


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    write(tmp_path, 5)
    folder = TokenFolder(tmp_path)
    assert folder.format == FORMAT
    assert [clip.id for clip in folder.clips] == [f"clip-{n}" for n in range(5)]
    for n, clip in enumerate(folder.clips):
        assert torch.equal(folder.codes(clip), codes(n, 5 + n))
        assert torch.equal(folder.codes(clip, 2, 2), codes(n, 5 + n)[:, 2:4])
        assert torch.equal(folder.codes(clip, 4, 99), codes(n, 5 + n)[:, 4:])
        assert clip.captions == (f"caption {n} 🎹",)
        assert clip.tags == ("t",)


def test_large_codebooks_need_more_than_sixteen_bits(tmp_path: Path) -> None:
    wide = dataclasses.replace(FORMAT, card=70_000)
    write(tmp_path, 1, wide)
    folder = TokenFolder(tmp_path)
    assert torch.equal(folder.codes(folder.clips[0]), codes(0, 5, 70_000))


def test_going_on_keeps_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, 3)
    again = TokenWriter(tmp_path, FORMAT)
    assert again.written == {f"clip-{n}": f"key-{n}" for n in range(3)}
    again.add("clip-1", "new", codes(9, 4), ("other",), ())
    again.flush()
    clips = {clip.id: clip for clip in TokenFolder(tmp_path).clips}
    assert clips["clip-1"].frames == 4, "the newest codes of a clip count"
    assert len(clips) == 3


def test_a_lost_index_is_made_again(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / "index.json").write_text("{broken")
    with pytest.raises(DataError, match="broken"):
        TokenFolder(tmp_path)
    TokenWriter(tmp_path, FORMAT).flush()
    assert len(TokenFolder(tmp_path).clips) == 3


def test_what_is_left_out_stays_so_until_it_is_used_again(tmp_path: Path) -> None:
    writer = write(tmp_path, 5)
    writer.use_only({"clip-0", "clip-3"})
    assert [clip.id for clip in TokenFolder(tmp_path).clips] == ["clip-0", "clip-3"]
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["clips"], index["frames"]) == (2, 5 + 8)

    going_on = TokenWriter(tmp_path, FORMAT)
    assert len(going_on.written) == 5, "codes that are left out need not be made again"
    going_on.add("clip-1", "new", codes(9, 4), ("other",), ())
    going_on.flush()
    assert {clip.id for clip in TokenFolder(tmp_path).clips} == {"clip-0", "clip-1", "clip-3"}
    going_on.use_only({"clip-4"})
    assert [clip.id for clip in TokenFolder(tmp_path).clips] == ["clip-4"]


def test_a_folder_of_an_older_version_is_used_whole(tmp_path: Path) -> None:
    write(tmp_path, 3)
    index = json.loads((tmp_path / "index.json").read_text())
    del index["left_out"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert len(TokenFolder(tmp_path).clips) == 3
    assert len(TokenWriter(tmp_path, FORMAT).written) == 3


def test_a_file_name_that_is_no_utf8_does_not_stop_the_shard(tmp_path: Path) -> None:
    """The shard could not be written, which lost all clips in it."""
    writer = TokenWriter(tmp_path, FORMAT)
    writer.add("caf\udce9.wav", "k", codes(0, 5), ("x",), ())
    writer.use_only({"caf\udce9.wav"})
    assert [clip.id for clip in TokenFolder(tmp_path).clips] == ["caf\udce9.wav"]
    TokenWriter(tmp_path, FORMAT).use_only(())
    assert TokenFolder(tmp_path).clips == ()


def test_a_crash_costs_the_shard_in_work(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, FORMAT, clips_per_shard=2)
    for n in range(3):
        writer.add(f"clip-{n}", "key", codes(n, 5), ("x",), ())
    del writer  # killed: clip-2 was not written
    (tmp_path / ".partial-x.safetensors").write_bytes(b"half")
    assert set(TokenWriter(tmp_path, FORMAT).written) == {"clip-0", "clip-1"}


def test_a_full_disk_keeps_the_shards_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("magnet_cli.data.tokens.save_file", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, 2, start=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json", "shard-00000.safetensors"]


def test_another_codec_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 2)
    with pytest.raises(DataError, match="not of this other"):
        TokenWriter(tmp_path, dataclasses.replace(FORMAT, codec="other", codec_hash="def"))


@pytest.mark.parametrize("harm", ["cut", "garbage", "long", "streams"])
def test_a_broken_shard_is_named(tmp_path: Path, harm: str) -> None:
    write(tmp_path, 2)
    shard = tmp_path / "shard-00000.safetensors"
    if harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-7])
    elif harm == "garbage":
        shard.write_bytes(b"\0" * 100)
    elif harm == "long":
        data = shard.read_bytes()
        shard.write_bytes(data.replace(b'\\"frames\\": 6', b'\\"frames\\": 9', 1))
    else:
        from safetensors import safe_open
        from safetensors.torch import save_file

        with safe_open(shard, framework="pt") as opened:
            metadata, held = opened.metadata(), opened.get_tensor("codes")
        save_file({"codes": held[:, :1].contiguous()}, shard, metadata)
    with pytest.raises(DataError, match=r"shard-00000"):
        TokenFolder(tmp_path)


def test_an_empty_folder_is_no_folder_of_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder of tokens"):
        TokenFolder(tmp_path)


def test_the_index_tells_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, 3)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["clips"] == 3
    assert index["frames"] == 5 + 6 + 7
    assert [shard["clips"] for shard in index["shards"]] == [2, 1]


def test_the_same_codec_by_another_name_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, 2)
    assert (
        len(TokenWriter(tmp_path, dataclasses.replace(FORMAT, codec="./models/tiny")).written) == 2
    )


def test_codes_out_of_range_are_refused_when_they_are_read(tmp_path: Path) -> None:
    """They failed in an embedding, or trained the wrong rows."""
    write(tmp_path, 1, dataclasses.replace(FORMAT, card=64))
    index = json.loads((tmp_path / "index.json").read_text())
    index["codec"]["card"] = 16
    path = tmp_path / "shard-00000.safetensors"
    data = path.read_bytes().replace(b'\\"card\\": 64', b'\\"card\\": 16')
    path.write_bytes(data)
    (tmp_path / "index.json").write_text(json.dumps(index))
    folder = TokenFolder(tmp_path)
    with pytest.raises(DataError, match="holds codes outside 0 to 15"):
        folder.codes(folder.clips[0])


@pytest.mark.parametrize(
    "change",
    [
        {"shards": "x"},
        {"shards": [{"file": 3}]},
        {"codec": []},
        {"codec": {"card": 10**12}},
        {"left_out": [1]},
    ],
)
def test_an_index_of_other_kinds_is_broken(tmp_path: Path, change: dict) -> None:
    write(tmp_path, 1)
    path = tmp_path / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match="broken") as caught:
        TokenFolder(tmp_path)
    assert "Error" not in caught.value.message
