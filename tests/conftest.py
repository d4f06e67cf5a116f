"""Fixtures for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Tiny models gain nothing from threads, and threads that wait for each other on a busy machine
# make the suite ten times slower. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy.testing  # noqa: F401  (older ones start a process the first time: below it is refused)
import pytest

from tests.golden_cases import HUB_CACHE


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the golden hub cache, without network."""
    monkeypatch.setenv("HF_HUB_CACHE", str(HUB_CACHE))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return HUB_CACHE


@pytest.fixture(autouse=True)
def _processes_are_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes seconds to import torch, so tests that start one have a marker (see
    tests/processes.py)."""
    if any(request.node.get_closest_marker(name) for name in ("process", "slow")):
        return

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a test that starts processes is marked `process` or `slow`")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda _: None)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """The folder for `browser`'s downloads."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


@pytest.fixture
def browser(downloads: Path, tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium; errors in its console fail the test. Only for tests marked `slow`."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--mute-audio"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_window_size(1100, 900)
    yield driver
    errors = [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    driver.quit()
    assert not errors, errors
