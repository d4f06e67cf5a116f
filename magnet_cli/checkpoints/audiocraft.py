"""The released layout: two pickles, each a state dictionary with its `xp.cfg` beside it.

    state_dict.bin              {best_state, "xp.cfg": YAML text, version, exported}
    compression_state_dict.bin  the same for the codec, or {pretrained: "owner/name"}, a pointer

Everything needed to build the model is read from `xp.cfg`; no size is assumed. Three settings of it are not
the ones in effect (tests/golden/README.md, 13): cross-attention is on if the fuser has it, the length is
`dataset.segment_duration`, the span is `masking.span_len`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from magnet_cli.checkpoints import hub, key_map, xp_cfg
from magnet_cli.checkpoints.building import read_pickle
from magnet_cli.config import LMConfig, Modeling, check_lm
from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.fields import shown
from magnet_cli.foreign import bounds
from magnet_cli.settings import DecodingConfig

LM_FILE = "state_dict.bin"
CODEC_FILE = "compression_state_dict.bin"

_OUTPUT_PROJ = "condition_provider.conditioners.description.output_proj"
_LAYER = "transformer.layers.{}"
LM_KEYS: key_map.Table = [
    (f"{_OUTPUT_PROJ}.weight", "text_proj.weight"),
    (f"{_OUTPUT_PROJ}.bias", "text_proj.bias"),
    *(
        (name, name)
        for name in (
            "emb.{}.weight",
            "linears.{}.weight",
            "out_norm.weight",
            "out_norm.bias",
            *(
                f"{_LAYER}.{part}"
                for part in (
                    "self_attn.in_proj_weight",
                    "self_attn.out_proj.weight",
                    "cross_attention.in_proj_weight",
                    "cross_attention.out_proj.weight",
                    "linear1.weight",
                    "linear2.weight",
                    "norm1.weight",
                    "norm1.bias",
                    "norm2.weight",
                    "norm2.bias",
                    "norm_cross.weight",
                    "norm_cross.bias",
                )
            ),
        )
    ),
]
TEXT_WEIGHT = f"{_OUTPUT_PROJ}.weight"

# The supported values of settings in `xp.cfg`, which are also the defaults of missing keys.
SUPPORTED: dict[str, Any] = {
    "transformer_lm.activation": "gelu",
    "transformer_lm.norm": "layer_norm",
    "transformer_lm.norm_first": True,
    "transformer_lm.positional_embedding": "sin",
    "transformer_lm.bias_attn": False,
    "transformer_lm.bias_ff": False,
    "transformer_lm.bias_proj": False,
    "transformer_lm.layer_scale": None,
    "transformer_lm.past_context": None,
    "transformer_lm.qk_layer_norm": False,
    "transformer_lm.qk_layer_norm_cross": False,
    "transformer_lm.kv_repeat": 1,
    "transformer_lm.xpos": False,
    "fuser.cross": ["description"],
    "fuser.cross_attention_pos_emb": False,
    "fuser.sum": [],
    "fuser.prepend": [],
    "fuser.input_interpolate": [],
    "interleave_stereo_codebooks.use": False,
    "conditioners.description.model": "t5",
    "conditioners.description.t5.normalize_text": False,
    "codebooks_pattern.delay.flatten_first": 0,
    "codebooks_pattern.delay.empty_initial": 0,
}
_MODELING: dict[str, Modeling] = {
    "transformer_lm_magnet": "masked",
    "transformer_lm": "autoregressive",
}
# The key of xp.cfg for this program's additions: {licence, kind, decoding}. Other programs ignore it.
OURS = "magnet"
PATTERN: dict[Modeling, str] = {"masked": "parallel", "autoregressive": "delay"}


@dataclass(frozen=True)
class LMFile:
    """An opened `state_dict.bin`: the tensors are mapped, not read yet."""

    path: Path
    settings: dict[str, Any]  # xp.cfg
    state: dict[str, Tensor]  # by the released names

    @property
    def text_encoder(self) -> str:
        """The name of the text encoder, for instance `t5-base`."""
        return xp_cfg.value(self.settings, "conditioners.description.t5.name", str)

    @property
    def text_weight(self) -> Tensor:
        """The weight [dim, text_dim] that projects the text encoder's output."""
        weight = self.state.get(TEXT_WEIGHT)
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            raise CheckpointError(f"{self.path} has no {TEXT_WEIGHT}.", "It is not a text model.")
        return weight


def open_lm(path: Path) -> LMFile:
    """Open `state_dict.bin`. Raises CheckpointError: it is unreadable, refused, not in this layout, or needs
    something that is not supported."""
    state, settings = xp_cfg.read_package(path)
    for key, supported in SUPPORTED.items():
        said = xp_cfg.get(settings, key, supported)
        if said != supported:
            raise CheckpointError(
                f"{path} asks for {key} = {shown(said)}, and only {supported!r} is supported.",
                "Mono text-to-audio checkpoints of MAGNeT, MusicGen and AudioGen can be used.",
            )
    return LMFile(path, settings, state)


def codec_pointer(path: Path) -> str | None:
    """The repository that `compression_state_dict.bin` points to; None where it holds the codec.
    Raises CheckpointError: unreadable or refused."""
    pointer = read_pickle(path).get("pretrained")
    if pointer is None:
        return None
    repo = str(pointer).removeprefix("//pretrained/")
    if "/" not in repo or not hub.is_repo_id(repo):
        raise CheckpointError(
            f"{path} points to the codec {shown(pointer)}, which is not supported.",
            "It must be an EnCodec on the hub, such as facebook/encodec_32khz.",
        )
    return repo


def lm_config(file: LMFile, frame_rate: float) -> LMConfig:
    """The sizes of the language model; `frame_rate` is its codec's. Raises CheckpointError: a setting is
    missing, of the wrong type, or not supported."""
    settings = file.settings

    def number(key: str, kind: type[Any] = int) -> Any:
        return xp_cfg.value(settings, key, kind)

    modeling = _modeling(settings, file.path)
    masked = modeling == "masked"
    said = xp_cfg.get(settings, "transformer_lm.compression_model_framerate", frame_rate)
    if said != frame_rate:
        raise CheckpointError(
            f"{file.path} was made for {shown(said)} frames per second, and its codec has "
            f"{frame_rate:g}.",
            "The two files do not belong together.",
        )
    delays = () if masked else tuple(number("codebooks_pattern.delay.delays", list))
    config = LMConfig(
        dim=number("transformer_lm.dim"),
        num_heads=number("transformer_lm.num_heads"),
        num_layers=number("transformer_lm.num_layers"),
        n_q=number("transformer_lm.n_q"),
        card=number("transformer_lm.card"),
        modeling=modeling,
        text_dim=file.text_weight.shape[1],
        frame_rate=frame_rate,
        segment_duration=number("dataset.segment_duration", float),
        hidden_scale=number("transformer_lm.hidden_scale"),
        subcodes_context=number("transformer_lm.subcodes_context") if masked else 0,
        span_len=number("masking.span_len") if masked else 1,
        delays=delays,
    )
    check_lm(config, str(file.path))
    counts = {name: getattr(config, name) for name in ("num_layers", "n_q")}
    bounds.check_counts(counts, len(file.state), str(file.path))
    return config


def lm_state(file: LMFile) -> dict[str, Tensor]:
    """The tensors under our names."""
    return key_map.to_ours(file.state, LM_KEYS, (), file.path.name)


def decoding_defaults(file: LMFile) -> DecodingConfig:
    """The decoding settings in `generate.lm`, which the reference never reads (tests/golden/README.md, 14).

    Settings that this program added when it exported the model override them. Raises CheckpointError: a
    setting is unknown or invalid.
    """
    said = xp_cfg.get(file.settings, "generate.lm", {})
    said = said if isinstance(said, dict) else {}
    given = {ours: said.get(theirs) for theirs, ours in DECODING_KEYS.items()}
    if _modeling(file.settings, file.path) == "masked":
        given["span_len"] = xp_cfg.get(file.settings, "masking.span_len", None)
    else:
        given["cfg_coef"] = xp_cfg.get(
            file.settings, "classifier_free_guidance.inference_coef", None
        )
    more = xp_cfg.get(file.settings, f"{OURS}.decoding", {})
    try:
        return DecodingConfig(**{**given, **more})
    except (UsageError, TypeError) as error:
        why = f": {error.message}" if isinstance(error, UsageError) else "."
        raise CheckpointError(
            f"The decoding settings in the xp.cfg of {file.path} cannot be used{why}", key_map.HINT
        ) from error


def licence(file: LMFile) -> str | None:
    """The licence of the weights, as an SPDX id, or None; released files do not give it."""
    said = xp_cfg.get(file.settings, f"{OURS}.licence", None)
    return said if isinstance(said, str) else None


def kind(file: LMFile, otherwise: str | None) -> str | None:
    """What the model generates, music or sound; `otherwise` if the file does not say."""
    said = xp_cfg.get(file.settings, f"{OURS}.kind", otherwise)
    return said if isinstance(said, str) else None


DECODING_KEYS = {
    "decoding_steps": "decoding_steps",
    "temp": "temperature",
    "anneal_temp": "anneal_temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "use_sampling": "use_sampling",
    "max_cfg_coef": "max_cfg_coef",
    "min_cfg_coef": "min_cfg_coef",
    "span_arrangement": "span_arrangement",
    "span_scoring": "span_scoring",
}


def _modeling(settings: dict[str, Any], path: Path) -> Modeling:
    lm_model = xp_cfg.value(settings, "lm_model", str)
    pattern = xp_cfg.value(settings, "codebooks_pattern.modeling", str)
    modeling = _MODELING.get(lm_model)
    if modeling is None or pattern != PATTERN[modeling]:
        raise CheckpointError(
            f"{path} is a {lm_model} with the pattern {pattern}, which is not supported.",
            "Use MAGNeT (transformer_lm_magnet, parallel), MusicGen or AudioGen (transformer_lm, delay).",
        )
    return modeling
