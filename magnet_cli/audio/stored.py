"""Sounds as their files store them: in the file's own numbers, so that what is not touched is
written back bit for bit, block by block, whatever the length.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from magnet_cli.audio import metadata as comments
from magnet_cli.audio.formats import check_rate
from magnet_cli.audio.io import Samples, check_readable, write_error
from magnet_cli.errors import AudioFileError
from magnet_cli.files import draft

Numbers = npt.NDArray[Any]  # [samples, channels], of the file's own type

BLOCK = 65_536  # samples that are copied at a time

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
}
_CONTAINERS = {"aif": "AIFF", "aiff": "AIFF", "opus": "OGG", "oga": "OGG"}
_RIFF = ("WAV", "WAVEX")
_LOSSY = {"ogg": "VORBIS", "oga": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}


@dataclass(frozen=True)
class Patch:
    """What takes the place of a file's numbers from `start` on."""

    start: int
    numbers: Numbers


class StoredSound:
    """An open sound file. Positions are samples of its own rate.

    Attributes:
        name: what to call it in messages.
        sample_rate: Hz.
        channels, length: channels, and samples of each.
        kind, subtype: libsndfile's names of the container and the encoding.
        metadata: how magnet made it; None for any other sound.
        tags: title, artist and the like, by libsndfile's names; not the comment.
        chunks: what else a wav file holds, such as loops and cue points: name and content.
    """

    def __init__(
        self,
        file: soundfile.SoundFile,
        name: str,
        metadata: dict[str, Any] | None = None,
        chunks: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self._file, self.name, self.metadata = file, name, metadata
        self.sample_rate, self.channels = int(file.samplerate), int(file.channels)
        self.length = int(file.frames)
        self.kind, self.subtype = str(file.format), str(file.subtype)
        self.tags = {tag: text for tag, text in file.copy_metadata().items() if tag != "comment"}
        self.chunks = chunks

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

    def numbers(self, start: int, stop: int) -> Numbers:
        """The file's own numbers [stop - start, channels].

        Raises:
            AudioFileError: the file is damaged there.
        """
        try:
            self._file.seek(start)
            read: Numbers = self._file.read(stop - start, dtype=self.dtype, always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise self._damaged(start) from error
        if len(read) < stop - start:
            raise self._damaged(start + len(read))
        return read

    def samples(self, start: int, stop: int) -> Samples:
        """The same as float32 [channels, stop - start] in -1..1.

        Raises:
            AudioFileError: the file is damaged there, or holds values that are not numbers.
        """
        scaled = (self.numbers(start, stop).T / self._scale).astype(np.float32)
        if not np.isfinite(scaled).all():
            raise AudioFileError(
                f"{self.name} holds values that are not numbers.", "Repair it with another tool."
            )
        return np.ascontiguousarray(scaled)

    def blocks(self) -> Iterator[Samples]:
        """All of it as float32 [channels, up to BLOCK], in order."""
        for start in range(0, self.length, BLOCK):
            yield self.samples(start, min(start + BLOCK, self.length))

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

    def _damaged(self, at: int) -> AudioFileError:
        return AudioFileError(
            f"{self.name} is damaged at {at / self.sample_rate:.2f} s.",
            "Give a file that is whole.",
        )


@contextmanager
def open_sound(source: str | os.PathLike[str] | BinaryIO) -> Iterator[StoredSound]:
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
            name, file = "the input", spool
            shutil.copyfileobj(source, spool)
        comment = comments.read_wav_comment(file)  # libsndfile loses the end of a long one
        chunks = comments.kept_chunks(file)
        spool.seek(0)
        try:
            opened = soundfile.SoundFile(file)
        except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
            raise AudioFileError(
                f"{name} is not a sound that can be read.",
                "Give a wav, flac, ogg, opus, mp3 or aiff file that is whole.",
            ) from error
        with opened:
            if opened.frames == 0:
                raise AudioFileError(
                    f"{name} holds no sound.", "Give a file with at least one sample."
                )
            made = comments.from_comment(comment or opened.comment)
            yield StoredSound(opened, name, made, chunks)


def encoding_for(sound: StoredSound, path: Path | None) -> tuple[str, str]:
    """The container and encoding of a copy of `sound`, which can hold its rate.

    Arguments, and what is raised, as in `_encoding`.
    """
    kind, subtype = _encoding(sound, path)
    check_rate(kind, subtype, sound.sample_rate, sound.name)
    return kind, subtype


def _encoding(sound: StoredSound, path: Path | None) -> tuple[str, str]:
    """libsndfile's container and encoding for a copy of `sound` under `path`'s suffix.

    The encoding is the sound's own. Of a lossy sound, what it decodes to is kept in full, unless
    the copy is of the same lossy kind.

    Args:
        path: where to; None keeps the container.

    Raises:
        AudioFileError: the suffix is unknown, or the format cannot hold the sound's numbers.
    """
    suffix = "" if path is None else path.suffix.lower().removeprefix(".")
    kind = sound.kind if path is None else _CONTAINERS.get(suffix, suffix.upper())
    if kind not in soundfile.available_formats():
        raise AudioFileError(
            f"{path} has no suffix that says a format that can be written.",
            "End the name in .wav, .flac, .aiff, .ogg, .opus or .mp3.",
        )
    same = sound.kind == kind or (kind == "WAV" and sound.kind in ("WAVEX", "RF64"))
    if same and (suffix != "opus" or sound.subtype == "OPUS"):
        return sound.kind, sound.subtype
    if suffix in _LOSSY:
        return kind, _LOSSY[suffix]
    wanted = sound.subtype if sound.exact else "FLOAT"
    if soundfile.check_format(kind, wanted):
        return kind, wanted
    # An 8-bit sound has a sign in one container and none in the other.
    other = {"PCM_U8": "PCM_S8", "PCM_S8": "PCM_U8"}.get(wanted, "")
    if other and soundfile.check_format(kind, other):
        return kind, other
    if not sound.exact and soundfile.check_format(kind, "PCM_24"):
        return kind, "PCM_24"
    raise AudioFileError(
        f"{kind.lower()} cannot hold the samples of {sound.name} ({wanted}) as they are.",
        "Name the output .wav.",
    )


def lost_chunks(sound: StoredSound, encoding: tuple[str, str]) -> str:
    """The names of the chunks that a copy in `encoding` cannot keep, in words; empty for none."""
    names = [] if encoding[0] in _RIFF else [name for name, _ in sound.chunks]
    return ", ".join(name.decode("ascii", "replace").strip() for name in names)


def write_patched(
    sound: StoredSound,
    patches: Sequence[Patch],
    target: str | os.PathLike[str] | BinaryIO,
    encoding: tuple[str, str],
    metadata: Mapping[str, Any] | None = None,
    replace: bool = True,
) -> Path | None:
    """Write `sound` again with `patches` in it; all other numbers are its own, and its tags.

    From wav to wav, its other chunks are kept, too; see `lost_chunks` for any other way.

    Args:
        patches: in order, apart.
        target: a path, written whole or not at all; or a seekable binary stream, open both ways.
        encoding: container and encoding, of `encoding_for`.
        metadata: JSON-able, kept in the file where its container can.
        replace: whether an existing file is replaced; otherwise the new one is numbered.

    Returns:
        where it is; None for a stream.

    Raises:
        AudioFileError: the file cannot be written, or the sound is damaged.
        MagnetError: the disk is full.
    """
    if not isinstance(target, (str, os.PathLike)):
        _write_patched(sound, patches, target, encoding, metadata)
        return None
    try:
        with draft(target, replace) as made, made.path.open("w+b") as file:
            _write_patched(sound, patches, file, encoding, metadata)
    except OSError as error:
        raise write_error(target, error) from error
    return made.final


def _write_patched(
    sound: StoredSound,
    patches: Sequence[Patch],
    target: BinaryIO,
    encoding: tuple[str, str],
    metadata: Mapping[str, Any] | None,
) -> None:
    kind, subtype = encoding
    comment = None if metadata is None else comments.to_comment(metadata)
    is_wav = kind in _RIFF
    try:
        with soundfile.SoundFile(
            target, "w", sound.sample_rate, sound.channels, subtype=subtype, format=kind
        ) as file:
            for tag, text in sound.tags.items():
                with suppress(soundfile.LibsndfileError):
                    setattr(file, tag, text)
            if comment is not None and not is_wav:
                with suppress(soundfile.LibsndfileError):  # some containers have no place for it
                    file.comment = comment
            for start in range(0, sound.length, BLOCK):
                stop = min(start + BLOCK, sound.length)
                block = sound.numbers(start, stop)
                for patch in patches:
                    first = max(patch.start, start)
                    last = min(patch.start + len(patch.numbers), stop)
                    if first < last:
                        part = patch.numbers[first - patch.start : last - patch.start]
                        block[first - start : last - start] = part
                file.write(block)
    except soundfile.LibsndfileError as error:
        raise AudioFileError(
            f"{kind.lower()} of {sound.channels} channels at {sound.sample_rate} Hz could not be "
            f"written: {error.error_string}",
            "Name the output .wav.",
        ) from error
    if is_wav:
        comments.finish_wav(target, comment, sound.chunks)
