"""Every hostile input is refused with a correct message, or works, as tests/corpus/hostile.py specifies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.hostile import Case, cases
from tests.corpus.runner import MOST_MEGABYTES, MOST_SECONDS, Ran, Worker

pytestmark = pytest.mark.slow

ALL = cases()


def test_there_are_enough() -> None:
    assert len(ALL) >= 150


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_hostile(case: Case, worker: Worker, tmp_path: Path) -> None:
    arguments = case.make(tmp_path)
    precious = tmp_path / "precious.txt"
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_HUB_OFFLINE": "1"}
    ran = worker.run(arguments, tmp_path, case.stdin, {**home, **case.environment})
    complaints = [*problems(ran, case.statuses)]
    said = ran.out + ran.err
    if case.says and not re.search(case.says, said):
        complaints.append(f"does not say {case.says}")
    if case.never and re.search(case.never, said):
        complaints.append(f"says {case.never}")
    left = [path.name for path in tmp_path.rglob(".partial-*")]
    complaints += [f"leaves {name}" for name in left]
    complaints += ["ran code"] * (tmp_path / "ran").exists()
    complaints += ["changed a file"] * (precious.exists() and precious.read_text() != "a letter")
    if "--json" in arguments and ran.status == 0:
        for line in ran.out.splitlines():
            json.loads(line, parse_constant=lambda name: complaints.append(f"prints {name}"))
    assert not complaints, f"{complaints}\n{said[-3000:]}"


def problems(ran: Ran, statuses: tuple[int, ...]) -> Iterator[str]:
    """The problems with how a command ended."""
    if ran.status not in statuses:
        yield f"status {ran.status}, not {statuses}"
    if ran.seconds > MOST_SECONDS:
        yield f"takes {ran.seconds:.0f} s"
    if ran.megabytes > MOST_MEGABYTES:
        yield f"takes {ran.megabytes:.0f} MB"
    for word in ("Traceback", "Unexpected", "Warning:", "Errno", "KeyError", "TypeError"):
        if word in ran.err:
            yield f"says {word}"
    if ran.status not in (0, -9):
        lines = ran.err.rstrip().splitlines()
        wrong = [n for n, line in enumerate(lines) if line.startswith("Error: ")]
        if not wrong:
            yield "says no error"
        elif not lines[wrong[-1] + 1 :] or not lines[-1].startswith("  "):
            yield "gives no hint"
