"""The reader of sound: at once, in blocks, resampled, or as the file's own values.

Samples are float32 [channels, samples] in -1..1. Edits use the file's own values, so that unchanged parts are
written back bit for bit. libsndfile decodes, soxr resamples.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile

from magnet_cli.audio import formats, whole
from magnet_cli.audio import metadata as comments
from magnet_cli.audio.looppoints import LoopPoints, read_points
from magnet_cli.errors import AudioFileError
from magnet_cli.files import muted
from magnet_cli.foreign.bounds import BOUNDS

Samples = npt.NDArray[np.float32]  # [channels, samples]
Numbers = npt.NDArray[Any]  # [samples, channels], in the file's own type

BLOCK = 65_536  # samples per channel to read at a time

_CANCELLED = 0.001  # ratio of the mean's peak to the loudest channel's below which channels cancel

SILENCE = -60.0  # dBFS: a clip with a lower peak is silent, and amplifying it would amplify noise

STREAM = "the input"  # name of a sound from a stream


class Sound:
    """An open sound. Positions are samples at its own rate.

    Attributes:
        name: its name in messages.
        sample_rate: Hz.
        channels, length: number of channels, and samples per channel.
        kind, subtype: libsndfile's names of the container and the encoding: WAV, PCM_16.
        metadata: magnet's record; None for other sounds.
        problem: why the record cannot be read, or None.
        tags: title, artist and so on by libsndfile's names, without the comment.
        chunks: other chunks of a wav file, such as loops and cue points: name and content.
        points: loop points and tempo in the file, or None.
        channel_mask: a wav file's speaker positions, as in its header.
        has_picture, pictures: whether it has a picture; an mp3's pictures as in its tag.
        remarks: sentences about problems with which it can still be used, such as an early end.
    """

    def __init__(
        self,
        file: soundfile.SoundFile | whole.Links,
        name: str,
        metadata: dict[str, Any] | None = None,
        chunks: tuple[tuple[bytes, bytes], ...] = (),
        problem: str | None = None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self.problem, self.remarks = problem, remarks
        self.has_picture, self.pictures = False, cast(tuple[bytes, ...], ())
        self.channel_mask, self.points = b"", cast(LoopPoints | None, None)
        self._file, self.name, self.metadata, self.chunks = file, name, metadata, chunks
        self.sample_rate, self.channels = int(file.samplerate), int(file.channels)
        self.kind, self.subtype = str(file.format), str(file.subtype)
        self.length = int(file.frames)  # corrected by `open_sound`
        self.tags = {tag: text for tag, text in file.copy_metadata().items() if tag != "comment"}
        self._at = 0

    @property
    def source(self) -> str:
        """Its path, or `-` for a stream, as commands take it."""
        return "-" if self.name == STREAM else self.name

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.length / self.sample_rate

    @property
    def exact(self) -> bool:
        """Whether the encoding is lossless, so that the same values can be written again."""
        return self.subtype in formats.EXACT

    @property
    def dtype(self) -> str:
        """The type of the file's values; float32 for lossy encodings."""
        return formats.EXACT.get(self.subtype, "float32")

    def read(
        self,
        sample_rate: int | None = None,
        channels: int | None = None,
        start: int = 0,
        stop: int | None = None,
        checked: bool = True,
    ) -> Samples:
        """Samples `start` up to `stop` in one array; arguments and errors as for `blocks`."""
        blocks = [*self.blocks(sample_rate, channels, start, stop, checked)]
        if not blocks:
            return np.zeros((channels or self.channels, 0), np.float32)
        return np.ascontiguousarray(np.concatenate(blocks, axis=1))

    def blocks(
        self,
        sample_rate: int | None = None,
        channels: int | None = None,
        start: int = 0,
        stop: int | None = None,
        checked: bool = True,
    ) -> Iterator[Samples]:
        """Yield samples `start` up to `stop` in blocks.

        Args:
            sample_rate: Hz to resample to; None: the sound's.
            channels: number of channels; None: the sound's. Several are mixed to their mean.
            start, stop: range of samples; None: the end.
            checked: raise errors; otherwise NaN and infinite values pass, and the sound ends where its data
                does, whatever the header says.

        Raises AudioFileError if the file is damaged, or has NaN or infinite values.
        """
        width = self.channels if channels in (None, self.channels) else 1
        wanted = channels or width

        def mixed() -> Iterator[Samples]:
            end = self.length if stop is None else stop
            for first in range(start, end, BLOCK):
                numbers = self.numbers(first, min(first + BLOCK, end), whole=checked)
                yield with_channels(self._scaled(numbers, checked), width)

        for block in resampled(mixed(), self.sample_rate, sample_rate or self.sample_rate):
            yield with_channels(block, wanted)

    def numbers(self, start: int, stop: int, whole: bool = True) -> Numbers:
        """The file's own values [stop - start, channels], or only as many as there are if not `whole`.
        Raises AudioFileError if the file is damaged there."""
        try:
            with muted() if "MPEG" in self.subtype else nullcontext():
                if start != self._at:  # a seek in mp3 or opus resets the decoder's state
                    self._file.seek(start)
                read: Numbers = self._file.read(stop - start, dtype=self.dtype, always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise self._damaged(start) from error
        self._at = start + len(read)
        if whole and len(read) < stop - start:
            raise self._damaged(self._at)
        return read

    def samples(self, start: int, stop: int) -> Samples:
        """The same as float32 [channels, stop - start] in -1..1.
        Raises AudioFileError if the file is damaged there, or has NaN or infinite values."""
        return self._scaled(self.numbers(start, stop), checked=True)

    def stored(self, samples: Samples) -> Numbers:
        """Convert float32 [channels, n] to the file's own values [n, channels]; integers are clipped."""
        return formats.as_stored(samples.T, self.subtype)

    def _scaled(self, numbers: Numbers, checked: bool) -> Samples:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (numbers.T / formats.SCALES.get(self.dtype, 1.0)).astype(np.float32)
        if checked and not np.isfinite(scaled).all():
            raise AudioFileError(
                f"{self.name} has NaN or infinite values.", "Repair it with another tool."
            )
        return np.ascontiguousarray(scaled)

    def _damaged(self, at: int) -> AudioFileError:
        return AudioFileError(
            f"{self.name} is damaged at {at / self.sample_rate:.2f} s.", "Give an intact file."
        )


@contextmanager
def open_sound(source: str | os.PathLike[str] | BinaryIO) -> Iterator[Sound]:
    """Open a sound of any format that libsndfile or ffmpeg can read.

    Args:
        source: a path, or a binary stream such as stdin, which is copied to a temporary file.

    Raises:
        AudioFileError: there is no such file, it cannot be read, or it has no samples.
    """
    with tempfile.TemporaryFile() as spool:
        if isinstance(source, (str, os.PathLike)):
            name, path = str(source), Path(source)
            file: Any = path
            if path.is_fifo():  # libsndfile needs to seek
                with path.open("rb") as pipe:
                    _copy(pipe, spool, name)
                file = spool
            else:
                check_readable(path)
        else:
            name, file = STREAM, spool
            _copy(source, spool, name)
        comment = comments.read_wav_comment(file)  # libsndfile truncates long ones
        comment = comment or comments.moved_comment(file)
        chunks, pictures = comments.kept_chunks(file), comments.id3_pictures(file)
        mask = comments.channel_mask(file)
        has_picture = bool(pictures) or comments.has_flac_picture(file)
        points = read_points(file, chunks)  # before libsndfile relies on the stream's position
        with _opened(file, name) as (opened, remarks, kind):
            said = comment or opened.comment
            made, problem = comments.from_comment(said), comments.problem_of(said)
            sound = Sound(opened, name, made, chunks, problem, remarks)
            sound.kind, sound.subtype = kind
            sound.has_picture, sound.pictures = has_picture, pictures
            sound.channel_mask = mask
            sound.points = points if points is not None and points.within(sound.length) else None
            yield sound


_MOST_PIPED = 4_500_000_000  # bytes; a wav has at most 2^32


def _copy(pipe: BinaryIO, spool: BinaryIO, name: str) -> None:
    """Copy a stream. Raises AudioFileError: it is too long, as if endless, or begins with zeros alone."""
    while data := pipe.read(1_000_000):
        is_blank = len(data) == data.count(0) == 1_000_000 and spool.tell() == 0
        if is_blank or spool.tell() > _MOST_PIPED:
            wrong = "is not a sound that can be read" if is_blank else "has more than 4.5 GB"
            raise AudioFileError(f"{name} {wrong}.", "Give the name of a sound file.")
        spool.write(data)


@contextmanager
def _opened(
    file: Path | BinaryIO, name: str
) -> Iterator[tuple[soundfile.SoundFile | whole.Links, tuple[str, ...], tuple[str, str]]]:
    """Open a decoder with the true length; yields it with remarks, and with container and encoding."""
    with ExitStack() as stack:
        better, kind = stack.enter_context(formats.decoded(file, name))
        better, frames, said = stack.enter_context(whole.true_length(better))
        remarks = [f"{name} {what}." for what in said]
        try:
            opened: Any = stack.enter_context(whole.linked(better))
            if opened is None:
                # As bytes: soundfile encodes names strictly, which fails for some.
                encoded: Any = better
                if isinstance(better, Path) and better.suffix.lower() == ".raw":
                    # For this suffix soundfile needs a format, whatever the header says.
                    encoded = stack.enter_context(better.open("rb")).fileno()
                elif isinstance(better, Path) and os.name == "posix":
                    encoded = os.fsencode(better)
                with muted():
                    opened = stack.enter_context(soundfile.SoundFile(encoded, closefd=False))
                own = (str(opened.format), str(opened.subtype))
                opened = stack.enter_context(whole.seekable(opened))
                if frames is not None or not 0 < opened.frames < whole.UNKNOWN:
                    opened = whole.Known(opened, frames)
            else:
                own = (str(opened.format), str(opened.subtype))
        except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
            raise AudioFileError(
                f"{name} is not a sound that can be read.",
                "Give an intact wav, flac, ogg, opus, mp3 or aiff file.",
            ) from error
        rate = BOUNDS["sample_rate"]
        if not rate.holds(opened.samplerate):
            raise AudioFileError(
                f"{name} is damaged: its header says {opened.samplerate:,} samples a second.",
                f"Sounds of up to {rate.high:,} can be used.",
            )
        if opened.frames <= 0:
            raise AudioFileError(f"{name} has no samples.", "Give a file with at least one sample.")
        if left := getattr(opened, "left_out", 0):
            remarks.append(
                f"{name} changes its sample rate or channels: {left} parts are left out."
            )
        yield opened, tuple(remarks), (kind, "LOSSY") if kind is not None else own


def heard_with(
    sound: Sound, sample_rate: int, channels: int, start: int = 0, stop: int | None = None
) -> tuple[Samples, bool]:
    """`sound.read` for a model, and whether its channels cancel each other: then the loudest channel is used,
    as their mean would be silent. Raises what `sound.read` raises."""
    samples = sound.read(sample_rate, channels, start, stop)
    # Channels with a louder mean do not cancel.
    if channels != 1 or sound.channels == 1 or _loudest(samples) > 10 * _CANCELLED:
        return samples, False
    return mono_of(sound.read(sample_rate, None, start, stop), samples)


def mono_of(samples: Samples, mean: Samples | None = None) -> tuple[Samples, bool]:
    """Mix [C, N] to [1, N]: the mean, or the loudest channel if they cancel each other; returns that, too."""
    mean = with_channels(samples, 1) if mean is None else mean
    if not _cancelled(_loudest(samples), _loudest(mean)):
        return mean, False
    first = int(np.abs(samples).max(axis=1).argmax())
    return np.ascontiguousarray(samples[first : first + 1]), True


def cancels(sound: Sound) -> bool:
    """Whether the channels of a whole sound cancel each other. Raises AudioFileError if it is damaged."""
    loudest = left = 0.0
    for block in sound.blocks():
        loudest, left = max(loudest, _loudest(block)), max(left, _loudest(with_channels(block, 1)))
    return _cancelled(loudest, left)


def _cancelled(loudest: float, left: float) -> bool:
    return loudest >= 1e-4 and left <= _CANCELLED * loudest


def _loudest(samples: Samples) -> float:
    return float(np.abs(samples).max(initial=0.0))


def is_silent(samples: Samples) -> bool:
    """Whether the peak is below SILENCE."""
    return _loudest(samples) < 10 ** (SILENCE / 20)


def check_readable(path: Path) -> None:
    """Raise AudioFileError if a path is not a readable file, or is empty."""
    try:
        if path.is_dir():
            raise AudioFileError(f"{path} is a folder.", "Give a sound file.")
        if path.is_char_device() or path.is_block_device():
            raise AudioFileError(
                f"{path} is a device, not a file.", "Give a sound file, or `-` for stdin."
            )
        with path.open("rb") as file:
            empty = path.is_file() and file.read(1) == b""
    except FileNotFoundError as error:
        raise AudioFileError(f"There is no file {path}.", "Check the name.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioFileError(f"{path} cannot be read: {reason}.", "Check the name.") from error
    if empty:
        raise AudioFileError(f"{path} is empty.", "Give an intact sound file.")


def resample(samples: Samples, rate: int, to: int) -> Samples:
    """Resample [C, N] at `rate` Hz to [C, N * to / rate] at `to` Hz, with soxr's high quality."""
    if rate == to or samples.shape[1] == 0:
        return samples
    import soxr

    return np.ascontiguousarray(soxr.resample(samples.T, rate, to, quality="HQ").T)


def resampled(chunks: Iterable[Samples], rate: int, to: int) -> Iterator[Samples]:
    """Resample chunk by chunk, with the same result as `resample` up to rounding."""
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


def with_channels(samples: Samples, channels: int) -> Samples:
    """Convert [C, N] to [channels, N]: many to one by the mean, one to many by copying.
    Raises AudioFileError for other conversions, which are ambiguous."""
    here = samples.shape[0]
    if here == channels:
        return samples
    if channels == 1:
        return samples.mean(axis=0, keepdims=True, dtype=np.float32)
    if here == 1:
        return np.repeat(samples, channels, axis=0)
    raise AudioFileError(
        f"{here} channels cannot be converted to {channels}.", "Use --channels 1, or remove it."
    )
