"""The precision of a language model: choosing it, checking that it fits into memory, and int8 layers.

In int8, on a CPU, a model takes a quarter of the memory and has several times the speed of float32.
Weights have one scale per output channel. Inputs are quantised dynamically, each token by its own largest
value (ZeroQuant, arXiv 2206.01861, section 4): with one scale for a whole tensor, a large token, or another
item of the batch, would determine the resolution of all others. Attention, norms, embeddings and the heads
that give logits stay in floating point.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from magnet_cli.config import PRECISIONS, LMConfig, no_dtype
from magnet_cli.errors import UsageError
from magnet_cli.models.text import TextEncoder
from magnet_cli.models.transformer import SelfAttention

INT8 = "int8"  # linear layers are quantised
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PRECISIONS if name != INT8}

# Parameters from which bfloat16 pays on a processor that has it: whole clips of small (420 million) took
# 0.28 of float32's time on one, those of nano no less time; sizes between were not tried.
_LARGE = 100e6

_SMALLEST = 1e-12  # a token of zeros has a scale, too


def pick_dtype(name: str, device: torch.device, parameters: int = 0) -> torch.dtype:
    """Resolve a dtype's name for a device and a number of parameters.
    Raises UsageError: there is no such dtype."""
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        large = device.type == "cpu" and parameters >= _LARGE
        return torch.bfloat16 if large and multiplies_bfloat16() else torch.float32
    if name not in DTYPES:
        raise no_dtype(name)
    return DTYPES[name]


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively and oneDNN may use it.

    Otherwise bfloat16 is slower than float32, because every product is converted.
    """
    if not torch.backends.mkldnn.is_available() or not _is_let():
        return False
    features = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86, x86, ARM, ARM
    if hasattr(torch.cpu, "get_capabilities"):  # from torch 2.11 on
        has = torch.cpu.get_capabilities()
        return any(bool(has.get(feature)) for feature in features)
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # older: of x86 alone
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in asked)


def _is_let() -> bool:
    """Whether ONEDNN_MAX_CPU_ISA allows oneDNN to use such instructions."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    return any(word in most.upper() for word in ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10"))


def weight_bytes(config: LMConfig, dtype: str) -> int:
    """Bytes of a language model's weights in memory."""
    if dtype != INT8:
        return config.parameters * DTYPES[dtype].itemsize
    in_int8 = config.num_layers * (8 + 2 * config.hidden_scale) * config.dim**2
    return in_int8 + 4 * (config.parameters - in_int8)


def check_room(name: str, config: LMConfig, dtype: str, device: torch.device) -> None:
    """Check that a language model fits into free memory.
    Raises UsageError: it does not; the hint names a precision in which it would, if there is one."""
    free = free_memory(device)
    needed = weight_bytes(config, dtype)
    if free is None or needed <= free:
        return
    others = ["float16"] if device.type == "cuda" else ["bfloat16", INT8]
    if not multiplies_bfloat16():
        others.reverse()  # int8 is the faster one
    smaller = [other for other in others if weight_bytes(config, other) <= min(needed - 1, free)]
    where = "memory" if device.type == "cpu" else f"memory of {device}"
    hint = "End other programs, or take a smaller model."
    if smaller:
        hint = f"Take --dtype {smaller[0]}: {weight_bytes(config, smaller[0]) / 1e9:.1f} GB."
    raise UsageError(
        f"The language model of {name} takes {needed / 1e9:.1f} GB in {dtype}, and "
        f"{free / 1e9:.1f} GB of {where} are free.",
        hint,
    )


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a GPU, or of the machine within a container's limit; None: unknown."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if device.type != "cpu":
        return None
    known = [each for each in (_machine_free(), _container_free()) if each is not None]
    return min(known, default=None)


def _machine_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        said = dict(line.split(":", 1) for line in lines)
        return int(said["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:  # another system than Linux: no more than there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _container_free(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes left within a container's limit (cgroup v2); file caches count as free."""
    try:
        most = int((folder / "memory.max").read_text("ascii"))
        used = int((folder / "memory.current").read_text("ascii"))
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
        kept = int(dict(line.split() for line in lines)["file"])
    except (OSError, ValueError, KeyError):  # "max": no limit
        return None
    return max(most - used + kept, 0)


# ------------------------------------------------------------------------------------- int8 layers


class Int8Linear(nn.Module):
    """y = x W^T, W int8 [N, K] with a float32 scale for each of its N rows.

    The weights are laid out as in the file, until `pack` lays them out as the processor needs them.
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
        """Prepare for computing; drops the plain weights to save memory."""
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
        # Few passes over the input: each takes a tenth of the time of the product.
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
    whole = x.round_().to(torch.int8)
    if not onednn:
        return torch._int_mm(whole, weight.t()).float() * scale
    middle = reach + 1  # which the operator subtracts again
    made: Tensor = torch.ops.onednn.qlinear_pointwise(
        whole.view(torch.uint8).add_(middle),  # wraps around; another conversion is slow
        *(1.0, middle, weight, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""),
    )
    return made


@functools.cache
def _way() -> tuple[int, bool]:
    """The largest value that a token is quantised to, and whether oneDNN's operator is used.
    Raises UsageError: no operator of this torch multiplies int8 exactly."""
    for way in ((127, True), (63, True), (127, False)):
        if _is_exact(*way):
            return way
    raise UsageError("torch does not multiply int8 exactly here.", "Take --dtype float32.")


def _is_exact(reach: int, onednn: bool) -> bool:
    """Test whether the operator multiplies the largest values exactly.

    Processors without VNNI add two products in 16 bits, where those of full bytes saturate silently: there
    one bit less is used.
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
    """Replace the linear layers of a language model's blocks, or of a text encoder, by int8 layers, one after
    the other; the rest becomes float32. Weights on the meta device stay there, to be filled."""
    for path, owner in [*module.named_modules()]:
        if not isinstance(module, TextEncoder) and not path.startswith("transformer."):
            continue  # the projection of a text and the heads: little work, and close to the logits
        if isinstance(owner, SelfAttention):
            weight = owner.in_proj_weight
            del owner.in_proj_weight
            # Cross-attention computes q, and k and v, separately.
            cut = len(weight) // 3 if path.endswith("cross_attention") else None
            owner.int8 = _int8(weight, cut)
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
    """Prepare a network's int8 layers for computing; it cannot be saved afterwards."""
    for layer in module.modules():
        if isinstance(layer, Int8Linear):
            layer.pack()
