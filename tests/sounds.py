"""Reads sounds whole and writes them unchanged, for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from magnet_cli.audio.finish import Target, write_sound
from magnet_cli.audio.sound import Samples, open_sound
from magnet_cli.settings import AudioFormat, OutputConfig


@dataclass(frozen=True)
class Heard:
    """A whole sound and what its file says of it."""

    samples: Samples
    sample_rate: int
    kind: str
    subtype: str
    metadata: dict[str, Any] | None

    @property
    def duration(self) -> float:
        return self.samples.shape[1] / self.sample_rate


def read(source: str | Path | BinaryIO) -> Heard:
    with open_sound(source) as sound:
        samples = sound.read(checked=False)
    return Heard(samples, sound.sample_rate, sound.kind, sound.subtype, sound.metadata)


def write(
    target: Target,
    samples: Samples,
    sample_rate: int,
    name: AudioFormat,
    output: OutputConfig,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    as_it_is = dataclasses.replace(output, normalize=False)
    write_sound(target, [samples], sample_rate, name, as_it_is, metadata)


def encode(
    samples: Samples,
    sample_rate: int,
    name: AudioFormat,
    output: OutputConfig,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    parts: list[bytes] = []
    write(parts.append, samples, sample_rate, name, output, metadata)
    return b"".join(parts)
