"""Loudness as heard (ITU-R BS.1770-4), and a limiter that keeps peaks under a ceiling.

Gain alone cannot give drums the loudness of a pad: their peaks meet the ceiling first. So the gain
is raised and the peaks are held by the limiter until the loudness is met, or the limiter would have
to do more than it may (`max_limiting`): then loudness gives way.

The filters are numpy's: scipy.signal alone takes as long to import as a short clip to decode.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from magnet_cli.audio.sound import SILENCE, Samples
from magnet_cli.settings import OutputConfig

Decibels = npt.NDArray[np.float64]

TOLERANCE = 0.1  # LU: as near to the target as normalisation comes
HARD_WORK = 6.0  # dB of reduction from which the limiter can be heard
LONG_SILENCE = 2.0  # seconds from which silence inside a clip is worth a remark

_CELL = 0.1  # seconds that are silent or not as a whole
_BLOCK = 0.4  # seconds: the meter's block, the shortest sound it measures
_LOOK_AHEAD = 0.005  # seconds over which the gain falls before a peak
_RELEASES = (120.0, 400.0, 1500.0)  # dB per second at which the gain recovers: gentle ones first
_ROUNDS = 15
_SHORT = 0.5  # LU by which a loudness is short of its target, and that is said
TRUE_PEAK_SIDE = 16  # samples on each side that a level between samples may depend on
_HALF = 10  # those that it does depend on


@dataclass(frozen=True)
class Loudness:
    """What normalising did to a sound.

    Attributes:
        before, after: LUFS; -inf for silence.
        gain: dB by which everything was raised.
        reduction: dB by which the limiter lowered the highest peak at most; 0 where it was not needed.
        peak: the highest sample afterwards, dBFS.
        silences: (from, to) in seconds where a finished sound is silent for long (`Silences`).
    """

    before: float
    after: float
    gain: float
    reduction: float
    peak: float
    silences: tuple[tuple[float, float], ...] = ()

    @property
    def worked_hard(self) -> bool:
        """The limiter did so much that it may be heard."""
        return self.reduction > HARD_WORK

    @property
    def silent(self) -> bool:
        """There is nothing to hear, and nothing was made louder."""
        return self.peak < SILENCE


def measure(samples: Samples, sample_rate: int) -> float:
    """Integrated loudness of [C, N] in LUFS; -inf for silence.

    A sound shorter than the meter's block is measured as if it were repeated. Of more than five
    channels, which the standard's weights do not cover, the first five are heard.
    """
    if samples.shape[1] == 0:
        return -math.inf
    block = math.ceil(_BLOCK * sample_rate) + 1
    if samples.shape[1] < block:
        samples = np.tile(samples, math.ceil(block / samples.shape[1]))
    meter = Meter(len(samples), sample_rate)
    meter.add(samples)
    return meter.loudness()


@dataclass(frozen=True)
class Level:
    """What can be measured of any sound.

    Attributes:
        length: samples of each channel.
        invalid: how many values of all channels are not numbers.
        lufs, peak: LUFS and dBFS, -inf for silence; None where values are not numbers.
        true_peak: the same between the samples, dBTP.
    """

    length: int
    invalid: int
    lufs: float | None
    peak: float | None
    true_peak: float | None


def level_of(blocks: Iterable[Samples], channels: int, sample_rate: int) -> Level:
    """The level of [channels, n] each, in the memory of one."""
    meter, beginning = Meter(channels, sample_rate), np.zeros((channels, 0), np.float32)
    shortest = math.ceil(_BLOCK * sample_rate) + 1
    length = invalid = 0
    loudest, between = 0.0, _TruePeak(channels)
    for block in blocks:
        length += block.shape[1]
        invalid += int(block.size - np.isfinite(block).sum())
        if not invalid:
            meter.add(block)
            loudest = max(loudest, float(np.abs(block).max(initial=0.0)))
            between.add(block)
        if beginning.shape[1] < shortest:
            beginning = np.concatenate([beginning, block[:, :shortest]], axis=1)
    if invalid:
        return Level(length, invalid, None, None, None)
    lufs = measure(beginning, sample_rate) if length < shortest else meter.loudness()
    return Level(length, 0, lufs, decibels(loudest), decibels(between.found()))


class _TruePeak:
    """The highest amplitude of a sound that comes in pieces, between its samples, too."""

    def __init__(self, channels: int) -> None:
        self._tail = np.zeros((channels, 0), np.float32)  # what the next piece begins after
        self._highest, self._begun = 0.0, False

    def add(self, samples: Samples) -> None:
        """Hear the next [C, n]."""
        side = TRUE_PEAK_SIDE
        whole = np.concatenate([self._tail, samples], axis=1)
        if whole.shape[1] > 2 * side:  # what is near an end depends on what comes there
            heard = true_levels(whole)[side if self._begun else 0 : -side]
            self._highest, self._begun = max(self._highest, float(heard.max())), True
        self._tail = whole[:, -2 * side :]

    def found(self) -> float:
        """The amplitude of all that was heard."""
        last = true_levels(self._tail)[TRUE_PEAK_SIDE if self._begun else 0 :]
        return max(self._highest, float(last.max(initial=0.0)))


class Meter:
    """Integrated loudness (ITU-R BS.1770-4) of a sound that comes in pieces.

    The same numbers as pyloudnorm's, from sums over tenths of a second: the blocks of the standard
    are four of them.
    """

    def __init__(self, channels: int, sample_rate: int) -> None:
        self._rate = sample_rate
        self._heard = min(channels, 5)
        self._filters = [_Biquad(*made, self._heard) for made in _k_weighting(sample_rate)]
        self._cells: list[npt.NDArray[np.float64]] = []  # sums of squares [channels]
        self._open = np.zeros(self._heard)  # of the tenth that is not over
        self._length = 0

    def add(self, samples: Samples) -> None:
        """Hear the next [C, n]."""
        heard = samples[: self._heard].astype(np.float64)
        for stage in self._filters:
            heard = stage(heard)
        squares = np.square(heard)
        done = 0
        while done < squares.shape[1]:
            end = self._boundary(len(self._cells) + 1) - self._length
            part = squares[:, done : min(end, squares.shape[1])]
            self._open = self._open + part.sum(-1)
            done += part.shape[1]
            if done == end:
                self._cells.append(self._open)
                self._open = np.zeros(self._heard)
        self._length += squares.shape[1]

    def loudness(self) -> float:
        """LUFS so far, of a sound not shorter than a block; -inf for silence."""
        cells = np.stack([*self._cells, self._open, *[np.zeros(self._heard)] * 4])
        blocks = round((self._length / self._rate - 0.4) / 0.1) + 1
        power = sum(cells[i : i + blocks] for i in range(4)) / (0.4 * self._rate)
        weighted = power @ np.array([1.0, 1.0, 1.0, 1.41, 1.41])[: self._heard]
        with np.errstate(divide="ignore"):
            levels = -0.691 + 10 * np.log10(weighted)
        audible = levels >= -70
        if not audible.any():
            return -math.inf
        gate = -0.691 + 10 * math.log10(weighted[audible].mean()) - 10
        return float(-0.691 + 10 * math.log10(weighted[audible & (levels > gate)].mean()))

    def _boundary(self, cell: int) -> int:
        return int(0.4 * (0.25 * cell) * self._rate)  # rounded as pyloudnorm rounds


Coefficients = tuple[tuple[float, float, float], tuple[float, float]]


def _k_weighting(sample_rate: int) -> list[Coefficients]:
    """The two filters of BS.1770, for any rate: b0, b1, b2 and a1, a2 of each, with a0 at 1.

    A shelf that raises the treble by 4 dB, and a high-pass, of Robert Bristow-Johnson's "Cookbook
    formulae for audio equalizer biquad filter coefficients", with pyloudnorm's frequencies.
    """
    w, q = 2 * math.pi * 1500 / sample_rate, 1 / math.sqrt(2)
    gain, cos = 10 ** (4 / 40), math.cos(w)
    more, less, slope = gain + 1, gain - 1, 2 * math.sqrt(gain) * math.sin(w) / (2 * q)
    a0 = more - less * cos + slope
    shelf = (
        (
            gain * (more + less * cos + slope) / a0,
            -2 * gain * (less + more * cos) / a0,
            gain * (more + less * cos - slope) / a0,
        ),
        (2 * (less - more * cos) / a0, (more - less * cos - slope) / a0),
    )
    w, q = 2 * math.pi * 38 / sample_rate, 0.5
    cos, alpha = math.cos(w), math.sin(w) / (2 * q)
    a0, b0 = 1 + alpha, (1 + cos) / 2
    high_pass = ((b0 / a0, -2 * b0 / a0, b0 / a0), (-2 * cos / a0, (1 - alpha) / a0))
    return [shelf, high_pass]


class _Biquad:
    """A filter of second order over a sound that comes in pieces: y = b * x - a * y before.

    A recursion goes sample by sample. Here a piece becomes a table of about as many rows as columns:
    all rows are begun from silence at once, column by column, and what their true beginnings add is
    a sum of two curves, as the filter is linear.
    """

    def __init__(
        self, b: tuple[float, float, float], a: tuple[float, float], channels: int
    ) -> None:
        self._b, self._a = b, a
        self._x = np.zeros((channels, 2))  # the last two samples that came
        self._y = np.zeros((channels, 2))  # and what became of them

    def __call__(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The next [C, n], filtered."""
        channels, length = x.shape
        (b0, b1, b2), (a1, a2) = self._b, self._a
        columns = max(2, math.isqrt(length))
        rows = -(-length // columns)
        x = np.concatenate([self._x, x], axis=1)
        table = np.zeros((channels, rows * columns))
        table[:, :length] = b0 * x[:, 2:] + b1 * x[:, 1:-1] + b2 * x[:, :-2]
        # Turned, so that a step is one operation; two samples of silence before each row. Two rows
        # more for the curves: what follows from a 1 in either place of that silence.
        y = np.zeros((2 + columns, channels * rows + 2))
        y[2:, :-2] = table.reshape(-1, columns).T
        y[0, -2] = y[1, -1] = 1.0
        for step in range(2, 2 + columns):
            y[step] -= a1 * y[step - 1] + a2 * y[step - 2]
        made, curves = y[2:, :-2].T.reshape(channels, rows, columns), y[2:, -2:].T
        # How each row begins: as the one before it ends, which is its own end and what its beginning
        # has become, and so on; twice as far back each time.
        begun = np.concatenate([self._y[:, None], made[:, :-1, -2:]], axis=1)
        reach, become = 1, curves[:, -2:]
        while reach < rows:
            begun[:, reach:] += begun[:, :-reach] @ become
            reach, become = 2 * reach, become @ become
        made = made + begun[..., :1] * curves[0] + begun[..., 1:] * curves[1]
        made = made.reshape(channels, -1)[:, :length]
        self._x, self._y = x[:, -2:], np.concatenate([self._y, made], axis=1)[:, -2:]
        return made


def peak_of(samples: Samples) -> float:
    """The highest sample in dBFS; -inf for silence."""
    return decibels(float(np.abs(samples).max(initial=0.0)))


def settle(
    attempt: Callable[[float, float], float],
    before: float,
    lufs: float,
    most: float,
    releases: Sequence[float],
) -> tuple[float, float, float]:
    """Find the gain that meets a loudness through the limiter.

    Args:
        attempt: applies a gain in dB and limits with a release in dB per second; gives the LUFS.
        before: LUFS without any gain.
        lufs: the loudness to meet, within TOLERANCE.
        most: the highest gain in dB that may be tried.
        releases: of `releases_for`.

    Returns:
        gain, release and loudness of the last attempt, which is the one to keep.
    """
    for release in releases:
        gain = min(lufs - before, most)
        for _ in range(_ROUNDS):
            after = attempt(gain, release)
            more = min(lufs - after, most - gain)
            if abs(more) <= TOLERANCE:
                break
            # While the limiter takes from each decibel, one and a half for each that is missing
            # meets the target sooner; where it takes nothing, this still halves what is missing.
            gain += min(1.5 * more, most - gain)
        if abs(lufs - after) <= TOLERANCE:
            break
    return gain, release, after


def releases_for(max_limiting: float) -> tuple[float, ...]:
    """The releases that are tried one after the other. A limiter that takes little recovers gently:
    a fast one gains a few tenths of a decibel, and follows the waves of a bass."""
    return _RELEASES[:1] if max_limiting <= HARD_WORK else _RELEASES


def levels(samples: Samples) -> npt.NDArray[np.float64]:
    """The highest amplitude at each sample of [C, N]."""
    return np.abs(samples).max(axis=0, initial=0.0).astype(np.float64)


def true_levels(samples: Samples) -> npt.NDArray[np.float64]:
    """The highest amplitude of [C, N] at each sample and on the way to its neighbours: what a player
    makes of them, at four times the rate (ITU-R BS.1770-4, annex 2)."""
    highest = levels(samples)
    length = samples.shape[1]
    for channel in samples.astype(np.float64) if length else ():
        for taps in _between():
            # Of a fraction of the way from each sample to the next.
            passed = np.abs(np.convolve(channel, taps)[_HALF : _HALF + length])
            np.maximum(highest, passed, out=highest)
            np.maximum(highest[1:], passed[:-1], out=highest[1:])
    return highest


@functools.cache
def _between() -> list[npt.NDArray[np.float64]]:
    """A filter for each quarter of the way between two samples: a windowed sinc."""
    places = np.arange(_HALF, -_HALF, -1)  # of the first tap: it meets the sample ten ahead
    filters = []
    for quarter in (0.25, 0.5, 0.75):
        away = places - quarter
        window = np.i0(5.0 * np.sqrt(np.clip(1 - (away / _HALF) ** 2, 0, None))) / np.i0(5.0)
        filters.append(np.sinc(away) * window)
    return filters


def reduction_needed(level: npt.NDArray[np.float64], peak: float) -> Decibels:
    """For each sample of `levels` or `true_levels` [N], the dB by which it is above the ceiling `peak`;
    0 where it is not."""
    needed: Decibels = 20 * np.log10(np.maximum(level / 10 ** (peak / 20), 1.0))
    return needed


def look_ahead(sample_rate: int) -> int:
    """Samples over which the gain falls before a peak: what `envelope` sees to either side."""
    return max(1, round(_LOOK_AHEAD * sample_rate))


def envelope(
    needed: Decibels, sample_rate: int, release: float, before: float = 0.0
) -> tuple[Decibels, Decibels]:
    """The reduction in dB that a limiter makes of what is needed.

    What each sample needs is released at a fixed rate in dB, then looked up ahead (a maximum over
    the window to come) and smoothed (a mean over the window before). The mean runs over values that
    each saw this sample, so it is never less than the sample needs.

    Args:
        needed: [N], of `reduction_needed`.
        release: dB per second.
        before: what was still to be released just before the first sample.

    Returns:
        the reduction [N], and what is to be released at each sample [N].
    """
    fall = np.arange(1, len(needed) + 1) * (release / sample_rate)
    highest = np.maximum.accumulate(np.maximum(needed + fall, before))
    released = np.maximum(highest - fall, 0.0)
    width = look_ahead(sample_rate)
    ahead = _highest(released, width)
    sums = np.cumsum(np.concatenate([[0.0], np.full(width - 1, ahead[0]), ahead]))
    return (sums[width:] - sums[:-width]) / width, released


def _highest(values: Decibels, width: int) -> Decibels:
    """The highest of each of [N] values and the `width` - 1 after it; the last one goes on at the end.

    By the running maxima from both ends of blocks of `width`: a window lies in two of them
    (van Herk 1992, Gil and Werman 1993).
    """
    blocks = -(-(len(values) + width - 1) // width)
    padded = np.pad(values, (0, blocks * width - len(values)), "edge").reshape(blocks, width)
    to_end = np.maximum.accumulate(padded[:, ::-1], axis=1)[:, ::-1].ravel()
    from_start = np.maximum.accumulate(padded, axis=1).ravel()
    highest: Decibels = np.maximum(to_end[: len(values)], from_start[width - 1 :][: len(values)])
    return highest


def hold(samples: Samples, reduction: Decibels, peak: float) -> Samples:
    """[C, N] lowered by `reduction` [N] dB, no sample above the ceiling `peak`."""
    held = samples * (10 ** (-reduction / 20)).astype(np.float32)
    # Rounding leaves it above the ceiling by some parts in ten million.
    bound = np.nextafter(np.float32(10 ** (peak / 20)), np.float32(0))
    return np.clip(held, -bound, bound)


class Silences:
    """The long silences of a sound that comes in pieces."""

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._cell = sample_rate, max(1, round(_CELL * sample_rate))
        self._peaks: list[float] = []  # of each cell
        self._length = 0

    def add(self, samples: Samples) -> None:
        """Hear the next [C, n]."""
        peaks = np.abs(samples).max(axis=0, initial=0.0)
        open_ = self._length % self._cell
        if open_ and len(peaks):
            rest = self._cell - open_
            self._peaks[-1] = max(self._peaks[-1], float(peaks[:rest].max()))
            peaks = peaks[rest:]
        if len(peaks):
            starts = np.arange(0, len(peaks), self._cell)
            self._peaks += np.maximum.reduceat(peaks, starts).tolist()
        self._length += samples.shape[1]

    def found(self) -> tuple[tuple[float, float], ...]:
        """(from, to) in seconds of each stretch longer than LONG_SILENCE whose peak is below SILENCE."""
        quiet = np.array([False, *(np.array(self._peaks) < 10 ** (SILENCE / 20)), False])
        edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
        spans = np.minimum(edges * self._cell, self._length)
        longer = spans[spans[:, 1] - spans[:, 0] > LONG_SILENCE * self._rate]  # in samples: exact
        return tuple((float(a), float(b)) for a, b in longer / self._rate)


def remark(loudness: Loudness, output: OutputConfig, can_hang: bool = False) -> str:
    """What a user should be told of the loudness, in sentences; empty where there is nothing to tell.
    `can_hang`: it was written step by step, and nothing kept it from going on in silence."""
    first = "--frequency-penalty 0.15, another --seed" if can_hang else "another --seed"
    if loudness.silent:
        peak = f"The clip is silent (peak {loudness.peak:.0f} dBFS)"
        return f"{peak}: {first}, a longer prompt or a higher --temperature may help."
    return " ".join(filter(None, (_gaps(loudness, first), _hard_work(loudness, output))))


def _gaps(loudness: Loudness, first: str) -> str:
    if not loudness.silences:
        return ""
    spans = " and ".join(f"from {start:.1f} to {stop:.1f} s" for start, stop in loudness.silences)
    return f"The clip is silent {spans}: {first.replace(', ', ' or ')} may help."


def _hard_work(loudness: Loudness, output: OutputConfig) -> str:
    if not output.normalize or not loudness.worked_hard:
        return ""
    took = f"The limiter worked hard ({loudness.reduction:.0f} dB)"
    return f"{took}: a lower --max-limiting would be gentler."


def is_held_back(loudness: Loudness, output: OutputConfig) -> bool:
    """Whether the clip stayed quieter than was asked for, as its peaks leave no more room."""
    short = output.lufs - loudness.after
    return output.normalize and not loudness.silent and _SHORT < short < math.inf


def more_room(output: OutputConfig) -> str:
    """What would make a clip louder that is held back, in words."""
    if output.max_limiting >= 12:
        return "a lower --lufs is what it can reach"
    return "--max-limiting 12 allows more"


def decibels(amplitude: float) -> float:
    """The level of an amplitude in dBFS; -inf for none."""
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
