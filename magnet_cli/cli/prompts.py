"""Prompts as the command line gives them: words, or `-` for stdin."""

from __future__ import annotations

from collections.abc import Sequence

from magnet_cli.cli.output import Talk, stdin
from magnet_cli.data.prompts import clean_prompt
from magnet_cli.errors import UsageError


def texts_of(prompts: Sequence[str], talk: Talk) -> list[str]:
    """The prompts, cleaned; `-` is read from stdin, and all of it is one prompt.

    Raises:
        UsageError: stdin is asked for twice, closed or no text, or a prompt cannot be one.
    """
    if prompts.count("-") > 1:
        raise UsageError("stdin can be read only once.", "Give `-` once.")
    texts = []
    for prompt in prompts:
        if prompt == "-":
            if stdin().isatty():
                talk.note("Type a prompt, then press Ctrl-D.")
            try:
                prompt = stdin().buffer.read().decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UsageError("stdin is not UTF-8 text.", "Pipe a text in.") from error
        texts.append(clean_prompt(prompt))
    return texts
