"""Settings of a codec's training. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.models.spectral_config import SpectralCodecConfig


@dataclass(frozen=True)
class CodecTrainConfig:
    """How a spectral codec is trained."""

    data: str  # manifest or folder of sounds
    out: str  # folder of the run
    valid: str | None = None  # manifest or folder of unseen sounds
    codec: SpectralCodecConfig = field(default_factory=SpectralCodecConfig)
    start_from: str | None = None  # a trained codec to go on from, in place of a linear start
    trains: Literal["decoder", "all"] = (
        "decoder"  # decoder: the codes of a sound stay what they are
    )
    max_clips: int = 0  # of the training data; 0: all
    max_valid_clips: int = 100
    segment_duration: float = 10.24  # seconds of each clip that are used
    start_rows: int = 200_000  # frames that k-means sees
    start_iterations: int = 12  # of k-means, for each stream
    steps: int = 2000
    batch_size: int = 12
    crop_frames: int = 64  # frames of codes in a training example
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    loudness_weight: float = 1.0  # of the loss on the loudness of wide bands
    motion_weight: float = (
        1.0  # of the loss on how levels change from one spectral frame to the next
    )
    commitment: float = 0.25  # trains=all: how hard latents are drawn to their codes
    codebook_decay: float = 0.99  # trains=all: of the codebooks' moving averages
    report_every: int = 50
    checkpoint_every: int = 200
    seed: int = 0
    threads: int = 0  # of the processor; 0: as it is


def check_codec_training(config: CodecTrainConfig) -> None:
    """Refuse values that cannot mean anything.

    Raises:
        UsageError: naming the field and what it takes.
    """
    for name in ("batch_size", "crop_frames", "start_rows", "report_every", "checkpoint_every"):
        if getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(
                f"{name} cannot be {getattr(config, name)}.", f"--{flag} takes 1 or more."
            )
    if config.checkpoint_every % config.report_every:
        raise UsageError(
            "checkpoint_every is not a multiple of report_every.",
            "Choose --checkpoint-every as a multiple of --report-every.",
        )
