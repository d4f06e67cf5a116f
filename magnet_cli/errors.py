"""The errors that users see, each with a message, a hint and an exit status.

The library raises them; only `cli.app` turns them into text and an exit status.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence

EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_MODEL = 3
EXIT_PARTIAL = 4
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141  # what a shell reports for a program that SIGPIPE ended


class MagnetError(Exception):
    """An error with one sentence on what is wrong and one on what to do next."""

    exit_status = EXIT_UNEXPECTED

    def __init__(
        self,
        message: str,
        hint: str = "",
        details: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> None:
        """`details`: lines to print between the message and the hint; `settings`: named in either."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)
        self.settings = tuple(settings)

    def __str__(self) -> str:
        return " ".join(part for part in (self.message, *self.details, self.hint) if part)

    def rename(self, called: Callable[[str], str]) -> None:
        """Call its settings what the user called them: flags or columns."""
        for name in self.settings:
            said = called(name).replace("\\", r"\\")
            whole_name = re.compile(rf"(?<![\w-]){name}\b")
            self.message, self.hint = (
                whole_name.sub(said, text) for text in (self.message, self.hint)
            )


class UsageError(MagnetError):
    """A value that the caller gave cannot be used."""

    exit_status = EXIT_USAGE


class ModelNotFoundError(MagnetError):
    """The named model is not on this machine and could not be downloaded."""

    exit_status = EXIT_MODEL


class CheckpointError(MagnetError):
    """Files were found, but no model can be loaded from them."""

    exit_status = EXIT_MODEL


class AudioFileError(MagnetError):
    """A sound could not be read or written."""

    exit_status = EXIT_USAGE


class NoRoomError(MagnetError):
    """The disk is full, so later writes will fail, too."""


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
