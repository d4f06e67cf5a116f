"""Every error a user can meet: what is wrong, what to do next, and the exit status.

The library raises these; only `cli.app` turns them into text and an exit status.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_MODEL = 3
EXIT_PARTIAL = 4
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141  # what a shell reports for a program that SIGPIPE ended
EXIT_TERMINATED = 143  # likewise SIGTERM


class MagnetError(Exception):
    """An error with one sentence that says what is wrong and one that says what to do next."""

    exit_status = EXIT_UNEXPECTED

    def __init__(self, message: str, hint: str = "", details: Sequence[str] = ()) -> None:
        """`details`: what else is to be said, a line each, between the two."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        return " ".join(part for part in (self.message, *self.details, self.hint) if part)


class UsageError(MagnetError):
    """A value that the caller gave cannot be used."""

    exit_status = EXIT_USAGE


class ModelNotFoundError(MagnetError):
    """The named model is not here and could not be had."""

    exit_status = EXIT_MODEL


class CheckpointError(MagnetError):
    """Files were found, but they are not a model that can be loaded."""

    exit_status = EXIT_MODEL


class AudioFileError(MagnetError):
    """A sound could not be read or written."""

    exit_status = EXIT_USAGE


class NoRoomError(MagnetError):
    """The disk is full: whatever is written next will fail, too."""


class DataError(MagnetError):
    """Training or batch data is broken."""

    exit_status = EXIT_USAGE


class PartialFailureError(MagnetError):
    """Some items were made and some failed."""

    exit_status = EXIT_PARTIAL


_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "failed to map segment",  # when importing a library
    "can't start new thread",
    "could not create a primitive",  # oneDNN
    "bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, which each library words differently."""
    if isinstance(error, MemoryError) or "OutOfMemoryError" in type(error).__name__:
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    said = str(error).lower()
    return isinstance(error, (RuntimeError, ImportError, OSError)) and any(
        words in said for words in _NO_MEMORY
    )
