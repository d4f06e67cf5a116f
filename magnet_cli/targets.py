"""Where a clip goes, and whether it can go there. No torch: it is refused before a model is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.errors import AudioFileError, UsageError
from magnet_cli.settings import AudioFormat


@dataclass(frozen=True)
class Target:
    """One clip to be: what of, with which seed, and where it goes."""

    prompt: str
    seed: int
    path: Path | None  # None: stdout
    format: AudioFormat
    codes: Path | None  # where its codes go, too
    force: bool = False  # what is there by then is replaced; otherwise the clip goes beside it

    @property
    def where(self) -> str:
        """What to call it."""
        return str(self.path) if self.path is not None else "stdout"


def check_targets(path: Path | None, codes: Path | None, force: bool) -> None:
    """Refuse files that a clip and its codes should not, or cannot, be written to.

    Raises:
        UsageError: the codes are to be no .npz file.
        AudioFileError: as `check_writable`.
    """
    if codes is not None and codes.suffix.lower() != ".npz":
        raise UsageError(f"--codes {codes} is not an .npz file.", "End its name in .npz.")
    for one in (path, codes):
        if one is not None:
            check_writable(one, force)


def check_writable(path: Path, force: bool) -> None:
    """Refuse a path that a file should not, or cannot, be written to.

    Raises:
        AudioFileError: it exists and `force` is off, it is no regular file, or its folder is
            missing or read-only.
    """
    try:
        if "\0" in str(path):
            raise ValueError("it holds a null byte")
        if path.is_dir():
            raise AudioFileError(f"{path} is a folder.", "Name a file.")
        if path.exists() and not path.is_file():
            raise AudioFileError(
                f"{path} is not a regular file.", f"Write to stdout: -o - > {path}"
            )
        if os.path.lexists(path) and not force:  # a link to nothing would be lost as well
            raise AudioFileError(
                f"{path} exists.", "Replace it with --force, or choose another name."
            )
        folder = path.parent
        if not folder.is_dir():
            raise AudioFileError(f"There is no folder {folder}.", f"Make it: mkdir -p {folder}")
        if not os.access(folder, os.W_OK):
            raise AudioFileError(
                f"The folder {folder} cannot be written to.",
                "Choose another, or change its rights.",
            )
    except (OSError, ValueError) as error:
        raise no_path(path, error) from error


def no_path(path: Path, error: Exception) -> AudioFileError:
    """A path that nothing can be written to."""
    reason = getattr(error, "strerror", None) or str(error)
    shown = str(path) if len(str(path)) <= 120 else f"{str(path)[:117]}..."
    return AudioFileError(f"{shown!r} cannot be written to: {reason}.", "Choose another name.")
