"""Keys, chords and voicings.

Only eight keys, chosen so that major and minor keys share their notes (C/Am, F/Dm, G/Em): a small model hears
every pitch often.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

TONICS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9}
KEYS = {"major": ("C", "D", "F", "G"), "minor": ("A", "C", "D", "E")}
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}

_NUMERALS = {"i": 0, "ii": 1, "iii": 2, "iv": 3, "v": 4, "vi": 5, "vii": 6}
_ROMAN = re.compile(r"^([ivIV]+)(maj7|m7b5|7|sus2|5|)$")

# Four chords, one a bar. Upper case is major, lower case minor, as musicians write them.
PROGRESSIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "plain": {
        "major": ("I V vi IV", "I vi IV V", "I IV I V"),
        "minor": ("i VI III VII", "i iv VI V", "i VII VI VII"),
    },
    "still": {
        "major": ("I IV I IV", "Imaj7 IVmaj7 Imaj7 IVmaj7"),
        "minor": ("i VI i VI", "i7 iv7 i7 iv7"),
    },
    "tense": {
        "major": ("I V IV V", "I IV V I"),
        "minor": ("i VI iv V", "i i VI V"),
    },
    "sevenths": {
        "major": ("IVmaj7 iii7 ii7 Imaj7", "Imaj7 vi7 ii7 V7", "ii7 V7 Imaj7 vi7"),
        "minor": ("i7 iv7 VImaj7 v7", "VImaj7 v7 i7 i7", "i7 VImaj7 iv7 v7"),
    },
    "swing": {
        "major": ("ii7 V7 Imaj7 vi7", "Imaj7 vi7 ii7 V7"),
        "minor": ("i7 iv7 i7 V7", "iim7b5 V7 i7 i7"),
    },
    "groove": {
        "major": ("I7 I7 IV7 IV7", "I7 IV7 I7 IV7"),
        "minor": ("i7 i7 iv7 iv7", "i7 VII i7 VII"),
    },
    "drone": {"major": ("I I I I",), "minor": ("i i i i",)},
    "power": {
        "major": ("I5 IV5 V5 IV5", "I5 V5 vi5 IV5"),
        "minor": ("i5 VI5 VII5 i5", "i5 VII5 VI5 VII5"),
    },
}


@dataclass(frozen=True)
class Key:
    """A tonic and a mode, "major" or "minor"."""

    tonic: str
    mode: str

    @property
    def name(self) -> str:
        return f"{self.tonic} {self.mode}"

    def scale_pitch(self, step: int) -> int:
        """MIDI pitch of a scale step counted from the tonic in the octave of middle C."""
        octave, degree = divmod(step, 7)
        return 60 + TONICS[self.tonic] + SCALES[self.mode][degree] + 12 * octave

    def nearest_step(self, pitch: int) -> int:
        """The scale step whose pitch is nearest to `pitch`, the lower one if two are."""
        return _nearest_step(self, pitch)


@functools.cache
def _nearest_step(key: Key, pitch: int) -> int:
    return min(range(-35, 36), key=lambda step: abs(key.scale_pitch(step) - pitch))


@dataclass(frozen=True)
class Chord:
    """Pitch classes from the root upwards."""

    root: int
    intervals: tuple[int, ...]

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        return tuple((self.root + interval) % 12 for interval in self.intervals)


def parse_chord(numeral: str, key: Key) -> Chord:
    """A roman numeral with an optional suffix (7, maj7, m7b5, sus2, 5) in a key."""
    match = _ROMAN.match(numeral)
    if match is None:
        raise ValueError(f"not a roman numeral chord: {numeral!r}")
    letters, suffix = match.groups()
    major = letters.isupper()
    root = (TONICS[key.tonic] + SCALES[key.mode][_NUMERALS[letters.lower()]]) % 12
    intervals = {
        "": (0, 4, 7) if major else (0, 3, 7),
        "7": (0, 4, 7, 10) if major else (0, 3, 7, 10),
        "maj7": (0, 4, 7, 11),
        "m7b5": (0, 3, 6, 10),
        "sus2": (0, 2, 7),
        "5": (0, 7),
    }[suffix]
    return Chord(root, intervals)


def progression(text: str, key: Key) -> tuple[Chord, ...]:
    """The chords of a line such as "i VI III VII"."""
    return tuple(parse_chord(numeral, key) for numeral in text.split())


@functools.cache
def voicing(chord: Chord, centre: int) -> tuple[int, ...]:
    """The close position of the chord whose mean pitch lies nearest to `centre`, ascending."""
    classes = chord.pitch_classes
    candidates = []
    for inversion in range(len(classes)):
        order = classes[inversion:] + classes[:inversion]
        for octave in range(1, 9):
            pitches = [12 * octave + order[0]]
            for pitch_class in order[1:]:
                pitches.append(pitches[-1] + (pitch_class - pitches[-1]) % 12)
            candidates.append(tuple(pitches))
    return min(candidates, key=lambda c: (abs(sum(c) / len(c) - centre), c))


@functools.cache
def ladder(chord: Chord, centre: int, rung: int) -> int:
    """The chord tone `rung` steps above (below if negative) the one nearest to `centre`."""
    tones = [p for p in range(12, 116) if p % 12 in chord.pitch_classes]
    nearest = min(range(len(tones)), key=lambda i: (abs(tones[i] - centre), i))
    return tones[max(0, min(len(tones) - 1, nearest + rung))]


@functools.cache
def nearest_pitch(pitch_class: int, centre: int) -> int:
    """The pitch of a class nearest to `centre`, the lower one if two are."""
    return min(
        range(centre - 6, centre + 7), key=lambda p: ((p - pitch_class) % 12, abs(p - centre))
    )
