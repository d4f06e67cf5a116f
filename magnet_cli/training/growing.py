"""A spectral codec with more components and more streams than the one it grows from.

With the same components, nothing of the old codec changes, its convolutions included: new streams are
residual k-means of what its own leave.

With more components, the first ones of each group stay. New ones are the principal components of what
those leave; an old code's vector gains the mean of what it stood for along them, and moves a little by
k-means on the sound at hand; new streams are k-means of what is left. So most codes stay what they
were, and a language model that knew them can go on from there. The convolutions start anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.errors import UsageError
from magnet_cli.models.spectral_codec import SpectralCodec
from magnet_cli.models.spectral_config import SpectralCodecConfig
from magnet_cli.training.codebooks import Moments, k_means, move_centres, nearest
from magnet_cli.training.codec_config import CodecTrainConfig
from magnet_cli.training.sampling import keyed_generator

_GROWS = ("n_q", "dimension")
_BLOCKS = ("latent_blocks", "level_blocks")  # they start at zero, so that more of them do no harm


def grown_config(old: SpectralCodec, config: CodecTrainConfig) -> SpectralCodecConfig:
    """The settings of a codec that starts from `old`: its own, but for sizes that were asked to be larger.

    Raises:
        UsageError: `config` asks for what it cannot become.
    """
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
    """What differs for other codecs: a hash of settings and tensors."""
    told = hashlib.sha256(json.dumps(dataclasses.asdict(codec.config)).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        told.update(name.encode() + tensor.numpy().tobytes())
    return told.hexdigest()


@torch.no_grad()
def take_over(old: SpectralCodec, new: SpectralCodec) -> None:
    """All tensors of a codec with the same components; blocks that it lacks stay at their zero start."""
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
    """Fill `new` from `old` and from frames of sound; both have the same bands, groups and mean.

    Args:
        new: where no components are added, it has taken over all that `old` has (`take_over`).
        moments: of all frames [N, stack * bands], weighted and centred.
        rows: some of them, enough for k-means.
        iterations: of k-means for each new stream; old ones take half as many.

    Returns:
        The share of the power that the components hold.
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
        rows = (mine.abs().sum(1) > 0).nonzero()[:, 0]  # the group's bands, in each of its frames
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
    """The mean [count, D] of the rows [N, D] of each index; zeros where there is none."""
    total = torch.zeros(count, rows.shape[1]).index_add_(0, index, rows)
    return total / torch.bincount(index, minlength=count).clamp(min=1)[:, None]
