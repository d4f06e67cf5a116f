"""Ids of models depend on the weights, not the name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from magnet_cli.checkpoints import registry
from magnet_cli.checkpoints.identity import identity, with_identities
from tests.golden_cases import index

SMALL = "facebook/magnet-small-10secs"


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A folder with the files of magnet's format."""
    folder = tmp_path / "m"
    folder.mkdir()
    names = ("config.json", "lm.safetensors", "codec.safetensors", "text.safetensors")
    for name in (*names, "tokenizer.json"):
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_is_known_by_what_is_in_it(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = identity(str(native))
    assert first is not None
    assert first.startswith("sha256:")
    monkeypatch.chdir(native.parent)
    (native / "README.md").write_text("no part of it")
    os.utime(native / "config.json", (0, 0))
    shutil.copytree(native, "copy")
    assert {identity(spec) for spec in ("m", "./m", "copy")} == {first}
    seen = {first}
    for path in sorted(native.iterdir()):
        if path.name != "README.md":
            path.write_bytes(path.read_bytes()[:-1] + b"!")
            seen.add(identity("m"))
    assert len(seen) == 6


def test_released_weights_are_known_by_their_sizes_and_times(tmp_path: Path) -> None:
    for name in ("state_dict.bin", "compression_state_dict.bin"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (5, 5))
    first = identity(str(tmp_path))
    assert first is not None
    assert first.startswith("files:")
    os.utime(tmp_path / "state_dict.bin", (6, 6))
    assert identity(str(tmp_path)) not in (first, None)


def test_the_hubs_models_are_known_by_their_commit(hub_cache: Path) -> None:
    commit = Path(index()["models"][SMALL]["path"]).name
    for spec in ("small", SMALL, f"{SMALL}@main", f"small@{commit[:8]}"):
        assert identity(spec) == f"{SMALL}@{commit}"


def test_the_built_in_model_has_one_wherever_it_is(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity("nano")
    assert before is not None
    assets = native.parent / "assets"
    shutil.copytree(registry.ASSETS / "nano", assets / "nano")
    monkeypatch.setattr(registry, "ASSETS", assets)
    assert identity("nano") == before
    with (assets / "nano" / "lm.safetensors").open("ab") as file:
        file.write(b"!")
    assert identity("nano") not in (before, None)


@pytest.mark.parametrize(
    "spec", ["", "self", "no/such", "./none", "small@none", "nano@x", "a\0b", "x" * 5000, "medium"]
)
def test_what_is_not_here_has_none(hub_cache: Path, tmp_path: Path, spec: str) -> None:
    assert identity(spec) is None
    assert with_identities({"model": spec}) == {"model": spec}


def test_each_part_has_its_own(hub_cache: Path) -> None:
    found = with_identities({"model": "small", "rescorer": "self"})
    assert found == {"model": "small", "rescorer": "self", "model_id": identity("small")}
