"""Finishing and writing a sound of any length in flat memory: what `finishing.finish` does, in blocks.

Loudness is known only at the end, so the sound is first kept on disk as float32 while it is
measured, then read again as often as the limiter needs, and once more to be written.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from magnet_cli.audio.formats import rate_for
from magnet_cli.audio.io import Samples, open_writer, with_channels, write_error
from magnet_cli.audio.loudness import (
    MOST_REDUCTION,
    SILENCE,
    Loudness,
    envelope,
    hold,
    look_ahead,
    measure,
    peak_of,
    reduction_needed,
    settle,
)
from magnet_cli.audio.silence import Silences
from magnet_cli.errors import AudioFileError
from magnet_cli.files import draft
from magnet_cli.settings import AudioFormat, OutputConfig

BLOCK = 1 << 17  # samples that are in memory at a time, of each channel


class Meter:
    """Integrated loudness (ITU-R BS.1770-4) of a sound that comes in pieces.

    The same numbers as `loudness.measure`, from sums over tenths of a second: the blocks of the
    standard are four of them.
    """

    def __init__(self, channels: int, sample_rate: int) -> None:
        from pyloudnorm.iirfilter import IIRfilter

        self._rate = sample_rate
        self._filters = [
            IIRfilter(4.0, 1 / math.sqrt(2), 1500.0, sample_rate, "high_shelf"),
            IIRfilter(0.0, 0.5, 38.0, sample_rate, "high_pass"),
        ]
        self._heard = min(channels, 5)
        self._states = [np.zeros((self._heard, 2)) for _ in self._filters]
        self._cells: list[npt.NDArray[np.float64]] = []  # sums of squares [channels]
        self._open = np.zeros(self._heard)  # of the tenth that is not over
        self._length = 0

    def add(self, samples: Samples) -> None:
        """Hear the next [C, n]."""
        from scipy.signal import lfilter

        heard = samples[: self._heard].astype(np.float64)
        for index, stage in enumerate(self._filters):
            heard, self._states[index] = lfilter(
                stage.b, stage.a, heard, axis=-1, zi=self._states[index]
            )
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
        return int(0.1 * cell * self._rate)


class Store:
    """A sound kept on disk as float32.

    Attributes:
        channels, sample_rate: of what is kept.
        length: samples of each channel so far.
        fade: seconds to fade in and out when it is read.
    """

    def __init__(self, file: IO[bytes], channels: int, sample_rate: int, fade: float) -> None:
        """`file` is empty, and open for reading and writing."""
        self.channels, self.sample_rate, self.fade = channels, sample_rate, fade
        self.length = 0
        self._file = file

    def append(self, samples: Samples) -> None:
        """Keep [C, n] behind what is there.

        Raises:
            AudioFileError: it holds values that are not numbers.
        """
        if not np.isfinite(samples).all():
            raise AudioFileError(
                "The sound holds values that are not numbers.",
                "Try --dtype float32, a lower --temperature or another --seed.",
            )
        self._file.write(np.ascontiguousarray(samples.T, dtype=np.float32).tobytes())
        self.length += samples.shape[1]

    def read(self, start: int, stop: int) -> Samples:
        """[C, stop - start], faded."""
        self._file.seek(start * 4 * self.channels)
        data = self._file.read((stop - start) * 4 * self.channels)
        samples = np.frombuffer(data, np.float32).reshape(-1, self.channels).T
        ramp = min(round(self.fade * self.sample_rate), self.length // 2)
        if ramp and (start < ramp or stop > self.length - ramp):
            places = np.arange(start, stop)
            from_end = np.minimum(places, self.length - 1 - places)
            share = np.clip((from_end + 0.5) / ramp, 0.0, 1.0)
            samples = samples * (0.5 - 0.5 * np.cos(np.pi * share)).astype(np.float32)
        return samples

    def blocks(self) -> Iterator[Samples]:
        """All of it, in order."""
        for start in range(0, self.length, BLOCK):
            yield self.read(start, min(start + BLOCK, self.length))

    def limited(self, gain: float, release: float, peak: float) -> Iterator[Samples]:
        """All of it, raised by `gain` dB and held under `peak` dBFS, as `loudness.limit` does."""
        margin = 2 * look_ahead(self.sample_rate)
        factor = np.float32(10 ** (gain / 20))
        before = 0.0
        for start in range(0, self.length, BLOCK):
            stop = min(start + BLOCK, self.length)
            first, last = max(start - margin, 0), min(stop + margin, self.length)
            louder = self.read(first, last) * factor
            needed = reduction_needed(louder, peak)
            reduction, released = envelope(needed, self.sample_rate, release, before)
            inside = slice(start - first, stop - first)
            yield hold(louder[:, inside], reduction[inside], peak)
            if stop < self.length:
                before = float(released[stop - margin - first - 1])

    def loudness(self, blocks: Iterable[Samples]) -> float:
        """LUFS of blocks of this store, however treated."""
        if self.length < math.ceil(0.4 * self.sample_rate) + 1:
            return measure(np.concatenate([*blocks], axis=1), self.sample_rate)
        meter = Meter(self.channels, self.sample_rate)
        for block in blocks:
            meter.add(block)
        return meter.loudness()

    def peak(self) -> float:
        """The highest sample, dBFS."""
        return max((peak_of(block) for block in self.blocks()), default=-math.inf)


@dataclass(frozen=True)
class Written:
    """A sound that is written."""

    loudness: Loudness
    duration: float  # seconds
    sample_rate: int  # Hz
    path: Path | None  # where it is; None: it went to a stream


def write_stream(
    target: Path | BinaryIO,
    chunks: Iterable[Samples],
    sample_rate: int,
    name: AudioFormat,
    output: OutputConfig,
    metadata: Mapping[str, Any] | None = None,
    replace: bool = True,
) -> Written:
    """Finish a sound that comes in chunks and write it, whole or not at all.

    Args:
        target: a path, or a seekable binary stream that is open for reading and writing.
        chunks: [C, n] each, in order, at `sample_rate` Hz, as the codec decodes them.
        name: the format.
        output: what the user asked for.
        metadata: JSON-able, kept in the file.
        replace: whether an existing file is replaced; otherwise the new one is numbered.

    Raises:
        AudioFileError: the sound cannot be written in this format, or not at this path.
        MagnetError: the disk is full.
    """
    rate = rate_for(name, output, sample_rate)
    folder = target.absolute().parent if isinstance(target, Path) else None
    try:
        with tempfile.TemporaryFile(dir=folder) as kept:
            store = _store(kept, _resampled(chunks, sample_rate, rate), rate, output)
            blocks, loudness = _normalized(store, output)
            silences = Silences(rate)
            blocks = _heard(blocks, silences)
            path: Path | None = None
            if isinstance(target, Path):
                with draft(target, replace) as made, made.path.open("w+b") as file:
                    _write(file, blocks, store, name, output, metadata)
                path = made.final
            else:
                _write(target, blocks, store, name, output, metadata)
            loudness = dataclasses.replace(loudness, silences=silences.found())
            return Written(loudness, store.length / rate, rate, path)
    except OSError as error:
        where = target if isinstance(target, Path) else "the temporary file"
        raise write_error(where, error) from error


def _store(
    file: IO[bytes], chunks: Iterable[Samples], sample_rate: int, output: OutputConfig
) -> Store:
    store: Store | None = None
    for samples in chunks:
        if output.channels is not None:
            samples = with_channels(samples, output.channels)
        if store is None:
            store = Store(file, samples.shape[0], sample_rate, output.fade)
        store.append(samples)
    if store is None:
        raise AudioFileError("There is no sound to write.", "Make it longer.")
    return store


def _resampled(chunks: Iterable[Samples], rate: int, to: int) -> Iterator[Samples]:
    """The same at another rate; the same numbers as `io.resample` of all of it, up to rounding."""
    if rate == to:
        yield from chunks
        return
    import soxr

    stream: soxr.ResampleStream | None = None
    channels = 0
    for chunk in chunks:
        if stream is None:
            channels = chunk.shape[0]
            stream = soxr.ResampleStream(rate, to, channels, dtype="float32", quality="HQ")
        yield stream.resample_chunk(np.ascontiguousarray(chunk.T)).reshape(-1, channels).T
    if stream is not None:
        nothing = np.zeros((0, channels), np.float32)
        yield stream.resample_chunk(nothing, last=True).reshape(-1, channels).T


def _normalized(store: Store, output: OutputConfig) -> tuple[Iterator[Samples], Loudness]:
    """The blocks to write, and what loudness they have; as `loudness.normalize`."""
    before, peak = store.loudness(store.blocks()), store.peak()
    if not output.normalize or peak < SILENCE or not math.isfinite(before):
        return store.blocks(), Loudness(before, before, 0.0, 0.0, peak)

    def attempt(gain: float, release: float) -> float:
        return store.loudness(store.limited(gain, release, output.peak))

    most = output.peak - peak + MOST_REDUCTION
    gain, release, after = settle(attempt, before, output.lufs, most)
    highest = max(peak_of(block) for block in store.limited(gain, release, output.peak))
    reduction = max(peak + gain - output.peak, 0.0)
    blocks = store.limited(gain, release, output.peak)
    return blocks, Loudness(before, after, gain, reduction, highest)


def _heard(blocks: Iterable[Samples], silences: Silences) -> Iterator[Samples]:
    for block in blocks:
        silences.add(block)
        yield block


def _write(
    target: BinaryIO,
    blocks: Iterable[Samples],
    store: Store,
    name: AudioFormat,
    output: OutputConfig,
    metadata: Mapping[str, Any] | None,
) -> None:
    with open_writer(target, store.channels, store.sample_rate, name, output, metadata) as file:
        for block in blocks:
            # In pieces: libvorbis overflows its stack on a long block.
            for start in range(0, block.shape[1], store.sample_rate):
                file.write(block[:, start : start + store.sample_rate].T)
