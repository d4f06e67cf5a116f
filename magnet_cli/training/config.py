"""Settings of a training run, every field overridable by a flag. No torch here.

A language model's are one flat TOML file, too.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from magnet_cli.config import Modeling, SpectralCodecConfig
from magnet_cli.errors import UsageError
from magnet_cli.fields import NotOfTypeError, cannot_be, check, setting, settings_of, typed

Schedule = Literal["cosine", "inverse_sqrt", "constant"]
Optimizer = Literal["adamw", "muon"]
Precision = Literal["no", "bf16", "fp16"]
Trains = Literal["decoder", "all"]

_WEIGHTS: dict[str, Any] = {"low": 0, "words": "numbers from 0, one for each stream, not all 0"}
_SHARE: dict[str, Any] = {"low": 0, "high": 1, "words": "a share from 0 to 1"}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run does. Defaults are the paper's where a small machine can
    follow it (docs/reference.md, Training)."""

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
    dim: int = setting(256, "Sizes of a new model", "Width of the transformer.", low=1)
    num_heads: int = setting(4, "Sizes of a new model", "Attention heads.", low=1)
    num_layers: int = setting(6, "Sizes of a new model", "Transformer blocks.", low=1)
    hidden_scale: int = setting(4, "Sizes of a new model", "Feed-forward width over dim.", low=1)
    subcodes_context: int = setting(
        5, "Sizes of a new model", "Frames that streams > 0 see on each side.", low=0
    )
    span_len: int = setting(3, "Sizes of a new model", "Frames in a masked span.", low=1)
    stage_sizes: tuple[int, ...] = setting(
        (),
        "Sizes of a new model",
        "Streams that are masked together, stage by stage, such as 4 4 4; empty: each by itself.",
        low=1,
        words="whole numbers from 1",
    )
    segment_duration: float = setting(
        10.0, "Sizes of a new model", "Seconds in a training crop.", above=0
    )
    init_from_codec: bool = setting(
        True, "Sizes of a new model", "Start embeddings and heads from the codec's own vectors."
    )
    # The objective
    stage_weights: tuple[float, ...] = setting(
        (), "Objective", "How often each stage is drawn; empty: equally often.", **_WEIGHTS
    )
    no_prefix_share: float = setting(
        0.25,
        "Objective",
        "Hybrid: share of batches that are masked from the first frame.",
        **_SHARE,
    )
    full_prefix_share: float = setting(
        0.25, "Objective", "Hybrid: share that is autoregressive to the end.", **_SHARE
    )
    prefix_weight: float = setting(
        1.0,
        "Objective",
        "Hybrid: weight of the mean next-token loss against the mean masked one.",
        low=0,
    )
    stream_weights: tuple[float, ...] = setting(
        (), "Objective", "Weight of each stream's next-token loss; empty: 1 for all.", **_WEIGHTS
    )
    code_noise: float = setting(
        0.0,
        "Objective",
        "Largest share of the codes that are read as others of their stream; each item draws its own"
        " share from 0 up to it. Teaches to go on from what is not quite right.",
        **_SHARE,
    )
    # Captions
    condition_dropout: float = setting(
        0.1, "Captions", "Share of items trained without any text (for guidance).", **_SHARE
    )
    word_dropout: float = setting(
        0.0, "Captions", "Share of words left out of a caption.", **_SHARE
    )
    merge_tags: float = setting(
        0.25, "Captions", "Share of items whose tags are merged into the caption.", **_SHARE
    )
    drop_caption: float = setting(
        0.5, "Captions", "Of merged items: share that keeps the tags alone.", **_SHARE
    )
    drop_tag: float = setting(
        0.5, "Captions", "Of merged items: share of the tags that is left out.", **_SHARE
    )
    # Optimization
    steps: int = setting(1000, "Optimization", "Optimizer steps.", low=1)
    batch_size: int = setting(
        16, "Optimization", "Items in a step, over all processes and micro-batches.", low=1
    )
    micro_batch: int = setting(
        0,
        "Optimization",
        "Items in one pass; a stage and a prefix are drawn for each; 0: all.",
        low=0,
    )
    optimizer: Optimizer = setting(
        "adamw", "Optimization", "adamw, or muon: matrices by Muon, the rest by AdamW."
    )
    learning_rate: float = setting(1e-4, "Optimization", "Its peak.", above=0)
    muon_learning_rate: float = setting(
        2e-2, "Optimization", "Its peak for the matrices under muon.", above=0
    )
    schedule: Schedule = setting(
        "cosine", "Optimization", "cosine, inverse_sqrt or constant, after the warm-up."
    )
    warmup_steps: int = setting(100, "Optimization", "Linear, from 0.", low=0)
    final_rate: float = setting(
        0.0, "Optimization", "Cosine: share of the peak that is left at the end.", **_SHARE
    )
    weight_decay: float = setting(0.1, "Optimization", "Of AdamW and Muon.", low=0)
    beta1: float = setting(0.9, "Optimization", "Of AdamW.", **_SHARE)
    beta2: float = setting(0.95, "Optimization", "Of AdamW.", **_SHARE)
    clip_norm: float = setting(
        1.0, "Optimization", "Length that all gradients together are clipped to; 0: off.", low=0
    )
    ema_decay: float = setting(
        0.99,
        "Optimization",
        "Of the averaged weights, which are what is kept as the model.",
        **_SHARE,
    )
    ema_every: int = setting(10, "Optimization", "Steps between two averagings.", low=1)
    mixed_precision: Precision = setting(
        "no", "Optimization", "no, bf16 (also faster on CPUs that know it) or fp16."
    )
    gradient_checkpointing: bool = setting(
        False, "Optimization", "Less memory, a third more computing."
    )
    seed: int = setting(0, "Optimization", "Of every draw.", low=0)
    # Output
    log_every: int = setting(10, "Output", "Steps between two lines of the log.", low=1)
    valid_every: int = setting(
        500, "Output", "Steps between two looks at the validation set.", low=1
    )
    valid_items: int = setting(
        64, "Output", "Items of the validation set that are looked at.", low=1
    )
    checkpoint_every: int = setting(500, "Output", "Steps between two checkpoints.", low=1)
    keep_checkpoints: int = setting(2, "Output", "How many, the newest, are kept.", low=1)
    sample_every: int = setting(
        0, "Output", "Steps between two rounds of sample audio; 0: off.", low=0
    )
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

    check(config)

    def need(holds: bool, field: str, takes: str) -> None:
        if not holds:
            raise cannot_be(field, getattr(config, field), takes)

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
        need(not weights or sum(weights) > 0, field, _WEIGHTS["words"])


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
    settings = settings_of(TrainConfig)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in settings:
            raise UsageError(
                f"{where} has a field {name!r} that training does not know.",
                f"The fields are: {', '.join(settings)}.",
            )
        try:
            values[name] = None if value is None else typed(settings[name].kind, value)
        except NotOfTypeError as error:
            raise UsageError(
                f"{name} in {where} must be {error}, not {value!r}.",
                "docs/training.md lists the fields.",
            ) from None
    return TrainConfig(**values)


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


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml_value(part) for part in value)}]"
    if isinstance(value, str):
        return json.dumps(value)  # a JSON string is a TOML basic string
    return repr(value)


# ------------------------------------------------------------------------------ of a codec


@dataclass(frozen=True)
class CodecTrainConfig:
    """How a spectral codec is trained."""

    data: str  # manifest or folder of sounds
    out: str  # folder of the run
    codec: SpectralCodecConfig = dataclasses.field(default_factory=SpectralCodecConfig)
    # Fields of `codec` that a `start_from` must have or grow to; None: those that are not at their default.
    asked: tuple[str, ...] | None = None
    valid: str | None = setting(None, "Data", "Manifest or folder of unseen sounds.")
    max_clips: int = setting(0, "Data", "Use this many of the clips; 0: all.")
    max_valid_clips: int = setting(100, "Data", "Use this many of the unseen ones; 0: all.")
    segment_duration: float = setting(10.24, "Data", "Seconds of each clip that are used.")
    start_from: str | None = setting(
        None,
        "Start",
        "Go on from a trained codec's folder, whose sizes hold; with a larger --n-q or --dimension it grows.",
    )
    start_rows: int = setting(200_000, "Start", "Frames that k-means sees.", low=1)
    start_iterations: int = setting(12, "Start", "Rounds of k-means, for each stream.")
    trains: Trains = setting("decoder", "Training", "decoder: codes stay what they are; or all.")
    steps: int = setting(2000, "Training", "Steps of gradient descent after the linear start.")
    batch_size: int = setting(12, "Training", "Crops in a step.", low=1)
    crop_frames: int = setting(64, "Training", "Frames of codes in a crop.", low=1)
    learning_rate: float = setting(1e-3, "Training", "Its peak.")
    warmup_steps: int = setting(100, "Training", "Linear, from 0.")
    loudness_weight: float = setting(1.0, "Training", "Of the loss on the loudness of wide bands.")
    motion_weight: float = setting(
        1.0, "Training", "Of the loss on how levels change from one spectral frame to the next."
    )
    commitment: float = setting(
        0.25, "Training", "With --trains all: how hard latents are drawn to their codes."
    )
    codebook_decay: float = setting(
        0.99, "Training", "With --trains all: of the codebooks' moving averages."
    )
    report_every: int = setting(50, "Training", "Steps between two lines of the log.", low=1)
    checkpoint_every: int = setting(200, "Training", "Steps between two checkpoints.", low=1)
    seed: int = setting(0, "Training", "Of every draw.")
    threads: int = setting(0, "Training", "Processor threads; 0: as torch chooses.")


def check_codec_training(config: CodecTrainConfig) -> None:
    """Refuse values that cannot mean anything.

    Raises:
        UsageError: naming the field and what it takes.
    """
    check(config)
    if config.checkpoint_every % config.report_every:
        raise UsageError(
            "checkpoint_every is not a multiple of report_every.",
            "Choose --checkpoint-every as a multiple of --report-every.",
        )
