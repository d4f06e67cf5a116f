"""Mean losses for the log: of the validation set, and of the steps since the last line."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from magnet_cli.training.batches import BatchDrawer
from magnet_cli.training.objective import exact


@dataclass(frozen=True)
class ValidationLoss:
    """Mean cross-entropy in nats; None for a stream that the model does not predict in this way."""

    masked: list[float | None]  # per stream, mean over all mask rates, without a prefix
    following: list[float | None]  # per stream, each code given all before it

    @property
    def mean(self) -> float:
        """The mean over streams and kinds, in nats."""
        values = [value for value in (*self.masked, *self.following) if value is not None]
        return sum(values) / max(len(values), 1)


@torch.no_grad()
def validate(accelerator: Any, model: torch.nn.Module, drawer: BatchDrawer) -> ValidationLoss:
    """The loss on held-out clips; each process computes its share of the batches."""
    was_training = model.training
    model.eval()
    streams, processes = drawer.lm.n_q, accelerator.num_processes
    sums = torch.zeros(4, streams, dtype=exact(accelerator.device), device=accelerator.device)
    batches = drawer.validation_batches()
    while turn := list(itertools.islice(batches, processes)):
        # Under FSDP all processes take part in a pass: one without a batch left repeats another's.
        mine = accelerator.process_index
        _, by_stream = model(turn[min(mine, len(turn) - 1)].to(accelerator.device))
        if mine < len(turn):
            sums += by_stream
    sums = accelerator.reduce(sums, "sum")
    model.train(was_training)

    def means(row: int) -> list[float | None]:
        return [
            float(total / count) if count > 0 else None
            for total, count in zip(sums[row], sums[row + 1], strict=True)
        ]

    return ValidationLoss(means(0), means(2))


class Window:
    """Losses and times since the last line of the log."""

    def __init__(self, streams: int) -> None:
        """An empty window of a model with `streams` streams."""
        self.seconds = 0.0  # of the steps only, without validation and samples
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.sums = torch.zeros(4, streams, dtype=torch.float64)

    def add(self, loss: float, norm: float, sums: Tensor, seconds: float) -> None:
        """Add the results of `Trainer.take_step`, and the seconds it took."""
        self.seconds += seconds
        self.losses.append(loss)
        self.norms.append(norm)
        self.sums += sums.cpu()

    def record(self, rate: float) -> dict[str, Any]:
        """The record for the log, means in nats; `rate` is the learning rate of the last step."""
        masked, masked_count, following, following_count = self.sums.tolist()

        def means(totals: list[float], counts: list[float]) -> list[float | None]:
            return [round(t / c, 4) if c else None for t, c in zip(totals, counts, strict=True)]

        return {
            "loss": sum(self.losses) / len(self.losses),
            "masked": means(masked, masked_count),
            "following": means(following, following_count),
            "grad_norm": round(sum(self.norms) / len(self.norms), 4),
            "learning_rate": rate,
            "seconds_per_step": round(self.seconds / len(self.losses), 4),
        }
