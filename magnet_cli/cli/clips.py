"""Making clips one after the other, and what a user is told of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from magnet_cli.cli.output import Talk, complain
from magnet_cli.errors import MagnetError, NoRoomError, PartialFailureError
from magnet_cli.naming import some
from magnet_cli.settings import OutputConfig

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.clips import SavedClip, Target


def make_each(targets: Sequence[Target], make: Callable[[Target], None], talk: Talk) -> None:
    """Make every clip; one that fails does not stop the others, but a full disk does.

    Raises:
        PartialFailureError: some failed, or were not tried.
        MagnetError: none was made: the first one's error, or that the disk is full.
    """
    failures: list[MagnetError] = []
    failed: list[str] = []
    made = 0
    for target in targets:
        try:
            make(target)
            made += 1
        except MagnetError as error:
            failures.append(error)
            failed.append(target.where)
            if len(targets) > 1:
                if all(error.message != said.message for said in failures[:-1]):  # once is enough
                    where = f" ({target.path})" if target.path is not None else ""
                    complain(f"{error.message}{where}", error.hint)
                talk.data(_failure(target, error))
            if isinstance(error, NoRoomError):
                # There will be none for the others: no use in hours of generating them.
                if not made:
                    raise
                raise PartialFailureError(
                    f"{made} of {len(targets)} clips were made before the disk was full.",
                    "Make room, then ask for the others again, each by its seed.",
                ) from error
    if failures and not made:
        raise failures[0]
    if failures:
        raise PartialFailureError(
            f"{len(failures)} of {len(targets)} clips could not be made: {some(failed)}.",
            "The reasons are above; the others are done.",
        )


def say_saved(saved: SavedClip, talk: Talk, output: OutputConfig, took: float) -> None:
    """Tell of a clip: a line on stderr, a JSON line on stdout; `took` is in seconds."""
    talk.note(f"Saved {in_words(saved)}, in {took:.1f} s")
    say_moved(saved, talk)
    warn(saved, talk, output)
    talk.data({**saved.record(), "seconds": round(took, 3)})


def warn(saved: SavedClip, talk: Talk, output: OutputConfig, where: str = "") -> None:
    """Say what should be known of its loudness, if anything; `where` says which clip is meant."""
    from magnet_cli.audio.loudness import remark

    if said := remark(saved.loudness, output):
        talk.warn(f"{where}{said}")


def say_moved(saved: SavedClip, talk: Talk) -> None:
    """Say which files of a clip are not where they were to go."""
    if saved.asked is not None:
        say_beside(saved.asked.path, saved.target.path, talk)
        say_beside(saved.asked.codes, saved.target.codes, talk)


def say_beside(asked: Path | None, path: Path | None, talk: Talk) -> None:
    """Say that a name was taken by the time its file was made, if it was; said even if --quiet."""
    if path != asked:
        talk.warn(
            f"{asked} appeared meanwhile and is left alone: what was made is {path}.", always=True
        )


def in_words(saved: SavedClip) -> str:
    """The clip's name and what it came to be."""
    return (
        f"{saved.target.where}: {saved.duration:g} s, {_level(saved.loudness.after, 'LUFS')}, "
        f"peak {_level(saved.loudness.peak, 'dBFS')}"
    )


def _failure(target: Target, error: MagnetError) -> dict[str, Any]:
    return {
        "status": "failed",
        "file": target.where,
        "prompt": target.prompt,
        "seed": target.seed,
        "error": str(error),
    }


def _level(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if math.isfinite(value) else f"no {unit}"
