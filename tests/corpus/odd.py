"""Odd but valid sounds, generated, each with its rate, channels and seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from magnet_cli.audio import metadata, whole

SECONDS = 0.5


@dataclass(frozen=True)
class Odd:
    """A sound.

    Attributes:
        name: of its case.
        make: writes it into a folder, and says where.
        rate, channels, seconds: what it is.
        within: seconds that a lossy encoding may be longer or shorter.
    """

    name: str
    make: Callable[[Path], Path]
    rate: int
    channels: int
    seconds: float = SECONDS
    within: float = 0.0


def wave(rate: int, channels: int, seconds: float = SECONDS) -> np.ndarray:
    """[samples, channels]."""
    times = np.arange(round(rate * seconds))[:, None] / rate
    return 0.3 * np.sin(2 * np.pi * times * (220 + 20 * np.arange(channels)[None]))


def written(kind: str, subtype: str, rate: int, channels: int, change=bytes, name="") -> Odd:
    """A file of libsndfile, its bytes changed."""
    suffix = {"MP3": "mp3", "OGG": "ogg", "FLAC": "flac", "CAF": "caf"}.get(kind, "snd")

    def make(folder: Path) -> Path:
        path = folder / f"odd.{suffix}"
        soundfile.write(path, wave(rate, channels), rate, format=kind, subtype=subtype)
        path.write_bytes(change(path.read_bytes()))
        return path

    exact = subtype.startswith(("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW", "ALAC", "VORBIS", "OPUS"))
    within = 0.0 if exact else 0.2 if kind == "MP3" else 0.06
    title = f"{name or 'plain'}-{kind}-{subtype}-{rate}-{channels}"
    return Odd(title, make, rate, channels, SECONDS, within)


def bare(data: bytes) -> bytes:
    """An mp3 without the frame that counts the others."""
    frames = list(whole.frames_of(data))
    return data[frames[1].at :]


def uncounted(data: bytes) -> bytes:
    """A flac as written to a pipe."""
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


def tagged(data: bytes) -> bytes:
    """An mp3 with a title and a picture before it."""
    return (
        metadata.id3_tag({"title": "Ünïcode ピアノ"}, None, [b"\0image/png\0\x03\0" + bytes(999)])
        + data
    )


def unended(data: bytes) -> bytes:
    """A wav as written to a pipe."""
    at = data.index(b"data")
    return data[: at + 4] + b"\xff" * 4 + data[at + 8 :]


def cases() -> list[Odd]:
    """All of them."""
    found = []
    for kind in ("WAV", "WAVEX", "AIFF", "AU", "W64", "RF64", "CAF"):
        for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"):
            if soundfile.check_format(kind, subtype):
                found += [written(kind, subtype, rate, n) for rate, n in ((8000, 1), (44_100, 2))]
    for subtype in ("IMA_ADPCM", "MS_ADPCM"):
        found += [written("WAV", subtype, rate, 1) for rate in (8000, 22_050, 44_100)]
    found += [written("WAV", "GSM610", 8000, 1), written("WAV", "PCM_U8", 11_025, 1)]
    found += [written("WAV", "PCM_16", 48_000, n, name="surround") for n in (3, 4, 6, 8)]
    found += [written("CAF", s, 44_100, n) for s in ("ALAC_16", "ALAC_24") for n in (1, 2)]
    found += [
        written("FLAC", s, r, 1) for s in ("PCM_16", "PCM_24") for r in (8000, 44_100, 96_000)
    ]
    found += [
        written("FLAC", s, r, n, uncounted, "pipe")
        for s in ("PCM_16", "PCM_24")
        for r in (16_000, 44_100)
        for n in (1, 2)
    ]
    found += [
        written("WAV", "PCM_16", r, n, unended, "pipe") for r in (8000, 48_000) for n in (1, 2)
    ]
    for rate in (8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000):
        for change, name in ((bytes, ""), (bare, "bare"), (tagged, "tagged")):
            found += [written("MP3", "MPEG_LAYER_III", rate, n, change, name) for n in (1, 2)]
    found += [written("OGG", "VORBIS", r, n) for r in (8000, 22_050, 44_100) for n in (1, 2)]
    found += [written("OGG", "OPUS", r, n) for r in (8000, 24_000, 48_000) for n in (1, 2)]
    return found
