"""Perceived loudness (ITU-R BS.1770-4), and a limiter that keeps peaks under a ceiling.

Gain alone cannot make drums as loud as a pad, as their peaks reach the ceiling first. So gain is raised and
the limiter holds the peaks until the target loudness is met, or until the limiter would exceed
`max_limiting`; then the sound stays quieter.

The filters use numpy, as importing scipy.signal takes as long as decoding a short clip.
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

TOLERANCE = 0.1  # LU from the target
HARD_WORK = 6.0  # dB of reduction above which the limiter may be audible
LONG_SILENCE = 2.0  # seconds above which silence in a clip is reported

_CELL = 0.1  # seconds: resolution for finding silence
_BLOCK = 0.4  # seconds: the meter's block, the shortest sound it measures
_LOOK_AHEAD = 0.005  # seconds over which the gain falls before a peak
_RELEASES = (120.0, 400.0, 1500.0)  # dB per second at which the gain recovers, gentle ones first
_ROUNDS = 15
_SHORT = 0.5  # LU below the target above which it is reported
TRUE_PEAK_SIDE = 16  # upper bound of the samples on each side that a true level depends on
_HALF = 10  # samples on each side that it does depend on


@dataclass(frozen=True)
class Loudness:
    """The effect of normalisation on a sound.

    Attributes:
        before, after: LUFS; -inf for silence.
        gain: gain in dB before the limiter.
        reduction: the limiter's maximum reduction in dB; 0 if none.
        peak: the highest sample afterwards, in dBFS.
        silences: (from, to) in seconds of long silences in the finished sound (`Silences`).
    """

    before: float
    after: float
    gain: float
    reduction: float
    peak: float
    silences: tuple[tuple[float, float], ...] = ()

    @property
    def worked_hard(self) -> bool:
        """Whether the limiter may be audible."""
        return self.reduction > HARD_WORK

    @property
    def silent(self) -> bool:
        """Whether the sound is silent, and so was not amplified."""
        return self.peak < SILENCE


def measure(samples: Samples, sample_rate: int) -> float:
    """Integrated loudness of [C, N] in LUFS; -inf for silence.

    A sound shorter than the meter's block is measured as if repeated. Only the first five channels count, as
    the standard has no weights for more.
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
    """Measurements of any sound.

    Attributes:
        length: samples per channel.
        invalid: number of NaN and infinite values in all channels.
        lufs, peak: LUFS and dBFS, -inf for silence; None if there are invalid values.
        true_peak: the peak including between samples, in dBTP; None also if it was not asked for.
    """

    length: int
    invalid: int
    lufs: float | None
    peak: float | None
    true_peak: float | None


def level_of(
    blocks: Iterable[Samples], channels: int, sample_rate: int, true_peaks: bool = True
) -> Level:
    """Measure blocks [channels, n], with one of them in memory; `true_peaks` take as long as the rest."""
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
            if true_peaks:
                between.add(block)
        if beginning.shape[1] < shortest:
            beginning = np.concatenate([beginning, block[:, :shortest]], axis=1)
    if invalid:
        return Level(length, invalid, None, None, None)
    lufs = measure(beginning, sample_rate) if length < shortest else meter.loudness()
    true_peak = decibels(between.found()) if true_peaks else None
    return Level(length, 0, lufs, decibels(loudest), true_peak)


class _TruePeak:
    """The highest amplitude of a sound given in blocks, including between samples."""

    def __init__(self, channels: int) -> None:
        self._tail = np.zeros((channels, 0), np.float32)  # end of the previous block
        self._highest, self._begun = 0.0, False

    def add(self, samples: Samples) -> None:
        """Process the next [C, n]."""
        side = TRUE_PEAK_SIDE
        whole = np.concatenate([self._tail, samples], axis=1)
        if whole.shape[1] > 2 * side:  # levels near the end depend on the next block
            heard = true_levels(whole)[side if self._begun else 0 : -side]
            self._highest, self._begun = max(self._highest, float(heard.max())), True
        self._tail = whole[:, -2 * side :]

    def found(self) -> float:
        """The amplitude so far."""
        last = true_levels(self._tail)[TRUE_PEAK_SIDE if self._begun else 0 :]
        return max(self._highest, float(last.max(initial=0.0)))


class Meter:
    """Integrated loudness (ITU-R BS.1770-4) of a sound given in blocks.

    Gives the same values as pyloudnorm, from sums over tenths of a second, four of which are a block of the
    standard.
    """

    def __init__(self, channels: int, sample_rate: int) -> None:
        self._rate = sample_rate
        self._heard = min(channels, 5)
        self._filters = [_Biquad(*made, self._heard) for made in _k_weighting(sample_rate)]
        self._cells: list[npt.NDArray[np.float64]] = []  # sums of squares [channels]
        self._open = np.zeros(self._heard)  # of the unfinished tenth
        self._length = 0

    def add(self, samples: Samples) -> None:
        """Process the next [C, n]."""
        heard = samples[: self._heard].astype(np.float64)
        for stage in self._filters:
            heard = stage(heard)
        squares = np.square(heard)
        done = 0
        while done < squares.shape[1]:
            cell = int(0.4 * (0.25 * (len(self._cells) + 1)) * self._rate)  # as pyloudnorm rounds
            end = cell - self._length
            part = squares[:, done : min(end, squares.shape[1])]
            self._open = self._open + part.sum(-1)
            done += part.shape[1]
            if done == end:
                self._cells.append(self._open)
                self._open = np.zeros(self._heard)
        self._length += squares.shape[1]

    def loudness(self) -> float:
        """LUFS so far, for at least one block; -inf for silence."""
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


Coefficients = tuple[tuple[float, float, float], tuple[float, float]]


def _k_weighting(sample_rate: int) -> list[Coefficients]:
    """The two filters of BS.1770 for any sample rate: (b0, b1, b2) and (a1, a2) of each, with a0 = 1.

    A shelf that raises treble by 4 dB, and a high-pass, from Robert Bristow-Johnson's "Cookbook formulae for
    audio equalizer biquad filter coefficients", with pyloudnorm's frequencies.
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
    # Near the highest frequency of a sound, or above it, a filter would be unstable.
    return [f for at, f in ((1500, shelf), (38, high_pass)) if at < 0.4 * sample_rate]


class _Biquad:
    """A second-order filter for a sound given in blocks: y[n] = sum(b * x) - sum(a * y).

    To avoid a recursion sample by sample, a block becomes a table with about as many rows as columns. All
    rows are filtered at once, column by column, from silence; the effect of their true initial state is
    then added as a sum of two curves, as the filter is linear.
    """

    def __init__(
        self, b: tuple[float, float, float], a: tuple[float, float], channels: int
    ) -> None:
        self._b, self._a = b, a
        self._x = np.zeros((channels, 2))  # the last two inputs
        self._y = np.zeros((channels, 2))  # the last two outputs

    def __call__(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Filter the next [C, n]."""
        channels, length = x.shape
        (b0, b1, b2), (a1, a2) = self._b, self._a
        columns = max(2, math.isqrt(length))
        rows = -(-length // columns)
        x = np.concatenate([self._x, x], axis=1)
        table = np.zeros((channels, rows * columns))
        table[:, :length] = b0 * x[:, 2:] + b1 * x[:, 1:-1] + b2 * x[:, :-2]
        # Transposed, so that a step is one operation, with two samples of silence before each row. Two more
        # rows give the curves: the response to a 1 in either place of that silence.
        y = np.zeros((2 + columns, channels * rows + 2))
        y[2:, :-2] = table.reshape(-1, columns).T
        y[0, -2] = y[1, -1] = 1.0
        for step in range(2, 2 + columns):
            y[step] -= a1 * y[step - 1] + a2 * y[step - 2]
        made, curves = y[2:, :-2].T.reshape(channels, rows, columns), y[2:, -2:].T
        # A row's initial state is the end of the row before, which depends on that row's initial state,
        # and so on; resolve these with a doubling reach.
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
    """Find the gain with which the limited sound reaches a loudness.

    Args:
        attempt: applies a gain in dB, limits with a release in dB per second, and returns the LUFS.
        before: LUFS without gain.
        lufs: the target, to be met within TOLERANCE.
        most: maximum gain in dB.
        releases: from `releases_for`.

    Returns:
        gain, release and loudness of the last attempt, which is the one to use.
    """
    for release in releases:
        gain = min(lufs - before, most)
        for _ in range(_ROUNDS):
            after = attempt(gain, release)
            more = min(lufs - after, most - gain)
            if abs(more) <= TOLERANCE:
                break
            # While the limiter reduces the effect of gain, 1.5 times the missing gain converges faster;
            # without limiting, this still halves the error.
            gain += min(1.5 * more, most - gain)
        if abs(lufs - after) <= TOLERANCE:
            break
    return gain, release, after


def releases_for(max_limiting: float) -> tuple[float, ...]:
    """The releases to try in order. With little limiting only the gentle one is used: fast ones gain a few
    tenths of a dB, but follow the waveform of a bass."""
    return _RELEASES[:1] if max_limiting <= HARD_WORK else _RELEASES


def levels(samples: Samples) -> npt.NDArray[np.float64]:
    """Highest amplitude of [C, N] over channels, for each sample [N]."""
    return np.abs(samples).max(axis=0, initial=0.0).astype(np.float64)


def true_levels(samples: Samples) -> npt.NDArray[np.float64]:
    """Highest amplitude of [C, N] at each sample and between it and its neighbours, as a player reconstructs
    them, at four times the rate (ITU-R BS.1770-4, annex 2)."""
    highest = levels(samples)
    length = samples.shape[1]
    for channel in samples.astype(np.float64) if length else ():
        for taps in _between():
            # Values at a fraction of the way from each sample to the next.
            passed = np.abs(np.convolve(channel, taps)[_HALF : _HALF + length])
            np.maximum(highest, passed, out=highest)
            np.maximum(highest[1:], passed[:-1], out=highest[1:])
    return highest


@functools.cache
def _between() -> list[npt.NDArray[np.float64]]:
    """Windowed-sinc filters for the three quarter positions between two samples."""
    places = np.arange(_HALF, -_HALF, -1)  # the first tap is for the sample ten ahead
    filters = []
    for quarter in (0.25, 0.5, 0.75):
        away = places - quarter
        window = np.i0(5.0 * np.sqrt(np.clip(1 - (away / _HALF) ** 2, 0, None))) / np.i0(5.0)
        filters.append(np.sinc(away) * window)
    return filters


def reduction_needed(level: npt.NDArray[np.float64], peak: float) -> Decibels:
    """How many dB each of `levels` or `true_levels` [N] is above the ceiling `peak`; 0 if it is not."""
    needed: Decibels = 20 * np.log10(np.maximum(level / 10 ** (peak / 20), 1.0))
    return needed


def look_ahead(sample_rate: int) -> int:
    """Samples over which the gain falls before a peak, which `envelope` needs on either side."""
    return max(1, round(_LOOK_AHEAD * sample_rate))


def envelope(
    needed: Decibels, sample_rate: int, release: float, before: float = 0.0
) -> tuple[Decibels, Decibels]:
    """The limiter's reduction in dB, from the reduction that each sample needs.

    The needed reduction is released at a fixed rate in dB, extended ahead (a maximum over the next
    window) and smoothed (a mean over the previous window). All values in that mean include the current
    sample, so it is never less than needed.

    Args:
        needed: [N], from `reduction_needed`.
        release: dB per second.
        before: reduction still to be released before the first sample.

    Returns:
        the reduction [N], and what remains to be released at each sample [N].
    """
    fall = np.arange(1, len(needed) + 1) * (release / sample_rate)
    highest = np.maximum.accumulate(np.maximum(needed + fall, before))
    released = np.maximum(highest - fall, 0.0)
    width = look_ahead(sample_rate)
    ahead = _highest(released, width)
    sums = np.cumsum(np.concatenate([[0.0], np.full(width - 1, ahead[0]), ahead]))
    return (sums[width:] - sums[:-width]) / width, released


def _highest(values: Decibels, width: int) -> Decibels:
    """Maximum of each of [N] values and the `width` - 1 after it; the last value repeats at the end.

    Uses running maxima from both ends of blocks of `width`, two of which contain a window (van Herk 1992, Gil
    and Werman 1993).
    """
    blocks = -(-(len(values) + width - 1) // width)
    padded = np.pad(values, (0, blocks * width - len(values)), "edge").reshape(blocks, width)
    to_end = np.maximum.accumulate(padded[:, ::-1], axis=1)[:, ::-1].ravel()
    from_start = np.maximum.accumulate(padded, axis=1).ravel()
    highest: Decibels = np.maximum(to_end[: len(values)], from_start[width - 1 :][: len(values)])
    return highest


def hold(samples: Samples, reduction: Decibels, peak: float) -> Samples:
    """Lower [C, N] by `reduction` [N] dB, with no sample above the ceiling `peak`."""
    held = samples * (10 ** (-reduction / 20)).astype(np.float32)
    # Rounding may leave samples slightly above the ceiling.
    bound = np.nextafter(np.float32(10 ** (peak / 20)), np.float32(0))
    return np.clip(held, -bound, bound)


class Silences:
    """The long silences of a sound that comes in pieces."""

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._cell = sample_rate, max(1, round(_CELL * sample_rate))
        self._peaks: list[float] = []  # of each cell
        self._length = 0

    def add(self, samples: Samples) -> None:
        """Process the next [C, n]."""
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
        """(from, to) in seconds of each section longer than LONG_SILENCE with a peak below SILENCE."""
        quiet = np.array([False, *(np.array(self._peaks) < 10 ** (SILENCE / 20)), False])
        edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
        spans = np.minimum(edges * self._cell, self._length)
        longer = spans[spans[:, 1] - spans[:, 0] > LONG_SILENCE * self._rate]  # in samples: exact
        return tuple((float(a), float(b)) for a, b in longer / self._rate)


def remark(loudness: Loudness, output: OutputConfig, can_hang: bool = False) -> str:
    """Sentences for the user about loudness problems; empty if there are none.
    `can_hang`: it was decoded autoregressively without a frequency penalty, and may have got stuck in
    silence."""
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
    """Whether a clip's peaks kept it quieter than requested."""
    short = output.lufs - loudness.after
    return output.normalize and not loudness.silent and _SHORT < short < math.inf


def more_room(output: OutputConfig) -> str:
    """Advice for a clip whose peaks keep it quiet."""
    if output.max_limiting >= 12:
        return "set a lower --lufs"
    return "--max-limiting 12 allows more"


def decibels(amplitude: float) -> float:
    """An amplitude in dBFS; -inf for 0."""
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
