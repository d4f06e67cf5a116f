"""Sound files round-trip in every format, with their record."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.audio.formats import format_of, rate_for
from magnet_cli.audio.metadata import from_comment, to_comment
from magnet_cli.audio.sound import Samples, open_sound, resample, with_channels
from magnet_cli.errors import AudioFileError, MagnetError
from magnet_cli.settings import AudioFormat, OutputConfig
from tests import sounds

FORMATS = get_args(AudioFormat)
METADATA = {"prompt": 'lofi "piano" — ピアノ 🎹 مرحبا', "seed": 2**63 - 1, "given": {"top_p": 0.9}}


def tone(rate: int = 32_000, seconds: float = 1.0, channels: int = 1) -> Samples:
    times = np.arange(round(seconds * rate)) / rate
    return np.repeat(0.5 * np.sin(2 * np.pi * 440 * times)[None], channels, 0).astype(np.float32)


def rate_of(name: AudioFormat) -> int:
    return rate_for(name, OutputConfig(), 32_000)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_is_read(tmp_path: Path, name: AudioFormat, channels: int) -> None:
    path = tmp_path / f"clip.{name}"
    rate = rate_of(name)
    samples = tone(rate, channels=channels)
    sounds.write(path, samples, rate, name, OutputConfig(), METADATA)
    sound = sounds.read(path)
    assert (sound.sample_rate, sound.samples.shape[0]) == (rate, channels)
    assert sound.metadata == METADATA
    assert sound.duration == pytest.approx(1.0, abs=0.05)  # mp3 pads to frames
    heard = sound.samples[:, 2000 : rate - 2000]
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("prompt", ["x" * 10_240, "🎹" * 2500, "ب" * 5000, "", "\\\"'\n\t"])
def test_long_and_strange_prompts_are_kept(tmp_path: Path, name: AudioFormat, prompt: str) -> None:
    path = tmp_path / f"clip.{name}"
    sounds.write(path, tone(rate_of(name), 0.1), rate_of(name), name, OutputConfig(), {"p": prompt})
    assert sounds.read(path).metadata == {"p": prompt}


@pytest.mark.parametrize(
    ("name", "depth", "subtype", "error"),
    [
        ("wav", None, "PCM_16", 1 / 32_000),
        ("wav", "16", "PCM_16", 1 / 32_000),
        ("wav", "24", "PCM_24", 1 / 8_000_000),
        ("wav", "float", "FLOAT", 0.0),
        ("flac", "16", "PCM_16", 1 / 32_000),
        ("flac", "24", "PCM_24", 1 / 8_000_000),
    ],
)
def test_bit_depths(
    tmp_path: Path, name: AudioFormat, depth: Any, subtype: str, error: float
) -> None:
    path = tmp_path / f"clip.{name}"
    sounds.write(path, tone(), 32_000, name, OutputConfig(bit_depth=depth), METADATA)
    sound = sounds.read(path)
    assert sound.subtype == subtype
    assert np.abs(sound.samples - tone()).max() <= error


@pytest.mark.parametrize("depth", [None, "24", "float"])
def test_a_wav_file_is_whole_for_any_reader(tmp_path: Path, depth: Any) -> None:
    """Our chunk is after the data: the header counts it, and odd lengths are padded."""
    import wave

    path = tmp_path / "clip.wav"
    samples = tone()[:, :1001]
    sounds.write(path, samples, 32_000, "wav", OutputConfig(bit_depth=depth), {"a": "x"})
    data = path.read_bytes()
    assert len(data) % 2 == 0
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert soundfile.info(path).frames == 1001
    if depth != "float":
        with wave.open(str(path)) as reader:
            assert reader.getnframes() == 1001
    assert sounds.read(path).metadata == {"a": "x"}


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("wav", OutputConfig()),
        ("wav", OutputConfig(bit_depth="float")),
        ("flac", OutputConfig()),
        ("mp3", OutputConfig()),
    ],
)
def test_the_same_sound_makes_the_same_bytes(name: AudioFormat, output: OutputConfig) -> None:
    assert sounds.encode(tone(), 32_000, name, output, METADATA) == sounds.encode(
        tone(), 32_000, name, output, METADATA
    )


def test_no_time_of_day_is_kept() -> None:
    """libsndfile writes the time to the PEAK chunk of float wav files."""
    data = sounds.encode(tone(), 32_000, "wav", OutputConfig(bit_depth="float"), METADATA)
    at = data.index(b"PEAK")
    assert data[at + 12 : at + 16] == bytes(4)


def test_comments_are_ascii_and_sorted() -> None:
    comment = to_comment({"b": "é", "a": 1})
    assert comment.isascii()
    assert list(json.loads(comment)["magnet"]) == ["a", "b"]
    assert from_comment(comment) == {"b": "é", "a": 1}


@pytest.mark.parametrize(
    "comment", ["", "hello", "{", "[1]", '{"magnet": 3}', '{"other": {}}', "[" * 100_000, "null"]
)
def test_other_comments_are_not_ours(comment: str) -> None:
    assert from_comment(comment) is None


def test_settings_too_long_for_a_file_are_refused() -> None:
    with pytest.raises(AudioFileError, match="too long"):
        to_comment({"prompt": "x" * 60_000})


def test_a_wav_file_with_nonsense_chunks_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    sounds.write(path, tone(), 32_000, "wav", OutputConfig(), None)
    with path.open("ab") as file:
        file.write(b"LIST\xff\xff\xff\xffINFOICMT\xff\xff\xff\x7fzzz")
    sound = sounds.read(path)
    assert sound.metadata is None
    assert sound.samples.shape == (1, 32_000)


@pytest.mark.process  # what starts like a webm is handed to ffmpeg
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300), cut=st.integers(0, 400))
def test_broken_files_are_refused_kindly(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.wav"
    whole = sounds.encode(tone(8000, 0.01), 8000, "wav", OutputConfig(), {"a": 1})
    path.write_bytes(whole[:cut] + data)
    read = None
    with contextlib.suppress(AudioFileError):  # any other error is a failure
        read = sounds.read(path)
    assert read is None or (read.samples.ndim == 2 and read.samples.size > 0)


def test_reading_from_a_stream() -> None:
    data = sounds.encode(tone(), 32_000, "flac", OutputConfig(), METADATA)
    sound = sounds.read(io.BytesIO(data))
    assert sound.kind == "FLAC"
    assert sound.metadata == METADATA


@pytest.mark.parametrize("make", ["missing", "folder", "empty", "text", "silent"])
def test_what_is_no_sound_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "clip.wav"
    if make == "folder":
        path.mkdir()
    elif make == "empty":
        path.touch()
    elif make == "text":
        path.write_text("not a sound " * 100)
    elif make == "silent":
        soundfile.write(path, np.zeros((0, 1)), 32_000)
    with pytest.raises(AudioFileError) as caught:
        sounds.read(path)
    assert caught.value.hint


def test_values_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    samples = tone()
    samples[0, 7] = np.nan
    with pytest.raises(AudioFileError, match="NaN or infinite"):
        sounds.write(tmp_path / "clip.wav", samples, 32_000, "wav", OutputConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "clip.wav"
    old.write_bytes(b"the old one")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MagnetError, match="no room") as caught:
        sounds.write(old, tone(), 32_000, "wav", OutputConfig())
    assert caught.value.exit_status == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip.wav"]
    assert old.read_bytes() == b"the old one"


def test_noise_is_soon_no_sound(tmp_path: Path) -> None:
    """It was searched to its end for every 255 in it: 300 MB took more than hours."""
    path = tmp_path / "noise.wav"
    path.write_bytes(np.random.default_rng(0).bytes(30_000_000))
    began = time.perf_counter()
    with pytest.raises(AudioFileError, match="not a sound"), open_sound(path):
        pass
    assert time.perf_counter() - began < 5


def test_a_stream_of_zeros_is_not_copied_for_ever() -> None:
    with (
        open("/dev/zero", "rb") as endless,
        pytest.raises(AudioFileError, match="not a sound"),
        open_sound(endless),
    ):
        pass


def test_resampling_keeps_pitch_and_length() -> None:
    there = resample(tone(32_000), 32_000, 48_000)
    assert there.shape == (1, 48_000)
    np.testing.assert_allclose(there[:, 500:-500], tone(48_000)[:, 500:-500], atol=1e-3)
    assert resample(tone(), 32_000, 32_000) is not None


def test_channels() -> None:
    stereo = np.stack([np.ones(4), np.zeros(4)]).astype(np.float32)
    np.testing.assert_array_equal(with_channels(stereo, 1), np.full((1, 4), 0.5))
    assert with_channels(stereo[:1], 2).shape == (2, 4)
    with pytest.raises(AudioFileError):
        with_channels(np.ones((6, 4), np.float32), 2)


def test_the_format_is_the_suffixs_or_the_one_asked_for() -> None:
    assert format_of(Path("a.FLAC"), OutputConfig()) == "flac"
    assert format_of(Path("a"), OutputConfig(format="mp3")) == "mp3"
    assert format_of(None, OutputConfig()) == "wav"
    for path, output in [
        (Path("a.xyz"), OutputConfig()),
        (Path("a"), OutputConfig()),
        (Path("a.wav"), OutputConfig(format="mp3")),
    ]:
        with pytest.raises(AudioFileError):
            format_of(path, output)


def test_rates_that_a_format_cannot_hold() -> None:
    assert rate_for("opus", OutputConfig(), 32_000) == 48_000
    # opus also supports the built-in model's rate, so its files were not at 48 kHz as documented.
    assert rate_for("opus", OutputConfig(), 16_000) == 48_000
    assert rate_for("opus", OutputConfig(), 24_000) == 48_000
    assert rate_for("opus", OutputConfig(sample_rate=24_000), 32_000) == 24_000
    assert rate_for("mp3", OutputConfig(), 32_000) == 32_000
    assert rate_for("wav", OutputConfig(sample_rate=11_111), 32_000) == 11_111
    with pytest.raises(AudioFileError, match="opus cannot hold 44100"):
        rate_for("opus", OutputConfig(sample_rate=44_100), 32_000)


def test_ogg_is_not_asked_for_a_rate_that_crashes_it() -> None:
    """libsndfile crashed the process, and a batch with such a line could never finish."""
    assert rate_for("ogg", OutputConfig(sample_rate=200_000), 32_000) == 200_000
    with pytest.raises(AudioFileError, match=r"ogg cannot hold 200001 Hz.*up to 200000"):
        rate_for("ogg", OutputConfig(sample_rate=200_001), 32_000)
    assert rate_for("ogg", OutputConfig(), 250_000) == 200_000
