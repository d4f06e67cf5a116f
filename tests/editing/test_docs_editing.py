"""docs/editing.md: its commands and its Python run, in order, on golden's tiny model."""

from __future__ import annotations

import dataclasses
import io as io_streams
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from magnet_cli import api
from magnet_cli.cli.app import run
from tests import sounds
from tests.golden_cases import HUB_CACHE

TEXT = (Path(__file__).parents[2] / "docs" / "editing.md").read_text("utf-8")
QUICK = "-m facebook/magnet-small-10secs --steps 1 --quiet"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(HUB_CACHE))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MAGNET_MODEL", raising=False)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert {line.split("magnet ")[1].split()[0] for line in lines} == {
        *("gen", "extend", "edit", "vary")
    }
    for line in lines:
        if piped := re.match(r"cat (\S+) \| (.*)", line):
            stdin = io_streams.TextIOWrapper(io_streams.BytesIO(Path(piped[1]).read_bytes()))
            monkeypatch.setattr(sys, "stdin", stdin)
            line = piped[2]
        status = run(shlex.split(f"{line} {QUICK}")[1:])
        assert status == 0, line
    lengths = {path.name: round(sounds.read(path).duration, 2) for path in tmp_path.glob("*.*")}
    # A loop with a beat is a whole number of beats, close to the requested length.
    assert lengths.pop("loop.wav") == pytest.approx(8, abs=0.5)
    assert lengths == {
        "long.wav": 15,
        "timed.wav": 12,
        "same.wav": 12,
        "longer.wav": 12,
        "calmer.flac": 12,
        "solo.wav": 12,
        "crackle.wav": 12,
        "whole.wav": 12,
        "other-1.wav": 12,
        "other-2.wav": 12,
        "details.wav": 12,
    }
    assert (tmp_path / "timed.wav").read_bytes() == (tmp_path / "same.wav").read_bytes()

    model = api.load_model("facebook/magnet-small-10secs")
    quick = dataclasses.replace(model.defaults, decoding_steps=(1, 1, 1, 1))
    model = api.Model(dataclasses.replace(model.parts, defaults=quick))
    monkeypatch.setattr(api, "load_model", lambda name: model)
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["longer"].codes.shape == (1, 4, 700)
    assert names["audio"].shape == (1, 1, 128_000)
    made = ("longer-still", "fixed", "varied", "beat")
    assert [sounds.read(f"{name}.wav").duration for name in made] == [14, 12, 12, 2]
