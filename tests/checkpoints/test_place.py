"""Names, hub ids and directories -> local files, without the network."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.checkpoints import hub, registry
from magnet_cli.checkpoints.load import import_checkpoint, load_parts
from magnet_cli.checkpoints.place import find_codec, find_place, find_text_encoder, t5_of
from magnet_cli.checkpoints.registry import AUDIOCRAFT, ENCODEC, NATIVE, T5
from magnet_cli.errors import CheckpointError, MagnetError, ModelNotFoundError, UsageError
from tests.golden_cases import HUB_CACHE, index, snapshot

SMALL = "facebook/magnet-small-10secs"
SMALL_30 = "facebook/magnet-small-30secs"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any use of the network fails the test."""

    def refuse(*args: object) -> NoReturn:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def copied_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the golden cache that may be changed; offline."""
    cache = tmp_path / "hub"
    shutil.copytree(HUB_CACHE, cache)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return cache


@pytest.mark.parametrize("spec", ["small", "magnet-small-10secs", SMALL, f"{SMALL}@main"])
def test_names_and_hub_ids(hub_cache: Path, spec: str) -> None:
    resolved = find_place(spec)
    commit = Path(index()["models"][SMALL]["path"]).name
    assert (resolved.name, resolved.repo) == ("magnet-small-10secs", SMALL)
    assert resolved.revision == commit
    assert resolved.layout is AUDIOCRAFT
    assert resolved.codec.directory == resolved.directory
    assert resolved.text.layout is T5
    assert resolved.text.repo in ("t5-base", "google-t5/t5-base")


def test_a_pointer_is_followed(hub_cache: Path) -> None:
    resolved = find_place("small-30")
    assert resolved.codec.layout is ENCODEC
    assert resolved.codec.repo == "facebook/encodec_32khz"
    assert resolved.codec.directory == snapshot("facebook/encodec_32khz")


def test_revisions(hub_cache: Path) -> None:
    commit = snapshot(SMALL).name
    assert find_place(f"{SMALL}@{commit}").revision == commit
    assert find_place(f"small@{commit[:7]}").revision == commit
    assert find_place(SMALL, revision=commit).revision == commit
    for spec, revision in ((f"{SMALL}@{commit}", "main"), (f"{SMALL}@", None)):
        with pytest.raises(UsageError, match="revision"):
            find_place(spec, revision=revision)
    for missing in ("v2", "../../refs/main", "f" * 40, "0"):
        with pytest.raises(ModelNotFoundError, match="not on this machine"):
            find_place(SMALL, revision=missing)


def test_a_directory(hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(snapshot(SMALL), tmp_path / "mine")
    resolved = find_place(str(tmp_path / "mine"))
    assert (resolved.name, resolved.repo, resolved.known) == ("mine", None, None)
    monkeypatch.chdir(tmp_path)
    assert find_place("mine").directory == Path("mine")
    assert find_place("./mine").name == "mine"
    monkeypatch.chdir("mine")
    assert find_place(".").name == "mine"
    with pytest.raises(UsageError, match="no revisions"):
        find_place(".", revision="main")


def test_a_built_in_model_comes_first(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_checkpoint(find_place(SMALL), tmp_path / "nano")
    monkeypatch.setattr(registry, "ASSETS", tmp_path)
    (tmp_path / "here" / "nano").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(snapshot(SMALL_30), "nano", dirs_exist_ok=True)
    for spec in ("nano", None):
        resolved = find_place(spec)
        assert (resolved.name, resolved.repo, resolved.layout) == ("nano", None, NATIVE)
        assert resolved.directory == tmp_path / "nano"
        assert load_parts(resolved, "cpu").name == "nano"
    assert find_place("./nano").layout is AUDIOCRAFT
    for spec, revision in (("nano@main", None), ("nano", "main")):
        with pytest.raises(UsageError, match="no revisions"):
            find_place(spec, revision=revision)


def test_a_directory_named_as_a_model_counts_where_it_holds_one(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small").mkdir()
    assert find_place("small").repo == SMALL
    with pytest.raises(CheckpointError, match="holds no model"):
        find_place("./small")
    shutil.copytree(snapshot(SMALL_30), "small", dirs_exist_ok=True)
    assert find_place("small").repo is None


def test_a_directory_that_lacks_files_names_them(hub_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(snapshot(SMALL), tmp_path / "mine")
    (tmp_path / "mine" / "compression_state_dict.bin").unlink()
    with pytest.raises(CheckpointError, match=r"has no compression_state_dict\.bin"):
        find_place(str(tmp_path / "mine"))


def test_a_path_that_is_not_there(hub_cache: Path) -> None:
    for spec in ("./nothing", "/nothing/at/all", "a/b/c", "~/nothing-of-the-kind"):
        with pytest.raises(ModelNotFoundError, match="no folder"):
            find_place(spec)


def test_a_file_is_no_model_and_is_not_looked_for_on_the_hub(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for spec in ("mine/model.safetensors", "model.safetensors"):
        Path(spec).touch()
        with pytest.raises(ModelNotFoundError, match="is a file"):
            find_place(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        " ",
        "smal",
        "a b",
        "a/b c",
        "\0",
        "x" * 10_000,
        "\u202eevil/\u202emodel",
        "😀",
        "a//b",
        "@",
    ],
)
def test_what_is_no_name_at_all(hub_cache: Path, spec: str) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        find_place(spec)
    assert error.value.exit_status == 3
    assert error.value.hint
    assert len(error.value.message) < 1000


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_ends_in_an_error_of_ours(spec: str) -> None:
    found = None
    with contextlib.suppress(MagnetError):  # any other error is a failure
        found = find_place(spec, offline=True)
    assert found is None or found.directory.is_dir()


def test_offline_and_not_here_says_what_to_do(hub_cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not on this machine") as error:
        find_place("medium")
    assert "magnet models pull" in error.value.hint


def test_a_model_that_is_here_at_a_commit_alone_is_said_to_be(copied_cache: Path) -> None:
    """As `magnet models pull` of a commit leaves it."""
    refs = copied_cache / f"models--{SMALL.replace('/', '--')}" / "refs"
    commit = (refs / "main").read_text().strip()
    (refs / "main").unlink()
    with pytest.raises(ModelNotFoundError, match=f"on this machine at {commit}; .*'main'") as error:
        find_place("small", offline=True)
    assert "@REVISION" in error.value.hint
    assert find_place(f"small@{commit}", offline=True).repo == SMALL


def test_offline_by_the_argument_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(HUB_CACHE))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert find_place(SMALL, offline=True).repo == SMALL
    with pytest.raises(ModelNotFoundError, match="network is off"):
        find_place("medium", offline=True)
    assert find_place(SMALL).repo == SMALL, "what is here needs no network"


def test_missing_codec_and_text_encoder_are_named(copied_cache: Path) -> None:
    shutil.rmtree(copied_cache / "models--facebook--encodec_32khz")
    with pytest.raises(ModelNotFoundError, match="facebook/encodec_32khz is not on"):
        find_place(SMALL_30)
    shutil.rmtree(copied_cache / "models--t5-base")
    with pytest.raises(ModelNotFoundError, match="t5-base is not on"):
        find_place(SMALL)


def test_a_partial_cache_names_what_is_missing(copied_cache: Path) -> None:
    (copied_cache / snapshot(SMALL).relative_to(HUB_CACHE) / "compression_state_dict.bin").unlink()
    with pytest.raises(ModelNotFoundError, match=r"only in part: compression_state_dict\.bin"):
        find_place(SMALL)
    (copied_cache / snapshot("t5-base").relative_to(HUB_CACHE) / "tokenizer.json").unlink()
    with pytest.raises(
        ModelNotFoundError, match=r"t5-base is on this machine only in part: tokenizer\.json"
    ):
        find_place("musicgen-small")


def test_a_broken_link_in_the_cache_counts_as_missing(copied_cache: Path) -> None:
    """Snapshots are links to blobs; if a blob is deleted, its link is broken."""
    file = copied_cache / snapshot(SMALL).relative_to(HUB_CACHE) / "state_dict.bin"
    file.unlink()
    file.symlink_to("../../blobs/gone")
    with pytest.raises(ModelNotFoundError, match="only in part"):
        find_place(SMALL)


@pytest.mark.parametrize("name", ["t5-base", "google-t5/t5-base"])
def test_both_names_of_the_text_encoder(copied_cache: Path, name: str) -> None:
    """Either is used if it is in the cache."""
    for entry in copied_cache.glob("models--*t5-base"):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    folder = copied_cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(HUB_CACHE / "models--t5-base", folder)
    assert find_place(SMALL).text.repo == name


@pytest.mark.parametrize("name", ["small", "t5-base"])
def test_the_text_encoder_of_a_known_model(hub_cache: Path, name: str) -> None:
    """`--text-encoder small` looked for a T5 called small."""
    assert find_text_encoder(name).directory == find_place(SMALL).text.directory
    assert t5_of(name) == "t5-base"


def test_the_text_encoder_of_the_built_in_model() -> None:
    found = find_text_encoder("nano")
    assert found.directory == find_place("nano").directory
    assert t5_of("nano") == "nano"


def test_a_read_only_cache(copied_cache: Path) -> None:
    folders = [copied_cache, *(path for path in copied_cache.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        before = sorted(copied_cache.rglob("*"))
        assert find_place(SMALL_30).repo == SMALL_30
        assert sorted(copied_cache.rglob("*")) == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("call", ["is_dir", "iterdir"])
def test_a_cache_that_may_not_be_searched(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """For example another user's cache: a PermissionError was passed on."""
    real = getattr(Path, call)

    def refuse(path: Path) -> object:
        if "snapshots" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, call, refuse)
    for spec in (SMALL, f"{SMALL}@{snapshot(SMALL).name[:7]}"):
        with pytest.raises(ModelNotFoundError, match="cannot be read: Permission denied") as error:
            find_place(spec)
        assert "Check its permissions" in error.value.hint


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.cache_directory() == tmp_path / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert hub.cache_directory() == Path("/xdg/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert hub.cache_directory() == tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", "$HF_HOME/../cache")
    assert hub.cache_directory() == Path(os.path.expanduser("~/hf/../cache"))


@pytest.mark.parametrize(
    ("value", "off"),
    [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("", False)],
)
def test_offline_by_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, off: bool) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.offline() is off


def test_a_codec_alone(hub_cache: Path) -> None:
    assert find_codec("facebook/encodec_32khz").layout is ENCODEC
    assert find_codec(str(snapshot("facebook/encodec_32khz"))).repo is None
    assert find_codec("small").layout is AUDIOCRAFT
    assert find_codec("small-30").repo == "facebook/encodec_32khz"
    with pytest.raises(ModelNotFoundError):
        find_codec("nothing")


def test_a_text_encoder_alone(hub_cache: Path) -> None:
    part = find_text_encoder("t5-large")
    assert part.layout is T5
    assert part.directory == snapshot("t5-large")
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        find_text_encoder("t5-3b")
    with pytest.raises(ModelNotFoundError, match="no folder"):
        find_text_encoder("no such/../thing")
    with pytest.raises(ModelNotFoundError, match="no model called"):
        find_text_encoder("no such thing")


def test_no_cache_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert hub.cached(SMALL) is None
    with pytest.raises(ModelNotFoundError):
        find_place(SMALL, offline=True)
    assert not (tmp_path / "nowhere").exists()


def test_only_the_files_of_a_layout_are_chosen() -> None:
    names = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "spiece.model"]
    assert registry.needed(ENCODEC, names, "x") == ["config.json", "model.safetensors"]
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        registry.needed(T5, names, "x")
    weights = ["lm.safetensors", "codec.safetensors", "text.safetensors"]
    native = ["config.json", *weights, "tokenizer.json"]
    assert registry.model_layout(native) is NATIVE
    assert registry.needed(NATIVE, [*native, "samples.wav"], "x") == native
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        registry.needed(NATIVE, native[:-1], "x")
    assert registry.model_layout(names) is None
