"""A batch that is killed -9 and resumed makes what an unbroken one makes: a small benchmarks/batch_kill."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.cli.conftest import SMALL

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "batch_kill.py"


@pytest.mark.slow
@pytest.mark.timeout(900)  # five processes, each with its torch
def test_killed_at_random_moments(home: Path) -> None:
    more = ("--clips", "12", "--kills", "3", "--steps", "1", "--duration", "0.2")
    outcome = processes.run(
        [sys.executable, str(SCRIPT), "--model", SMALL, *more], capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["wrong"] == []
    assert report["kills"] >= 1
