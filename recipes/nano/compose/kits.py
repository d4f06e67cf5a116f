"""The drum kits: General MIDI keys of the soundfont, or CC0 one-shots of Sonic Pi's samples."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from recipes.nano.compose.noise import Array, lowpass
from recipes.nano.compose.score import CLIP_SAMPLES, SAMPLE_RATE, Hit

SAMPLES_DIRECTORY = Path("/usr/share/sonic-pi/samples")
FADE_SECONDS = 0.02


@dataclass(frozen=True)
class OneShot:
    """A sample file's stem, its linear gain and, if it is to be shortened, its length in seconds."""

    sample: str
    gain: float = 1.0
    length: float | None = None


@dataclass(frozen=True)
class SoundfontKit:
    """A kit of the soundfont's percussion channel: its program, its level, and a key for each sound."""

    program: int
    gain_db: float
    keys: dict[str, int]


_GM_KEYS = {"kick": 36, "snare": 38, "hat": 42, "ride": 51, "crash": 49, "pedal": 44, "shaker": 70}
SOUNDFONT_KITS: dict[str, tuple[SoundfontKit, ...]] = {
    "acoustic": (SoundfontKit(0, -2.0, _GM_KEYS), SoundfontKit(40, -1.0, _GM_KEYS)),
    "rock": (
        SoundfontKit(0, 3.0, _GM_KEYS),
        SoundfontKit(8, 3.0, _GM_KEYS),
        SoundfontKit(16, 3.0, _GM_KEYS),
    ),
    "jazz": (SoundfontKit(32, 0.0, _GM_KEYS), SoundfontKit(40, 0.0, _GM_KEYS)),
}

# For each sound of a kit the samples it may be played with; a kit's variant picks one of each.
ONE_SHOT_KITS: dict[str, dict[str, tuple[OneShot, ...]]] = {
    "lofi": {
        "kick": (OneShot("drum_bass_soft", 1.0, 0.35), OneShot("bd_fat", 0.9, 0.23)),
        "snare": (
            OneShot("drum_snare_soft", 0.75, 0.25),
            OneShot("perc_snap", 0.6, 0.25),
            OneShot("elec_wood", 0.5, 0.2),
        ),
        "hat": (OneShot("drum_cymbal_closed", 0.3, 0.1), OneShot("drum_cymbal_pedal", 0.3, 0.12)),
    },
    "hip hop": {
        "kick": (OneShot("bd_808", 1.0, 0.5), OneShot("bd_boom", 1.0, 0.5)),
        "snare": (
            OneShot("sn_dolf", 0.55, 0.3),
            OneShot("sn_dub", 0.6, 0.28),
            OneShot("elec_hi_snare", 0.6, 0.2),
        ),
        "hat": (OneShot("drum_cymbal_closed", 0.35, 0.08), OneShot("drum_cymbal_pedal", 0.35, 0.1)),
    },
    "electronic": {
        "kick": (OneShot("bd_haus", 1.0, 0.22), OneShot("bd_tek", 1.0, 0.24)),
        "snare": (
            OneShot("sn_zome", 0.4, 0.25),
            OneShot("elec_snare", 0.45, 0.25),
            OneShot("sn_generic", 0.4, 0.25),
        ),
        "hat": (OneShot("drum_cymbal_closed", 0.45, 0.1), OneShot("elec_cymbal", 0.35, 0.08)),
    },
    "epic": {
        "boom": (OneShot("bd_boom", 1.0, 1.4), OneShot("drum_bass_hard", 1.0, 0.7)),
        "tom": (
            OneShot("drum_tom_lo_hard", 0.8, 0.6),
            OneShot("drum_tom_mid_hard", 0.8, 0.6),
            OneShot("drum_tom_lo_soft", 0.8, 0.6),
        ),
    },
    "tabla": {
        "ghe": (OneShot("tabla_ghe2", 1.0, 0.6), OneShot("tabla_ghe5", 1.0, 0.6)),
        "na": (OneShot("tabla_na", 0.8, 0.4), OneShot("tabla_na_s", 0.8, 0.4)),
        "te": (OneShot("tabla_te1", 0.7, 0.2), OneShot("tabla_te2", 0.7, 0.2)),
        "tun": (OneShot("tabla_tun1", 0.8, 0.6), OneShot("tabla_tun3", 0.8, 0.6)),
    },
}
LOFI_DRUM_CUTOFF = 7000.0


@functools.cache
def _sample(name: str) -> Array:
    """A sample as mono at the clip's rate, scaled to a peak of 1."""
    audio, rate = soundfile.read(SAMPLES_DIRECTORY / f"{name}.flac", always_2d=True)
    mono = soxr.resample(audio.mean(axis=1), rate, SAMPLE_RATE)
    return np.asarray(mono / np.abs(mono).max(), dtype=np.float64)


@functools.cache
def _one_shot(shot: OneShot) -> Array:
    audio = _sample(shot.sample)
    if shot.length is not None:
        audio = audio[: round(shot.length * SAMPLE_RATE)].copy()
        fade = min(len(audio), round(FADE_SECONDS * SAMPLE_RATE))
        audio[-fade:] *= np.linspace(1.0, 0.0, fade)
    return audio * shot.gain


def soundfont_kit(kit: str, variant: int) -> SoundfontKit:
    """One of the soundfont's sets of a kit."""
    return SOUNDFONT_KITS[kit][variant % len(SOUNDFONT_KITS[kit])]


def one_shot_drums(hits: tuple[Hit, ...], kit: str, variant: int) -> Array:
    """The hits on a one-shot kit: a whole clip of mono samples."""
    out = np.zeros(CLIP_SAMPLES)
    for hit in hits:
        choices = ONE_SHOT_KITS[kit][hit.sound]
        sound = _one_shot(choices[variant % len(choices)])
        first = round(hit.start * SAMPLE_RATE)
        length = min(len(sound), CLIP_SAMPLES - first)
        out[first : first + length] += hit.gain * sound[:length]
    return lowpass(out, LOFI_DRUM_CUTOFF) if kit == "lofi" else out


def vinyl_hiss() -> Array:
    """The crackle of a record for a whole clip, at a peak of 1."""
    loop = _sample("vinyl_hiss")
    return np.resize(loop, CLIP_SAMPLES)
