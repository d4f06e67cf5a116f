"""Differences of other systems, simulated where possible; docs/platforms.md lists them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from magnet_cli.batch.jobs import Shard
from magnet_cli.batch.manifest import Manifest
from magnet_cli.errors import AudioFileError
from magnet_cli.files import atomic_path, write_error


def test_what_is_flushed_may_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' fsync refuses a file opened for reading, so nothing at all could be written there."""
    flush, flushed = os.fsync, []

    def windows(number: int) -> None:
        mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        assert mode != os.O_RDONLY
        flushed.append(number)
        flush(number)

    monkeypatch.setattr(os, "fsync", windows)
    with atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert len(flushed) == 1
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("number", [5, 32, 33])
def test_a_file_that_a_player_holds_open_is_said_to_be_open(number: int) -> None:
    error = PermissionError("Access is denied")
    error.winerror, error.strerror = number, "Access is denied"  # as Windows has it
    told = write_error("out.wav", error)
    assert isinstance(told, AudioFileError)
    assert "Close it in other programs" in told.hint


def test_a_manifest_is_written_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' C library turns line ends into two characters unless a file is opened as binary."""
    binary, opened, open_ = os.O_CLOEXEC, [], os.open
    monkeypatch.setattr(os, "O_BINARY", binary, raising=False)

    def noted(path: object, flags: int, *more: int, **rest: int) -> int:
        opened.append(flags)
        return open_(path, flags, *more, **rest)

    manifest = Manifest.read(tmp_path, Shard())
    monkeypatch.setattr(os, "open", noted)
    manifest.add({"file": "a.wav", "status": "done"})
    manifest.close()
    assert opened
    assert all(flags & binary for flags in opened)
