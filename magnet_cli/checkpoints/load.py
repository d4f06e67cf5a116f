"""Builds models from their files, and converts between formats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from magnet_cli.checkpoints import audiocraft, audiocraft_export, encodec, native, registry
from magnet_cli.checkpoints.adapters import with_loras
from magnet_cli.checkpoints.building import blank, fill
from magnet_cli.checkpoints.loras import Lora
from magnet_cli.checkpoints.place import Place
from magnet_cli.checkpoints.registry import ENCODEC, NATIVE, NATIVE_CODEC, NATIVE_TEXT, needed
from magnet_cli.checkpoints.t5 import load_t5
from magnet_cli.config import LMConfig
from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.files import write_directory
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.encodec import EnCodec
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.parts import Parts
from magnet_cli.models.precision import DTYPES, INT8, check_room, make_int8, pack, pick_dtype
from magnet_cli.models.text import TextEncoder
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig

# Chooses the language model's dtype by its sizes.
Choice = Callable[[LMConfig], torch.dtype]


def load_parts(
    place: Place,
    device: str = "auto",
    dtype: str = "auto",
    loras: Sequence[Lora] = (),
    *,
    to_save: bool = False,
) -> Parts:
    """Build a model from its files, ready to generate (no gradients).

    Args:
        device: auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:1, mps.
        dtype: of the language model: auto (`precision.pick_dtype`; int8 if saved so), float32, float16,
            bfloat16, int8. Codec and text encoder are float32, as they cost little and T5 overflows in half
            precision; with int8, a T5 is int8, too.
        loras: adapters to merge into the weights.
        to_save: the model will only be saved: int8 weights keep their stored form.

    Raises:
        CheckpointError: the files are damaged, or not of a supported model.
        ModelNotFoundError: an adapter does not exist.
        UsageError: no such device or dtype, int8 on a GPU, int8 weights in another dtype, or not enough
            memory.
    """
    where = pick_device(device)
    saved_so = _is_int8(place)
    in_int8 = dtype == INT8 or (saved_so and dtype == "auto")
    if in_int8 or saved_so:
        _check_int8(place, where, dtype, saved_so, loras)
    # Quantized layer by layer, from weights that are memory-mapped.
    stored = "float32" if saved_so else _stored_dtype(place) if in_int8 else dtype

    def choose(config: LMConfig) -> torch.dtype:
        chosen = pick_dtype(stored, where, config.parameters)
        said = INT8 if in_int8 else str(chosen).removeprefix("torch.")
        if not to_save:  # a model that is only saved stays memory-mapped
            check_room(place.name, config, said, where)
        return chosen

    load = _load_native if place.layout is NATIVE else _load_released
    loaded = load(place, choose, where)
    if loras:
        loaded = with_loras(loaded, loras)
    if in_int8 and not saved_so:
        make_int8(loaded.lm)
        make_int8(loaded.text_encoder)
    if in_int8 and not to_save:
        pack(loaded.lm)
        pack(loaded.text_encoder)
    for module in (loaded.lm, loaded.codec, loaded.text_encoder):
        module.eval().requires_grad_(False)
    _check_parts(loaded, place.directory)
    return loaded


def load_codec(place: Place, device: str = "auto") -> AudioCodec:
    """Build only a codec (`place.find_codec`), in float32. Raises CheckpointError, UsageError: as
    `load_parts`."""
    codec = _codec(place, pick_device(device))
    codec.eval().requires_grad_(False)
    return codec


def load_text_encoder(place: Place) -> TextEncoder:
    """Build only a text encoder (`place.find_text_encoder`), in float32 on the CPU. Raises CheckpointError:
    as `load_parts`."""
    native_one = place.layout is NATIVE_TEXT
    load: Callable[[Path], TextEncoder] = native.load_text_encoder if native_one else load_t5
    encoder = load(place.directory)
    encoder.eval().requires_grad_(False)
    return encoder


def pick_device(name: str) -> torch.device:
    """The device with this name. Raises UsageError: it is not available."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"There is no device {name!r}.", "--device takes auto, cpu, cuda, cuda:0, mps."
        ) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(
            f"The device {name!r} is not supported.", "--device takes auto, cpu, cuda, cuda:0, mps."
        )
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise UsageError(
            f"This machine (or this build of torch) has no device {name}.",
            "Use --device auto for the one available.",
        )
    return device


def import_checkpoint(
    place: Place, directory: Path, overwrite: bool = False, dtype: str | None = None
) -> None:
    """Write a model in magnet's own format (`magnet models import`).

    Args:
        dtype: of the language model in the file; None: float16 if the released file has it. The rest is
            float32, except for a T5 with int8.

    Raises:
        CheckpointError: it cannot be loaded.
        UsageError: the directory exists, or there is no such dtype.
        OSError: it cannot be written.
    """
    wanted = dtype or (INT8 if _is_int8(place) else _stored_dtype(place))
    _save(load_parts(place, "cpu", wanted, to_save=True), directory, overwrite, {})


def merge_checkpoint(
    place: Place, loras: Sequence[Lora], directory: Path, overwrite: bool = False
) -> None:
    """Merge adapters into a model and write it in magnet's own format (`magnet models merge`).

    Raises:
        CheckpointError: it or an adapter cannot be loaded, or they do not fit each other.
        ModelNotFoundError: an adapter does not exist.
        UsageError: the directory exists.
        OSError: it cannot be written.
    """
    loaded = load_parts(place, "cpu", _stored_dtype(place), loras, to_save=True)
    _save(loaded, directory, overwrite, {"base": loaded.name, "lora": list(loaded.loras)})


def export_checkpoint(place: Place, directory: Path) -> None:
    """Write a model in the released layout (`magnet models export`), which stores only the text encoder's
    name.

    Raises:
        CheckpointError: it cannot be loaded.
        UsageError: the directory exists, or the released layout cannot represent the model: a hybrid model,
            a codec other than EnCodec, a text encoder other than T5.
        OSError: it cannot be written.
    """
    loaded = load_parts(place, "cpu", _stored_dtype(place), to_save=True)
    if not isinstance(loaded.codec, EnCodec) or loaded.text_encoder_name is None:
        raise UsageError(
            f"{loaded.name} cannot be exported: the released layout holds an EnCodec, and the "
            "name of a T5 on the hub.",
            "Share its folder as it is: magnet loads it from the hub, too.",
        )
    codec, text_encoder = loaded.codec, loaded.text_encoder_name

    def write(partial: Path) -> None:
        audiocraft_export.write_lm(
            partial / audiocraft.LM_FILE,
            loaded.lm.config,
            loaded.lm.state_dict(),
            loaded.defaults,
            text_encoder=text_encoder,
            sample_rate=codec.sample_rate,
            licence=loaded.licence,
            kind=loaded.kind,
        )
        encodec.write_released(partial / audiocraft.CODEC_FILE, codec.config, codec.state_dict())

    write_directory(directory, write)


def _save(loaded: Parts, directory: Path, overwrite: bool, more: dict[str, Any]) -> None:
    provenance = {
        "repo": loaded.repo,
        "revision": loaded.revision,
        "text_encoder": loaded.text_encoder_name,
        **more,
    }
    if more:
        loaded = dataclasses.replace(loaded, name=directory.resolve().name)
    native.save(directory, loaded, provenance, overwrite=overwrite)


def _is_int8(place: Place) -> bool:
    """Whether a model is saved in int8."""
    return place.layout is NATIVE and native.said_int8(native.read_config(place.directory))


def _check_int8(
    place: Place, device: torch.device, dtype: str, saved_so: bool, loras: Sequence[Lora]
) -> None:
    """Refuse what int8 weights do not support. Raises UsageError."""
    if saved_so and loras:
        raise UsageError(
            f"No adapter can be merged into {place.name}, which holds int8 weights.",
            "Use the model that it was made from with --lora, and optionally --dtype int8.",
        )
    if saved_so and dtype not in ("auto", INT8):
        raise UsageError(
            f"{place.name} holds int8 weights and cannot be loaded in {dtype}.",
            "Leave --dtype out, or use the model that it was made from.",
        )
    if device.type != "cpu":
        raise UsageError(
            f"int8 is for processors, not for {device.type}.",
            "Add --device cpu, or take --dtype float16 of a model that is not saved in int8.",
        )


def _load_released(place: Place, choose: Choice, device: torch.device) -> Parts:
    assert place.codec is not None
    assert place.text is not None
    codec = _codec(place.codec, device)
    file = audiocraft.open_lm(place.directory / audiocraft.LM_FILE)
    config = audiocraft.lm_config(file, codec.frame_rate)
    dtype = choose(config)
    with blank():
        lm = LanguageModel(config)
    fill(lm, audiocraft.lm_state(file), str(file.path), dtype, device)
    known = place.known
    defaults = audiocraft.decoding_defaults(file)
    if known is not None:
        defaults = known.decoding.over(defaults)
    return Parts(
        name=place.name,
        repo=place.repo,
        revision=place.revision,
        licence=known.licence if known is not None else audiocraft.licence(file),
        kind=known.kind if known is not None else audiocraft.kind(file, otherwise=_kind(codec)),
        lm=lm,
        codec=codec,
        text_encoder=load_t5(place.text.directory, device),
        text_encoder_name=file.text_encoder,
        defaults=_complete(defaults, config),
    )


def _load_native(place: Place, choose: Choice, device: torch.device) -> Parts:
    parts = native.load(place.directory, choose, device)
    is_path = place.repo is None and place.known is None
    return dataclasses.replace(
        parts,
        name=parts.name if is_path else place.name,
        repo=place.repo,
        revision=place.revision,
        defaults=_complete(parts.defaults, parts.lm.config),
    )


def _codec(part: Place, device: torch.device) -> AudioCodec:
    if part.layout in (NATIVE, NATIVE_CODEC):
        return native.load_codec(part.directory, device)
    if part.layout is ENCODEC:
        names = [path.name for path in part.directory.iterdir()]
        files = ENCODEC.chosen(needed(ENCODEC, names, str(part.directory)))
        source = part.directory / files["model.safetensors"]
        config, state = encodec.read_transformers(part.directory / "config.json", source)
    else:
        source = part.directory / audiocraft.CODEC_FILE
        config, state = encodec.read_released(source)
    with blank():
        codec = EnCodec(config)
    fill(codec, state, str(source), torch.float32, device)
    return codec


def _complete(defaults: DecodingConfig, config: LMConfig) -> DecodingConfig:
    """Fill in the missing fields of `defaults`."""
    span = DecodingConfig(span_len=config.span_len)
    return defaults.over(span).over(DECODING_DEFAULTS)


def _kind(codec: AudioCodec) -> registry.Kind:
    # The released music models are at 32 kHz, the sound models at 16 kHz.
    return "sound" if codec.sample_rate <= 16_000 else "music"


def _stored_dtype(place: Place) -> str:
    """The name of the dtype in which the language model is stored."""
    if place.layout is NATIVE:
        dtype = native.stored_dtype(place.directory)
    else:
        file = audiocraft.open_lm(place.directory / audiocraft.LM_FILE)
        dtype = file.text_weight.dtype
    return next((name for name, known in DTYPES.items() if known == dtype), "float32")


def _check_parts(loaded: Parts, directory: Path) -> None:
    """Check that the parts belong together."""
    lm, codec, text = loaded.lm.config, loaded.codec, loaded.text_encoder
    problem = None
    if (lm.n_q, lm.card) != (codec.n_q, codec.card):
        problem = (
            f"its language model writes {lm.n_q} streams of {lm.card} codes, "
            f"its codec reads {codec.n_q} of {codec.card}"
        )
    elif lm.text_dim != text.width:
        problem = (
            f"its language model reads texts of width {lm.text_dim}, "
            f"its text encoder writes {text.width}"
        )
    elif lm.frame_rate != codec.frame_rate:
        problem = (
            f"its language model is for {lm.frame_rate:g} frames per second, "
            f"its codec for {codec.frame_rate:g}"
        )
    if problem is not None:
        raise CheckpointError(
            f"The parts of {directory} do not belong together: {problem}.",
            "Use the parts of one model.",
        )
