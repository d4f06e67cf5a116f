"""The streaming writer gives the same result as finishing in memory, in constant memory."""

from __future__ import annotations

import gc
import io
import math
import os
import signal
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.audio import finish as writer
from magnet_cli.audio.finish import Store, write_sound
from magnet_cli.audio.formats import checked_format
from magnet_cli.audio.loudness import Meter, measure
from magnet_cli.errors import AudioFileError
from magnet_cli.settings import OutputConfig
from tests import sounds
from tests.audio import whole as in_memory

RATE = 16_000
FLOAT = OutputConfig(bit_depth="float")


def drums(seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Hits over a soft pad, which need the limiter."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    pad = 0.02 * rng.standard_normal((channels, n))
    beat = np.exp(-(np.arange(n) % (RATE // 2)) / 300.0)
    return (pad + 0.8 * beat * rng.standard_normal((channels, n))).astype(np.float32)


def cut(samples: np.ndarray, size: int) -> list[np.ndarray]:
    return [samples[:, i : i + size] for i in range(0, samples.shape[1], size)]


def streamed(chunks, output=FLOAT, rate=RATE, loop=False):
    parts = []
    written = write_sound(parts.append, chunks, rate, "wav", output, loop=loop)
    file = io.BytesIO(b"".join(parts))
    samples, file_rate = soundfile.read(file, dtype="float32", always_2d=True)
    assert file_rate == written.sample_rate
    assert written.duration == len(samples) / file_rate
    return samples.T, written.loudness


@given(st.integers(1, 3), st.floats(0.5, 5), st.integers(1, 30_000), st.integers(0, 9))
@settings(deadline=None, max_examples=15)
def test_the_meter_agrees_with_the_one_in_memory(channels, seconds, size, seed) -> None:
    samples = drums(seconds, channels, seed)
    meter = Meter(channels, RATE)
    for chunk in cut(samples, max(size, 500)):
        meter.add(chunk)
    assert abs(meter.loudness() - measure(samples, RATE)) < 1e-6


def test_the_meter_knows_silence_and_odd_rates() -> None:
    meter = Meter(1, 11_025)
    meter.add(np.zeros((1, 20_000), np.float32))
    assert meter.loudness() == -math.inf
    samples = drums(2.0)
    meter = Meter(1, 11_025)
    meter.add(samples)
    assert abs(meter.loudness() - measure(samples, 11_025)) < 1e-6


@pytest.mark.parametrize("release", [120.0, 1500.0])
def test_the_limiter_in_blocks_is_the_limiter(monkeypatch, release) -> None:
    monkeypatch.setattr(writer, "BLOCK", 1000)
    samples = drums(1.0, 2)
    store = Store(io.BytesIO(), 2, RATE, (0.0, 0.0))
    store.append(samples)
    blocks = np.concatenate([*store.limited(12.0, release, -1.0)], axis=1)
    whole, reduction = in_memory.limit(samples * np.float32(10 ** (12 / 20)), RATE, -1.0, release)
    assert reduction > 6
    assert np.abs(blocks - whole).max() < 1e-6


@pytest.mark.parametrize(
    "output",
    [
        FLOAT,
        OutputConfig(bit_depth="float", sample_rate=22_050),
        OutputConfig(bit_depth="float", channels=2, fade=0.3),
        OutputConfig(bit_depth="float", normalize=False, fade=9.0),
        OutputConfig(bit_depth="float", lufs=-23, peak=-6),
    ],
)
def test_a_stream_is_finished_as_in_memory(monkeypatch, output) -> None:
    monkeypatch.setattr(writer, "BLOCK", 7000)
    samples = drums(3.0)
    blocks, loudness = streamed(cut(samples, 4321), output)
    whole, _, other = in_memory.finish(samples, RATE, "wav", output)
    assert blocks.shape == whole.shape
    assert np.abs(blocks - whole).max() < 1e-4
    assert abs(loudness.after - other.after) < 1e-3
    assert abs(loudness.reduction - other.reduction) < 1e-3
    assert abs(loudness.peak - other.peak) < 1e-3


def test_short_and_silent_streams() -> None:
    short, loudness = streamed([drums(0.05)])
    assert short.shape == (1, 800)
    assert abs(loudness.after - -14) < 0.5
    silent, loudness = streamed([np.zeros((1, RATE), np.float32)] * 2)
    assert loudness.silent
    assert not silent.any()
    with pytest.raises(AudioFileError, match="no sound"):
        streamed([])


def test_what_is_not_a_number_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    bad = drums(1.0)
    bad[0, 500] = np.nan
    with pytest.raises(AudioFileError, match="NaN or infinite"):
        write_sound(tmp_path / "a.wav", cut(bad, 100), RATE, "wav", FLOAT)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("moment", ["opened", "written", "closing"])
def test_an_interrupt_at_any_moment_leaves_nothing_and_says_nothing(
    tmp_path: Path, monkeypatch, moment: str
) -> None:
    """If Ctrl-C came right after libsndfile opened its file, the file stayed open and was closed twice later,
    with six tracebacks that nothing could catch."""

    class Interrupted(soundfile.SoundFile):
        def __init__(self, *args, **more) -> None:
            super().__init__(*args, **more)
            if moment == "opened":
                os.kill(os.getpid(), signal.SIGINT)

        def write(self, data) -> None:
            super().write(data)
            if moment == "written":
                os.kill(os.getpid(), signal.SIGINT)

        def close(self) -> None:
            if moment == "closing" and not self.closed:
                os.kill(os.getpid(), signal.SIGINT)
            super().close()

    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: said.append(what.exc_value))
    monkeypatch.setattr(soundfile, "SoundFile", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_sound(tmp_path / "a.wav", [drums(0.2)], RATE, "wav", FLOAT)
    finally:
        signal.signal(signal.SIGINT, before)
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert said == []


def test_a_path_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="cannot be written"):
        write_sound(tmp_path / "no" / "a.wav", [drums(1.0)], RATE, "wav", FLOAT)


def test_memory_does_not_grow_with_length(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writer, "BLOCK", 8000)
    chunk = drums(0.5)

    def peak(chunks: int) -> int:
        tracemalloc.start()
        write_sound(tmp_path / "a.wav", (chunk for _ in range(chunks)), RATE, "wav", FLOAT)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(4)
    assert peak(80) < 1.2 * peak(20)


def test_metadata_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    write_sound(path, [drums(1.0)], RATE, "flac", OutputConfig(), {"prompt": "drums"})
    assert sounds.read(path).metadata == {"prompt": "drums"}


@pytest.mark.parametrize("rate", [RATE, 48_000, 22_050])
def test_a_loop_stays_a_loop_when_it_is_finished(rate) -> None:
    """A tone of whole periods is resampled and limited; its end still continues at its start."""
    places = np.arange(RATE)
    tone = np.sin(2 * np.pi * 40 * places / RATE) * (1 + 0.5 * np.sin(2 * np.pi * places / RATE))
    output = OutputConfig(bit_depth="float", sample_rate=rate, lufs=-6.0)
    samples = tone[None].astype(np.float32)
    loop, loudness = streamed(cut(samples, 4321), output, loop=True)
    whole, out_rate, _ = in_memory.finish_loop(samples, RATE, "wav", output)
    assert out_rate == rate
    assert np.abs(loop - whole).max() < 1e-4
    assert loop.shape == (1, rate)
    assert loudness.reduction > 1
    across = np.diff(np.concatenate([loop[0, -50:], loop[0, :50]]))
    assert np.abs(across).max() <= np.abs(np.diff(loop[0])).max() * 1.01
    assert np.abs(np.diff(across)).max() <= np.abs(np.diff(loop[0], 2)).max() * 1.01


def test_a_loop_is_not_faded() -> None:
    with pytest.raises(AudioFileError, match="cannot have a fade"):
        streamed([drums(1.0)], OutputConfig(fade=0.1), loop=True)


@pytest.mark.parametrize(("depth", "bits"), [("16", 16), ("24", 24)])
def test_samples_are_rounded_in_every_lossless_format(tmp_path: Path, depth, bits) -> None:
    """wav was truncated by libsndfile, a shift of half a step and twice the error."""
    samples = np.concatenate([drums(1.0) * 0.3, [[1.0, -1.0, 1.5, -1.5]]], axis=1, dtype=np.float32)
    exact, kept = np.clip(samples.astype(np.float64), -1, 1) * 2 ** (bits - 1), {}
    for kind in ("wav", "flac"):
        output = OutputConfig(bit_depth=depth, normalize=False)
        write_sound(tmp_path / f"a.{kind}", [samples], RATE, kind, output)
        read, _ = soundfile.read(tmp_path / f"a.{kind}", dtype="int32", always_2d=True)
        kept[kind] = read.T.astype(np.float64) / 2 ** (32 - bits)
    assert np.array_equal(kept["wav"], kept["flac"])
    error = (kept["wav"] - exact)[:, :-4]
    assert abs(error.mean()) < 0.02
    assert np.abs(error).max() <= 0.5
    assert kept["wav"][0, -4:].tolist() == [2 ** (bits - 1) - 1, -(2 ** (bits - 1))] * 2


def test_a_sound_without_samples_is_refused() -> None:
    with pytest.raises(AudioFileError, match="no sound to write"):
        streamed([np.zeros((1, 0), np.float32)])


@pytest.mark.parametrize("rate", [65_530, 65_535, 65_537, 88_200, 99_999, 176_400, 352_801])
def test_a_rate_is_refused_where_the_encoder_would(tmp_path: Path, rate) -> None:
    """flac cannot say every rate, which showed when a clip was written."""
    output = OutputConfig(sample_rate=rate)
    if rate > 65_535 and rate % 10:
        with pytest.raises(AudioFileError, match="above 65535 multiples of 10"):
            checked_format(tmp_path / "a.flac", output)
    else:
        assert checked_format(tmp_path / "a.flac", output) == "flac"
        write_sound(tmp_path / "a.flac", [drums(0.1)], RATE, "flac", output)
