"""The objective against the reference's masks, inputs, losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from magnet_cli.checkpoints.load import load_checkpoint
from magnet_cli.checkpoints.resolve import resolve
from magnet_cli.training.objective import Draws, batch_losses, mask_batch
from tests.golden_cases import case_id, cases, tensor


@pytest.mark.parametrize("case", cases(section=6, prefix="train/loss/"), ids=case_id)
@pytest.mark.usefixtures("hub_cache")
def test_loss_and_gradients_are_the_references(case: dict[str, Any]) -> None:
    lm = load_checkpoint(resolve(case["model"]), "cpu", "float32").lm
    lm.requires_grad_(True)
    given = {name: tensor(ref) for name, ref in case["inputs"].items()}
    stage = case["settings"]["stage"]
    draws = Draws(stage, given["rand_time"], given["rand_perm_source"])
    valid = given["padding_mask"][:, stage].bool()

    batch = mask_batch(given["codes"], torch.ones_like(valid), draws, lm.config)
    assert torch.equal(batch.masked, tensor(case["outputs"]["stage_mask"]))
    assert torch.equal(batch.inputs, tensor(case["outputs"]["input_tokens"]))

    batch = mask_batch(given["codes"], valid, draws, lm.config)
    # The golden condition is behind the projection already.
    lm.project_text = lambda hidden: hidden  # type: ignore[method-assign]
    from dataclasses import replace

    batch = replace(batch, conditions=tuple(given["condition"]))
    sums = batch_losses(lm, batch)
    loss = sums.total / batch.weight(1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(case["outputs"]["ce"], rel=1e-5)
    for name, norm in case["outputs"]["grad_norm"].items():
        gradient = lm.get_parameter(name).grad
        found = 0.0 if gradient is None else float(gradient.norm())
        assert found == pytest.approx(norm, rel=1e-3, abs=1e-6), name
