"""Formats the help of commands, rich's tables on wide terminals, otherwise each flag above its text; and says
what the parser refused in the words of our own errors.

On narrow terminals the tables would cut the names of flags and leave one word per line for their texts.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from magnet_cli.errors import UsageError
from magnet_cli.fields import cannot_be

_ROOM = 100  # minimum columns for rich's tables
ALL_FLAGS = "magnet.help_all"  # key in the context: show all flags

# Parameters that --help shows; required ones are always shown.
_EVERYDAY = frozenset(
    {"destination", "num", "seed", "duration", "model", "negative", "loop", "preset"}
    | {"help", "help_all"}
)

# Metavars of flags without one, in place of typer's, which are Python's type names.
METAVARS = {"bool": "", "int": "N", "float": "X", "path": "FILE", "str": "TEXT"}


class _Help:
    """What commands and groups have in common."""

    def format_help(self: Any, ctx: Any, formatter: Any) -> None:
        """Use typer's format on wide terminals, otherwise one without columns."""
        params = self.get_params(ctx)
        for each in params:
            said = re.fullmatch(r"<(?:list\[)?(\w+)\b.*>", each.display_type_rich(ctx=ctx) or "")
            if each.param_type_name == "argument":
                each.display_type_rich = lambda ctx: ""  # the name is enough
            elif said and said[1] in METAVARS:
                each.metavar = METAVARS[said[1]]
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


def group(name: str, about: str) -> typer.Typer:
    """A command that has commands of its own."""
    return typer.Typer(
        name=name, cls=Group, no_args_is_help=True, help=about, rich_markup_mode="markdown"
    )


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


def misuse(error: Any, command: str, arguments: Sequence[str]) -> UsageError:
    """What typer's parser refused, with what to do next.

    Args:
        error: a TyperException.
        command: the called command, such as `magnet gen`.
        arguments: of the program.
    """
    kind, message = type(error).__name__, error.format_message()
    context: Any = getattr(error, "ctx", None)
    param: Any = getattr(error, "param", None)
    called: Any = getattr(context, "command", None)
    see = f"`{command} {'--help-all' if isinstance(called, EverydayCommand) else '--help'}` shows"
    if kind == "NoSuchOption":
        flag, near = error.option_name, sorted(error.possibilities or ())
        if any(flag.swapcase() in one.opts for one in called.params):
            near = [flag.swapcase()]  # -o for -O, and the reverse
        hint = f"Did you mean {_either(near)}? " if near else ""
        hint += f"{see} all flags.{_dashed(command, called, arguments, flag)}"
        passed = arguments[:1] == ["again"] and command != "magnet again"
        whose = f"magnet again runs {command}, which" if passed else command
        return UsageError(f"{whose} has no flag {flag}.", hint)
    if kind == "BadOptionUsage":
        flag = error.option_name
        if "not take" in message:
            return UsageError(f"{flag} takes no value.", f"Write {flag} alone.")
        return UsageError(f"{flag} has no value.", f"Write one behind it; {see} what it takes.")
    if kind == "MissingParameter":
        what = param.opts[0] if param.param_type_name == "option" else param.metavar
        example = re.search(r"^ +(magnet .*)", called.epilog or "", re.MULTILINE)
        hint = f"Such as: {example[1]}" if example else f"{see} what it takes."
        return UsageError(
            f"{command} needs {what}.", _dashed(command, called, arguments, "").strip() or hint
        )
    if kind == "BadParameter" and param is not None:
        flag = next(
            (o for o in param.opts for word in arguments if word.startswith(o)), param.opts[0]
        )
        value, takes = _refused(error)
        if not takes:
            return UsageError(f"{flag} cannot be used: {error.message}", f"{see} what it takes.")
        refused = cannot_be(flag, value, takes)
        refused.hint += _dashed(command, called, arguments, f"{flag}{value}")
        return refused
    if extra := re.search(r"extra argument.*? \((.*)\)$", message, re.DOTALL):
        quote = "Quote a text of several words; " if _takes_prompts(called) else ""
        return UsageError(
            f"{command} has too many arguments: {extra[1]}", f"{quote}{see} what it takes."
        )
    commands = [*getattr(called, "commands", ())]
    if commands and (asked := re.search(r"('.*?')\.? *(.*)$", message, re.DOTALL)):
        hint = f"{asked[2]} It has {_either(commands, 'and')}.".strip()
        return UsageError(f"{command} has no command {asked[1]}.", hint)
    return UsageError(message, f"{see} what it takes.")


def _refused(error: Any) -> tuple[Any, str]:
    """The refused value of a flag and what the flag takes; "" if typer does not tell."""
    reasons = getattr(error.__cause__, "errors", None)
    if reasons is None:
        return None, ""
    why = reasons()[0]
    limits = why.get("ctx", {})
    takes = "a whole number" if "int" in why["type"] else "a number"
    if "ge" in limits or "le" in limits:
        takes = f"{limits['ge']:g} or more" if "ge" in limits else f"at most {limits['le']:g}"
    elif why["type"] == "value_error":
        _, is_choice, choices = why["msg"].rpartition(" is not one of ")
        takes = str(limits["error"])
        if is_choice:
            takes = _either(re.findall(r"'([^']*)'", choices))
    return why["input"], takes


def _dashed(command: str, called: Any, arguments: Sequence[str], start: str) -> str:
    """How to give a text that begins with a dash, if one with this start was taken for a flag; start "": a
    word that may have been."""
    takes_none = not any(one.param_type_name == "argument" for one in called.params)
    if takes_none or arguments[:1] == ["again"]:
        return ""
    short = rf"-\w*{re.escape(start[1:])}"
    said = (short if len(start) == 2 else re.escape(start)) if start else r"-[a-z]{3,}( |$)"
    word = next((one for one in arguments if len(one) > 2 and re.match(said, one)), "")
    if not word or (word.startswith("--") and not _takes_prompts(called)):
        return ""
    return f' What begins with a dash and is no flag goes last, behind --: {command} -- "{word}"'


def _takes_prompts(called: Any) -> bool:
    return any(one.metavar == "PROMPT" for one in called.params)


def _either(names: Sequence[str], word: str = "or") -> str:
    """ "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last
