"""What a pitched instrument plays over the chords, one function per texture.

Each draws its pattern once and repeats it bar by bar over the changing chords: clips are regular, and their
first bars show what is characteristic of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from recipes.nano.compose.harmony import Chord, Key, ladder, nearest_pitch, voicing
from recipes.nano.compose.score import CLIP_SECONDS, Note, snap

BEATS = 4  # per bar; every clip is in four


@dataclass(frozen=True)
class Grid:
    """Time and harmony: a beat in seconds, the swing of off-beat eighths, and one chord a bar."""

    beat_seconds: float
    chords: tuple[Chord, ...]
    key: Key
    swing: float = 0.5

    @property
    def bars(self) -> int:
        return math.ceil(CLIP_SECONDS / (BEATS * self.beat_seconds) - 1e-9)

    def chord(self, bar: int) -> Chord:
        return self.chords[bar % len(self.chords)]

    def at(self, bar: int, beat: float) -> float:
        """Seconds of a beat (0..4, fractions allowed) of a bar, swung and snapped to the grid."""
        whole, fraction = divmod(beat, 1.0)
        if abs(fraction - 0.5) < 1e-6:
            fraction = self.swing
        return snap((bar * BEATS + whole + fraction) * self.beat_seconds)


@dataclass(frozen=True)
class Voice:
    """How the part plays: its register, its loudness (MIDI velocity) and its density, 0 to 2."""

    part: int
    centre: int
    velocity: int
    density: int = 1


def _play(
    grid: Grid, voice: Voice, bar: int, beat: float, beats: float, pitch: int, accent: float = 1.0
) -> Note:
    start = grid.at(bar, beat)
    end = max(start + 0.06, start + beats * grid.beat_seconds - 0.01)
    velocity = max(1, min(127, round(voice.velocity * accent)))
    return Note(start, end, pitch, velocity, voice.part)


# (beat, length in beats) of block chords within a bar, sparse to dense.
_CHORD_RHYTHMS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((0, 4),), ((0, 2), (2, 2))),
    (((0, 2), (2, 2)), ((0, 1.5), (1.5, 2.5)), ((0, 1.5), (2.5, 1.5))),
    (
        ((0, 1), (1, 1), (2, 1), (3, 1)),
        ((0, 1.5), (1.5, 1.5), (3, 1)),
        ((0, 1), (1.5, 1), (2.5, 1.5)),
    ),
)


def chords(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """Block chords in a repeated rhythm, the root below them at each bar's start."""
    rhythm = rng.choice(_CHORD_RHYTHMS[voice.density])
    notes = []
    for bar in range(grid.bars):
        chord = grid.chord(bar)
        notes.append(
            _play(grid, voice, bar, 0, BEATS, nearest_pitch(chord.root, voice.centre - 20), 0.9)
        )
        for beat, beats in rhythm:
            for pitch in voicing(chord, voice.centre):
                notes.append(
                    _play(grid, voice, bar, beat, beats, pitch, 1.0 if beat == 0 else 0.88)
                )
    return notes


_ARPEGGIOS = (
    (0, 1, 2, 3, 4, 3, 2, 1),
    (0, 2, 1, 2, 3, 2, 1, 2),
    (0, 1, 2, 3, 0, 1, 2, 3),
    (0, 1, 2, 4, 3, 2, 1, 2),
)


def arpeggio(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """A broken chord, rising and falling: eighths, sixteenths where dense, quarters where sparse."""
    pattern = rng.choice(_ARPEGGIOS)
    step = (1.0, 0.5, 0.25)[voice.density]
    notes = []
    for bar in range(grid.bars):
        low = voice.centre - 7
        for index in range(round(BEATS / step)):
            pitch = ladder(grid.chord(bar), low, pattern[index % len(pattern)])
            accent = 1.0 if index % len(pattern) == 0 else 0.85
            notes.append(_play(grid, voice, bar, index * step, max(step, 1.0), pitch, accent))
    return notes


def picking(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """Finger picking: the thumb alternates two bass notes, the fingers fill the eighths."""
    fingers = rng.choice(((1, 2, 3, 2), (2, 1, 3, 1), (3, 2, 1, 2)))
    notes = []
    for bar in range(grid.bars):
        chord = grid.chord(bar)
        bass = nearest_pitch(chord.root, voice.centre - 14)
        fifth = nearest_pitch((chord.root + 7) % 12, voice.centre - 12)
        for beat, pitch in ((0, bass), (2, fifth)):
            notes.append(_play(grid, voice, bar, beat, 2, pitch, 1.0))
        step = 0.5 if voice.density else 1.0
        for index in range(round(BEATS / step)):
            if index == 0:
                continue
            pitch = ladder(chord, voice.centre, fingers[index % 4] - 1)
            notes.append(_play(grid, voice, bar, index * step, 1, pitch, 0.82))
    return notes


_STRUMS = ((0, 1, 2, 3), (0, 1, 1.5, 2.5, 3), (0, 1.5, 2, 3, 3.5), (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5))


def strum(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """Strummed guitar chords: five strings 10 ms apart, down on the beat and up off it."""
    rhythm = _STRUMS[0] if voice.density == 0 else rng.choice(_STRUMS[1:])
    notes = []
    for bar in range(grid.bars):
        chord = grid.chord(bar)
        root = nearest_pitch(chord.root, voice.centre - 12)
        strings = (root, *(ladder(chord, root + 7, rung) for rung in range(4)))
        for index, beat in enumerate(rhythm):
            following = rhythm[index + 1] if index + 1 < len(rhythm) else BEATS
            down = beat == int(beat)
            for order, pitch in enumerate(strings if down else reversed(strings)):
                note = _play(grid, voice, bar, beat, following - beat, pitch, 1.0 if down else 0.8)
                shift = 0.01 * order
                notes.append(
                    Note(note.start + shift, note.end + shift, pitch, note.velocity, voice.part)
                )
    return notes


# Rhythm (beat, beats) and contour (rungs of the chord ladder; halves are passing scale steps).
_MOTIFS: tuple[tuple[tuple[tuple[float, float, float], ...], ...], ...] = (
    (
        ((0, 4, 0),),
        ((0, 2, 0), (2, 2, 1)),
        ((0, 3, 1), (3, 1, 0)),
        ((0, 2, 2), (2, 1, 1), (3, 1, 0)),
    ),
    (
        ((0, 1, 0), (1, 1, 1), (2, 2, 2)),
        ((0, 1.5, 1), (1.5, 0.5, 0.5), (2, 2, 0)),
        ((0, 1, 2), (1, 1, 1), (2, 1, 0), (3, 1, 1)),
        ((0, 1, 0), (1, 0.5, 0.5), (1.5, 0.5, 1), (2, 2, 2)),
    ),
    (
        tuple((i / 2, 0.5, c) for i, c in enumerate((0, 0.5, 1, 0.5, 1, 2, 1, 0.5))),
        tuple((i / 2, 0.5, c) for i, c in enumerate((2, 1, 0, 1, 2, 1, 0, 1))),
        ((0, 0.5, 0), (0.5, 0.5, 1), (1, 1, 2), (2, 0.5, 1), (2.5, 0.5, 0.5), (3, 1, 0)),
        ((0, 1, 1), (1, 0.5, 1.5), (1.5, 0.5, 1), (2, 0.5, 0), (2.5, 0.5, 0.5), (3, 1, 1)),
    ),
)


def _contour_pitch(grid: Grid, bar: int, centre: int, height: float) -> int:
    """A whole height is a chord tone; a half is the scale step above the tone under it."""
    tone = ladder(grid.chord(bar), centre, math.floor(height))
    if height == math.floor(height):
        return tone
    return grid.key.scale_pitch(grid.key.nearest_step(tone) + 1)


def melody(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """A one-bar motif over each chord; every second bar answers it with another or mirrors it."""
    first, second = rng.sample(_MOTIFS[voice.density], 2)
    answer = rng.choice(("same", "other", "mirror"))
    notes = []
    for bar in range(grid.bars):
        motif = second if bar % 2 and answer == "other" else first
        for beat, beats, height in motif:
            turned = 2 - height if bar % 2 and answer == "mirror" else height
            pitch = _contour_pitch(grid, bar, voice.centre, turned)
            notes.append(_play(grid, voice, bar, beat, beats, pitch, 1.0 if beat == 0 else 0.92))
    return notes


def two_hands(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """Keyboard: a melody in the right hand over broken chords or held roots in the left."""
    right = Voice(voice.part, voice.centre + 8, voice.velocity, voice.density)
    left = Voice(
        voice.part, voice.centre - 10, round(voice.velocity * 0.78), max(0, voice.density - 1)
    )
    accompaniment = rng.choice((arpeggio, sustained))
    return melody(grid, right, rng) + accompaniment(grid, left, rng)


def sustained(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """One held chord a bar with its root below; the top voice moves once a bar where dense."""
    moving = voice.density == 2
    centre = voice.centre + rng.choice((-3, 0, 4))
    notes = []
    for bar in range(grid.bars):
        chord = grid.chord(bar)
        pitches = voicing(chord, centre)
        notes.append(
            _play(grid, voice, bar, 0, BEATS, nearest_pitch(chord.root, voice.centre - 14), 0.9)
        )
        for pitch in pitches[:-1] if moving else pitches:
            notes.append(_play(grid, voice, bar, 0, BEATS, pitch))
        if moving:
            for beat, rung in ((0, 0), (2, 1)):
                notes.append(_play(grid, voice, bar, beat, 2, ladder(chord, pitches[-1], rung)))
    return notes


def pulse(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """Short repeated chords, as strings drive a scene: eighths, or quarters where sparse."""
    step = 0.5 if voice.density else 1.0
    accents = rng.choice(((1.0, 0.75, 0.75, 0.75), (1.0, 0.75, 0.9, 0.75), (1.0, 0.7, 0.7, 1.0)))
    notes = []
    for bar in range(grid.bars):
        chord = grid.chord(bar)
        pitches = (nearest_pitch(chord.root, voice.centre - 14), *voicing(chord, voice.centre))
        for index in range(round(BEATS / step)):
            for pitch in pitches:
                notes.append(
                    _play(grid, voice, bar, index * step, step * 0.6, pitch, accents[index % 4])
                )
    return notes


def drone_melody(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """A melody over the tonic and fifth, struck again at each bar, as on a sitar."""
    tonic = nearest_pitch(grid.chords[0].root, voice.centre - 12)
    low = Voice(voice.part, voice.centre, round(voice.velocity * 0.7))
    notes = melody(grid, voice, rng)
    for bar in range(grid.bars):
        for beat, pitch in ((0, tonic), (2, tonic + 7)):
            notes.append(_play(grid, low, bar, beat, 2, pitch))
    return notes


_RIFFS = (
    "x..x..x.x..x..x.",
    "x.x.x.x.x.x.x.x.",
    "x..xx..xx..xx.x.",
    "..x...x...x...x.",
    "xxx.xxx.xxx.xxx.",
)


def riff(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """A repeated sixteenth-note figure of root, fifth and octave with one colour note."""
    rhythm = rng.choice(_RIFFS[:2] if voice.density == 0 else _RIFFS)
    steps = [index for index, mark in enumerate(rhythm) if mark == "x"]
    heights = [rng.choice((0, 0, 1, 2, 3)) for _ in steps]
    notes = []
    for bar in range(grid.bars):
        for step, height in zip(steps, heights, strict=True):
            pitch = ladder(
                grid.chord(bar), nearest_pitch(grid.chord(bar).root, voice.centre), height
            )
            accent = 1.0 if step % 4 == 0 else 0.88
            notes.append(_play(grid, voice, bar, step / 4, 0.25, pitch, accent))
    return notes


_POWER_RHYTHMS = (
    ((0, 4),),
    ((0, 1.5), (1.5, 1.5), (3, 1)),
    tuple((i / 2, 0.45) for i in range(8)),
    ((0, 0.9), (1, 0.4), (1.5, 0.9), (2.5, 0.4), (3, 0.9)),
)


def power_chords(grid: Grid, voice: Voice, rng: Random) -> list[Note]:
    """Root, fifth and octave together, as on a distorted guitar."""
    rhythm = _POWER_RHYTHMS[0] if voice.density == 0 else rng.choice(_POWER_RHYTHMS[1:])
    notes = []
    for bar in range(grid.bars):
        root = nearest_pitch(grid.chord(bar).root, voice.centre)
        for beat, beats in rhythm:
            for pitch in (root, root + 7, root + 12):
                notes.append(_play(grid, voice, bar, beat, beats, pitch, 1.0 if beat == 0 else 0.9))
    return notes


Texture = Callable[[Grid, Voice, Random], list[Note]]

TEXTURES: dict[str, Texture] = {
    texture.__name__: texture
    for texture in (
        chords, arpeggio, picking, strum, melody, two_hands,
        sustained, pulse, drone_melody, riff, power_chords,
    )
}  # fmt: skip
