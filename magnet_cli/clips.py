"""One generated clip: where it goes, how it is finished and written, what is reported of it.

`gen`, `batch` and editing share it, so a clip of one is a clip of all, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli import provenance
from magnet_cli.audio.finish import write_sound
from magnet_cli.audio.loudness import Loudness
from magnet_cli.audio.sound import Samples
from magnet_cli.errors import AudioFileError
from magnet_cli.files import draft, write_error
from magnet_cli.settings import AudioFormat, DecodingConfig, OutputConfig

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.pipeline import GenerationResult


@dataclass(frozen=True)
class Target:
    """One clip to be: what of, with which seed, and where it goes."""

    prompt: str
    seed: int
    path: Path | None  # None: stdout
    format: AudioFormat
    codes: Path | None  # where its codes go, too
    force: bool = False  # what is there by then is replaced; otherwise the clip goes beside it

    @property
    def where(self) -> str:
        """What to call it."""
        return str(self.path) if self.path is not None else "stdout"


@dataclass(frozen=True)
class SavedClip:
    """A clip that is written."""

    target: Target
    duration: float  # seconds
    sample_rate: int  # Hz
    channels: int
    loudness: Loudness
    settings: Mapping[str, Any]  # provenance.record: what is kept in the file
    asked: Target | None = None  # where it was to go, if not there

    def record(self) -> dict[str, Any]:
        """As JSON-able values."""
        codes = self.target.codes
        return {
            "status": "done",
            "file": self.target.where,
            "codes": str(codes) if codes is not None else None,
            "prompt": self.target.prompt,
            "seed": self.target.seed,
            **self.measured(),
            "settings": dict(self.settings),
        }

    def measured(self) -> dict[str, Any]:
        """What the sound came to be, as JSON-able values; null is silence, JSON knows no infinity."""
        return {
            "duration": self.duration,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "loudness": _finite(self.loudness.after),
            "peak": _finite(self.loudness.peak),
            "limiter_reduction": round(self.loudness.reduction, 2),
        }


@dataclass(frozen=True)
class Making:
    """What the clips of one request have in common beside what the model says of them."""

    given: DecodingConfig  # the decoding settings that were asked for
    output: OutputConfig
    duration: float | None = None  # seconds that were asked for; None: the segment
    source: str | None = None  # the folder that the model was loaded from, as the user named it
    helper_sources: Mapping[str, str] | None = None  # the same for rescorer and hybrid model


def save_item(
    result: GenerationResult,
    item: int,
    target: Target,
    making: Making,
    stdout: Callable[[bytes], None] | None = None,
) -> SavedClip:
    """Cut one item of a result to length, finish it, and write it with how it was made.

    Args:
        result: what `Model.generate` returned.
        item: which of its items.
        target: where to.
        making: how it was asked for.
        stdout: writes the file's bytes where the target is stdout.

    Raises:
        MagnetError: it cannot be written.
    """
    samples = result.audio[item].numpy()
    if making.duration is not None:
        samples = samples[:, : max(1, round(making.duration * result.sample_rate))]
    kept = provenance.record(
        result.settings,
        item,
        making.given,
        making.output,
        duration=making.duration,
        source=making.source,
        helper_sources=making.helper_sources,
    )
    return save_clip(
        target, [samples], result.sample_rate, result.codes[item], making.output, kept, stdout
    )


def save_clip(
    target: Target,
    chunks: Iterable[Samples],
    sample_rate: int,
    codes: Tensor,
    output: OutputConfig,
    settings: Mapping[str, Any],
    stdout: Callable[[bytes], None] | None = None,
    loop: bool = False,
) -> SavedClip:
    """Finish a sound and write it to its target, its codes as .npz where they are wanted: both or neither.

    Args:
        target: where to.
        chunks: [C, n] each, in order, as the codec decodes them, cut to length.
        sample_rate: Hz.
        codes: int64 [K, T].
        output: the settings of the file.
        settings: `provenance.record`, kept in the file and beside the codes.
        stdout: writes the file's bytes where the target is stdout.
        loop: its end goes on into its beginning.

    Raises:
        MagnetError: a file cannot be written, or the sound holds values that are not numbers.
    """
    place = target.path if target.path is not None else stdout or (lambda data: None)
    made = None
    try:
        with nullcontext() if target.codes is None else draft(target.codes, target.force) as made:
            if made is not None:
                # On the disk before the sound, these get their name after it.
                kept = np.array(json.dumps(settings))
                with made.path.open("wb") as file:
                    np.savez_compressed(file, codes=codes.numpy().astype(np.int32), settings=kept)
            written = write_sound(
                place,
                chunks,
                sample_rate,
                target.format,
                output,
                settings,
                replace=target.force,
                loop=loop,
            )
    except OSError as error:
        raise write_error(target.codes or target.where, error) from error
    at = dataclasses.replace(target, path=written.path, codes=None if made is None else made.final)
    return SavedClip(
        at,
        written.duration,
        written.sample_rate,
        written.channels,
        written.loudness,
        settings,
        target,
    )


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def check_writable(path: Path, force: bool) -> None:
    """Refuse a path that a file should not, or cannot, be written to.

    Raises:
        AudioFileError: it exists and `force` is off, it is no regular file, or its folder is
            missing or read-only.
    """
    try:
        if "\0" in str(path):
            raise ValueError("it holds a null byte")
        if path.is_dir():
            raise AudioFileError(f"{path} is a folder.", "Name a file.")
        if path.exists() and not path.is_file():
            raise AudioFileError(
                f"{path} is not a regular file.", f"Write to stdout: -o - > {path}"
            )
        if os.path.lexists(path) and not force:  # a link to nothing would be lost as well
            raise AudioFileError(
                f"{path} exists.", "Replace it with --force, or choose another name."
            )
        folder = path.parent
        if not folder.is_dir():
            raise AudioFileError(f"There is no folder {folder}.", f"Make it: mkdir -p {folder}")
        if not os.access(folder, os.W_OK):
            raise AudioFileError(
                f"The folder {folder} cannot be written to.",
                "Choose another, or change its rights.",
            )
    except (OSError, ValueError) as error:
        raise no_path(path, error) from error


def no_path(path: Path, error: Exception) -> AudioFileError:
    """A path that nothing can be written to."""
    reason = getattr(error, "strerror", None) or str(error)
    shown = str(path) if len(str(path)) <= 120 else f"{str(path)[:117]}..."
    return AudioFileError(f"{shown!r} cannot be written to: {reason}.", "Choose another name.")
