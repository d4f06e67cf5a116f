"""Muon on processors with and without bfloat16, against the method's formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from magnet_cli.training import optimizers
from magnet_cli.training.config import TrainConfig
from tests.training.conftest import needs_muon

RATE = 0.02


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList([nn.Linear(24, 40, bias=False)])
        self.emb, self.norm = nn.Embedding(4, 24), nn.LayerNorm(24)


def orthogonalized(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Five Newton-Schulz steps (Jordan et al., 2024) of a matrix with more rows than columns."""
    x = matrix.T.to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T


def stepped(monkeypatch: pytest.MonkeyPatch, native: bool) -> tuple[Tensor, Tensor]:
    """The step of a matrix relative to its size, and its gradient."""
    monkeypatch.setattr(optimizers, "multiplies_bfloat16", lambda: native)
    model = Model()
    weight = model.get_parameter("transformer.layers.0.weight")
    config = TrainConfig(optimizer="muon", muon_learning_rate=RATE, weight_decay=0.0)
    muon = optimizers.make_optimizers(model, config)[0]
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    before, weight.grad = weight.detach().clone(), gradient.clone()
    muon.step()
    assert weight.dtype == torch.float32
    return (before - weight.detach()) / (RATE * (40 / 24) ** 0.5), gradient


@needs_muon
def test_muon_is_in_float32_where_bfloat16_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    step, gradient = stepped(monkeypatch, native=False)
    # Nesterov's first step is a multiple of the gradient, and the norm is divided out.
    torch.testing.assert_close(step, orthogonalized(gradient, torch.float32), atol=1e-4, rtol=0)


@needs_muon
def test_muon_is_torchs_own_where_bfloat16_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    step, gradient = stepped(monkeypatch, native=True)
    wanted = orthogonalized(gradient, torch.float32)
    assert (step - wanted).abs().max() > 1e-3
    torch.testing.assert_close(step, wanted, atol=0.03, rtol=0)
