"""The program run in the test's own process, on the golden checkpoints, in an empty folder."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from magnet_cli.cli.app import run

SMALL = "facebook/magnet-small-10secs"
QUICK = ("-m", SMALL, "--steps", "1", "-d", "0.2", "--seed", "5")


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    status: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON lines of stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


Magnet = Callable[..., Outcome]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    """An empty working folder, a user without preferences, and no MAGNET_MODEL."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("MAGNET_MODEL", "MAGNET_DEBUG", "HF_HOME", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def magnet(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Magnet:
    """Run the program: `magnet("gen", "lofi piano", stdin=b"")`."""

    def call(*arguments: str, stdin: bytes = b"") -> Outcome:
        capfdbinary.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        status = run(list(arguments))
        sys.stdout.flush()
        captured = capfdbinary.readouterr()
        return Outcome(status, captured.out, captured.err.decode())

    return call
