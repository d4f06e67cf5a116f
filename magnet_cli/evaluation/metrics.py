"""What judges' answers come to: pure functions of tensors, no audio is read and no model run here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magnet_cli.evaluation.statistics import extrapolate


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Distance of two sets of embeddings as Gaussians (Dowson & Landau, 1982; Heusel et al., 2017, eq. 6).

    Args:
        first: [N, D], one embedding a row; N should well exceed D.
        second: [M, D].

    Raises ValueError: a set has fewer than two rows, or widths differ.
    """
    if first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(f"embeddings must be [2 or more, D], not {first.shape} and {second.shape}")
    means = [rows.double().mean(0) for rows in (first, second)]
    one, two = (torch.cov(rows.double().T).reshape(rows.shape[1], -1) for rows in (first, second))
    # trace sqrt(one @ two): both are positive, so the product has the eigenvalues of a symmetric one.
    root = _square_root(one)
    values = torch.linalg.eigvalsh(root @ two @ root).clamp(min=0)
    apart = (means[0] - means[1]).square().sum()
    distance = apart + one.trace() + two.trace() - 2 * values.sqrt().sum()
    return max(0.0, float(distance))


def median_distance(rows: Tensor) -> float:
    """The median Euclidean distance between two different rows of [N, D]: a kernel's bandwidth."""
    some = rows[:: max(1, len(rows) // 4096)]  # of more rows the distances would fill the memory
    return float(torch.pdist(some.double()).median())


_ROWS = 1024  # of a kernel's matrix at a time: no more memory for more clips


def kernel_distances(
    first: Tensor,
    second: Tensor,
    bandwidth: float,
    first_units: Sequence[int],
    second_units: Sequence[int],
) -> tuple[float, Tensor]:
    """Kernel audio distance (Chung et al., 2025, arXiv 2502.15602): 100 times the unbiased MMD^2.

    Of a Gaussian kernel. Rows of one unit (windows of a clip; clips of one prompt in both sets) depend
    on each other and are not compared, which is what makes the estimate unbiased; it may come out a
    little below zero.

    Args:
        first: embeddings [N, D].
        second: [M, D].
        bandwidth: of the kernel; the median distance within the reference.
        first_units: for each row, the number of its unit, from 0; the same number is the same unit.
        second_units: the same of `second`.

    Returns:
        the distance, and the distance without each unit [units], NaN where too few would be left.

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
        """Mean kernel between different units: of all, and without each unit."""
        (rows, of), (others, of_others) = sets[one], sets[two]
        sums = rows.new_zeros(
            2, units
        )  # of what lies between a unit and all others, from both sides
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


def extrapolated_frechet(first: Tensor, second: Tensor, fewest: int) -> float:
    """The Fréchet distance that ever more clips tend to (arXiv 2311.01616): few clips raise it.

    The second set is cut into one to four blocks, and the mean distance of each number of blocks is
    extrapolated by a + b / size: every row is used at every size, so that chance has less of a say
    than in random subsets.

    Args:
        first: the reference [N, D], used whole.
        second: [M, D]; rows of one clip side by side, clips in an order that has nothing to do with
            what they hold.
        fewest: rows that a block must have.

    Raises:
        ValueError: there are not even rows for two blocks.
    """
    most = min(4, len(second) // fewest)
    if most < 2:
        raise ValueError(f"{len(second)} rows are fewer than twice {fewest}")
    sizes, values = [], []
    for blocks in range(1, most + 1):
        cuts = second.tensor_split(blocks)
        sizes.append(len(second) / blocks)
        values.append(sum(frechet_distance(first, cut) for cut in cuts) / blocks)
    return extrapolate(sizes, values)


def divergences(reference: Tensor, other: Tensor) -> Tensor:
    """KL(reference || other) of class probabilities [N, classes] -> [N], in nats."""
    smallest = 1e-6  # as in audiocraft: no class is impossible
    logs = [(probabilities.double() + smallest).log() for probabilities in (reference, other)]
    return (reference.double() * (logs[0] - logs[1])).sum(-1)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarity of rows, [N, D] and [N, D] -> [N]."""
    return torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1)


def _square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
