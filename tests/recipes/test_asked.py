"""What a caption asks for, compared with the plan that it was written from."""

from __future__ import annotations

import re

import pytest

from recipes.nano.compose.asked import Asked, asked
from recipes.nano.compose.captions import TEMPO_WORDS, captions
from recipes.nano.compose.effects import EFFECTS
from recipes.nano.compose.instruments import INSTRUMENTS
from recipes.nano.compose.plan import Plan, draw_plan
from recipes.nano.compose.styles import STYLES, tempo_class


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [draw_plan(seed, index) for seed in (1, 5) for index in range(800)]


def test_a_caption_asks_for_nothing_that_its_plan_denies(plans: list[Plan]) -> None:
    for plan in plans:
        parts = {part for part in (plan.lead, plan.backing and plan.backing[0]) if part}
        words = {word for part in parts for word in INSTRUMENTS[part].words}
        for caption in captions(plan):
            found = asked(caption)
            if plan.kind == "effect":
                assert found == Asked((), None, None), caption
                continue
            assert plan.frames_per_beat is not None
            assert found.drums in (None, plan.drums is not None), caption
            assert found.tempo_class in (None, tempo_class(plan.frames_per_beat)), caption
            assert plan.lead is None or plan.lead in found.instruments, caption
            # "guitar" may be either of two; any other instrument has the same name as in the plan.
            assert all(set(INSTRUMENTS[name].words) & words for name in found.instruments), caption


def test_what_a_caption_states_is_read_and_no_more(plans: list[Plan]) -> None:
    """The tempo was judged in 141 of 170 clips, although only 66 prompts name one."""
    tempi = [word for words in TEMPO_WORDS.values() for word in words]
    drums = ("drum", "beat", "percussion", "tabla", "kick", "cymbal", "solo", "only")
    open_tempi = open_drums = 0
    for plan in plans:
        if plan.kind == "effect":
            continue
        for caption in captions(plan):
            found = asked(caption)
            tempo = re.search(rf"\b({'|'.join(tempi)}|\d+ bpm)\b", caption)
            assert (found.tempo_class is not None) == bool(tempo), caption
            stated = re.search(rf"\b({'|'.join(drums)})s?\b|nothing else", caption)
            assert (found.drums is not None) == bool(stated), caption
            open_tempi += found.tempo_class is None
            open_drums += found.drums is None
    assert open_tempi > 1000
    assert open_drums > 1000


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("piano, calm", Asked(("piano",), None, None)),
        ("solo violin", Asked(("violin",), False, None)),
        ("sad piano alone", Asked(("piano",), False, None)),
        ("only flute, nothing else, happy and quick", Asked(("flute",), False, "fast")),
        ("harp without drums", Asked(("harp",), False, None)),
        ("solo drums, rock", Asked((), True, None)),
        ("tabla, Indian, 94 bpm", Asked((), True, "medium")),
        ("lofi beat with Rhodes piano", Asked(("electric piano",), True, None)),
        ("slow drum beat", Asked((), True, "slow")),
        ("Techno at 120 BPM", Asked((), None, "fast")),
        ("electronic synth pad", Asked(("synth pad",), None, None)),
        ("warm synth and synth bass", Asked(("synth pad",), None, None)),
        ("strings with choir over electric bass", Asked(("strings", "choir"), None, None)),
        ("acoustic guitar", Asked(("classical guitar", "acoustic guitar"), None, None)),
        ("upbeat piano", Asked(("piano",), None, None)),
    ],
)
def test_words_and_what_they_mean(caption: str, expected: Asked) -> None:
    assert asked(caption) == expected


@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_style_alone_leaves_everything_open(style: str) -> None:
    """In the tables techno has drums and is fast; the prompt "techno" says neither."""
    for word in STYLES[style].words:
        assert asked(f"{word} music") == Asked((), None, None)


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_a_sound_has_neither_tempo_nor_drums(name: str) -> None:
    """ "a quick heart beat" holds a word of tempo and one of drums, and is music in neither."""
    effect = EFFECTS[name]
    for phrases in (effect.words, *effect.variants.values()):
        for phrase in phrases:
            assert asked(f"recording of {phrase}") == Asked((), None, None)
            assert asked(f"rain with {phrase} in the background") == Asked((), None, None)
