"""Drum and bass patterns as readable tables: sixteen sixteenths, `x` loud and `o` soft."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.nano.compose.harmony import nearest_pitch
from recipes.nano.compose.score import CLIP_SECONDS, Hit, Note
from recipes.nano.compose.textures import Grid

SOFT = 0.55
EXTRA_KICKS = (None, None, 3, 6, 7, 10, 11, 14)  # steps of an individual drummer's additional kick
FEELS_WITH_EXTRA_KICK = ("lazy", "boom_bap", "rock", "funk", "light", "epic")
FILLS = {
    "lazy": "..x.",
    "boom_bap": "..xx",
    "rock": "xxxx",
    "funk": "x.xx",
    "four_on_the_floor": "xxxx",
}


@dataclass(frozen=True)
class Beat:
    """A one-bar drum pattern: sound name to its sixteen steps."""

    steps: dict[str, str]


BEATS_BY_FEEL: dict[str, tuple[Beat, ...]] = {
    "lazy": (
        Beat({"kick": "x.......x.x.....", "snare": "....x.......x...", "hat": "o.o.o.o.o.o.o.o."}),
        Beat({"kick": "x..x......x.....", "snare": "....x.......x...", "hat": "o.o.o.o.o.o.o.o."}),
        Beat({"kick": "x.........x.....", "snare": "....x.......x...", "hat": "o...o...o...o..."}),
    ),
    "boom_bap": (
        Beat({"kick": "x.x.......x.....", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."}),
        Beat({"kick": "x......x..x.....", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.oo"}),
        Beat({"kick": "x..x....x.x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}),
    ),
    "four_on_the_floor": (
        Beat({"kick": "x...x...x...x...", "hat": "..x...x...x...x.", "snare": "....x.......x..."}),
        Beat({"kick": "x...x...x...x...", "hat": "o.x.o.x.o.x.o.x.", "snare": "....x.......x..."}),
        Beat({"kick": "x...x...x...x...", "hat": "ooxoooxoooxoooxo"}),
    ),
    "rock": (
        Beat({"kick": "x.......x.......", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}),
        Beat({"kick": "x.......x.x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}),
        Beat(
            {
                "kick": "x..x..x.x.......",
                "snare": "....x.......x...",
                "crash": "x...............",
                "hat": "..x.x.x.x.x.x.x.",
            }
        ),
    ),
    "funk": (
        Beat({"kick": "x..x......x..x..", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."}),
        Beat({"kick": "x.x....x..x.....", "snare": "....x..o....x..o", "hat": "x.x.x.x.x.x.x.x."}),
    ),
    "swing": (
        Beat({"ride": "x...x.x.x...x.x.", "pedal": "....x.......x...", "kick": "o.......o......."}),
        Beat(
            {"ride": "x...x.x.x...x.x.", "pedal": "....x.......x...", "snare": "......o.......o."}
        ),
    ),
    "light": (
        Beat({"kick": "x.......x.......", "snare": "....o.......o...", "hat": "o...o...o...o..."}),
        Beat({"kick": "x.......x.......", "shaker": "o.o.o.o.o.o.o.o."}),
    ),
    "epic": (
        Beat({"boom": "x.......x.......", "tom": "....o.o.....o.o."}),
        Beat({"boom": "x..x..x.x..x..x.", "tom": "..o.......o....."}),
        Beat({"boom": "x...............", "tom": "x.ooxooxx.ooxoox"}),
    ),
    "tabla": (
        Beat({"ghe": "x.....x.....x...", "na": "..x.x.....x.x.x.", "te": "......o.o.....o."}),
        Beat({"ghe": "x.......x.......", "na": "..x...x...x...x.", "te": "....o.o.....o.o."}),
        Beat({"ghe": "x...x.......x...", "na": "..x...x.x.x...x.", "tun": "........x......."}),
    ),
}


def drum_hits(grid: Grid, feel: str, rng: Random) -> list[Hit]:
    """A pattern of the feel, repeated; some answer it with another every second bar or end in a fill."""
    first = _personal(rng.choice(BEATS_BY_FEEL[feel]), feel, rng)
    second = _personal(rng.choice(BEATS_BY_FEEL[feel]), feel, rng) if rng.random() < 0.35 else first
    fill_every = rng.choice((0, 0, 2, 4)) if feel in FILLS else 0
    soft = rng.choice((0.4, SOFT, 0.7))
    hits = []
    for bar in range(grid.bars):
        beat = dict((second if bar % 2 else first).steps)
        if fill_every and (bar + 1) % fill_every == 0:
            beat["snare"] = beat.get("snare", "." * 16)[:12] + FILLS[feel]
        for sound, steps in beat.items():
            for step, mark in enumerate(steps):
                start = grid.at(bar, step / 4)
                if mark != "." and start < CLIP_SECONDS:
                    hits.append(Hit(start, sound, 1.0 if mark == "x" else soft))
    return sorted(hits, key=lambda hit: (hit.start, hit.sound))


def _personal(beat: Beat, feel: str, rng: Random) -> Beat:
    """Add an individual drummer's kick to the beat, if the feel allows it."""
    step = rng.choice(EXTRA_KICKS)
    drum = "boom" if feel == "epic" else "kick"
    if step is None or feel not in FEELS_WITH_EXTRA_KICK:
        return beat
    kicks = beat.steps[drum]
    return Beat({**beat.steps, drum: f"{kicks[:step]}x{kicks[step + 1 :]}"})


# (beat, beats, degree) with the degree in semitones above the chord's root.
BASS_LINES: dict[str, tuple[tuple[tuple[float, float, int], ...], ...]] = {
    "held": (((0, 4, 0),), ((0, 2, 0), (2, 2, 0)), ((0, 2.5, 0), (2.5, 1.5, 0))),
    "eighths": (tuple((i / 2, 0.5, 0) for i in range(8)),),
    "offbeat": (tuple((i + 0.5, 0.45, 0) for i in range(4)),),
    "sixteenths": (
        tuple((i / 4, 0.22, 0) for i in range(16) if i % 4),
        tuple((i / 4, 0.22, 12 if i % 4 == 2 else 0) for i in range(16)),
    ),
    "walking": (
        ((0, 1, 0), (1, 1, 4), (2, 1, 7), (3, 1, 9)),
        ((0, 1, 0), (1, 1, 7), (2, 1, 12), (3, 1, 7)),
    ),
    "syncopated": (
        ((0, 0.75, 0), (0.75, 0.5, 0), (1.5, 0.5, 7), (2.5, 0.5, 0), (3, 1, 10)),
        ((0, 0.5, 0), (1, 0.5, 0), (1.5, 0.5, 12), (2.5, 0.5, 10), (3, 0.75, 7)),
    ),
    "root_fifth": (((0, 2, 0), (2, 2, 7)),),
}


def bass_line(grid: Grid, line: str, part: int, velocity: int, rng: Random) -> list[Note]:
    """The bass under the chords; a walking third follows the chord's own third."""
    pattern = rng.choice(BASS_LINES[line])
    notes = []
    for bar in range(grid.bars):
        chord = grid.chord(bar)
        root = nearest_pitch(chord.root, 38)
        for beat, beats, degree in pattern:
            interval = chord.intervals[1] if degree == 4 else degree
            start = grid.at(bar, beat)
            end = start + max(0.08, beats * grid.beat_seconds - 0.02)
            notes.append(Note(start, end, root + interval, velocity, part))
    return notes
