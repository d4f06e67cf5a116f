"""`magnet doctor`: what a bug report needs, without the user's folders."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from magnet_cli.api import load_model
from magnet_cli.cli import doctor
from tests.cli.conftest import SMALL, Magnet


@pytest.fixture(autouse=True)
def _no_time_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = doctor._product_rate
    monkeypatch.setattr(doctor, "_product_rate", lambda seconds: rate(0.01))


def test_it_says_what_a_report_needs_and_no_folder_of_the_user(
    magnet: Magnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "jane"
    (home / ".zfunc").mkdir(parents=True)
    (home / ".zfunc" / "_magnet").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SHELL", "/bin/zsh")
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "models"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    (home / "config" / "magnet").mkdir(parents=True)
    (home / "config" / "magnet" / "config.toml").write_text(f'model = "{home}/mine"\nlufs = -20')
    outcome = magnet("doctor")
    assert outcome.status == 0
    for text in (
        f"torch {version('torch')}", "libsndfile 1", "GFLOP/s", "~/models: no models", "cpu",
        "zsh, installed: .zfunc/_magnet", "lufs -20", "programs: ",
    ):  # fmt: skip
        assert text in outcome.out, text
    assert str(home) not in outcome.out
    assert "jane" not in outcome.out
    (record,) = magnet("doctor", "--json").records
    assert {"magnet", "processor", "instructions", "threads", "devices", "sound"} <= record.keys()
    assert "jane" not in str(record)


def test_a_model_is_checked(magnet: Magnet, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = magnet("doctor", "-m", SMALL)
    assert outcome.status == 0
    assert "BAD" not in outcome.out
    assert "finite for 'lofi piano'" in outcome.out

    def spoiled(*names: object, **how: object) -> object:
        model = load_model(*names, **how)  # type: ignore[arg-type]
        with torch.no_grad():
            next(model.lm.parameters()).fill_(torch.nan)
        return model

    monkeypatch.setattr("magnet_cli.api.load_model", spoiled)
    outcome = magnet("doctor", "-m", SMALL, "--json")
    assert outcome.status == 4
    (record,) = outcome.records
    good = {each["name"]: each["good"] for each in record["model"]}
    assert good == {
        "load": True, "weights": False, "sizes": True, "codec": True, "text": True, "logits": False,
    }  # fmt: skip
    assert "fails these checks: weights, logits" in outcome.err


def test_a_sounddevice_without_its_library_is_told_from_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Lacking(MetaPathFinder):
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Lacking(), *sys.meta_path])
    assert doctor._sound().startswith("sounddevice finds no PortAudio; programs: ")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert doctor._sound().startswith("no sounddevice; programs: ")
