"""Formats the help of commands: rich's tables on wide terminals, otherwise each flag above its text.

On narrow terminals the tables would cut the names of flags and leave one word per line for their texts.
"""

from __future__ import annotations

import re
import shutil
from typing import Any

from typer.core import TyperCommand, TyperGroup

_ROOM = 100  # minimum columns for rich's tables
ALL_FLAGS = "magnet.help_all"  # key in the context: show all flags

# Parameters that --help shows; required ones are always shown.
_EVERYDAY = frozenset(
    {"destination", "num", "seed", "duration", "model", "negative", "loop", "preset"}
    | {"help", "help_all"}
)

# Metavars of flags without one, in place of typer's, which are Python's type names.
_TAKES = {"bool": "", "int": "N", "float": "X", "path": "FILE", "str": "TEXT"}


class _Help:
    """What commands and groups have in common."""

    def format_help(self: Any, ctx: Any, formatter: Any) -> None:
        """Use typer's format on wide terminals, otherwise one without columns."""
        params = self.get_params(ctx)
        for each in params:
            said = re.fullmatch(r"<(?:list\[)?(\w+)\b.*>", each.display_type_rich(ctx=ctx) or "")
            if each.param_type_name == "argument":
                each.display_type_rich = lambda ctx: ""  # the name is enough
            elif said and said[1] in _TAKES:
                each.metavar = _TAKES[said[1]]
        if self.rich_markup_mode and shutil.get_terminal_size().columns >= _ROOM:
            super().format_help(ctx, formatter)  # type: ignore[misc]
            return
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        panels: dict[str, list[tuple[str, str]]] = {}
        for each in params:
            if (row := each.get_help_record(ctx)) is not None:
                usual = f"{each.param_type_name.capitalize()}s"
                panels.setdefault(each.rich_help_panel or usual, []).append(row)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows, col_max=2)  # puts each text on its own lines
        if commands := getattr(self, "commands", None):
            with formatter.section("Commands"):
                # The whole text, which typer would cut to one line.
                formatter.write_dl(
                    [(name, one.get_short_help_str(limit=500)) for name, one in commands.items()]
                )
        if self.epilog:
            said = self.epilog.strip("\n").split("\n")
            formatter.write_paragraph()
            formatter.write("".join(f"{_folded(line, formatter.width)}\n" for line in said))


class Command(_Help, TyperCommand):
    """A command of the program."""


class Group(_Help, TyperGroup):
    """A group of commands, or the program itself."""


class EverydayCommand(Command):
    """A command with many flags: `--help` shows the common ones, `--help-all` all."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Hide all but the common flags, unless `--help-all` was given."""
        if ctx.meta.get(ALL_FLAGS):
            super().format_help(ctx, formatter)
            return
        options: list[Any] = [p for p in self.get_params(ctx) if p.param_type_name == "option"]
        shown = [each for each in options if not each.hidden]
        rest = [each for each in shown if not each.required and each.name not in _EVERYDAY]
        epilog = self.epilog
        self.epilog = f"`{ctx.command_path} --help-all` shows {len(rest)} more flags.\n\n{epilog}"
        for each in rest:
            each.hidden = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = epilog
            for each in rest:
                each.hidden = False


def _folded(line: str, width: int) -> str:
    """Fold a long example between flags with backslashes, so that it can be pasted into a shell."""
    if len(line) <= width or not line.startswith("    "):
        return line
    lines = [""]
    for part in re.split(r" (?=--?\w|\||&&)", line):
        if lines[-1].strip() and len(lines[-1]) + len(part) + 3 > width:
            lines.append("       ")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(lines)
