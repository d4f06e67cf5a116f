"""The beat of a sound: how long its period is, whether it has one at all, and where a loop can be cut on it.

Onsets are where the spectrum grows (spectral flux in bands of mel, as in Boeck and Widmer, 2013). A beat is a
period at which the onsets resemble themselves: the peak of their autocorrelation, weighted towards what
people tap (Ellis, 2007). Period and phase are then those of the pulse and its first multiples in the
onsets' Fourier transform (as in the tempograms of Grosche and Mueller, 2011), which knows no grid:
autocorrelation prefers whole frames of the codec, in whose rhythm all that it makes flickers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_RATE = 200.0  # onset values per second
_WINDOW = 0.046  # seconds of a spectrum
_BANDS = 40
_SLOWEST, _FASTEST = 50.0, 210.0  # bpm
_TAPPED = 110.0  # bpm that people tap most
_OCTAVES = 0.9  # standard deviation of that in octaves
_FAINT = 1.0  # nats over all bands within 10 ms: what grows less is no onset
_MULTIPLES: Floats = np.arange(1.0, 5.0)  # of the beat, of which its period and phase are taken
_THIRDS = 1.5  # times the first and second multiple: so strong a third is another beat's second
_LEAST_CLARITY = 0.15  # of a beat over the whole sound; below there is none

# A loop's ends are heard for so long. They are on one beat if the whole is clear, both have a pulse whose
# multiples agree, nothing between is out of step, and so many beats fit between them as the period says.
# Chosen on 60 loops of nano, tried on others: docs/loops.md.
_END_SECONDS = 3.0
_CLEAR, _LEAST_PULSE, _LEAST_AGREEMENT, _LEAST_STEP, _MOST_DRIFT = 0.6, 0.5, 0.7, 0.2, 0.1
# What a beat of distance, and a beat of drift, count against agreement.
_DISTANCE, _DRIFT, _MISS = 0.08, 0.5, 3.0
# Every second beat is another one than those between: so much of a pulse at half the tempo.
_ALTERNATING = 0.09

# The strongest pulse within what people may tap, which need not be a beat, and by how much of it the seam
# may miss. Its phase is that of so many seconds on either side of the seam.
_SLOWEST_PULSE, _FASTEST_PULSE, _PULSE_TAPPED, _PULSE_OCTAVES = 0.75, 3.0, 2.0, 0.8  # Hz
_SIDE_SECONDS = 4.0
MOST_MISSED = 0.05
_LEAST_HEARD = 0.15  # of it at either end of what has a beat
_LEAST_PULSING = 0.12  # the same of what has no beat; rain and pads have less
# Nats within 10 ms, of the strongest onsets: drums have 13 to 70, rain and pads 3 to 8.
_HITS = 12.0
_TICKING = 0.85  # the same of what comes twice in a beat
_WHOLE = 0.05  # so near to a whole number of pulses is a beat of so many
_AWAY = 0.02  # what a second of distance counts against what is missed


@dataclass(frozen=True)
class Tempo:
    """A steady beat."""

    period: float  # seconds
    clarity: float  # 0..1: how much of the onsets is a pulse of this period

    @property
    def bpm(self) -> float:
        """Beats per minute."""
        return 60 / self.period


@dataclass(frozen=True)
class Cut:
    """Where a sound can be cut so that its beat goes on into its beginning."""

    frames: int  # its length
    beats: int
    bpm: float  # over its length, for which a whole number of beats is exact
    off: float  # by how much of a beat its end and its beginning miss each other


@dataclass(frozen=True)
class Heard:
    """A sound as its beat is found in it: heard once, whatever is asked of it then."""

    onsets: Floats
    seconds: float


def hear(samples: npt.NDArray[np.float32], sample_rate: int) -> Heard:
    """The onsets of a sound [N]."""
    return Heard(onsets(samples, sample_rate), len(samples) / sample_rate)


def onsets(samples: npt.NDArray[np.float32], sample_rate: int) -> Floats:
    """How much the spectrum of a sound [N] grows, `_RATE` times a second, without its slow part."""
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
    """The beat of a sound by its `onsets`; None where it has none that is steady, or is too short.

    Args:
        strength: of the sound.
        near: bpm that it is thought to have: of its pulses, which are multiples of each other, that
            is the beat which is nearest.
    """
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
    """The length near `seconds`, in whole frames, at which a sound meets its own beat again.

    The end there and the beginning are heard for themselves: what is generated seldom keeps one
    tempo to the thousandth, and the ear compares what is next to the seam.

    Args:
        seconds: what the length is to be near to.
        frame_rate: Hz, of the frames that it is a whole number of.
        beats: how many are wanted in it; the length is of as many where the beat is fast enough for
            them to fit, whatever that makes of the seconds. 0: those that come nearest to the seconds.
        loop: what pulses most in it is to meet itself at the seam, too.

    Returns:
        None where there is no steady beat, or too little sound to know.
    """
    strength = heard.onsets
    found = tempo_of(strength, 60 * beats / seconds if beats else _TAPPED)
    if found is None or found.clarity < _CLEAR:
        return None
    if beats:  # who plays at half the tempo plays at the tempo
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
    # Of beats that take turns (kick and snare, or a beat and the weaker one between) it takes an even number.
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


def missed_at(heard: Heard, seconds: float) -> float:
    """By how much of its strongest pulse the end of a sound's first seconds misses its beginning."""
    return float(_at_ends(heard, seconds)[0][0])


def pulsing(heard: Heard, seconds: float) -> float | None:
    """How much of its strongest pulse there is at either end of a sound's first seconds, 0 to 1.

    Returns:
        None where there are no hits that could keep a beat, as in rain and pads.
    """
    if np.percentile(heard.onsets, 99) < _HITS:
        return None
    return _at_ends(heard, seconds)[1]


def _at_ends(heard: Heard, seconds: float) -> tuple[Floats, float]:
    return _missed(heard.onsets, np.array([seconds]), _strongest(heard.onsets, seconds))


def cut_on_pulse(heard: Heard, seconds: float, frame_rate: float) -> int | None:
    """The length in frames near `seconds` at which the strongest pulse of a sound meets itself again.

    For what has no steady beat: it may have lost it in between, or never have had one. Arguments as of
    `cut_on_beat`.

    Returns:
        None where nothing pulses, or there is too little sound to know.
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
    """As `_missed` of the strongest pulse, which may be the beat or not, as shares of a beat."""
    rate = _strongest(strength, seconds)
    miss, heard = _missed(strength, lengths, rate)
    if heard < _LEAST_HEARD or rate > _FASTEST_PULSE:  # what comes twice in a beat, or nothing
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
    """By how much of a pulse (Hz) each length (s) misses, from its end to its beginning, 0 to 0.5.
    And how much of a pulse there is at either end, 0 to 1."""
    size = round(min(_SIDE_SECONDS, float(lengths.min()) / 2) * _RATE)
    rate = np.array([pulse])
    first = _pulse(strength, 0, size, rate)[0]
    ends = np.minimum(np.round(lengths * _RATE).astype(int), len(strength))
    last = np.array([_pulse(strength, int(end) - size, int(end), rate)[0] for end in ends])
    turned = np.angle(last * np.conj(first) * np.exp(2j * np.pi * pulse * lengths))
    return np.abs(turned) / (2 * np.pi), float(min(np.abs(first), np.abs(last).max()))


def _period(strength: Floats, near: float) -> float | None:
    """Seconds of the beat that onsets have most likely, if any; None: they are too few."""
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
    # Three hits in what was taken for a beat, and nothing at one or two, are hits of a beat of two thirds.
    first, second, third, _ = np.abs(_pulse(strength, 0, len(strength), _MULTIPLES * rate))
    return 1 / (1.5 * rate if third > _THIRDS * max(first, second) else rate)


def _pulse(
    strength: Floats, start: int, stop: int, frequencies: Floats
) -> npt.NDArray[np.complex128]:
    """How much of the onsets from `start` to `stop` is a pulse of each frequency (Hz), 0 to 1; its phase."""
    window = np.hanning(stop - start)
    part = strength[start:stop]
    centred = (part - np.average(part, weights=window + 1e-9)) * window
    turns = np.outer(frequencies, np.arange(start, stop) / _RATE)
    found: npt.NDArray[np.complex128] = np.exp(-2j * np.pi * turns) @ centred
    return found / max(float((part * window).sum()), 1e-9)


def autocorrelation(strength: Floats) -> Floats:
    """How alike a signal and itself later are, by lag: 1 at none; of what overlaps, not of all."""
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
