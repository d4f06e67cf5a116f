"""Loads T5's encoder from the hub's layout: config.json, tokenizer.json, safetensors or .bin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from magnet_cli.checkpoints import key_map
from magnet_cli.checkpoints.building import (
    blank,
    damaged,
    fill,
    read_pickle,
    read_safetensors,
    read_tokenizer,
)
from magnet_cli.checkpoints.registry import T5, needed
from magnet_cli.errors import CheckpointError
from magnet_cli.fields import shown
from magnet_cli.foreign import bounds, reading
from magnet_cli.models.text import T5Config, T5Encoder

_BLOCK = "encoder.block.{}.layer"
T5_KEYS: key_map.Table = [
    ("shared.weight", "embedding.weight"),
    (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "position_bias.weight",
    ),
    (f"{_BLOCK}.0.SelfAttention.q.weight", "layers.{}.attention.q.weight"),
    (f"{_BLOCK}.0.SelfAttention.k.weight", "layers.{}.attention.k.weight"),
    (f"{_BLOCK}.0.SelfAttention.v.weight", "layers.{}.attention.v.weight"),
    (f"{_BLOCK}.0.SelfAttention.o.weight", "layers.{}.attention.o.weight"),
    (f"{_BLOCK}.0.layer_norm.weight", "layers.{}.attention_norm.weight"),
    (f"{_BLOCK}.1.DenseReluDense.wi.weight", "layers.{}.feed_forward.wi.weight"),
    (f"{_BLOCK}.1.DenseReluDense.wi_0.weight", "layers.{}.feed_forward.gate.weight"),
    (f"{_BLOCK}.1.DenseReluDense.wi_1.weight", "layers.{}.feed_forward.wi.weight"),
    (f"{_BLOCK}.1.DenseReluDense.wo.weight", "layers.{}.feed_forward.wo.weight"),
    (f"{_BLOCK}.1.layer_norm.weight", "layers.{}.feed_forward_norm.weight"),
    ("encoder.final_layer_norm.weight", "norm.weight"),
]
# The released files contain all of T5; only its encoder is used, with one of the tied copies of the
# embedding.
_TIED = "encoder.embed_tokens.weight"
_DROPPED_PREFIX = "decoder."
T5_DROPS = ("lm_head.weight", _TIED)


def load_t5(directory: Path, device: torch.device | str = "cpu") -> T5Encoder:
    """Build the encoder from a directory in the hub's layout, in float32.
    Raises CheckpointError: files are missing, unreadable or do not belong together."""
    names = [path.name for path in directory.iterdir()]
    files = T5.chosen(needed(T5, names, str(directory)))
    config = read_config(directory / "config.json")
    weights = directory / files["model.safetensors"]
    if weights.suffix == ".safetensors":
        state = read_safetensors(weights, lambda name: not name.startswith(_DROPPED_PREFIX))
    else:
        pickled = read_pickle(weights)
        state = {k: v for k, v in pickled.items() if not str(k).startswith(_DROPPED_PREFIX)}
    if "shared.weight" not in state and _TIED in state:
        state["shared.weight"] = state[_TIED]  # safetensors stores a tied tensor under one name
    where = f"{directory / weights.name}"
    bounds.check_counts({"num_layers": config.num_layers}, len(state), where)
    with blank():
        encoder = T5Encoder(config, read_tokenizer(directory / "tokenizer.json"))
    fill(encoder, key_map.to_ours(state, T5_KEYS, T5_DROPS, where), where, torch.float32, device)
    return encoder


def read_config(path: Path) -> T5Config:
    """The sizes in a released config.json. Raises CheckpointError: not the config of a supported T5."""
    try:
        said: dict[str, Any] = reading.read_object(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    feed_forward = said.get("feed_forward_proj", "relu")
    if feed_forward not in ("relu", "gated-gelu"):
        raise CheckpointError(
            f"{path} needs the feed-forward part {shown(feed_forward)}.",
            "T5 (relu), T5 v1.1 and Flan (gated-gelu) can be used.",
        )
    fields = {**_USUAL, **{name: said[name] for name in (*_SIZES, *_USUAL) if name in said}}
    if missing := [name for name in _SIZES if name not in fields]:
        raise CheckpointError(f"{path} is not a T5 config: it has no {missing[0]}.", key_map.HINT)
    bounds.check_bounds(fields, f"{path}: the text encoder")
    return T5Config(**fields, gated=feed_forward == "gated-gelu")


_SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
_USUAL = {
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
