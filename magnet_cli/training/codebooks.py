"""Principal components and residual k-means: where the spectral codec's training starts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.models.spectral_codec import GroupQuantizer

_BLOCK = 16_384  # rows whose distances are held at once


class Moments:
    """Sums over rows, gathered piece by piece: for means and principal components of any number."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Rows [N, width]."""
        self.count += len(rows)
        self.total += rows.sum(0, dtype=torch.float64)
        self.products += (rows.T @ rows).double()

    def grouped_components(self, stack: int, groups: int, count: int) -> tuple[Tensor, float]:
        """Principal components about zero of groups of neighbouring bands, equal in power.

        Args:
            stack: the rows are `stack` spectral frames of `width / stack` bands.
            groups: of bands; low to high.
            count: components of each group; a group of fewer bands gets columns of zeros.

        Returns:
            A basis [width, groups * count], orthonormal but for zero columns, and its share of the power.
        """
        bands = len(self.total) // stack
        power = self.products.diagonal().reshape(stack, bands).sum(0).cumsum(0)
        shares = torch.arange(1, groups, dtype=torch.float64) / groups
        cuts = torch.searchsorted(power, power[-1] * shares).tolist()
        for group in range(groups - 1):  # at least one band each
            after = cuts[group - 1] if group else 0
            cuts[group] = min(max(cuts[group], after + 1), bands - groups + 1 + group)
        basis = torch.zeros(len(self.total), groups * count)
        held = 0.0
        for group, (low, high) in enumerate(zip([0, *cuts], [*cuts, bands], strict=True)):
            rows = (torch.arange(stack)[:, None] * bands + torch.arange(low, high)).flatten()
            values, vectors = torch.linalg.eigh(self.products[rows][:, rows])
            kept = vectors.flip(1)[:, :count]
            # Signs are arbitrary; fixed, so that equal data gives an equal basis.
            signs = kept.gather(0, kept.abs().argmax(0, keepdim=True)).sign()
            basis[rows, group * count : group * count + kept.shape[1]] = (kept * signs).float()
            held += float(values.flip(0)[:count].sum())
        return basis, held / max(float(power[-1]), 1e-30)


def nearest(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, D], centres [card, D] -> index [N] of the nearest centre and squared distance [N]."""
    square = centres.square().sum(-1)
    found = []
    for block in rows.split(_BLOCK):
        distance, index = torch.addmm(square, block, centres.T, alpha=-2).min(-1)
        found.append((index, distance + block.square().sum(-1)))
    indices, distances = zip(*found, strict=True)
    return torch.cat(indices), torch.cat(distances).clamp(min=0)


def k_means(rows: Tensor, card: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Centres [card, D] of rows [N, D]; a centre that nobody is nearest to moves to a far-off row.

    Rows that lie far from all centres are drawn in proportion to their squared distance, for the start
    (k-means++ in a few rounds instead of `card`) and for dead centres alike.
    """
    centres = rows[torch.randperm(len(rows), generator=generator)[: max(1, card // 8)]].clone()
    while len(centres) < card:
        _, distance = nearest(rows, centres)
        more = min(len(centres), card - len(centres))
        centres = torch.cat([centres, rows[_far(distance, more, generator)]])
    return move_centres(rows, centres, iterations, generator)


def move_centres(
    rows: Tensor, centres: Tensor, iterations: int, generator: torch.Generator
) -> Tensor:
    """Centres [card, D] after so many rounds of k-means over rows [N, D]."""
    card = len(centres)
    for _ in range(iterations):
        index, distance = nearest(rows, centres)
        count = torch.bincount(index, minlength=card)
        total = torch.zeros_like(centres).index_add_(0, index, rows)
        centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
        dead = (count == 0).nonzero()[:, 0]
        if len(dead):
            centres[dead] = rows[_far(distance, len(dead), generator)]
    return centres


def residual_k_means(
    rows: Tensor, n_q: int, card: int, iterations: int, generator: torch.Generator
) -> list[Tensor]:
    """Codebooks [card, D] of a residual quantizer: each of what the ones before it leave of rows [N, D]."""
    rest = rows.clone()
    codebooks = []
    for _ in range(n_q):
        centres = k_means(rest, card, iterations, generator)
        rest -= F.embedding(nearest(rest, centres)[0], centres)
        codebooks.append(centres)
    return codebooks


@torch.no_grad()
def power_left(rows: Tensor, quantizer: GroupQuantizer) -> list[float]:
    """The share of the power of latents [N, groups * D] that is left over, stream by stream."""
    rest = list(rows.split(quantizer.dimension, dim=-1))
    power = float(rows.square().sum())
    left = []
    for stream, centres in enumerate(quantizer.codebooks):
        group = stream % quantizer.groups
        rest[group] = rest[group] - F.embedding(nearest(rest[group], centres)[0], centres)
        left.append(sum(float(part.square().sum()) for part in rest) / max(power, 1e-30))
    return left


def _far(distance: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different rows, drawn in proportion to their squared distance."""
    # The exponential race: multinomial would refuse more than 2^24 rows.
    race = torch.rand(len(distance), generator=generator).clamp(min=1e-12).log().neg()
    return (race / distance.clamp(min=1e-12)).topk(min(count, len(distance)), largest=False).indices
