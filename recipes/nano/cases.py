"""Test cases for the judges: a prompt, what it asks for, and the clip rendered for it.

A prompt is judged by what its words ask for (compose/asked.py), not by all that is known about the clip it
was written for: a model that reads "sad piano" may play it at any tempo.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.nano.compose.asked import asked
from recipes.nano.compose.split import composition
from recipes.nano.judges.hearing import Wanted

HUMAN_PROMPTS = Path(__file__).parent / "human_prompts.jsonl"


@dataclass(frozen=True)
class Case:
    """A prompt, what it asks for, and the rendered clip if there is one."""

    prompt: str
    wanted: Wanted
    sound: Path | None
    drums: bool | None = None  # whether the rendered clip has drums; None for a sound effect


def composed_cases(
    sounds: Path,
    split: str,
    count: int | None = None,
    seed: int = 0,
    trained: Set[str] = frozenset(),
) -> list[Case]:
    """`count` clips of a split (None: all), each with one of its captions, drawn by seed.

    Clips whose composition is in `trained` (from `compositions`) are skipped, without changing the order and
    the captions of the others.
    """
    rng = random.Random(f"{split}/{seed}")
    rows = _rows(sounds / f"{split}.jsonl")
    rng.shuffle(rows)
    drawn = [(row, rng.choice(row["captions"])) for row in rows]
    unseen = (
        Case(
            caption, wanted_of(caption, row["tags"]), sounds / row["path"], _has_drums(row["tags"])
        )
        for row, caption in drawn
        if not trained or _composition(sounds, row) not in trained
    )
    return list(itertools.islice(unseen, count))


def compositions(manifests: Iterable[Path]) -> frozenset[str]:
    """The compositions of all music in the manifests, to be skipped.

    Raises:
        FileNotFoundError: a manifest is missing, or the notes of one of its clips are.
    """
    found = (_composition(path.parent, row) for path in manifests for row in _rows(path))
    return frozenset(one for one in found if one is not None)


def wanted_of(caption: str, tags: dict[str, Any]) -> Wanted:
    """What a caption asks for; of several instruments, the clip's lead, which is the loudest."""
    words = asked(caption)
    lead = tags["instrument"]
    first = words.instruments[0] if words.instruments else None
    return Wanted(lead if lead in words.instruments else first, words.drums, words.tempo_class)


def human_cases() -> list[Case]:
    """The prompts that people wrote."""
    return [
        Case(row["prompt"], Wanted(row["instrument"], row["drums"], row["tempo_class"]), None)
        for row in _rows(HUMAN_PROMPTS)
    ]


def _has_drums(tags: dict[str, Any]) -> bool | None:
    return None if tags["kind"] == "effect" else bool(tags["drums"])


def _composition(sounds: Path, row: dict[str, Any]) -> str | None:
    """The composition in the clip's notes file; None for a sound effect, which has none."""
    if row["notes"] is None:
        return None
    return composition(json.loads((sounds / row["notes"]).read_text("utf-8")))


def _rows(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]


def add_trained_option(parser: argparse.ArgumentParser) -> None:
    """Add `--also-trained-on`, for commands that skip training clips."""
    parser.add_argument(
        "--also-trained-on",
        type=Path,
        nargs="+",
        default=[],
        metavar="MANIFEST",
        help="manifests of training clips besides train.jsonl of --sounds",
    )
