"""Composes a score from a plan."""

from __future__ import annotations

from recipes.nano.compose.harmony import Key, progression
from recipes.nano.compose.instruments import INSTRUMENTS
from recipes.nano.compose.plan import Plan, clip_random
from recipes.nano.compose.rhythm import bass_line, drum_hits
from recipes.nano.compose.score import CLIP_SECONDS, FRAME_SECONDS, Note, Part, Score
from recipes.nano.compose.styles import MOODS, STYLES
from recipes.nano.compose.textures import TEXTURES, Grid, Voice

SOLO_REVERB = 45
BACKING_DB = -7.0
BASS_DB = -3.0


def compose(plan: Plan) -> Score:
    """The score of a musical plan. Raises ValueError: the plan is a sound effect, which has none."""
    if plan.frames_per_beat is None:
        raise ValueError(f"clip {plan.index} is a sound effect and has no score")
    rng = clip_random(plan.seed, plan.index, "score")
    style = STYLES[plan.style] if plan.style else None
    key = plan.key or Key("C", "major")
    grid = Grid(
        beat_seconds=plan.frames_per_beat * FRAME_SECONDS,
        chords=progression(plan.progression or "I", key),
        key=key,
        swing=style.swing if style else 0.5,
    )
    parts: list[Part] = []
    notes: list[Note] = []
    if plan.lead and plan.texture and plan.mood:
        mood = MOODS[plan.mood]
        lead = INSTRUMENTS[plan.lead]
        parts.append(Part(plan.lead))
        voice = Voice(0, lead.centre + mood.register, mood.velocity, plan.density)
        notes += TEXTURES[plan.texture](grid, voice, rng)
        if plan.backing:
            name, texture = plan.backing
            voice = Voice(
                len(parts), INSTRUMENTS[name].centre, mood.velocity, max(0, plan.density - 1)
            )
            parts.append(Part(name, BACKING_DB))
            notes += TEXTURES[texture](grid, voice, rng)
        if plan.bass:
            name, line = plan.bass
            notes += bass_line(grid, line, len(parts), mood.velocity, rng)
            parts.append(Part(name, BASS_DB))
    hits = drum_hits(grid, plan.drums[1], rng) if plan.drums else []
    return Score(
        parts=tuple(parts),
        notes=tuple(_fitted(notes)),
        hits=tuple(hits),
        kit=plan.drums[0] if plan.drums else None,
        kit_variant=rng.randrange(12) if plan.drums else 0,
        reverb=style.reverb if style else SOLO_REVERB,
        lowpass_hz=style.lowpass_hz if style else None,
        hiss=plan.hiss,
    )


def _fitted(notes: list[Note]) -> list[Note]:
    """Notes inside the clip, in order of time; no pitch is struck twice at once or held past the next."""
    ordered = sorted(notes, key=lambda n: (n.start, n.part, n.pitch, -n.end))
    following: dict[tuple[int, int], float] = {}
    fitted: list[Note] = []
    for note in reversed(ordered):
        if note.start >= CLIP_SECONDS - FRAME_SECONDS:
            continue
        voice = (note.part, note.pitch)
        end = min(note.end, CLIP_SECONDS, following.get(voice, CLIP_SECONDS))
        if end - note.start < 0.01:
            continue
        following[voice] = note.start
        fitted.append(Note(note.start, end, note.pitch, note.velocity, note.part))
    return fitted[::-1]
