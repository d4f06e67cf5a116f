"""Stored samples are copied unchanged."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.audio import sound as reader
from magnet_cli.audio.finish import Patch, write_patched
from magnet_cli.audio.formats import encoding_for, lost_chunks
from magnet_cli.audio.sound import open_sound
from magnet_cli.errors import AudioFileError


def wav(path: Path, subtype: str = "PCM_16", samples: int = 5000, channels: int = 1) -> Path:
    """A file with every sample format."""
    rng = np.random.default_rng(0)
    data = rng.integers(-(2**31), 2**31 - 1, (samples, channels)).astype(np.int32)
    soundfile.write(path, data, 8000, subtype=subtype)
    return path


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
def test_numbers_survive_a_copy_and_a_change_of_type(tmp_path, monkeypatch, subtype) -> None:
    monkeypatch.setattr(reader, "BLOCK", 700)
    path = wav(tmp_path / "a.wav", subtype)
    with open_sound(path) as sound:
        write_patched(sound, [], tmp_path / "b.wav", encoding_for(sound, tmp_path / "b.wav"))
        before = sound.numbers(0, sound.length)
        if subtype not in ("PCM_32", "DOUBLE", "ULAW", "ALAW"):  # not float32's range
            assert np.array_equal(sound.stored(sound.samples(0, sound.length)), before)
    with open_sound(tmp_path / "b.wav") as copy:
        assert copy.subtype == subtype
        assert np.array_equal(copy.numbers(0, copy.length), before)


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 300)), max_size=5), st.integers(1, 400)
)
@settings(deadline=None, max_examples=25)
def test_patches_go_where_they_belong_whatever_the_blocks(spans, block) -> None:
    file = io.BytesIO()
    whole = np.arange(1000, dtype=np.int16)[:, None]
    soundfile.write(file, whole, 8000, format="WAV")
    patches, wanted, end = [], whole.copy(), 0
    for start, length in sorted(spans):
        stop = min(start + length, 1000)
        if start < end or start >= stop:
            continue
        patches.append(Patch(start, np.full((stop - start, 1), -start - 1, np.int16)))
        wanted[start:stop] = -start - 1
        end = stop
    file.seek(0)
    parts = []
    original = reader.BLOCK
    reader.BLOCK = block
    try:
        with open_sound(file) as sound:
            write_patched(sound, patches, parts.append, encoding_for(sound, None))
    finally:
        reader.BLOCK = original
    target = io.BytesIO(b"".join(parts))
    assert np.array_equal(soundfile.read(target, dtype="int16", always_2d=True)[0], wanted)


@pytest.mark.parametrize(
    ("subtype", "lowest", "highest"),
    [("PCM_16", -(2**15), 2**15 - 1), ("PCM_24", -(2**31), 2**31 - 256)],
)
def test_integers_are_held_in_range(tmp_path, subtype, lowest, highest) -> None:
    with open_sound(wav(tmp_path / "a.wav", subtype)) as sound:
        loud = sound.stored(np.array([[-3.0, 3.0, 1.0, -1.0]], np.float32))[:, 0]
    assert loud.tolist() == [lowest, highest, highest, lowest]


@pytest.mark.parametrize(
    ("source", "name", "encoding"),
    [
        ("PCM_16", "b.wav", ("WAV", "PCM_16")),
        ("PCM_24", "b.flac", ("FLAC", "PCM_24")),
        ("PCM_U8", "b.flac", ("FLAC", "PCM_S8")),
        ("FLOAT", "b.aif", ("AIFF", "FLOAT")),
        ("PCM_16", "b.mp3", ("MP3", "MPEG_LAYER_III")),
        ("PCM_16", "b.opus", ("OGG", "OPUS")),
    ],
)
def test_the_encoding_is_the_sounds_own(tmp_path, source, name, encoding) -> None:
    with open_sound(wav(tmp_path / "a.wav", source)) as sound:
        assert encoding_for(sound, Path(name)) == encoding


def test_formats_that_cannot_hold_the_numbers_are_refused(tmp_path) -> None:
    with open_sound(wav(tmp_path / "a.wav", "FLOAT")) as sound:
        with pytest.raises(AudioFileError, match="cannot hold the samples"):
            encoding_for(sound, Path("b.flac"))
        for name in ("b", "b.txt", "b.wav.zip"):
            with pytest.raises(AudioFileError, match="suffix"):
                encoding_for(sound, Path(name))


def test_a_named_pipe_is_read(tmp_path) -> None:
    path = wav(tmp_path / "a.wav")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    with open_sound(pipe) as sound:
        assert sound.length == 5000
    writer.join()


@pytest.mark.parametrize("content", [b"", b"RIFF", b"hello world" * 50])
def test_what_is_no_sound_is_refused(tmp_path, content) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for source in (path, io.BytesIO(content)):
        with pytest.raises(AudioFileError), open_sound(source):
            pass


def test_missing_files_folders_and_empty_sounds(tmp_path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 8000)
    for path, message in (
        (tmp_path / "no.wav", "no file"),
        (tmp_path, "folder"),
        (tmp_path / "empty.wav", "no samples"),
    ):
        with pytest.raises(AudioFileError, match=message), open_sound(path):
            pass


def test_a_cut_file_says_where_it_ends(tmp_path) -> None:
    path = tmp_path / "a.flac"
    wav(path, samples=50_000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_sound(path) as sound, pytest.raises(AudioFileError, match="damaged at"):
        sound.numbers(0, sound.length)


def test_a_failed_write_leaves_nothing(tmp_path) -> None:
    path = tmp_path / "a.flac"
    wav(path, samples=50_000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    out.mkdir()
    with open_sound(path) as sound, pytest.raises(AudioFileError):
        write_patched(sound, [], out / "b.wav", ("WAV", "PCM_16"))
    assert [*out.iterdir()] == []
    nowhere = tmp_path / "no" / "b.wav"
    with (
        open_sound(wav(tmp_path / "c.wav")) as sound,
        pytest.raises(AudioFileError, match="cannot be written"),
    ):
        write_patched(sound, [], nowhere, ("WAV", "PCM_16"))


@pytest.mark.parametrize(
    ("rate", "name", "takes"),
    [
        (44_100, "b.opus", "8000, 12000"),
        (96_000, "b.mp3", "44100, 48000"),
        (210_000, "b.ogg", "up to 200000"),
        (700_000, "b.flac", "up to 655350"),
    ],
)
def test_a_rate_that_the_format_cannot_hold_is_refused_before_anything_is_made(
    tmp_path, rate, name, takes
) -> None:
    """`edit` found out only after making the regions, seconds to minutes later."""
    soundfile.write(tmp_path / "a.wav", np.zeros(100, np.int16), rate)
    with open_sound(tmp_path / "a.wav") as sound:
        with pytest.raises(AudioFileError, match=f"which {name[2:]} cannot hold; .*{takes}"):
            encoding_for(sound, Path(name))
        assert encoding_for(sound, Path("b.wav")) == ("WAV", "PCM_16")
    with open_sound(wav(tmp_path / "low.wav")) as sound:
        encoding_for(sound, Path(name))


def chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)


@pytest.fixture
def sampler_loop(tmp_path) -> Path:
    """A wav as in a sample library: tags, loop points, a labelled cue point."""
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16") as file:
        file.title, file.artist, file.comment = "Riff", "Ann", "mine"
        file.write(np.arange(5001, dtype=np.int16))
    body = path.read_bytes()
    cue = (1).to_bytes(4, "little") + bytes(24)
    body += b"\0" * (len(body) % 2)
    body += chunk(b"smpl", bytes(range(60))) + chunk(b"cue ", cue)
    body += chunk(b"LIST", b"adtl" + chunk(b"labl", b"\1\0\0\0odd")) + chunk(b"JUNK", b"x" * 9)
    path.write_bytes(body[:4] + (len(body) - 8).to_bytes(4, "little") + body[8:])
    return path


@pytest.mark.parametrize("stream", [False, True])
def test_an_edit_keeps_tags_and_loop_points(tmp_path, sampler_loop, stream) -> None:
    """A sampler's loop lost its loop points, and a song its title."""
    source = io.BytesIO(sampler_loop.read_bytes()) if stream else sampler_loop
    with open_sound(source) as sound:
        encoding = encoding_for(sound, Path("b.wav"))
        assert lost_chunks(sound, encoding) == ""
        write_patched(sound, [], tmp_path / "b.wav", encoding, {"made": "here"})
        first = sound.chunks
    assert [name for name, _ in first] == [b"smpl", b"cue ", b"LIST"]
    body = (tmp_path / "b.wav").read_bytes()
    assert int.from_bytes(body[4:8], "little") == len(body) - 8
    assert b"JUNK" not in body
    with open_sound(tmp_path / "b.wav") as copy:
        assert copy.chunks == first
        assert (copy.tags["title"], copy.tags["artist"]) == ("Riff", "Ann")
        assert "comment" not in copy.tags
        assert copy.metadata == {"made": "here"}
        assert copy.numbers(0, 5001)[:, 0].tolist() == [*range(5001)]
        # A copy of a copy is the same file: nothing accumulates.
        write_patched(copy, [], tmp_path / "c.wav", encoding, {"made": "here"})
    assert (tmp_path / "c.wav").read_bytes() == body


def test_another_format_keeps_the_tags_and_says_what_it_cannot(tmp_path, sampler_loop) -> None:
    with open_sound(sampler_loop) as sound:
        encoding = encoding_for(sound, Path("b.flac"))
        write_patched(sound, [], tmp_path / "b.flac", encoding, {"made": "here"})
        assert lost_chunks(sound, encoding) == "smpl, cue, LIST"
    with open_sound(tmp_path / "b.flac") as copy:
        assert (copy.tags["title"], copy.tags["artist"]) == ("Riff", "Ann")
        assert copy.metadata == {"made": "here"}
