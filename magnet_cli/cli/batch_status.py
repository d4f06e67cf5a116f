"""`magnet batch --status DIR`: a batch's progress as a table or JSON."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from magnet_cli.batch.status import Count, status_of
from magnet_cli.cli.batch_crew import rough
from magnet_cli.cli.talk import Talk
from magnet_cli.naming import count_of

_HEADINGS = ("", "clips", "done", "failed", "missing", "clips/min", "last clip")


def say_status(folder: Path, talk: Talk) -> None:
    """Print a row for the whole batch, for each shard that has begun and for each worker of the last run.
    Raises MagnetError: the folder has no manifest, or one that cannot be read."""
    status = status_of(folder)
    counts = (status.whole, *status.shards, *status.workers)
    if talk.json:
        for count in counts:
            talk.data({"event": "status", **count.record()})
    else:
        rows = [_HEADINGS, *map(_row, counts)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            first, *numbers = (text.rjust(width) for text, width in zip(row, widths, strict=True))
            talk.print("  ".join((first.strip().ljust(widths[0]), *numbers)).rstrip())
    if status.to_begin:
        talk.note(f"Not begun: {count_of(status.to_begin, 'shard')}.")
    if status.damaged:
        talk.warn(f"Unreadable lines in manifests, perhaps from a crash: {status.damaged}.")


def _row(count: Count) -> tuple[str, ...]:
    numbers = (count.clips, count.done, count.failed, count.missing, count.rate)
    ago = "-"
    if count.last is not None:
        seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(count.last)).total_seconds()
        ago = f"{rough(max(0.0, seconds))} ago"
    return (count.name, *("-" if number is None else str(number) for number in numbers), ago)
