"""Sounds that libsndfile cannot read (m4a, aac, webm, wma, some caf), by `ffmpeg` where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import soundfile

from magnet_cli.errors import AudioFileError

SUFFIXES = frozenset(
    {".m4a", ".m4b", ".mp4", ".aac", ".webm", ".weba", ".mka", ".mkv", ".wma"}
)  # of what is read through ffmpeg

_SECONDS = 600  # the longest that ffmpeg may take


def demuxer_of(head: bytes) -> str | None:
    """ffmpeg's name of the container that these first 16 bytes begin; None: another one.
    It is told, rather than asked: a playlist in disguise could name other files."""
    if head[4:8] == b"ftyp":
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"0&\xb2u":
        return "asf"
    # AAC in ADTS: like an mp3's frames, of layer 0.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return None


@contextmanager
def decoded(file: Path | BinaryIO, name: str) -> Iterator[tuple[Path | BinaryIO, str | None]]:
    """A wav file of what `file` decodes to and what it is, where it is of these kinds; else itself.

    Raises AudioFileError: there is no ffmpeg, or it cannot read the file.
    """
    if isinstance(file, Path):
        with file.open("rb") as stream:
            head = stream.read(16)
    else:
        file.seek(0)
        head = file.read(16)
        file.seek(0)
    demuxer = demuxer_of(head)
    if head[:4] == b"caff" and not _opens(file):  # as ffmpeg writes ALAC
        demuxer = "caf"
    if demuxer is None:
        yield file, None
        return
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioFileError(
            f"{name} is a sound that only ffmpeg can read, which is not installed.",
            "Install ffmpeg, or give a wav, flac, ogg, opus, mp3 or aiff file.",
        )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "sound.wav")
        flags = ["-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe,fd", "-f", demuxer]
        source = f"file:{file}" if isinstance(file, Path) else "pipe:0"
        if not isinstance(file, Path):  # an m4a file may keep its index at its end
            copied = Path(folder, "input")
            with copied.open("wb") as out:
                shutil.copyfileobj(file, out)
            source = f"file:{copied}"
        command = [program, *flags, "-i", source, "-map", "0:a:0", "-vn", "-map_metadata", "0"]
        command += ["-c:a", "pcm_f32le", "-rf64", "auto", "-f", "wav", str(made)]
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _unreadable(name) from error
        if ran.returncode != 0 or not made.is_file():
            raise _unreadable(name)
        yield made, {"mov": "M4A", "matroska": "WEBM", "asf": "WMA"}.get(demuxer, demuxer.upper())


def _opens(file: Path | BinaryIO) -> bool:
    try:
        soundfile.SoundFile(os.fsencode(file) if isinstance(file, Path) else file).close()
    except soundfile.LibsndfileError:
        return False
    finally:
        if not isinstance(file, Path):
            file.seek(0)
    return True


def _unreadable(name: str) -> AudioFileError:
    return AudioFileError(
        f"{name} is not a sound that ffmpeg can read.", "Give a sound file that is whole."
    )
