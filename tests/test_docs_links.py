"""Every relative link and anchor in the documentation is valid."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "recipes/**/*.md",
        "benchmarks/**/*.md",
        "magnet_cli/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1\s*$|^(?: {4}|\t).*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the public forges make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        kept = "".join(c for c in plain if c in " -_" or unicodedata.category(c)[0] in "LNM")
        name, number = kept.replace(" ", "-"), 0
        while (name if not number else f"{name}-{number}") in found:
            number += 1
        found.add(name if not number else f"{name}-{number}")
    return found


def dead_links(page: Path, text: str) -> list[str]:
    """The links of a page with this text that are broken, or lead out of the repository."""
    dead = []
    for target in LINK.findall(CODE.sub("", text)):
        if re.match(r"\w+:", target):
            continue
        place, _, anchor = target.partition("#")
        other = (page.parent / place).resolve() if place else page
        if (
            not other.exists()
            or not other.is_relative_to(ROOT)
            or (anchor and anchor not in anchors(other.read_text("utf-8") if place else text))
        ):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text("utf-8")) == []


def test_a_dead_link_is_found() -> None:
    text = "# One two!\n[a](#one-two) [b](#one) [c](nowhere.md) ![d](tests) `[e](no.md)` [f](../out.md)\n"
    assert dead_links(ROOT / "README.md", text) == ["#one", "nowhere.md", "../out.md"]
