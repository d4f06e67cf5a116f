"""Converts EnCodec checkpoints from and to the two published layouts: settings by a table of fields,
tensors by a key map.

    released      compression_state_dict.bin: {best_state, "xp.cfg": YAML text, version, exported}
    transformers  config.json and model.safetensors (facebook/encodec_32khz), read only

Both store convolutions with weight norm, w = g · v / ‖v‖, the norm over all but the first dimension
(Salimans & Kingma, 2016, arXiv 1602.07868). It is folded on reading, in float32 whatever the file's dtype,
and restored on writing. Layers are numbered alike in all three layouts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magnet_cli.checkpoints import key_map, xp_cfg
from magnet_cli.checkpoints.building import blank, check_state, damaged, read_tensors
from magnet_cli.config import CodecConfig
from magnet_cli.errors import CheckpointError
from magnet_cli.fields import shown
from magnet_cli.foreign import bounds, reading
from magnet_cli.models.encodec import EnCodec, check_config

# Fields of CodecConfig: their keys in xp.cfg.
RELEASED_FIELDS: dict[str, tuple[str, type]] = {
    "sample_rate": ("encodec.sample_rate", int),
    "channels": ("seanet.channels", int),
    "ratios": ("seanet.ratios", list),
    "n_filters": ("seanet.n_filters", int),
    "dimension": ("seanet.dimension", int),
    "n_q": ("rvq.n_q", int),
    "card": ("rvq.bins", int),
    "lstm_layers": ("seanet.lstm", int),
    "n_residual_layers": ("seanet.n_residual_layers", int),
    "kernel_size": ("seanet.kernel_size", int),
    "residual_kernel_size": ("seanet.residual_kernel_size", int),
    "last_kernel_size": ("seanet.last_kernel_size", int),
    "dilation_base": ("seanet.dilation_base", int),
    "compress": ("seanet.compress", int),
    "causal": ("seanet.causal", bool),
    "pad_mode": ("seanet.pad_mode", str),
    "true_skip": ("seanet.true_skip", bool),
    "trim_right_ratio": ("seanet.decoder.trim_right_ratio", float),
    "elu_alpha": ("seanet.activation_params.alpha", float),
}
# Supported values of the other settings in xp.cfg; a missing key has its default.
_RELEASED_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "compression_model": ("encodec",),
    "encodec.autoencoder": ("seanet",),
    "encodec.quantizer": ("rvq",),
    "encodec.renormalize": (False,),
    "seanet.activation": ("ELU",),
    "seanet.norm": ("weight_norm", "none"),
    "seanet.norm_params": ({}, None),
    "seanet.encoder": ({}, None),
    "seanet.decoder.final_activation": (None,),
}
_DECODER_SETTINGS = {"trim_right_ratio", "final_activation", "final_activation_params"}

# Fields of CodecConfig: their names in config.json, and the defaults there.
TRANSFORMERS_FIELDS: dict[str, tuple[str, Any]] = {
    "sample_rate": ("sampling_rate", 24_000),
    "channels": ("audio_channels", 1),
    "ratios": ("upsampling_ratios", [8, 5, 4, 2]),
    "n_filters": ("num_filters", 32),
    "dimension": ("hidden_size", 128),
    "card": ("codebook_size", 1024),
    "lstm_layers": ("num_lstm_layers", 2),
    "n_residual_layers": ("num_residual_layers", 1),
    "kernel_size": ("kernel_size", 7),
    "residual_kernel_size": ("residual_kernel_size", 3),
    "last_kernel_size": ("last_kernel_size", 7),
    "dilation_base": ("dilation_growth_rate", 2),
    "compress": ("compress", 2),
    "causal": ("use_causal_conv", True),
    "pad_mode": ("pad_mode", "reflect"),
    "trim_right_ratio": ("trim_right_ratio", 1.0),
}

_LSTM = ("weight_ih_l{}", "weight_hh_l{}", "bias_ih_l{}", "bias_hh_l{}")
_NORMED = (("weight_g", "weight_g"), ("weight_v", "weight_v"), ("weight", "weight"))
_PARAMETRIZED = (  # names of weight_g and weight_v in newer versions of torch
    ("parametrizations.weight.original0", "weight_g"),
    ("parametrizations.weight.original1", "weight_v"),
)


def _conv(theirs: str, ours: str, parts: tuple[tuple[str, str], ...] = _NORMED) -> key_map.Table:
    return [(f"{theirs}.{part}", f"{ours}.{name}") for part, name in (*parts, ("bias", "bias"))]


def released_keys() -> key_map.Table:
    """(released, ours), with weight norm on both sides."""
    table: list[tuple[str, str]] = [
        *_conv("decoder.model.{}.convtr.convtr", "decoder.layers.{}.convtr"),
        ("quantizer.vq.layers.{}._codebook.embed", "quantizer.codebooks.{}"),
    ]
    for side in ("encoder", "decoder"):
        theirs, ours = side + ".model.{}", side + ".layers.{}"
        table += _conv(f"{theirs}.conv.conv", f"{ours}.conv")
        table += _conv(f"{theirs}.block.1.conv.conv", f"{ours}.narrow.conv")
        table += _conv(f"{theirs}.block.3.conv.conv", f"{ours}.widen.conv")
        table += _conv(f"{theirs}.shortcut.conv.conv", f"{ours}.shortcut.conv")
        table += [(f"{theirs}.lstm.{part}", f"{ours}.lstm.{part}") for part in _LSTM]
    return table


def transformers_keys(config: CodecConfig) -> key_map.Table:
    """(transformers, ours). Transposed convolutions have the same names as others there, so they are listed
    one by one."""
    parts = (*_NORMED, *_PARAMETRIZED)
    table: list[tuple[str, str]] = [
        ("quantizer.layers.{}.codebook.embed", "quantizer.codebooks.{}")
    ]
    layer = 1 + bool(config.lstm_layers)
    for _ in config.ratios:
        layer += 1  # skip the activation
        table += _conv(f"decoder.layers.{layer}.conv", f"decoder.layers.{layer}.convtr", parts)
        layer += 1 + config.n_residual_layers
    for side in ("encoder", "decoder"):
        both = side + ".layers.{}"
        table += _conv(f"{both}.conv", f"{both}.conv", parts)
        table += _conv(f"{both}.block.1.conv", f"{both}.narrow.conv", parts)
        table += _conv(f"{both}.block.3.conv", f"{both}.widen.conv", parts)
        table += _conv(f"{both}.shortcut.conv", f"{both}.shortcut.conv", parts)
        table += [(f"{both}.lstm.{part}", f"{both}.lstm.{part}") for part in _LSTM]
    return table


# Codebook statistics for training; not part of the model.
_STATISTICS = ("inited", "cluster_size", "embed_avg")
RELEASED_DROPS = [f"quantizer.vq.layers.{{}}._codebook.{name}" for name in _STATISTICS]
TRANSFORMERS_DROPS = [f"quantizer.layers.{{}}.codebook.{name}" for name in _STATISTICS]


def read_released(path: Path) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Read `compression_state_dict.bin`: the settings, and the float32 tensors of EnCodec(settings).
    Raises CheckpointError: unreadable, refused, not in this layout, or not supported; or a tensor is
    missing, left over or of another shape."""
    state, settings = xp_cfg.read_package(path)
    config = released_config(settings, path.name)
    renamed = key_map.to_ours(state, released_keys(), RELEASED_DROPS, path.name)
    return config, _checked(config, renamed, path.name)


def read_transformers(
    config_path: Path, weights_path: Path
) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Read `config.json` and the weights; otherwise as `read_released`."""
    try:
        said = reading.read_json(config_path)
    except (OSError, ValueError) as error:
        raise damaged(config_path, error) from error
    config = transformers_config(said, config_path.name)
    renamed = key_map.to_ours(
        read_tensors(weights_path), transformers_keys(config), TRANSFORMERS_DROPS, weights_path.name
    )
    return config, _checked(config, renamed, weights_path.name)


def released_config(settings: dict[str, Any], where: str) -> CodecConfig:
    """The codec described by a parsed `xp.cfg`. Raises CheckpointError: a setting is missing, of the wrong
    type, or not supported."""
    for path, supported in _RELEASED_SUPPORTED.items():
        _support(where, path, xp_cfg.get(settings, path, supported[0]), supported)
    decoder = xp_cfg.get(settings, "seanet.decoder", {})
    for name in decoder if isinstance(decoder, dict) else [decoder]:
        if name not in _DECODER_SETTINGS:
            raise CheckpointError(
                f"{where} sets seanet.decoder.{name}, for the decoder alone.", _ONES_THAT_WORK
            )
    optional = {"trim_right_ratio", "elu_alpha"}  # these have defaults in CodecConfig
    fields: dict[str, Any] = {
        field: xp_cfg.value(settings, path, kind)
        for field, (path, kind) in RELEASED_FIELDS.items()
        if field not in optional or xp_cfg.get(settings, path, None) is not None
    }
    return _config(fields, where)


def transformers_config(said: dict[str, Any], where: str) -> CodecConfig:
    """The codec described by a `config.json`. Raises CheckpointError: it is not an EnCodec, or not
    supported."""
    if not isinstance(said, dict) or said.get("model_type") != "encodec":
        raise CheckpointError(f"{where} is not the config of an EnCodec.", _ONES_THAT_WORK)
    fields: dict[str, Any] = {}
    for field, (name, default) in TRANSFORMERS_FIELDS.items():
        value = fields[field] = said.get(name, default)
        kinds = (int, float) if isinstance(default, float) else type(default)
        is_flag = isinstance(value, bool) and not isinstance(default, bool)
        if is_flag or not isinstance(value, kinds):
            raise CheckpointError(
                f"{where} says {name}: {shown(value)}, which means nothing here.", _ONES_THAT_WORK
            )
    _support(where, "norm_type", said.get("norm_type", "weight_norm"), ("weight_norm",))
    _support(where, "normalize", said.get("normalize", False), (False,))
    _support(where, "chunk_length_s", said.get("chunk_length_s"), (None,))
    _support(where, "codebook_dim", said.get("codebook_dim"), (None, fields["dimension"]))
    fields["true_skip"] = not said.get("use_conv_shortcut", True)
    config = _config({**fields, "n_q": 1}, where)
    check_config(config)
    # The number of streams is given by the bandwidth, in kilobits per second, of all of them.
    frame_rate = math.ceil(config.sample_rate / config.hop_length)
    stream_rate = frame_rate * max(math.ceil(math.log2(config.card)), 1)
    bandwidths = said.get("target_bandwidths", [1.5, 3.0, 6.0, 12.0, 24.0])
    if not isinstance(bandwidths, list) or not bandwidths:
        raise CheckpointError(
            f"{where} says target_bandwidths: {shown(bandwidths)}.", "It must be a list of numbers."
        )
    for bandwidth in bandwidths:
        bounds.check_bound("bandwidth", bandwidth, f"{where}: the codec")
    n_q = math.floor(1000 * float(max(bandwidths)) / stream_rate + 1e-6)
    bounds.check_bound("n_q", n_q, f"{where}: the codec")
    return dataclasses.replace(config, n_q=n_q)


_ONES_THAT_WORK = "The EnCodec of MAGNeT, MusicGen and AudioGen can be used."


def write_released(path: Path, config: CodecConfig, state: Mapping[str, Tensor]) -> None:
    """Write `compression_state_dict.bin` so that `read_released` and audiocraft's loaders can read it.

    Args:
        state: that of EnCodec(config); written as float32. Reading it again gives the same weights up to
            rounding.
    """
    ours = {name: tensor.detach().cpu().float() for name, tensor in state.items()}
    best_state = key_map.from_ours(_unfold(ours), released_keys(), "The codec")
    for stream in range(config.n_q):
        name = f"quantizer.vq.layers.{stream}._codebook."
        # Counts as large as training expects, so that further training replaces no code.
        best_state[name + "inited"] = torch.ones(1)
        best_state[name + "cluster_size"] = torch.full((config.card,), _ALIVE)
        best_state[name + "embed_avg"] = _ALIVE * best_state[name + "embed"]
    xp_cfg.write_package(path, best_state, _settings(config))


_ALIVE = 2.0  # rvq.threshold_ema_dead_code of the released configs


def _settings(config: CodecConfig) -> dict[str, Any]:
    """The settings from which audiocraft can build this codec."""
    settings: dict[str, Any] = {
        "solver": "compression",
        "device": "cpu",
        "dtype": "float32",
        "sample_rate": config.sample_rate,
        "channels": config.channels,
        "encodec": {"channels": config.channels, "causal": config.causal},
        "seanet": {"disable_norm_outer_blocks": 0, "decoder": {"final_activation_params": None}},
        "rvq": {"q_dropout": False, "kmeans_init": False, "threshold_ema_dead_code": int(_ALIVE)},
    }
    said: dict[str, Any] = {path: first for path, (first, *_) in _RELEASED_SUPPORTED.items()}
    for field, (path, kind) in RELEASED_FIELDS.items():
        said[path] = kind(getattr(config, field))
    if config.pad_mode == "zero":
        said["seanet.pad_mode"] = "constant"  # the reference's name for it
    for path, value in said.items():
        xp_cfg.put(settings, path, value)
    return settings


def _config(fields: dict[str, Any], where: str) -> CodecConfig:
    bounds.check_codec(fields, f"{where}: the codec")
    ratios = fields["ratios"]
    return CodecConfig(**{**fields, "ratios": tuple(ratios)})


def _support(where: str, path: str, said: Any, supported: tuple[Any, ...]) -> None:
    if said not in supported:
        raise CheckpointError(
            f"{where} asks for {path} = {shown(said)}, and only {supported[0]!r} is supported.",
            _ONES_THAT_WORK,
        )


def _checked(config: CodecConfig, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Check the folded tensors against the model that they are for."""
    counts = {name: getattr(config, name) for name in ("n_q", "n_residual_layers", "lstm_layers")}
    bounds.check_counts(counts, len(state), f"{where}: the codec")
    with blank():
        expected = EnCodec(config).state_dict()
    folded = _fold({name: tensor.float() for name, tensor in state.items()})
    check_state(folded, expected, where)
    return folded


def _fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Combine pairs of weight_g and weight_v into weight; keep the others."""
    folded = dict(state)
    for name, direction in state.items():
        layer, _, part = name.rpartition(".")
        length, weight = state.get(f"{layer}.weight_g"), f"{layer}.weight"
        if part != "weight_v" or length is None or direction.dim() != 3 or weight in state:
            continue
        if length.shape == (len(direction), 1, 1):
            folded[weight] = direction * (length / _norm(direction).clamp_min(_TINY))
            del folded[name], folded[f"{layer}.weight_g"]
    return folded


def _unfold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split the weights of convolutions into weight_g and weight_v; keep the others."""
    unfolded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        if part == "weight" and tensor.dim() == 3:
            norm = _norm(tensor)
            unfolded[f"{layer}.weight_g"] = norm
            # A filter of zeros has no direction, and audiocraft would divide by its norm.
            unfolded[f"{layer}.weight_v"] = torch.where(norm > 0, tensor, torch.ones_like(tensor))
        else:
            unfolded[name] = tensor
    return unfolded


_TINY = torch.finfo(torch.float32).tiny


def _norm(weight: Tensor) -> Tensor:
    """‖weight‖ over all but the first dimension, which is kept: [N, 1, 1]."""
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
