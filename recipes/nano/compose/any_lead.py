"""Plans of arrangements that are mostly led by instruments that are not their style's, most with drums.

A network that reads "house" only with pianos, strings and synths, and an electric piano mostly alone, plays
"house, Rhodes and drums" without drums. The quotas take more of the styles whose drums it leaves out.
"""

from __future__ import annotations

import itertools
from random import Random

from recipes.nano.compose.plan import Plan, draw_plan
from recipes.nano.compose.split import split_of
from recipes.nano.compose.styles import STYLES

# Style -> number of arrangements led by an instrument that is not the style's, and by one of its own.
QUOTAS = {
    "lofi": (260, 0),
    "ambient": (60, 0),
    "classical": (60, 0),
    "folk": (380, 250),
    "jazz": (320, 100),
    "cinematic": (380, 150),
    "techno": (200, 0),
    "house": (280, 0),
    "rock": (200, 0),
    "hip hop": (320, 0),
    "funk": (280, 0),
    "Indian": (150, 0),
}
WITHOUT_DRUMS_SHARE = 0.25  # kept of those without drums in styles that have a kit


def any_lead_plans(seed: int) -> list[Plan]:
    """The first plans of a seed that fill the quotas: 3,390, all of the training split."""
    left = {
        (style, foreign): count
        for style, (others, own) in QUOTAS.items()
        for foreign, count in ((True, others), (False, own))
    }
    found: list[Plan] = []
    indices = itertools.count()
    while any(left.values()):
        plan = draw_plan(seed, next(indices))
        if plan.style is None or plan.lead is None:
            continue
        foreign = plan.lead not in STYLES[plan.style].leads
        if not left[plan.style, foreign] or not _has_its_drums(plan, foreign):
            continue
        if split_of(plan) == "train":
            left[plan.style, foreign] -= 1
            found.append(plan)
    return found


def _has_its_drums(plan: Plan, foreign: bool) -> bool:
    if plan.drums is not None or not STYLES[str(plan.style)].drums:
        return True
    return foreign and Random(f"{plan.seed}/{plan.index}").random() < WITHOUT_DRUMS_SHARE
