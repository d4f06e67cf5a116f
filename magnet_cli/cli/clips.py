"""One generated clip: finished, written, reported. `gen`, `batch` and the editing commands share it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli.cli.output import Talk, write_stdout
from magnet_cli.config import OutputConfig

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.audio.io import Samples
    from magnet_cli.audio.loudness import Loudness
    from magnet_cli.cli.targets import Target


@dataclass(frozen=True)
class SavedClip:
    """A clip that is written."""

    target: Target
    duration: float  # seconds
    sample_rate: int  # Hz
    channels: int
    loudness: Loudness
    settings: Mapping[str, Any]  # provenance.record: what is kept in the file

    def say(self, talk: Talk, output: OutputConfig, took: float) -> None:
        """Tell of it: a line on stderr, a JSON line on stdout; `took` is in seconds."""
        from magnet_cli.audio.finishing import remark

        talk.note(
            f"Saved {self.target.where}: {self.duration:g} s, "
            f"{_level(self.loudness.after, 'LUFS')}, peak {_level(self.loudness.peak, 'dBFS')}, "
            f"in {took:.1f} s"
        )
        if said := remark(self.loudness, output):
            talk.warn(said)
        talk.data({**self.record(), "seconds": round(took, 3)})

    def record(self) -> dict[str, Any]:
        """As JSON-able values."""
        codes = self.target.codes
        return {
            "status": "done",
            "file": self.target.where,
            "codes": str(codes) if codes is not None else None,
            "prompt": self.target.prompt,
            "seed": self.target.seed,
            "duration": self.duration,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "loudness": _finite(self.loudness.after),
            "peak": _finite(self.loudness.peak),
            "limiter_reduction": round(self.loudness.reduction, 2),
            "settings": dict(self.settings),
        }


def save_clip(
    target: Target,
    samples: Samples,
    sample_rate: int,
    codes: Tensor,
    output: OutputConfig,
    settings: Mapping[str, Any],
) -> SavedClip:
    """Finish a clip and write it to its target, its codes too where they are wanted.

    Args:
        target: where to.
        samples: [C, N] as the codec decoded them, cut to length.
        sample_rate: Hz.
        codes: int64 [K, T].
        output: the settings of the file.
        settings: `provenance.record`, kept in the file.

    Raises:
        MagnetError: it cannot be written.
    """
    from magnet_cli.audio import io
    from magnet_cli.audio.finishing import finish

    finished, rate, loudness = finish(samples, sample_rate, target.format, output)
    if target.codes is not None:
        write_codes(target.codes, codes, settings)
    if target.path is None:
        write_stdout(io.encode(finished, rate, target.format, output, settings))
    else:
        io.write(target.path, finished, rate, target.format, output, settings)
    channels, length = finished.shape
    return SavedClip(target, length / rate, rate, channels, loudness, settings)


def write_codes(path: Path, codes: Tensor, settings: Mapping[str, Any]) -> None:
    """Write codes [K, T] and how they were made as .npz, whole or not at all.

    Raises:
        MagnetError: the file cannot be written.
    """
    import numpy as np

    from magnet_cli.audio.io import write_error
    from magnet_cli.files import atomic_path

    kept = np.array(json.dumps(settings))
    try:
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, codes=codes.numpy().astype(np.int32), settings=kept)
    except OSError as error:
        raise write_error(path, error) from error


def _level(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if math.isfinite(value) else f"no {unit}"


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return round(value, 2) if math.isfinite(value) else None
