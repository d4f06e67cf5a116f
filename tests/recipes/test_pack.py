"""A packed model replaces the files of the one before it, and nothing beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import magnet_cli
from magnet_cli.checkpoints import registry
from recipes.nano import pack


def test_it_is_packed_beside_other_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "nano"
    run.mkdir()
    for file in (registry.ASSETS / "nano").iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    (run / "log.jsonl").write_text('{"step": 20}\n{"step": 40}\n')
    out.mkdir()
    (out / "README.md").write_text("mine")
    (out / "lm.safetensors").write_text("the last version")
    monkeypatch.setattr(sys, "argv", ["pack", str(run), "--out", str(out)])
    pack.main()
    assert (out / "README.md").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nano", "run"]
    model = magnet_cli.load_model(str(out), offline=True)
    assert model.defaults.over(pack.DEFAULTS) == pack.DEFAULTS.over(model.defaults)
    assert model.parts.lm.config == magnet_cli.load_model(str(run), offline=True).lm.config
