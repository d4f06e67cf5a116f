"""Settings of a training run, from flags and, for a language model, a flat TOML file. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from magnet_cli.checkpoints import registry
from magnet_cli.config import Modeling, SpectralCodecConfig
from magnet_cli.errors import UsageError
from magnet_cli.fields import NotOfTypeError, cannot_be, check, panel, settings_of, shown, typed
from magnet_cli.foreign import reading
from magnet_cli.naming import with_number
from magnet_cli.settings import MAX_SEED

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
_BETA: dict[str, Any] = {"low": 0, "below": 1, "words": "a number from 0, below 1"}
_SEED: dict[str, Any] = {"low": 0, "high": MAX_SEED, "words": f"a seed from 0 to {MAX_SEED}"}


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run. Defaults are the paper's where a small machine allows it (docs/reference.md,
    Training)."""

    # Data
    data: tuple[str, ...] = _data(
        "Folders of token shards from `magnet data encode`. FOLDER:3 draws its clips three times as often.",
        (),
    )
    draw_by: DrawBy = _data(
        "clip: draw all clips equally often; duration: in proportion to their length.", "clip"
    )
    valid: str | None = _data("A folder of token shards that training never sees.")
    valid_share: float = _data(
        "Without valid: share of the clips to hold out for validation, chosen by name.",
        0.0,
        **_SHARE,
    )
    # Model
    init: str | None = _model("Fine-tune: a known name, a folder or a hub id.")
    codec: str | None = _model(
        "The codec that made the tokens, or a model with it. With init, the default is that model's own; "
        "streams that the model lacks are added."
    )
    text_encoder: str | None = _model(
        "A text encoder's folder, a model, or a T5's name. With init: its own."
    )
    lora_rank: int = _model("With init: train a LoRA of this rank; 0: all weights.", 0, low=0)
    lora_alpha: float | None = _model("Strength of the LoRA; default: the rank.", above=0)
    lora_targets: tuple[str, ...] = _model(
        "What the LoRA updates: self- and cross-attention (self, cross), feed-forward (feed), embeddings "
        "and heads of codes (codes).",
        LORA_TARGETS,
    )
    # Sizes of a new model
    modeling: Modeling = _sizes("masked, autoregressive, or hybrid: one model for both.", "masked")
    dim: int = _sizes("Width of the transformer.", 256, low=4)
    num_heads: int = _sizes("Attention heads.", 4, low=1)
    num_layers: int = _sizes("Transformer blocks.", 6, low=1)
    hidden_scale: int = _sizes("Feed-forward width over dim.", 4, low=1)
    subcodes_context: int = _sizes(
        "Frames on each side that streams > 0 attend to; -1: all.",
        5,
        low=-1,
        words="a whole number from 0, or -1 for no restriction",
    )
    span_len: int = _sizes("Frames in a masked span.", 3, low=1)
    bar_position: bool = _sizes(
        "Each frame's position in its bar is an input. Known of clips with a tag `tempo_bpm` that start "
        "with a bar of four beats; in decoding, where the prompt says a tempo.",
        False,
    )
    stage_sizes: tuple[int, ...] = _sizes(
        "Numbers of streams that are masked in each stage, such as 4 4 4; empty: one per stage.",
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
        "Hybrid: share of batches that are masked from the first frame on.", 0.25, **_SHARE
    )
    full_prefix_share: float = _goal(
        "Hybrid: share of batches that are entirely autoregressive.", 0.25, **_SHARE
    )
    block_share: float = _goal(
        "First stage: share of batches that mask two seconds and leave out all after them.",
        0.0,
        **_SHARE,
    )
    prefix_weight: float = _goal(
        "Hybrid: weight of the mean next-token loss relative to the mean masked loss.", 1.0, low=0
    )
    stream_weights: tuple[float, ...] = _goal(
        "Weight of each stream's next-token loss; empty: 1 for all.", (), **_WEIGHTS
    )
    code_noise: float = _goal(
        "Maximum share of codes to replace by random ones of their stream; each item draws its share from 0 "
        "to this. Teaches the model to continue from imperfect codes.",
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
    drop_caption: float = _captions("Share of merged items that keep only the tags.", 0.5, **_SHARE)
    drop_tag: float = _captions("Share of tags left out of merged items.", 0.5, **_SHARE)
    # Optimization
    steps: int = _steps("Optimizer steps.", 1000, low=1)
    patience: int = _steps(
        "Stop after this many validations without a new best; 0: never.", 0, low=0
    )
    batch_size: int = _steps("Items per step, over all processes and micro-batches.", 16, low=1)
    micro_batch: int = _steps(
        "Items per forward pass, which shares one stage and prefix; 0: all of a process.", 0, low=0
    )
    optimizer: Optimizer = _steps("adamw, or muon: Muon for matrices, AdamW for the rest.", "adamw")
    learning_rate: float | None = _steps(
        "Peak learning rate; default: 1e-4, and 5e-4 for a LoRA.", None, above=0
    )
    muon_learning_rate: float = _steps("Peak learning rate of matrices with muon.", 2e-2, above=0)
    schedule: Schedule = _steps("cosine, inverse_sqrt or constant, after the warm-up.", "cosine")
    warmup_steps: int | None = _steps(
        "Steps of linear warm-up; default: 100, or a tenth of steps if fewer.", None, low=0
    )
    final_rate: float = _steps(
        "Final learning rate of cosine, as a share of the peak.", 0.0, **_SHARE
    )
    weight_decay: float = _steps("Weight decay of AdamW and Muon.", 0.1, low=0)
    beta1: float = _steps("AdamW's β1.", 0.9, **_BETA)
    beta2: float = _steps("AdamW's β2.", 0.95, **_BETA)
    clip_norm: float = _steps("Maximum norm of the gradient, over all weights; 0: off.", 1.0, low=0)
    ema_decay: float = _steps(
        "Decay of the moving average of the weights, which is saved as the model.", 0.99, **_SHARE
    )
    ema_every: int | None = _steps(
        "Steps between updates of the average; default: 10, or a hundredth of steps if fewer.",
        None,
        low=1,
    )
    mixed_precision: Precision = _steps(
        "auto (bf16 on a GPU that has it, else no), no, bf16 (also faster on CPUs that support it) or fp16.",
        "auto",
    )
    gradient_checkpointing: bool = _steps("Save memory, for a third more computation.", False)
    seed: int = _steps("Seed of all random draws.", 0, **_SEED)
    # Output
    log_every: int = _output("Steps between lines of the log.", 10, low=1)
    valid_every: int = _output("Steps between validations.", 500, low=1)
    valid_items: int = _output("Items of the validation set to use.", 64, low=1)
    checkpoint_every: int = _output("Steps between checkpoints.", 500, low=1)
    keep_checkpoints: int = _output("Number of newest checkpoints to keep.", 2, low=1)
    sample_every: int = _output("Steps between rounds of sample audio; 0: off.", 0, low=0)
    sample_prompts: tuple[str, ...] = _output("Prompts of the sample audio.", ())
    tensorboard: bool = _output("Also write TensorBoard events (extra: tensorboard).", False)
    track: tuple[str, ...] = _output(
        "Also send the log to trackers of accelerate, such as wandb, mlflow, trackio or tensorboard.",
        (),
    )

    def __post_init__(self) -> None:
        check_training(self)

    @property
    def micro_batches(self) -> int:
        """Forward passes per step, over all processes."""
        return self.batch_size // (self.micro_batch or self.batch_size)

    @property
    def warmup(self) -> int:
        """Warm-up steps: fewer in short runs, so that they reach the peak."""
        return warmup_of(self.warmup_steps, self.steps)

    @property
    def rate(self) -> float:
        """AdamW's peak learning rate, which is larger for a LoRA."""
        return self.learning_rate or (5e-4 if self.lora_rank else 1e-4)

    @property
    def averaging(self) -> int:
        """Steps between updates of the average: fewer in short runs, to average over the last tenth."""
        return self.ema_every or max(1, min(10, self.steps // 100))

    def following_weights(self, n_q: int) -> tuple[float, ...]:
        """Relative weight of each stream's next-token loss."""
        if not self.prefix_weight:
            return (0.0,) * n_q  # nothing is predicted that way
        return self.stream_weights or (1.0,) * n_q


def warmup_of(asked: int | None, steps: int) -> int:
    """Steps of warm-up in a run of some steps."""
    return min(100, steps // 10) if asked is None else asked


def check_training(config: TrainConfig) -> None:
    """Check values and combinations.
    Raises UsageError: one is invalid; the message names the field and its valid values."""

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
        "at most 1 minus no_prefix_share",
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
    """Read settings from a TOML file, overridden by flags that are not None.
    Raises UsageError: the file is missing or not TOML, a field is unknown or of another type."""
    fields: dict[str, Any] = {} if path is None else toml_in(path)
    fields.update({name: value for name, value in overrides.items() if value is not None})
    where = str(path or "the flags")
    settings = settings_of(TrainConfig)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in settings:
            raise UsageError(
                f"{where} has an unknown field {shown(name)}.",
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


def weighed(given: str) -> tuple[str, float]:
    """Split an entry of `data`, FOLDER or FOLDER:WEIGHT, into folder and weight.
    Raises UsageError: the weight is not a finite number above 0."""
    try:
        folder, weight = with_number(given)
        if not 0 < weight < math.inf:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"The weight of {shown(given)} is invalid.",
            "Give a number above 0, such as tokens/a:3, or leave the folder out.",
        ) from None
    return folder, weight


def located(config: TrainConfig, out: Path) -> TrainConfig:
    """Adjust the paths of a run that is resumed from another working directory.

    Paths that do not exist are tried relative to the run's parent folders, nearest first, so that a project
    can be moved as a whole.
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


def to_toml(config: TrainConfig) -> str:
    """The settings as TOML, for the output directory; fields without a value are left out."""
    # JSON's values are TOML's, but for characters escaped as pairs, and DEL, which must be escaped.
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
        for name, value in dataclasses.asdict(config).items()
        if value is not None
    ]
    return "".join(lines).replace("\x7f", "\\u007f")


def toml_in(path: Path) -> dict[str, Any]:
    """The fields of a TOML file. Raises UsageError: it is missing or not TOML."""
    try:
        return reading.toml_of(reading.read_text(path))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {reading.reason(error)}.", "Check the path."
        ) from error
    except reading.ReadError as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", "docs/training.md has a complete example."
        ) from error


# ------------------------------------------------------------------------------ of a codec


@dataclass(frozen=True)
class CodecTrainConfig:
    """Settings for training a spectral codec."""

    data: str  # manifest or folder of audio
    out: str  # folder of the run
    codec: SpectralCodecConfig = dataclasses.field(default_factory=SpectralCodecConfig)
    # Fields of `codec` that the codec of `start_from` must match or be extended to; None: those not at the
    # default.
    asked: tuple[str, ...] | None = None
    valid: str | None = _data("Manifest or folder of unseen sounds.")
    max_clips: int = _data("Maximum number of clips; 0: all.", 0, low=0)
    max_valid_clips: int = _data("Maximum number of unseen clips; 0: all.", 100, low=0)
    segment_duration: float = _data("Seconds of each clip to use.", 10.24, above=0, below=1e6)
    start_from: str | None = _start(
        "Folder of a trained codec to start from, with its sizes; a larger --n-q or --dimension extends it."
    )
    start_rows: int = _start("Frames for k-means.", 200_000, low=1)
    start_iterations: int = _start("Iterations of k-means for each stream.", 12, low=0)
    trains: Trains = _training("decoder, which keeps the codes the same, or all.", "decoder")
    steps: int = _training(
        "Steps of gradient descent after the linear initialization.", 2000, low=0
    )
    batch_size: int = _training("Crops per step.", 12, low=1)
    crop_frames: int = _training("Frames of codes per crop.", 64, low=1)
    learning_rate: float = _training("Peak learning rate.", 1e-3, above=0)
    warmup_steps: int | None = _training(
        "Steps of linear warm-up; default: 100, or a tenth of steps if fewer.", None, low=0
    )
    loudness_weight: float = _training(
        "Weight of the loss on the loudness of wide bands.", 1.0, low=0
    )
    motion_weight: float = _training(
        "Weight of the loss on the change of levels between spectral frames.", 1.0, low=0
    )
    commitment: float = _training(
        "With --trains all, and --start-from a codec with convolutions before its quantizer: how strongly "
        "latents are pulled to their codes.",
        0.25,
        low=0,
    )
    codebook_decay: float = _training(
        "With --trains all: decay of the codebooks' moving averages.", 0.99, **_SHARE
    )
    report_every: int = _training("Steps between lines of the log.", 50, low=1)
    checkpoint_every: int = _training("Steps between checkpoints.", 200, low=1)
    seed: int = _training("Seed of all random draws.", 0, **_SEED)
    threads: int = _training("Processor threads; 0: as torch chooses.", 0, low=0)


def check_codec_training(config: CodecTrainConfig) -> None:
    """Check values and combinations.
    Raises UsageError: one is invalid; the message names the field and its valid values."""
    check(config)
    if config.checkpoint_every % config.report_every:
        raise UsageError(
            "checkpoint_every is not a multiple of report_every.",
            "Choose --checkpoint-every as a multiple of --report-every.",
        )
    check_unseen(config.valid, [config.data])


def check_unseen(valid: str | None, data: Iterable[str]) -> None:
    """Raise UsageError if the validation set is training data."""
    if valid is not None and _place(valid) in map(_place, data):
        raise UsageError(
            f"{valid} is training data, so it cannot be the validation set, too.",
            "Name a folder of other clips with --valid, or none.",
        )


def _place(folder: str) -> Path:
    return Path(folder).expanduser().resolve()
