"""Making clips one after the other, and what a user is told of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from magnet_cli.cli.output import Talk, complain, write_stdout
from magnet_cli.errors import EXIT_INTERRUPTED, MagnetError, NoRoomError, PartialFailureError
from magnet_cli.naming import some
from magnet_cli.settings import OutputConfig

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.cli.progress import ClipDisplay
    from magnet_cli.clips import Clip, Edit, SavedClip
    from magnet_cli.decoding.contracts import OnStep
    from magnet_cli.targets import Target


def make_each(
    targets: Sequence[Target],
    make: Callable[[Target, OnStep | None], Clip | Edit],
    output: OutputConfig,
    talk: Talk,
    display: ClipDisplay,
    also: Callable[[Clip | Edit, SavedClip], None] = lambda clip, saved: None,
) -> None:
    """Make every clip, write it and tell of it; one that fails does not stop the others, a full disk does.

    Args:
        make: makes the clip of a target, telling of its steps.
        output: how files are written.
        also: says what else is to be said of a clip.

    Raises:
        PartialFailureError: some failed, or were not tried.
        MagnetError: none was made: the first one's error, or that the disk is full.
        typer.Exit: a piece was interrupted, and what was finished is written.
    """
    failures: list[MagnetError] = []
    failed: list[str] = []
    made = 0
    for target in targets:
        try:
            began = time.monotonic()
            on_step = display.begin(target.prompt, target.seed)
            clip = make(target, on_step)
            saved = clip.write(target, output, write_stdout, on_step)
            display.done()
            say_saved(saved, talk, output, time.monotonic() - began)
            if "partial" in clip.settings:
                raise typer.Exit(EXIT_INTERRUPTED)
            also(clip, saved)
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


def grown(pieces: Iterator[Clip], keep_partial: bool) -> Clip:
    """The whole of a piece; on Ctrl-C what is finished of it, if that is to be kept."""
    finished: Clip | None = None
    try:
        for clip in pieces:
            finished = clip
    except KeyboardInterrupt:
        if finished is None or not keep_partial or "partial" not in finished.settings:
            raise
    assert finished is not None
    return finished


def say_saved(saved: SavedClip, talk: Talk, output: OutputConfig, took: float) -> None:
    """Tell of a clip: a line on stderr, a JSON line on stdout; `took` is in seconds."""
    record = {**saved.record(), "seconds": round(took, 3)}
    if partial := saved.settings.get("partial"):
        talk.warn(
            f"Interrupted: keeping the first {partial['seconds']:g} of {partial['of']:g} seconds."
        )
        talk.note(f"Saved {saved.target.where}: {saved.duration:g} s")
        record["status"] = "partial"
    else:
        talk.note(f"Saved {in_words(saved)}, in {took:.1f} s")
    if saved.asked is not None:
        _say_beside(saved.asked.path, saved.target.path, talk)
        _say_beside(saved.asked.codes, saved.target.codes, talk)
    if "partial" not in saved.settings:
        warn(saved, talk, output)
    talk.data(record)


def warn(saved: SavedClip, talk: Talk, output: OutputConfig, where: str = "") -> None:
    """Say what should be known of its loudness, if anything; `where` says which clip is meant."""
    from magnet_cli.audio.loudness import remark

    if saved.loudness is not None and (said := remark(saved.loudness, output)):
        talk.warn(f"{where}{said}")
    if lost := saved.more.get("lost"):
        talk.warn(f"Not kept, as only a wav holds it: {lost}. Name the output .wav.")


def _say_beside(asked: Path | None, path: Path | None, talk: Talk) -> None:
    """Say that a name was taken by the time its file was made, if it was; said even if --quiet."""
    if path != asked:
        talk.warn(
            f"{asked} appeared meanwhile and is left alone: what was made is {path}.", always=True
        )


def in_words(saved: SavedClip) -> str:
    """The clip's name and what it came to be."""
    if saved.loudness is None:
        again = ", ".join(f"{start:.2f}-{stop:.2f} s" for start, stop in saved.more["regions"])
        return f"{saved.target.where}: {again} made anew (whole frames)"
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
