"""Which precision a language model is loaded in, and whether it fits into memory: asked before loading."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch

from magnet_cli.config import PRECISIONS, LMConfig, no_dtype
from magnet_cli.errors import UsageError

INT8 = "int8"  # linear layers are quantised (models/int8.py)
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PRECISIONS if name != INT8}

# Parameters from which bfloat16 pays on a processor that has it: whole clips of small (420 million) took 0.28
# of float32's time on one, nano's no less; what lies between was not tried.
_LARGE = 100e6


def pick_dtype(name: str, device: torch.device, parameters: int = 0) -> torch.dtype:
    """The dtype that `name` stands for on a device, for a model of so many parameters.
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
    """Whether torch says that this processor multiplies bfloat16 itself, and oneDNN is let.

    Where it does not, bfloat16 is slower than float32: every product is converted.
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
    """Whether the user lets oneDNN use such instructions (its ONEDNN_MAX_CPU_ISA)."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    return any(word in most.upper() for word in ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10"))


def weight_bytes(config: LMConfig, dtype: str) -> int:
    """What a language model's weights take in memory."""
    if dtype != INT8:
        return config.parameters * DTYPES[dtype].itemsize
    in_int8 = config.num_layers * (8 + 2 * config.hidden_scale) * config.dim**2
    return in_int8 + 4 * (config.parameters - in_int8)


def check_room(name: str, config: LMConfig, dtype: str, device: torch.device) -> None:
    """Refuse a language model that does not fit into the memory that is free.

    Raises:
        UsageError: it does not; a precision in which it would is named, where there is one.
    """
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


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had: of a GPU, or of the machine within a container's limit; None: not known."""
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
    """What a container's limit leaves (cgroup v2); files that are kept in memory give way."""
    try:
        most = int((folder / "memory.max").read_text("ascii"))
        used = int((folder / "memory.current").read_text("ascii"))
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
        kept = int(dict(line.split() for line in lines)["file"])
    except (OSError, ValueError, KeyError):  # "max": no limit
        return None
    return max(most - used + kept, 0)
