"""Settings of a training run, every field overridable by a flag. No torch here.

A language model's are one flat TOML file, too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from magnet_cli.checkpoints import registry
from magnet_cli.config import Modeling, SpectralCodecConfig
from magnet_cli.errors import UsageError
from magnet_cli.fields import NotOfTypeError, cannot_be, check, panel, settings_of, shown, typed
from magnet_cli.foreign import reading
from magnet_cli.naming import with_number

Schedule = Literal["cosine", "inverse_sqrt", "constant"]
Optimizer = Literal["adamw", "muon"]
Precision = Literal["auto", "no", "bf16", "fp16"]
DrawBy = Literal["clip", "duration"]
Trains = Literal["decoder", "all"]
LORA_TARGETS = ("self", "cross", "feed", "codes")

_data, _model, _sizes = map(panel, ("Data", "Model", "Sizes of a new model"))
_goal, _captions, _steps = map(panel, ("Objective", "Captions", "Optimization"))
_output, _start, _training = map(panel, ("Output", "Start", "Training"))
_WEIGHTS: dict[str, Any] = {"low": 0, "words": "numbers from 0, one for each stream, not all 0"}
_SHARE: dict[str, Any] = {"low": 0, "high": 1, "words": "a share from 0 to 1"}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run does. Defaults are the paper's where a small machine can
    follow it (docs/reference.md, Training)."""

    # Data
    data: tuple[str, ...] = _data(
        "Folders of token shards, as `magnet data encode` makes them. FOLDER:3: its clips are drawn "
        "three times as often as others.",
        (),
    )
    draw_by: DrawBy = _data(
        "clip: each is drawn equally often; duration: in proportion to its length, so that a long track "
        "counts like its parts.",
        "clip",
    )
    valid: str | None = _data("A folder of token shards that training never sees.")
    valid_share: float = _data(
        "Without valid: share of the clips that is held out for validation; their names decide which.",
        0.0,
        **_SHARE,
    )
    # Where the model comes from
    init: str | None = _model("Fine-tune: a known name, a folder or a hub id.")
    codec: str | None = _model(
        "A model or codec whose codec made the tokens. With init: its own unless one is named here; "
        "streams that the model lacks are added to it."
    )
    text_encoder: str | None = _model("A model or a text encoder's folder; with init: its own.")
    lora_rank: int = _model("With init: train a LoRA of this rank; 0: all weights.", 0, low=0)
    lora_alpha: float | None = _model("Strength of the LoRA; default: the rank.", above=0)
    lora_targets: tuple[str, ...] = _model(
        "What it updates: self, cross (attention to the text), feed (the feed-forward), codes (their "
        "embeddings and heads).",
        LORA_TARGETS,
    )
    # The model, where it starts from nothing
    modeling: Modeling = _sizes(
        "masked, autoregressive, or hybrid: one model that decodes both ways.", "masked"
    )
    dim: int = _sizes("Width of the transformer.", 256, low=1)
    num_heads: int = _sizes("Attention heads.", 4, low=1)
    num_layers: int = _sizes("Transformer blocks.", 6, low=1)
    hidden_scale: int = _sizes("Feed-forward width over dim.", 4, low=1)
    subcodes_context: int = _sizes(
        "Frames that streams > 0 see on each side; -1: all.",
        5,
        low=-1,
        words="a whole number from 0, or -1 for no restriction",
    )
    span_len: int = _sizes("Frames in a masked span.", 3, low=1)
    stage_sizes: tuple[int, ...] = _sizes(
        "Streams that are masked together, stage by stage, such as 4 4 4; empty: each by itself.",
        (),
        low=1,
        words="whole numbers from 1",
    )
    segment_duration: float = _sizes("Seconds in a training crop.", 10.0, above=0)
    init_from_codec: bool = _sizes("Start embeddings and heads from the codec's own vectors.", True)
    # The objective
    stage_weights: tuple[float, ...] = _goal(
        "How often each stage is drawn; empty: equally often.", (), **_WEIGHTS
    )
    no_prefix_share: float = _goal(
        "Hybrid: share of batches that are masked from the first frame.", 0.25, **_SHARE
    )
    full_prefix_share: float = _goal(
        "Hybrid: share that is autoregressive to the end.", 0.25, **_SHARE
    )
    prefix_weight: float = _goal(
        "Hybrid: weight of the mean next-token loss against the mean masked one.", 1.0, low=0
    )
    stream_weights: tuple[float, ...] = _goal(
        "Weight of each stream's next-token loss; empty: 1 for all.", (), **_WEIGHTS
    )
    code_noise: float = _goal(
        "Largest share of the codes that are replaced by others of their stream; each item draws its own "
        "share from 0 up to it. Teaches the model to continue from imperfect codes.",
        0.0,
        **_SHARE,
    )
    # Captions
    condition_dropout: float = _captions(
        "Share of items trained without any text (for guidance).", 0.1, **_SHARE
    )
    word_dropout: float = _captions("Share of words left out of a caption.", 0.0, **_SHARE)
    merge_tags: float = _captions(
        "Share of items whose tags are merged into the caption.", 0.25, **_SHARE
    )
    drop_caption: float = _captions(
        "Of merged items: share that keeps only the tags.", 0.5, **_SHARE
    )
    drop_tag: float = _captions(
        "Of merged items: share of the tags that is left out.", 0.5, **_SHARE
    )
    # Optimization
    steps: int = _steps("Optimizer steps.", 1000, low=1)
    patience: int = _steps("Stop after so many validations without a new best; 0: never.", 0, low=0)
    batch_size: int = _steps("Items in a step, over all processes and micro-batches.", 16, low=1)
    micro_batch: int = _steps(
        "Items in one pass; a stage and a prefix are drawn for each; 0: all.", 0, low=0
    )
    optimizer: Optimizer = _steps("adamw, or muon: matrices by Muon, the rest by AdamW.", "adamw")
    learning_rate: float | None = _steps(
        "Peak of the learning rate; default: 1e-4, and 5e-4 for a LoRA.", None, above=0
    )
    muon_learning_rate: float = _steps(
        "Peak of the learning rate of matrices under muon.", 2e-2, above=0
    )
    schedule: Schedule = _steps("cosine, inverse_sqrt or constant, after the warm-up.", "cosine")
    warmup_steps: int | None = _steps(
        "Steps of linear warm-up; default: 100, but at most a tenth of steps.", None, low=0
    )
    final_rate: float = _steps("Cosine: share of the peak that is left at the end.", 0.0, **_SHARE)
    weight_decay: float = _steps("Of AdamW and Muon.", 0.1, low=0)
    beta1: float = _steps("Of AdamW.", 0.9, **_SHARE)
    beta2: float = _steps("Of AdamW.", 0.95, **_SHARE)
    clip_norm: float = _steps(
        "Length that all gradients together are clipped to; 0: off.", 1.0, low=0
    )
    ema_decay: float = _steps(
        "Decay of the averaged weights, which are kept as the model.", 0.99, **_SHARE
    )
    ema_every: int | None = _steps(
        "Steps between two averagings; default: 10, but at most a hundredth of steps.", None, low=1
    )
    mixed_precision: Precision = _steps(
        "auto (bf16 on a GPU that has it, else no), no, bf16 (also faster on CPUs that support it) or fp16.",
        "auto",
    )
    gradient_checkpointing: bool = _steps("Less memory for a third more computation.", False)
    seed: int = _steps("Seed of all random draws.", 0, low=0)
    # Output
    log_every: int = _output("Steps between two lines of the log.", 10, low=1)
    valid_every: int = _output("Steps between two validations.", 500, low=1)
    valid_items: int = _output("Items of the validation set that are used.", 64, low=1)
    checkpoint_every: int = _output("Steps between two checkpoints.", 500, low=1)
    keep_checkpoints: int = _output("How many checkpoints are kept, the newest.", 2, low=1)
    sample_every: int = _output("Steps between two rounds of sample audio; 0: off.", 0, low=0)
    sample_prompts: tuple[str, ...] = _output("Prompts of the samples.", ())
    tensorboard: bool = _output("Also write TensorBoard events (extra: tensorboard).", False)
    track: tuple[str, ...] = _output(
        "Also send the log to trackers of accelerate, such as wandb, mlflow, trackio or tensorboard.",
        (),
    )

    def __post_init__(self) -> None:
        check_training(self)

    @property
    def micro_batches(self) -> int:
        """Passes in a step, over all processes."""
        return self.batch_size // (self.micro_batch or self.batch_size)

    @property
    def warmup(self) -> int:
        """Steps of warm-up: a short run has to reach its rate, too."""
        return min(100, self.steps // 10) if self.warmup_steps is None else self.warmup_steps

    @property
    def rate(self) -> float:
        """The peak of AdamW's learning rate: small updates take a larger one than whole matrices."""
        return self.learning_rate or (5e-4 if self.lora_rank else 1e-4)

    @property
    def averaging(self) -> int:
        """Steps between two averagings: in a short run, too, they are of its last tenth."""
        return self.ema_every or max(1, min(10, self.steps // 100))

    def following_weights(self, n_q: int) -> tuple[float, ...]:
        """Weight of each stream's next-token loss against the other streams'."""
        if not self.prefix_weight:
            return (0.0,) * n_q  # nothing of it is computed
        return self.stream_weights or (1.0,) * n_q


def check_training(config: TrainConfig) -> None:
    """Refuse values that cannot mean anything.
    Raises UsageError: naming the field and the values it takes."""

    check(config)

    def need(holds: bool, field: str, takes: str) -> None:
        if not holds:
            raise cannot_be(field, getattr(config, field), takes)

    need(not config.lora_rank or config.init is not None, "lora_rank", "0 without --init")
    chosen = set(config.lora_targets)
    need(
        bool(chosen) and chosen <= set(LORA_TARGETS),
        "lora_targets",
        "one or more of self, cross, feed and codes",
    )
    need(
        not (config.valid and config.valid_share),
        "valid_share",
        "0 where --valid names a validation set",
    )
    need(
        not config.patience or bool(config.valid or config.valid_share),
        "patience",
        "0 without a validation set (--valid, or --valid-share 0.05)",
    )
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
    """The settings of a TOML file, overridden by those that were given as flags (not None).
    Raises UsageError: the file is missing or not TOML, a field is unknown or of another type."""
    fields: dict[str, Any] = {} if path is None else _read_toml(path)
    fields.update({name: value for name, value in overrides.items() if value is not None})
    return config_from(fields, str(path or "the flags"))


def weighed(given: str) -> tuple[str, float]:
    """A folder of `data` and how often its clips are drawn, from FOLDER or FOLDER:WEIGHT.
    Raises UsageError: the weight is none."""
    try:
        folder, weight = with_number(given)
        if not 0 < weight < math.inf:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{shown(given)} does not say how often its clips are drawn.",
            "Give a number above 0, such as tokens/a:3, or leave the folder out.",
        ) from None
    return folder, weight


def located(config: TrainConfig, out: Path) -> TrainConfig:
    """The settings of a run that is resumed from another directory than it was begun in.

    Paths that are not there from here are looked for from the folders above the run's own, nearest
    first: a project that was moved whole is found, too.
    """

    def found(name: str | None) -> str | None:
        if name is None or registry.find(name) is not None:
            return name
        path = Path(os.path.expanduser(name))
        if path.is_absolute() or path.exists():
            return name
        there = (above / path for above in out.resolve().parents)
        return next((str(each) for each in there if each.exists()), name)

    def found_data(given: str) -> str:
        folder, _ = weighed(given)
        return f"{found(folder)}{given[len(folder) :]}"

    return dataclasses.replace(
        config,
        data=tuple(map(found_data, config.data)),
        valid=found(config.valid),
        init=found(config.init),
        codec=found(config.codec),
        text_encoder=found(config.text_encoder),
    )


def config_from(fields: dict[str, Any], where: str) -> TrainConfig:
    """Settings from plain values, each checked against the field's type.
    Raises UsageError: a field is unknown or of another type."""
    settings = settings_of(TrainConfig)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in settings:
            raise UsageError(
                f"{where} has a field {shown(name)} that training does not know.",
                f"The fields are: {', '.join(settings)}.",
            )
        try:
            values[name] = None if value is None else typed(settings[name].kind, value)
        except NotOfTypeError as error:
            raise UsageError(
                f"{name} in {where} must be {error}, not {shown(value)}.",
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
        return reading.toml_of(reading.read_text(path))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {reading.reason(error)}.", "Check the path."
        ) from error
    except reading.ReadError as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", "docs/training.md shows a whole file."
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
    valid: str | None = _data("Manifest or folder of unseen sounds.")
    max_clips: int = _data("Use this many of the clips; 0: all.", 0)
    max_valid_clips: int = _data("Use this many of the unseen ones; 0: all.", 100)
    segment_duration: float = _data("Seconds of each clip that are used.", 10.24)
    start_from: str | None = _start(
        "Start from a trained codec's folder, with its sizes; a larger --n-q or --dimension lets it grow."
    )
    start_rows: int = _start("Frames that k-means sees.", 200_000, low=1)
    start_iterations: int = _start("Rounds of k-means, for each stream.", 12)
    trains: Trains = _training("decoder: the codes stay the same; or all.", "decoder")
    steps: int = _training("Steps of gradient descent after the linear start.", 2000)
    batch_size: int = _training("Crops in a step.", 12, low=1)
    crop_frames: int = _training("Frames of codes in a crop.", 64, low=1)
    learning_rate: float = _training("Peak of the learning rate.", 1e-3)
    warmup_steps: int = _training("Steps of linear warm-up.", 100)
    loudness_weight: float = _training("Weight of the loss on the loudness of wide bands.", 1.0)
    motion_weight: float = _training(
        "Weight of the loss on how levels change from one spectral frame to the next.", 1.0
    )
    commitment: float = _training(
        "With --trains all: how strongly latents are pulled to their codes.", 0.25
    )
    codebook_decay: float = _training(
        "With --trains all: decay of the codebooks' moving averages.", 0.99
    )
    report_every: int = _training("Steps between two lines of the log.", 50, low=1)
    checkpoint_every: int = _training("Steps between two checkpoints.", 200, low=1)
    seed: int = _training("Seed of all random draws.", 0)
    threads: int = _training("Processor threads; 0: as torch chooses.", 0)


def check_codec_training(config: CodecTrainConfig) -> None:
    """Refuse values that cannot mean anything.
    Raises UsageError: naming the field and what it takes."""
    check(config)
    if config.checkpoint_every % config.report_every:
        raise UsageError(
            "checkpoint_every is not a multiple of report_every.",
            "Choose --checkpoint-every as a multiple of --report-every.",
        )
