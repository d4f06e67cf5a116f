"""Metrics computed from embeddings and class probabilities: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magnet_cli.evaluation.statistics import extrapolate


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to two sets (Dowson & Landau, 1982; Heusel et al., 2017, eq. 6).

    Args:
        first: embeddings [N, D]; N should be well above D.
        second: [M, D].

    Raises ValueError if a set has fewer than two rows or the widths differ.
    """
    if first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(f"embeddings must be [2 or more, D], not {first.shape} and {second.shape}")
    means = [rows.double().mean(0) for rows in (first, second)]
    one, two = (torch.cov(rows.double().T).reshape(rows.shape[1], -1) for rows in (first, second))
    # trace sqrt(one @ two): both are positive semidefinite, so a symmetric matrix has the same eigenvalues.
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    values = torch.linalg.eigvalsh(root @ two @ root).clamp(min=0)
    apart = (means[0] - means[1]).square().sum()
    distance = apart + one.trace() + two.trace() - 2 * values.sqrt().sum()
    return max(0.0, float(distance))


def median_distance(rows: Tensor) -> float:
    """Median Euclidean distance between distinct rows of [N, D], used as the kernel's bandwidth."""
    some = rows[:: max(1, len(rows) // 4096)]  # all pairs of more rows would not fit in memory
    return float(torch.pdist(some.double()).median())


_ROWS = 1024  # of the kernel matrix at a time, so that memory does not grow with the clips


def kernel_distances(
    first: Tensor,
    second: Tensor,
    bandwidth: float,
    first_units: Sequence[int],
    second_units: Sequence[int],
) -> tuple[float, Tensor]:
    """Kernel audio distance (Chung et al., 2025, arXiv 2502.15602): 100 times the unbiased MMD^2.

    The kernel is Gaussian. Rows of one unit (windows of a clip; clips of one prompt in both sets) are
    not independent and not compared with each other. That keeps the estimate unbiased, so it may fall
    slightly below zero.

    Args:
        first: embeddings [N, D].
        second: [M, D].
        bandwidth: of the kernel, usually the median distance within the reference.
        first_units: the unit of each row, numbered from 0; both sets share the numbering.
        second_units: the same for `second`.

    Returns:
        the distance, and the distance with each unit left out [units], NaN where too few units remain.

    Raises:
        ValueError: a set has fewer than two units.
    """
    units = 1 + max(*first_units, *second_units)
    sets = []
    for rows, of in ((first, first_units), (second, second_units)):
        if len(set(of)) < 2 or len(of) != len(rows):
            raise ValueError("each set needs two units or more, and a unit for each row")
        sets.append((rows.double(), torch.tensor(list(of), device=rows.device)))

    def similarity(one: int, two: int) -> Tensor:
        """Mean kernel value between different units [1 + units]: over all, then with each unit left out."""
        (rows, of), (others, of_others) = sets[one], sets[two]
        # Of the kernel between a unit and all others, seen from either set.
        sums = rows.new_zeros(2, units)
        for block, unit in zip(rows.split(_ROWS), of.split(_ROWS), strict=True):
            gram = torch.cdist(block, others).square().mul(-0.5 / bandwidth**2).exp()
            gram.masked_fill_(unit[:, None] == of_others, 0)
            sums[0].index_add_(0, unit, gram.sum(1))
            sums[1].index_add_(0, of_others, gram.sum(0))
        counts = [torch.bincount(each, minlength=units).double() for each in (of, of_others)]
        pairs = torch.stack([counts[i] * (counts[1 - i].sum() - counts[1 - i]) for i in (0, 1)])
        values, numbers = (
            torch.cat([table[0].sum()[None], table[0].sum() - table.sum(0)])
            for table in (sums, pairs)
        )
        return values / numbers

    both = similarity(0, 0) + similarity(1, 1) - 2 * similarity(0, 1)
    distances = 100 * both.cpu()
    return float(distances[0]), distances[1:]


def extrapolated_frechet(first: Tensor, second: Tensor, most: int) -> float:
    """Fréchet distance extrapolated to infinitely many clips (arXiv 2311.01616): few clips bias it upwards.

    The second set is cut into one to `most` blocks, and the mean distance for each number of blocks is
    extrapolated by a + b / size. Every size uses every row, which varies less than random subsets do.

    Args:
        first: the reference [N, D], used whole.
        second: [M, D]; rows of one clip adjacent, clips in an order independent of their content.
        most: number of the smallest blocks, two or more.
    """
    sizes, values = [], []
    for blocks in range(1, most + 1):
        cuts = second.tensor_split(blocks)
        sizes.append(len(second) / blocks)
        values.append(sum(frechet_distance(first, cut) for cut in cuts) / blocks)
    return extrapolate(sizes, values)


def divergences(reference: Tensor, other: Tensor) -> Tensor:
    """KL(reference || other) of class probabilities [N, classes] -> [N], in nats."""
    smallest = 1e-6  # as in audiocraft, so that no class has probability zero
    logs = [(probabilities.double() + smallest).log() for probabilities in (reference, other)]
    return (reference.double() * (logs[0] - logs[1])).sum(-1)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarity of rows, [N, D] and [N, D] -> [N]."""
    return torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1)
