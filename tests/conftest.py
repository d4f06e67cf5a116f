"""Fixtures for all tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# Tiny models gain nothing from threads, and threads that wait for each other on a busy machine
# make the suite ten times slower. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.golden_cases import HUB_CACHE


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The golden hub cache is the hub cache, and nothing touches the network."""
    monkeypatch.setenv("HF_HUB_CACHE", str(HUB_CACHE))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return HUB_CACHE


@pytest.fixture(autouse=True)
def _processes_are_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes seconds to import torch: those who start one say so (see tests/processes.py)."""
    if any(request.node.get_closest_marker(name) for name in ("process", "slow")):
        return

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a test that starts processes is marked `process` or `slow`")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda _: None)
