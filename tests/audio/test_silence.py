"""Long silences inside a clip are found and reported, however the audio arrives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.audio.finish import write_sound
from magnet_cli.audio.loudness import Loudness, Silences, remark
from magnet_cli.settings import OutputConfig

RATE = 8000


def tone(seconds: float, *quiet: tuple[float, float], level: float = 0.0) -> np.ndarray:
    """A tone [1, N] that is at `level` in the spans `quiet`."""
    times = np.arange(round(seconds * RATE)) / RATE
    samples = 0.3 * np.sin(2 * np.pi * 440 * times)
    for start, stop in quiet:
        samples[(times >= start) & (times < stop)] = level
    return samples.astype(np.float32)[None]


def test_a_stretch_of_silence_is_told_with_its_times() -> None:
    """A piece was silent for sixteen seconds, and the command's message did not mention it."""
    for output in (OutputConfig(), OutputConfig(normalize=False)):
        loudness = finished(output, tone(20, (10.0, 15.7)))
        assert remark(loudness, output).startswith("The clip is silent from 10.0 to 15.7 s: ")
        assert "another --seed may help" in remark(loudness, output)
        loudness = finished(output, tone(20))
        assert remark(loudness, output) == ""


def test_what_keeps_a_model_from_hanging_is_named_where_it_writes_step_by_step() -> None:
    """For "alarm", nano is silent from the first second on; a flag prevents that."""
    output = OutputConfig()
    gap, silence = finished(output, tone(8, (1.0, 8.0))), finished(output, 0 * tone(1))
    for loudness in (gap, silence):
        assert "--frequency-penalty 0.15" in remark(loudness, output, can_hang=True)
        assert "--frequency-penalty" not in remark(loudness, output)


def test_two_stretches_and_one_to_the_end() -> None:
    output = OutputConfig()
    loudness = finished(output, tone(12, (1.0, 4.0), (9.0, 12.0)))
    assert "silent from 1.0 to 4.0 s and from 9.0 to 12.0 s" in remark(loudness, output)


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (tone(8, (3.0, 5.0)), ()),  # two seconds are a rest
        (tone(8, (3.0, 5.5), level=0.002), ()),  # faint, not silent
        (tone(8, (3.0, 5.5), level=0.0009), ((3.0, 5.5),)),
        (np.concatenate([tone(8, (3.0, 5.5)), tone(8)]), ()),  # the other channel sounds
        (np.zeros((1, 0), np.float32), ()),
    ],
)
def test_what_counts_as_silence(samples: np.ndarray, found: tuple[object, ...]) -> None:
    assert silences(samples, RATE) == found


def finished(output: OutputConfig, *chunks: np.ndarray, loop: bool = False) -> Loudness:
    return write_sound(lambda data: None, chunks, RATE, "wav", output, loop=loop).loudness


def silences(samples: np.ndarray, rate: int) -> tuple[tuple[float, float], ...]:
    heard = Silences(rate)
    heard.add(samples)
    return heard.found()


@given(st.integers(1, 30_000), st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None, max_examples=30)
def test_pieces_of_a_sound_tell_what_the_whole_does(size: int, start: int, tenths: int) -> None:
    samples = tone(8.03, (start / 10, (start + tenths) / 10))
    heard = Silences(RATE)
    for first in range(0, samples.shape[1], size):
        heard.add(samples[:, first : first + size])
    assert heard.found() == silences(samples, RATE)
    assert bool(heard.found()) == (tenths > 20)


def test_a_stream_is_told_of_as_a_clip_is() -> None:
    samples = tone(12, (4.0, 7.0))
    chunks = np.array_split(samples, 7, axis=1)
    assert finished(OutputConfig(), *chunks).silences == ((4.0, 7.0),)


def test_a_loop_is_told_of_once() -> None:
    """It is finished as three rounds, of which one is kept."""
    output = OutputConfig()
    loudness = finished(output, tone(8, (5.0, 7.5)), loop=True)
    assert loudness.silences == ((5.0, 7.5),)
