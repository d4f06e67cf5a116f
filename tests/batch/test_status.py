"""The progress of a batch, from its manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magnet_cli.batch.jobs import WHOLE
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.resume import Standing
from magnet_cli.batch.status import status_of
from magnet_cli.errors import UsageError


def at(second: int) -> str:
    return f"2026-11-28T08:{second // 60:02d}:{second % 60:02d}.000+00:00"


def clip(
    folder: Path, index: int, second: int, status: str = "done", name: str = ""
) -> dict[str, Any]:
    file = name or f"{index}.wav"
    if status == "done":
        (folder / file).write_bytes(b"sound")
    return {"file": file, "status": status, "index": index, "at": at(second)}


def note(folder: Path, suffix: str, *records: dict[str, Any]) -> None:
    path = folder / f"manifest{suffix}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_done_failed_missing_and_rate(tmp_path: Path) -> None:
    note(
        tmp_path,
        "",
        {"run": {"at": at(0), "clips": 6, "part": 6}},
        clip(tmp_path, 0, 10),
        clip(tmp_path, 1, 20, "failed"),
        clip(tmp_path, 2, 30, "failed"),
        {"run": {"at": at(60), "clips": 6, "part": 6}},
        clip(tmp_path, 1, 70),
        clip(tmp_path, 3, 90),
    )
    whole = status_of(tmp_path).whole
    assert (whole.clips, whole.done, whole.failed, whole.missing) == (6, 3, 1, 2)
    assert whole.rate == 4.0  # two in the 30 s of the last run
    assert whole.last == at(90)
    (tmp_path / "0.wav").unlink()
    assert status_of(tmp_path).whole.missing == 3


def test_names_that_no_file_can_have_count_as_missing(tmp_path: Path) -> None:
    """An OSError ended the command."""
    names = ("x" * 300, "y/" * 3000, "z\0", "\ud800")
    note(tmp_path, "", *({"file": name, "status": "done", "index": 1} for name in names))
    assert status_of(tmp_path).whole.done == 0
    assert Standing(Manifest.read(tmp_path, WHOLE), force=False).unasked([]) == []
    with pytest.raises(UsageError, match="cannot be read: file name too long"):
        status_of(tmp_path / ("x" * 300))


def test_shards_are_told_apart_and_what_has_not_begun(tmp_path: Path) -> None:
    run = {"at": at(0), "clips": 7}
    note(tmp_path, ".shard-1-of-3", {"run": {**run, "part": 3}}, clip(tmp_path, 0, 30))
    two = clip(tmp_path, 1, 20), clip(tmp_path, 4, 60, "failed")
    note(tmp_path, ".shard-2-of-3", {"run": {**run, "part": 2}}, *two)
    note(tmp_path, ".shard-1-of-2", {"run": {"at": "no time"}})  # an earlier division
    status = status_of(tmp_path)
    found = [(c.name, c.clips, c.done, c.failed, c.missing, c.rate) for c in status.shards]
    assert found == [("1/3", 3, 1, 0, 2, 2.0), ("2/3", 2, 1, 1, 0, 2.0)]
    assert status.to_begin == 1
    assert (status.whole.clips, status.whole.missing, status.whole.rate) == (7, 4, 4.0)
    # A run without --shard makes the rest.
    note(tmp_path, "", {"run": {**run, "at": at(100), "part": 7}}, clip(tmp_path, 4, 110))
    status = status_of(tmp_path)
    assert (status.shards[1].done, status.shards[1].failed) == (2, 0)
    assert status.whole.rate == 6.0


def test_a_clip_counts_once_whatever_its_file_was_called(tmp_path: Path) -> None:
    """An inserted line changes the names of the clips after it; the old files are not counted as well."""
    run = {"run": {"at": at(0), "clips": 2, "part": 2}}
    old = clip(tmp_path, 0, 1), clip(tmp_path, 1, 2, name="old.wav")
    note(tmp_path, "", run, *old, clip(tmp_path, 1, 3, name="new.wav"))
    assert (status_of(tmp_path).whole.done, status_of(tmp_path).whole.missing) == (2, 0)


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    """Runs of earlier versions, and of pipes, have no number of clips; other programs' files contain
    anything."""
    note(tmp_path, "", {"run": {"clips": True, "at": 5}}, clip(tmp_path, 0, 1), {"x": 1})
    status = status_of(tmp_path)
    assert (status.whole.clips, status.whole.missing, status.whole.rate) == (None, None, None)
    assert (status.whole.done, status.damaged) == (1, 1)


def test_a_folder_without_a_batch_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="has no manifest"):
            status_of(folder)
