"""Names made from prompts can be written on any system."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.naming import LONGEST_SLUG, Names, numbered, slug


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


def test_names_are_given_out_once_whatever_their_case() -> None:
    names = Names(["A-2.WAV"])
    given = [names.unused("a.wav") for _ in range(3)]
    assert given == ["a.wav", "a-3.wav", "a-4.wav"]
    assert names.unused("A.wav") == "A-5.wav"
    assert names.unused("x/a.wav") == "x/a.wav"
    assert names.unused("caf\u00e9") == "caf\u00e9"
    assert names.unused("cafe\u0301") == "cafe\u0301-2"


def test_a_hundred_thousand_equal_names_take_no_time() -> None:
    names = Names()
    assert len({names.unused("a.wav") for _ in range(100_000)}) == 100_000
