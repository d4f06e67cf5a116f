"""Results of a listening test: means, differences or choices by system, and excluded listeners.

Exclusion rules: in a mushra test (EnCodec's rule) a listener who rates the hidden reference under 90 in
at least a fifth of the cases, or the low anchor over 80 in more than half; in a mos test (CrowdMOS's)
one whose ratings correlate with the others' by less than 0.25, the worst first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magnet_cli.errors import UsageError
from magnet_cli.evaluation.listening import ANCHOR, KEY, REFERENCE
from magnet_cli.evaluation.listening_answers import QUESTIONS, Listener, read_answers, read_key
from magnet_cli.evaluation.sets import Fault
from magnet_cli.evaluation.statistics import (
    LEVEL,
    Estimate,
    Values,
    crowd_estimate,
    difference_p,
    holm,
    wilson,
)
from magnet_cli.evaluation.table import ABSENT, difference_in_words, in_words, markdown_table

_AGREEMENT = 0.25  # CrowdMOS's minimum correlation with the other listeners
_CASES = 5  # minimum ratings shared with others for a correlation


@dataclass(frozen=True)
class Difference:
    """The difference of two systems in one question."""

    question: str
    one: str
    other: str
    estimate: Estimate
    p: float  # corrected for multiple comparisons (Holm)


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Attributes:
        ratings: by question and system, the mean rating; in an ab test the share of choices.
        dropped: excluded listeners, with the reason.
        faults: files that could not be used.
    """

    test: str
    title: str
    listeners: tuple[str, ...]
    prompts: int
    ratings: dict[str, dict[str, Estimate]]
    differences: tuple[Difference, ...]
    dropped: tuple[Fault, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = field(default=())

    def record(self) -> dict[str, Any]:
        """The results as JSON types."""
        return {
            "test": self.test,
            "title": self.title,
            "listeners": list(self.listeners),
            "prompts": self.prompts,
            "ratings": {
                question: {name: one.record() for name, one in of.items()}
                for question, of in self.ratings.items()
            },
            "differences": [
                {
                    "question": one.question,
                    "systems": [one.one, one.other],
                    **one.estimate.record(),
                    "p": one.p if math.isfinite(one.p) else None,
                }
                for one in self.differences
            ],
            "dropped": [vars(one) for one in self.dropped],
            "faults": [vars(one) for one in self.faults],
            "notes": list(self.notes),
            "level": LEVEL,
        }

    def markdown(self) -> str:
        """Tables of results, excluded listeners and notes."""
        digits = 3 if self.test == "ab" else 1
        questions = list(self.ratings)
        systems = list(next(iter(self.ratings.values())))
        rows = [
            [name, *(in_words(self.ratings[q].get(name), digits) for q in questions)]
            for name in systems
        ]
        heads = [f"{q}, share of choices" if self.test == "ab" else q for q in questions]
        text = [
            f"{self.title}: {self.test}, {len(self.listeners)} listeners, {self.prompts} prompts.",
            markdown_table(["", *heads], rows),
        ]
        if self.differences:
            rows = [
                [
                    one.question,
                    f"{one.one} minus {one.other}",
                    difference_in_words(one.estimate, digits),
                    f"{one.p:.3f}" if math.isfinite(one.p) else ABSENT,
                ]
                for one in self.differences
            ]
            text.append(markdown_table(["", "difference", "", "p (Holm)"], rows))
        said = [f"Excluded: {one.where}: {one.what}." for one in self.dropped]
        said += [*self.notes, f"In brackets: {100 * LEVEL:.0f} % intervals."]
        text.append("\n".join(f"- {one}" for one in said))
        return "\n\n".join(text)


def read_results(study: Path, answers: Sequence[Path]) -> Results:
    """Analyse the answers to a study.

    Args:
        study: the folder that `make_study` wrote, or its key.
        answers: files that listeners sent, or folders of them.

    Raises:
        DataError: the key cannot be read.
        UsageError: no answer can be used.
    """
    key = read_key(study / KEY if study.is_dir() else study)
    listeners, faults = read_answers(answers, key)
    if not listeners:
        raise UsageError(
            "No file holds answers to this study.",
            "Give the JSON files that listeners downloaded, or their folder.",
            [f"{fault.where}: {fault.what}" for fault in faults[:5]],
        )
    dropped: list[Fault] = []
    notes = []
    if few := [one.name for one in listeners if not one.complete]:
        notes.append(f"Did not finish, but their answers count: {', '.join(few)}.")
    if key["test"] == "mushra":
        listeners, dropped = _attentive(listeners, key)
    elif key["test"] == "mos":
        listeners, dropped = _agreeing(listeners, key)
    if not listeners:
        raise UsageError(
            "The exclusion rule leaves no listeners: "
            + "; ".join(f"{one.where}: {one.what}" for one in dropped)
            + ".",
            "Ask more listeners.",
        )
    if len(listeners) < 5:
        notes.append("The protocol asks for at least five listeners per clip.")
    differences: list[Difference] = []
    if key["test"] == "ab":
        ratings = _choices(listeners, key)
        notes.append(
            "Wilson's interval assumes independent choices; those of one listener are not quite."
        )
    else:
        ratings, differences = _opinions(listeners, key)
        notes.append("Intervals of means and differences are CrowdMOS's: over raters and clips.")
    return Results(
        key["test"],
        key["title"],
        tuple(one.name for one in listeners),
        len(key["screens"]),
        ratings,
        tuple(differences),
        tuple(dropped),
        tuple(faults),
        tuple(notes),
    )


def _matrix(
    listeners: Sequence[Listener], key: Mapping[str, Any], system: str, question: str
) -> Values:
    """Ratings of a system [listeners, prompts], NaN where there is none."""
    clips = [
        next(clip for clip in screen["clips"] if key["clips"][clip]["system"] == system)
        for screen in key["screens"].values()
    ]
    return np.array(
        [
            [float(one.answers.get(question, {}).get(clip, math.nan)) for clip in clips]
            for one in listeners
        ]
    )


def _systems(key: Mapping[str, Any]) -> list[str]:
    """The systems in order, then the reference and the anchor, if any."""
    there = {clip["system"] for clip in key["clips"].values()}
    return [*key["systems"], *(name for name in (REFERENCE, ANCHOR) if name in there)]


def _opinions(
    listeners: Sequence[Listener], key: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Estimate]], list[Difference]]:
    ratings: dict[str, dict[str, Estimate]] = {}
    differences: list[Difference] = []
    systems = _systems(key)
    for question in QUESTIONS:
        matrices = {name: _matrix(listeners, key, name, question) for name in systems}
        if all(np.isnan(one).all() for one in matrices.values()):
            continue
        ratings[question] = {name: crowd_estimate(one) for name, one in matrices.items()}
        pairs, estimates, values = list(itertools.combinations(key["systems"], 2)), [], []
        for one, other in pairs:
            apart = matrices[one] - matrices[other]
            estimates.append(crowd_estimate(apart))
            known = ~np.isnan(apart)
            values.append(
                difference_p(estimates[-1], int(min(known.any(0).sum(), known.any(1).sum())) - 1)
            )
        differences += [
            Difference(question, one, other, estimate, p)
            for (one, other), estimate, p in zip(pairs, estimates, holm(values), strict=True)
        ]
    return ratings, differences


def _choices(
    listeners: Sequence[Listener], key: Mapping[str, Any]
) -> dict[str, dict[str, Estimate]]:
    found: dict[str, dict[str, Estimate]] = {}
    for question in QUESTIONS:
        chosen = [
            key["clips"][clip]["system"]
            for one in listeners
            for clip in one.answers.get(question, {}).values()
        ]
        if chosen:
            found[question] = {
                name: wilson(chosen.count(name), len(chosen)) for name in key["systems"]
            }
    return found


def _attentive(
    listeners: Sequence[Listener], key: Mapping[str, Any]
) -> tuple[list[Listener], list[Fault]]:
    """Apply EnCodec's rule (Défossez et al., 2022, section 4.3): listeners kept, and dropped."""
    kept, dropped = [], []
    for one in listeners:
        found = {name: _matrix([one], key, name, "quality") for name in (REFERENCE, ANCHOR)}
        ratings = {name: row[~np.isnan(row)] for name, row in found.items()}
        low, high = (ratings[REFERENCE] < 90), (ratings[ANCHOR] > 80)
        if len(low) and low.mean() >= 0.2:
            what = f"the hidden reference is under 90 in {int(low.sum())} of {len(low)} cases"
            dropped.append(Fault(one.name, what))
        elif len(high) and high.mean() > 0.5:
            what = f"the low anchor is over 80 in {int(high.sum())} of {len(high)} cases"
            dropped.append(Fault(one.name, what))
        else:
            kept.append(one)
    return kept, dropped


def _agreeing(
    listeners: Sequence[Listener], key: Mapping[str, Any]
) -> tuple[list[Listener], list[Fault]]:
    """Apply CrowdMOS's rule (Ribeiro et al., 2011) while more than two listeners are left."""
    kept, dropped = list(listeners), list[Fault]()
    while len(kept) > 2:
        ratings = np.concatenate(
            [_matrix(kept, key, name, "quality") for name in _systems(key)], axis=1
        )
        found = []
        for place, row in enumerate(ratings):
            others = np.delete(ratings, place, axis=0)
            count = (~np.isnan(others)).sum(0)
            shared = ~np.isnan(row) & (count > 0)
            if shared.sum() < _CASES:
                continue
            mean = np.nansum(others[:, shared], axis=0) / count[shared]
            varied = row[shared].std() * mean.std() > 0  # or all ratings are equal
            agreement = float(np.corrcoef(row[shared], mean)[0, 1]) if varied else 0.0
            found.append((agreement, place))
        if not found or min(found)[0] >= _AGREEMENT:
            break
        agreement, place = min(found)
        what = f"agrees with the others by a correlation of {agreement:.2f}, under {_AGREEMENT}"
        dropped.append(Fault(kept.pop(place).name, what))
    return kept, dropped
