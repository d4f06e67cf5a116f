"""The language model: golden logits, layouts, teacher forcing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from magnet_cli.config import Modeling
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.transformer import Attention
from tests.golden_cases import case, case_id, cases, tensor
from tests.models.tiny import golden_model, stage_hidden, tiny_lm

MAGNET = [c for c in cases(section=2) if "stage" in c["settings"]]


@pytest.mark.parametrize("golden", MAGNET, ids=case_id)
@torch.inference_mode()
def test_logits_are_the_references(golden: dict, hub_cache: object) -> None:
    lm = golden_model(golden["model"]).lm
    codes = tensor(golden["inputs"]["codes"]).expand(2, -1, -1)
    condition = tensor(golden["inputs"]["condition"])
    stage = golden["settings"]["stage"]
    hidden = stage_hidden(lm, codes, stage, lm.cross_keys([condition[0], None]))
    outputs = golden["outputs"]
    at = hidden[:, tensor(outputs["positions"])]
    logits = torch.stack([lm.head(at, k) for k in range(4)], dim=1)
    assert float((logits - tensor(outputs["logits"])).abs().max()) < 1e-4
    for index, stream in enumerate(outputs["codebooks_of_lse_argmax"]):
        everywhere = lm.head(hidden, stream)
        want = tensor(outputs["logsumexp"])[:, index]
        assert float((everywhere.logsumexp(-1) - want).abs().max()) < 1e-4


@torch.inference_mode()
def test_teacher_forced_logits_are_the_references(hub_cache: object) -> None:
    golden = case("musicgen/predictions")
    lm = golden_model(golden["model"]).lm
    # Below the API: the reference lets cross-attention see the padding of the shorter text.
    cross = lm.cross_keys(list(tensor(golden["inputs"]["condition"])))
    logits = lm.teacher_forced(tensor(golden["inputs"]["codes"]), cross)
    valid = tensor(golden["outputs"]["mask"]).bool()
    want = tensor(golden["outputs"]["logits_nan_as_zero"])
    assert valid.any()
    assert float((logits - want)[valid].abs().max()) < 1e-4


@torch.inference_mode()
def test_teacher_forcing_equals_cached_steps() -> None:
    lm = tiny_lm("autoregressive")
    codes = torch.randint(0, lm.config.card, (1, 4, 6), generator=torch.Generator().manual_seed(0))
    cross = lm.cross_keys([torch.ones(2, lm.config.dim)])
    want = lm.teacher_forced(codes, cross)
    sequence = lm.pattern.apply(codes, lm.config.mask_id)
    cache = lm.transformer.new_cache(1, sequence.shape[-1], like=want)
    for step in range(sequence.shape[-1] - 1):
        hidden = lm(sequence[:, :, step : step + 1], cross, Attention.causal(), cache)[:, 0]
        for stream, delay in enumerate(lm.pattern.delays):
            frame = step - delay
            if 0 <= frame < 6:
                assert torch.allclose(lm.head(hidden, stream), want[:, stream, frame], atol=1e-4)


@torch.inference_mode()
def test_hybrid_stage_reads_the_delay_layout() -> None:
    lm = tiny_lm("hybrid")
    codes = torch.randint(0, lm.config.card, (2, 4, 9), generator=torch.Generator().manual_seed(1))
    sequence = lm.pattern.apply(codes, lm.config.mask_id)
    for stage in range(4):
        attention = Attention.prefix(5, lm.config.subcodes_context if stage else None)
        rows = lm(sequence, None, attention)
        got = stage_hidden(lm, codes, stage, None, prefix_rows=5)
        for frame in range(9):
            step = frame + lm.pattern.delays[stage] + 1
            assert torch.equal(got[:, frame], rows[:, step])


@pytest.mark.parametrize("modeling", ["masked", "hybrid"])
@torch.inference_mode()
def test_a_context_of_minus_one_restricts_nothing(modeling: Modeling) -> None:
    lm = tiny_lm(modeling)
    codes = torch.randint(16, (1, 4, 30), generator=torch.Generator().manual_seed(1))
    banded = stage_hidden(lm, codes, 2, None)
    wide = stage_hidden(lm.with_context(64), codes, 2, None)  # more rows than there are
    torch.testing.assert_close(stage_hidden(lm.with_context(-1), codes, 2, None), wide)
    assert torch.equal(stage_hidden(lm, codes, 2, None), banded)  # the model itself stays
    assert not torch.allclose(banded, wide, atol=1e-3)


def test_names_are_those_of_the_released_layout() -> None:
    lm = tiny_lm("masked")
    names = set(dict(lm.named_parameters()))
    assert {
        "emb.3.weight",
        "linears.0.weight",
        "out_norm.bias",
        "transformer.layers.1.self_attn.in_proj_weight",
        "transformer.layers.0.cross_attention.out_proj.weight",
        "transformer.layers.0.norm_cross.weight",
    } <= names
    assert not any("bias" in name and ("attn" in name or "linear" in name) for name in names)


def test_masked_model_needs_no_delays() -> None:
    config = dataclasses.replace(tiny_lm("masked").config, delays=())
    assert LanguageModel(config).pattern.delays == (0, 0, 0, 0)
