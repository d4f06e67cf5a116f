"""Reads and checks the key and the answers of a listening test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magnet_cli.data.manifests import clean_caption
from magnet_cli.errors import DataError
from magnet_cli.evaluation.listening import ANSWERS_FORMAT, KEY_FORMAT
from magnet_cli.evaluation.sets import Fault
from magnet_cli.foreign import reading

QUESTIONS = ("quality", "relevance")


@dataclass(frozen=True)
class Listener:
    """A listener's answers by question: ratings by clip, or in an ab test the chosen clip by screen."""

    name: str
    complete: bool
    answers: Mapping[str, Mapping[str, Any]]


def read_key(path: Path) -> dict[str, Any]:
    """Read the key that `make_study` wrote. Raises DataError: it cannot be read."""
    try:
        key = reading.read_object(path)
        if key["format"] != KEY_FORMAT:
            raise ValueError(f"its format is {key['format']!r}")
        for part in ("study", "test", "title"):
            if not isinstance(key[part], str):
                raise ValueError(f"its {part} is not a text")
        there = {
            key["clips"][clip]["system"] for one in key["screens"].values() for clip in one["clips"]
        }
        if not key["screens"] or not there >= set(key["systems"]):
            raise ValueError("parts of it are missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not the key of a listening test ({reading.reason(error)}).",
            "Give the folder that magnet listen make wrote.",
        ) from error
    return key


def read_answers(
    answers: Sequence[Path], key: Mapping[str, Any]
) -> tuple[list[Listener], list[Fault]]:
    """Read all listeners, sorted by name; of several files of one listener the fullest counts."""
    faults: list[Fault] = []
    best: dict[str, tuple[int, str, Listener]] = {}
    files = [sorted(path.glob("*.json")) if path.is_dir() else [path] for path in answers]
    for path in (path for some in files for path in some):
        try:
            record = reading.read_json(path)
            listener = _listener(record, key)
        except (OSError, ValueError) as error:
            faults.append(Fault(str(path), f"it cannot be used: {reading.reason(error)}"))
            continue
        rater, count = str(record["rater"]), sum(map(len, listener.answers.values()))
        if rater in best:
            faults.append(
                Fault(str(path), f"{listener.name} sent answers twice; the fuller file counts")
            )
        if rater not in best or count > best[rater][0]:
            best[rater] = (count, rater, listener)
    seen: dict[str, int] = {}
    listeners = []
    for _, rater, one in sorted(best.values(), key=lambda of: (of[2].name, of[1])):
        seen[one.name] = seen.get(one.name, 0) + 1
        again = f"{one.name} ({clean_caption(rater)[:6]})"
        name = one.name if seen[one.name] == 1 else again
        listeners.append(Listener(name, one.complete, one.answers))
    return listeners, faults


def _listener(record: Any, key: Mapping[str, Any]) -> Listener:
    """Check the content of one file of answers.
    Raises ValueError: it is not valid, or belongs to another study."""
    if not isinstance(record, dict) or record.get("format") != ANSWERS_FORMAT:
        raise ValueError("it is not a file of answers")
    if record.get("study") != key["study"]:
        raise ValueError("it answers another study")
    if not isinstance(record.get("answers"), list) or not isinstance(record.get("rater"), str):
        raise ValueError("parts of it are missing")
    found: dict[str, dict[str, Any]] = {question: {} for question in QUESTIONS}
    for answer in record["answers"]:
        if not isinstance(answer, dict) or str(answer.get("screen")) not in key["screens"]:
            raise ValueError("it names a screen that is not in the study")
        screen = key["screens"][str(answer["screen"])]
        for question in QUESTIONS:
            given = answer.get(question)
            if given is None:
                continue
            about = str(answer.get("screen" if key["test"] == "ab" else "clip"))
            if key["test"] == "ab":
                if given not in screen["clips"]:
                    raise ValueError("it chooses a clip that is not in the study")
            elif about not in screen["clips"]:
                raise ValueError("it rates a clip that is not in the study")
            elif isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 100:
                raise ValueError(f"it has a rating of {str(given)[:20]}, which is not 1 to 100")
            if about in found[question]:
                raise ValueError("it answers a question twice")
            found[question][about] = given
    if not any(found.values()):
        raise ValueError("it has no answers")
    # Both are untrusted input.
    rater = clean_caption(record["rater"])[:6]
    name = clean_caption(record["name"])[:60] if isinstance(record.get("name"), str) else ""
    said = name or f"listener {rater}"
    return Listener(said, record.get("complete") is True, {q: a for q, a in found.items() if a})
