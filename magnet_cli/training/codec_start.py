"""Initializes the spectral codec: by principal components and residual k-means, or from a smaller codec.

A codec can be extended by components and streams. With the same components, nothing of the old codec changes,
not even its convolutions; the new streams are residual k-means of what its streams leave over.

With more components, the old ones of each group stay, and the new ones are the principal components of the
remainder. A code's vector is extended by the mean, along the new components, of the frames with that code,
and adjusted by a few rounds of k-means; new streams are k-means of the remainder. So most codes keep their
meaning, and a language model of them can be trained further. The convolutions start from zero again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.config import SpectralCodecConfig
from magnet_cli.errors import UsageError
from magnet_cli.models.spectral_codec import GroupQuantizer, SpectralCodec
from magnet_cli.training.batches import keyed_generator
from magnet_cli.training.config import CodecTrainConfig

_BLOCK = 16_384  # rows whose distances are in memory at once
_GROWS = ("n_q", "dimension")
_BLOCKS = ("latent_blocks", "level_blocks")  # these start at zero, so adding some changes nothing


class Moments:
    """Running sums over rows, for their mean and principal components."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Add rows [N, width]."""
        self.count += len(rows)
        self.total += rows.sum(0, dtype=torch.float64)
        self.products += (rows.T @ rows).double()

    def grouped_components(self, stack: int, groups: int, count: int) -> tuple[Tensor, float]:
        """Principal components about zero of groups of neighbouring bands with equal power.

        Args:
            stack: a row is `stack` spectral frames of `width / stack` bands.
            groups: number of groups of bands, ordered from low to high.
            count: components per group; a group with fewer bands gets columns of zeros.

        Returns:
            A basis [width, groups * count], orthonormal except for zero columns, and its share of the
            power.
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
            # Signs are arbitrary; fix them so that equal data gives an equal basis.
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
    """Centres [card, D] of rows [N, D]; a centre that is nearest to no row moves to a distant row.

    Distant rows are drawn in proportion to their squared distance from the nearest centre, both to
    initialize (k-means++ in a few rounds instead of `card`) and to replace such centres.
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
    """Run k-means over rows [N, D] for a number of iterations; returns centres [card, D]."""
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
    """Codebooks [card, D] of a residual quantizer; each is fitted to what the previous ones leave of rows [N,
    D]."""
    rest = rows.clone()
    codebooks = []
    for _ in range(n_q):
        centres = k_means(rest, card, iterations, generator)
        rest -= F.embedding(nearest(rest, centres)[0], centres)
        codebooks.append(centres)
    return codebooks


@torch.no_grad()
def power_left(rows: Tensor, quantizer: GroupQuantizer) -> list[float]:
    """The share of the power of latents [N, groups * D] left after each stream."""
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
    # By exponential variates, as torch.multinomial refuses more than 2^24 rows.
    race = torch.rand(len(distance), generator=generator).clamp(min=1e-12).log().neg()
    return (race / distance.clamp(min=1e-12)).topk(min(count, len(distance)), largest=False).indices


# ----------------------------------------------------------------------------- from a smaller codec


def grown_config(old: SpectralCodec, config: CodecTrainConfig) -> SpectralCodecConfig:
    """The settings of a codec extended from `old`: the same, except for sizes set larger.
    Raises UsageError: `config` asks for settings that cannot change."""
    wanted, asked = config.codec, config.asked
    if asked is None:
        fields = dataclasses.fields(wanted)
        asked = tuple(f.name for f in fields if getattr(wanted, f.name) != f.default)
    for name in asked:
        has, want = getattr(old.config, name), getattr(wanted, name)
        larger = name in (*_GROWS, *_BLOCKS)
        if want < has if larger else want != has:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} cannot be {want}: the codec at {config.start_from} has {has}"
                + (" and can only grow." if larger else "."),
                f"Leave {flag} out, or train a new codec, without --start-from.",
            )
    changes = {name: getattr(wanted, name) for name in _GROWS if name in asked}
    changes |= {n: max(getattr(old.config, n), getattr(wanted, n)) for n in _BLOCKS}
    return dataclasses.replace(old.config, **changes)


def codec_key(codec: SpectralCodec) -> str:
    """A hash of a codec's settings and tensors."""
    told = hashlib.sha256(json.dumps(dataclasses.asdict(codec.config)).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        told.update(name.encode() + tensor.numpy().tobytes())
    return told.hexdigest()


@torch.no_grad()
def take_over(old: SpectralCodec, new: SpectralCodec) -> None:
    """Copy all tensors of a codec with the same components; additional blocks stay zero."""
    new.load_state_dict({**new.state_dict(), **old.state_dict()})


@torch.no_grad()
def grow(
    old: SpectralCodec,
    new: SpectralCodec,
    moments: Moments,
    rows: Tensor,
    iterations: int,
    seed: int,
) -> float:
    """Initialize `new` from `old` and from frames of audio; both have the same bands, groups and mean.

    Args:
        new: without new components, it already has the tensors of `old` (`take_over`).
        moments: of all frames [N, stack * bands], weighted and centred.
        rows: a sample of the frames, enough for k-means.
        iterations: of k-means for each new stream; old ones take half as many.

    Returns:
        The components' share of the power.
    """
    small, size = old.config.dimension, new.config.dimension
    basis, held = _more_components(old.basis, moments, old.config.groups, small, size)
    if size > small:
        new.basis.copy_(basis.half())
    for group in range(old.config.groups):
        rest = rows @ new.basis[:, group * size : (group + 1) * size]
        for stream in range(group, new.n_q, new.config.groups):
            generator = keyed_generator(seed, "grow", stream)
            if stream < old.n_q and size > small:
                known = old.quantizer.codebooks[stream]
                index, _ = nearest(rest[:, :small].contiguous(), known)
                table = _means(rest, index, new.card)
                table[:, :small] = known
                table = move_centres(rest, table, iterations // 2, generator)
                new.quantizer.codebooks[stream].copy_(table.half())
            elif stream >= old.n_q:
                table = k_means(rest, new.card, iterations, generator)
                new.quantizer.codebooks[stream].copy_(table.half())
            index, _ = nearest(rest, new.quantizer.codebooks[stream])
            rest = rest - F.embedding(index, new.quantizer.codebooks[stream])
    return held


def _more_components(
    basis: Tensor, moments: Moments, groups: int, small: int, size: int
) -> tuple[Tensor, float]:
    """A basis [width, groups * size] whose first `small` columns of each group are the old ones."""
    wide = torch.zeros(len(basis), groups * size)
    held = 0.0
    for group in range(groups):
        mine = basis[:, group * small : (group + 1) * small]
        rows = (mine.abs().sum(1) > 0).nonzero()[:, 0]  # the group's bands, in every frame
        products = moments.products[rows][:, rows]
        known = mine[rows][:, mine.abs().sum(0) > 0].double()
        left = torch.eye(len(rows), dtype=torch.float64) - known @ torch.linalg.pinv(known)
        vectors = torch.linalg.eigh(left @ products @ left.T)[1]
        more = vectors.flip(1)[:, : min(size, len(rows)) - known.shape[1]]
        signs = more.gather(0, more.abs().argmax(0, keepdim=True)).sign()
        columns = torch.cat([known, more * signs], dim=1)
        wide[rows, group * size : group * size + columns.shape[1]] = columns.float()
        held += float((columns.T @ products @ columns).diagonal().sum())
    return wide, held / max(float(moments.products.diagonal().sum()), 1e-30)


def _means(rows: Tensor, index: Tensor, count: int) -> Tensor:
    """The mean [count, D] of the rows [N, D] with each index; zero if there are none."""
    total = torch.zeros(count, rows.shape[1]).index_add_(0, index, rows)
    return total / torch.bincount(index, minlength=count).clamp(min=1)[:, None]
