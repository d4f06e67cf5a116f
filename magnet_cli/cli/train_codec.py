"""`magnet train codec`: the light spectral codec, from sounds to a codec that models can be trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from magnet_cli.cli.flags import takes_flags
from magnet_cli.cli.options import TalkOptions, flag
from magnet_cli.cli.output import Talk
from magnet_cli.models.spectral_config import SpectralCodecConfig
from magnet_cli.training.codec_config import CodecTrainConfig

_DATA, _SIZES, _TRAINING = "Data", "Sizes of a new codec", "Training"


def _default(field: str) -> Any:
    """A field's default: of the training settings, or of the codec's."""
    for settings in (CodecTrainConfig, SpectralCodecConfig):
        for known in dataclasses.fields(settings):
            if known.name == field:
                return known.default
    raise AssertionError(field)


def _number(panel: str, name: str, about: str) -> Any:
    return flag(panel, f"--{name}", help=f"{about} Default: {_default(name.replace('-', '_'))}.")


def _shown(value: Any) -> Any:
    """Fractions rounded, for the eye."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return [_shown(part) for part in value] if isinstance(value, list) else value


@takes_flags
def train_codec_command(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the run and its codec go.")],
    *,
    data: Annotated[str, flag(_DATA, "--data", help="Manifest or folder of sounds.")],
    valid: Annotated[
        str | None, flag(_DATA, "--valid", help="Manifest or folder of unseen sounds.")
    ] = None,
    max_clips: Annotated[
        int, _number(_DATA, "max-clips", "Use this many of the clips; 0: all.")
    ] = _default("max_clips"),
    start_from: Annotated[
        str | None, flag(_TRAINING, "--start-from", help="Go on from a trained codec's folder.")
    ] = None,
    trains: Annotated[
        Literal["decoder", "all"],
        flag(_TRAINING, "--trains", help="decoder: codes stay what they are; or all."),
    ] = "decoder",
    groups: Annotated[
        int, _number(_SIZES, "groups", "Groups of neighbouring bands, coded apart.")
    ] = _default("groups"),
    n_q: Annotated[int, _number(_SIZES, "n-q", "Streams, a multiple of the groups.")] = _default(
        "n_q"
    ),
    card: Annotated[int, _number(_SIZES, "card", "Codes in each stream.")] = _default("card"),
    dimension: Annotated[
        int, _number(_SIZES, "dimension", "Principal components of each group.")
    ] = _default("dimension"),
    steps: Annotated[
        int, _number(_TRAINING, "steps", "Steps of gradient descent after the linear start.")
    ] = _default("steps"),
    batch_size: Annotated[int, _number(_TRAINING, "batch-size", "Crops in a step.")] = _default(
        "batch_size"
    ),
    crop_frames: Annotated[
        int, _number(_TRAINING, "crop-frames", "Frames of codes in a crop.")
    ] = _default("crop_frames"),
    learning_rate: Annotated[
        float, _number(_TRAINING, "learning-rate", "Highest learning rate.")
    ] = _default("learning_rate"),
    warmup_steps: Annotated[
        int, _number(_TRAINING, "warmup-steps", "Steps until the learning rate is highest.")
    ] = _default("warmup_steps"),
    loudness_weight: Annotated[
        float, _number(_TRAINING, "loudness-weight", "Of the loss on the loudness of wide bands.")
    ] = _default("loudness_weight"),
    motion_weight: Annotated[
        float, _number(_TRAINING, "motion-weight", "Of the loss on how levels move.")
    ] = _default("motion_weight"),
    seed: Annotated[int, _number(_TRAINING, "seed", "Of everything random.")] = _default("seed"),
    threads: Annotated[
        int, _number(_TRAINING, "threads", "Processor threads; 0: as torch chooses.")
    ] = _default("threads"),
    talk: TalkOptions,
) -> None:
    """Train the light spectral codec of the built-in model.

    It starts at the linear optimum (principal components and residual k-means) and goes on by
    gradient descent. Interrupted, the same command goes on where it was.
    """
    codec = SpectralCodecConfig(groups=groups, n_q=n_q, card=card, dimension=dimension)
    config = CodecTrainConfig(
        data=data,
        out=str(out),
        valid=valid,
        codec=codec,
        start_from=start_from,
        trains=trains,
        max_clips=max_clips,
        steps=steps,
        batch_size=batch_size,
        crop_frames=crop_frames,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        loudness_weight=loudness_weight,
        motion_weight=motion_weight,
        seed=seed,
        threads=threads,
    )
    voice = Talk(talk)
    from magnet_cli.training.codec import train_codec

    def say(record: dict[str, Any]) -> None:
        voice.data(record)
        facts = "  ".join(f"{name} {_shown(value)}" for name, value in record.items())
        voice.note(facts)

    made = train_codec(config, say)
    voice.data({"kind": "finished", "path": str(made.directory), "loss": made.loss})
    voice.note(f"Use it: magnet data encode --codec {made.directory}")
