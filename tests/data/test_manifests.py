"""Manifests and folders: a broken entry affects nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.data.manifests import MAX_CAPTION, clean_caption, read_clips
from magnet_cli.errors import DataError
from magnet_cli.settings import OutputConfig
from tests import sounds


def manifest(folder: Path, *lines: bytes | str) -> Path:
    path = folder / "clips.jsonl"
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return path


def test_a_manifest_names_paths_beside_itself(tmp_path: Path) -> None:
    line = {
        "path": "a/b.wav",
        "caption": "rain",
        "tags": {"tempo": 80, "of": ["x", "y"], "no": None},
    }
    found = read_clips(manifest(tmp_path, json.dumps(line)))
    assert found.problems == ()
    (clip,) = found.clips
    assert clip.path == tmp_path / "a/b.wav"
    assert clip.captions == ("rain",)
    assert clip.tags == ("tempo: 80", "of: x, y")


def test_several_captions_and_lists_of_tags(tmp_path: Path) -> None:
    line = {"path": "b.wav", "captions": ["rain", " ", "rain", "a  storm"], "tags": ["x", ""]}
    (clip,) = read_clips(manifest(tmp_path, json.dumps(line))).clips
    assert clip.captions == ("rain", "a storm")
    assert clip.tags == ("x",)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"not json", "not JSON"),
        (b'{"path": "x.wav", "caption": "cut', "not JSON"),
        (b'\xff\xfe{"path": 1}', "not UTF-8"),
        (b"[" * 100_000, "more than 64 deep"),
        (b'{"path": "x.wav", "path": "y.wav"}', "'path' twice"),
        (b"[1, 2]", "not a JSON object but a list"),
        (b'{"caption": "x"}', "no path"),
        (b'{"path": "a\\u0000b", "caption": "x"}', "no path"),
        (b'{"path": "x.wav"}', "no caption"),
        (b'{"path": "x.wav", "captions": {"a": "b"}}', "text or a list"),
        (b'{"path": "x.wav", "caption": 5}', "text or a list"),
        (b'{"path": "x.wav", "caption": ["a", null]}', "text or a list"),
        (b'{"path": "x.wav", "caption": " \\u0000\\n "}', "empty"),
        (b'{"path": "x.wav", "caption": "x", "tags": 7}', "tags"),
    ],
)
def test_a_broken_line_costs_that_line(tmp_path: Path, line: bytes, what: str) -> None:
    good = '{"path": "good.wav", "caption": "good"}'
    found = read_clips(manifest(tmp_path, good, "", line, good.replace("good", "fine")))
    assert [clip.captions for clip in found.clips] == [("good",), ("fine",)]
    (problem,) = found.problems
    assert problem.where == "clips.jsonl:3"
    assert what in problem.what


def test_a_caption_beside_captions_is_one_of_them(tmp_path: Path) -> None:
    line = {"path": "b.wav", "caption": "rain", "captions": ["rain", "a storm", "weather"]}
    (clip,) = read_clips(manifest(tmp_path, json.dumps(line))).clips
    assert clip.captions == ("rain", "a storm", "weather")


def test_one_line_for_each_caption_is_one_clip_with_all_of_them(tmp_path: Path) -> None:
    """Training used only the last line of a path."""
    spelled = ["a.wav", "./a.wav", "b.wav", "sub/../a.wav", str(tmp_path / "a.wav")]
    lines = [
        {"path": path, "caption": [f"caption {n}", "a sound"], "tags": ["t", f"tag {n}"]}
        for n, path in enumerate(spelled)
    ]
    found = read_clips(manifest(tmp_path, *(json.dumps(line) for line in lines)))
    assert found.problems == ()
    assert found.merged == 3
    assert [clip.id for clip in found.clips] == ["a.wav", "b.wav"]
    assert found.clips[0].path == tmp_path / "a.wav"
    assert found.clips[0].captions == (
        "caption 0", "a sound", "caption 1", "caption 3", "caption 4",
    )  # fmt: skip
    assert found.clips[0].tags == ("t", "tag 0", "tag 1", "tag 3", "tag 4")
    assert found.clips[1].captions == ("caption 2", "a sound")


def test_ids_do_not_hang_on_how_the_source_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sounds" / "sub").mkdir(parents=True)
    (tmp_path / "sounds" / "sub" / "a.wav").write_bytes(b"")
    (tmp_path / "sounds" / "sub" / "a.txt").write_text("a")
    (tmp_path / "lists").mkdir()
    line = json.dumps({"path": "../sounds/sub/a.wav", "caption": "a"})
    manifest(tmp_path / "sounds", line.replace("../sounds/", ""))
    manifest(tmp_path / "lists", line)
    monkeypatch.chdir(tmp_path)
    sources = ["sounds", "./lists/../sounds", str(tmp_path / "sounds"), "sounds/clips.jsonl"]
    ids = {clip.id for source in sources for clip in read_clips(source).clips}
    assert ids == {"sub/a.wav"}
    assert read_clips("lists/clips.jsonl").clips[0].id == "../sounds/sub/a.wav"
    monkeypatch.chdir(tmp_path / "lists")
    assert read_clips("clips.jsonl").clips[0].id == "../sounds/sub/a.wav"
    assert os.path.samefile(read_clips("clips.jsonl").clips[0].path, tmp_path / "sounds/sub/a.wav")


def test_odd_captions_are_cleaned_not_refused(tmp_path: Path) -> None:
    odd = {"path": "x.wav", "caption": "slow\u0000 piano 🎹\u202e \ud83c\n\tand  rain"}
    long = {"path": "y.wav", "caption": "a" * (MAX_CAPTION + 1)}
    found = read_clips(manifest(tmp_path, json.dumps(odd), json.dumps(long)))
    assert found.clips[0].captions == ("slow piano 🎹 and rain",)
    assert len(found.clips[1].captions[0]) == MAX_CAPTION
    assert [(p.where, p.skipped) for p in found.problems] == [("clips.jsonl:2", False)]


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_clean_captions_can_be_written_and_stay_clean(text: str) -> None:
    cleaned = clean_caption(text)
    assert cleaned.encode("utf-8").decode() == cleaned
    assert cleaned.isprintable()
    assert clean_caption(cleaned) == cleaned


def test_a_folder_has_captions_beside_its_sounds(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.WAV", "a.flac", "c.mp3", "notes.pdf", "sub/d.ogg", ".hidden/e.wav", ".f.wav"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.json").write_text('{"caption": "three", "tags": ["t"]}')
    (tmp_path / "sub" / "d.txt").write_bytes(b"caf\xc3\xa9 sounds")
    found = read_clips(tmp_path)
    assert [clip.path.name for clip in found.clips] == ["a.flac", "b.WAV", "d.ogg"]
    assert [clip.captions for clip in found.clips[:2]] == [("one", "two"), ("three",)]
    assert found.clips[1].tags == ("t",)
    (problem,) = found.problems
    assert problem.where == "c.mp3"
    assert "no caption" in problem.what


def test_a_clip_of_ours_has_its_prompt_for_a_caption(tmp_path: Path) -> None:
    """Every file records its prompt, but "it has no caption" was reported for all of them."""
    tone = np.zeros((1, 8000), np.float32)
    for name, made in {
        "made.wav": {"prompt": "lofi  piano"},
        "told.flac": {"prompt": "lofi piano"},
        "loop.ogg": {"prompt": "drums", "edit": {"command": "gen", "flags": {"loop": True}}},
        "edit.wav": {"prompt": "a bell", "edit": {"command": "edit", "input": "rain.wav"}},
        "other.wav": None,
    }.items():
        kind: Any = name.rpartition(".")[2]
        sounds.write(tmp_path / name, tone, 8000, kind, OutputConfig(), made)
    (tmp_path / "told.txt").write_text("a piano")
    (tmp_path / "list.jsonl").write_text('{"path": "made.wav"}')
    found = read_clips(tmp_path)
    assert {clip.id: clip.captions for clip in found.clips} == {
        "loop.ogg": ("drums",),
        "made.wav": ("lofi piano",),
        "told.flac": ("a piano",),
    }
    assert [problem.where for problem in found.problems] == ["edit.wav", "other.wav"]
    assert read_clips(tmp_path / "list.jsonl").clips[0].captions == ("lofi piano",)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no manifest or folder"):
        read_clips(tmp_path / "none.jsonl")


def test_captions_of_another_encoding_are_named_and_never_mangled(tmp_path: Path) -> None:
    for name, text in (
        ("latin", "café".encode("latin-1")),
        ("utf16", "rain".encode("utf-16")),
        ("bare16", "rain".encode("utf-16-le")),
        ("bom", "café".encode("utf-8-sig")),
    ):
        (tmp_path / f"{name}.wav").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_bytes(text)
    (tmp_path / "Loud.WAV").write_bytes(b"")
    (tmp_path / "Loud.TXT").write_text("thunder")
    found = read_clips(tmp_path)
    captions = {clip.path.name: clip.captions for clip in found.clips}
    assert captions == {"bom.wav": ("café",), "Loud.WAV": ("thunder",)}
    said = {problem.where: problem.what for problem in found.problems}
    assert sorted(said) == ["bare16.wav", "latin.wav", "utf16.wav"]
    assert "latin.txt is not UTF-8 (byte 4)" in said["latin.wav"]
    assert "utf16.txt is UTF-16" in said["utf16.wav"]


def test_a_manifest_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    line = b"\xef\xbb\xbf" + json.dumps({"path": "b.wav", "caption": "rain"}).encode()
    assert len(read_clips(manifest(tmp_path, line)).clips) == 1


def test_what_a_scan_passes_over_is_named(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    for name in ("a.m4a", "b.aac", "c.webm", "d.wma", "e.wave", "f.rf64", "g.weird"):
        (data / name).write_bytes(b"")
        (data / name).with_suffix(".txt").write_text("rain")
    (data / "alone.txt").write_text("no sound")
    (data / "README.txt").write_text("about this folder")
    (data / "link").symlink_to(elsewhere)
    found = read_clips(data)
    assert [clip.id for clip in found.clips] == [
        *("a.m4a", "b.aac", "c.webm", "d.wma", "e.wave", "f.rf64")
    ]
    said = {problem.where: problem.what for problem in found.problems}
    assert sorted(said) == ["alone.txt", "g.txt", "link"]
    assert "g.weird" in said["g.txt"]
    assert "not followed" in said["link"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "shut").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (problem,) = read_clips(tmp_path).problems
    assert (problem.where, problem.what) == ("shut", "the folder cannot be read: Permission denied")
