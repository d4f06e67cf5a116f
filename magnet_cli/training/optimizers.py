"""Optimizers, and the learning rate as a function of the step, so there is no scheduler state to save."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from magnet_cli.errors import UsageError
from magnet_cli.models.precision import multiplies_bfloat16
from magnet_cli.training.config import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """AdamW for everything, or Muon for the transformer's matrices and AdamW for the rest.

    Norms and biases have no weight decay. Muon orthogonalizes the step of each matrix (Jordan et al.,
    2024), so the three projections in `in_proj_weight` share one step; they are square blocks with the same
    input. A LoRA of codes alone has no matrices for it.
    Raises UsageError: this torch has no Muon.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.dim() == 2 and ".layers." in name]
    inner = {id(p) for p in matrices}
    tables = [p for _, p in named if p.dim() >= 2 and id(p) not in inner]
    vectors = [p for _, p in named if p.dim() < 2]
    if config.optimizer == "adamw" or not matrices:
        return [_adamw([*matrices, *tables], vectors, config)]
    if not hasattr(torch.optim, "Muon"):
        raise UsageError("This torch has no Muon.", "Use --optimizer adamw, or torch 2.9 or later.")
    muon = _muon()(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay)
    return [muon, _adamw(tables, vectors, config)]


@functools.cache  # one class, made when it is needed: torch before 2.9 has no Muon
def _muon() -> type[torch.optim.Muon]:
    class Muon(torch.optim.Muon):
        """torch's, in float32 on processors that do not multiply bfloat16."""

        def step(self, closure: Any = None) -> Any:
            on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
            slow = on_cpu and not multiplies_bfloat16()
            with _InFloat32() if slow else contextlib.nullcontext():
                return super().step(closure)

    return Muon


class _InFloat32(TorchFunctionMode):
    """Within it `.bfloat16()` gives float32. torch's Muon orthogonalizes in bfloat16, which is far
    slower than float32 on processors that must convert every product: three quarters of nano's steps."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)  # Muon changes it in place
        return func(*args, **(kwargs or {}))


def _adamw(
    decayed: list[nn.Parameter], vectors: list[nn.Parameter], config: TrainConfig
) -> Optimizer:
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    # Fused: one pass over the weights instead of a dozen, on every supported device.
    return torch.optim.AdamW(groups, lr=config.rate, betas=(config.beta1, config.beta2), fused=True)


def rate_share(step: int, config: TrainConfig) -> float:
    """The learning rate at a step (0 is the first) relative to its peak."""
    warmup = config.warmup
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "inverse_sqrt":
        return math.sqrt(max(warmup, 1) / (step + 1))
    done = min((step - warmup) / max(config.steps - warmup, 1), 1.0)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


def set_rates(optimizers: list[Optimizer], step: int, config: TrainConfig) -> float:
    """Set every group's learning rate for a step, and its other settings, which may be others than in the
    checkpoint that was resumed from; returns AdamW's rate."""
    share = rate_share(step, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            peak = config.muon_learning_rate if "ns_steps" in group else config.rate
            group["lr"] = peak * share
            if any(p.dim() >= 2 for p in group["params"]):
                group["weight_decay"] = config.weight_decay
            if "betas" in group:
                group["betas"] = (config.beta1, config.beta2)
    return config.rate * share
