"""Settings of a codec's training. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.fields import check, setting
from magnet_cli.models.spectral_config import SpectralCodecConfig

Trains = Literal["decoder", "all"]


@dataclass(frozen=True)
class CodecTrainConfig:
    """How a spectral codec is trained."""

    data: str  # manifest or folder of sounds
    out: str  # folder of the run
    codec: SpectralCodecConfig = field(default_factory=SpectralCodecConfig)
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
