"""The decisions for a clip, drawn from the tables before its notes.

A plan is a pure function of (seed, index). The mix is exact over any forty consecutive clips: 16 solo
instruments, 15 arrangements, 4 of drums alone and 5 sound effects, interleaved, so that the first clips
rendered are a sample of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from recipes.nano.compose.effects import EFFECTS, SCENES
from recipes.nano.compose.harmony import KEYS, PROGRESSIONS, Key
from recipes.nano.compose.instruments import INSTRUMENTS, LEADS
from recipes.nano.compose.styles import DRUM_SOLOS, MOODS, STYLES, TEMPI, bpm, tempo_class

T = TypeVar("T")

_MIX = "SAESADSASAESADSASAESADSASAESADSASASASAES"  # 16 S, 15 A, 4 D, 5 E
KINDS = {"S": "solo", "A": "arrangement", "D": "drums", "E": "effect"}
DRUMS_MUSESCORE_SHARE = 0.25
SCENE_SHARE = 0.2  # of the sound effects: two at once
# Of the arrangements: any instrument leads, not one of the style's, so that neither word implies the other.
ANY_LEAD_SHARE = 0.25


@dataclass(frozen=True)
class Plan:
    """The decisions behind one clip; fields that do not apply to its kind are None or empty."""

    index: int
    seed: int
    kind: str  # solo | arrangement | drums | effect
    lead: str | None = None
    style: str | None = None
    mood: str | None = None
    frames_per_beat: int | None = None
    key: Key | None = None
    progression: str | None = None
    texture: str | None = None
    density: int = 1
    backing: tuple[str, str] | None = None
    bass: tuple[str, str] | None = None
    drums: tuple[str, str] | None = None
    hiss: bool = False
    soundfont: str = "fluid"  # fluid | musescore
    effects: tuple[tuple[str, str], ...] = ()  # (effect, variant)

    def tags(self) -> dict[str, object]:
        """The structured description that goes into the manifest."""
        instruments = [self.lead] if self.lead else []
        instruments += [part[0] for part in (self.backing, self.bass) if part]
        if self.drums:
            instruments.append(f"{self.drums[0]} drums" if self.drums[0] != "tabla" else "tabla")
        tags: dict[str, object] = {
            "kind": self.kind,
            "instrument": self.lead,
            "instruments": instruments,
            "style": self.style,
            "mood": self.mood,
            "texture": self.texture,
            "key": self.key.name if self.key else None,
            "drums": self.drums is not None,
            "bass": self.bass is not None,
            "effects": [{"effect": name, "variant": variant} for name, variant in self.effects],
        }
        if self.frames_per_beat is not None:
            tags["tempo_bpm"] = round(bpm(self.frames_per_beat), 2)
            tags["tempo_class"] = tempo_class(self.frames_per_beat)
        return tags


def clip_random(seed: int, index: int, purpose: str) -> Random:
    """The clip's generator for one purpose, so that a new draw in one does not shift another."""
    return Random(f"nano/{seed}/{index}/{purpose}")


def _draw(weights: Mapping[T, float], rng: Random) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]


def draw_plan(seed: int, index: int) -> Plan:
    """The plan of clip `index` of the data set `seed`."""
    rng = clip_random(seed, index, "plan")
    kind = KINDS[_MIX[index % len(_MIX)]]
    return {"solo": _solo, "arrangement": _arrangement, "drums": _drums, "effect": _effect}[kind](
        seed, index, rng
    )


def _soundfont(lead: str | None, rng: Random) -> str:
    share = INSTRUMENTS[lead].musescore_share if lead else DRUMS_MUSESCORE_SHARE
    return "musescore" if rng.random() < share else "fluid"


def _density(lead: str, mood: str, frames_per_beat: int, rng: Random) -> int:
    """The mood's and the lead's density, occasionally changed by one; fast clips get eighths at most."""
    density = MOODS[mood].density + INSTRUMENTS[lead].busier + rng.choice((0, 0, 0, 1, -1))
    highest = 1 if tempo_class(frames_per_beat) == "fast" and mood != "energetic" else 2
    return max(0, min(highest, density))


def _solo(seed: int, index: int, rng: Random) -> Plan:
    lead = _draw({i.name: i.solo_weight for i in LEADS}, rng)
    mood = MOODS[rng.choice(tuple(MOODS))]
    frames = rng.choice(TEMPI[_draw(mood.tempi, rng)])
    mode = rng.choice(mood.modes)
    harmony = rng.choice(mood.harmony)
    if lead == "electric guitar":
        harmony = "power"
    if lead == "sitar":
        harmony = "drone"
    return Plan(
        index, seed, "solo", lead, None, mood.name, frames,
        key=Key(rng.choice(KEYS[mode]), mode),
        progression=rng.choice(PROGRESSIONS[harmony][mode]),
        texture=rng.choice(INSTRUMENTS[lead].textures),
        density=_density(lead, mood.name, frames, rng),
        soundfont=_soundfont(lead, rng),
    )  # fmt: skip


def _arrangement(seed: int, index: int, rng: Random) -> Plan:
    style = STYLES[_draw({s.name: s.weight for s in STYLES.values()}, rng)]
    lead = _draw(style.leads, rng)
    if clip_random(seed, index, "any lead").random() < ANY_LEAD_SHARE:
        lead = clip_random(seed, index, "lead").choice(LEADS).name
    mood = MOODS[_draw(style.moods, rng)]
    slow_enough = [f for f in style.tempi if tempo_class(f) in mood.tempi]
    frames = rng.choice(slow_enough or style.tempi)
    mode = rng.choice(mood.modes)
    harmony = rng.choice(style.harmony or mood.harmony)
    backings = [b for b in style.backings if b is None or b[0] != lead] or [None]
    textures = style.textures.get(lead, INSTRUMENTS[lead].textures)
    return Plan(
        index, seed, "arrangement", lead, style.name, mood.name, frames,
        key=Key(rng.choice(KEYS[mode]), mode),
        progression=rng.choice(PROGRESSIONS[harmony][mode]),
        texture=rng.choice(textures),
        density=_density(lead, mood.name, frames, rng),
        backing=rng.choice(backings),
        bass=style.bass if rng.random() < style.bass_share else None,
        drums=style.drums if rng.random() < style.drums_share else None,
        hiss=rng.random() < style.hiss_share,
        soundfont=_soundfont(lead, rng),
    )  # fmt: skip


def _drums(seed: int, index: int, rng: Random) -> Plan:
    style = STYLES[_draw(DRUM_SOLOS, rng)]
    return Plan(
        index, seed, "drums", None, style.name, None, rng.choice(style.tempi),
        drums=style.drums, soundfont=_soundfont(None, rng),
    )  # fmt: skip


def _effect(seed: int, index: int, rng: Random) -> Plan:
    single = (rng.choice(tuple(EFFECTS)),)
    names: tuple[str, ...] = rng.choice(SCENES) if rng.random() < SCENE_SHARE else single
    effects = tuple((name, rng.choice(tuple(EFFECTS[name].variants))) for name in names)
    return Plan(index, seed, "effect", effects=effects)
