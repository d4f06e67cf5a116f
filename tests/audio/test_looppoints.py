"""Loop points and tempo: written to files, and read by us and by other programs."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from magnet_cli.audio import finish
from magnet_cli.audio.formats import encoding_for
from magnet_cli.audio.looppoints import LoopPoints, read_points
from magnet_cli.audio.sound import open_sound
from magnet_cli.settings import AudioFormat, OutputConfig

NOISE = np.random.default_rng(0).normal(0, 0.1, (1, 24_000)).astype(np.float32)


def written(path: Path, kind: AudioFormat, **how: object) -> Path:
    told = {"prompt": "a" * 9000}  # longer than a typical ogg page
    finish.write_sound(path, [NOISE], 24_000, kind, OutputConfig(), told, **how)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus"])
def test_a_loop_says_where_it_goes_round(kind: AudioFormat, tmp_path: Path) -> None:
    path = written(tmp_path / f"loop.{kind}", kind, loop=True, bpm=125.004)
    with open_sound(path) as sound:
        # wav has no tag for the tempo.
        tempo = None if kind == "wav" else 125.0
        assert sound.points == LoopPoints(0, sound.length, tempo)
        assert sound.metadata == {"prompt": "a" * 9000}
        assert sound.read().shape == (1, sound.length)


@pytest.mark.parametrize("kind", ["flac", "ogg", "opus"])
def test_a_tempo_alone_is_kept(kind: AudioFormat, tmp_path: Path) -> None:
    """The shortest possible tags must leave room for the licence that is their placeholder."""
    with open_sound(written(tmp_path / f"a.{kind}", kind, bpm=60)) as sound:
        assert sound.points == LoopPoints(bpm=60.0)
        assert sound.metadata is not None


def test_without_a_loop_nothing_is_said(tmp_path: Path) -> None:
    for kind in ("wav", "flac", "ogg"):
        path = written(tmp_path / f"a.{kind}", kind)
        assert read_points(path) is None
        assert b"LOOP" not in path.read_bytes()


def test_the_chunk_of_a_wav_file_is_as_its_readers_expect(tmp_path: Path) -> None:
    """For the importers of Godot and Unity: 36 bytes, then loops of 24 bytes, whose end is the last sample
    played."""
    data = written(tmp_path / "loop.wav", "wav", loop=True).read_bytes()
    at = data.index(b"smpl")
    assert struct.unpack_from("<I", data, at + 4)[0] == 60
    assert struct.unpack_from("<9I", data, at + 8)[2:4] == (round(1e9 / 24_000), 60)
    assert struct.unpack_from("<6I", data, at + 44) == (0, 0, 0, 23_999, 0, 0)


def test_every_page_of_an_ogg_file_has_its_checksum(tmp_path: Path) -> None:
    """Compared bit by bit with a slow version: players drop pages with a wrong checksum."""
    data = written(tmp_path / "loop.ogg", "ogg", loop=True, bpm=125).read_bytes()
    assert b"LOOPSTART=0" in data
    at, pages = 0, 0
    while at < len(data) and pages < 3:
        segments = data[at + 26]
        size = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        value = 0
        for byte in data[at : at + 22] + bytes(4) + data[at + 26 : at + size]:
            value ^= byte << 24
            for _ in range(8):
                value = ((value << 1) ^ 0x104C11DB7) if value & 0x80000000 else value << 1
        assert struct.unpack_from("<I", data, at + 22)[0] == value
        at, pages = at + size, pages + 1


def test_an_edit_keeps_them(tmp_path: Path) -> None:
    source = written(tmp_path / "loop.ogg", "ogg", loop=True, bpm=125)
    for kind, subtype in (("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16")):
        copy = tmp_path / f"copy.{kind.lower()}"
        with open_sound(source) as sound:
            finish.write_patched(sound, [], copy, (kind, subtype))
        with open_sound(copy) as sound:
            assert sound.points is not None
            assert (sound.points.start, sound.points.length) == (0, 24_000)


def test_what_others_wrote_is_read_or_passed_over() -> None:
    """RPG Maker's lower-case tags, and wrong headers."""

    def flac(*tags: bytes, count: int | None = None, vendor: int = 1) -> io.BytesIO:
        fields = b"".join(struct.pack("<I", len(tag)) + tag for tag in tags)
        body = struct.pack("<I", vendor) + b"v" + struct.pack("<I", count or len(tags)) + fields
        return io.BytesIO(b"fLaC\x84" + len(body).to_bytes(3, "big") + body)

    assert read_points(flac(b"loopstart=5", b"LoopEnd=25")) == LoopPoints(5, 20)
    assert read_points(flac(b"TEMPO=90.5")) == LoopPoints(bpm=90.5)
    for bad in (
        flac(b"LOOPSTART=-4", b"BPM=nan", b"LOOPLENGTH=1e99"),
        flac(b"BPM=\xff", b"LOOPSTART"),
        flac(b"A=1", count=2**31),
        flac(b"A=1", vendor=2**32 - 1),
        io.BytesIO(b"fLaC"),
        io.BytesIO(b"OggS" + bytes(40) + b"\x03vorbis\xff"),
        io.BytesIO(b""),
    ):
        assert read_points(bad) is None
    short = (b"smpl", struct.pack("<9I", 0, 0, 0, 60, 0, 0, 0, 1, 0))
    assert read_points(io.BytesIO(b"RIFF"), [short]) is None


def test_libsndfile_reads_what_it_did_not_write(tmp_path: Path) -> None:
    for kind in ("flac", "ogg"):
        path = written(tmp_path / f"a.{kind}", kind, loop=True, bpm=101.5)
        with soundfile.SoundFile(path) as file:
            assert file.license == ""
            assert len(file.read()) == 24_000


@pytest.mark.parametrize("kind", ["flac", "ogg"])
def test_a_tag_with_the_text_of_the_placeholder_is_kept(kind: AudioFormat, tmp_path: Path) -> None:
    """The tag was overwritten in its place, which damaged the file."""
    points = LoopPoints(0, 24_000)
    title = f"LoopPoints {points.stand_in} and LICENSE={points.stand_in}"
    source = tmp_path / "a.wav"
    with soundfile.SoundFile(source, "w", 24_000, 1) as file:
        file.title = title
        file.write(NOISE[0])
    with open_sound(source) as sound:
        sound.points = points
        finish.write_patched(
            sound, [], tmp_path / f"b.{kind}", encoding_for(sound, tmp_path / f"b.{kind}")
        )
    with open_sound(tmp_path / f"b.{kind}") as sound:
        assert sound.points == points
        assert sound.tags["title"] == title
        assert sound.read().shape == (1, 24_000)
