"""A killed (-9) and resumed batch makes the same clips as an uninterrupted one: a small benchmarks/faults."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.cli.conftest import SMALL

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(900)  # five processes, each with its torch
def test_killed_at_random_moments(home: Path) -> None:
    more = ("--clips", "12", "--kills", "3", "--steps", "1", "--duration", "0.2")
    outcome = processes.run(
        [sys.executable, str(BENCHMARKS / "batch_kill.py"), "--model", SMALL, *more],
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["wrong"] == []
    assert report["kills"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)  # a dozen processes, each with its torch
def test_workers_and_their_driver_are_killed(home: Path) -> None:
    """Including a full disk and a second driver: a small benchmarks/faults."""
    report = killed_and_compared("--kills", "3", "--drivers", "1")
    assert report["workers_killed"] + report["drivers_killed"] >= 1


def killed_and_compared(*more: str) -> dict[str, Any]:
    """Run benchmarks/faults on a small batch; nothing is wrong."""
    small = ("--model", SMALL, "--clips", "24", "--steps", "4", "--duration", "2")
    outcome = processes.run(
        [sys.executable, str(BENCHMARKS / "faults.py"), *small, *more],
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    report: dict[str, Any] = json.loads(outcome.stdout)
    assert report["wrong"] == []
    return report
