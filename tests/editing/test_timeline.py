"""Prompts by time: weights sum to one, and only prompts with weight are computed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.api import Model
from magnet_cli.decoding import iterative
from magnet_cli.decoding.sampling import guide
from magnet_cli.editing.pieces import Direction, extend
from magnet_cli.editing.timeline import MixedLogits, MixedSession, cue_weights
from magnet_cli.editing.windows import Cue, check_cues
from magnet_cli.errors import UsageError
from magnet_cli.settings import DecodingConfig
from tests.editing.tiny import FAST, SEGMENT, codes_of, tiny_model


@given(
    st.lists(st.integers(10, 20_000).map(lambda ms: ms / 1000), max_size=5, unique=True),
    st.integers(0, 500),
    st.integers(1, 300),
    st.floats(0, 5),
)
@settings(deadline=None, max_examples=100)
def test_weights_of_a_frame_sum_to_one(starts, start, frames, crossfade) -> None:
    cues = [Cue(second, str(second)) for second in sorted([0.0, *starts])]
    weights = cue_weights(cues, start, start + frames, 50.0, crossfade)
    assert weights.shape == (len(cues), frames)
    assert bool((weights >= 0).all())
    assert torch.allclose(weights.sum(0), torch.ones(frames), atol=1e-6)
    assert int((weights > 0).sum(0).max()) <= 2


def test_a_prompt_gives_way_around_the_next_ones_start() -> None:
    weights = cue_weights([Cue(0, "a"), Cue(2, "b")], 0, 200, 50.0, crossfade=1.0)
    assert bool((weights[0, :75] == 1).all())
    assert bool((weights[1, 125:] == 1).all())
    assert abs(float(weights[1, 99:101].mean()) - 0.5) < 1e-6
    assert bool((weights[1].diff() >= 0).all())
    # Windows see the same weights wherever they start.
    later = cue_weights([Cue(0, "a"), Cue(2, "b")], 90, 140, 50.0, crossfade=1.0)
    assert torch.equal(later, weights[:, 90:140])


@pytest.mark.parametrize(
    ("cues", "message"),
    [
        ([], "no prompt"),
        ([Cue(1, "a")], "first 1 s"),
        ([Cue(0, "a"), Cue(0, "b")], "Two prompts"),
        ([Cue(0, "a"), Cue(12, "b")], "10 s long"),
        ([Cue(-1, "a")], "cannot begin"),
        ([Cue(float("nan"), "a")], "cannot begin"),
    ],
)
def test_cues_that_do_not_fit_are_refused(cues, message) -> None:
    with pytest.raises(UsageError, match=message):
        check_cues(cues, 10.0)


def test_cues_come_in_any_order() -> None:
    assert [cue.prompt for cue in check_cues([Cue(3, "b"), Cue(0, "a")], 10.0)] == ["a", "b"]


class Fixed:
    """Constant logits, with a count of the calls."""

    def __init__(self, value: float, guided: bool = True) -> None:
        self.value, self.guided, self.calls = value, guided, 0

    def __call__(self, codes, stage, positions, with_null, end):
        self.calls += 1
        count = int(positions.sum())
        cond = torch.full((count, 4), self.value)
        return cond, torch.zeros(count, 4) if with_null and self.guided else None


def test_logits_are_mixed_by_position() -> None:
    weights = torch.tensor([[1.0, 0.75, 0.0, 0.0], [0.0, 0.25, 1.0, 1.0]])
    mixed = MixedLogits([Fixed(4.0), Fixed(8.0)], weights)
    codes = torch.zeros(2, 1, 4, dtype=torch.int64)
    positions = torch.tensor([[[True, True, False, True]], [[False, True, True, False]]])
    cond, null = mixed(codes, 0, positions, True, 4)
    assert cond[:, 0].tolist() == [4.0, 5.0, 8.0, 5.0, 8.0]
    assert torch.equal(null, torch.zeros(5, 4))
    assert mixed(codes, 0, positions, False, 4)[1] is None


def test_a_prompt_that_counts_nowhere_is_not_asked() -> None:
    first, second = Fixed(4.0), Fixed(8.0)
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    MixedLogits([first, second], weights)(
        torch.zeros(1, 1, 2, dtype=torch.int64), 0, torch.tensor([[False, True]]), True, 2
    )
    assert (first.calls, second.calls) == (0, 1)


def test_guidance_between_a_text_and_no_text_is_that_of_the_mixture() -> None:
    # If the first prompt is the null condition, its session has no second half.
    weights = torch.tensor([[0.5], [0.5]])
    mixed = MixedLogits([Fixed(0.0, guided=False), Fixed(8.0)], weights)
    cond, null = mixed(
        torch.zeros(1, 1, 1, dtype=torch.int64), 0, torch.ones(1, 1, dtype=torch.bool), True, 1
    )
    assert guide(cond, null, 3.0).tolist() == [[12.0] * 4]


@pytest.mark.parametrize("modeling", ["masked", "autoregressive"])
def test_the_same_prompt_twice_is_one_prompt(modeling) -> None:
    model = tiny_model(modeling)
    config = FAST if modeling == "masked" else DecodingConfig(top_k=5)
    once = Direction.of("piano", 3, config=config)
    twice = Direction((Cue(0, "piano"), Cue(1.0, "piano")), 3, config=config)
    agree = extend(model, once, 110).codes == extend(model, twice, 110).codes
    # Halves of logits do not add up to them by rounding alone.
    assert float(agree.float().mean()) > 0.95


@pytest.mark.parametrize("modeling", ["masked", "autoregressive"])
def test_the_second_prompt_changes_nothing_before_its_time(modeling) -> None:
    model = tiny_model(modeling)
    config = FAST if modeling == "masked" else DecodingConfig(top_k=5)
    # With one second of segment and the change at 1.6 s, the first window knows one prompt only.
    one = extend(model, Direction.of("piano", 3, config=config), 150).codes
    two = extend(
        model, Direction((Cue(0, "piano"), Cue(2.1, "drums!")), 3, config=config), 150
    ).codes
    assert torch.equal(one[..., :50], two[..., :50])
    assert not torch.equal(one[..., 120:], two[..., 120:])


def test_bars_are_repeated_within_a_prompts_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("masked")
    sections, decode = [], iterative.decode

    def watched(logits, codes, known, decoding):
        sections.append(decoding.sections)
        return decode(logits, codes, known, decoding)

    monkeypatch.setattr(iterative, "decode", watched)
    extend(model, Direction((Cue(0, "piano"), Cue(0.5, "drums")), 3, config=FAST), 80)
    half = SEGMENT // 2
    assert sections[0].tolist() == half * [0] + half * [1]
    assert bool((sections[1] == 1).all())
    sections.clear()
    extend(model, Direction.of("piano", 3, config=FAST), 80)
    assert set(sections) == {None}


def test_a_checkpoints_habit_of_writing_onward_holds_for_prompts_by_time() -> None:
    """nano's windows faded to silence, because with two prompts they used masked decoding only."""
    plain = tiny_model("hybrid")
    habit = DecodingConfig(hybrid=0.4)  # 20 of the window's 50 frames
    model = Model(dataclasses.replace(plain.parts, defaults=habit))
    cues = (Cue(0, "piano"), Cue(2.1, "drums!"))

    def first_window(model: Model, direction: Direction) -> tuple[list[str], Tensor]:
        parts: list[str] = []
        codes = extend(model, direction, 150, on_step=lambda event: parts.append(event.part)).codes
        return parts, codes[..., :50]

    timed, two = first_window(model, Direction(cues, 3, config=FAST))
    once, one = first_window(model, Direction.of("piano", 3, config=FAST))
    # Where the second prompt has no weight, the mixture equals the first one, bit for bit.
    assert timed == once
    assert "autoregressive" in timed
    assert torch.equal(one, two)
    only_masks = dataclasses.replace(FAST, hybrid=0.0)
    parts, masked = first_window(model, Direction(cues, 3, config=only_masks))
    assert set(parts) == {"masked"}
    assert not torch.equal(masked, two)


def test_the_step_by_step_part_hears_both_prompts_where_they_cross() -> None:
    habit = DecodingConfig(hybrid=0.9)
    model = Model(dataclasses.replace(tiny_model("hybrid").parts, defaults=habit))
    cues = (Cue(0, "piano"), Cue(0.4, "drums!"))
    mixed = extend(model, Direction(cues, 3, config=FAST), SEGMENT).codes
    for text in ("piano", "drums!"):
        alone = extend(model, Direction.of(text, 3, config=FAST), SEGMENT).codes
        assert not torch.equal(mixed[..., :40], alone[..., :40])


def test_seconds_of_ones_own_are_not_for_windows() -> None:
    asked = Direction.of("piano", 3, config=DecodingConfig(hybrid=0.4))
    with pytest.raises(UsageError, match="--hybrid is for clips"):
        extend(tiny_model("hybrid"), asked, 150)


def test_a_causal_mixture_weighs_each_stream_by_the_frame_it_writes() -> None:
    class Steps:
        def __init__(self, value: float) -> None:
            self.value = value

        def reset(self, steps, with_null, short_context=0):
            self.short = short_context > 0

        def step(self, tokens):
            answer = torch.full((1, 2, 3), self.value)
            return answer, None, 10 * answer if self.short else None

    weights = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    session = MixedSession([Steps(1.0), Steps(2.0)], weights, delays=(0, 1))
    token = torch.zeros(1, 2, 1, dtype=torch.int64)
    for context in (0, 7):
        session.reset(5, False, context)
        answers = [session.step(token) for _ in range(4)]
        # Steps 1 to 4 write frames 0, 1, 2, - of stream 0 and -, 0, 1, 2 of stream 1.
        want = [[1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [2.0, 2.0]]
        assert [cond[0, :, 0].tolist() for cond, _, _ in answers] == want
        for cond, null, short in answers:
            assert null is None
            assert (short is None) if not context else torch.equal(short, 10 * cond)


def test_a_prompt_by_time_reaches_the_settings() -> None:
    cues = (Cue(0, "piano"), Cue(1.0, "drums"))
    piece = extend(tiny_model(), Direction(cues, 3, config=FAST), 80, codes_of(10))
    assert piece.settings["edit"]["cues"] == [[0, "piano"], [1.0, "drums"]]
