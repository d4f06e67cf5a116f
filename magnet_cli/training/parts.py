"""Codecs and text encoders for training, by name or folder."""

from __future__ import annotations

from pathlib import Path

from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.layouts import T5
from magnet_cli.checkpoints.load import load_codec
from magnet_cli.checkpoints.resolve import resolve_codec, resolve_text_encoder
from magnet_cli.checkpoints.t5 import load_t5
from magnet_cli.errors import CheckpointError, ModelNotFoundError
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.text import TextEncoder


def codec_of(spec: str) -> AudioCodec:
    """A codec by the name, directory or hub id of a model or a codec."""
    path = Path(spec).expanduser()
    if (path / native.CODEC_FILE).is_file():
        codec = native.load_codec(path)
        codec.eval().requires_grad_(False)
        return codec
    return load_codec(resolve_codec(spec), "cpu")


def text_encoder_of(spec: str) -> TextEncoder:
    """A text encoder: of a directory in our format or T5's, or a T5 by its name on the hub."""
    path = Path(spec).expanduser()
    encoder: TextEncoder
    if (path / native.TEXT_FILE).is_file():
        encoder = native.load_text_encoder(path)
    elif path.is_dir() and not T5.missing([file.name for file in path.iterdir()]):
        encoder = load_t5(path)
    elif path.is_dir():
        raise CheckpointError(
            f"{path} holds no text encoder.",
            f"It needs {native.CONFIG_FILE} and {native.TEXT_FILE}, or the files of a T5.",
        )
    elif spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise ModelNotFoundError(f"There is no folder {spec}.", "Check the path.")
    else:
        encoder = load_t5(resolve_text_encoder(spec).directory)
    encoder.eval().requires_grad_(False)
    return encoder


def name_of_t5(spec: str) -> str | None:
    """The name that a model's card keeps; None of a text encoder in a folder."""
    return None if Path(spec).expanduser().is_dir() else spec
