"""The rescorer: another model's opinion of the sampled codes, mixed into the span scores.

After each step of masked decoding but a stream's last, the completed stream is read once, in
parallel, by a causal model; w * p + (1 - w) * p_rescorer takes the place of p where spans are
scored (the paper, "Model rescorer"). Sampling itself is not touched, only which spans are
masked again. No draw is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from magnet_cli.decoding.iterative import Rescore
from magnet_cli.errors import MagnetError

# (codes [B, K, T] complete up to the stage, stage) -> float32 [B, T]: the probability that the
# rescorer gives to each code of that stream.
CodeProbs = Callable[[Tensor, int], Tensor]


def rescoring(code_probs: CodeProbs, weight: float, streams: Sequence[int]) -> Rescore | None:
    """The hook for `iterative.decode`: mixes the rescorer's probabilities with the model's.

    Args:
        code_probs: the rescorer, see `CodeProbs`.
        weight: the model's share w, 0..1; at 1 there is nothing to ask the rescorer.
        streams: the streams to rescore.

    Returns:
        The hook, or None at weight 1.
    """
    if weight == 1:
        return None

    def rescore(codes: Tensor, stage: int, probs: Tensor) -> Tensor:
        if stage not in streams:
            return probs
        opinion = code_probs(codes, stage)
        if not bool(torch.isfinite(opinion).all()):
            raise MagnetError(
                "The rescorer's output is not a number.",
                "Try --dtype float32; if it stays, its checkpoint is damaged.",
            )
        mixed = weight * probs + (1 - weight) * opinion
        # Scores take the logarithm: a code that the rescorer holds impossible stays a number.
        return mixed.clamp(min=torch.finfo(mixed.dtype).tiny)

    return rescore
