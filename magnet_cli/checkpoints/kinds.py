"""The kinds of codec and text encoder that magnet's own format can hold: one table for each.

A new kind is a row here; nothing else needs to know of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tokenizers import Tokenizer
from torch import nn

from magnet_cli.checkpoints.key_map import HINT
from magnet_cli.checkpoints.tensors import damaged
from magnet_cli.config import CodecConfig, SpectralCodecConfig
from magnet_cli.errors import CheckpointError
from magnet_cli.fields import shown
from magnet_cli.foreign import bounds, reading
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.encodec import EnCodec
from magnet_cli.models.spectral_codec import SpectralCodec
from magnet_cli.models.text import T5Config, T5Encoder, TextEncoder
from magnet_cli.models.word_pieces import WordPieceConfig, WordPieceEncoder

TOKENIZER_FILE = "tokenizer.json"
_MOST_TOKENIZER = 64_000_000  # bytes: those of T5 have 2 million

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


def check_fields(table: type, said: dict[str, Any], where: str) -> None:
    """Refuse a config that lacks fields of its dataclass, has others, or has one of another type.

    Raises:
        CheckpointError: naming them.
    """
    fields = {each.name: each for each in dataclasses.fields(table)}
    if more := [name for name in said if name not in fields]:
        raise CheckpointError(f"{where} has the field {shown(more[0])}, which is not known.", HINT)
    for name, each in fields.items():
        if name not in said and each.default is dataclasses.MISSING:
            raise CheckpointError(f"{where} does not say {name}.", HINT)
        kinds = _TYPES.get(str(each.type))
        if name in said and kinds is not None:
            value = said[name]
            is_flag = isinstance(value, bool) and bool not in kinds
            if is_flag or not isinstance(value, kinds):
                raise CheckpointError(f"{where} has {name} = {shown(value)}.", HINT)
            if isinstance(value, float) and not math.isfinite(value):
                raise CheckpointError(f"{where} has {name} = {value}.", HINT)


# What JSON has for a field's type, as dataclasses keep it; of all others the field's own check says more.
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}


def _t5(config: dict[str, Any], directory: Path) -> T5Encoder:
    check_fields(T5Config, config, "The text encoder")
    bounds.check_bounds(config, "The text encoder")
    return T5Encoder(T5Config(**config), read_tokenizer(directory / TOKENIZER_FILE))


def _word_pieces(config: dict[str, Any], directory: Path) -> WordPieceEncoder:
    check_fields(WordPieceConfig, config, "The text encoder")
    bounds.check_bounds(config, "The text encoder")
    return WordPieceEncoder(WordPieceConfig(**config), read_tokenizer(directory / TOKENIZER_FILE))


def _save_tokenizer(encoder: T5Encoder | WordPieceEncoder, directory: Path) -> None:
    text = encoder.tokenizer.to_str()
    (directory / TOKENIZER_FILE).write_text(text, encoding="utf-8")


def _encodec(config: dict[str, Any], directory: Path) -> EnCodec:
    check_fields(CodecConfig, config, "The codec")
    bounds.check_codec(config, "The codec")
    return EnCodec(CodecConfig(**{**config, "ratios": tuple(config["ratios"])}))


def _spectral(config: dict[str, Any], directory: Path) -> SpectralCodec:
    check_fields(SpectralCodecConfig, config, "The codec")
    bounds.check_codec(config, "The codec")
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
    raise CheckpointError(
        f"A {type(part).__name__} cannot be stored in a model's directory.",
        f"Kinds that can: {', '.join(table)}.",
    )


def build(
    said: Any, directory: Path, table: Mapping[str, PartKind[M]], what: str, source: str
) -> M:
    """The part that {"kind", "config"} describes, without weights.

    Args:
        what: the part's name, `source`: the file that says so; for messages.

    Raises CheckpointError: an unknown kind, or a config that does not fit it.
    """
    said = said if isinstance(said, dict) else {}
    kind, config = said.get("kind"), said.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise CheckpointError(f"{source} does not describe a {what}.", HINT)
    row = table.get(kind)
    if row is None:
        raise CheckpointError(
            f"{source} asks for a {what} of the kind {shown(kind)}.",
            f"This version knows {', '.join(table)}; a newer one may know it.",
        )
    try:
        return row.build(dict(config), directory)
    except CheckpointError as error:  # of its sizes; a tokenizer's is about a file of its own
        if directory.name in error.message:
            raise
        raise CheckpointError(
            f"{source} does not describe a {what}: {error.message}", error.hint
        ) from error
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
            f"{source} does not describe a {what}: {reading.reason(error)}.", HINT
        ) from error


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json. Raises CheckpointError: missing or unreadable."""
    try:
        # Read here, so that what the library is given is text, of a size that a tokenizer has.
        return Tokenizer.from_str(reading.read_text(path, _MOST_TOKENIZER))
    except (
        BaseException
    ) as error:  # the library raises bare Exceptions, and panics are not even those
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        if isinstance(error, (OSError, ValueError)):
            raise damaged(path, error) from error
        raise damaged(path, ValueError("it is no tokenizer of a version that is known")) from error
