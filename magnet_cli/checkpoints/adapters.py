"""Reads and writes adapters in PEFT's layout: `adapter_model.safetensors` and `adapter_config.json`.

The names are those that `peft` uses for transformers' MusicgenForConditionalGeneration.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from magnet_cli.checkpoints.building import damaged
from magnet_cli.checkpoints.loras import CONFIG_FILE, WEIGHTS_FILE, Lora
from magnet_cli.config import LMConfig
from magnet_cli.errors import CheckpointError
from magnet_cli.files import atomic_path
from magnet_cli.foreign import bounds, reading
from magnet_cli.models.lora import OUTER, PLACES, Place, Update, combined, merged, named
from magnet_cli.models.parts import Parts

_TABLE = "embed_tokens"  # of embeddings, whose updates have different names and axes
# A place -> the name of its module in transformers, with the number of block or stream.
_MODULES = {place: f"model.decoder.layers.{{}}.{place}" for place in PLACES}
_MODULES |= {"lm_heads": "lm_heads.{}", _TABLE: f"model.decoder.{_TABLE}.{{}}"}
_PLACE_OF = {module: place for place, module in _MODULES.items()}
_NAME = re.compile(
    r"base_model\.model\.(?:decoder\.)?(?P<before>.+?\.)(?P<number>\d{1,4})(?P<after>(?:\..+)?)"
    r"\.lora_(?P<table>embedding_)?(?P<half>[AB])(?(table)|\.weight)"
)
# Fields in which a model must agree with an adapter, in addition to the shapes of the matrices.
_FIELDS = ("modeling", "dim", "num_heads", "num_layers", "n_q", "card", "text_dim")
_WANTED = "An adapter is a folder with adapter_model.safetensors and adapter_config.json."


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter as read from its files."""

    updates: dict[Place, Update]
    base: str | None  # name of the model that it was trained on
    sizes: dict[str, Any]  # of that model; empty in files of other programs
    marks: list[float]  # of its weights, see `marks_of`; may be empty


def marks_of(state: Mapping[str, Tensor]) -> list[float]:
    """Two values of each matrix of a plain model, float32, which identify its weights in any precision and
    file layout.
    """
    marks = []
    for name, matrix in sorted(state.items()):
        # The tempo head is not changed by adapters, and may be added later.
        if matrix.ndim == 2 and not name.startswith("tempo."):
            values = matrix.detach().reshape(-1)
            marks += [float(values[len(values) * third // 3]) for third in (1, 2)]
    return marks


def save_adapter(
    folder: Path,
    updates: Mapping[Place, Update],
    config: LMConfig,
    base: str | None,
    marks: list[float],
) -> None:
    """Write both files into a folder, replacing earlier ones.

    Args:
        config, base, marks: sizes, name and `marks_of` the model that it was trained on.

    Raises OSError: they cannot be written.
    """
    tensors, places = {}, sorted({place for _, place in updates})
    for (number, place), update in updates.items():
        stem = f"base_model.model.decoder.{_MODULES[place].format(number)}"
        pair = {"lora_A.weight": update.a, "lora_B.weight": update.b}
        if place == _TABLE:
            pair = {"lora_embedding_A": update.b.T, "lora_embedding_B": update.a.T}
        for name, half in pair.items():
            tensors[f"{stem}.{name}"] = half.detach().cpu().float().contiguous()
    first = next(iter(updates.values()))
    rank = first.a.shape[0]
    ours = {"sizes": {name: getattr(config, name) for name in _FIELDS}, "marks": marks}
    names = "|".join(re.escape(_MODULES[place]).replace(r"\{\}", r"\d+") for place in places)
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        # A pattern must match the whole name: text encoder and codec have layers of similar names.
        "target_modules": rf"(.*\.)?({names})",
    }
    with atomic_path(folder / WEIGHTS_FILE) as partial:
        save_file(tensors, partial, {"format": "pt", "magnet": json.dumps(ours)})
    with atomic_path(folder / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_adapter(path: Path) -> Adapter:
    """Read an adapter from its folder, or from its weights file with the settings beside it.
    Raises CheckpointError: it does not exist, is damaged, or cannot be merged."""
    file = path / WEIGHTS_FILE if os.path.isdir(path) else path
    settings_file = file.parent / CONFIG_FILE
    try:
        settings = reading.read_object(settings_file)
    except (OSError, reading.ReadError) as error:
        raise CheckpointError(
            f"{path} is not an adapter: {settings_file} cannot be read: {reading.reason(error)}.",
            _WANTED,
        ) from error
    ours, tensors = _tensors(file)
    scale = _scale(settings, path)
    pairs: dict[Place, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        place = match and _PLACE_OF.get(f"{match['before']}{{}}{match['after']}")
        if match is None or place is None or (place == _TABLE) != bool(match["table"]):
            raise CheckpointError(
                f"{path} updates {name[:120]}, which is not supported.",
                "An adapter may update self-attention, cross-attention and feed-forward layers, and "
                "the embeddings and heads of codes.",
            )
        half = match["half"]
        if place == _TABLE:
            half, tensor = "AB".replace(half, ""), tensor.T
        pairs.setdefault((int(match["number"]), place), {})[half] = tensor
    rank = settings["r"]
    for where, pair in pairs.items():
        shapes = [list(pair[half].shape) for half in "AB" if half in pair]
        if len(shapes) != 2 or shapes[0][:1] != [rank] or shapes[1][1:] != [rank]:
            raise CheckpointError(
                f"{path}: {named(where)} is not a pair of A and B of rank {rank}.", _WANTED
            )
        if not all(bool(half.isfinite().all()) for half in pair.values()):
            raise CheckpointError(
                f"{path}: {named(where)} holds NaN or infinite values.",
                "Use an earlier checkpoint of its training.",
            )
    if not pairs:
        raise CheckpointError(f"{path} updates nothing.", _WANTED)
    base = settings.get("base_model_name_or_path")
    return Adapter(
        {place: Update(pair["A"], pair["B"], scale) for place, pair in pairs.items()},
        base if isinstance(base, str) else None,
        ours.get("sizes", {}),
        ours.get("marks", []),
    )


def check_base(adapter: Adapter, config: LMConfig, state: Mapping[str, Tensor], name: str) -> None:
    """Check that an adapter was made for a model.

    Args:
        config, state: of the plain model, in any precision.
        name: the model's, for the message.

    Raises CheckpointError: naming what differs.
    """
    ours = {field: getattr(config, field) for field in _FIELDS}
    other = [
        f"{field} {adapter.sizes[field]} there and {value} here"
        for field, value in ours.items()
        if adapter.sizes.get(field, value) != value
    ]
    for outer, what, has in ((False, "layers", config.num_layers), (True, "streams", config.n_q)):
        asked = 1 + max((n for n, place in adapter.updates if (place in OUTER) == outer), default=0)
        if not other and asked > has:
            other = [f"{asked} {what} there and {has} here"]
    if not other and adapter.marks:
        here = torch.tensor(marks_of(state))
        there = torch.tensor(adapter.marks)
        # Half precision rounds; bfloat16 by up to 0.4 %.
        if here.shape != there.shape or not torch.allclose(here, there, rtol=0.01, atol=1e-6):
            other = ["the sizes are the same, the weights are others"]
    if other:
        raise CheckpointError(
            f"The adapter is not for {name}: {', '.join(other)}.",
            f"Use it with {adapter.base or 'the model that it was trained on'}.",
        )


def with_loras(parts: Parts, loras: Sequence[Lora]) -> Parts:
    """Merge adapters into a model's weights, so that decoding costs no more.

    Raises:
        ModelNotFoundError: an adapter does not exist.
        CheckpointError: it cannot be read, or is for another model.
    """
    lm, found, said = parts.lm, [], []
    state = lm.state_dict()
    for lora in loras:
        adapter = load_adapter(lora.check().weights)
        check_base(adapter, lm.config, state, parts.name)
        found.append((adapter.updates, lora.scale))
        said.append({"file": lora.file, "scale": lora.scale, "weights": lora.id})
    try:
        state = merged(state, combined(found))
    except ValueError as error:
        raise CheckpointError(
            f"The adapter is not for {parts.name}: {error}.",
            "Use it with the model that it was trained on.",
        ) from error
    lm.load_state_dict(state, assign=True)
    lm.requires_grad_(False)
    return dataclasses.replace(parts, loras=(*parts.loras, *said))


def _tensors(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the weights file: its record of the base model, and its tensors."""
    try:
        bounds.read_header(file)
        with safe_open(file, framework="pt") as opened:
            said = (opened.metadata() or {}).get("magnet", "{}")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        ours = reading.json_of(said)
        sizes, marks = ours.get("sizes", {}), ours.get("marks", [])
        if not isinstance(sizes, dict) or not all(isinstance(mark, float) for mark in marks):
            raise reading.ReadError("it does not say what it was trained on")
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise damaged(file, error) from error
    return ours, tensors


def _scale(settings: Mapping[str, Any], path: Path) -> float:
    """The scale of the product of an adapter's matrices.
    Raises CheckpointError: this kind of adapter is not supported."""
    others = [
        name
        for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
        if settings.get(name)
    ]
    if settings.get("peft_type") != "LORA":
        others.append(f"peft_type {settings.get('peft_type')!r}")
    if settings.get("bias", "none") != "none":
        others.append(f"bias {settings['bias']!r}")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1:
        others.append(f"r {rank!r}")
    if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        others.append(f"lora_alpha {alpha!r}")
    if others:
        raise CheckpointError(
            f"{path} is an adapter of an unsupported kind:  {', '.join(others)[:200]}.",
            "Use a plain LoRA.",
        )
    assert isinstance(rank, int)
    assert isinstance(alpha, (int, float))
    return alpha / rank
