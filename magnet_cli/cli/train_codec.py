"""`magnet train codec`: the light spectral codec, from sounds to a codec that models can be trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from magnet_cli.cli.output import Talk
from magnet_cli.cli.settings import Given, TalkOptions, takes_flags
from magnet_cli.models.spectral_config import SpectralCodecConfig
from magnet_cli.training.codec_config import CodecTrainConfig


def _shown(value: Any) -> Any:
    """Fractions rounded, for the eye."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return [_shown(part) for part in value] if isinstance(value, list) else value


@takes_flags
def train_codec_command(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the run and its codec go.")],
    *,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Manifest or folder of sounds.",
            rich_help_panel="Data",
            show_default=False,
        ),
    ],
    talk: TalkOptions,
    settings: Annotated[dict[str, Any], Given(CodecTrainConfig, SpectralCodecConfig)],
) -> None:
    """Train the light spectral codec of the built-in model.

    It starts at the linear optimum (principal components and residual k-means) and goes on by
    gradient descent. Interrupted, the same command goes on where it was.
    """
    sizes = {field.name for field in dataclasses.fields(SpectralCodecConfig)} & settings.keys()
    codec = SpectralCodecConfig(**{name: settings.pop(name) for name in sizes})
    config = CodecTrainConfig(
        data=data, out=str(out), codec=codec, asked=tuple(sorted(sizes)), **settings
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
