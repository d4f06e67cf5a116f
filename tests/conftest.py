"""Fixtures for all tests."""

from __future__ import annotations

import os
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
