"""The loss on clips that training never sees, by stream, with the same draws every time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from magnet_cli.patterns import DelayPattern
from magnet_cli.training.module import to_device
from magnet_cli.training.objective import Batch, Draws, exact, mask_batch
from magnet_cli.training.sampling import Sampler, crop, keyed_generator, spans_of


@dataclass(frozen=True)
class ValidationLoss:
    """Mean cross-entropy in nats; None where nothing of the kind is asked of the model."""

    masked: list[float | None]  # by stream, over all mask rates alike, without a prefix
    following: list[float | None]  # by stream, each code given all before it

    @property
    def mean(self) -> float:
        """Over all that there is."""
        values = [value for value in (*self.masked, *self.following) if value is not None]
        return sum(values) / max(len(values), 1)


@torch.no_grad()
def validate(accelerator: Any, model: torch.nn.Module, sampler: Sampler) -> ValidationLoss:
    """Validation loss; each process takes its share of the batches."""
    was_training = model.training
    model.eval()
    streams = sampler.lm.n_q
    sums = torch.zeros(4, streams, dtype=exact(accelerator.device), device=accelerator.device)
    for number, batch in enumerate(validation_batches(sampler)):
        # Every process runs every forward pass's turn: under FSDP a pass is a collective.
        mine = number % accelerator.num_processes == accelerator.process_index
        _, by_stream = model(to_device(batch, accelerator.device))
        if mine:
            sums += by_stream
    sums = accelerator.reduce(sums, "sum")
    model.train(was_training)

    def means(row: int) -> list[float | None]:
        return [
            float(total / count) if count > 0 else None
            for total, count in zip(sums[row], sums[row + 1], strict=True)
        ]

    return ValidationLoss(means(0), means(2))


def validation_batches(sampler: Sampler) -> Iterator[Batch]:
    """The first clips, one segment each, every stage over all of them; then, with a prefix, whole."""
    config, lm = sampler.config, sampler.lm
    count = min(config.valid_items, len(sampler.source.entries))
    size = config.batch_size // config.micro_batches
    for first in range(0, count, size):
        items = range(first, min(first + size, count))
        codes, valid, texts, names = [], [], [], []
        entries = [
            sampler.source.entries[item * len(sampler.source.entries) // count] for item in items
        ]
        # As in training: where all clips are shorter than a segment, padding is not read.
        frames = min(sampler.frames, max(clip.frames for _, clip in entries))
        for item, (folder, clip) in zip(items, entries, strict=True):
            generator = keyed_generator("validation", item)
            cut, inside = crop(folder, clip, frames, lm.mask_id, generator)
            codes.append(cut)
            valid.append(inside)
            texts.append(clip.captions[0])
            names.append(clip.id)
        # Mask rates spread evenly over the items, so that few of them say as much as many.
        time = torch.tensor([(item * 0.618034 + 0.5) % 1.0 for item in items])
        _, noise = spans_of(0, items, frames)
        base = mask_batch(torch.stack(codes), torch.stack(valid), Draws(0, time, noise, 1), lm)
        conditions = sampler.conditions(texts)
        rows = DelayPattern(lm.delays).steps(frames) if lm.modeling != "masked" else 1
        draws = [Draws(stage, time, noise, 1) for stage in range(lm.n_q)]
        if lm.modeling == "autoregressive":
            draws = []
        if lm.modeling != "masked":
            draws.append(Draws(0, time, noise, rows))
        for draw in draws:
            batch = mask_batch(base.codes, torch.stack(valid), draw, lm)
            yield replace(batch, conditions=conditions, names=tuple(names))
