"""The kinds of codec and text encoder that magnet's own format can hold: one table for each.

A new kind is a row here; nothing else needs to know of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tokenizers import Tokenizer
from torch import nn

from magnet_cli.checkpoints import hub
from magnet_cli.config import CodecConfig, SpectralCodecConfig
from magnet_cli.errors import CheckpointError
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.encodec import EnCodec
from magnet_cli.models.spectral_codec import SpectralCodec
from magnet_cli.models.text import T5Config, T5Encoder, TextEncoder
from magnet_cli.models.word_pieces import WordPieceConfig, WordPieceEncoder

TOKENIZER_FILE = "tokenizer.json"

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class PartKind(Generic[M]):
    """How one kind of part goes into a directory and comes out again; its tensors go separately."""

    module: type[M]
    # (config as JSON has it, the directory with the part's other files) -> the module without
    # weights. Called with the meta device as default.
    build: Callable[[dict[str, Any], Path], M]
    # (module, directory): writes the other files.
    save_files: Callable[[M, Path], None] = lambda module, directory: None


def _t5(config: dict[str, Any], directory: Path) -> T5Encoder:
    return T5Encoder(T5Config(**config), read_tokenizer(directory / TOKENIZER_FILE))


def _word_pieces(config: dict[str, Any], directory: Path) -> WordPieceEncoder:
    return WordPieceEncoder(WordPieceConfig(**config), read_tokenizer(directory / TOKENIZER_FILE))


def _save_tokenizer(encoder: T5Encoder | WordPieceEncoder, directory: Path) -> None:
    text = encoder.tokenizer.to_str()
    (directory / TOKENIZER_FILE).write_text(text, encoding="utf-8")


def _encodec(config: dict[str, Any], directory: Path) -> EnCodec:
    return EnCodec(CodecConfig(**{**config, "ratios": tuple(config["ratios"])}))


def _spectral(config: dict[str, Any], directory: Path) -> SpectralCodec:
    return SpectralCodec(SpectralCodecConfig(**config))


CODECS: dict[str, PartKind[Any]] = {
    "encodec": PartKind(EnCodec, _encodec),
    "spectral": PartKind(SpectralCodec, _spectral),
}
TEXT_ENCODERS: dict[str, PartKind[Any]] = {
    "t5": PartKind(T5Encoder, _t5, _save_tokenizer),
    "word-pieces": PartKind(WordPieceEncoder, _word_pieces, _save_tokenizer),
}


def describe(part: AudioCodec | TextEncoder, table: Mapping[str, PartKind[Any]]) -> dict[str, Any]:
    """{"kind", "config"} of a part, JSON-able; its `config` must be a dataclass.
    Raises CheckpointError: no row of the table has its class."""
    for kind, row in table.items():
        if type(part) is row.module:
            config: Any = part.config
            return {"kind": kind, "config": dataclasses.asdict(config)}
    raise CheckpointError(f"A {type(part).__name__} cannot be stored in a model's directory.")


def build(
    said: Any, directory: Path, table: Mapping[str, PartKind[M]], what: str, source: str
) -> M:
    """The part that {"kind", "config"} describes, without weights.

    Args:
        what: the part's name, `source`: the file that says so; for messages.

    Raises CheckpointError: an unknown kind, or a config that does not fit it.
    """
    try:
        kind, config = said["kind"], said["config"]
        row = table.get(kind)
        if row is None:
            raise CheckpointError(
                f"{source} asks for a {what} of the kind {kind!r}.",
                f"This version knows {', '.join(table)}; a newer one may know it.",
            )
        return row.build(dict(config), directory)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        # A config can hold anything, and torch has its own words for sizes that cannot be.
        raise CheckpointError(
            f"{source} does not describe a {what}: {type(error).__name__} {error}."
        ) from error


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json. Raises CheckpointError: missing or unreadable."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise CheckpointError(
            f"{path} is no tokenizer that can be read: {error}.", hub.fetch_again(path)
        ) from error
