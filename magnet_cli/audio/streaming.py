"""Sound files of any length, rate and number of channels, read block by block as a codec wants them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from magnet_cli.audio.io import Samples, check_readable
from magnet_cli.errors import AudioFileError


@dataclass(frozen=True)
class SoundInfo:
    """What a file's header says."""

    duration: float  # seconds
    sample_rate: int  # Hz
    channels: int


def info(path: str | os.PathLike[str]) -> SoundInfo:
    """What a sound file's header says, and that its first samples can be decoded.

    Raises:
        AudioFileError: there is no such file, or it is no sound.
    """
    with _opened(Path(path)) as file:
        file.read(min(file.frames, 1024))
        return SoundInfo(file.frames / file.samplerate, file.samplerate, file.channels)


def read_as(
    path: str | os.PathLike[str], sample_rate: int, channels: int, block_seconds: float = 30.0
) -> Samples:
    """A whole file as [channels, samples] at `sample_rate`.

    Mixed down and resampled block by block, so that an hour of eight channels at 192 kHz takes the
    memory of its result. More channels than one become `channels` by way of their mean.

    Raises:
        AudioFileError: there is no such file, or it is no sound, or it is cut short.
    """
    import soxr

    with _opened(Path(path)) as file:
        # One channel is enough where the mean is taken anyway.
        width = file.channels if file.channels == channels else 1
        stream = soxr.ResampleStream(file.samplerate, sample_rate, width, dtype="float32")
        same = file.samplerate == sample_rate
        parts: list[Samples] = []
        size = max(round(block_seconds * file.samplerate), 1)
        left = file.frames
        while left > 0:
            block = file.read(min(size, left), dtype="float32", always_2d=True)
            left -= len(block)
            if len(block) == 0:
                raise AudioFileError(
                    f"{path} is cut short: {left / file.samplerate:.1f} s of it are missing.",
                    "Give a sound file that is whole.",
                )
            if width != file.channels:
                block = block.mean(axis=1, keepdims=True, dtype=np.float32)
            parts.append(block if same else stream.resample_chunk(block, last=left == 0))
    samples = np.concatenate(parts) if parts else np.zeros((0, width), np.float32)
    if width != channels:
        samples = np.repeat(samples, channels, axis=1)
    return np.ascontiguousarray(samples.T)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    check_readable(path)
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise AudioFileError(
            f"{path} is not a sound that can be read.",
            "Give a wav, flac, ogg, opus, mp3 or aiff file that is whole.",
        ) from error
