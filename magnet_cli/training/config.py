"""Settings of a training run: one flat TOML file, every field overridable by a flag. No torch here."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from magnet_cli.config import Modeling
from magnet_cli.errors import UsageError
from magnet_cli.fields import setting

Schedule = Literal["cosine", "inverse_sqrt", "constant"]
Optimizer = Literal["adamw", "muon"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run does. Defaults are the paper's where a small machine can
    follow it (reference.md, Training)."""

    # Data
    data: tuple[str, ...] = setting(
        (), "Data", "Folders of token shards, as `magnet data encode` makes them."
    )
    valid: str | None = setting(None, "Data", "A folder of token shards that training never sees.")
    # Where the model comes from
    init: str | None = setting(None, "Model", "Fine-tune: a known name, a directory or a hub id.")
    codec: str | None = setting(
        None,
        "Model",
        "A model or codec whose codec made the tokens. With init: its own unless one is named here;"
        " streams that the model lacks are added to it.",
    )
    text_encoder: str | None = setting(
        None, "Model", "A model or a text encoder's directory; with init: its own."
    )
    # The model, where it starts from nothing
    modeling: Modeling = setting(
        "masked",
        "Sizes of a new model",
        "masked, autoregressive, or hybrid: one model that decodes both ways.",
    )
    dim: int = setting(256, "Sizes of a new model", "Width of the transformer.")
    num_heads: int = setting(4, "Sizes of a new model", "Attention heads.")
    num_layers: int = setting(6, "Sizes of a new model", "Transformer blocks.")
    hidden_scale: int = setting(4, "Sizes of a new model", "Feed-forward width over dim.")
    subcodes_context: int = setting(
        5, "Sizes of a new model", "Frames that streams > 0 see on each side."
    )
    span_len: int = setting(3, "Sizes of a new model", "Frames in a masked span.")
    segment_duration: float = setting(10.0, "Sizes of a new model", "Seconds in a training crop.")
    init_from_codec: bool = setting(
        True, "Sizes of a new model", "Start embeddings and heads from the codec's own vectors."
    )
    # The objective
    stage_weights: tuple[float, ...] = setting(
        (), "Objective", "How often each stream is drawn; empty: equally often."
    )
    no_prefix_share: float = setting(
        0.25, "Objective", "Hybrid: share of batches that are masked from the first frame."
    )
    full_prefix_share: float = setting(
        0.25, "Objective", "Hybrid: share that is autoregressive to the end."
    )
    prefix_weight: float = setting(
        1.0, "Objective", "Hybrid: weight of the mean next-token loss against the mean masked one."
    )
    stream_weights: tuple[float, ...] = setting(
        (), "Objective", "Weight of each stream's next-token loss; empty: 1 for all."
    )
    code_noise: float = setting(
        0.0,
        "Objective",
        "Largest share of the codes that are read as others of their stream; each item draws its own"
        " share from 0 up to it. Teaches to go on from what is not quite right.",
    )
    # Captions
    condition_dropout: float = setting(
        0.1, "Captions", "Share of items trained without any text (for guidance)."
    )
    word_dropout: float = setting(0.0, "Captions", "Share of words left out of a caption.")
    merge_tags: float = setting(
        0.25, "Captions", "Share of items whose tags are merged into the caption."
    )
    drop_caption: float = setting(
        0.5, "Captions", "Of merged items: share that keeps the tags alone."
    )
    drop_tag: float = setting(
        0.5, "Captions", "Of merged items: share of the tags that is left out."
    )
    # Optimization
    steps: int = setting(1000, "Optimization", "Optimizer steps.")
    batch_size: int = setting(
        16, "Optimization", "Items in a step, over all processes and micro-batches."
    )
    micro_batch: int = setting(
        0, "Optimization", "Items in one pass; a stage and a prefix are drawn for each; 0: all."
    )
    optimizer: Optimizer = setting(
        "adamw", "Optimization", "adamw, or muon: matrices by Muon, the rest by AdamW."
    )
    learning_rate: float = setting(1e-4, "Optimization", "Its peak.")
    muon_learning_rate: float = setting(
        2e-2, "Optimization", "Its peak for the matrices under muon."
    )
    schedule: Schedule = setting(
        "cosine", "Optimization", "cosine, inverse_sqrt or constant, after the warm-up."
    )
    warmup_steps: int = setting(100, "Optimization", "Linear, from 0.")
    final_rate: float = setting(
        0.0, "Optimization", "Cosine: share of the peak that is left at the end."
    )
    weight_decay: float = setting(0.1, "Optimization", "Of AdamW and Muon.")
    beta1: float = setting(0.9, "Optimization", "Of AdamW.")
    beta2: float = setting(0.95, "Optimization", "Of AdamW.")
    clip_norm: float = setting(
        1.0, "Optimization", "Length that all gradients together are clipped to; 0: off."
    )
    ema_decay: float = setting(
        0.99, "Optimization", "Of the averaged weights, which are what is kept as the model."
    )
    ema_every: int = setting(10, "Optimization", "Steps between two averagings.")
    mixed_precision: Precision = setting(
        "no", "Optimization", "no, bf16 (also faster on CPUs that know it) or fp16."
    )
    gradient_checkpointing: bool = setting(
        False, "Optimization", "Less memory, a third more computing."
    )
    seed: int = setting(0, "Optimization", "Of every draw.")
    # Output
    log_every: int = setting(10, "Output", "Steps between two lines of the log.")
    valid_every: int = setting(500, "Output", "Steps between two looks at the validation set.")
    valid_items: int = setting(64, "Output", "Items of the validation set that are looked at.")
    checkpoint_every: int = setting(500, "Output", "Steps between two checkpoints.")
    keep_checkpoints: int = setting(2, "Output", "How many, the newest, are kept.")
    sample_every: int = setting(0, "Output", "Steps between two rounds of sample audio; 0: off.")
    sample_prompts: tuple[str, ...] = setting((), "Output", "What the samples are asked for.")
    tensorboard: bool = setting(
        False, "Output", "Also write TensorBoard events (extra: tensorboard)."
    )

    def __post_init__(self) -> None:
        check_training(self)

    @property
    def micro_batches(self) -> int:
        """Passes in a step, over all processes."""
        return self.batch_size // (self.micro_batch or self.batch_size)

    def following_weights(self, n_q: int) -> tuple[float, ...]:
        """Weight of each stream's next-token loss against the other streams'."""
        if not self.prefix_weight:
            return (0.0,) * n_q  # nothing of it is computed
        return self.stream_weights or (1.0,) * n_q


def check_training(config: TrainConfig) -> None:
    """Refuse values that cannot mean anything.

    Raises:
        UsageError: naming the field and the values it takes.
    """

    def need(holds: bool, field: str, takes: str) -> None:
        if not holds:
            raise UsageError(
                f"{field} cannot be {getattr(config, field)!r}.",
                f"--{field.replace('_', '-')} takes {takes}.",
            )

    for field in _POSITIVE:
        need(getattr(config, field) >= 1, field, "a whole number from 1")
    for field in _COUNTS:
        need(getattr(config, field) >= 0, field, "a number from 0")
    for field in _SHARES:
        need(0 <= getattr(config, field) <= 1, field, "a share from 0 to 1")
    need(config.segment_duration > 0, "segment_duration", "a number of seconds above 0")
    need(config.learning_rate > 0, "learning_rate", "a number above 0")
    need(config.muon_learning_rate > 0, "muon_learning_rate", "a number above 0")
    need(config.dim % (2 * config.num_heads) == 0, "dim", "a multiple of twice num_heads")
    need(
        config.micro_batch == 0 or config.batch_size % config.micro_batch == 0,
        "micro_batch",
        f"0 or a divisor of batch_size, {config.batch_size}",
    )
    need(
        config.no_prefix_share + config.full_prefix_share <= 1,
        "full_prefix_share",
        "a share that leaves no_prefix_share its own",
    )
    need(
        (config.mixed_precision, config.optimizer) != ("fp16", "muon"),
        "mixed_precision",
        # accelerate unscales the gradients of the second of two optimizers twice
        "bf16 or no with --optimizer muon",
    )
    for field in ("stage_weights", "stream_weights"):
        weights = getattr(config, field)
        need(
            not weights or (min(weights) >= 0 and sum(weights) > 0),
            field,
            "numbers from 0, one for each stream, not all 0",
        )
    for field, hint in typing.get_type_hints(TrainConfig).items():
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            need(getattr(config, field) in choices, field, " or ".join(choices))


_POSITIVE = (
    "dim",
    "num_heads",
    "num_layers",
    "hidden_scale",
    "span_len",
    "steps",
    "batch_size",
    "ema_every",
    "log_every",
    "valid_every",
    "valid_items",
    "checkpoint_every",
    "keep_checkpoints",
)
_COUNTS = (
    "subcodes_context",
    "micro_batch",
    "warmup_steps",
    "weight_decay",
    "clip_norm",
    "sample_every",
    "seed",
    "prefix_weight",
)
_SHARES = (
    "no_prefix_share",
    "full_prefix_share",
    "code_noise",
    "condition_dropout",
    "word_dropout",
    "merge_tags",
    "drop_caption",
    "drop_tag",
    "final_rate",
    "beta1",
    "beta2",
    "ema_decay",
)


def read_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """The settings of a TOML file, and over them those that were given by flags (not None).

    Raises:
        UsageError: the file is missing or not TOML, a field is unknown or of another type.
    """
    fields: dict[str, Any] = {} if path is None else _read_toml(path)
    fields.update({name: value for name, value in overrides.items() if value is not None})
    return config_from(fields, str(path or "the flags"))


def config_from(fields: dict[str, Any], where: str) -> TrainConfig:
    """Settings from plain values, each checked against the field's type.

    Raises:
        UsageError: a field is unknown or of another type.
    """
    hints = typing.get_type_hints(TrainConfig)
    for name in fields:
        if name not in hints:
            raise UsageError(
                f"{where} has a field {name!r} that training does not know.",
                f"The fields are: {', '.join(hints)}.",
            )
    typed = {name: _typed(name, value, hints[name], where) for name, value in fields.items()}
    return TrainConfig(**typed)


def to_toml(config: TrainConfig) -> str:
    """The settings as TOML, for the output directory; fields without a value are left out."""
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None:
            lines.append(f"{field.name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[import-not-found, no-redef, unused-ignore]
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not TOML: {error}.", "docs/training.md shows a whole file."
        ) from error


def _typed(name: str, value: Any, hint: Any, where: str) -> Any:
    """`value` as the field's type, where that loses nothing."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # text or nothing
        hint = next(part for part in inner if part is not type(None))
        return None if value is None else _typed(name, value, hint, where)
    if origin is tuple:
        values = [value] if isinstance(value, (str, int, float)) else list(value)
        return tuple(_typed(name, part, inner[0], where) for part in values)
    if origin is Literal:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise UsageError(
            f"{name} in {where} must be {_TYPE_NAMES[hint]}, not {value!r}.",
            "docs/training.md lists the fields.",
        )
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml_value(part) for part in value)}]"
    if isinstance(value, str):
        import json

        return json.dumps(value)  # a JSON string is a TOML basic string
    return repr(value)
