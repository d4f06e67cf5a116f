"""Sound files: read, write, resample, change channels. Samples are float32 [channels, samples], -1..1.

Reading and writing is libsndfile's, resampling soxr's.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from magnet_cli.audio import metadata as comments
from magnet_cli.audio.formats import CONTAINERS, subtype_of
from magnet_cli.errors import AudioFileError, MagnetError, NoRoomError
from magnet_cli.files import draft
from magnet_cli.settings import AudioFormat, OutputConfig

Samples = npt.NDArray[np.float32]  # [channels, samples]

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass(frozen=True)
class Sound:
    """A sound and what its file says of it.

    Attributes:
        samples: float32 [channels, samples].
        sample_rate: Hz.
        kind: libsndfile's name of the container, WAV for one.
        subtype: libsndfile's name of the encoding, PCM_16 for one.
        metadata: how magnet made it; None for any other sound.
    """

    samples: Samples
    sample_rate: int
    kind: str = ""
    subtype: str = ""
    metadata: dict[str, Any] | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[1] / self.sample_rate


def read(source: str | os.PathLike[str] | BinaryIO) -> Sound:
    """Read a sound file of any format that libsndfile knows.

    Args:
        source: a path, or a binary stream, which is read to its end (a pipe will do).

    Raises:
        AudioFileError: there is no such file, it cannot be read, or it holds no sound.
    """
    file: Path | BinaryIO
    if isinstance(source, (str, os.PathLike)):
        name, file = str(source), Path(source)
        check_readable(file)
    else:
        name, file = "the input", io.BytesIO(source.read())
    try:
        with soundfile.SoundFile(file) as opened:
            samples = opened.read(dtype="float32", always_2d=True).T
            rate, kind, subtype = opened.samplerate, opened.format, opened.subtype
            comment = opened.comment
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise AudioFileError(
            f"{name} is not a sound that can be read.",
            "Give a wav, flac, ogg, opus, mp3 or aiff file that is whole.",
        ) from error
    if samples.shape[1] == 0:
        raise AudioFileError(f"{name} holds no sound.", "Give a file with at least one sample.")
    if kind in ("WAV", "WAVEX"):
        comment = comments.read_wav_comment(file) or comment
    return Sound(np.ascontiguousarray(samples), rate, kind, subtype, comments.from_comment(comment))


def write(
    path: str | os.PathLike[str],
    samples: Samples,
    sample_rate: int,
    name: AudioFormat,
    output: OutputConfig,
    metadata: Mapping[str, Any] | None = None,
    replace: bool = True,
) -> Path:
    """Write a sound file, whole or not at all.

    Args:
        path: where to.
        samples: [channels, samples].
        sample_rate: Hz, one that the format can hold (`formats.rate_for`).
        name: the format.
        output: only the bit depth is read; `finishing.finish` does the rest.
        metadata: JSON-able, kept in the file.
        replace: whether an existing file is replaced; otherwise the new one is numbered.

    Returns:
        where it is.

    Raises:
        AudioFileError: the samples cannot be written in this format, or not at this path.
        MagnetError: the disk is full.
    """
    data = encode(samples, sample_rate, name, output, metadata)
    try:
        with draft(path, replace) as made:
            made.path.write_bytes(data)
    except OSError as error:
        raise write_error(path, error) from error
    return made.final


def encode(
    samples: Samples,
    sample_rate: int,
    name: AudioFormat,
    output: OutputConfig,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes of a sound file; arguments as in `write`. Made in memory, so a pipe gets a true header.

    Raises:
        AudioFileError: the samples cannot be written in this format.
    """
    check_finite(samples)
    buffer = io.BytesIO()
    channels = samples.shape[0]
    with open_writer(buffer, channels, sample_rate, name, output, metadata) as file:
        # In pieces: libvorbis overflows its stack on a long clip in one go.
        for start in range(0, samples.shape[1], sample_rate):
            file.write(samples[:, start : start + sample_rate].T)
    return buffer.getvalue()


@contextmanager
def open_writer(
    target: BinaryIO,
    channels: int,
    sample_rate: int,
    name: AudioFormat,
    output: OutputConfig,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[soundfile.SoundFile]:
    """A sound file to write piece by piece, each [samples, channels], to a seekable stream.

    `target` is open for reading and writing. Arguments and errors as in `write`.
    """
    comment = None if metadata is None else comments.to_comment(metadata)
    try:
        with soundfile.SoundFile(
            target,
            "w",
            samplerate=sample_rate,
            channels=channels,
            format=CONTAINERS[name].kind,
            subtype=subtype_of(name, output),
        ) as file:
            if comment is not None and name != "wav":
                file.comment = comment
            yield file
    except soundfile.LibsndfileError as error:
        raise AudioFileError(
            f"A {name} file of {channels} channels at {sample_rate} Hz could not be written: "
            f"{error.error_string}",
            "Take another --format, or another --sample-rate.",
        ) from error
    if name == "wav":
        comments.finish_wav(target, comment)


def check_finite(samples: Samples) -> None:
    """Refuse what a network that went wrong has made.

    Raises:
        AudioFileError: there are NaNs or infinities.
    """
    if not np.isfinite(samples).all():
        raise AudioFileError(
            "The sound holds values that are not numbers.",
            "Try --dtype float32, a lower --temperature or another --seed.",
        )


def write_error(path: str | os.PathLike[str], error: OSError) -> MagnetError:
    """What to tell a user whose file could not be written."""
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return NoRoomError(
            f"There is no room for {path}: {reason}.",
            "Nothing was left half written. Make room, or write to another disk.",
        )
    return AudioFileError(
        f"{path} cannot be written: {reason}.", "Choose a folder that exists and can be written to."
    )


def resample(samples: Samples, rate: int, to: int) -> Samples:
    """`samples` [C, N] at `rate` Hz -> [C, N * to / rate] at `to` Hz, by soxr's high quality."""
    if rate == to or samples.shape[1] == 0:
        return samples
    import soxr

    return np.ascontiguousarray(soxr.resample(samples.T, rate, to, quality="HQ").T)


def with_channels(samples: Samples, channels: int) -> Samples:
    """`samples` [C, N] as [channels, N]: many to one by the mean, one to many by copies.

    Raises:
        AudioFileError: any other change, which has no one meaning.
    """
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


def check_readable(path: Path) -> None:
    """Refuse a path that is no file, or an empty one.

    Raises:
        AudioFileError: saying which.
    """
    try:
        if path.is_dir():
            raise AudioFileError(f"{path} is a folder.", "Give a sound file.")
        with path.open("rb") as file:
            empty = path.is_file() and file.read(1) == b""
    except FileNotFoundError as error:
        raise AudioFileError(f"There is no file {path}.", "Check the name.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioFileError(f"{path} cannot be read: {reason}.", "Check the name.") from error
    if empty:
        raise AudioFileError(f"{path} is empty.", "Give a sound file that is whole.")
