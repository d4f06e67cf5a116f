"""Lists in other formats: audiofolder's, audiocraft's, a spreadsheet's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from magnet_cli.data.manifests import read_clips
from magnet_cli.errors import DataError


def sounds(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def captions(source: Path) -> dict[str, tuple[str, ...]]:
    return {clip.id: clip.captions for clip in read_clips(source).clips}


def problems(source: Path) -> dict[str, str]:
    return {problem.where: problem.what for problem in read_clips(source).problems}


def test_an_audiofolder_is_read_as_it_is(tmp_path: Path) -> None:
    """Its captions are in metadata.csv or metadata.jsonl, relative to their folder."""
    sounds(tmp_path, "train/a.wav", "train/deep/b.wav", "train/c.wav", "test/d.wav", "test/e.wav")
    (tmp_path / "train/metadata.csv").write_text(
        'file_name,text\na.wav,"rain, and wind"\ndeep/b.wav,a storm\nb.wav,nothing\na.wav,weather\n'
    )
    lines = [{"file_name": "d.wav", "text": "piano", "bpm": 3}, {"file_name": "e.wav"}, {"text": 1}]
    (tmp_path / "test/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "test/e.txt").write_text("a drum")
    assert captions(tmp_path) == {
        "test/d.wav": ("piano",),
        "test/e.wav": ("a drum",),
        "train/a.wav": ("rain, and wind", "weather"),
        "train/deep/b.wav": ("a storm",),
    }
    assert problems(tmp_path) == {
        "test/metadata.jsonl:3": "it has no path",
        "train/c.wav": "it has no caption: neither c.txt nor c.json is beside it",
        "train/metadata.csv:4": "there is no sound b.wav",
    }
    assert captions(tmp_path / "train/metadata.csv").keys() == {"a.wav", "deep/b.wav", "b.wav"}
    (tmp_path / "test/metadata.jsonl").unlink()
    (tmp_path / "test/metadata.jsonl").mkdir()
    (tmp_path / "train/metadata.csv").write_bytes("file_name,text\na.wav,rain\n".encode("utf-16"))
    of_it = {where: what for where, what in problems(tmp_path).items() if "metadata.csv" in where}
    assert of_it == {"train/metadata.csv:1": "the file is UTF-16 text. Save it as UTF-8"}


def test_audiocrafts_lists_and_what_is_beside_its_sounds(tmp_path: Path) -> None:
    """Its paths are relative to where training is started, and its captions are beside the sounds."""
    sounds(tmp_path, "dataset/a.mp3", "dataset/b.mp3", "dataset/c.mp3", "dataset/d.mp3")
    about = {"title": "x", "artist": "y", "key": None, "bpm": 120.0, "moods": ["calm", "warm"]}
    sidecars = {
        "a": {**about, "description": "slow piano", "keywords": "piano, soft", "genre": ""},
        "b": {"description": ["rain", "rain falls"]},
        "c": {"description": None, "keywords": ["techno", "dark"], "instrument": "drums"},
    }
    for name, fields in sidecars.items():
        (tmp_path / f"dataset/{name}.json").write_text(json.dumps(fields))
    lines = [
        {"path": f"dataset/{name}.mp3", "duration": 9.5, "sample_rate": 44100, "info_path": None}
        for name in "abcd"
    ]
    packed = tmp_path / "egs" / "train" / "data.jsonl.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    found = read_clips(packed)
    assert [clip.captions for clip in found.clips] == [
        ("slow piano",), ("rain", "rain falls"), ("instrument: drums. keywords: techno, dark",),
    ]  # fmt: skip
    assert found.clips[0].tags == ("bpm: 120.0", "moods: calm, warm", "keywords: piano, soft")
    assert found.clips[0].id == "../../dataset/a.mp3"
    assert found.clips[0].path.samefile(tmp_path / "dataset/a.mp3")
    assert [problem.where for problem in found.problems] == ["data.jsonl.gz:4"]
    assert captions(tmp_path / "dataset").keys() == {"a.mp3", "b.mp3", "c.mp3"}
    # Only paths in audiocraft's own lists are tried from parent folders: elsewhere it would be another sound.
    plain = tmp_path / "egs" / "mine.jsonl"
    plain.write_text(json.dumps({"path": "dataset/a.mp3", "caption": "x"}))
    assert captions(plain).keys() == {"dataset/a.mp3"}


def test_a_packed_list_that_is_none_is_named(tmp_path: Path) -> None:
    for data in (b"{}", gzip.compress(b'{"path": "a.wav"}' * 99)[:-9]):
        (tmp_path / "data.jsonl.gz").write_bytes(data)
        with pytest.raises(DataError, match="truncated, or not a gzip file"):
            read_clips(tmp_path / "data.jsonl.gz")


def test_a_packed_list_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 2 MB can decompress to as many GB."""
    from magnet_cli.data import lists

    monkeypatch.setattr(lists, "_MOST_UNPACKED", 1000)
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(DataError, match="larger than"):
        read_clips(tmp_path / "data.jsonl.gz")


def test_a_spreadsheets_table_is_a_list(tmp_path: Path) -> None:
    rows = [
        "Path;Caption;Tags;key", "a.wav;rain;soft, wet;1", "", 'b.wav;"a; storm";;2', "c.wav;x;y;3;4",
        ";no sound;;", "d.wav;;;",
    ]  # fmt: skip
    (tmp_path / "list.csv").write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    found = read_clips(tmp_path / "list.csv")
    assert [(c.id, c.captions, c.tags) for c in found.clips] == [
        ("a.wav", ("rain",), ("soft", "wet")), ("b.wav", ("a; storm",), ()),
    ]  # fmt: skip
    said = [(problem.where, problem.what) for problem in found.problems]
    assert said == [
        ("list.csv:5", "it has 5 values in 4 columns: quote one that holds a separator"),
        ("list.csv:6", "it has no path"),
        ("list.csv:7", "it has no caption: neither d.txt nor d.json is beside it"),
    ]
    # Without column names it listed no sounds, or one too few, without a message.
    (tmp_path / "bare.csv").write_text("a.wav,rain\nb.wav,storm\n")
    (problem,) = read_clips(tmp_path / "bare.csv").problems
    assert problem.where == "bare.csv:1"
    assert problem.what == "it names no column path or file_name, as a first line has to"
    (tmp_path / "list.tsv").write_text("file_name\ttext\na.wav\train, and wind\n")
    assert captions(tmp_path / "list.tsv") == {"a.wav": ("rain, and wind",)}


def test_a_list_says_how_often_a_sound_is_drawn(tmp_path: Path) -> None:
    """audiocraft's `weight`, null if unset."""
    names = "abcdefg"
    said = (3, 0.5, None, 0, "x", True, [3])
    lines = [{"path": n, "caption": n, "weight": w} for n, w in zip(names, said, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = read_clips(tmp_path / "data.jsonl")
    assert [clip.weight for clip in found.clips] == [3, 0.5, 1]
    assert [problem.where for problem in found.problems] == [
        f"data.jsonl:{n}" for n in (4, 5, 6, 7)
    ]
    assert found.problems[0].what == "its weight must be a number from 0.0001 to 10,000"
    (tmp_path / "t.csv").write_text("path,caption,weight\na,x,2.5\nb,y,\nc,z,much\n")
    found = read_clips(tmp_path / "t.csv")
    assert ([clip.weight for clip in found.clips], len(found.problems)) == ([2.5, 1], 1)
