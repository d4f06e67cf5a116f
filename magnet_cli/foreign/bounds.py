"""The one table of bounds: what each number may be that a file decides a size, a length or a time by.

They are far beyond all that exists, and near enough that a model of such sizes is refused or built within
a second: what is built has no memory until its weights are there (`checkpoints/tensors.py`), and weights
that are there bound what they are for (`check_counts`). No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magnet_cli.errors import CheckpointError
from magnet_cli.fields import shown


@dataclass(frozen=True)
class Bound:
    """What a number may be: whole or not, from `low` to `high`, both of them taken."""

    low: float
    high: float
    whole: bool = True

    def holds(self, value: Any) -> bool:
        """Whether it may be this."""
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high

    @property
    def takes(self) -> str:
        """The values it may have, in words."""
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:,g} to {self.high:,.15g}"


def _number(low: float, high: float) -> Bound:
    return Bound(low, high, whole=False)


_WIDTH = Bound(1, 65_536)
_LAYERS = Bound(0, 256)
_KERNEL = Bound(1, 1023)

# By the names of the fields, which mean the same in all configs that have them (config.py, models/text.py,
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
    "subcodes_context": Bound(-1, 100_000),  # -1: no restriction
    "span_len": Bound(1, 100_000),
    "delay": Bound(0, 4096),
    "frame_rate": _number(0.01, 10_000),
    "segment_duration": _number(0.001, 3600),
    "segment_frames": Bound(1, 200_000),
    "parameters": Bound(0, 10**12),
    # codecs
    "sample_rate": Bound(1, 1_000_000),
    "channels": Bound(1, 16),
    "ratio": Bound(1, 4096),
    "ratios": Bound(1, 16),  # how many
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
    "window": Bound(4, 1 << 20),  # samples of a spectral frame: hop * overlap
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
    """Refuse a number that a file gives and that its field may not have.

    Args:
        name: of the field, in BOUNDS.
        where: whose field it is, for the message: "config.json: the codec".

    Raises:
        CheckpointError: naming it, and what it takes.
    """
    bound = BOUNDS[name]
    if not bound.holds(value):
        raise CheckpointError(f"{where} has {name} = {shown(value)}.", f"It must be {bound.takes}.")


def check_bounds(fields: Mapping[str, Any], where: str) -> None:
    """The same of all fields of a config that are in the table; the others are not numbers of a size.

    Raises:
        CheckpointError: as `check_bound`.
    """
    for name, value in fields.items():
        if name in BOUNDS and name != "ratios":
            check_bound(name, value, where)


def check_codec(fields: Mapping[str, Any], where: str) -> None:
    """The bounds of a codec's config, and of what its numbers come to together.

    Raises:
        CheckpointError: as `check_bound`.
    """
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
    """Refuse more layers or streams than a file has tensors: each has one at least.

    Raises:
        CheckpointError: naming the field.
    """
    for name, count in counts.items():
        if count > tensors:
            raise CheckpointError(
                f"{where} has {name} = {count}, and its weights are {tensors} tensors.",
                "The files are damaged, or not of one model: take all of them from one source.",
            )
