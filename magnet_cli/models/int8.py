"""Linear layers in int8, on a CPU: a quarter of the memory, and several times the speed of float32.

Weights have one scale for each output channel. What comes in is quantised as it comes, each token by
its own largest value (ZeroQuant, arXiv 2206.01861, section 4): one scale for a whole tensor would let
a loud token, or a loud batch-mate, decide how finely all others are seen. Attention, norms, embeddings
and the heads that give logits stay in floating point.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from magnet_cli.errors import UsageError
from magnet_cli.models.text import TextEncoder
from magnet_cli.models.transformer import SelfAttention

_SMALLEST = 1e-12  # a token of zeros has a scale, too


class Int8Linear(nn.Module):
    """y = x W^T, W int8 [N, K] with a float32 scale for each of its N rows.

    It is as it is saved until `pack` lays the weights out as the processor wants them.
    """

    weight: Tensor | None
    scale: Tensor

    def __init__(self, outputs: int, inputs: int, cut: int | None = None) -> None:
        """`cut`: a row of W; those before it and those from it on are then two layers."""
        super().__init__()
        self.register_buffer("weight", torch.empty(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(outputs))
        self._parts = [slice(None)] if cut is None else [slice(cut), slice(cut, None)]
        self._packed: list[tuple[Tensor, Tensor, Tensor]] = []

    def pack(self) -> None:
        """Get ready to compute. The plain weights go, lest there be both."""
        if self.weight is None:
            return
        for part in self._parts:
            weight, scale = self.weight[part].contiguous(), self.scale[part].clone()
            zeros = torch.zeros(len(scale), dtype=torch.int64)
            self._packed.append((_laid_out(weight, _way()[1]), scale, zeros))
        self.weight = None

    def forward(self, x: Tensor, part: int = 0) -> Tensor:
        """x [..., K] -> [..., N], N of all rows or of one of the parts that a cut makes."""
        rows = x.reshape(-1, x.shape[-1])
        reach, onednn = _way()
        # Few passes over what comes in, as each takes a tenth of what the product does.
        most = torch.maximum(rows.amax(-1, keepdim=True), rows.amin(-1, keepdim=True).neg_())
        step = most.clamp_(min=_SMALLEST).div_(reach)
        made = _multiply(rows / step, *self._packed[part], reach, onednn)
        return made.mul_(step).unflatten(0, x.shape[:-1])


def _laid_out(weight: Tensor, onednn: bool) -> Tensor:
    return torch.ops.onednn.qlinear_prepack(weight, None) if onednn else weight


def _multiply(
    x: Tensor, weight: Tensor, scale: Tensor, zeros: Tensor, reach: int, onednn: bool
) -> Tensor:
    """x [M, K], rounded in place, times whole numbers [N, K] with scales -> float32 [M, N]."""
    if not onednn:
        return torch._int_mm(x.round_().to(torch.int8), weight.t()).float() * scale
    # Bytes without a sign, moved by the middle, which the operator takes out again. A half more,
    # as a byte is cut, not rounded.
    middle = reach + 1
    made: Tensor = torch.ops.onednn.qlinear_pointwise(
        x.add_(middle + 0.5).to(torch.uint8),
        *(1.0, middle, weight, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""),
    )
    return made


@functools.cache
def _way() -> tuple[int, bool]:
    """The largest whole number that a token is quantised to, and whether oneDNN's operator multiplies it.

    Raises:
        UsageError: nothing that torch has here multiplies int8 exactly.
    """
    for way in ((127, True), (63, True), (127, False)):
        if _is_exact(*way):
            return way
    raise UsageError("torch does not multiply int8 exactly here.", "Take --dtype float32.")


def _is_exact(reach: int, onednn: bool) -> bool:
    """Whether the largest numbers are multiplied as they should be, which the operator itself is asked.

    Processors without VNNI add two products in 16 bits, where those of full bytes are cut off without a
    word: there a bit less is used.
    """
    weight, scale = torch.full((64, 256), 127, dtype=torch.int8), torch.ones(64)
    most, zeros = torch.full((16, 256), float(reach)), torch.zeros(64, dtype=torch.int64)
    try:
        made = _multiply(most, _laid_out(weight, onednn), scale, zeros, reach, onednn)
    except (AttributeError, RuntimeError, NotImplementedError):  # another processor, or torch
        return False
    return bool((made == 256 * 127 * reach).all())


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [N, K] -> int8 [N, K] and float32 scales [N]: the nearest, each row by its largest."""
    weight = weight.detach().float()
    scale = weight.abs().amax(1).clamp_(min=_SMALLEST).div_(127)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def make_int8(module: nn.Module) -> None:
    """Put int8 layers in place of the linear ones of a language model's blocks, or of a text encoder, one
    after the other; what is left is in float32. Weights without memory stay so, to be filled."""
    for path, owner in [*module.named_modules()]:
        if not isinstance(module, TextEncoder) and not path.startswith("transformer."):
            continue  # the projection of a text and the heads: little work, and close to the logits
        if isinstance(owner, SelfAttention):
            weight = owner.in_proj_weight
            del owner.in_proj_weight
            # What attends to a text asks for q and for k, v apart.
            owner.int8 = _int8(
                weight, len(weight) // 3 if path.endswith("cross_attention") else None
            )
        for name, layer in [*owner.named_children()]:
            if isinstance(layer, nn.Linear) and layer.bias is None:
                setattr(owner, name, _int8(layer.weight))
    module.float()


def _int8(weight: Tensor, cut: int | None = None) -> Int8Linear:
    with torch.device(weight.device):
        layer = Int8Linear(weight.shape[0], weight.shape[1], cut)
    if weight.device.type != "meta":
        layer.weight, layer.scale = quantize(weight)
    return layer


def is_int8(module: nn.Module) -> bool:
    """Whether a network has int8 layers."""
    return any(isinstance(layer, Int8Linear) for layer in module.modules())


def pack(module: nn.Module) -> None:
    """Get the int8 layers of a network ready to compute; it cannot be saved after that."""
    for layer in module.modules():
        if isinstance(layer, Int8Linear):
            layer.pack()
