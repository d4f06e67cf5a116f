"""Wildcards in prompts: what is drawn, from where, and reproducibly."""

from __future__ import annotations

from pathlib import Path

import pytest

from magnet_cli.data.wildcards import Wildcards
from magnet_cli.errors import UsageError


def test_alternatives_and_lists_are_drawn_by_the_seed(tmp_path: Path) -> None:
    (tmp_path / "instruments.txt").write_text("# mine\npiano\n\n{nylon|steel} guitar\n")
    prompt = "{sad|happy|} __instruments__, {slow|{very |}fast}"
    drawn = [Wildcards(tmp_path).drawn(prompt, seed) for seed in range(200)]
    assert drawn == [Wildcards(tmp_path).drawn(prompt, seed) for seed in range(200)]
    instruments = ("piano", "nylon guitar", "steel guitar")
    assert set(drawn) == {
        f"{mood} {instrument}, {speed}".strip()
        for mood in ("sad", "happy", "")
        for instrument in instruments
        for speed in ("slow", "very fast", "fast")
    }
    assert 40 <= sum(text.startswith("sad") for text in drawn) <= 95  # a third
    assert Wildcards(tmp_path).drawn("plain", 1) == "plain"


def test_what_is_drawn_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """Choices of Python's generator may change between versions, and clips with them."""
    moods = [Wildcards(tmp_path).drawn("{a|b|c|d|e}", seed) for seed in range(8)]
    assert "".join(moods) == "bbaceaae"


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret\n")
    inside = tmp_path / "prompts"
    inside.mkdir()
    (inside / "b-52_2.txt").write_text("bombs\n")
    lists = Wildcards(inside)
    assert lists.drawn("__b-52_2____b-52_2__", 1) == "bombsbombs"
    for text in ("__../secret__", "__/etc/passwd__", "__Secret__", "___", "____", "snake__case"):
        assert lists.drawn(text, 1) == text


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("__none__", "There is no .*none.txt for __none__"),
        ("__empty__", "empty.txt is empty"),
        ("__folder__", "it is a folder"),
        ("__latin__", "byte 1 is not UTF-8"),
        ("__a__", "endlessly"),
        ("__grows__", "endlessly"),
        ("{sad|happy", "an unmatched brace"),
        ("sad}", "an unmatched brace"),
        ("{|}", "empty"),
    ],
)
def test_what_cannot_be_drawn(tmp_path: Path, prompt: str, message: str) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9\n")
    (tmp_path / "a.txt").write_text("__b__\n")
    (tmp_path / "b.txt").write_text("__a__\n")
    (tmp_path / "grows.txt").write_text(" ".join(["__grows__"] * 100) + "\n")
    with pytest.raises(UsageError, match=message):
        Wildcards(tmp_path).drawn(prompt, 3)
