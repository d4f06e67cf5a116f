"""Every odd sound is shown at what it really is: tests/corpus/odd.py says what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.odd import Odd, cases
from tests.corpus.runner import MOST_MEGABYTES, MOST_SECONDS, Worker

pytestmark = pytest.mark.slow

ALL = cases()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as made:
        yield made


def test_there_are_enough() -> None:
    assert len(ALL) >= 150


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_odd(case: Odd, worker: Worker, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    before = sorted(tmp_path.iterdir())
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_HUB_OFFLINE": "1"}
    ran = worker.run(["show", path.name, "--json"], tmp_path, b"", home)
    assert ran.status == 0, ran.err
    assert "Traceback" not in ran.err
    shown = json.loads(ran.out)
    assert (shown["sample_rate"], shown["channels"]) == (case.rate, case.channels)
    assert shown["duration"] == pytest.approx(case.seconds, abs=case.within + 1e-3)
    assert shown["loudness"] is not None
    assert ran.seconds < MOST_SECONDS
    assert ran.megabytes < MOST_MEGABYTES
    assert sorted(tmp_path.iterdir()) == before
