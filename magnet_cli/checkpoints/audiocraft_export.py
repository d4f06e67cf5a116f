"""Writes the released layout, for this program's and audiocraft's loaders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from magnet_cli.checkpoints import key_map, xp_cfg
from magnet_cli.checkpoints.audiocraft import DECODING_KEYS, LM_KEYS, OURS, PATTERN, SUPPORTED
from magnet_cli.config import LMConfig
from magnet_cli.errors import UsageError
from magnet_cli.settings import DecodingConfig, listed


def write_lm(
    path: Path,
    config: LMConfig,
    state: Mapping[str, Tensor],
    defaults: DecodingConfig,
    *,
    text_encoder: str,
    sample_rate: int,
    licence: str | None = None,
    kind: str | None = None,
) -> None:
    """Write `state_dict.bin` so that `audiocraft.open_lm` can read it.

    Args:
        state: with our names; dtypes are kept.
        text_encoder: the name of the T5 that the model was trained with.
        sample_rate: the codec's, Hz.
        licence: of the weights, as an SPDX id.
        kind: music or sound.

    Raises UsageError: a model that the released layout cannot represent: hybrid, or with `stages` or
        `bar_position`.
    """
    settings = _settings(config, defaults, text_encoder, sample_rate)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    best_state = key_map.from_ours(own, LM_KEYS, "The language model")
    settings[OURS] = {"licence": licence, "kind": kind, "decoding": _more_decoding(defaults)}
    xp_cfg.write_package(path, best_state, settings)


def _settings(
    config: LMConfig, defaults: DecodingConfig, text_encoder: str, sample_rate: int
) -> dict[str, Any]:
    if config.modeling == "hybrid":
        raise UsageError(
            "A hybrid model cannot be exported: the released layout does not support it.",
            "Keep it in magnet's own format.",
        )
    unknown = [name for name in ("stages", "bar_position") if getattr(config, name)]
    if unknown:
        raise UsageError(
            f"A model with {' and '.join(unknown)} cannot be exported: the released layout has none.",
            "Keep it in magnet's own format.",
        )
    masked = config.modeling == "masked"
    settings: dict[str, Any] = {}
    for key, supported in SUPPORTED.items():
        xp_cfg.put(settings, key, supported)
    values: dict[str, Any] = {
        "solver": "magnet" if masked else "musicgen",
        "dtype": "float32",
        "device": "cpu",
        "sample_rate": sample_rate,
        "channels": 1,
        "lm_model": "transformer_lm_magnet" if masked else "transformer_lm",
        "dataset.segment_duration": config.segment_duration,
        "conditioners.description.t5.name": text_encoder,
        "conditioners.description.t5.finetune": False,
        "conditioners.description.t5.word_dropout": 0.0,
        "codebooks_pattern.modeling": PATTERN[config.modeling],
        "codebooks_pattern.parallel.empty_initial": -1,
        "codebooks_pattern.delay.delays": list(config.delays or range(config.n_q)),
        "classifier_free_guidance.training_dropout": 0.3,
        "classifier_free_guidance.inference_coef": (
            3.0 if defaults.cfg_coef is None else defaults.cfg_coef
        ),
        "attribute_dropout": {},
        "transformer_lm.dim": config.dim,
        "transformer_lm.num_heads": config.num_heads,
        "transformer_lm.num_layers": config.num_layers,
        "transformer_lm.hidden_scale": config.hidden_scale,
        "transformer_lm.n_q": config.n_q,
        "transformer_lm.card": config.card,
        "transformer_lm.causal": not masked,
        "transformer_lm.cross_attention": False,
        "transformer_lm.dropout": 0.0,
        "transformer_lm.custom": False,
        "transformer_lm.memory_efficient": True,
        "fuser.cross_attention_pos_emb_scale": 1,
    }
    if masked:
        values["transformer_lm.subcodes_context"] = config.subcodes_context
        values["transformer_lm.compression_model_framerate"] = config.frame_rate
        values["transformer_lm.segment_duration"] = 0
        values["transformer_lm.span_len"] = -1
        values["masking.span_len"] = config.span_len
    for key, value in values.items():
        xp_cfg.put(settings, key, value)
    given = listed(defaults.given())
    for theirs, ours in DECODING_KEYS.items():
        if ours in given:
            xp_cfg.put(settings, f"generate.lm.{theirs}", given[ours])
    return settings


def _more_decoding(defaults: DecodingConfig) -> dict[str, Any]:
    """The decoding defaults for which the released layout has no key, or not in every model."""
    names = set(DECODING_KEYS.values())
    return {n: value for n, value in listed(defaults.given()).items() if n not in names}
