"""What a model made, ready to be saved: every file keeps how it was made."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magnet_cli.audio.finish import check_loopable, write_patched
from magnet_cli.audio.formats import checked_format, encoding_for
from magnet_cli.audio.sound import open_sound
from magnet_cli.clips import Making, Target, check_writable, save_clip, save_item
from magnet_cli.editing.looping import Loop
from magnet_cli.editing.pieces import Piece
from magnet_cli.editing.saving import piece_record, save_piece
from magnet_cli.editing.splicing import Edit
from magnet_cli.editing.transcoding import decode_stream
from magnet_cli.errors import UsageError
from magnet_cli.pipeline import GenerationResult, Pipeline
from magnet_cli.settings import OUTPUT_DEFAULTS, OutputConfig


@dataclass(frozen=True)
class Result(GenerationResult):
    """Clips that were generated."""

    making: Making

    def save(
        self,
        path: str | os.PathLike[str],
        item: int = 0,
        *,
        output: OutputConfig = OUTPUT_DEFAULTS,
        codes: str | os.PathLike[str] | None = None,
        force: bool = False,
    ) -> Path:
        """Write one of the clips, with loudness, limiter and format as the command line has them.

        Args:
            path: the file; its suffix says the format, if `output` does not.
            item: which clip.
            output: how audio becomes a file.
            codes: an .npz file to keep the codes in, too.
            force: a file that is there is replaced.

        Returns:
            Where it is.

        Raises:
            UsageError: there is no such clip, or an argument cannot be used.
            AudioFileError: the file cannot be written, or is there already.
        """
        if not isinstance(item, int) or not 0 <= item < len(self.seeds):
            raise UsageError(
                f"There is no clip {item!r}.", f"Clips are 0 to {len(self.seeds) - 1}."
            )
        said = self.settings["prompts"][item] or "", self.seeds[item]
        target = _target(said, path, output, codes, force)
        return _where(save_item(self, item, target, replace(self.making, output=output)).target)


@dataclass(frozen=True)
class PieceResult:
    """A piece that was made of codes: longer, mended, varied, or a loop."""

    made: Piece | Loop
    seconds: float
    model: Pipeline
    making: Making
    command: Mapping[str, Any]  # what makes it again on the command line, where something does

    @property
    def codes(self) -> Tensor:
        """int64 [1, K, T]."""
        return self.made.codes

    @property
    def settings(self) -> dict[str, Any]:
        """What made it, JSON-able."""
        return self.made.settings

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.model.sample_rate

    @functools.cached_property
    def audio(self) -> Tensor:
        """float32 [1, C, samples], as decoded, not normalised; decoded when it is first asked for."""
        if isinstance(self.made, Loop):
            return self.made.audio
        length = max(1, round(self.seconds * self.sample_rate))
        parts = list(decode_stream(self.model, self.codes, length))
        return torch.from_numpy(np.concatenate(parts, axis=1))[None]

    @property
    def seamless(self) -> bool | None:
        """Of a loop: whether its seam stands out no more than its body does."""
        return self.made.seamless if isinstance(self.made, Loop) else None

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        output: OutputConfig = OUTPUT_DEFAULTS,
        codes: str | os.PathLike[str] | None = None,
        force: bool = False,
    ) -> Path:
        """Write it, whatever its length. Arguments, result and errors as `Result.save`."""
        said = self.settings["prompts"][0] or "", self.settings["seeds"][0]
        target = _target(said, path, output, codes, force)
        making = replace(self.making, output=output)
        if isinstance(self.made, Piece):
            saved = save_piece(self.model, self.made, target, making, self.command, self.seconds)
        else:
            check_loopable(output)
            kept = piece_record(self.settings, making, self.command)
            audio = [self.made.audio[0].numpy()]
            saved = save_clip(
                target, audio, self.sample_rate, self.codes[0], output, kept, loop=True
            )
        return _where(saved.target)


@dataclass(frozen=True)
class EditResult:
    """A sound file with regions made anew; every other sample is the file's own."""

    source: Path
    edit: Edit
    making: Making
    command: Mapping[str, Any]

    @property
    def regions(self) -> tuple[tuple[float, float], ...]:
        """Seconds that were made anew: whole frames."""
        return self.edit.regions

    @property
    def settings(self) -> dict[str, Any]:
        """What made it, JSON-able."""
        return self.edit.settings

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write it at the input's rate, channels and bit depth. Errors as `Result.save`."""
        file = _path(path)
        with open_sound(self.source) as sound:
            encoding = encoding_for(sound, file)
            check_writable(file, force)
            kept = piece_record(self.settings, self.making, self.command)
            at = write_patched(sound, self.edit.patches, file, encoding, kept, force)
        return file if at is None else at


def _path(given: object) -> Path:
    if not isinstance(given, (str, os.PathLike)):
        raise UsageError(f"{given!r} is no file.", "Give its path.")
    return Path(given)


def _target(
    said: tuple[str, int],
    path: object,
    output: OutputConfig,
    codes: object,
    force: bool,
) -> Target:
    """Where a clip of a prompt and a seed goes, refused where it cannot go there."""
    file = _path(path)
    if not isinstance(output, OutputConfig):
        raise UsageError(f"output cannot be {output!r}.", "Give an OutputConfig.")
    kind = checked_format(file, output)
    kept = None if codes is None else _path(codes)
    if kept is not None and kept.suffix.lower() != ".npz":
        raise UsageError(f"{kept} is not an .npz file.", "End its name in .npz.")
    for one in (file, kept):
        if one is not None:
            check_writable(one, force)
    prompt, seed = said
    return Target(prompt, seed, file, kind, kept, force)


def _where(target: Target) -> Path:
    assert target.path is not None
    return target.path
