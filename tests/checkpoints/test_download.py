"""Downloading, from a local server with the hub's protocol."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from magnet_cli.checkpoints import hub
from magnet_cli.checkpoints.load import import_checkpoint, load_parts
from magnet_cli.checkpoints.place import find_codec, find_place
from magnet_cli.checkpoints.registry import AUDIOCRAFT
from magnet_cli.errors import CheckpointError, ModelNotFoundError
from tests.checkpoints.hub_server import Hub, serving
from tests.golden_cases import snapshot

SMALL_30 = "facebook/magnet-small-30secs"
CODEC = "facebook/encodec_32khz"
T5 = "google-t5/t5-base"


def repo(name: str) -> tuple[str, Path]:
    directory = snapshot(name)
    return directory.name, directory


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the 30 s model, the codec it points to and its text encoder; an empty cache."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    # The library reads these at import, which another test may have done offline.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(Hub({SMALL_30: repo(SMALL_30), CODEC: repo(CODEC), T5: repo("t5-base")})) as up:
        monkeypatch.setenv("HF_ENDPOINT", up.url)
        huggingface_hub.close_session()
        yield up
        huggingface_hub.close_session()


def test_a_model_comes_with_its_codec_and_text_encoder(server: Hub) -> None:
    told: list[hub.Progress] = []
    resolved = find_place("small-30", progress=told.append)

    assert resolved.repo == SMALL_30
    assert resolved.revision == server.repos[SMALL_30][0]
    assert resolved.codec.repo == CODEC
    assert resolved.text.repo == T5
    needed = {
        "state_dict.bin": 1,
        "compression_state_dict.bin": 1,
        "config.json": 2,  # the codec's, the text encoder's
        "model.safetensors": 2,
        "tokenizer.json": 1,
    }
    assert Counter(server.files()) == needed, "only the files that are needed are fetched"
    for name in server.repos[SMALL_30][1].iterdir():
        assert (resolved.directory / name.name).read_bytes() == name.read_bytes()
    final = {(p.repo, p.file): p for p in told}
    assert len(final) == 7
    assert all(p.done == p.total for p in final.values())
    assert all(0 <= p.done <= (p.total or 0) for p in told)

    before = len(server.requests)
    again = find_place(SMALL_30)
    assert again.directory == resolved.directory
    assert len(server.requests) == before, "what is here is not asked for again"
    assert find_place(SMALL_30, offline=True).directory == resolved.directory
    assert load_parts(again, "cpu").codec.card == 64


def test_the_library_is_silent(server: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    find_place(SMALL_30)
    assert capfd.readouterr() == ("", "")


def test_a_pinned_revision_is_kept(server: Hub) -> None:
    commit = server.repos[SMALL_30][0]
    assert find_place(f"{SMALL_30}@{commit}").revision == commit
    assert find_place(SMALL_30, revision=commit, offline=True).revision == commit
    assert find_place("small-30", revision=commit[:9], offline=True).revision == commit
    with pytest.raises(ModelNotFoundError, match="no revision 'v9'"):
        find_place(f"{SMALL_30}@v9")


def test_a_private_model_needs_the_token(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "hf_secret"
    with pytest.raises(ModelNotFoundError) as refused:
        find_place(SMALL_30)
    assert "HF_TOKEN" in refused.value.hint
    assert refused.value.exit_status == 3
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert find_place(SMALL_30).repo == SMALL_30


def test_a_gated_model_says_where_to_ask(server: Hub) -> None:
    server.gated = True
    with pytest.raises(ModelNotFoundError, match="gated") as refused:
        find_place(SMALL_30)
    assert "HF_TOKEN" in refused.value.hint


def test_a_model_that_is_not_there_lists_near_names(server: Hub) -> None:
    with pytest.raises(ModelNotFoundError, match="no model facebook/magnet-smal-30secs") as error:
        find_place("facebook/magnet-smal-30secs")
    assert "magnet-small-30secs" in error.value.hint
    assert not any("resolve" in request for request in server.requests)


def test_a_repository_of_something_else_is_refused_before_anything_is_fetched(
    server: Hub, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.gguf").write_bytes(b"x")
    server.repos["someone/llm"] = ("ab" * 20, tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds no model"):
        find_place("someone/llm")
    assert server.files() == []


def test_a_broken_hub_and_no_network_are_said(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.broken = 500
    with pytest.raises(ModelNotFoundError, match="answered 500"):
        find_place(SMALL_30)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    with pytest.raises(ModelNotFoundError, match="could not be downloaded") as error:
        find_place(SMALL_30)
    assert "network" in error.value.hint


def test_a_hub_that_never_answers_is_given_up(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server or gateway that accepted the connection and sent nothing was waited for forever."""
    assert constants.HF_HUB_ETAG_TIMEOUT == 10
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    server.silent = True
    with pytest.raises(ModelNotFoundError, match="could not be downloaded: timed out") as error:
        find_place(SMALL_30)
    assert "Check the network" in error.value.hint


def test_a_broken_connection_is_resumed(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    server.cut_after, server.cuts = 65_536, 1
    resolved = find_place(SMALL_30)
    source = server.repos[SMALL_30][1] / "state_dict.bin"
    assert (resolved.directory / "state_dict.bin").read_bytes() == source.read_bytes()
    assert server.ranges == ["bytes=65536-"]


def test_an_interrupted_download_leaves_nothing_that_looks_whole(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def interrupt(progress: hub.Progress) -> None:
        if progress.file == "compression_state_dict.bin":
            raise KeyboardInterrupt

    def missing() -> list[str]:
        here = hub.cached(SMALL_30)
        assert here is not None
        return AUDIOCRAFT.missing(here.names())

    with pytest.raises(KeyboardInterrupt):
        find_place(SMALL_30, progress=interrupt)
    assert missing() == ["compression_state_dict.bin"]
    with pytest.raises(ModelNotFoundError, match=r"compression_state_dict.bin is missing") as error:
        find_place(SMALL_30, offline=True)
    assert f"magnet models pull {SMALL_30}" in error.value.hint
    find_place(SMALL_30)
    assert server.files().count("state_dict.bin") == 1, "what was whole is not fetched again"
    assert missing() == []


def test_a_model_of_ours_that_lacks_its_last_file_is_completed(server: Hub, tmp_path: Path) -> None:
    """Interrupted before tokenizer.json, it counted as complete, could not be loaded, and stayed so."""
    import_checkpoint(find_place(SMALL_30), tmp_path / "ours")
    server.repos["me/ours"] = ("ab" * 20, tmp_path / "ours")

    def interrupt(progress: hub.Progress) -> None:
        if progress.file == "tokenizer.json":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_place("me/ours", progress=interrupt)
    with pytest.raises(ModelNotFoundError, match=r"only in part: tokenizer.json is missing"):
        find_place("me/ours", offline=True)
    load_parts(find_place("me/ours"), "cpu")


def damage(path: Path, how: str) -> bytes:
    """Damage the cached file behind a link; returns its content."""
    blob = path.resolve()
    whole = blob.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    blob.write_bytes({"cut": whole[:middle], "flipped": flipped, "empty": b""}[how])
    return whole


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
@pytest.mark.parametrize(
    ("of", "name"),
    [
        (SMALL_30, "state_dict.bin"),
        (CODEC, "model.safetensors"),
        (T5, "tokenizer.json"),
        (T5, "model.safetensors"),
    ],
)
def test_a_damaged_file_is_fetched_again(server: Hub, of: str, name: str, how: str) -> None:
    """The hint was to delete it and pull, but the hub's library linked to the same damaged file."""
    find_place(SMALL_30)
    here = hub.cached(of)
    assert here is not None
    whole = damage(here.directory / name, how)
    del server.requests[:]
    resolved = find_place(SMALL_30, repair=True)
    assert server.files() == [name], "nothing else is fetched"
    assert (here.directory / name).read_bytes() == whole
    load_parts(resolved, "cpu")
    find_place(SMALL_30, repair=True)
    assert server.files() == [name], "what is whole is left alone"


def test_what_is_damaged_says_how_to_have_it_again(server: Hub, tmp_path: Path) -> None:
    resolved = find_place(SMALL_30)
    for part in (resolved.text, resolved.codec):
        damage(part.directory / "model.safetensors", "cut")
        with pytest.raises(CheckpointError, match="cannot be read") as error:
            load_parts(resolved, "cpu")
        assert "`magnet models pull`" in error.value.hint
    damage(resolved.directory / "state_dict.bin", "cut")
    with pytest.raises(CheckpointError, match="cannot be read"):
        find_place(SMALL_30)
    server.broken = 500
    with pytest.raises(ModelNotFoundError, match="answered 500"):
        find_place(SMALL_30, repair=True)
    server.broken = None
    load_parts(find_place(SMALL_30, repair=True), "cpu")

    copy = tmp_path / "copy"
    shutil.copytree(resolved.directory, copy)
    damage(copy / "state_dict.bin", "cut")
    with pytest.raises(CheckpointError, match="Copy it again"):
        find_place(str(copy), repair=True)


def test_a_repair_that_was_interrupted_is_begun_again(server: Hub) -> None:
    """A blob left behind would be linked to as if it were complete."""
    resolved = find_place(SMALL_30)
    whole = damage(resolved.directory / "state_dict.bin", "flipped")

    def interrupt(progress: hub.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_place(SMALL_30, progress=interrupt, repair=True)
    find_place(SMALL_30)
    assert (resolved.directory / "state_dict.bin").read_bytes() == whole


def test_a_repair_needs_the_network_and_takes_nothing_away_before(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = find_place(SMALL_30)
    damage(resolved.codec.directory / "config.json", "flipped")
    before = (resolved.codec.directory / "config.json").read_bytes()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match=r"damaged: config.json must be fetched again"):
        find_place(SMALL_30, repair=True)
    assert (resolved.codec.directory / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["state_dict.bin", "compression_state_dict.bin"])
def test_a_cache_without_links_is_repaired(server: Hub, tmp_path: Path, name: str) -> None:
    """As on Windows: the snapshot has the files themselves, without checksums."""
    directory = find_place(SMALL_30).directory
    for path in list(directory.iterdir()):
        path.resolve().rename(tmp_path / "moved")
        path.unlink()
        (tmp_path / "moved").rename(path)
    whole = damage(directory / name, "cut")
    del server.requests[:]
    find_place(SMALL_30, repair=True)
    assert server.files() == [name]
    assert (directory / name).read_bytes() == whole


def test_a_link_out_of_the_cache_is_replaced_and_its_file_kept(server: Hub, tmp_path: Path) -> None:
    directory = find_place(SMALL_30).directory
    mine = tmp_path / "mine.bin"
    mine.write_bytes(b"my own")
    (directory / "state_dict.bin").unlink()
    (directory / "state_dict.bin").symlink_to(mine)
    find_place(SMALL_30, repair=True)
    assert mine.read_bytes() == b"my own"
    assert (directory / "state_dict.bin").stat().st_size > 1000


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "No space is left"), (errno.EROFS, "cannot be written to")],
)
def test_disk_trouble_is_said(
    server: Hub, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise OSError(number, "trouble")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelNotFoundError, match=words) as error:
        find_place(SMALL_30)
    assert "HF_HUB_CACHE" in error.value.hint


def test_a_codec_is_fetched_alone(server: Hub) -> None:
    part = find_codec(CODEC)
    assert part.repo == CODEC
    assert sorted(server.files()) == ["config.json", "model.safetensors"]
    with pytest.raises(CheckpointError, match="holds no model"):
        find_place(CODEC)
