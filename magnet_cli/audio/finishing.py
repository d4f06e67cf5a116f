"""From decoded audio to what goes into the file: rate, channels, fade, loudness, in that order.

Loudness comes last, so that what was measured and limited is what is written.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from magnet_cli.audio.formats import rate_for
from magnet_cli.audio.io import Samples, resample, with_channels
from magnet_cli.audio.loudness import Loudness, fade, measure, normalize, peak_of
from magnet_cli.audio.silence import silences
from magnet_cli.errors import AudioFileError
from magnet_cli.settings import AudioFormat, OutputConfig


def finish(
    samples: Samples, sample_rate: int, name: AudioFormat, output: OutputConfig
) -> tuple[Samples, int, Loudness]:
    """Make decoded audio ready to be written.

    Args:
        samples: [C, N] at `sample_rate` Hz, as the codec decoded them.
        sample_rate: Hz.
        name: the format that will be written.
        output: what the user asked for.

    Returns:
        samples [C', N'], their rate in Hz, and what loudness they have.

    Raises:
        AudioFileError: the format cannot hold the rate asked for, or the channels cannot be made.
    """
    rate = rate_for(name, output, sample_rate)
    samples = resample(samples, sample_rate, rate)
    if output.channels is not None:
        samples = with_channels(samples, output.channels)
    samples = fade(samples, rate, output.fade)
    if output.normalize:
        samples, loudness = normalize(samples, rate, output.lufs, output.peak)
    else:
        lufs = measure(samples, rate)
        loudness = Loudness(lufs, lufs, 0.0, 0.0, peak_of(samples))
    return samples, rate, dataclasses.replace(loudness, silences=silences(samples, rate))


def finish_loop(
    samples: Samples, sample_rate: int, name: AudioFormat, output: OutputConfig
) -> tuple[Samples, int, Loudness]:
    """As `finish`, for a sound whose end goes on into its beginning: so it does afterwards.

    Three rounds are finished and the middle one is kept: resampling and limiter have come from
    where they go to.

    Raises:
        AudioFileError: as `finish` and `check_loopable`.
    """
    check_loopable(output)
    rounds, rate, loudness = finish(np.tile(samples, (1, 3)), sample_rate, name, output)
    start, stop = (round(samples.shape[1] * i * rate / sample_rate) for i in (1, 2))
    middle = np.ascontiguousarray(rounds[:, start:stop])
    return middle, rate, dataclasses.replace(loudness, silences=silences(middle, rate))


def check_loopable(output: OutputConfig) -> None:
    """Refuse settings of a file that no loop can have.

    Raises:
        AudioFileError: a fade was asked for, which a loop has no place for.
    """
    if output.fade:
        raise AudioFileError("A loop cannot be faded: its end would be heard.", "Leave --fade out.")


def remark(loudness: Loudness, output: OutputConfig) -> str:
    """What a user should be told of the loudness, in sentences; empty where there is nothing to tell."""
    if loudness.silent:
        peak = f"The clip is silent (peak {loudness.peak:.0f} dBFS)"
        return f"{peak}: another --seed, a longer prompt or a higher --temperature may help."
    return " ".join(filter(None, (_gaps(loudness), _hard_work(loudness, output))))


def _gaps(loudness: Loudness) -> str:
    if not loudness.silences:
        return ""
    spans = " and ".join(f"from {start:.1f} to {stop:.1f} s" for start, stop in loudness.silences)
    return f"The clip is silent {spans}: another --seed may help."


def _hard_work(loudness: Loudness, output: OutputConfig) -> str:
    if not output.normalize:
        return ""
    parts = []
    if loudness.worked_hard:
        parts.append(f"The limiter worked hard ({loudness.reduction:.0f} dB)")
    if abs(loudness.after - output.lufs) > 0.5:
        parts.append(f"the loudness came to {loudness.after:.1f} LUFS")
    if not parts:
        return ""
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}: a lower --lufs would be gentler."
