"""Autoregressive decoding: coherence boosting against a plain version, whole passes. (For equality with the
reference see golden.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from magnet_cli.decoding import autoregressive
from magnet_cli.decoding.autoregressive import SHORT_CONTEXT
from magnet_cli.decoding.contracts import Decoding
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.models.session import CausalSession
from magnet_cli.models.transformer import Attention
from magnet_cli.settings import AUTOREGRESSIVE_DEFAULTS, DecodingConfig
from tests.models.tiny import tiny_lm

FRAMES = 2 * SHORT_CONTEXT
BOOSTED = dataclasses.replace(AUTOREGRESSIVE_DEFAULTS, coherence_boost=0.5, cfg_coef=3.0)
GREEDY = dataclasses.replace(BOOSTED, use_sampling=False, coherence_boost=3.0)


def written(
    config: DecodingConfig, known: int = 0, seeds: Sequence[int] = (0,), text: bool = True
) -> Tensor:
    """Codes [B, 4, FRAMES] of a tiny model, each item with its own text; `known` frames are given."""
    lm = tiny_lm("autoregressive")
    texts = [
        torch.randn(3, lm.config.dim, generator=torch.Generator().manual_seed(seed))
        if text
        else None
        for seed in seeds
    ]
    codes = torch.randint(
        0, lm.config.card, (len(seeds), 4, FRAMES), generator=torch.Generator().manual_seed(5)
    )
    mask = torch.zeros_like(codes, dtype=torch.bool)
    mask[..., :known] = True
    return autoregressive.decode(
        CausalSession(lm, texts, [None] * len(seeds)),
        codes,
        mask,
        Decoding(config, lm.config.mask_id, make_generators(seeds)),
        pattern=lm.pattern,
    )


@pytest.mark.parametrize("known", [0, 20])
@pytest.mark.parametrize("text", [True, False])
@torch.inference_mode()
def test_each_code_is_what_whole_passes_make_likeliest(known: int, text: bool) -> None:
    """Teacher-forced over the decoded codes: no cache, no shared batch, a dense mask."""
    codes = written(GREEDY, known, text=text)
    lm = tiny_lm("autoregressive")
    condition = torch.randn(3, lm.config.dim, generator=torch.Generator().manual_seed(0))
    cross, nothing = lm.cross_keys([condition if text else None]), lm.cross_keys([None])
    sequence = lm.pattern.apply(codes, lm.config.mask_id)[..., :-1]
    everything, recent = Attention.causal(), Attention.causal(SHORT_CONTEXT)
    cond, short = lm(sequence, cross, everything), lm(sequence, cross, recent)
    null = lm(sequence, nothing, everything)
    differs = 0
    for stream, delay in enumerate(lm.pattern.delays):
        for frame in range(known, FRAMES):
            at = frame + delay
            long_, without, near = (
                lm.head(hidden[0, at], stream) for hidden in (cond, null, short)
            )
            guided = without + 3.0 * (long_ - without)
            boosted = guided + 3.0 * (long_ - near)
            code = int(codes[0, stream, frame])
            assert float(boosted[code]) > float(boosted.max()) - 1e-3
            differs += code != int(guided.argmax())
    assert differs > 0  # otherwise the boost would not be tested


def test_without_a_boost_no_short_context_is_asked_for() -> None:
    asked: list[int] = []

    class Watched(CausalSession):
        def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
            asked.append(short_context)
            super().reset(steps, with_null, short_context)

    lm = tiny_lm("autoregressive")
    codes = torch.zeros(1, 4, 3, dtype=torch.int64)
    for boost in (0.0, 0.5):
        autoregressive.decode(
            Watched(lm, [None], [None]),
            codes,
            torch.zeros_like(codes, dtype=torch.bool),
            Decoding(
                dataclasses.replace(GREEDY, coherence_boost=boost),
                lm.config.mask_id,
                make_generators([0]),
            ),
            pattern=lm.pattern,
        )
    assert asked == [0, SHORT_CONTEXT]


def test_as_long_as_all_is_in_the_short_context_a_boost_changes_nothing() -> None:
    plain = written(dataclasses.replace(BOOSTED, coherence_boost=0.0))
    boosted = written(dataclasses.replace(BOOSTED, coherence_boost=2.0))
    for stream, delay in enumerate(tiny_lm("autoregressive").pattern.delays):
        inside = SHORT_CONTEXT - delay
        assert torch.equal(plain[:, stream, :inside], boosted[:, stream, :inside])
    assert not torch.equal(plain, boosted)


def test_a_clip_is_the_same_alone_and_in_a_batch() -> None:
    batch = written(BOOSTED, seeds=(1, 2, 3))
    for item, seed in enumerate((1, 2, 3)):
        assert torch.equal(batch[item : item + 1], written(BOOSTED, seeds=(seed,)))
    assert not torch.equal(batch[0], batch[1])
