"""Builds networks from files, safely and strictly: on the meta device from a config, then filled with
tensors, without copies.

The kinds of codec and text encoder in magnet's own format are listed in one table each; a new kind needs only
a row.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from magnet_cli.checkpoints import hub
from magnet_cli.checkpoints.key_map import HINT, named
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
_MOST_TOKENIZER = 64_000_000  # bytes: T5's have 2 million

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class PartKind(Generic[M]):
    """How to save and load one kind of part, without its tensors."""

    module: type[M]
    # (config as JSON has it, the directory with the part's other files) -> the module without
    # weights. Called with the meta device as default.
    build: Callable[[dict[str, Any], Path], M]
    # (module, directory): writes the other files.
    save_files: Callable[[M, Path], None] = lambda module, directory: None


def check_fields(table: type, said: dict[str, Any], where: str) -> None:
    """Check that a config has the fields of its dataclass, no others, and of the right types.
    Raises CheckpointError: naming them."""
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


# How JSON represents a field's type; the others are checked by the dataclasses.
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
        f"A {type(part).__name__} cannot be stored in a model's folder.",
        f"Kinds that can: {', '.join(table)}.",
    )


def build(
    said: Any, directory: Path, table: Mapping[str, PartKind[M]], what: str, source: str
) -> M:
    """Build the part described by {"kind", "config"}, without weights.

    Args:
        what, source: the part's name and the file with its config, for messages.

    Raises CheckpointError: an unknown kind, or a config that does not fit it.
    """
    said = said if isinstance(said, dict) else {}
    kind, config = said.get("kind"), said.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise CheckpointError(f"{source} does not describe a {what}.", HINT)
    row = table.get(kind)
    if row is None:
        raise CheckpointError(
            f"{source} needs a {what} of the kind {shown(kind)}.",
            f"This version supports {', '.join(table)}; a newer one may support it.",
        )
    try:
        return row.build(dict(config), directory)
    except CheckpointError as error:  # of its sizes; errors about a tokenizer name its own file
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
        # A config can hold anything, and torch's messages about impossible sizes do not name the file.
        raise CheckpointError(
            f"{source} does not describe a {what}: {reading.reason(error)}.", HINT
        ) from error


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json. Raises CheckpointError: it is missing or unreadable."""
    try:
        # Read here, so that the library only gets text of a plausible size.
        return Tokenizer.from_str(reading.read_text(path, _MOST_TOKENIZER))
    except (
        BaseException
    ) as error:  # the library raises bare Exceptions, and its panics are BaseExceptions
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        if isinstance(error, (OSError, ValueError)):
            raise damaged(path, error) from error
        raise damaged(path, ValueError("it is not a tokenizer of a known version")) from error


# ------------------------------------------------------------------------------------- tensors


@contextmanager
def blank() -> Iterator[None]:
    """Create modules in this block on the meta device, without initial values; `fill` adds the tensors.

    Initialization is skipped because on the meta device it makes torch import its compiler, which takes
    longer than loading a small model.
    """
    with torch.device("meta"), _NoInitialValues():
        yield


class _NoInitialValues(TorchFunctionMode):
    """Skips the functions of torch.nn.init."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a file of torch.save, memory-mapped, without ever running code from it.
    Raises CheckpointError: unreadable, not a dictionary, would run code of its own, or would take more
    memory than its size."""
    try:
        bounds.check_pickle(path)
        try:
            loaded = _load(path, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            loaded = _load(path, mmap=False)  # a file from before torch 1.6 cannot be mapped
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged pickle calls torch's functions with any arguments, so they raise anything.
        raise damaged(path, error) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path.name} holds {reading.kind_of(loaded)}, not a model.",
            "Use the complete file as released by the model's authors.",
        )
    return loaded


def _load(path: Path, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "weights only" not in str(error).lower():
            raise damaged(path, error) from error
        raise CheckpointError(
            f"{path} was refused: it is a pickle that contains more than tensors, and loading it "
            "would run code that came with the file.",
            "Get this model from a source that you trust, as safetensors if available; "
            "the released checkpoints hold tensors and text only.",
        ) from error


def read_safetensors(path: Path, wanted: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose names `wanted` accepts.
    Raises CheckpointError: not a safetensors file, or cut short."""
    try:
        bounds.read_header(path)
        # Older safetensors would use the caller's default device.
        with torch.device("cpu"), safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if wanted is None or wanted(name)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise damaged(path, error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickled state dictionary.
    Raises CheckpointError: as `read_safetensors` and `read_pickle`."""
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Fill a module built on the meta device with the tensors of `state`, which must match exactly.

    Tensors of another dtype or device are converted one by one, so that the module is never in memory twice;
    the others stay mapped to their file.

    Args:
        source: the file's name, for messages.

    Raises CheckpointError: a tensor is missing, left over, or of another shape; it names them.
    """
    check_state(state, module.state_dict(), source)
    converted = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in state.items()
    }
    module.load_state_dict(converted, strict=True, assign=True)


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Check that `state` has the keys and shapes of `expected`.

    `expected` is the `state_dict()` of a model, preferably on the meta device. Raises CheckpointError: keys
    are missing, left over, or of another shape or kind; the message names them.
    """
    if missing := [key for key in expected if key not in state]:
        raise CheckpointError(f"{where} lacks {named(missing)}.", HINT)
    if left_over := [key for key in state if key not in expected]:
        raise CheckpointError(f"{where} has unexpected tensors: {named(left_over)}.", HINT)
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{where}: {key} is {list(tensor.shape)}, "
                f"its settings make it {list(expected[key].shape)}.",
                HINT,
            )
        if tensor.is_floating_point() != expected[key].is_floating_point():
            raise CheckpointError(f"{where}: {key} is {tensor.dtype}.", HINT)


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for an unreadable model file, with a hint."""
    hint = hub.fetch_again(path)
    if str(error) == reading.LFS_REASON:
        hint = reading.LFS_HINT
    elif isinstance(error, FileNotFoundError):
        hint = "The model is not whole: take all of its files from where it came from."
    return CheckpointError(f"{path} cannot be read: {reading.reason(error)}.", hint)
