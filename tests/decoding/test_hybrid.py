"""Hybrid decoding: which codes of the prefix are kept, and that training and decoding see the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.decoding import autoregressive, iterative
from magnet_cli.decoding.autoregressive import Prefix, decode_hybrid
from magnet_cli.decoding.contracts import Decoding
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.models.lm import DelayPattern, LanguageModel
from magnet_cli.models.session import CausalSession, MaskedSession
from magnet_cli.settings import AUTOREGRESSIVE_DEFAULTS, DECODING_DEFAULTS
from magnet_cli.training.objective import Draws, mask_batch
from tests.models.tiny import tiny_lm

PATTERN = DelayPattern((0, 1, 2, 3))
FRAMES = 12
# One-frame spans: at the full rate training masks every frame, as in a stage's first step.
CONFIG = dataclasses.replace(
    DECODING_DEFAULTS, decoding_steps=(3, 2, 2, 2), span_len=1, temperature=1.5
)
PREFIX_CONFIG = dataclasses.replace(AUTOREGRESSIVE_DEFAULTS, cfg_coef=2.0)


class Masked(MaskedSession):
    """Records its inputs and outputs."""

    calls: tuple[tuple[Tensor, int, Tensor, Tensor], ...] = ()

    def __call__(
        self, codes: Tensor, stage: int, positions: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, Tensor | None]:
        answer = super().__call__(codes, stage, positions, with_null, end)
        self.calls += ((codes.clone(), stage, positions.clone(), answer[0]),)
        return answer


class Causal(CausalSession):
    """Keeps the conditional logits of every step."""

    def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
        super().reset(steps, with_null, short_context)
        self.logits: list[Tensor] = []

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        answer = super().step(tokens)
        self.logits.append(answer[0])
        return answer


def text() -> Tensor:
    return torch.randn(3, 32, generator=torch.Generator().manual_seed(1))


def nothing_known() -> tuple[Tensor, Tensor]:
    codes = torch.zeros(1, 4, FRAMES, dtype=torch.int64)
    return codes, codes.bool()


def run(
    lm: LanguageModel,
    prefix: Prefix,
    known: tuple[Tensor, Tensor] | None = None,
    writer: LanguageModel | None = None,
) -> tuple[Tensor, Causal, Masked]:
    causal = Causal(writer or lm, [text()], [None])
    masked = Masked(lm, [text()], [None], prefix_rows=prefix.rows if prefix.diagonal else 0)
    codes = decode_hybrid(
        causal,
        masked,
        *(known or nothing_known()),
        Decoding(CONFIG, lm.config.mask_id, make_generators([7])),
        prefix=prefix,
        prefix_config=PREFIX_CONFIG,
    )
    return codes, causal, masked


@settings(max_examples=40, deadline=None)
@given(
    delays=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    frames=st.integers(1, 20),
    data=st.data(),
)
def test_a_prefix_holds_its_whole_frames(
    delays: list[int], frames: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, frames))
    pattern = DelayPattern(delays)
    whole = Prefix(pattern, count, diagonal=False).kept(frames)
    assert bool(whole[:, :count].all())
    assert not bool(whole[:, count:].any())
    diagonal = Prefix(pattern, count, diagonal=True)
    kept = diagonal.kept(frames)
    assert bool((whole <= kept).all())
    # Exactly the codes in the prefix's rows.
    standing = pattern.apply(torch.ones(1, len(delays), frames), 0)[..., : diagonal.rows]
    assert int(kept.sum()) == int(standing.sum())


@pytest.mark.parametrize("frames", [1, 4, 9, 11, FRAMES])
def test_the_prefix_is_what_the_causal_model_writes(frames: int) -> None:
    lm = tiny_lm("hybrid")
    codes, _, _ = run(lm, Prefix(PATTERN, frames, diagonal=True))
    alone = autoregressive.decode(
        CausalSession(lm, [text()], [None]),
        *nothing_known(),
        Decoding(PREFIX_CONFIG, lm.config.mask_id, make_generators([7])),
        pattern=PATTERN,
    )
    kept = Prefix(PATTERN, frames, diagonal=True).kept(FRAMES)
    assert torch.equal(codes[:, kept], alone[:, kept])
    assert bool((codes < lm.config.card).all())
    if frames == FRAMES:
        assert torch.equal(codes, alone)


def test_of_another_models_prefix_whole_frames_are_kept() -> None:
    lm, writer = tiny_lm("masked"), tiny_lm("autoregressive", seed=1)
    codes, _, masked = run(lm, Prefix(PATTERN, 5, diagonal=False), writer=writer)
    _, _, positions, _ = masked.calls[0]
    assert positions[0, 0].tolist() == [False] * 5 + [True] * (FRAMES - 5)
    for seen, stage, _, _ in masked.calls:
        assert torch.equal(seen[..., :5], codes[..., :5])
        assert bool((seen[:, stage + 1 :, 5:] == lm.config.mask_id).all())


def test_known_codes_stay_inside_the_prefix_and_behind_it() -> None:
    lm = tiny_lm("hybrid")
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, lm.config.card, (1, 4, FRAMES), generator=generator)
    mask = torch.zeros(1, 4, FRAMES, dtype=torch.bool)
    mask[..., 2:4], mask[:, 0, 9:] = True, True
    got, _, _ = run(lm, Prefix(PATTERN, 6, diagonal=True), (codes, mask))
    assert torch.equal(got[mask], codes[mask])
    free, _, _ = run(lm, Prefix(PATTERN, 6, diagonal=True))
    assert torch.equal(got[..., 0], free[..., 0])  # decoded before the known codes start
    assert not torch.equal(got[..., 4:9], free[..., 4:9])


@pytest.mark.parametrize("prefix_frames", [0, 1, 5, 10])
def test_training_and_decoding_see_the_same(prefix_frames: int) -> None:
    """Inputs, masked positions and logits of a stage's first step are exactly those of training."""
    lm = tiny_lm("hybrid")
    if prefix_frames:
        prefix = Prefix(PATTERN, prefix_frames, diagonal=True)
        rows, kept = prefix.rows, int(prefix.kept(FRAMES).sum())
        codes, causal, masked = run(lm, prefix)
        steps = causal.logits
    else:  # purely masked decoding of a hybrid model: only the special row is causal
        rows, kept, steps = 1, 0, []
        masked = Masked(lm, [text()], [None])
        codes = iterative.decode(
            masked,
            *nothing_known(),
            Decoding(CONFIG, lm.config.mask_id, make_generators([7])),
        )
    cross = lm.cross_keys([text()])
    training = dataclasses.replace(lm.config, span_len=1)
    first_steps = {stage: (seen, at, logits) for seen, stage, at, logits in reversed(masked.calls)}
    for stage in range(4):
        draws = Draws(stage, torch.zeros(1), torch.rand(1, 1, FRAMES), rows)
        batch = mask_batch(codes, torch.ones(1, FRAMES, dtype=torch.bool), draws, training)
        if stage not in first_steps:  # the prefix holds the whole stream
            assert not bool(batch.masked.any())
            continue
        seen, positions, logits = first_steps[stage]
        assert torch.equal(seen, batch.inputs)
        assert torch.equal(positions, batch.masked)
        hidden = lm.rows_hidden(batch.inputs, stage, cross, rows)
        late = PATTERN.delays[stage]
        here = hidden[:, late + 1 : late + 1 + FRAMES]
        assert torch.allclose(lm.head(here[batch.masked[:, 0]], stage), logits, atol=1e-5)
        # And in the prefix: row s predicts step s + 1, for every code that training predicts.
        for step, said in enumerate(steps):
            for k, delay in enumerate(PATTERN.delays):
                frame = step - delay
                if 0 <= frame < FRAMES and bool(batch.following[0, k, frame]):
                    taught = lm.head(hidden[:, step], k)
                    assert torch.allclose(said[:, k], taught, atol=1e-4)
        assert int(batch.following.sum()) == kept
