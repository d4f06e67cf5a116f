"""magnet's own format: a self-contained directory without pickles.

config.json        sizes, kinds of codec and text encoder, defaults, licence, origin
lm.safetensors     the language model, the codec and the text encoder, with our names
codec.safetensors
text.safetensors
tokenizer.json     of the text encoder
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from magnet_cli.checkpoints import building
from magnet_cli.checkpoints.building import blank, damaged, fill, read_safetensors
from magnet_cli.checkpoints.key_map import HINT
from magnet_cli.config import LMConfig, check_lm
from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.fields import shown
from magnet_cli.files import open_to_others, refuse_link, write_directory
from magnet_cli.foreign import bounds, reading
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.parts import Parts
from magnet_cli.models.precision import INT8, is_int8, make_int8
from magnet_cli.models.text import TextEncoder
from magnet_cli.settings import DecodingConfig
from magnet_cli.version import __version__

FORMAT = "magnet-checkpoint"
FORMAT_VERSION = 1
CONFIG_FILE, LM_FILE, CODEC_FILE, TEXT_FILE = (
    "config.json",
    "lm.safetensors",
    "codec.safetensors",
    "text.safetensors",
)
# All files of the format (layouts.NATIVE); a directory with others is never replaced.
FILES = (CONFIG_FILE, LM_FILE, CODEC_FILE, TEXT_FILE, building.TOKENIZER_FILE)


@dataclass(frozen=True)
class _Slot:
    """A part other than the language model: its key in config.json, its name in messages, its file, its
    kinds."""

    name: str
    what: str
    file: str
    kinds: Mapping[str, building.PartKind[Any]]


_CODEC = _Slot("codec", "codec", CODEC_FILE, building.CODECS)
_TEXT = _Slot("text", "text encoder", TEXT_FILE, building.TEXT_ENCODERS)


def save(
    directory: Path,
    parts: Parts,
    provenance: Mapping[str, Any],
    *,
    lm_dtype: torch.dtype | None = None,
    part_dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model; the directory appears whole or not at all.

    Args:
        parts: the networks, with the name, kind, licence and defaults to record.
        provenance: where it comes from: repo, revision, how it was trained.
        lm_dtype: the language model's dtype in the file; None: unchanged.
        part_dtype: the same for codec and text encoder.
        overwrite: replace a directory that contains only a model in this format.

    Raises:
        UsageError: the directory exists and may not be replaced, or a name to record is not UTF-8.
        CheckpointError: the format has no kind for a part.
        OSError: it cannot be written.
    """
    refuse_link(directory)
    if overwrite and directory.exists():
        _check_replaceable(directory)
    lm, others = parts.lm, (parts.codec, parts.text_encoder)
    said = {
        "name": parts.name,
        "kind": parts.kind,
        "licence": parts.licence,
        **({INT8: True} if is_int8(lm) else {}),
        "parameters": sum(tensor.numel() for tensor in lm.state_dict().values()),
        "lm": dataclasses.asdict(lm.config),
        **_described(*others),
        "defaults": parts.defaults.given(),
    }
    config = _config(said, provenance)

    def write(partial: Path) -> None:
        _save_tensors(lm, partial / LM_FILE, lm_dtype)
        _write_parts(partial, config, others, part_dtype)

    write_directory(directory, write, overwrite)


def save_part(directory: Path, part: AudioCodec | TextEncoder) -> None:
    """Write only a codec or a text encoder, for models to be trained.

    Raises:
        UsageError: the directory exists.
        CheckpointError: the format has no kind for it.
    """
    config = _config(_described(part), {})
    write_directory(directory, lambda partial: _write_parts(partial, config, [part]))


def _described(*parts: AudioCodec | TextEncoder) -> dict[str, Any]:
    """The entries of codec and text encoder in config.json. Raises CheckpointError: the format has no kind
    for one."""
    slots = [(_slot(part), part) for part in parts]
    return {slot.name: building.describe(part, slot.kinds) for slot, part in slots}


def _config(said: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    """config.json. Raises UsageError: a name in it is not UTF-8, as a folder's or LoRA's may be on Linux."""
    written_by = {"written_by": f"magnet {__version__}", **provenance}
    config = {"format": FORMAT, "version": FORMAT_VERSION, **said, "provenance": written_by}
    try:
        return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{CONFIG_FILE} cannot hold a name that is not UTF-8.",
            "Rename the folder, or the LoRA.",
        ) from error


def _write_parts(
    directory: Path,
    config: bytes,
    parts: Iterable[AudioCodec | TextEncoder],
    dtype: torch.dtype | None = None,
) -> None:
    """Write codec and text encoder with their files, and config.json."""
    for part in parts:
        slot = _slot(part)
        _save_tensors(part, directory / slot.file, dtype)
        slot.kinds[building.describe(part, slot.kinds)["kind"]].save_files(part, directory)
    (directory / CONFIG_FILE).write_bytes(config)


def _slot(part: AudioCodec | TextEncoder) -> _Slot:
    return _CODEC if isinstance(part, AudioCodec) else _TEXT


def read_config(directory: Path) -> dict[str, Any]:
    """Read config.json. Raises CheckpointError: it is not of this format, or of an unknown version."""
    path = directory / CONFIG_FILE
    try:
        config = reading.read_json(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not the config of a model in magnet's own format.",
            "Convert a released model with `magnet models import NAME FOLDER`.",
        )
    if config.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{directory} is in version {shown(config.get('version'))} of the format, and this "
            f"program reads {FORMAT_VERSION}.",
            "Upgrade it: pip install --upgrade magnet-cli",
        )
    return config


def load(
    directory: Path,
    dtype: torch.dtype | Callable[[LMConfig], torch.dtype] = torch.float32,
    device: torch.device | str = "cpu",
) -> Parts:
    """Load a model; its defaults are those in its file.

    Args:
        dtype: of the language model, or a function that chooses it by the sizes; codec and text encoder are
            float32.

    Raises CheckpointError: files are missing or damaged, or do not fit config.json.
    """
    config = read_config(directory)
    source = str(directory / CONFIG_FILE)
    lm_config = _lm_config(_part(config, "lm", source), source)
    card = _card(config, source)
    _check_counts(lm_config, directory / LM_FILE, source)
    chosen = dtype if isinstance(dtype, torch.dtype) else dtype(lm_config)
    with blank():
        lm = LanguageModel(lm_config)
        codec, text = _built(_CODEC, config, directory), _built(_TEXT, config, directory)
        if said_int8(config):
            make_int8(lm)
            make_int8(text)
    _load_tensors(lm, directory / LM_FILE, chosen, device)
    _load_tensors(codec, directory / CODEC_FILE, torch.float32, device)
    _load_tensors(text, directory / TEXT_FILE, torch.float32, device)
    return Parts(lm=lm, codec=codec, text_encoder=text, **card)


def said_int8(config: dict[str, Any]) -> bool:
    """Whether language model and text encoder are in int8, by config.json."""
    return config.get(INT8) is True


def _part(config: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    """A part's entry in config.json."""
    said = config.get(name)
    if not isinstance(said, dict):
        raise CheckpointError(
            f"{source} is damaged: {name} is {reading.kind_of(said)}, not a mapping.", HINT
        )
    return said


def _lm_config(said: dict[str, Any], source: str) -> LMConfig:
    """The language model's sizes, from config.json."""
    lists = {"delays": said.get("delays"), **{k: said.get(k, []) for k in ("stages", "tempi")}}
    for name, value in lists.items():
        nested = isinstance(value, list) and (
            name != "stages" or all(isinstance(stage, list) for stage in value)
        )
        if not nested:
            raise CheckpointError(
                f"{source} is damaged: the language model's {name} is {shown(value)}.", HINT
            )
    plain = {name: tuple(lists[name] or ()) for name in ("delays", "tempi")}
    stages = tuple(map(tuple, lists["stages"] or ()))
    building.check_fields(LMConfig, said, f"{source}: the language model")
    return check_lm(LMConfig(**{**said, **plain, "stages": stages}), source)


def _card(config: dict[str, Any], source: str) -> dict[str, Any]:
    """The fields of Parts in config.json that describe the model as a whole."""
    words = {name: config.get(name) for name in ("name", "kind", "licence")}
    origin, defaults = config.get("provenance"), config.get("defaults")
    encoder = origin.get("text_encoder") if isinstance(origin, dict) else None
    for name, value in {**words, "text_encoder": encoder}.items():
        if not isinstance(value, str) and (value is not None or name == "name"):
            raise CheckpointError(f"{source} is damaged: {name} is {shown(value)}.", HINT)
    try:
        if not isinstance(defaults, dict) or not isinstance(origin, dict):
            raise TypeError
        given = DecodingConfig(**defaults)
    except (TypeError, UsageError) as error:
        why = f": {error.message}" if isinstance(error, UsageError) else "."
        raise CheckpointError(
            f"{source} is damaged: its defaults are not decoding settings{why}", HINT
        ) from error
    return {**words, "defaults": given, "text_encoder_name": encoder}


def _check_counts(config: LMConfig, path: Path, source: str) -> None:
    """Refuse more layers or streams than the file has weights for, before any is built."""
    try:
        tensors = len(bounds.read_header(path).shapes)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    counts = {name: getattr(config, name) for name in ("num_layers", "n_q")}
    bounds.check_counts(counts, tensors, source)


def load_codec(directory: Path, device: torch.device | str = "cpu") -> AudioCodec:
    """Load only the codec of a model, in float32. Raises CheckpointError: as `load`."""
    codec: AudioCodec = _load_part(directory, _CODEC, device)
    return codec


def load_text_encoder(directory: Path) -> TextEncoder:
    """Load only the text encoder of a model, or one written by `save_part`. Raises CheckpointError: as
    `load`."""
    encoder: TextEncoder = _load_part(directory, _TEXT, "cpu")
    return encoder


def _load_part(directory: Path, slot: _Slot, device: torch.device | str) -> Any:
    part = _built(slot, read_config(directory), directory)
    _load_tensors(part, directory / slot.file, torch.float32, device)
    return part


def _built(slot: _Slot, config: Mapping[str, Any], directory: Path) -> Any:
    """Build the codec or text encoder described by config.json, without weights."""
    source = str(directory / CONFIG_FILE)
    with blank():
        return building.build(config.get(slot.name), directory, slot.kinds, slot.what, source)


def stored_dtype(directory: Path) -> torch.dtype:
    """The dtype of the language model's stored weights. Raises CheckpointError: lm.safetensors is
    unreadable."""
    path = directory / LM_FILE
    weights = read_safetensors(path, lambda name: name == "text_proj.weight")
    if not weights:
        raise CheckpointError(f"{path} has no text_proj.weight.", HINT)
    return weights["text_proj.weight"].dtype


def _check_replaceable(directory: Path) -> None:
    """Refuse to replace a directory with more than a model in it, such as a training run's log, settings,
    samples and checkpoints."""
    found = sorted(directory.iterdir()) if directory.is_dir() else []
    foreign = [path.name for path in found if path.name not in FILES or path.is_dir()]
    try:
        is_model = "lm" in read_config(directory)
    except CheckpointError:
        is_model = False
    if not is_model:
        raise UsageError(
            f"{directory} exists already, and holds no model in magnet's own format.",
            "Only such a model is replaced: choose another name, or remove it first.",
        )
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UsageError(
            f"{directory} exists already, and holds more than a model: {foreign[0]}{more}.",
            "Choose another name, or move what you want to keep out of it.",
        )


def _load_tensors(
    module: nn.Module, path: Path, dtype: torch.dtype, device: torch.device | str
) -> None:
    fill(module, read_safetensors(path), str(path), dtype, device)


def _save_tensors(module: nn.Module, path: Path, dtype: torch.dtype | None) -> None:
    state = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in module.state_dict().items()
    }
    save_file(state, path)
    open_to_others(path)  # safetensors creates files that only the user can read
