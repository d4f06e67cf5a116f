"""The split of a clip, decided before rendering.

There are three kinds of unseen material: `valid` and `test` have compositions that do not occur in training,
and `test_combo` has combinations that do not occur in training although each of their words does.

The shipped nano was trained with an older split, which took the set of a kit's samples for a part of the
composition (README.md, Splits); recipes/nano/cases.py excludes what is on both sides of that one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from recipes.nano.compose.composer import compose
from recipes.nano.compose.plan import Plan

SPLITS = ("train", "valid", "test", "test_combo")
VALID_PERCENT = 4
TEST_PERCENT = 5

# Arrangements: style, lead, with drums or not.
HELD_OUT_ARRANGEMENTS = frozenset({
    ("lofi", "vibraphone", True),
    ("ambient", "harp", False),
    ("classical", "cello", False),
    ("folk", "violin", True),
    ("folk", "violin", False),
    ("jazz", "electric piano", True),
    ("cinematic", "piano", True),
    ("house", "electric piano", True),
    ("hip hop", "flute", True),
    ("funk", "synth lead", True),
})  # fmt: skip
# Solo instruments: mood, lead.
HELD_OUT_SOLOS = frozenset({
    ("sad", "flute"),
    ("happy", "cello"),
    ("dark", "harpsichord"),
    ("calm", "violin"),
    ("energetic", "harp"),
    ("happy", "choir"),
})  # fmt: skip
# Drums alone: style, frames per beat.
HELD_OUT_DRUMS = frozenset({("lofi", 36), ("jazz", 28)})
# Scenes: two sounds at once.
HELD_OUT_SCENES = frozenset({("rain", "clock"), ("birds", "stream")})


def is_held_out(plan: Plan) -> bool:
    """Whether the plan's combination is held out from training."""
    if plan.kind == "arrangement":
        return (plan.style, plan.lead, plan.drums is not None) in HELD_OUT_ARRANGEMENTS
    if plan.kind == "solo":
        return (plan.mood, plan.lead) in HELD_OUT_SOLOS
    if plan.kind == "drums":
        return (plan.style, plan.frames_per_beat) in HELD_OUT_DRUMS
    return tuple(name for name, _ in plan.effects) in HELD_OUT_SCENES


def composition(score: Mapping[str, object]) -> str:
    """What two clips have in common if they are the same music: notes, drum hits and the kit.

    `score` is `Score.as_json()`, or the content of a clip's file under notes/. The set of samples of a kit
    does not count: there are twelve numbers for one to six sets, and a pattern learned with one snare is not
    unseen with another. Nor does loudness.
    """
    return json.dumps({**score, "kit_variant": 0})


def split_of(plan: Plan) -> str:
    """One of `SPLITS`: by combination first, then by a hash of the composition.

    Music is hashed by its notes, not by its seed: if two seeds draw the same composition, both clips are on
    the same side. A sound effect is hashed by its seed.
    """
    if is_held_out(plan):
        return "test_combo"
    if plan.kind == "effect":
        hashed = f"{plan.seed}/{plan.index}"
    else:
        hashed = composition(compose(plan).as_json())
    digest = hashlib.sha256(f"nano/split/{hashed}".encode()).digest()
    percent = int.from_bytes(digest[:4], "big") % 100
    if percent < VALID_PERCENT:
        return "valid"
    return "test" if percent < VALID_PERCENT + TEST_PERCENT else "train"
