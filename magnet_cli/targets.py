"""Where clips go: the names that a template gives them, and whether a file can be written there. No torch:
what cannot be written is refused before a model is loaded.
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
# Halves of surrogate pairs, control characters, and those that change the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What may stand behind a field's colon: fill and alignment, sign, width, and the kind of number or text.
_FORM = re.compile(r"(?:[^{}]?[<>=^])?[-+ ]?#?0?\d{0,2}[_,]?(?:\.\d{1,2})?[bdoxXns]?")
_EXAMPLE = {"index": 0, "line": 1, "slug": "lofi-piano", "seed": 7, "variation": 1}


@dataclass(frozen=True)
class Target:
    """A clip to be made: its prompt, its seed, and where it goes."""

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
        refuse_device(path)
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
    named = str(path) if len(str(path)) <= 120 else f"{str(path)[:117]}..."
    return AudioFileError(f"{named!r} cannot be written to: {reason}.", "Choose another name.")


class NameTemplate:
    """A format string over index, line, slug, seed and variation.

    index: of the clip, from 0; line: of the prompt file, from 1; slug: of the prompt; variation: of
    a line's clips, from 1.
    """

    def __init__(self, template: str, flag: str = "--name") -> None:
        """Check the template, which `flag` gives.

        Raises:
            UsageError: it holds another field, or makes no name that can be used.
        """
        self._template = template
        try:
            fields = [
                (name, form or "", conversion)
                for _, name, form, conversion in string.Formatter().parse(template)
                if name is not None
            ]
        except ValueError as error:
            raise UsageError(
                f"{flag} {shown(template)} cannot be read: {error}.",
                f"The default is {DEFAULT_NAME!r}.",
            ) from error
        for name, form, conversion in fields:
            # "{seed.__class__}" and "{slug[0]}" are no fields of ours either.
            if name not in _EXAMPLE:
                raise UsageError(
                    f"{flag} has no field {shown(name)}.", f"It has {', '.join(_EXAMPLE)}."
                )
            # A format may hold fields of its own, with attributes; a width may be of any size.
            if conversion or not _FORM.fullmatch(form):
                raise UsageError(
                    f"{flag} cannot show {name} as {shown(form or conversion)}.",
                    "A field has its name alone, or a width of up to 99 digits, such as {index:04d}.",
                )
        try:
            check_relative(template.format(**_EXAMPLE))
        except ValueError as error:  # a text as a number
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
    """Whether a file's name holds a field; whether a template has such a field, `NameTemplate` says."""
    return re.search(r"\{\w+[:}]", name) is not None


def check_relative(name: str) -> PurePosixPath:
    """A path below the output folder, as it can be written on every system.

    Raises:
        UsageError: it leads out of the folder, is hidden, or holds what names cannot.
    """
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
            raise UsageError(f"{said} holds a control character.", "Leave it out.")
        if len(part.encode("utf-8", "replace")) > _LONGEST_NAME:
            raise UsageError(f"{said} is too long.", f"Names have {_LONGEST_NAME} bytes at most.")
        if part.startswith(".") or part.endswith((".", " ")):
            raise UsageError(
                f"{said} begins with a dot, or ends with a dot or space.",
                "Hidden files are for what is not finished.",
            )
        if is_reserved(part):
            raise UsageError(f"{said} is a device on Windows.", "Take another name.")
    if (
        len(path.parts) == 1
        and path.name.casefold().startswith(MANIFEST_STEM)
        and path.suffix == ".jsonl"
    ):
        raise UsageError(f"{said} is where the batch keeps its manifest.", "Take another name.")
    return path


def check_inside(folder: Path, parent: Path) -> None:
    """Refuse a folder for files, below the output folder by name, that a link leads out of it.

    Raises:
        UsageError: it does.
    """
    real = os.path.realpath(folder)
    if os.path.commonpath([real, os.path.realpath(parent)]) != real:
        raise UsageError(
            f"{parent} leads out of {folder} by a link.", "Take another name, or remove the link."
        )
