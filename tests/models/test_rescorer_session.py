"""The rescorer's parallel scores against a model that reads one step at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from magnet_cli.config import Modeling
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.session import RescorerSession
from magnet_cli.models.transformer import Attention
from tests.models.tiny import tiny_lm

FRAMES = 7


def some_codes(items: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 16, (items, 4, FRAMES), generator=generator)


def texts() -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(4)
    return [
        torch.randn(3, 32, generator=generator),
        None,
        torch.randn(5, 32, generator=generator),
    ]


@torch.inference_mode()
def token_by_token(lm: LanguageModel, codes: Tensor, text: Tensor | None, stage: int) -> Tensor:
    """float32 [T]: the probability of each code of a stream, computed in a plain way.

    Streams above the stage are missing: the special token takes their place in every row.
    """
    special, delay = lm.config.mask_id, lm.config.delays[stage]
    cross = lm.cross_keys([text])
    cache = lm.transformer.new_cache(1, FRAMES + delay, like=lm.out_norm.weight)
    probs = []
    for step in range(FRAMES + delay):
        row = torch.full((1, 4, 1), special)
        for k in range(stage + 1):
            frame = step - lm.config.delays[k] - 1
            if 0 <= frame < FRAMES:
                row[0, k, 0] = codes[k, frame]
        hidden = lm(row, cross, Attention.causal(), cache)
        frame = step - delay
        if frame >= 0:
            logits = lm.linears[stage](hidden[0, 0]).double()
            probs.append(torch.softmax(logits, -1)[codes[stage, frame]])
    return torch.stack(probs).float()


@pytest.mark.parametrize("modeling", ["autoregressive", "hybrid"])
@pytest.mark.parametrize("stage", range(4))
def test_parallel_scores_are_those_of_step_by_step_reading(modeling: Modeling, stage: int) -> None:
    lm, codes = tiny_lm(modeling), some_codes(3)
    got = RescorerSession(lm, texts())(codes, [stage])[:, 0]
    want = torch.stack(
        [token_by_token(lm, codes[item], text, stage) for item, text in enumerate(texts())]
    )
    assert got.shape == (3, FRAMES)
    assert got.dtype == torch.float32
    assert torch.allclose(got, want, atol=1e-6)


def test_streams_above_the_stage_do_not_matter() -> None:
    lm, codes = tiny_lm("autoregressive"), some_codes(1)
    session = RescorerSession(lm, [None])
    other = codes.clone()
    other[:, 2:] = 15 - other[:, 2:]
    assert torch.equal(session(codes, [1]), session(other, [1]))
    assert not torch.equal(session(codes, [2]), session(other, [2]))
    masked = codes.clone()
    masked[:, 2:] = lm.config.mask_id
    assert torch.equal(session(masked, [1]), session(codes, [1]))


def test_streams_of_a_group_are_each_scored_beside_the_others() -> None:
    lm, codes = tiny_lm("autoregressive"), some_codes(1)
    session = RescorerSession(lm, [None])
    both = session(codes, [2, 3])
    assert both.shape == (1, 2, FRAMES)
    forced = lm.teacher_forced(codes, lm.cross_keys([None])).softmax(-1)
    want = forced.gather(-1, codes[..., None])[0, 2:, :, 0]
    assert torch.allclose(both[0], want, atol=1e-6)


def test_an_item_alone_is_the_item_in_a_batch() -> None:
    lm, codes = tiny_lm("hybrid"), some_codes(3)
    together = RescorerSession(lm, texts())(codes, [2])
    for item, text in enumerate(texts()):
        alone = RescorerSession(lm, [text])(codes[item : item + 1], [2])
        assert torch.equal(alone[0], together[item])


def test_all_items_in_one_pass_are_the_same() -> None:
    """As on devices other than the CPU."""
    lm, codes = tiny_lm("autoregressive"), some_codes(3)
    one_by_one = RescorerSession(lm, texts())
    batched = RescorerSession(lm, texts())
    batched.one_by_one, batched.cross = False, [lm.cross_keys(texts())]
    assert torch.allclose(batched(codes, [3]), one_by_one(codes, [3]), atol=1e-6)
