"""LoRA adapters as users name them: FILE[:SCALE]. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.checkpoints.registry import hashed
from magnet_cli.errors import ModelNotFoundError, UsageError
from magnet_cli.fields import shown
from magnet_cli.naming import with_number

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"  # PEFT's names
_MOST_SCALE = 100.0


@dataclass(frozen=True)
class Lora:
    """An adapter to merge into a model."""

    file: str  # its folder, or its adapter_model.safetensors, as given by the user
    scale: float = 1.0  # multiplies its own scale

    def __str__(self) -> str:
        """As `--lora` takes it; always with the scale, because a file's name can end like one."""
        return f"{self.file}:{str(self.scale).removesuffix('.0')}"

    @property
    def weights(self) -> Path:
        """The file with its matrices."""
        path = Path(os.path.expanduser(self.file))
        return path / WEIGHTS_FILE if os.path.isdir(path) else path

    @property
    def id(self) -> str:
        """An id of its files and its scale, independent of its name.

        Raises OSError, ValueError: they cannot be read.
        """
        digest = hashlib.sha256(f"{self.scale}\0".encode())
        for path in (self.weights, self.weights.parent / CONFIG_FILE):
            digest.update(hashed(path))
        return f"sha256:{digest.hexdigest()}"

    def check(self) -> Lora:
        """Check that it exists. Raises ModelNotFoundError: naming what is missing."""
        for path in (self.weights, self.weights.parent / CONFIG_FILE):
            if not os.path.isfile(path):  # unlike Path, for any name
                raise ModelNotFoundError(
                    f"There is no LoRA {shown(self.file)}: {shown(str(path))} is missing.",
                    "Give a folder that `magnet train lm --lora-rank` made, or one in PEFT's layout.",
                )
        return self


def parse_lora(given: object) -> Lora:
    """Parse a LoRA from "FILE[:SCALE]", a path, or a path and a scale. Raises UsageError: it is none of
    these, or its scale is not a usable number."""
    if isinstance(given, Lora):
        return given
    file, scale = given, 1.0
    try:
        if isinstance(given, str):
            file, scale = with_number(given)
        elif isinstance(given, (tuple, list)):
            file, scale = given[0], float(given[1])
        file = os.fspath(file)  # type: ignore[call-overload]
        if not isinstance(file, str) or not file or "\0" in file:
            raise TypeError
    except (TypeError, ValueError, IndexError):
        raise UsageError(
            f"{shown(given)} is not a LoRA.", "It takes FILE, or FILE:SCALE, such as rain:0.7."
        ) from None
    if not -_MOST_SCALE <= scale <= _MOST_SCALE:
        raise UsageError(
            f"The scale of {shown(file)} cannot be {scale:g}.",
            f"It takes numbers from {-_MOST_SCALE:g} to {_MOST_SCALE:g}; 1 is as it was trained.",
        )
    return Lora(file, scale)


def parse_loras(given: object) -> tuple[Lora, ...]:
    """Parse any number of LoRAs: None, one as for `parse_lora`, or a list of these. Raises UsageError: as
    `parse_lora`."""
    if given is None:
        return ()
    pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], (int, float))
    if isinstance(given, Sequence) and not isinstance(given, str) and not pair:
        return tuple(parse_lora(one) for one in given)
    return (parse_lora(given),)
