"""Codecs and text encoders for training, by name or folder, and which codec made which tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.layouts import T5
from magnet_cli.checkpoints.load import load_codec
from magnet_cli.checkpoints.resolve import resolve_codec, resolve_text_encoder
from magnet_cli.checkpoints.t5 import load_t5
from magnet_cli.data.tokens import TokenFormat
from magnet_cli.errors import CheckpointError, ModelNotFoundError, UsageError
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


def token_format(codec: AudioCodec, name: str) -> TokenFormat:
    """What the codes of a codec mean; `name` is for the user."""
    return TokenFormat(
        codec=name,
        codec_hash=codec_hash(codec),
        sample_rate=codec.sample_rate,
        frame_rate=codec.frame_rate,
        n_q=codec.n_q,
        card=codec.card,
    )


def check_tokens(tokens: TokenFormat, codec: AudioCodec) -> None:
    """Refuse tokens that another codec made.

    Raises:
        UsageError: it names both.
    """
    if tokens.codec_hash != codec_hash(codec):
        raise UsageError(
            f"The tokens were made with {tokens.codec}, which is not the codec of this model.",
            "Encode the data again: `magnet data encode --codec` with the model's own.",
        )


def codec_hash(codec: AudioCodec) -> str:
    """Equal where codes mean the same: of the codebooks, in half precision, as files keep them."""
    digest = hashlib.sha256(f"{codec.hop_length} {codec.sample_rate}".encode())
    vectors = codebooks_of(codec)
    if vectors is not None:
        tensors: dict[str, Tensor] = {"codebooks": vectors}
    else:
        tensors = dict(codec.state_dict())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()[:16]


def codebooks_of(codec: AudioCodec) -> Tensor | None:
    """[K, card, d] of a codec with residual quantization; None of any other."""
    books = getattr(getattr(codec, "quantizer", None), "codebooks", None)
    return None if books is None else torch.stack([book.detach().float() for book in books])
