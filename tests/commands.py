"""The commands of the program, and the calls of it that stand in texts, for tests of both.

A text is Markdown, or a help text: calls are taken from fenced and indented code, and from `code` in
running text. The program's own parser is asked about them; nothing is run.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from magnet_cli.cli.app import build_app
from magnet_cli.errors import MagnetError

SHELLS = ("sh", "bash", "console", "shell", "zsh")

# Programs that call the next word, and shell words that may come before a command.
CALLERS = {"parallel", "xargs", "time", "nohup", "env", "exec", "nice", "do", "then", "else", "!"}
BREAKS = re.compile(r"[();|&\n]+")  # what ends a simple command
REDIRECTS = re.compile(r"[<>&|]*[<>][<>&|]*")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
# Placeholders for a value: a variable, a substitution, a placeholder of parallel or for the reader.
OPEN = re.compile(r".*(\$[\w{@*]|SUBSTITUTED|\{\}).*|[A-Z][A-Z_-]*")
ELLIPSES = ("…", "...")


@functools.cache
def program(complete: bool = True) -> Any:
    """The program for parsing only: its commands do nothing.

    Args:
        complete: False for a program that accepts a command without its arguments, as in prose.
    """
    root = typer.main.get_command(build_app())
    for _, command in commands(root):
        command.invoke = lambda context: None
        for parameter in command.params:
            if parameter.param_type_name == "argument" and not complete:
                parameter.required = False
    return root


def commands(group: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its name, such as `models list`."""
    group = group or program()
    for child, command in group.commands.items():
        full = f"{name} {child}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, full)
        else:
            yield full, command


def options(command: Any) -> list[Any]:
    """The flags of a command that its help shows."""
    return [p for p in command.params if p.param_type_name == "option" and not p.hidden]


def complaint(words: list[str], in_prose: bool = False) -> str | None:
    """Why the program would refuse a call, given by its words after the name; None if it would not.

    Args:
        in_prose: in running text, a name alone, a call without its arguments, a flag without its value at the
            end, and `…` for omissions are allowed.
    """
    cut = bool(words) and words[-1] in ELLIPSES
    words = [word for word in words if word not in ELLIPSES]
    group: Any = program()
    named = 0
    while named < len(words) and words[named] in getattr(group, "commands", {}):
        group = group.commands[words[named]]
        named += 1
    if named == 0 and words and words[0].startswith("-"):
        known = {flag for option in group.params for flag in option.opts}
        return None if {*words} <= known | {"--help", "-h"} else f"No such option: {words}"
    if named == len(words) and (cut or in_prose):
        return None
    try:
        program(not (in_prose or cut)).main(args=words, prog_name="", standalone_mode=False)
    except MagnetError as error:
        return str(error)
    except typer.TyperException as error:
        flags = getattr(getattr(error, "param", None), "opts", ())
        for at in range(1, len(words)):
            if words[at - 1] in flags and OPEN.fullmatch(words[at]):
                return complaint([*words[:at], "1", *words[at + 1 :]], in_prose)
        said = str(error.format_message())
        if (cut and type(error).__name__ == "MissingParameter") or (
            in_prose and said.startswith(f"Option '{words[-1]}' requires")
        ):
            return None
        return said
    return None


def calls_in_text(text: str) -> Iterator[tuple[list[str], bool]]:
    """The calls of the program in Markdown or a help text: words after its name, and whether in prose."""
    prose: list[str] = []
    code: list[str] = []
    fence, language, before = "", "", ""
    for line in [*text.replace("\b", "").splitlines(), ""]:
        marks = re.match(r"\s*(```+|~~~+)\s*(\w*)", line)
        if fence:
            if marks and marks[1].startswith(fence) and not marks[2]:
                fence = ""
                code.append("")
            elif language in SHELLS:
                code.append(line)
        elif marks:
            fence, language = marks[1], marks[2]
        elif line.startswith("    ") and (not before.strip() or before.startswith("    ")):
            code.append(line.strip())
        else:
            code.append("")
            prose.append(line)
        before = line
    for words in calls("\n".join(code)):
        yield words, False
    for quoted in re.findall(r"`([^`]+)`", "\n".join(prose)):
        for words in calls(" ".join(quoted.split())):
            yield words, True


def calls(shell: str) -> Iterator[list[str]]:
    """The calls of the program in lines of shell: the words behind its name."""
    pending = ""
    for line in shell.replace("\\\n", " ").splitlines():
        pending = f"{pending}\n{line}" if pending else line
        try:
            yield from _calls(pending)
        except ValueError:  # a quotation that continues on the next line
            continue
        pending = ""
    if pending and "magnet" in pending:
        raise ValueError(f"a quotation without an end: {pending}")


def _calls(line: str) -> list[list[str]]:
    found: list[list[str]] = []
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        found += _calls(inner)
    line = re.sub(r"\$\([^()]*\)", "SUBSTITUTED", line)
    line = re.sub(r"(?<=\s)[012](?=>)", "", line)  # 2> is a redirection, not a word
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for token in [*lexer, "\n"]:
        if skip:
            skip = False
        elif REDIRECTS.fullmatch(token):
            skip = True  # the file's name
        elif BREAKS.fullmatch(token):
            if (call := _call(words)) is not None:
                found.append(call)
            words = []
        else:
            words.append(token)
    return found


def _call(words: list[str]) -> list[str] | None:
    """The program's arguments in a simple command that calls it."""
    while words and ASSIGNMENT.match(words[0]):
        words = words[1:]
    for at, word in enumerate(words):
        called = word.rpartition("/")[2] == "magnet" and (at == 0 or words[0] in CALLERS)
        if called or (word == "magnet_cli" and words[at - 1] == "-m"):
            behind = words[at + 1 :]
            return behind[: behind.index(":::")] if ":::" in behind else behind
    return None
