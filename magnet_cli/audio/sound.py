"""The reader of sound: whole, block by block at another rate, or in the file's own numbers.

Samples are float32 [channels, samples] in -1..1. An edit takes the numbers instead, so that what it
does not touch is written back bit for bit. Decoding is libsndfile's, resampling soxr's.
"""

from __future__ import annotations

import os
import shutil
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
Numbers = npt.NDArray[Any]  # [samples, channels], of the file's own type

BLOCK = 65_536  # samples of each channel that are read at a time

# The encodings that give back what they were given, and the numbers that hold all their bits.
_EXACT = {
    "PCM_S8": "int16",
    "PCM_U8": "int16",
    "PCM_16": "int16",
    "PCM_24": "int32",
    "PCM_32": "int32",
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "ULAW": "int16",
    "ALAW": "int16",
    # What decodes to 16 bits each time, and is written again as those.
    **dict.fromkeys(("GSM610", "IMA_ADPCM", "MS_ADPCM", "VOX_ADPCM"), "int16"),
    **dict.fromkeys(("G721_32", "G723_24", "G723_40"), "int16"),
    **dict.fromkeys(("NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32"), "int16"),
    "ALAC_16": "int16",
    "ALAC_20": "int32",
    "ALAC_24": "int32",
    "ALAC_32": "int32",
}

_CANCELLED = 0.001  # of the loudest channel: no more is left of the mean where they cancel

SILENCE = -60.0  # dBFS: a clip whose peak is lower is silence, and raising it would raise noise

STREAM = "the input"  # what a sound from a stream is called


class Sound:
    """An open sound. Positions are samples of its own rate.

    Attributes:
        name: what to call it in messages.
        sample_rate: Hz.
        channels, length: channels, and samples of each.
        kind, subtype: libsndfile's names of the container and the encoding: WAV, PCM_16.
        metadata: how magnet made it; None for any other sound.
        problem: why that cannot be read, where it is there; None: it can, or is not there.
        tags: title, artist and the like, by libsndfile's names; not the comment.
        chunks: what else a wav file holds, such as loops and cue points: name and content.
        points: where it goes round, and its tempo, as the file says; None: it does not.
        channel_mask: of a wav file, which loudspeakers its channels are for, as its header has it.
        has_picture, pictures: whether it holds one; those of an mp3, as their tags have them.
        remarks: what is wrong with it though it can be used, in sentences: that it ends early.
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
        self.length = int(file.frames)  # `open_sound` sees to it that it is true
        self.tags = {tag: text for tag, text in file.copy_metadata().items() if tag != "comment"}
        self._at = 0

    @property
    def source(self) -> str:
        """Its file, or `-`, as a command takes it."""
        return "-" if self.name == STREAM else self.name

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.length / self.sample_rate

    @property
    def exact(self) -> bool:
        """Writing the same numbers again gives the same sound: the encoding loses nothing."""
        return self.subtype in _EXACT

    @property
    def dtype(self) -> str:
        """The type of the numbers: for a lossy encoding float32, which holds what it decodes to."""
        return _EXACT.get(self.subtype, "float32")

    def read(
        self,
        sample_rate: int | None = None,
        channels: int | None = None,
        start: int = 0,
        stop: int | None = None,
        checked: bool = True,
    ) -> Samples:
        """Samples `start` up to `stop` in one array; arguments and errors as of `blocks`."""
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
        """Samples `start` up to `stop`, in order, in the memory of a block.

        Args:
            sample_rate: Hz to resample to; None: the sound's own.
            channels: how many to make; None: the sound's own. From many channels their mean is taken.
            start, stop: None for the end.
            checked: otherwise values that are not numbers pass, and the sound ends where its file
                does, whatever the header says.

        Raises AudioFileError: the file is damaged, or holds values that are not numbers.
        """
        width = self.channels if channels in (None, self.channels) else 1
        wanted = channels or width

        def mixed() -> Iterator[Samples]:
            end = self.length if stop is None else stop
            for first in range(start, end, BLOCK):
                numbers = self._numbers(first, min(first + BLOCK, end), whole=checked)
                yield with_channels(self._scaled(numbers, checked), width)

        for block in resampled(mixed(), self.sample_rate, sample_rate or self.sample_rate):
            yield with_channels(block, wanted)

    def numbers(self, start: int, stop: int) -> Numbers:
        """The file's own numbers [stop - start, channels].
        Raises AudioFileError: the file is damaged there."""
        return self._numbers(start, stop, whole=True)

    def samples(self, start: int, stop: int) -> Samples:
        """The same as float32 [channels, stop - start] in -1..1.
        Raises AudioFileError: the file is damaged there, or holds values that are not numbers."""
        return self._scaled(self.numbers(start, stop), checked=True)

    def stored(self, samples: Samples) -> Numbers:
        """float32 [channels, n] -> the file's own numbers [n, channels]; integers are held in range."""
        scaled = samples.T.astype(np.float64) * self._scale
        if self.dtype.startswith("float"):
            return scaled.astype(self.dtype)
        # 24 bits lie in the upper bytes of an int32: what is below them is lost in the file.
        coarse = 256 if self.subtype == "PCM_24" else 1
        whole = np.rint(scaled / coarse) * coarse
        return np.clip(whole, -self._scale, self._scale - coarse).astype(self.dtype)

    @property
    def _scale(self) -> float:
        return {"int16": 2.0**15, "int32": 2.0**31}.get(self.dtype, 1.0)

    def _numbers(self, start: int, stop: int, whole: bool) -> Numbers:
        try:
            with muted() if "MPEG" in self.subtype else nullcontext():
                if start != self._at:  # a seek in an mp3 or opus file loses what the decoder heard
                    self._file.seek(start)
                read: Numbers = self._file.read(stop - start, dtype=self.dtype, always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise self._damaged(start) from error
        self._at = start + len(read)
        if whole and len(read) < stop - start:
            raise self._damaged(self._at)
        return read

    def _scaled(self, numbers: Numbers, checked: bool) -> Samples:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (numbers.T / self._scale).astype(np.float32)
        if checked and not np.isfinite(scaled).all():
            raise AudioFileError(
                f"{self.name} holds values that are not numbers.", "Repair it with another tool."
            )
        return np.ascontiguousarray(scaled)

    def _damaged(self, at: int) -> AudioFileError:
        return AudioFileError(
            f"{self.name} is damaged at {at / self.sample_rate:.2f} s.",
            "Give a file that is whole.",
        )


@contextmanager
def open_sound(source: str | os.PathLike[str] | BinaryIO) -> Iterator[Sound]:
    """Open a sound of any format that libsndfile knows.

    Args:
        source: a path, or a binary stream such as stdin, which is kept in a temporary file.

    Raises:
        AudioFileError: there is no such file, it cannot be read, or it holds no sound.
    """
    with tempfile.TemporaryFile() as spool:
        if isinstance(source, (str, os.PathLike)):
            name, path = str(source), Path(source)
            file: Any = path
            if path.is_fifo():  # libsndfile wants to seek
                with path.open("rb") as pipe:
                    shutil.copyfileobj(pipe, spool)
                file = spool
            else:
                check_readable(path)
        else:
            name, file = STREAM, spool
            shutil.copyfileobj(source, spool)
        comment = comments.read_wav_comment(file)  # libsndfile loses the end of a long one
        comment = comment or comments.moved_comment(file)
        chunks, pictures = comments.kept_chunks(file), comments.id3_pictures(file)
        mask = comments.channel_mask(file)
        has_picture = bool(pictures) or comments.has_flac_picture(file)
        points = read_points(file, chunks)  # before libsndfile counts on where the stream is
        with _opened(file, name) as (opened, remarks, kind):
            said = comment or opened.comment
            made, problem = comments.from_comment(said), comments.problem_of(said)
            sound = Sound(opened, name, made, chunks, problem, remarks)
            sound.kind, sound.subtype = kind
            sound.has_picture, sound.pictures = has_picture, pictures
            sound.channel_mask = mask
            sound.points = points if points is not None and points.within(sound.length) else None
            yield sound


@contextmanager
def _opened(
    file: Path | BinaryIO, name: str
) -> Iterator[tuple[soundfile.SoundFile | whole.Links, tuple[str, ...], tuple[str, str]]]:
    """A decoder that knows how long the sound is, what is wrong with it, and its container and
    encoding."""
    with ExitStack() as stack:
        better, kind = stack.enter_context(formats.decoded(file, name))
        better, frames, said = stack.enter_context(whole.true_length(better))
        remarks = [f"{name} {what}." for what in said]
        try:
            opened: Any = stack.enter_context(whole.linked(better))
            if opened is None:
                # As bytes: soundfile would encode a name strictly, which not every name allows.
                encoded: Any = better
                if isinstance(better, Path) and better.suffix.lower() == ".raw":
                    # It would ask what samples those are, whatever the file's own header says.
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
                "Give a wav, flac, ogg, opus, mp3 or aiff file that is whole.",
            ) from error
        rate = BOUNDS["sample_rate"]
        if not rate.holds(opened.samplerate):
            raise AudioFileError(
                f"{name} is damaged: its header says {opened.samplerate:,} samples a second.",
                f"Sounds of up to {rate.high:,} can be used.",
            )
        if opened.frames <= 0:
            raise AudioFileError(f"{name} holds no sound.", "Give a file with at least one sample.")
        if left := getattr(opened, "left_out", 0):
            remarks.append(
                f"{name} goes on at another rate or in other channels: {left} parts are left out."
            )
        yield opened, tuple(remarks), (kind, "LOSSY") if kind is not None else own


def heard_with(
    sound: Sound, sample_rate: int, channels: int, start: int = 0, stop: int | None = None
) -> tuple[Samples, bool]:
    """`sound.read` for a model, and whether its channels cancel each other: then the loudest is
    taken instead of their mean, which would be silence.
    Raises AudioFileError: as `sound.read`."""
    samples = sound.read(sample_rate, channels, start, stop)
    # A mean that is louder than this has not been cancelled.
    if channels != 1 or sound.channels == 1 or _loudest(samples) > 10 * _CANCELLED:
        return samples, False
    return mono_of(sound.read(sample_rate, None, start, stop), samples)


def mono_of(samples: Samples, mean: Samples | None = None) -> tuple[Samples, bool]:
    """[C, N] -> [1, N]: the mean of the channels, or where they cancel each other, which is said,
    the loudest of them."""
    mean = with_channels(samples, 1) if mean is None else mean
    if not _cancelled(_loudest(samples), _loudest(mean)):
        return mean, False
    first = int(np.abs(samples).max(axis=1).argmax())
    return np.ascontiguousarray(samples[first : first + 1]), True


def cancels(sound: Sound) -> bool:
    """Whether the channels of a whole sound cancel each other; it is read block by block.
    Raises AudioFileError: it is damaged."""
    loudest = left = 0.0
    for block in sound.blocks():
        loudest, left = max(loudest, _loudest(block)), max(left, _loudest(with_channels(block, 1)))
    return _cancelled(loudest, left)


def _cancelled(loudest: float, left: float) -> bool:
    return loudest >= 1e-4 and left <= _CANCELLED * loudest


def _loudest(samples: Samples) -> float:
    return float(np.abs(samples).max(initial=0.0))


def is_silent(samples: Samples) -> bool:
    """Whether nothing in them is louder than SILENCE."""
    return _loudest(samples) < 10 ** (SILENCE / 20)


def check_readable(path: Path) -> None:
    """Refuse a path that is no file, or an empty one. Raises AudioFileError: saying which."""
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
        raise AudioFileError(f"{path} is empty.", "Give a sound file that is whole.")


def resample(samples: Samples, rate: int, to: int) -> Samples:
    """`samples` [C, N] at `rate` Hz -> [C, N * to / rate] at `to` Hz, by soxr's high quality."""
    if rate == to or samples.shape[1] == 0:
        return samples
    import soxr

    return np.ascontiguousarray(soxr.resample(samples.T, rate, to, quality="HQ").T)


def resampled(chunks: Iterable[Samples], rate: int, to: int) -> Iterator[Samples]:
    """The same chunk by chunk; the same numbers as `resample` of all of it, up to rounding."""
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
    """`samples` [C, N] as [channels, N]: many to one by the mean, one to many by copies.
    Raises AudioFileError: any other change, which has no one meaning."""
    here = samples.shape[0]
    if here == channels:
        return samples
    if channels == 1:
        return samples.mean(axis=0, keepdims=True, dtype=np.float32)
    if here == 1:
        return np.repeat(samples, channels, axis=0)
    raise AudioFileError(
        f"{here} channels cannot be made into {channels}.", "Take --channels 1, or leave it out."
    )
