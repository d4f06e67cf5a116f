"""Initial weights for training."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from magnet_cli.errors import UsageError
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.lm import LanguageModel
from magnet_cli.training.batches import keyed_generator


def initialise(lm: LanguageModel, seed: int) -> None:
    """Gaussian weights with standard deviation 1 / sqrt(fan in), damped with depth in outputs of blocks.

    The damping, 1 / sqrt(2 (layer + 1)), is the reference's `depthwise_init: current`.
    """
    generator = keyed_generator(seed, "initialise")

    def fill(weight: Tensor, std: float) -> None:
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    dim = lm.config.dim
    for table in (*lm.emb, *lm.linears):
        assert isinstance(table, (nn.Embedding, nn.Linear))
        fill(table.weight, 1 / math.sqrt(dim))
    fill(lm.text_proj.weight, 1 / math.sqrt(lm.text_proj.in_features))
    nn.init.zeros_(lm.text_proj.bias)
    for depth, block in enumerate(lm.transformer.layers):
        damping = 1 / math.sqrt(2 * (depth + 1))
        for name, weight in block.named_parameters():
            if weight.dim() == 2:
                fill(weight, damping / math.sqrt(weight.shape[1]))
            elif name.endswith("weight"):
                nn.init.ones_(weight)
            else:
                nn.init.zeros_(weight)
    if lm.bars is not None:
        for layer in (lm.bars.inner, lm.bars.outer):
            fill(layer.weight, 1 / math.sqrt(layer.in_features))
        nn.init.zeros_(lm.bars.inner.bias)
    nn.init.ones_(lm.out_norm.weight)
    nn.init.zeros_(lm.out_norm.bias)


def initialise_from_codec(lm: LanguageModel, codebooks: Tensor, seed: int) -> None:
    """Initialize embeddings and heads from the codec, similar for codes that sound similar.

    The codec's vectors are standardized and mapped to the model's width by one random projection per stream.
    Each table keeps its mean square of `initialise`; half of it is noise, so that no two codes start equal.

    Args:
        codebooks: [K, card, d], the codec's vectors.
    """
    generator = keyed_generator(seed, "codebooks")
    dim = lm.config.dim
    for k in range(lm.config.n_q):
        vectors = codebooks[k].float()
        vectors = (vectors - vectors.mean(0)) / vectors.std().clamp(min=1e-6)
        projection = torch.randn(vectors.shape[1], dim, generator=generator)
        shared = vectors @ projection
        shared = shared / shared.pow(2).mean().sqrt().clamp(min=1e-6) / math.sqrt(dim)
        with torch.no_grad():
            for part in (lm.emb[k], lm.linears[k]):
                rows = part.get_parameter("weight")[: len(shared)]
                rows.copy_((rows + shared.to(rows)) / math.sqrt(2))


def with_streams_of(lm: LanguageModel, codec: AudioCodec, vectors: Tensor | None) -> LanguageModel:
    """Extend the model to a codec with the same streams and more; unchanged if there are no more.

    Predictions for the old streams stay the same, except for rows that later streams add to the end of a
    delay layout: the embeddings of new streams start at zero. Their heads are initialized from the codec's
    vectors.

    Args:
        vectors: [K, card, d], the codec's vectors; None if it has none.

    Raises UsageError: the codec has fewer streams, other codes, or another frame rate.
    """
    old = lm.config
    if codec.n_q == old.n_q and codec.card == old.card and codec.frame_rate == old.frame_rate:
        return lm
    if codec.n_q < old.n_q or codec.card != old.card or codec.frame_rate != old.frame_rate:
        raise UsageError(
            f"The codec has {codec.n_q} streams of {codec.card} codes, {codec.frame_rate:g} a second;"
            f" the model has {old.n_q} of {old.card}, {old.frame_rate:g} a second.",
            "Name a codec whose first streams are the model's, or train a new model.",
        )
    added = codec.n_q - old.n_q
    later = max(old.delays, default=0) + 1
    delays = (*old.delays, *range(later, later + added)) if old.delays else ()
    # Each new stream is a stage of its own.
    stages = (*old.stages, *((k,) for k in range(old.n_q, codec.n_q))) if old.stages else ()
    sizes = dataclasses.replace(old, n_q=codec.n_q, delays=delays, stages=stages)
    grown = LanguageModel(sizes)
    initialise(grown, seed=0)
    if vectors is not None:
        initialise_from_codec(grown, vectors, seed=0)
    grown.load_state_dict({**grown.state_dict(), **lm.state_dict()})
    with torch.no_grad():
        for table in list(grown.emb)[old.n_q :]:
            table.get_parameter("weight").zero_()
    return grown
