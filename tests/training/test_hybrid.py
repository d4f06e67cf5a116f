"""A hybrid model sees the same in training and decoding: prefix, mask and positions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from magnet_cli.config import LMConfig
from magnet_cli.decoding.autoregressive import Prefix, decode_hybrid
from magnet_cli.decoding.contracts import Decoding
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.session import CausalSession, MaskedSession
from magnet_cli.models.transformer import Attention
from magnet_cli.settings import DECODING_DEFAULTS
from magnet_cli.training.config import TrainConfig
from magnet_cli.training.initial import initialise
from magnet_cli.training.objective import Batch, Draws, batch_losses, mask_batch, mean_loss

FRAMES, PREFIX_FRAMES = 17, 5
CONFIG = LMConfig(
    dim=16,
    num_heads=2,
    num_layers=2,
    n_q=3,
    card=7,
    modeling="hybrid",
    text_dim=4,
    frame_rate=10.0,
    segment_duration=1.7,
    subcodes_context=2,
    span_len=1,  # so that a mask rate of 1 masks everything: spans can miss a frame
    delays=(0, 1, 2),
)


@pytest.fixture
def lm() -> LanguageModel:
    model = LanguageModel(CONFIG)
    initialise(model, seed=0)
    return model.eval()


class Watched:
    """Records inputs and outputs of the transformer."""

    def __init__(self, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Tensor, Attention, Tensor]] = []
        forward = lm.forward

        def watch(sequence: Tensor, cross, attention: Attention, cache=None) -> Tensor:  # type: ignore[no-untyped-def]
            hidden = forward(sequence, cross, attention, cache)
            self.calls.append((sequence.clone(), attention, hidden))
            return hidden

        monkeypatch.setattr(lm, "forward", watch)


def decoded(lm: LanguageModel) -> Tensor:
    """Codes [1, K, T] by hybrid decoding."""
    settings = dataclasses.replace(
        DECODING_DEFAULTS, decoding_steps=(4, 3, 3), span_len=2, cfg_coef=0.0, max_cfg_coef=0.0
    )
    prefix = Prefix(lm.pattern, PREFIX_FRAMES, diagonal=True)
    return decode_hybrid(
        CausalSession(lm, [None], [None]),
        MaskedSession(lm, [None], [None], prefix_rows=prefix.rows),
        torch.zeros(1, 3, FRAMES, dtype=torch.int64),
        torch.zeros(1, 3, FRAMES, dtype=torch.bool),
        Decoding(
            dataclasses.replace(settings, max_cfg_coef=1.0, min_cfg_coef=1.0),
            CONFIG.mask_id,
            make_generators([3]),
        ),
        prefix=prefix,
        prefix_config=settings,
    )


def trained_on(codes: Tensor, stage: int, prefix_rows: int) -> Batch:
    """The training batch with everything after the prefix masked, as in a stage's first step."""
    draws = Draws(stage, torch.zeros(1), torch.rand(1, 1, FRAMES), prefix_rows)
    return mask_batch(codes, torch.ones(1, FRAMES, dtype=torch.bool), draws, CONFIG)


def test_training_and_decoding_feed_the_transformer_alike(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(lm, monkeypatch)
    codes = decoded(lm)
    masked = [call for call in watched.calls if call[1].kind == "prefix"]
    assert len(masked) == 4 + 3 + 3
    firsts = [masked[0], masked[4], masked[7]]  # of each stage
    rows = Prefix(lm.pattern, PREFIX_FRAMES, diagonal=True).rows
    # The prefix is computed once, before the first masked step, and the rows after it at every step.
    first_masked = next(n for n, call in enumerate(watched.calls) if call[1].kind == "prefix")
    prefix, prefix_attention, _ = watched.calls[first_masked - 1]
    assert prefix_attention.kind == "causal"
    for stage, (sequence, attention, _) in enumerate(firsts):
        watched.calls.clear()
        batch_losses(lm, trained_on(codes, stage, rows))
        ((trained, trained_attention, _),) = watched.calls
        assert torch.equal(torch.cat([prefix, sequence], dim=-1), trained), stage
        assert prefix.shape[-1] == rows
        assert attention == trained_attention, stage

    # Later steps differ in the stage's own stream and nowhere else.
    for stage, steps in enumerate((masked[:4], masked[4:7], masked[7:])):
        for sequence, attention, _ in steps:
            changed = (sequence != steps[0][0])[0]
            assert attention == steps[0][1]
            assert not changed[[k for k in range(3) if k != stage]].any()


def test_the_prefix_is_written_by_what_its_loss_trains(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autoregressive decoding and one training pass give the prefix rows the same hidden states."""
    watched = Watched(lm, monkeypatch)
    codes = decoded(lm)
    steps = torch.cat([call[2] for call in watched.calls if call[1].kind == "causal"], dim=1)
    rows = Prefix(lm.pattern, PREFIX_FRAMES, diagonal=True).rows
    for stage in range(3):
        watched.calls.clear()
        batch_losses(lm, trained_on(codes, stage, rows))
        hidden = watched.calls[0][2]
        # Row s predicts step s + 1, so the last row of the prefix is not used.
        torch.testing.assert_close(hidden[:, : rows - 1], steps[:, : rows - 1], atol=1e-5, rtol=0)


def test_a_whole_prefix_is_the_autoregressive_objective(lm: LanguageModel) -> None:
    codes = torch.randint(0, CONFIG.card, (2, 3, FRAMES))
    steps = lm.pattern.steps(FRAMES)
    batch = trained_on(codes[:1], 1, steps)
    assert batch.following.all()
    assert not batch.masked.any()
    sums = batch_losses(lm, batch)
    logits = lm.teacher_forced(codes[:1], None)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 2), codes[:1].flatten())
    mean = mean_loss(sums.total.detach(), batch.counts())
    assert float(mean) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_prefix_and_masked_positions_never_meet() -> None:
    for rows in range(1, FRAMES + 4):
        for stage in range(3):
            batch = trained_on(torch.randint(0, CONFIG.card, (1, 3, FRAMES)), stage, rows)
            both = batch.masked[:, 0] & batch.following[:, stage]
            assert not both.any()
            # At a mask rate of 1 the two together are the whole stream.
            assert (batch.masked[:, 0] | batch.following[:, stage]).all()
            known = batch.inputs[:, stage + 1 :] != CONFIG.mask_id
            assert torch.equal(known, batch.following[:, stage + 1 :])


def test_stream_weights_and_prefix_weight_decide_the_sum(lm: LanguageModel) -> None:
    batch = trained_on(torch.randint(0, CONFIG.card, (1, 3, FRAMES)), 0, 8)
    weights = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    whole, some = batch_losses(lm, batch), batch_losses(lm, batch, weights.tolist())
    masked = float(whole.masked.sum())
    heard = float((weights * whole.following).sum())
    assert whole.total.tolist() == pytest.approx([masked, float(whole.following.sum())], rel=1e-5)
    assert some.total.tolist() == pytest.approx([masked, heard], rel=1e-5)
    assert some.following_count[2] == 0  # a head without targets is not computed
    counts = batch.counts(weights.tolist())
    weighed = float((weights * whole.following_count).sum())
    assert counts.tolist() == [float(whole.masked_count.sum()), weighed]
    loss = float(mean_loss(some.total.detach(), counts, prefix_weight=3.0))
    assert loss == pytest.approx(masked / float(counts[0]) + 3 * heard / weighed, rel=1e-5)


def test_streams_weigh_against_each_other_and_a_prefix_without_weight_is_not_computed() -> None:
    config = TrainConfig(prefix_weight=0.5, stream_weights=(2.0, 1.0, 0.5))
    assert config.following_weights(3) == (2.0, 1.0, 0.5)
    assert TrainConfig(prefix_weight=0.5).following_weights(3) == (1.0,) * 3
    assert TrainConfig(prefix_weight=0.0).following_weights(3) == (0.0,) * 3


def test_how_long_prefixes_are_does_not_decide_how_much_masks_count(lm: LanguageModel) -> None:
    """A whole prefix predicts all codes of its items and a stage some of them: averaged over a common count,
    one autoregressive micro-batch left the step's masked loss a tenth of its weight."""
    codes = torch.randint(0, CONFIG.card, (1, 3, FRAMES))
    masked = trained_on(codes, 1, 1)
    whole = trained_on(codes, 0, lm.pattern.steps(FRAMES))
    assert not masked.following.any()
    counts = masked.counts() + whole.counts()
    totals = [batch_losses(lm, batch).total.detach() for batch in (masked, whole)]
    alone = [
        mean_loss(total, batch.counts())
        for total, batch in zip(totals, (masked, whole), strict=True)
    ]
    assert int(whole.counts()[1]) > 2 * int(masked.counts()[0])
    step = mean_loss(totals[0] + totals[1], counts)
    torch.testing.assert_close(step, alone[0] + alone[1])
