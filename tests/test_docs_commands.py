"""Every call of `magnet` in help texts and documents is one that the program takes.

Its own parser reads them: unknown commands and flags, values of the wrong kind and missing options
are found. What a call then does is held elsewhere: README's examples run in test_docs.py.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.commands import calls, calls_in_text, commands, complaint, options, program

ROOT = Path(__file__).resolve().parent.parent
HELP = (
    "If it is a part of a call, end it with `…`; if it is not meant as a call, write it otherwise."
)
# Documents, and their minimum numbers of calls, so that none is silently skipped.
DOCUMENTS = {
    "README.md": 15,
    "CHANGELOG.md": 5,
    "docs/architecture.md": 2,
    "docs/batch.md": 6,
    "docs/configuration.md": 6,
    "docs/gallery.md": 4,
    "docs/cli.md": 40,
    "docs/decisions.md": 1,
    "docs/editing.md": 10,
    "docs/evaluation.md": 10,
    "docs/from-audiocraft.md": 1,
    "docs/licences.md": 1,
    "docs/loops.md": 2,
    "docs/nano.md": 3,
    "docs/platforms.md": 1,
    "docs/python.md": 2,
    "docs/rescorer-hybrid.md": 6,
    "docs/scale.md": 3,
    "docs/stability.md": 1,
    "SECURITY.md": 1,
    "docs/speed.md": 7,
    "docs/training.md": 10,
    "recipes/nano/README.md": 10,
    "recipes/nano/ablations.md": 3,
    "recipes/nano/experiments.md": 8,
}


def wrong(text: str) -> list[str]:
    """The calls of a text that the program refuses, with its reasons."""
    return [
        f"magnet {shlex.join(words)}: {said}"
        for words, in_prose in calls_in_text(text)
        if (said := complaint(words, in_prose))
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_calls_in_documents_are_taken(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    assert len(list(calls_in_text(text))) >= DOCUMENTS[document] > 0
    assert wrong(text) == [], HELP


def test_no_document_is_left_out() -> None:
    for path in (ROOT / "docs").glob("*.md"):
        calls = list(calls_in_text(path.read_text("utf-8")))
        assert bool(calls) == (f"docs/{path.name}" in DOCUMENTS), path


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_calls_in_help_texts_are_taken(name: str, command: Any) -> None:
    own = [words for words, _ in calls_in_text(command.epilog)]
    assert any(words[: name.count(" ") + 1] == name.split() for words in own), "no example of it"
    texts = [command.help, command.epilog, *(option.help for option in options(command))]
    assert [complaint for text in texts for complaint in wrong(text or "")] == [], HELP


def test_calls_in_the_programs_own_help_are_taken() -> None:
    assert ["gen", "lofi piano", "-o", "out.wav"] in calls("\n".join(program().help.splitlines()))
    assert [complaint(words) for words in calls(program().help)] == [None]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("magnet gen rain --no-such-flag 3", "No such option"),
        ("magnet compose rain", "No such command"),
        ("magnet models forget small", "No such command"),
        ("magnet train codec better --start-from CODEC --n-q 12", "Missing option '--data'"),
        ("magnet extend a.wav rain -o b.wav", "Missing option '--to'"),
        ("magnet data encode sounds --codec small", "Missing argument"),
        ("magnet gen rain --seed seven", "valid int"),
        ("magnet gen rain -n", "requires an argument"),
        ("magnet models info a b", "unexpected extra argument"),
        ("echo rain | magnet gen - --sead 3 | sox - -n stat", "No such option"),
        ("accelerate launch -m magnet_cli train lm a --lr 3", "No such option"),
        ("parallel magnet batch a.txt -O b --shards {}/2 ::: 1 2", "No such option"),
        ("for p in a b; do magnet gen $p --out x.wav; done", "No such option"),
        ('play "$(magnet gen rain --sead 3 -q)"', "No such option"),
        ("magnet --verbose", "No such option"),
    ],
)
def test_what_the_program_would_refuse_is_found(call: str, reason: str) -> None:
    (words,) = calls(call)
    assert reason in (complaint(words) or "")
    (found,) = wrong(f"Text.\n\n    {call}\n\nText.")
    assert reason in found
    (found,) = wrong(f"```sh\n{call}   # said\n```\n")
    assert reason in found


@pytest.mark.parametrize(
    "text",
    [
        "    magnet gen $PROMPT --seed $SEED -n ${COUNT} > out.wav 2> log.txt",
        '    magnet gen "$(head -1 prompts.txt)" --seed $(date +%s) -o - | play - && magnet models list',
        "    magnet gen 'a # b; c | d' \\\n        -o x.wav --force",
        "    magnet train lm a --data b ...",
        '    magnet gen "two\n    lines" -o x.wav',
        "Say `magnet models`, `magnet gen -m small`, `magnet gen -m` or `magnet data\nencode`.",
        "`magnet train codec --start-from CODEC …` and `magnet gen --seed N`",
        "`accelerate launch -m magnet_cli train lm …` after `pip install magnet`",
        "    pip install magnet\n    cd magnet --no-such",
        "```text\nmagnet gen --no-such\n```",
    ],
)
def test_what_is_no_mistake_is_left_alone(text: str) -> None:
    assert wrong(text) == []
