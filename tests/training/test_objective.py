"""The objective against the reference's masks, inputs, losses and gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.place import find_place
from magnet_cli.config import LMConfig
from magnet_cli.training.batches import spans_of
from magnet_cli.training.objective import (
    Draws,
    batch_losses,
    exact,
    mask_batch,
    mean_loss,
    with_code_noise,
)
from tests.golden_cases import case_id, cases, tensor


@pytest.mark.parametrize("case", cases(section=6, prefix="train/loss/"), ids=case_id)
@pytest.mark.usefixtures("hub_cache")
def test_loss_and_gradients_are_the_references(case: dict[str, Any]) -> None:
    lm = load_parts(find_place(case["model"]), "cpu", "float32").lm
    lm.requires_grad_(True)
    given = {name: tensor(ref) for name, ref in case["inputs"].items()}
    stage = case["settings"]["stage"]
    draws = Draws(stage, given["rand_time"], given["rand_perm_source"][:, None])
    valid = given["padding_mask"][:, stage].bool()

    batch = mask_batch(given["codes"], torch.ones_like(valid), draws, lm.config)
    assert torch.equal(batch.masked[:, 0], tensor(case["outputs"]["stage_mask"]))
    assert torch.equal(batch.inputs, tensor(case["outputs"]["input_tokens"]))

    batch = mask_batch(given["codes"], valid, draws, lm.config)
    # The golden condition is after the projection already.
    lm.project_text = lambda hidden: hidden  # type: ignore[method-assign]

    batch = replace(batch, conditions=tuple(given["condition"]))
    sums = batch_losses(lm, batch)
    loss = mean_loss(sums.total, batch.counts())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(case["outputs"]["ce"], rel=1e-5)
    for name, norm in case["outputs"]["grad_norm"].items():
        gradient = lm.get_parameter(name).grad
        found = 0.0 if gradient is None else float(gradient.norm())
        assert found == pytest.approx(norm, rel=1e-3, abs=1e-6), name


def test_sums_are_float64_but_on_apples_gpus_which_have_none() -> None:
    assert exact(torch.device("cpu")) is exact(torch.device("cuda")) is torch.float64
    assert exact(torch.device("mps")) is torch.float32


def grouped() -> tuple[LMConfig, torch.Tensor]:
    """A model with two stages of two streams, and codes [8, 4, 200] for it."""
    config = LMConfig(
        dim=8, num_heads=1, num_layers=1, n_q=4, card=50, modeling="masked", text_dim=4, frame_rate=10.0,
        segment_duration=20.0, span_len=1, stages=((0, 1), (2, 3)),
    )  # fmt: skip
    return config, torch.randint(0, 50, (8, 4, 200), generator=torch.Generator().manual_seed(0))


def test_streams_of_a_group_are_masked_at_frames_of_their_own() -> None:
    config, codes = grouped()
    time, noise = spans_of(0, range(8), 2, 200)
    batch = mask_batch(codes, torch.ones(8, 200, dtype=torch.bool), Draws(0, time, noise), config)
    counts = batch.masked.sum(-1)
    assert torch.equal(counts[:, 0], counts[:, 1])  # an item has one rate
    assert not torch.equal(batch.masked[:, 0], batch.masked[:, 1])
    assert torch.equal(batch.inputs[:, :2] == config.mask_id, batch.masked)
    assert bool((batch.inputs[:, 2:] == config.mask_id).all())
    alone = spans_of(
        0, range(8), 1, 200
    )  # a single stream's draws are as they were before there were groups
    assert torch.equal(alone[0], time)
    assert torch.equal(alone[1], noise[:, :1])


def test_of_a_block_is_predicted_what_decoding_in_blocks_decides() -> None:
    config, codes = grouped()
    time, noise = spans_of(0, range(8), 2, 200)
    valid = torch.arange(200).expand(8, 200) < 190
    batch = mask_batch(codes, valid, Draws(0, time, noise, block=(160, 200)), config)
    inside = batch.inputs[:, :2, 160:] == config.mask_id
    assert torch.equal(batch.masked[..., 160:190], inside[..., :30])  # padding is never asked
    assert not batch.masked[..., 190:].any()
    batch = mask_batch(codes, valid, Draws(0, time, noise, block=(40, 80)), config)
    assert torch.equal(batch.codes, codes[..., :80])  # what comes after is left out
    assert torch.equal(batch.inputs[:, :2, :40], codes[:, :2, :40])
    assert torch.equal(batch.inputs[:, :2, 40:] == config.mask_id, batch.masked[..., 40:])
    assert batch.masked.shape[-1] == batch.following.shape[-1] == 80
    assert not batch.masked[..., :40].any()
    rates = torch.cos(time * math.pi / 2)
    assert torch.equal(batch.masked.sum(-1)[:, 0], (rates * 40).round().clamp(min=1).long())
    # A block counts as much as a whole segment.
    assert float(batch.counts()[0]) == 5 * int(batch.masked.sum())


def test_code_noise_changes_what_is_read_and_nothing_else() -> None:
    config = LMConfig(
        dim=8, num_heads=1, num_layers=1, n_q=3, card=50, modeling="masked", text_dim=4, frame_rate=10.0,
        segment_duration=20.0,
    )  # fmt: skip
    codes = 10 * torch.arange(3)[None, :, None] + torch.randint(0, 10, (64, 3, 200))
    draws = Draws(1, torch.full((64,), 0.5), torch.rand(64, 1, 200))
    clean = mask_batch(codes, torch.ones(64, 200, dtype=torch.bool), draws, config)
    noisy = with_code_noise(clean, 0.4, config.mask_id, torch.Generator().manual_seed(0))
    again = with_code_noise(clean, 0.4, config.mask_id, torch.Generator().manual_seed(0))
    assert torch.equal(noisy.inputs, again.inputs)
    for kept in ("codes", "masked", "following"):
        assert torch.equal(getattr(noisy, kept), getattr(clean, kept))
    masks = clean.inputs == config.mask_id
    assert torch.equal(noisy.inputs == config.mask_id, masks)
    changed = (noisy.inputs != clean.inputs)[:, 0].float().mean(-1)  # nine in ten differ
    assert float(changed.mean()) == pytest.approx(0.9 * 0.2, abs=0.03)
    assert float(changed.min()) < 0.05
    assert 0.25 < float(changed.max()) < 0.45
    # A short clip is padded with the mask id, which is never a replacement.
    short = clean.codes.masked_fill(torch.arange(200) >= 100, config.mask_id)
    padded = replace(clean, codes=short)
    kept_masks = with_code_noise(padded, 0.4, config.mask_id, torch.Generator().manual_seed(0))
    assert torch.equal(kept_masks.inputs == config.mask_id, masks)
    # Replacements are codes of the same stream.
    assert torch.equal((noisy.inputs // 10)[~masks], (codes // 10)[~masks])
