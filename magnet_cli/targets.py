"""Where clips are written: names from a template, and checks that a file can be written there. Imports no
torch, so that the checks run before a model is loaded.
"""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from magnet_cli.errors import AudioFileError, UsageError
from magnet_cli.fields import shown
from magnet_cli.files import refuse_device
from magnet_cli.naming import is_reserved, slug
from magnet_cli.settings import AudioFormat

DEFAULT_NAME = "{index:04d}-{slug}-{seed}"
MANIFEST_STEM = "manifest"

_LONGEST_NAME = 255  # bytes of one part of a path, on every common file system
# Lone surrogates, control characters and characters that override the text direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Allowed format specs: fill and alignment, sign, width, precision and type.
_FORM = re.compile(r"(?:[^{}]?[<>=^])?[-+ ]?#?0?\d{0,2}[_,]?(?:\.\d{1,2})?[bdoxXns]?")
_EXAMPLE = {"index": 0, "line": 1, "slug": "lofi-piano", "seed": 7, "variation": 1}


@dataclass(frozen=True)
class Target:
    """A clip to make: prompt, seed and where to write it."""

    prompt: str
    seed: int
    path: Path | None  # None: stdout
    format: AudioFormat
    codes: Path | None  # .npz file for the codes
    force: bool = False  # replace an existing file; otherwise the new one gets a number

    @property
    def where(self) -> str:
        """The path or "stdout", for messages."""
        return str(self.path) if self.path is not None else "stdout"


def check_targets(path: Path | None, codes: Path | None, force: bool) -> None:
    """Check that a clip and its codes can be written.

    Raises:
        UsageError: the file for codes is not .npz.
        AudioFileError: as `check_writable`.
    """
    if codes is not None and codes.suffix.lower() != ".npz":
        raise UsageError(f"--codes {codes} is not an .npz file.", "End its name in .npz.")
    for one in (path, codes):
        if one is not None:
            check_writable(one, force)


def check_writable(path: Path, force: bool) -> None:
    """Check that a file can be written.
    Raises AudioFileError: it exists and `force` is off, is not a regular file, or its folder is missing or
    read-only."""
    try:
        if "\0" in str(path):
            raise ValueError("it contains a null byte")
        if path.is_dir():
            raise AudioFileError(f"{path} is a folder.", "Name a file.")
        refuse_device(path)
        if os.path.lexists(path) and not force:  # a dangling link would be lost, too
            raise AudioFileError(
                f"{path} exists.", "Replace it with --force, or choose another name."
            )
        folder = path.parent
        if not folder.is_dir():
            if folder.exists():
                raise AudioFileError(f"{folder} is not a folder.", "Choose a folder.")
            raise AudioFileError(f"There is no folder {folder}.", f"Make it: mkdir -p {folder}")
        if not os.access(folder, os.W_OK):
            raise AudioFileError(
                f"The folder {folder} cannot be written to.",
                "Choose another, or change its rights.",
            )
    except (OSError, ValueError) as error:
        raise no_path(path, error) from error


def no_path(path: Path, error: Exception) -> AudioFileError:
    """The error for a path that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    named = str(path) if len(str(path)) <= 120 else f"{str(path)[:117]}..."
    return AudioFileError(f"{named!r} cannot be written to: {reason}.", "Choose another name.")


class NameTemplate:
    """A format string over index, line, slug, seed and variation.

    index: of the clip, from 0; line: of the prompt file, from 1; slug: of the prompt; variation: of
    a line's clips, from 1.
    """

    def __init__(self, template: str, flag: str = "--name") -> None:
        """Check the template given by `flag`.
        Raises UsageError: it has an unknown field, or gives names that cannot be used."""
        self._template = template
        try:
            for _, name, form, conversion in list(string.Formatter().parse(template)):
                if name is None:
                    continue
                # This refuses attributes and indices, too: "{seed.__class__}", "{slug[0]}".
                if name not in _EXAMPLE:
                    raise UsageError(
                        f"{flag} has no field {shown(name)}.", f"It has {', '.join(_EXAMPLE)}."
                    )
                # Format specs may contain nested fields with attributes, or huge widths.
                if conversion or not _FORM.fullmatch(form or ""):
                    raise UsageError(
                        f"{flag} cannot format {name} as {shown(form or conversion)}.",
                        "Use the field's name alone, or a width of up to 99, such as {index:04d}.",
                    )
            check_relative(template.format(**_EXAMPLE))
        except ValueError as error:  # braces that do not match, or a text formatted as a number
            raise UsageError(
                f"{flag} {shown(template)} cannot be read: {error}.",
                f"The default is {DEFAULT_NAME!r}.",
            ) from error

    def name(self, index: int, line: int, prompt: str, seed: int, variation: int) -> str:
        """The name of a clip, without a suffix."""
        return self._template.format(
            index=index, line=line, slug=slug(prompt), seed=seed, variation=variation
        )


def is_template(name: str) -> bool:
    """Whether a file name contains a field, known or not; `NameTemplate` checks its name."""
    return re.search(r"\{\w+[:}]", name) is not None


def check_relative(name: str) -> PurePosixPath:
    """Check a path relative to the output folder; it must be valid on every system.
    Raises UsageError: it leads out of the folder, is hidden, or contains invalid characters."""
    path = PurePosixPath(name)
    said = shown(name)
    if path.is_absolute() or "\\" in name or ":" in name or ".." in path.parts:
        raise UsageError(
            f"{said} may lead out of the folder.",
            "Name a file below -O, such as drums/loop.wav, without `..`, `:` and backslashes.",
        )
    if not path.parts or name.endswith("/"):
        raise UsageError(f"{said} names no file.", "Name one, such as drums/loop.wav.")
    for part in path.parts:
        if _CONTROL.search(part):
            raise UsageError(f"{said} contains a control character.", "Remove it.")
        if len(part.encode("utf-8", "replace")) > _LONGEST_NAME:
            raise UsageError(f"{said} is too long.", f"Names have at most {_LONGEST_NAME} bytes.")
        if part.startswith(".") or part.endswith((".", " ")):
            raise UsageError(
                f"{said} begins with a dot, or ends with a dot or space.",
                "Hidden files are reserved for unfinished ones.",
            )
        if is_reserved(part):
            raise UsageError(f"{said} is a device on Windows.", "Choose another name.")
    if (
        len(path.parts) == 1
        and path.name.casefold().startswith(MANIFEST_STEM)
        and path.suffix == ".jsonl"
    ):
        raise UsageError(f"{said} is the name of the batch's manifest.", "Choose another name.")
    return path


def check_inside(folder: Path, parent: Path) -> None:
    """Check that `parent`, a path below `folder`, does not lead out of it through a link.
    Raises UsageError: it does."""
    real = os.path.realpath(folder)
    if os.path.commonpath([real, os.path.realpath(parent)]) != real:
        raise UsageError(
            f"{parent} leads out of {folder} by a link.", "Choose another name, or remove the link."
        )
