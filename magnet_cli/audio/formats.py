"""File formats: a table of writable formats, the choice by a path, and formats that libsndfile cannot read
(m4a, aac, webm, wma, some caf), for which `ffmpeg` is used if installed.
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
from magnet_cli.files import from_start, muted
from magnet_cli.settings import AudioFormat, OutputConfig, required

if TYPE_CHECKING:
    from magnet_cli.audio.sound import Numbers, Samples, Sound

RIFF = ("WAV", "WAVEX", "RF64")  # libsndfile's names of containers with RIFF chunks

# libsndfile's containers and lossy encodings for suffixes that an edit may have.
_CONTAINERS = {"aif": "AIFF", "aiff": "AIFF", "opus": "OGG", "oga": "OGG"}
_LOSSY = {"ogg": "VORBIS", "oga": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}


# Lossless encodings, and the types that hold all their bits.
EXACT = {
    "PCM_S8": "int16",
    "PCM_U8": "int16",
    "PCM_16": "int16",
    "PCM_24": "int32",
    "PCM_32": "int32",
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "ULAW": "int16",
    "ALAW": "int16",
    # These decode to 16 bits and are written again as 16-bit PCM.
    **dict.fromkeys(("GSM610", "IMA_ADPCM", "MS_ADPCM", "VOX_ADPCM"), "int16"),
    **dict.fromkeys(("G721_32", "G723_24", "G723_40"), "int16"),
    **dict.fromkeys(("NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32"), "int16"),
    "ALAC_16": "int16",
    "ALAC_20": "int32",
    "ALAC_24": "int32",
    "ALAC_32": "int32",
}

# The value that stands for 1.0 in each type of integers.
SCALES = {"int16": 2.0**15, "int32": 2.0**31}

# Lossless encodings of one container, and the PCM encodings that hold the same bits elsewhere.
_PCM_OF = {"ALAC_16": "PCM_16", "ALAC_20": "PCM_24", "ALAC_24": "PCM_24", "ALAC_32": "PCM_32"}

# Encodings that decode to 16 bits, and are written again as 16-bit PCM.
ONCE_PCM = frozenset(
    {"GSM610", "IMA_ADPCM", "MS_ADPCM", "VOX_ADPCM", "G721_32", "G723_24", "G723_40"}
    | {"NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32", "DWVW_12", "DWVW_16"}
)


@dataclass(frozen=True)
class Container:
    """How libsndfile writes a format.

    Attributes:
        kind: libsndfile's name of the container.
        subtypes: libsndfile's name of the encoding for each bit depth; None is the default.
        rates: supported sample rates in Hz; empty: any up to `most`.
        most: the highest rate in Hz if `rates` is empty; None: no limit.
        tens: above this rate in Hz only multiples of 10; None: any.
    """

    kind: str
    subtypes: dict[str | None, str]
    rates: tuple[int, ...] = ()
    most: int | None = None
    tens: int | None = None

    def holds(self, rate: int) -> bool:
        """Whether a sound at `rate` Hz can be written."""
        if self.rates:
            return rate in self.rates
        whole = self.tens is None or rate <= self.tens or rate % 10 == 0
        return whole and (self.most is None or rate <= self.most)

    @property
    def takes(self) -> str:
        """The supported rates, in words."""
        above = "" if self.tens is None else f", above {self.tens} multiples of 10"
        return ", ".join(map(str, self.rates)) or f"up to {self.most}{above}"


_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # RFC 6716, section 2.1.3
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # MPEG-1, -2, -2.5

CONTAINERS: dict[AudioFormat, Container] = {
    "wav": Container("WAV", {None: "PCM_16", "16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}),
    "flac": Container(
        "FLAC", {None: "PCM_16", "16": "PCM_16", "24": "PCM_24"}, most=655_350, tens=65_535
    ),
    # libvorbis supports no higher rate, and libsndfile crashes for one.
    "ogg": Container("OGG", {None: "VORBIS"}, most=200_000),
    "opus": Container("OGG", {None: "OPUS"}, _OPUS_RATES),
    "mp3": Container("MP3", {None: "MPEG_LAYER_III"}, _MP3_RATES),
}


def format_of(path: Path | None, output: OutputConfig) -> AudioFormat:
    """The format to write: the requested one, else the suffix's, else (without a path) wav.
    Raises AudioFileError if the suffix is unknown, or contradicts the requested format."""
    known = ", ".join(get_args(AudioFormat))
    suffix = path.suffix.lower().removeprefix(".") if path is not None else ""
    by_suffix = next((name for name in CONTAINERS if name == suffix), None)
    if output.format is not None:
        if by_suffix not in (None, output.format):
            raise AudioFileError(
                f"{path} ends in .{suffix}, but --format is {output.format}.",
                f"Use the suffix .{output.format}, or remove --format.",
            )
        return output.format
    if by_suffix is not None:
        return by_suffix
    if path is None:
        return "wav"
    what = f"the suffix .{suffix}, which cannot be written" if suffix else "no suffix"
    raise AudioFileError(
        f"{path} has {what}.",
        f"End the name in one of {known}, or use --format.",
    )


def suffix_of(kind: str, subtype: str) -> str:
    """The suffix, without its dot, for libsndfile's names of a format: wav, opus, aiff."""
    if kind in ("WAVEX", "RF64"):
        return "wav"
    kinds = (
        name
        for name, container in CONTAINERS.items()
        if container.kind == kind and subtype in container.subtypes.values()
    )
    return next(kinds, kind.lower())


def checked_format(path: Path | None, output: OutputConfig) -> AudioFormat:
    """`format_of`, checking that the format supports the requested bit depth and sample rate.
    Raises AudioFileError if it does not, or as `format_of`."""
    name = format_of(path, output)
    subtype_of(name, output)
    rate_for(name, output, output.sample_rate or 48_000)
    return name


def subtype_of(name: AudioFormat, output: OutputConfig) -> str:
    """libsndfile's name of the encoding for the requested bit depth.
    Raises AudioFileError if the format does not support it."""
    subtypes = CONTAINERS[name].subtypes
    if output.bit_depth not in subtypes:
        depths = ", ".join(depth for depth in subtypes if depth is not None)
        hint = f"It takes {depths}." if depths else "Remove --bit-depth."
        raise AudioFileError(f"{name} has no bit depth {output.bit_depth}.", hint)
    return subtypes[output.bit_depth]


def rate_for(name: AudioFormat, output: OutputConfig, rate: int) -> int:
    """The sample rate in Hz to write: the requested one, else `rate` or the next supported one.
    Raises AudioFileError if the format does not support the requested rate."""
    container = CONTAINERS[name]
    wanted = output.sample_rate
    if wanted is None:
        if name == "opus":
            return 48_000  # Opus works at this rate internally
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
    """Raise AudioFileError if an encoding does not support the sample rate of the sound `name`.

    Args:
        kind, subtype: libsndfile's names of the container and the encoding.
        rate: Hz.
    """
    for format_, container in CONTAINERS.items():
        ours = container.kind == kind and (kind != "OGG" or subtype in container.subtypes.values())
        if ours and not container.holds(rate):
            raise AudioFileError(
                f"{name} has {rate} Hz, which {format_} cannot hold; it takes {container.takes}.",
                "Name the output .wav.",
            )


def encoding_for(sound: Sound, path: Path | None) -> tuple[str, str]:
    """As `_encoding`, also checking the sample rate."""
    kind, subtype = _encoding(sound, path)
    check_rate(kind, subtype, sound.sample_rate, sound.name)
    return kind, subtype


def _encoding(sound: Sound, path: Path | None) -> tuple[str, str]:
    """libsndfile's container and encoding for a copy of `sound` under `path`'s suffix.

    The encoding is the sound's. A lossy sound is copied without further loss, unless the copy is of the same
    lossy format.

    Args:
        path: the copy's path; None keeps the container.

    Raises AudioFileError if the suffix is unknown, or the format cannot hold the sound's values.
    """
    import soundfile

    suffix = "" if path is None else path.suffix.lower().removeprefix(".")
    kind = sound.kind if path is None else _CONTAINERS.get(suffix, suffix.upper())
    if path is None and sound.subtype == "LOSSY":  # as ffmpeg read it
        kind = "WAV"
    if kind not in soundfile.available_formats():
        raise AudioFileError(
            f"{path} has no suffix of a format that can be written.",
            "End the name in .wav, .flac, .aiff, .ogg, .opus or .mp3.",
        )
    takes_pcm = soundfile.check_format(kind, "PCM_16")
    if sound.subtype in ONCE_PCM and suffix not in _LOSSY and takes_pcm:
        # Encoding it again would change all samples, so the decoded 16-bit values are written.
        return kind, "PCM_16"
    same = sound.kind == kind or (kind == "WAV" and sound.kind in ("WAVEX", "RF64"))
    if same and (suffix != "opus" or sound.subtype == "OPUS"):
        return sound.kind, sound.subtype
    if suffix in _LOSSY:
        return kind, _LOSSY[suffix]
    wanted = _PCM_OF.get(sound.subtype, sound.subtype) if sound.exact else "FLOAT"
    if soundfile.check_format(kind, wanted):
        return kind, wanted
    # 8-bit samples are signed in one container and unsigned in the other.
    other = {"PCM_U8": "PCM_S8", "PCM_S8": "PCM_U8"}.get(wanted, "")
    if other and soundfile.check_format(kind, other):
        return kind, other
    if not sound.exact and soundfile.check_format(kind, "PCM_24"):
        return kind, "PCM_24"
    raise AudioFileError(
        f"{kind.lower()} cannot hold the samples of {sound.name} ({wanted}) unchanged.",
        "Name the output .wav.",
    )


def as_stored(samples: Samples, subtype: str) -> Numbers:
    """Convert samples of any shape to the values of an encoding, rounded (libsndfile would truncate them)
    and clipped; those of a lossy encoding stay."""
    import numpy as np

    dtype = EXACT.get(subtype, "float32")
    scaled = samples.astype(np.float64) * (scale := SCALES.get(dtype, 1.0))
    if dtype.startswith("float"):
        return scaled.astype(dtype)
    # 24- and 8-bit samples are the upper bytes of a larger type; the file drops the lowest byte.
    coarse = 256 if subtype in ("PCM_24", "PCM_S8", "PCM_U8") else 1
    return np.clip(np.rint(scaled / coarse) * coarse, -scale, scale - coarse).astype(dtype)


def lost_chunks(sound: Sound, encoding: tuple[str, str]) -> str:
    """Names of the chunks that a copy in `encoding` cannot keep, separated by commas."""
    names = [] if encoding[0] in RIFF else [name for name, _ in sound.chunks]
    if encoding[0] in ("FLAC", "OGG") and sound.points is not None:
        names = [name for name in names if name != b"smpl"]  # kept in tags
    lost = [name.decode("ascii", "replace").strip() for name in names]
    if sound.has_picture and not (sound.pictures and encoding[0] == "MP3"):
        lost.append("picture")
    return ", ".join(lost)


# ------------------------------------------------------------------------------------- by ffmpeg

FFMPEG_SUFFIXES = frozenset(
    {".m4a", ".m4b", ".mp4", ".aac", ".webm", ".weba", ".mka", ".mkv", ".wma"}
)
_SECONDS = 600  # time limit for ffmpeg


def demuxer_of(head: bytes) -> str | None:
    """ffmpeg's name of the container with these first 16 bytes, or None.
    ffmpeg is told the container and does not detect it, as a disguised playlist could name other files."""
    if head[4:8] == b"ftyp":
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"0&\xb2u":
        return "asf"
    # AAC in ADTS: like mp3 frames, with layer 0.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return None


@contextmanager
def decoded(file: Path | BinaryIO, name: str) -> Iterator[tuple[Path | BinaryIO, str | None]]:
    """Yield a wav file decoded by ffmpeg and the format's name, or `file` itself if it needs no ffmpeg.

    Raises AudioFileError if ffmpeg is missing or cannot read the file.
    """
    with from_start(file) as stream:
        head = stream.read(16)
    demuxer = demuxer_of(head)
    if head[:4] == b"caff" and not _opens(file):  # as ffmpeg writes ALAC
        demuxer = "caf"
    if demuxer is None:
        yield file, None
        return
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioFileError(
            f"{name} can only be read with ffmpeg, which is not installed.",
            "Install ffmpeg, or give a wav, flac, ogg, opus, mp3 or aiff file.",
        )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "sound.wav")
        flags = ["-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe,fd", "-f", demuxer]
        if not isinstance(file, Path):  # an m4a file may have its index at the end
            stream, file = file, Path(folder, "input")
            with file.open("wb") as out:
                shutil.copyfileobj(stream, out)
        command = [program, *flags, "-i", f"file:{file}", "-map", "0:a:0", "-vn"]
        command += ["-map_metadata", "0", "-c:a", "pcm_f32le", "-rf64", "auto", "-f", "wav"]
        command.append(str(made))
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
        with muted():
            soundfile.SoundFile(os.fsencode(file) if isinstance(file, Path) else file).close()
    except soundfile.LibsndfileError:
        return False
    finally:
        if not isinstance(file, Path):
            file.seek(0)
    return True


def _unreadable(name: str) -> AudioFileError:
    return AudioFileError(
        f"{name} is not a sound that ffmpeg can read.", "Give an intact sound file."
    )
