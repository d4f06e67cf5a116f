"""Renders many clips in batches that survive a kill, and writes their manifests.

    OUT/clips/000123.flac   the audio: mono, 32 kHz, 16 bit, `CLIP_SECONDS` long
    OUT/notes/000123.json   the notes: [start, end, pitch, instrument] and the drum hits
    OUT/train.jsonl ...     one manifest per split: path, caption, captions, tags, seed, split, notes

Clips are rendered in the order of their index, so the first ones are a sample of all splits. A clip is done
if its FLAC exists, which is renamed into place last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from recipes.nano.compose.captions import captions
from recipes.nano.compose.noise import Array
from recipes.nano.compose.plan import Plan
from recipes.nano.compose.render import render_batch
from recipes.nano.compose.score import SAMPLE_RATE, Score
from recipes.nano.compose.split import SPLITS, split_of

# Four rounds of the mix, rendered in one run: a clip's audio does not depend on when a run was killed.
BATCH = 160


@dataclass(frozen=True)
class ClipFiles:
    """The paths of a clip's files, relative to the data set's folder."""

    index: int

    @property
    def audio(self) -> str:
        return f"clips/{self.index:06d}.flac"

    @property
    def notes(self) -> str:
        return f"notes/{self.index:06d}.json"


def render_dataset(out: Path, plans: Sequence[Plan], report: Callable[[int], None]) -> None:
    """Render the plans' missing clips; `report` gets the number of clips after each batch."""
    for folder in ("clips", "notes"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, object]] = []
    for first in range(0, len(plans), BATCH):
        batch = plans[first : first + BATCH]
        if not all(_exists(out, plan) for plan in batch):
            for plan, (audio, score) in zip(batch, render_batch(batch), strict=True):
                _write_clip(out, plan, audio, score)
        entries += [manifest_line(plan) for plan in batch]
        _write_manifests(out, entries)
        report(first + len(batch))


def _exists(out: Path, plan: Plan) -> bool:
    return (out / ClipFiles(plan.index).audio).exists()


def _write_clip(out: Path, plan: Plan, audio: Array, score: Score | None) -> None:
    files = ClipFiles(plan.index)
    if score is not None:
        text = json.dumps(score.as_json(), separators=(",", ":"))
        _write_text(out / files.notes, text + "\n")
    partial = out / f"{files.audio}.partial"
    soundfile.write(partial, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    os.replace(partial, out / files.audio)


def manifest_line(plan: Plan) -> dict[str, object]:
    """The clip's entry in its split's manifest; `caption` is the principal one."""
    files = ClipFiles(plan.index)
    wordings = captions(plan)
    return {
        "path": files.audio,
        "caption": wordings[0],
        "captions": list(wordings),
        "tags": plan.tags(),
        "seed": f"{plan.seed}/{plan.index}",
        "split": split_of(plan),
        "notes": None if plan.kind == "effect" else files.notes,
    }


def write_manifests(out: Path, plans: Sequence[Plan]) -> dict[str, int]:
    """Write every split's manifest of the existing clips; returns the number of lines of each."""
    return _write_manifests(out, [manifest_line(plan) for plan in plans if _exists(out, plan)])


def _write_manifests(out: Path, entries: Sequence[dict[str, object]]) -> dict[str, int]:
    counts = {}
    for split in SPLITS:
        lines = [json.dumps(e, ensure_ascii=False) for e in entries if e["split"] == split]
        _write_text(out / f"{split}.jsonl", "".join(f"{line}\n" for line in lines))
        counts[split] = len(lines)
    return counts


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
