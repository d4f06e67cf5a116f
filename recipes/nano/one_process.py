"""The part of accelerate that `Trainer` uses, for one process and with torch alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_STATE = "state.pt"


class OneProcess:
    """Replaces `accelerate.Accelerator` for a single process."""

    num_processes, process_index, is_main_process = 1, 0, True
    distributed_type = "NO"

    def __init__(self, device: torch.device, mixed_precision: str) -> None:
        """`mixed_precision` is no or bf16; fp16 would need a scaler."""
        if mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision {mixed_precision} is not for one process alone")
        self.device, self.autocasting = device, mixed_precision == "bf16"
        self.mixed_precision = mixed_precision
        self._model: nn.Module | None = None
        self._optimizers: tuple[Optimizer, ...] = ()

    def prepare(self, model: nn.Module, *optimizers: Optimizer) -> tuple[Any, ...]:
        """Move the model to its device, with its forward pass in the chosen precision.

        The optimizers keep their parameters, which move in place.
        """
        model.to(self.device)
        forward = model.forward

        def cast(*args: Any) -> Any:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocasting):
                return forward(*args)

        model.forward = cast  # type: ignore[method-assign]
        self._model, self._optimizers = model, optimizers
        return (model, *optimizers)

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Nothing to synchronize."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        loss.backward()

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        """A sum over one process."""
        return tensor

    def clip_grad_norm_(self, parameters: Iterable[nn.Parameter], longest: float) -> Tensor:
        """Clip the gradients; returns the norm before."""
        return nn.utils.clip_grad_norm_(parameters, longest)

    def wait_for_everyone(self) -> None:
        """Nobody to wait for."""

    def get_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The current weights."""
        return model.state_dict()

    def save_state(self, folder: str) -> None:
        """Save weights and optimizers to a new folder."""
        assert self._model is not None, "prepare comes first"
        Path(folder).mkdir(parents=True)
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
        torch.save(
            {"model": self._model.state_dict(), "optimizers": optimizers}, Path(folder) / _STATE
        )

    def load_state(self, folder: str) -> None:
        """Load what `save_state` saved."""
        assert self._model is not None, "prepare comes first"
        saved = torch.load(Path(folder) / _STATE, map_location=self.device, weights_only=True)
        self._model.load_state_dict(saved["model"])
        for optimizer, state in zip(self._optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
