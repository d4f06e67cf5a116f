"""Messages of `magnet batch` about its folder, before and after making clips."""

from __future__ import annotations

from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.report import Tally
from magnet_cli.batch.resume import Review
from magnet_cli.cli.talk import Talk, say_held_back
from magnet_cli.errors import PartialFailureError
from magnet_cli.naming import count_of, some
from magnet_cli.settings import OutputConfig

MOST_SHOWN = 20  # bad lines and failures to list; all are counted


def say_doubts(review: Review, talk: Talk) -> None:
    """Warn about clips that may not match their lines."""
    if review.unsaid:
        clips = count_of(len(review.unsaid), "clip")
        talk.warn(f"No model is recorded for {clips}; --force makes them again.")
    if review.smaller:
        files = some([job.file for job in review.smaller])
        talk.warn(
            f"Smaller than when written, perhaps from an incomplete copy: {files}. Remove them, or "
            "use --force, to make them again."
        )


def say_unasked(name: str, files: list[str], making: bool, talk: Talk) -> None:
    """Mention clips in the folder that no line asks for; after an inserted line that is nearly all."""
    if not files:
        return
    clips = count_of(len(files), "clip")
    talk.note(f"The folder has {clips} that no line of {name} asks for: {some(files)}.")
    if making:
        talk.note(
            "An inserted line changes the numbers and seeds of the lines after it; add new lines at "
            "the end."
        )


def say_damage(manifest: Manifest, talk: Talk) -> None:
    """Warn about lines of the manifest that a crash left half written, if any."""
    if manifest.damaged:
        talk.warn(
            f"{manifest.path} has {count_of(manifest.damaged, 'line')} that cannot be read, perhaps from "
            "a crash. Clips that are not recorded as done are made again."
        )


def say_made(tally: Tally, output: OutputConfig, talk: Talk) -> None:
    """Report how many clips were made, how fast, and whether their peaks limited loudness."""
    if tally.made:
        talk.note(
            f"Made {count_of(tally.made, 'clip')} in {tally.seconds:.0f} s "
            f"({tally.clips_per_minute:.1f} clips/min)."
        )
        say_held_back(tally.held_back, tally.made, output, talk)


def partly_made(tally: Tally) -> PartialFailureError:
    """The error for a batch that was not made completely."""
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
        said.append(f"Skipped lines: {tally.bad_lines}.")
    return PartialFailureError(
        " ".join(said), "Run the same command to make only what is missing.", details
    )
