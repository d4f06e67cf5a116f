"""File formats: a table of those that can be written, which of them a path means, and those that libsndfile
cannot read (m4a, aac, webm, wma, some caf), which `ffmpeg` reads where it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, get_args

from magnet_cli.errors import AudioFileError
from magnet_cli.settings import AudioFormat, OutputConfig, required

if TYPE_CHECKING:
    from magnet_cli.audio.sound import Sound

RIFF = ("WAV", "WAVEX", "RF64")  # libsndfile's names of what has chunks of its own

# What other suffixes that an edit may have mean to libsndfile.
_CONTAINERS = {"aif": "AIFF", "aiff": "AIFF", "opus": "OGG", "oga": "OGG"}
_LOSSY = {"ogg": "VORBIS", "oga": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}


# Lossless encodings of one container, and what holds the same bits in the others.
_PCM_OF = {"ALAC_16": "PCM_16", "ALAC_20": "PCM_24", "ALAC_24": "PCM_24", "ALAC_32": "PCM_32"}

# Encodings that are read and written again as what they decode to, which is 16 bits.
ONCE_PCM = frozenset(
    {"GSM610", "IMA_ADPCM", "MS_ADPCM", "VOX_ADPCM", "G721_32", "G723_24", "G723_40"}
    | {"NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32", "DWVW_12", "DWVW_16"}
)


@dataclass(frozen=True)
class Container:
    """How libsndfile writes a format.

    Attributes:
        kind: libsndfile's name of the container.
        subtypes: libsndfile's name of the encoding for each bit depth; None where there is but one.
        rates: sample rates in Hz that the encoding can hold; empty where any will do.
        most: the highest rate in Hz, where `rates` is empty; None: there is no end to them.
    """

    kind: str
    subtypes: dict[str | None, str]
    rates: tuple[int, ...] = ()
    most: int | None = None

    def holds(self, rate: int) -> bool:
        """Whether a sound at `rate` Hz can be written."""
        if self.rates:
            return rate in self.rates
        return self.most is None or rate <= self.most

    @property
    def takes(self) -> str:
        """The rates that it can hold, in words."""
        return ", ".join(map(str, self.rates)) or f"up to {self.most}"


_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # RFC 6716, section 2.1.3
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # MPEG-1, -2, -2.5

CONTAINERS: dict[AudioFormat, Container] = {
    "wav": Container("WAV", {None: "PCM_16", "16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}),
    "flac": Container("FLAC", {None: "PCM_16", "16": "PCM_16", "24": "PCM_24"}, most=655_350),
    # libvorbis knows no higher rate, and libsndfile crashes where it is asked for one.
    "ogg": Container("OGG", {None: "VORBIS"}, most=200_000),
    "opus": Container("OGG", {None: "OPUS"}, _OPUS_RATES),
    "mp3": Container("MP3", {None: "MPEG_LAYER_III"}, _MP3_RATES),
}


def format_of(path: Path | None, output: OutputConfig) -> AudioFormat:
    """The format to write: the one asked for, else the suffix's, else (for no path) wav. Raises
    AudioFileError: the suffix is unknown, or is that of another format than the one asked for."""
    known = ", ".join(get_args(AudioFormat))
    suffix = path.suffix.lower().removeprefix(".") if path is not None else ""
    by_suffix = next((name for name in CONTAINERS if name == suffix), None)
    if output.format is not None:
        if by_suffix not in (None, output.format):
            raise AudioFileError(
                f"{path} ends in .{suffix}, but --format is {output.format}.",
                f"Name the file with .{output.format}, or leave --format out.",
            )
        return output.format
    if by_suffix is not None:
        return by_suffix
    if path is None:
        return "wav"
    what = f"the suffix .{suffix}" if suffix else "no suffix"
    raise AudioFileError(
        f"{path} has {what}, which says no audio format that can be written.",
        f"End the name in one of {known}, or say --format.",
    )


def suffix_of(kind: str, subtype: str) -> str:
    """The suffix, without its dot, of a file that libsndfile calls so: wav, opus, aiff."""
    if kind in ("WAVEX", "RF64"):
        return "wav"
    kinds = (
        name
        for name, container in CONTAINERS.items()
        if container.kind == kind and subtype in container.subtypes.values()
    )
    return next(kinds, kind.lower())


def checked_format(path: Path | None, output: OutputConfig) -> AudioFormat:
    """`format_of`, where the format can hold the bit depth and sample rate that were asked for.
    Raises AudioFileError: it cannot, or as `format_of`."""
    name = format_of(path, output)
    subtype_of(name, output)
    rate_for(name, output, output.sample_rate or 48_000)
    return name


def subtype_of(name: AudioFormat, output: OutputConfig) -> str:
    """libsndfile's name of the encoding for the bit depth asked for.
    Raises AudioFileError: the format has no such bit depth."""
    subtypes = CONTAINERS[name].subtypes
    if output.bit_depth not in subtypes:
        depths = ", ".join(depth for depth in subtypes if depth is not None)
        hint = f"It takes {depths}." if depths else "Leave --bit-depth out."
        raise AudioFileError(f"{name} has no bit depth {output.bit_depth}.", hint)
    return subtypes[output.bit_depth]


def rate_for(name: AudioFormat, output: OutputConfig, rate: int) -> int:
    """The sample rate in Hz to write: the one asked for, else `rate` or the next the format holds.
    Raises AudioFileError: the rate asked for is one that the format cannot hold."""
    container = CONTAINERS[name]
    wanted = output.sample_rate
    if wanted is None:
        if name == "opus":
            return 48_000  # it works at that inside whatever it is given
        if container.holds(rate):
            return rate
        rates = container.rates or (required(container.most),)
        return next((r for r in rates if r >= rate), rates[-1])
    if not container.holds(wanted):
        raise AudioFileError(
            f"{name} cannot hold {wanted} Hz.", f"--sample-rate takes {container.takes}."
        )
    return wanted


def check_rate(kind: str, subtype: str, rate: int, name: str) -> None:
    """Refuse to write the sound called `name` at its own rate where the encoding cannot hold it.

    Args:
        kind, subtype: libsndfile's names of the container and the encoding.
        rate: Hz.

    Raises AudioFileError: it cannot.
    """
    for format_, container in CONTAINERS.items():
        ours = container.kind == kind and (kind != "OGG" or subtype in container.subtypes.values())
        if ours and not container.holds(rate):
            raise AudioFileError(
                f"{name} has {rate} Hz, which {format_} cannot hold; it takes {container.takes}.",
                "Name the output .wav.",
            )


def encoding_for(sound: Sound, path: Path | None) -> tuple[str, str]:
    """The container and encoding of a copy of `sound`, which can hold its rate.

    Arguments, and what is raised, as in `_encoding`.
    """
    kind, subtype = _encoding(sound, path)
    check_rate(kind, subtype, sound.sample_rate, sound.name)
    return kind, subtype


def _encoding(sound: Sound, path: Path | None) -> tuple[str, str]:
    """libsndfile's container and encoding for a copy of `sound` under `path`'s suffix.

    The encoding is the sound's own. Of a lossy sound, what it decodes to is kept in full, unless
    the copy is of the same lossy kind.

    Args:
        path: where to; None keeps the container.

    Raises AudioFileError: the suffix is unknown, or the format cannot hold the sound's numbers.
    """
    import soundfile

    suffix = "" if path is None else path.suffix.lower().removeprefix(".")
    kind = sound.kind if path is None else _CONTAINERS.get(suffix, suffix.upper())
    if path is None and sound.subtype == "LOSSY":  # as ffmpeg read it
        kind = "WAV"
    if kind not in soundfile.available_formats():
        raise AudioFileError(
            f"{path} has no suffix that says a format that can be written.",
            "End the name in .wav, .flac, .aiff, .ogg, .opus or .mp3.",
        )
    if sound.subtype in ONCE_PCM and (path is None or suffix not in _LOSSY):
        # Writing it again would change all samples: what it decodes to is kept, in 16 bits.
        if path is None:
            kind = sound.kind
        if soundfile.check_format(kind, "PCM_16"):
            return kind, "PCM_16"
    same = sound.kind == kind or (kind == "WAV" and sound.kind in ("WAVEX", "RF64"))
    if same and (suffix != "opus" or sound.subtype == "OPUS"):
        return sound.kind, sound.subtype
    if suffix in _LOSSY:
        return kind, _LOSSY[suffix]
    wanted = _PCM_OF.get(sound.subtype, sound.subtype) if sound.exact else "FLOAT"
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


def lost_chunks(sound: Sound, encoding: tuple[str, str]) -> str:
    """The names of the chunks that a copy in `encoding` cannot keep, in words; empty for none."""
    names = [] if encoding[0] in RIFF else [name for name, _ in sound.chunks]
    if encoding[0] in ("FLAC", "OGG") and sound.points is not None:
        names = [name for name in names if name != b"smpl"]  # its tags say it
    lost = [name.decode("ascii", "replace").strip() for name in names]
    if sound.has_picture and not (sound.pictures and encoding[0] == "MP3"):
        lost.append("picture")
    return ", ".join(lost)


# ------------------------------------------------------------------------------------- by ffmpeg

FFMPEG_SUFFIXES = frozenset(
    {".m4a", ".m4b", ".mp4", ".aac", ".webm", ".weba", ".mka", ".mkv", ".wma"}
)
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
    import soundfile

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
