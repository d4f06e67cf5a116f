"""Finds the beat of a sound, if it has one, and where a loop can be cut on it.

Onsets are increases of the spectrum (spectral flux in mel bands, as in Boeck and Widmer, 2013). The beat's
period is a peak of the onsets' autocorrelation, weighted towards tempi that people tap (Ellis, 2007). It is
refined, with its phase, by the pulse and its first multiples in the onsets' Fourier transform (as in the
tempograms of Grosche and Mueller, 2011): autocorrelation alone prefers multiples of the codec's frame, at
which its output fluctuates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from magnet_cli.settings import BEATS_IN_BAR

Floats = npt.NDArray[np.float64]

_RATE = 200.0  # onset values per second
_WINDOW = 0.046  # seconds per spectrum
_BANDS = 40
_SLOWEST, _FASTEST = 50.0, 210.0  # bpm
_TAPPED = 110.0  # bpm that people tap most
_OCTAVES = 0.9  # its standard deviation in octaves
_FAINT = 1.0  # minimum increase for an onset, in nats over all bands within 10 ms
_MULTIPLES: Floats = np.arange(1.0, 5.0)  # of the beat's frequency, used for period and phase
_THIRDS = 1.5  # a third multiple this much stronger than the first two is another beat's second
_LEAST_CLARITY = 0.15  # minimum clarity of a beat over the whole sound

# Seconds analysed at a loop's ends. They are on one beat if the whole is clear, both have a pulse with
# agreeing multiples, nothing between them is out of step, and the number of beats between them fits the
# period. Chosen on 60 loops of nano and tested on others: docs/loops.md.
_END_SECONDS = 3.0
_CLEAR, _LEAST_PULSE, _LEAST_AGREEMENT, _LEAST_STEP, _MOST_DRIFT = 0.6, 0.5, 0.7, 0.2, 0.1
# Weights of distance, drift and error at the seam (in beats) against agreement.
_DISTANCE, _DRIFT, _MISS = 0.08, 0.5, 3.0
# Minimum pulse at half the tempo if every second beat differs from those between.
_ALTERNATING = 0.09

# The strongest pulse at rates that people may tap, which need not be a beat; its phase is taken over some
# seconds on either side of the seam, and MOST_MISSED is the maximum error there.
_SLOWEST_PULSE, _FASTEST_PULSE, _PULSE_TAPPED, _PULSE_OCTAVES = 0.75, 3.0, 2.0, 0.8  # Hz
_SIDE_SECONDS = 4.0
MOST_MISSED = 0.05
_LEAST_HEARD = 0.15  # minimum of this pulse at either end of a sound with a beat
_LEAST_PULSING = 0.12  # the same without a beat; rain and pads have less
# Nats within 10 ms for the strongest onsets: drums have 13 to 70, rain and pads 3 to 8.
_HITS = 12.0
_TICKING = 0.85  # minimum pulse at twice the beat
_WHOLE = 0.05  # maximum distance of pulses per beat from a whole number
_AWAY = 0.02  # weight of a second of distance against the error at the seam


@dataclass(frozen=True)
class Tempo:
    """A steady beat."""

    period: float  # seconds
    clarity: float  # 0..1: share of the onsets that is a pulse of this period

    @property
    def bpm(self) -> float:
        """Beats per minute."""
        return 60 / self.period


@dataclass(frozen=True)
class Cut:
    """A length to which a sound can be cut so that its beat continues at the seam."""

    frames: int  # length
    beats: int
    bpm: float  # exact for a whole number of beats over the length
    off: float  # error at the seam, as a share of a beat


@dataclass(frozen=True)
class Heard:
    """The onsets and length of a sound, computed once for all questions about its beat."""

    onsets: Floats
    seconds: float


def hear(samples: npt.NDArray[np.float32], sample_rate: int) -> Heard:
    """Compute the onsets of a sound [N]."""
    return Heard(onsets(samples, sample_rate), len(samples) / sample_rate)


def onsets(samples: npt.NDArray[np.float32], sample_rate: int) -> Floats:
    """Onset strength of a sound [N], `_RATE` values per second, without its slow changes."""
    size = 1 << max(6, round(math.log2(_WINDOW * sample_rate)))
    hop = sample_rate / _RATE
    count = max(1, int((len(samples) - 1) / hop) + 1)
    padded = np.pad(samples.astype(np.float32), (size // 2, size // 2 + 1))
    starts = np.round(np.arange(count) * hop).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)
    window = np.hanning(size).astype(np.float32)
    bands = _bands(size, sample_rate)
    levels = np.empty((count, len(bands)))
    for first in range(0, count, 4096):
        part = frames[starts[first : first + 4096]] * window
        levels[first : first + 4096] = np.abs(np.fft.rfft(part, axis=-1)) @ bands.T
    loud = np.log1p(1000 * levels / max(float(levels.max()), 1e-9))
    grown = np.maximum(loud[2:] - loud[:-2], 0).sum(-1)  # over 10 ms
    flux = np.concatenate([[0.0], grown, [0.0]])[:count]
    wide = max(1, round(0.5 * _RATE)) | 1
    slow = np.convolve(np.pad(flux, wide // 2, mode="edge"), np.ones(wide) / wide, "valid")
    return np.maximum(flux - slow, 0.0)


def tempo_of(strength: Floats, near: float = _TAPPED) -> Tempo | None:
    """The beat of a sound from its `onsets`; None if it has no steady one, or is too short. Of several
    pulses, multiples of each other, the closest to `near` bpm is the beat."""
    if np.percentile(strength, 99) < _FAINT:
        return None
    period = _period(strength, near)
    if period is None:
        return None
    clarity = float(np.abs(_pulse(strength, 0, len(strength), _MULTIPLES / period)).max())
    return Tempo(period, clarity) if clarity >= _LEAST_CLARITY else None


def cut_on_beat(
    heard: Heard, seconds: float, frame_rate: float, beats: int = 0, loop: bool = True
) -> Cut | None:
    """Find a length near `seconds`, in whole frames, at which a sound's beat continues from end to beginning.

    End and beginning are analysed separately: generated sound seldom keeps its tempo to the thousandth,
    and the ear compares what is next to the seam.

    Args:
        seconds: the wanted length.
        frame_rate: frames per second.
        beats: the wanted number of beats; the length has that many if they fit into the sound, whatever the
            seconds. 0: choose by the seconds.
        loop: also require that the strongest pulse continues at the seam.

    Returns None: there is no steady beat, or too little sound.
    """
    strength = heard.onsets
    found = tempo_of(strength, 60 * beats / seconds if beats else _TAPPED)
    if found is None or found.clarity < _CLEAR:
        return None
    if beats:  # half or double the tempo counts as the tempo
        octaves = round(math.log2(seconds / beats / found.period))
        found = Tempo(found.period * 2.0**octaves, found.clarity)
        if beats * found.period <= heard.seconds:
            seconds = beats * found.period
    pulse = _MULTIPLES / found.period
    last = round(min(seconds, len(strength) / _RATE) * _RATE)
    size = min(round(_END_SECONDS * _RATE), last // 2)
    places = np.linspace(0, last - size, max(2, round(last / _RATE))).astype(int)
    pulses = [_pulse(strength, int(at), int(at) + size, pulse) for at in places]
    first, end = pulses[0], pulses[-1]
    if min(np.abs(first).max(), np.abs(end).max()) < _LEAST_PULSE:
        return None
    steps = (one * np.conj(first) for one in pulses)
    if min(float(step.real.sum() / np.abs(step).sum()) for step in steps) < _LEAST_STEP:
        return None
    both = end * np.conj(first)
    # If beats alternate (kick and snare, or strong and weak), their number must be even.
    halves = (_pulse(strength, at, at + size, pulse[:1] / 2) for at in (0, last - size))
    unit = 2 if min(float(np.abs(half)[0]) for half in halves) >= _ALTERNATING and not beats else 1
    reach = (0.4 if beats else 1.1) * found.period
    longest = min(seconds + reach, heard.seconds)
    frames = np.arange(math.ceil(max(seconds - reach, 0) * frame_rate), longest * frame_rate)
    frames = frames[frames > found.period * frame_rate / 2]
    if not len(frames):
        return None
    turns = np.outer(frames / frame_rate, pulse)
    agreement = np.cos(2 * np.pi * turns + np.angle(both)) @ np.abs(both) / np.abs(both).sum()
    counted = frames / frame_rate / found.period
    drift = np.abs(counted - unit * np.round(counted / unit))
    away = np.abs(frames / frame_rate - seconds) / found.period
    miss = drift
    if loop:
        miss, there = _missed_beats(strength, seconds, frames / frame_rate, found.period)
        if there < _LEAST_HEARD:
            return None
    fits = (agreement >= _LEAST_AGREEMENT) & (drift <= _MOST_DRIFT) & (miss <= MOST_MISSED)
    if not fits.any():
        return None
    scores = agreement - _DISTANCE * away - _DRIFT * drift - _MISS * miss
    best = int(np.argmax(np.where(fits, scores, -math.inf)))
    length, number = int(frames[best]), max(1, round(float(counted[best])))
    return Cut(length, number, 60 * number * frame_rate / length, float(miss[best]))


def cut_on_bars(heard: Heard, seconds: float, frame_rate: float, bar: float) -> Cut | None:
    """Find the number of whole bars (below two bars: of half bars) nearest to `seconds`, in a sound whose
    bars of `bar` frames were repeated. None: it is too short, its pulse breaks there, or `bar` is 0."""
    wanted, length = seconds * frame_rate, heard.seconds * frame_rate
    unit = bar if wanted >= 2 * bar else bar / 2
    units = min(round(wanted / unit), math.floor(length / unit)) if bar else 0
    frames = round(units * unit)
    if units < 1 or (miss := missed_at(heard, frames / frame_rate)) > MOST_MISSED:
        return None
    beats = round(units * unit / bar * BEATS_IN_BAR)
    return Cut(frames, beats, 60 * beats * frame_rate / frames, miss)


def missed_at(heard: Heard, seconds: float) -> float:
    """Error at the seam if a sound is cut to `seconds`, as a share of its strongest pulse."""
    return float(_at_ends(heard, seconds)[0][0])


def pulsing(heard: Heard, seconds: float) -> float | None:
    """Strength 0..1 of the strongest pulse at both ends of a sound's first seconds; None without hits, as
    in rain and pads."""
    if np.percentile(heard.onsets, 99) < _HITS:
        return None
    return _at_ends(heard, seconds)[1]


def _at_ends(heard: Heard, seconds: float) -> tuple[Floats, float]:
    return _missed(heard.onsets, np.array([seconds]), _strongest(heard.onsets, seconds))


def cut_on_pulse(heard: Heard, seconds: float, frame_rate: float) -> int | None:
    """Find a length in frames near `seconds` at which the strongest pulse continues from end to beginning.

    For sounds without a steady beat. Arguments as for `cut_on_beat`. None: no pulse, or too little sound.
    """
    strength = heard.onsets
    length = min(seconds, heard.seconds)
    if length < 2 / _SLOWEST_PULSE or np.percentile(strength, 99) < _FAINT:
        return None
    pulse = _strongest(strength, seconds)
    reach = 0.5 / pulse + 1 / frame_rate
    longest = min(seconds + reach, heard.seconds)
    frames = np.arange(math.ceil(max(seconds - reach, 0) * frame_rate), longest * frame_rate)
    frames = frames[frames > frame_rate / pulse]
    if not len(frames):
        return None
    miss, there = _missed(strength, frames / frame_rate, pulse)
    best = int(np.argmin(miss + _AWAY * np.abs(frames / frame_rate - seconds)))
    return int(frames[best]) if there >= _LEAST_PULSING and miss[best] <= MOST_MISSED else None


def _missed_beats(
    strength: Floats, seconds: float, lengths: Floats, period: float
) -> tuple[Floats, float]:
    """As `_missed` for the strongest pulse, which may not be the beat, in shares of a beat."""
    rate = _strongest(strength, seconds)
    miss, heard = _missed(strength, lengths, rate)
    if heard < _LEAST_HEARD or rate > _FASTEST_PULSE:  # try the pulse at twice the beat
        rate = 2 / period
        miss, heard = _missed(strength, lengths, rate)
        heard = heard if heard >= _TICKING else 0.0
    many = round(rate * period)
    return miss / (many if many > 1 and abs(rate * period - many) < _WHOLE else 1), heard


def _strongest(strength: Floats, seconds: float) -> float:
    """The strongest pulse of a sound's first seconds, in Hz."""
    part = strength[: round(seconds * _RATE)]
    part = (part - part.mean()) * np.hanning(len(part))
    times = np.arange(len(part)) / _RATE

    def power(rates: Floats) -> Floats:
        found: Floats = np.abs(np.exp(-2j * np.pi * np.outer(rates, times)) @ part) ** 2
        return found

    tried = np.arange(_SLOWEST_PULSE, _FASTEST_PULSE, 0.004)
    tapped = np.exp(-((np.log2(tried / _PULSE_TAPPED) / _PULSE_OCTAVES) ** 2))
    near = tried[int(np.argmax(power(tried) * tapped))] + np.arange(-0.1, 0.1, 0.001)
    multiples = sum(power(many * near) for many in (1, 2, 4))
    return float(near[int(np.argmax(multiples))])


def _missed(strength: Floats, lengths: Floats, pulse: float) -> tuple[Floats, float]:
    """Error at the seam for each length (s) as a share of a pulse (Hz), 0 to 0.5; and the strength of the
    pulse at both ends, 0 to 1."""
    size = round(min(_SIDE_SECONDS, float(lengths.min()) / 2) * _RATE)
    rate = np.array([pulse])
    first = _pulse(strength, 0, size, rate)[0]
    ends = np.minimum(np.round(lengths * _RATE).astype(int), len(strength))
    last = np.array([_pulse(strength, int(end) - size, int(end), rate)[0] for end in ends])
    turned = np.angle(last * np.conj(first) * np.exp(2j * np.pi * pulse * lengths))
    return np.abs(turned) / (2 * np.pi), float(min(np.abs(first), np.abs(last).max()))


def _period(strength: Floats, near: float) -> float | None:
    """Seconds of the most likely beat; None if there are too few onsets."""
    likeness = autocorrelation(strength)
    shortest, longest = round(60 / _FASTEST * _RATE), round(60 / _SLOWEST * _RATE)
    longest = min(longest, len(likeness) // 4)
    if longest <= shortest + 2:
        return None
    lags = np.arange(shortest, longest + 1)
    scores = np.array([_comb(likeness, float(lag)) for lag in lags])
    tapped = np.exp(-0.5 * (np.log2(60 * _RATE / lags / near) / _OCTAVES) ** 2)
    rate = _RATE / float(lags[int(np.argmax(scores * tapped))])  # beats per second
    for within in (0.04, 0.004):
        tried = rate * (1 + np.linspace(-within, within, 41))
        pulses = _pulse(strength, 0, len(strength), np.outer(_MULTIPLES, tried).ravel())
        rate = float(tried[int(np.argmax((np.abs(pulses) ** 2).reshape(4, -1).sum(0)))])
    # If a beat has three hits and nothing at one or two, the true beat is two thirds of it.
    first, second, third, _ = np.abs(_pulse(strength, 0, len(strength), _MULTIPLES * rate))
    return 1 / (1.5 * rate if third > _THIRDS * max(first, second) else rate)


def _pulse(
    strength: Floats, start: int, stop: int, frequencies: Floats
) -> npt.NDArray[np.complex128]:
    """Complex strength, with magnitude 0..1, of pulses at frequencies (Hz) in onsets `start` up to `stop`."""
    window = np.hanning(stop - start)
    part = strength[start:stop]
    centred = (part - np.average(part, weights=window + 1e-9)) * window
    turns = np.outer(frequencies, np.arange(start, stop) / _RATE)
    found: npt.NDArray[np.complex128] = np.exp(-2j * np.pi * turns) @ centred
    return found / max(float((part * window).sum()), 1e-9)


def autocorrelation(strength: Floats) -> Floats:
    """Autocorrelation by lag, 1 at lag 0, normalised by the overlap."""
    centred = strength - strength.mean()
    size = len(centred)
    spectrum = np.fft.rfft(centred, 2 * size)
    raw = np.fft.irfft(np.abs(spectrum) ** 2)[:size]
    overlap = np.arange(size, 0, -1) / size
    result: Floats = raw / np.maximum(overlap, 0.25) / max(float(raw[0]), 1e-12)
    return result


def _comb(likeness: Floats, lag: float) -> float:
    """Mean likeness at a lag and its first multiples."""
    places = lag * np.arange(1, 5)
    places = places[places < 0.75 * len(likeness)]
    return float(np.mean([_near(likeness, place) for place in places])) if len(places) else 0.0


def _near(likeness: Floats, place: float) -> float:
    """The highest likeness within a hundredth of a second."""
    at = round(place)
    return float(likeness[max(at - 2, 0) : at + 3].max(initial=-1.0))


def _bands(size: int, sample_rate: int) -> npt.NDArray[np.float64]:
    """Triangles on the mel scale [bands, size // 2 + 1] from 30 Hz up."""
    top = min(sample_rate / 2, 11_000.0)
    mel = np.linspace(_mel(30.0), _mel(top), _BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    places = np.arange(size // 2 + 1) * sample_rate / size
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (places - low) / (middle - low), (high - places) / (high - middle)
    made = np.maximum(np.minimum(rising, falling), 0)
    return made[made.sum(-1) > 0]


def _mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)
