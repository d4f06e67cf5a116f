"""What the files of a batch are called: a template's names, and paths that never leave the folder."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path, PurePosixPath

from magnet_cli.errors import UsageError
from magnet_cli.fields import shown
from magnet_cli.naming import is_reserved, slug

DEFAULT_NAME = "{index:04d}-{slug}-{seed}"
MANIFEST_STEM = "manifest"

_LONGEST_NAME = 255  # bytes of one part of a path, on every common file system
# Half pairs, controls, and what turns the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What may stand behind a field's colon: fill and alignment, sign, width, and the kind of number or text.
_FORM = re.compile(r"(?:[^{}]?[<>=^])?[-+ ]?#?0?\d{0,2}[_,]?(?:\.\d{1,2})?[bdoxXns]?")
_EXAMPLE = {"index": 0, "line": 1, "slug": "lofi-piano", "seed": 7, "variation": 1}


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
    """Whether a file's name holds a field, which may be none of a template's: that is for it to say."""
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
