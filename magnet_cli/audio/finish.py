"""The writer of sound: sample rate, channels, fade, loudness and record, in a file that appears complete or
not at all. Clips, loops and long pieces are written in the same way, with a few blocks in memory.

Loudness comes last, so that the written sound is the one that was measured and limited. The sound is first
stored as float32 while it is measured, then read again as often as the limiter needs, and once more to be
written. Edits of a file (`write_patched`) skip all of this and share only the file writing.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile

from magnet_cli.audio import metadata as comments
from magnet_cli.audio import sound as reader
from magnet_cli.audio.formats import CONTAINERS, RIFF, as_stored, rate_for, subtype_of
from magnet_cli.audio.looppoints import STAND_IN, LoopPoints, put_tags
from magnet_cli.audio.loudness import (
    TRUE_PEAK_SIDE,
    Loudness,
    Meter,
    Silences,
    decibels,
    envelope,
    hold,
    levels,
    look_ahead,
    measure,
    peak_of,
    reduction_needed,
    releases_for,
    settle,
    true_levels,
)
from magnet_cli.audio.sound import SILENCE, Numbers, Samples, Sound, resampled, with_channels
from magnet_cli.errors import AudioFileError
from magnet_cli.files import draft, uninterrupted, write_error
from magnet_cli.settings import AudioFormat, OutputConfig

BLOCK = 1 << 19  # samples per channel in memory at a time: 16 s at 32 kHz

# Where a sound goes: a path, or a function called with the bytes of the file in order.
Target = str | os.PathLike[str] | Callable[[bytes], object]

_SENT = 1 << 20  # bytes to send at a time


@dataclass(frozen=True)
class Written:
    """Facts about a written sound."""

    loudness: Loudness
    duration: float  # seconds
    sample_rate: int  # Hz
    channels: int
    path: Path | None  # its file; None: it was sent


def write_sound(
    target: Target,
    chunks: Iterable[Samples],
    sample_rate: int,
    name: AudioFormat,
    output: OutputConfig,
    metadata: Mapping[str, Any] | None = None,
    *,
    replace: bool = True,
    loop: bool = False,
    bpm: float | None = None,
) -> Written:
    """Finish a sound and write it, completely or not at all.

    Args:
        target: where to write it.
        chunks: [C, n] each, in order, at `sample_rate` Hz, as the codec decodes them.
        name: the format.
        output: the user's settings.
        metadata: JSON types, stored in the file.
        replace: replace an existing file; otherwise the new one is numbered.
        loop: keep the sound a seamless loop: three rounds are processed and the middle one is kept, so that
            resampler and limiter are continuous at the seam. The file gets loop points.
        bpm: the tempo, stored in the file.

    Raises:
        AudioFileError: the sound has NaN or infinite values, or cannot be written in this format or at this
            path.
        MagnetError: the disk is full.
    """
    if loop:
        check_loopable(output)
        once = [*chunks]
        chunks = once * 3
    output = output.decided(name)
    rate = rate_for(name, output, sample_rate)
    folder = None if callable(target) else str(Path(target).absolute().parent)
    try:
        # About two blocks stay in memory; longer sounds go to the disk of the target.
        with tempfile.SpooledTemporaryFile(8 * BLOCK, dir=folder) as kept:
            at_rate = chunks if rate == sample_rate else resampled(chunks, sample_rate, rate)
            store = _store(kept, at_rate, rate, output)
            start, stop = 0, store.length
            points = None if bpm is None else LoopPoints(bpm=bpm)
            if loop:
                length = sum(chunk.shape[1] for chunk in once)
                start, stop = (round(length * i * rate / sample_rate) for i in (1, 2))
                points = LoopPoints(0, stop - start, bpm)
            blocks, loudness = _normalized(store, output)
            silences, peak = Silences(rate), -math.inf

            def write(file: BinaryIO) -> None:
                nonlocal peak
                form = (CONTAINERS[name].kind, subtype_of(name, output))
                hint = "Use another --format, or another --sample-rate."
                with _encoded(
                    file,
                    name,
                    form,
                    rate,
                    store.channels,
                    stop - start,
                    metadata,
                    hint,
                    points=points,
                ) as put:
                    at = 0
                    for block in blocks:
                        peak = max(peak, peak_of(block))
                        part = block[:, max(start - at, 0) : max(stop - at, 0)]
                        at += block.shape[1]
                        silences.add(part)
                        # In pieces: libvorbis overflows its stack on a long block.
                        for first in range(0, part.shape[1], rate):
                            put(as_stored(part[:, first : first + rate].T, form[1]))

            path = _placed(target, replace, write)
    except OSError as error:
        raise write_error("the temporary file" if callable(target) else target, error) from error
    loudness = dataclasses.replace(loudness, peak=peak, silences=silences.found())
    return Written(loudness, (stop - start) / rate, rate, store.channels, path)


def check_loopable(output: OutputConfig) -> None:
    """Raise AudioFileError if output settings have a fade, which a loop cannot have."""
    if any(output.fade):
        raise AudioFileError("A loop cannot have a fade, which would be audible.", "Remove --fade.")


# ------------------------------------------------------------------------------------- between passes


class Store:
    """A sound stored as float32.

    Attributes:
        channels, sample_rate: of the stored sound.
        length: samples per channel so far.
        fades: seconds of fade-in and fade-out, applied when reading.
    """

    def __init__(
        self, file: IO[bytes], channels: int, sample_rate: int, fades: tuple[float, float]
    ) -> None:
        """`file`: empty, open for reading and writing."""
        self.channels, self.sample_rate, self.fades = channels, sample_rate, fades
        self.length = 0
        self._file = file

    def append(self, samples: Samples) -> None:
        """Append samples [C, n]. Raises AudioFileError if they have NaN or infinite values."""
        if not np.isfinite(samples).all():
            raise AudioFileError(
                "The sound has NaN or infinite values.",
                "Try --dtype float32, a lower --temperature or another --seed.",
            )
        self._file.write(np.ascontiguousarray(samples.T, dtype=np.float32).tobytes())
        self.length += samples.shape[1]

    def read(self, start: int, stop: int) -> Samples:
        """Read samples [C, stop - start] with the fades, which are half-cosines."""
        self._file.seek(start * 4 * self.channels)
        data = self._file.read((stop - start) * 4 * self.channels)
        samples = np.ascontiguousarray(np.frombuffer(data, np.float32).reshape(-1, self.channels).T)
        rise, fall = self._ramps()
        if rise and start < rise:
            samples = samples * _risen(np.arange(start, stop), rise)
        if fall and stop > self.length - fall:
            samples = samples * _risen(self.length - 1 - np.arange(start, stop), fall)
        return samples

    def _ramps(self) -> tuple[int, int]:
        """Samples of the fade-in and fade-out, shortened in proportion if the sound is shorter than both."""
        rise, fall = (round(seconds * self.sample_rate) for seconds in self.fades)
        if (both := rise + fall) > self.length:
            rise, fall = self.length * rise // both, self.length * fall // both
        return rise, fall

    def blocks(self) -> Iterator[Samples]:
        """Yield the whole sound in blocks."""
        for start in range(0, self.length, BLOCK):
            yield self.read(start, min(start + BLOCK, self.length))

    def levels(self, start: int, stop: int, true_peak: bool) -> npt.NDArray[np.float64]:
        """Highest amplitude at each sample [stop - start]; `true_peak`: including between samples."""
        if not true_peak:
            return levels(self.read(start, stop))
        first = max(start - TRUE_PEAK_SIDE, 0)
        around = true_levels(self.read(first, min(stop + TRUE_PEAK_SIDE, self.length)))
        return around[start - first : stop - first]

    def limited(
        self, gain: float, release: float, peak: float, true_peak: bool = False
    ) -> Iterator[Samples]:
        """Yield the whole sound, amplified by `gain` dB and limited to `peak` dBFS.

        Args:
            gain: dB.
            release: dB per second at which the gain recovers after a peak.
            peak: the ceiling for all channels.
            true_peak: also limit peaks between samples.
        """
        margin = 2 * look_ahead(self.sample_rate)
        factor = np.float32(10 ** (gain / 20))
        before = 0.0
        for start in range(0, self.length, BLOCK):
            stop = min(start + BLOCK, self.length)
            first, last = max(start - margin, 0), min(stop + margin, self.length)
            louder = self.read(first, last) * factor
            level = self.levels(first, last, True) * factor if true_peak else levels(louder)
            needed = reduction_needed(level, peak)
            if before == 0 and not needed.any():
                yield louder[:, start - first : stop - first]
                continue
            reduction, released = envelope(needed, self.sample_rate, release, before)
            inside = slice(start - first, stop - first)
            yield hold(louder[:, inside], reduction[inside], peak)
            if stop < self.length:
                before = float(released[stop - margin - first - 1])

    def loudness(self, blocks: Iterable[Samples]) -> float:
        """LUFS of this store's sound, given as processed blocks."""
        # Measure at once if that takes no more memory, or if the sound is too short for the meter.
        if self.length <= max(BLOCK, math.ceil(0.4 * self.sample_rate)):
            return measure(np.concatenate([*blocks], axis=1), self.sample_rate)
        meter = Meter(self.channels, self.sample_rate)
        for block in blocks:
            meter.add(block)
        return meter.loudness()


def _store(
    file: IO[bytes], chunks: Iterable[Samples], sample_rate: int, output: OutputConfig
) -> Store:
    store: Store | None = None
    for samples in chunks:
        if output.channels is not None:
            samples = with_channels(samples, output.channels)
        if store is None:
            store = Store(file, samples.shape[0], sample_rate, output.fades)
        store.append(samples)
    if store is None or store.length == 0:
        raise AudioFileError("There is no sound to write.", "Make it longer.")
    return store


def _risen(places: npt.NDArray[np.int64], ramp: int) -> Samples:
    """Gain 0..1 of a half-cosine fade of `ramp` samples, at places from its start."""
    risen = np.clip(places + 0.5, 0.0, ramp)
    return (0.5 - 0.5 * np.cos(np.pi * risen / ramp)).astype(np.float32)


def _normalized(store: Store, output: OutputConfig) -> tuple[Iterator[Samples], Loudness]:
    """Blocks to write, and their loudness without the final peak. Silence is not amplified."""
    before = store.loudness(store.blocks())
    true_peak = bool(output.true_peak)
    starts = range(0, store.length, BLOCK)
    highest = (
        store.levels(start, min(start + BLOCK, store.length), true_peak).max() for start in starts
    )
    peak = decibels(max(map(float, highest), default=0.0))
    if not output.normalize or peak < SILENCE or not math.isfinite(before):
        return store.blocks(), Loudness(before, before, 0.0, 0.0, peak)

    def attempt(gain: float, release: float) -> float:
        return store.loudness(store.limited(gain, release, output.peak, true_peak))

    most = output.peak - peak + output.max_limiting
    releases = releases_for(output.max_limiting)
    gain, release, after = settle(attempt, before, output.lufs, most, releases)
    reduction = max(peak + gain - output.peak, 0.0)
    blocks = store.limited(gain, release, output.peak, true_peak)
    return blocks, Loudness(before, after, gain, reduction, peak)


# ------------------------------------------------------------------------------------- edits of a file


@dataclass(frozen=True)
class Patch:
    """Values that replace a file's from sample `start` on."""

    start: int
    numbers: Numbers


def write_patched(
    sound: Sound,
    patches: Sequence[Patch],
    target: Target,
    encoding: tuple[str, str],
    metadata: Mapping[str, Any] | None = None,
    replace: bool = True,
) -> Path | None:
    """Copy `sound` with `patches` in place; all other values and its tags stay.

    From wav to wav, its other chunks are kept, too; see `formats.lost_chunks` for other formats.

    Args:
        patches: in order, disjoint.
        target: where to write it.
        encoding: container and encoding from `formats.encoding_for`.
        metadata: JSON types, stored in the file if its container can.
        replace: replace an existing file; otherwise the new one is numbered.

    Returns:
        its path; None if it was sent.

    Raises:
        AudioFileError: the file cannot be written, or the sound is damaged.
        MagnetError: the disk is full.
    """

    def write(file: BinaryIO) -> None:
        what, rate, channels = encoding[0].lower(), sound.sample_rate, sound.channels
        hint = "Name the output .wav."
        with _encoded(
            file, what, encoding, rate, channels, sound.length, metadata, hint, sound
        ) as put:
            for start in range(0, sound.length, reader.BLOCK):
                stop = min(start + reader.BLOCK, sound.length)
                block = sound.numbers(start, stop)
                for patch in patches:
                    first = max(patch.start, start)
                    last = min(patch.start + len(patch.numbers), stop)
                    if first < last:
                        part = patch.numbers[first - patch.start : last - patch.start]
                        if not np.isfinite(part).all():
                            raise AudioFileError(
                                f"{sound.name} is too loud to be edited: the new values overflow its "
                                "sample format.",
                                "Scale it to -1..1 with another tool first.",
                            )
                        block[first - start : last - start] = part
                put(block)

    try:
        return _placed(target, replace, write)
    except OSError as error:
        raise write_error("the temporary file" if callable(target) else target, error) from error


# ------------------------------------------------------------------------------------- the file


@contextmanager
def _encoded(
    target: BinaryIO,
    name: str,
    encoding: tuple[str, str],
    sample_rate: int,
    channels: int,
    length: int,
    metadata: Mapping[str, Any] | None,
    hint: str,
    of: Sound | None = None,
    points: LoopPoints | None = None,
) -> Iterator[Callable[[Numbers], None]]:
    """Yield a function that writes a sound file block by block [samples, channels] into a seekable
    stream. Only this function writes tags and the record.

    Args:
        name: the format's name, for messages.
        encoding: libsndfile's names of container and encoding.
        length: samples per channel that will be written.
        hint: advice if libsndfile fails.
        of: the sound whose tags and chunks are copied.
        points: loop points and tempo, if `of` has none.
    """
    points = points or (of.points if of is not None else None)
    kind, subtype = encoding
    comment = None if metadata is None else comments.to_comment(metadata)
    kind = large_kind(kind, subtype, length * channels)
    kept = _ErrorKeeper(target)
    if kind == "MP3":
        of_file = (of.tags, of.pictures) if of is not None else ({}, ())
        kept.write(comments.id3_tag(of_file[0], comment, of_file[1]))
        kept.base = target.tell()
    try:
        with _opened(
            kept, samplerate=sample_rate, channels=channels, format=kind, subtype=subtype
        ) as file:
            for tag, text in of.tags.items() if of is not None and kind != "MP3" else ():
                with suppress(soundfile.LibsndfileError):
                    setattr(file, tag, text)
            tagged = points if points and points.tags() and kind in ("FLAC", "OGG") else None
            if tagged and not (of is not None and STAND_IN in of.tags):
                setattr(file, STAND_IN, tagged.stand_in)
            if comment is not None and kind not in (*RIFF, "MP3"):
                try:
                    file.comment = comment
                except soundfile.LibsndfileError:
                    if of is None:  # only some inputs' containers cannot store it
                        raise

            def put(numbers: Numbers) -> None:
                with uninterrupted():
                    file.write(numbers)
                kept.check()

            yield put
        kept.check()
    except soundfile.LibsndfileError as error:
        raise AudioFileError(
            f"A {name} file of {channels} channels at {sample_rate} Hz could not be written: "
            f"{error.error_string}",
            hint,
        ) from error
    if kind in RIFF:
        chunks, mask = (of.chunks, of.channel_mask) if of is not None else ((), b"")
        own = points.chunk(sample_rate) if points else b""
        if own and not any(name == b"smpl" for name, _ in chunks):
            chunks = (*chunks, (b"smpl", own))
        comments.finish_wav(target, comment, chunks, mask)
    elif tagged:
        put_tags(target, tagged)
        target.seek(0)


@contextmanager
def _opened(kept: _ErrorKeeper, **form: Any) -> Iterator[soundfile.SoundFile]:
    """Open a sound file for writing; closing it lets libsndfile flush and complete the header. Whenever a
    signal comes, it is closed before the underlying file, or detached from it: otherwise its finalizer
    would write to a closed file and print an error."""
    file = None
    try:
        with uninterrupted():
            file = soundfile.SoundFile(kept, "w", **form)
        yield file
    finally:
        try:
            with uninterrupted():
                if file is not None:
                    file.close()
        finally:
            kept.let_go()


_LARGEST_WAV = 2**32 - 2**20  # bytes: the header's limit, less room for comment and tags
_BYTES = {"PCM_U8": 1, "PCM_S8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "DOUBLE": 8}


def large_kind(kind: str, subtype: str, numbers: int) -> str:
    """RF64 in place of WAV if there are too many values for that; else `kind`."""
    if kind in ("WAV", "WAVEX") and numbers * _BYTES.get(subtype, 4) > _LARGEST_WAV:
        return "RF64"
    return kind


class _ErrorKeeper:
    """A file for libsndfile that stores errors, as libsndfile cannot pass them on.

    Attributes:
        base: offset in the file at which libsndfile's file begins.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._error, self.base = file, cast(OSError | None, None), 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As for a file."""
        at = self._file.seek(offset + self.base if whence == os.SEEK_SET else offset, whence)
        return at - self.base

    def tell(self) -> int:
        """As for a file."""
        return self._file.tell() - self.base

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
            self._file.flush()  # report errors here, not in a later seek
        except OSError as error:
            self._error = error
            self.let_go()
        return len(data)

    def let_go(self) -> None:
        """Discard all further writes."""
        self._file, self.base = io.BytesIO(), 0

    def check(self) -> None:
        """Raise the stored OSError, if any."""
        if self._error is not None:
            raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _placed(target: Target, replace: bool, write: Callable[[BinaryIO], None]) -> Path | None:
    """Call `write` with a temporary file, then move it to its target or send it.
    Raises OSError if it cannot be written."""
    if not callable(target):
        with draft(target, replace) as made, made.path.open("w+b") as file:
            write(file)
        return made.final
    # libsndfile seeks back to the header at the end, which a pipe cannot.
    with tempfile.TemporaryFile() as kept:
        write(kept)
        kept.seek(0)
        while data := kept.read(_SENT):
            target(data)
    return None
