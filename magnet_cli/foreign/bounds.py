"""Bounds on the sizes that files specify, checked before memory is allocated for them. Imports no torch.

First the table of bounds: the valid range of every number in a file that determines a size, a length or a
time. The ranges are far wider than anything that exists, but narrow enough that a model of any such size is
refused or built within a second: it takes no memory until its weights are there
(`checkpoints/building.py`), and existing weights limit the counts (`check_counts`).

Then checks of weight files before a library opens them. A safetensors file starts with the names and shapes
of its tensors. A pickle of torch is a zip archive with uncompressed members; an older one is a stream of
instructions. Neither is executed here.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from magnet_cli.errors import CheckpointError
from magnet_cli.fields import shown
from magnet_cli.foreign import reading
from magnet_cli.foreign.reading import ReadError


@dataclass(frozen=True)
class Bound:
    """The valid values of a number: integer or not, from `low` to `high` inclusive."""

    low: float
    high: float
    whole: bool = True

    def holds(self, value: Any) -> bool:
        """Whether the value is valid."""
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high

    @property
    def takes(self) -> str:
        """The valid values, in words."""
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:,g} to {self.high:,.15g}"


def _number(low: float, high: float) -> Bound:
    return Bound(low, high, whole=False)


_WIDTH = Bound(1, 65_536)
_LAYERS = Bound(0, 256)
_KERNEL = Bound(1, 1023)

# By field name; a name means the same in all configs that have it (config.py, models/text.py,
# models/word_pieces.py).
BOUNDS: dict[str, Bound] = {
    # language model
    "dim": _WIDTH,
    "num_heads": Bound(1, 1024),
    "num_layers": Bound(1, 256),
    "hidden_scale": Bound(1, 64),
    "text_dim": _WIDTH,
    "n_q": Bound(1, 256),
    "card": Bound(1, 1 << 20),
    "subcodes_context": Bound(-1, 100_000),  # -1: unlimited
    "span_len": Bound(1, 100_000),
    "delay": Bound(0, 4096),
    "beat": _number(1, 10_000),
    "frame_rate": _number(0.01, 10_000),
    "segment_duration": _number(0.001, 3600),
    "segment_frames": Bound(1, 200_000),
    "parameters": Bound(0, 10**12),
    "weight": _number(1e-4, 1e4),  # of a clip, relative to others
    # codecs
    "sample_rate": Bound(1, 1_000_000),
    "channels": Bound(1, 16),
    "ratio": Bound(1, 4096),
    "ratios": Bound(1, 16),  # number of them
    "hop_length": Bound(1, 1 << 20),
    "n_filters": Bound(1, 8192),
    "dimension": _WIDTH,
    "latent": Bound(1, 1 << 20),  # groups * dimension
    "lstm_layers": Bound(0, 16),
    "n_residual_layers": Bound(0, 32),
    "kernel_size": _KERNEL,
    "residual_kernel_size": _KERNEL,
    "last_kernel_size": _KERNEL,
    "dilation_base": Bound(1, 64),
    "dilation": Bound(1, 1 << 20),  # of the last residual layer
    "compress": Bound(1, 8192),
    "trim_right_ratio": _number(0, 1),
    "elu_alpha": _number(0, 1000),
    "bandwidth": _number(0, 1e6),  # kilobits per second
    "spectral_hop": Bound(2, 65_536),
    "overlap": Bound(2, 64),
    "window": Bound(4, 1 << 20),  # samples in a spectral frame: hop * overlap
    "stack": Bound(1, 256),
    "linear_hz": _number(0, 1_000_000),
    "high_bands": Bound(1, 8192),
    "floor": _number(1e-30, 1e6),
    "mel_weight": _number(-10, 10),
    "groups": Bound(1, 256),
    "encoder_blocks": _LAYERS,
    "latent_blocks": _LAYERS,
    "level_blocks": _LAYERS,
    "block_width": Bound(1, 64),
    "correction": _number(0, 1),
    "smoothing": _number(0, 1000),
    "phase_iterations": Bound(0, 1000),
    # text encoders
    "vocab_size": Bound(1, 1 << 21),
    "d_model": _WIDTH,
    "d_kv": _WIDTH,
    "d_ff": Bound(1, 1 << 20),
    "relative_attention_num_buckets": Bound(4, 4096),
    "relative_attention_max_distance": Bound(4, 1 << 20),
    "layer_norm_epsilon": _number(0, 1),
    "max_pieces": Bound(1, 4096),
    "layers": _LAYERS,
    # token shards
    "offset": Bound(0, 1 << 48),
    "frames": Bound(0, 1 << 48),
    "step": Bound(0, 1 << 48),
    "updates": Bound(0, 1 << 48),
}


def check_bound(name: str, value: Any, where: str) -> None:
    """Check a number from a file.

    Args:
        name: its field, in BOUNDS.
        where: the owner of the field, for the message: "config.json: the codec".

    Raises:
        CheckpointError: naming the field and its valid values.
    """
    bound = BOUNDS[name]
    if not bound.holds(value):
        raise CheckpointError(f"{where} has {name} = {shown(value)}.", f"It must be {bound.takes}.")


def check_bounds(fields: Mapping[str, Any], where: str) -> None:
    """Check all fields of a config that are in BOUNDS; others are not sizes. Raises CheckpointError: as
    `check_bound`."""
    for name, value in fields.items():
        if name in BOUNDS and name != "ratios":
            check_bound(name, value, where)


def check_codec(fields: Mapping[str, Any], where: str) -> None:
    """Check the fields of a codec's config, and the sizes that follow from several of them. Raises
    CheckpointError: as `check_bound`."""
    check_bounds(fields, where)
    if "ratios" in fields:
        ratios = fields["ratios"]
        if not isinstance(ratios, (list, tuple)):
            raise CheckpointError(f"{where} has ratios = {shown(ratios)}.", "It must be a list.")
        check_bound("ratios", len(ratios), where)
        for ratio in ratios:
            check_bound("ratio", ratio, where)
        check_bound("hop_length", math.prod(ratios), where)
    for made, parts in {
        "window": ("spectral_hop", "overlap"),
        "hop_length": ("spectral_hop", "stack"),
        "latent": ("groups", "dimension"),
    }.items():
        if all(part in fields for part in parts):
            check_bound(made, math.prod(fields[part] for part in parts), where)
    if "dilation_base" in fields and "n_residual_layers" in fields:
        reach = fields["dilation_base"] ** max(fields["n_residual_layers"] - 1, 0)
        check_bound("dilation", reach, where)
    if "ratios" in fields and "n_filters" in fields:
        widest = fields["n_filters"] * 2 ** len(fields["ratios"])
        check_bound("latent", widest, where)


def check_counts(counts: Mapping[str, int], tensors: int, where: str) -> None:
    """Refuse more layers or streams than a file has tensors, as each has at least one. Raises
    CheckpointError: naming the field."""
    for name, count in counts.items():
        if count > tensors:
            raise CheckpointError(
                f"{where} has {name} = {count}, and its weights are {tensors} tensors.",
                "The files are damaged, or not of one model: take all of them from one source.",
            )


# ------------------------------------------------------------------------------------- files of weights

_MOST_HEADER = 32_000_000  # bytes: 200,000 in a model of 3 billion parameters
_MOST_PICKLE = 64_000_000  # bytes of instructions, likewise
_MOST_TENSORS = 200_000
_MOST_DIMENSIONS = 16  # a model's tensors have at most four
_LEAST = 1 << 31  # times and similar numbers are smaller
_MAGIC = 0x1950A86A20F9469CFC6C  # identifies files of torch before 1.6


@dataclass(frozen=True)
class Weights:
    """The tensors of a safetensors file by name: their shapes, and the file's metadata."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def layers(self, prefix: str) -> int:
        """The number of layers with a prefix, such as those of `layers.0.weight` and `layers.1.weight`."""
        found = {
            name[len(prefix) :].partition(".")[0] for name in self.shapes if name.startswith(prefix)
        }
        return sum(number.isdecimal() for number in found)


def read_header(path: Path) -> Weights:
    """Read the header of a safetensors file.

    Raises:
        ReadError: it is not one, or specifies more than its size allows.
        OSError: it does not exist, or may not be read.
    """
    with reading.open_regular(path) as file:
        file.seek(0, 2)
        size = file.tell()
        file.seek(0)
        start = file.read(8)
        if start == b"version ":
            raise ReadError(reading.LFS_REASON)
        if len(start) < 8:
            raise ReadError("it is empty" if not start else "it is cut short")
        length = struct.unpack("<Q", start)[0]
        if length > min(size - 8, _MOST_HEADER):
            raise ReadError("it is cut short, or no safetensors file")
        text = file.read(length)
    try:
        said = json.loads(text)
    except RecursionError:
        raise ReadError("its header is nested too deeply") from None
    except ValueError:
        raise ReadError("it is not a safetensors file, or it is damaged") from None
    if not isinstance(said, dict) or len(said) > _MOST_TENSORS:
        raise ReadError("its header does not name tensors")
    metadata = said.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ReadError("its header holds something other than text")
    return Weights({name: _shape(name, each, size) for name, each in said.items()}, metadata)


def _shape(name: str, said: Any, size: int) -> tuple[int, ...]:
    shape = said.get("shape") if isinstance(said, dict) else None
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ReadError(f"its header gives {name[:60]!r} no shape")
    if len(shape) > _MOST_DIMENSIONS:
        raise ReadError(f"{name[:60]!r} has more than {_MOST_DIMENSIONS} dimensions")
    # No dtype takes less than half a byte.
    if math.prod(shape) > 2 * size:
        raise ReadError(f"{name[:60]!r} would be larger than the file")
    return tuple(shape)


def check_pickle(path: Path) -> None:
    """Refuse a file that is not a pickle of torch, or that could take more memory than its own size.

    Raises:
        ReadError: it is refused.
        OSError: it does not exist, or may not be read.
    """
    with reading.open_regular(path) as file:
        start = file.read(8)
        if start == b"version ":
            raise ReadError(reading.LFS_REASON)
        if not start:
            raise ReadError("it is empty")
        size = file.seek(0, 2)
        file.seek(0)
        if start[:4] == b"PK\x03\x04":
            _check_archive(file, size)
        else:
            # A file from before torch 1.6: a magic number, two small pickles, the content, and the names
            # of the storages.
            _check_numbers(file, size, pickles=5)


def _check_archive(file: BinaryIO, size: int) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ReadError("it is compressed, which torch's own files are not")
            if sum(member.file_size for member in members) > size:
                raise ReadError("it holds more than its own size")
            for member in members:
                if member.filename.endswith("/data.pkl"):
                    if member.file_size > _MOST_PICKLE:
                        raise ReadError(f"it has more than {_MOST_PICKLE // 1_000_000} MB of names")
                    _check_numbers(io.BytesIO(archive.read(member)), size, pickles=1)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
        raise ReadError("it is cut short or damaged") from None


def _check_numbers(file: BinaryIO, size: int, pickles: int) -> None:
    """Refuse numbers larger than the file: they are lengths, shapes and strides, for which memory would be
    allocated. Anything that is not a pickle is left to torch."""
    most = max(size, _LEAST)
    try:
        for _ in range(pickles):
            for code, argument, _ in pickletools.genops(file):
                if isinstance(argument, int) and most < abs(argument) != _MAGIC:
                    raise ReadError(f"it speaks of more than its own size, in {code.name}")
    except ReadError:
        raise
    except Exception:  # pickletools raises any exception
        return
