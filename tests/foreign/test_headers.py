"""Headers of weight files."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from magnet_cli.checkpoints.building import read_pickle, read_safetensors
from magnet_cli.errors import CheckpointError
from magnet_cli.foreign import bounds
from magnet_cli.foreign.reading import ReadError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


def test_the_header_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(
        {"layers.0.a": torch.zeros(2, 3), "layers.1.a": torch.zeros(1), "b": torch.zeros(())},
        path,
        {"by": "me"},
    )
    found = bounds.read_header(path)
    assert found.shapes == {"layers.0.a": (2, 3), "layers.1.a": (1,), "b": ()}
    assert found.metadata == {"by": "me"}
    assert found.layers("layers.") == 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"abc", "cut short"),
        (struct.pack("<Q", 2**63) + b"x", "cut short"),
        (struct.pack("<Q", 4) + b"[[[[", "not a safetensors"),
        (LFS, "Git LFS"),
        (b"{", "cut short"),
    ],
)
def test_what_is_no_safetensors(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ReadError, match=why):
        bounds.read_header(path)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path)
    assert caught.value.hint
    assert ("git lfs pull" in caught.value.hint) is (data == LFS)


def test_a_shape_is_bounded_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    # The product of 40,000 dimensions took seconds.
    for shape in ([10**6, 10**6], [2**47] * 40_000, [1] * 17):
        said = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
        text = json.dumps(said).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        with pytest.raises(ReadError, match=r"'a' would be larger|'a' has more than 16 dimensions"):
            bounds.read_header(path)


def _archive(path: Path, how: int, size: int) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("archive/data.pkl", b" " * size)


def test_pickles_that_grow(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    _archive(path, zipfile.ZIP_DEFLATED, 10_000_000)
    with pytest.raises(ReadError, match="compressed"):
        bounds.check_pickle(path)
    # REDUCE of bytearray(2 ** 44): torch's own reader of weights alone allows it.
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x10\x85R.")
    with pytest.raises(ReadError, match="more than its own size"):
        bounds.check_pickle(path)
    path.write_bytes(LFS)
    with pytest.raises(CheckpointError, match="Git LFS"):
        read_pickle(path)


def test_an_old_file_is_bounded_by_itself(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, stream, _use_new_zipfile_serialization=False)
    path = tmp_path / "a.bin"
    path.write_bytes(stream.getvalue())
    bounds.check_pickle(path)
    at = stream.getvalue().index(b"K\x03")
    path.write_bytes(
        stream.getvalue()[:at] + b"\x8a\x06\0\0\0\0\0\x10" + stream.getvalue()[at + 2 :]
    )
    with pytest.raises(ReadError, match="more than its own size"):
        bounds.check_pickle(path)


def test_a_stride_of_zero_is_no_model(tmp_path: Path) -> None:
    from magnet_cli.checkpoints import key_map

    table = [("a", "a")]
    assert key_map.to_ours({"a": torch.zeros(4)}, table, (), "x")
    with pytest.raises(CheckpointError, match="larger than what is stored"):
        key_map.to_ours({"a": torch.zeros(1).expand(10**6, 10**6)}, table, (), "x")
    with pytest.raises(CheckpointError, match="larger than what is stored"):
        key_map.to_ours({"a": torch.zeros(4, device="meta")}, table, (), "x")
