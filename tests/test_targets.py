"""File names of a batch: templates, and paths that stay in the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.errors import UsageError
from magnet_cli.targets import DEFAULT_NAME, NameTemplate, check_inside, check_relative


def test_the_default_sorts_by_line_and_says_the_seed() -> None:
    name = NameTemplate(DEFAULT_NAME).name(7, 8, "Lo-fi Piano!", 12, 1)
    assert name == "0007-lo-fi-piano-12"


def test_every_field_and_folders() -> None:
    template = NameTemplate("{line}/{slug:.4}_{variation}_{seed:x}_{index}")
    assert template.name(0, 3, "drums and bass", 255, 2) == "3/drum_2_ff_0"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt}", "no field 'prompt'"),
        ("{seed.__class__}", "no field 'seed.__class__'"),
        ("{slug[0]}", "no field"),
        ("{}", "no field ''"),
        ("{0}", "no field '0'"),
        ("{seed", "cannot be read"),
        ("{slug:04d}", "cannot be read"),
        ("../{slug}", "may lead out"),
        ("/tmp/{slug}", "may lead out"),
        ("c:{slug}", "may lead out"),
        ("{index:0400d}", "width of up to 99"),
        ("{index:{line.__class__}}", "cannot format index as"),
        ("{slug!r}", "cannot format slug"),
        ("{index:10000000000d}", "cannot format index"),
        ("{slug:.4000}", "cannot format slug"),
        (".{slug}", "dot"),
        ("", "names no file"),
        ("{slug}/", "names no file"),
    ],
)
def test_templates_that_cannot_be_used(template: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        NameTemplate(template)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../../x.wav", "a/../../x.wav", "/etc/x.wav", "..", "a\\..\\x.wav", "C:x.wav", "a\0.wav",
        "a\n.wav", "x\u202egpj.wav", ".hidden.wav", ".partial-x.wav", "a/.b/c.wav", "nul.wav",
        "a/COM1/x.wav", "x" * 300 + ".wav", "a /x.wav", "a./x.wav", "manifest.jsonl",
        "Manifest.shard-1-of-2.jsonl", "", ".", "a/", "\ud800.wav",
    ],
)  # fmt: skip
def test_paths_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_relative(name)


@pytest.mark.parametrize(
    "name", ["a.wav", "a/b/c.flac", "ピアノ.wav", "مطر.wav", "👨‍👩‍👧.wav", "a..b.wav"]
)
def test_paths_that_are_fine(name: str) -> None:
    assert check_relative(name).as_posix() == name


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_text_leads_out_of_the_folder(text: str) -> None:
    try:
        path = check_relative(text)
    except UsageError:
        return
    folder = Path("/somewhere/below")
    assert folder in (folder / path).parents
    assert ".." not in path.parts


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "clips", tmp_path / "outside"
    (folder / "real").mkdir(parents=True)
    outside.mkdir()
    (folder / "out").symlink_to(outside)
    (folder / "in").symlink_to(folder / "real")
    check_inside(folder, folder / "in")
    check_inside(folder, folder / "new" / "deeper")
    with pytest.raises(UsageError, match="by a link"):
        check_inside(folder, folder / "out")
    with pytest.raises(UsageError, match="by a link"):
        check_inside(folder, folder / "out" / "deeper")
