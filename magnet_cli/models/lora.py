"""Low-rank adapters (LoRA, Hu et al. 2021): a frozen model, and small updates beside its matrices.

An update acts on activations, (x A^T) B^T, and not on the weight: the gradient of a whole matrix is
never computed. Which matrices: `TARGETS`. An adapter's tensors are named by place (`PLACES`), with
the packed projection as separate q, k and v, as transformers' MusicGen has them.

Embeddings and heads of codes are included: different sounds use different codes, and without these two a
LoRA reached a third of the improvement of full fine-tuning on sounds far from the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.transformer import SelfAttention

# What `--lora-targets` names -> how its places begin.
TARGETS = {
    "self": ("self_attn",),
    "cross": ("encoder_attn",),
    "feed": ("fc",),
    "codes": ("lm_heads", "embed_tokens"),
}
OUTER = TARGETS["codes"]  # places outside of the blocks
# A place in a block, or of a stream (OUTER) -> the parameter that it updates, with {} for the number of
# block or stream, and which third of it (None: all of it).
_BLOCK = "transformer.layers.{}."
PLACES: dict[str, tuple[str, int | None]] = {
    f"{theirs}.{name}": (f"{_BLOCK}{ours}.out_proj.weight", None)
    if part is None
    else (f"{_BLOCK}{ours}.in_proj_weight", part)
    for theirs, ours in (("self_attn", "self_attn"), ("encoder_attn", "cross_attention"))
    for name, part in (("q_proj", 0), ("k_proj", 1), ("v_proj", 2), ("out_proj", None))
}
PLACES |= {"fc1": (f"{_BLOCK}linear1.weight", None), "fc2": (f"{_BLOCK}linear2.weight", None)}
PLACES |= {"lm_heads": ("linears.{}.weight", None), "embed_tokens": ("emb.{}.weight", None)}

Place = tuple[int, str]  # number of the block or stream, and a key of PLACES


@dataclass(frozen=True)
class Update:
    """An update of a matrix: scale * B @ A."""

    a: Tensor  # [rank, in]
    b: Tensor  # [out, rank]
    scale: float

    @property
    def delta(self) -> Tensor:
        """float32 [out, in]."""
        return self.scale * (self.b.float() @ self.a.float())


class LowRank(nn.Module):
    """The update scale * B A of a matrix [out, in]; zero until it is trained."""

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        out, into = weight.shape
        bound = math.sqrt(3 / into)  # x A^T varies as much as x does
        drawn = torch.rand(rank, into, generator=generator) * 2 - 1
        self.a = nn.Parameter((drawn * bound).to(weight.device))
        self.b = nn.Parameter(torch.zeros(out, rank, device=weight.device))
        self.scale = scale

    def rows(self, ids: Tensor) -> Tensor:
        """Of an update of a table [out, in]: ids [...] -> what it adds to their rows [..., in]."""
        return (self.scale * F.embedding(ids, self.b)) @ self.a


class _Updated(torch.autograd.Function):
    """x [N, in] -> x W^T and low-rank updates of some rows of W [out, in], frozen: [N, out].

    Written by hand so that each update is added in place to its product; separate sums would pass over memory
    once more each, forward and backward.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: list[slice], scale: float, x: Tensor, weight: Tensor, a: Tensor, *bs: Tensor
    ) -> Tensor:
        """`rows`: those that each of `bs` [rows, rank] is of; `a`: their A [rank, in] in one."""
        inner = scale * (x @ a.T)
        ctx.rows, ctx.scale = rows, scale
        ctx.save_for_backward(x, weight, a, inner, *bs)
        out = x @ weight.T
        for part, half, b in zip(rows, inner.chunk(len(bs), dim=-1), bs, strict=True):
            out[:, part].addmm_(half, b.T)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """The gradients of x, A and each B."""
        x, weight, a, inner, *bs = ctx.saved_tensors
        parts = [grad[:, part] for part in ctx.rows]
        of_inner = ctx.scale * torch.cat([part @ b for part, b in zip(parts, bs, strict=True)], -1)
        of_x = (grad @ weight).addmm_(of_inner, a) if ctx.needs_input_grad[2] else None
        halves = inner.chunk(len(bs), dim=-1)
        of_bs = [(half.T @ part).T for half, part in zip(halves, parts, strict=True)]
        return None, None, of_x, None, of_inner.T @ x, *of_bs


def updated_linear(x: Tensor, weight: Tensor, updates: Sequence[tuple[slice, LowRank]]) -> Tensor:
    """x [..., in] -> [..., out], by a frozen weight [out, in] and updates of slices of its rows, which have
    one rank and scale."""
    if not updates:
        return F.linear(x, weight)
    flat = [x.flatten(0, -2), weight, torch.cat([low.a for _, low in updates])]
    flat += [low.b for _, low in updates]
    if torch.is_autocast_enabled(x.device.type):  # it knows nothing of functions by hand
        flat = [each.to(torch.get_autocast_dtype(x.device.type)) for each in flat]
    rows, scale = [part for part, _ in updates], updates[0][1].scale
    out: Tensor = _Updated.apply(rows, scale, *flat)
    return out.unflatten(0, x.shape[:-1])


class PackedUpdates(nn.ModuleDict):
    """The updates of the packed projection of self-attention, by "q", "k" and "v"."""

    def forward(self, x: Tensor, weight: Tensor, parts: str) -> Tensor:
        """x [..., in] -> of each of the parts, whose rows `weight` holds, together [..., out]."""
        dim = len(weight) // len(parts)
        found = []
        for number, part in enumerate(parts):
            if part in self:
                update = self[part]
                assert isinstance(update, LowRank)
                found.append((slice(number * dim, (number + 1) * dim), update))
        return updated_linear(x, weight, found)


class AdaptedLinear(nn.Linear):
    """A linear layer of the same weight, with a low-rank update beside it."""

    def __init__(self, of: nn.Linear, update: LowRank) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.in_features, self.out_features = of.in_features, of.out_features
        self.weight, self.update = of.weight, update

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return updated_linear(x, self.weight, [(slice(None), self.update)])


class AdaptedEmbedding(nn.Embedding):
    """A table of the same vectors, with a low-rank update beside it."""

    def __init__(self, of: nn.Embedding, update: LowRank) -> None:
        super().__init__(1, 1, device="meta")
        self.num_embeddings, self.embedding_dim = of.num_embeddings, of.embedding_dim
        self.weight, self.update = of.weight, update

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., dim]."""
        return super().forward(ids) + self.update.rows(ids)


def add_adapters(
    lm: LanguageModel, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> None:
    """Freeze the model and put an update beside each matrix of the targets (keys of TARGETS)."""
    lm.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    starts = tuple(start for target in targets for start in TARGETS[target])
    for number, place in _places(lm):
        if not place.startswith(starts):
            continue
        name, part = _parameter(number, place)
        weight, above = lm.get_parameter(name), name.rpartition(".")[0]
        owner = lm.get_submodule(above)
        rows = weight if part is None else weight.chunk(3)[part]
        update = LowRank(rows, rank, alpha / rank, generator)
        if isinstance(owner, nn.Embedding):
            lm.set_submodule(above, AdaptedEmbedding(owner, update))
        elif isinstance(owner, nn.Linear):
            lm.set_submodule(above, AdaptedLinear(owner, update))
        else:
            assert isinstance(owner, SelfAttention)
            assert part is not None
            if owner.updates is None:
                owner.updates = PackedUpdates()
            owner.updates["qkv"[part]] = update


def frozen_in_bfloat16(lm: LanguageModel) -> None:
    """Convert the frozen matrices to bfloat16, in which autocast multiplies them anyway: half the memory, and
    no conversion in each pass. Embeddings and norms, which autocast leaves alone, stay."""
    for module in lm.modules():
        if not isinstance(module, nn.Embedding):
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 2 and not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()


def _places(lm: LanguageModel) -> Iterator[Place]:
    """All places of a model."""
    for number in range(lm.config.num_layers):
        yield from ((number, place) for place in PLACES if place not in OUTER)
    yield from ((number, place) for number in range(lm.config.n_q) for place in OUTER)


def _parameter(number: int, place: str) -> tuple[str, int | None]:
    """The parameter of a place, and which third of it (None: all of it)."""
    name, part = PLACES[place]
    return name.format(number), part


def adapters(lm: LanguageModel) -> Iterator[tuple[Place, LowRank]]:
    """Every update of a model, with its place."""
    for number, place in _places(lm):
        name, part = _parameter(number, place)
        owner = lm.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, (AdaptedLinear, AdaptedEmbedding)):
            yield (number, place), owner.update
        elif part is not None and isinstance(owner, SelfAttention):
            updates = owner.updates
            if updates is not None and "qkv"[part] in updates:
                update = updates["qkv"[part]]
                assert isinstance(update, LowRank)
                yield (number, place), update


def updates_of(lm: LanguageModel) -> dict[Place, Update]:
    """The current updates."""
    return {place: Update(low.a.detach(), low.b.detach(), low.scale) for place, low in adapters(lm)}


def named(place: Place) -> str:
    """Format a place for a message."""
    return f"{place[1]} of {'stream' if place[1] in OUTER else 'layer'} {place[0]}"


def plain_state(lm: LanguageModel) -> dict[str, Tensor]:
    """The weights of the model without its adapters, under the names of a plain model."""
    own = {id(p) for _, low in adapters(lm) for p in low.parameters()}
    state = lm.state_dict(keep_vars=True)  # what is never trained is a part of it, too
    return {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in own}


def combined(several: Sequence[tuple[Mapping[Place, Update], float]]) -> dict[Place, Update]:
    """Combine adapters, each scaled by its factor, into one: ranks add up, and the sum is rounded once.
    Raises ValueError: they update matrices of different shapes."""
    found: dict[Place, list[tuple[Tensor, Tensor]]] = {}
    for updates, factor in several:
        for place, update in updates.items():
            half = update.b.float() * (factor * update.scale)
            found.setdefault(place, []).append((update.a.float(), half))
    for place, pairs in found.items():
        if len({(a.shape[1], b.shape[0]) for a, b in pairs}) > 1:
            raise ValueError(f"{named(place)} is of several shapes in the adapters")
    return {
        place: Update(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1), 1.0)
        for place, pairs in found.items()
    }


def merged(state: Mapping[str, Tensor], updates: Mapping[Place, Update]) -> dict[str, Tensor]:
    """A plain model's weights with the updates added, each in its own dtype; sums are in float32.

    Raises:
        KeyError: the model has no such place.
        ValueError: a matrix of it has another shape.
    """
    state = dict(state)
    for place, update in updates.items():
        name, part = _parameter(*place)
        sum_ = state[name].detach().float().clone()
        rows = sum_ if part is None else sum_.chunk(3)[part]
        delta = update.delta.to(rows.device)
        if rows.shape != delta.shape:
            raise ValueError(
                f"{named(place)} is {list(rows.shape)} in the model "
                f"and {list(delta.shape)} in the adapter"
            )
        rows += delta
        state[name] = sum_.to(state[name].dtype)
    return state
