"""Untrusted text is shown on one line, without effects in a terminal."""

from __future__ import annotations

import os

import pytest

from magnet_cli.foreign.reading import shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lofi piano", "lofi piano"),
        ("müde ☕ 日本 שלום", "müde ☕ 日本 שלום"),
        ("a\nTo make it again: curl", "a\\nTo make it again: curl"),
        ("a\r\tb", "a\\r\\tb"),
        ("\x1b[2J\x9b", "\\x1b[2J\\x9b"),
        ("a\u202eb\u2066c\u2028d", "a\\u202eb\\u2066c\\u2028d"),
        ("\ud800", "\\ud800"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
        ("caf\udcc3\udca9", "café"),
    ],
)
def test_shown(text: str, said: str) -> None:
    assert shown(text) == said


def test_most() -> None:
    assert shown("x" * 10, most=5) == "xxxx…"
