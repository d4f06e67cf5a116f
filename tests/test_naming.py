"""Names made from prompts can be written on any system."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.naming import LONGEST_SLUG, numbered, slug, unused


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Lo-fi Piano, 80 BPM!", "lo-fi-piano-80-bpm"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\windows\\con", "c-windows-con"),
        ("CON", "con-clip"),
        ("lpt1", "lpt1-clip"),
        ("  ", "clip"),
        ("🎹🥁", "clip"),
        ("...", "clip"),
        ("ピアノの曲", "ピアノの曲"),
        ("موسيقى هادئة", "موسيقى-هادئة"),
        ("हिन्दी", "हिन्दी"),
        ("a\u202egpj.exe", "a-gpj-exe"),
        ("ﬁne ①", "fine-1"),
        ("a\0b\nc", "a-b-c"),
    ],
)
def test_slugs(text: str, name: str) -> None:
    assert slug(text) == name


def test_long_prompts_end_with_a_word() -> None:
    name = slug("slow " * 4000)
    assert len(name) <= LONGEST_SLUG
    assert name.endswith("slow")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_slug_is_a_safe_name(text: str) -> None:
    name = slug(text)
    assert 0 < len(name) <= LONGEST_SLUG + len("-clip")
    assert len(name.encode("utf-8", "surrogatepass")) <= 150
    assert not set(name) & set('/\\:*?"<>|. \0\n\r\t')
    assert name[0] not in "-."
    assert name[-1] not in "-."


def test_numbers_go_before_the_suffix() -> None:
    assert numbered(Path("a/out.wav"), 2) == Path("a/out-2.wav")


def test_names_are_unused_whatever_their_case() -> None:
    assert unused("a.wav", []) == "a.wav"
    assert unused("a.wav", ["A.WAV", "a-2.wav"]) == "a-3.wav"
