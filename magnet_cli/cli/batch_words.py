"""What `magnet batch` says of its folder, before its clips and after them."""

from __future__ import annotations

from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.report import Tally
from magnet_cli.batch.resume import Review
from magnet_cli.cli.talk import Talk, say_held_back
from magnet_cli.errors import PartialFailureError
from magnet_cli.naming import count_of, some
from magnet_cli.settings import OutputConfig

MOST_SHOWN = 20  # bad lines and failures that are listed; all of them are counted


def say_doubts(review: Review, talk: Talk) -> None:
    """Say which clips may not be what the lines ask for."""
    if review.unsaid:
        clips = count_of(len(review.unsaid), "clip")
        talk.warn(f"No model is recorded of {clips}; --force makes clips again.")
    if review.smaller:
        files = some([job.file for job in review.smaller])
        talk.warn(
            f"Smaller than they were written, as a copy that was cut off is: {files}. Remove "
            "them, or say --force, to have them made again."
        )


def say_unasked(name: str, files: list[str], making: bool, talk: Talk) -> None:
    """Say what the folder holds that no line asks for: after an insertion it is nearly all."""
    if not files:
        return
    clips = count_of(len(files), "clip")
    talk.note(f"The folder holds {clips} that no line of {name} asks for: {some(files)}.")
    if making:
        talk.note(
            "A line that is put in changes the numbers and seeds of those behind it; put at "
            "the end, it does not."
        )


def say_damage(manifest: Manifest, talk: Talk) -> None:
    """Say that the manifest holds lines that a crash has left half written, if it does."""
    if manifest.damaged:
        talk.warn(
            f"{manifest.path} holds {count_of(manifest.damaged, 'line')} that cannot be read, "
            "as a crash leaves them. What is not known to be done is made again."
        )


def say_made(tally: Tally, output: OutputConfig, talk: Talk) -> None:
    """Say how many clips were made, how fast, and whether their peaks kept them quiet."""
    if tally.made:
        talk.note(
            f"Made {count_of(tally.made, 'clip')} in {tally.seconds:.0f} s "
            f"({tally.clips_per_minute:.1f} clips/min)."
        )
        say_held_back(tally.held_back, tally.made, output, talk)


def partly_made(tally: Tally) -> PartialFailureError:
    """The error of a batch of which not all was made."""
    said, details = [], []
    if tally.failed:
        said.append(f"{tally.failed} of {tally.finished} clips could not be made.")
        for outcome in tally.failures[:MOST_SHOWN]:
            error = outcome.error
            assert error is not None
            details.append(f"{outcome.job.file} (line {outcome.job.line}): {error.message}")
        if tally.failed > MOST_SHOWN:
            details.append(f"and {tally.failed - MOST_SHOWN} more")
    if tally.bad_lines:
        said.append(f"Lines that were left out: {tally.bad_lines}.")
    return PartialFailureError(
        " ".join(said), "The same command makes what is missing, and nothing twice.", details
    )
