"""Clips, and how they are written to files that record how they were made. Target -> Clip -> SavedClip.

All commands and Python programs write clips here, so equal requests give equal files, bit for bit. `Clip` is
codes with their sound, `Edit` a sound file with some regions regenerated.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magnet_cli.audio.finish import write_patched, write_sound
from magnet_cli.audio.formats import checked_format, encoding_for, lost_chunks
from magnet_cli.audio.loudness import Loudness
from magnet_cli.audio.sound import Samples, Sound, open_sound
from magnet_cli.checkpoints.registry import builtin_weights
from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing.looping import Beat, Loop
from magnet_cli.editing.transcoding import Edit as Patches
from magnet_cli.editing.transcoding import decode_stream
from magnet_cli.errors import UsageError
from magnet_cli.files import draft, write_error
from magnet_cli.pipeline import GenerationResult, Pipeline
from magnet_cli.settings import OUTPUT_DEFAULTS, DecodingConfig, OutputConfig, listed
from magnet_cli.targets import Target, check_targets, check_writable

Stdout = Callable[[bytes], None]
AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class SavedClip:
    """A clip that has been written to its file."""

    target: Target
    duration: float  # seconds
    sample_rate: int  # Hz
    channels: int
    loudness: Loudness | None  # None for an edited file, whose loudness is not changed
    settings: Mapping[str, Any]  # `Making.record`, as stored in the file
    asked: Target | None = None  # the requested target; its name may have been taken meanwhile
    more: Mapping[str, Any] = field(default_factory=dict)  # further values of its record

    def record(self) -> dict[str, Any]:
        """The clip's record, JSON-able."""
        codes = self.target.codes
        return {
            "status": "done",
            "file": self.target.where,
            "codes": str(codes) if codes is not None else None,
            "prompt": self.target.prompt,
            "seed": self.target.seed,
            **self.measured(),
            **self.more,
            "settings": dict(self.settings),
        }

    def measured(self) -> dict[str, Any]:
        """Measurements of the sound, JSON-able; silence is null, as JSON has no infinity."""
        heard = self.loudness
        return {
            "duration": self.duration,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "loudness": None if heard is None else _finite(heard.after),
            "peak": None if heard is None else _finite(heard.peak),
            "limiter_reduction": None if heard is None else round(heard.reduction, 2),
        }


@dataclass(frozen=True)
class Making:
    """How clips were requested, in addition to the model's own settings."""

    given: DecodingConfig  # the decoding settings as requested
    duration: float | None = None  # requested seconds; None: the segment
    source: str | None = None  # the model's folder, as the user named it
    partner_sources: Mapping[str, str] = field(default_factory=dict)  # folders of partners
    # For edits and pieces: the command that makes it again, with its input and flags.
    command: Mapping[str, Any] = field(default_factory=dict)

    def record(
        self, settings: Mapping[str, Any], item: int, output: OutputConfig
    ) -> dict[str, Any]:
        """The record stored in the file of one item of a batch: enough to make it again."""
        batch = ("prompts", "negative_prompts", "seeds")
        kept = {key: value for key, value in settings.items() if key not in batch}
        kept |= {
            "prompt": settings["prompts"][item],
            "negative": settings["negative_prompts"][item],
            "seed": settings["seeds"][item],
            "duration": self.duration,
            "given": listed(self.given.given()),
            "output": output.given(),
            "source": self.source,
        }
        if "bpm" in kept:
            kept["bpm"] = settings["bpm"][item]
        if self.command:
            kept["edit"] = {**kept["edit"], **self.command}
        for part in ("rescorer", "hybrid_model"):
            if part in kept:
                folder = self.partner_sources.get(part)
                told = {} if folder is None else {"source": folder}
                kept[part] = _with_weights({**kept[part], **told})
        return _with_weights(kept)


@dataclass(frozen=True)
class Clip:
    """Generated codes and their sound, of any length, not yet written to a file."""

    model: Pipeline
    codes: Tensor  # int64 [1, K, T]
    settings: Mapping[str, Any]  # JSON-able, from `Pipeline.describe`
    making: Making
    seconds: float | None = None  # length; None: that of the codes
    item: int = 0  # index in the batch that `settings` describes
    decoded: Tensor | None = None  # float32 [C, samples], if already decoded
    loop: Loop | None = None  # set for loops
    beat: Beat | None = None  # the length is a whole number of these, if known
    tried: int = 1  # seeds tried, of which this was the best

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.model.sample_rate

    @property
    def seamless(self) -> bool | None:
        """For a loop: whether the seam is no more audible than the rest; otherwise None."""
        return None if self.loop is None else self.loop.seamless

    @functools.cached_property
    def audio(self) -> Tensor:
        """float32 [1, C, samples], decoded on first use, not normalised."""
        parts = list(self._chunks(None))
        return torch.from_numpy(np.concatenate(parts, axis=1))[None]

    def save(
        self,
        path: AnyPath,
        *,
        output: OutputConfig = OUTPUT_DEFAULTS,
        codes: AnyPath | None = None,
        force: bool = False,
    ) -> Path:
        """Write the clip, with loudness, limiter and format as on the command line.

        Args:
            path: the file; its suffix gives the format unless `output` does.
            output: settings of the sound file.
            codes: an .npz file for the codes.
            force: replace an existing file.

        Returns:
            The path of the file.

        Raises:
            UsageError: an argument cannot be used.
            AudioFileError: the file cannot be written, or exists already.
        """
        said = self.settings["prompts"][self.item] or "", self.settings["seeds"][self.item]
        return _where(self.write(_target(said, path, output, codes, force), output))

    def write(
        self,
        target: Target,
        output: OutputConfig,
        stdout: Stdout | None = None,
        on_step: OnStep | None = None,
    ) -> SavedClip:
        """Write the sound, and the codes as .npz if the target has a file for them: both or neither.

        Args:
            target: where to write.
            output: settings of the sound file.
            stdout: writes the file's bytes if the target is stdout.
            on_step: called after each part that the codec decodes.

        Raises:
            MagnetError: a file cannot be written, or the sound holds NaN or infinite values.
        """
        output = output.decided(target.format)
        kept = self.making.record(self.settings, self.item, output)
        made = None
        try:
            with (
                nullcontext() if target.codes is None else draft(target.codes, target.force) as made
            ):
                if made is not None:
                    # Written before the sound, renamed after it.
                    codes, settings = self.codes[0].numpy(), np.array(json.dumps(kept))
                    with made.path.open("wb") as file:
                        np.savez_compressed(file, codes=codes.astype(np.int32), settings=settings)
                written = write_sound(
                    _place(target, stdout),
                    self._chunks(on_step),
                    self.sample_rate,
                    target.format,
                    output,
                    kept,
                    replace=target.force,
                    loop=self.loop is not None,
                    bpm=None if self.beat is None else self.beat.bpm,
                )
        except OSError as error:
            raise write_error(target.codes or target.where, error) from error
        loudness = written.loudness
        if "edit" in self.settings and self.settings["known_codes"] and self.loop is None:
            # Silences may come from the input, so no warning is due.
            loudness = replace(loudness, silences=())
        more: dict[str, Any] = {} if self.loop is None else {"seamless": self.loop.seamless}
        if self.tried > 1:
            more |= {"taken_seed": kept["seed"], "tried": self.tried}
        at = replace(target, path=written.path, codes=None if made is None else made.final)
        size = written.duration, written.sample_rate, written.channels
        return SavedClip(at, *size, loudness, kept, target, more)

    def _chunks(self, on_step: OnStep | None) -> Iterable[Samples]:
        length = None
        if self.seconds is not None:
            length = max(1, round(self.seconds * self.sample_rate))
        if self.decoded is not None:
            return [self.decoded[:, :length].numpy()]
        return decode_stream(self.model, self.codes, length, on_step)


@dataclass(frozen=True)
class Result(GenerationResult):
    """Clips generated as one batch."""

    model: Pipeline
    making: Making

    def clip(self, item: int = 0, seconds: float | None = None) -> Clip:
        """One of the clips; `seconds` cuts it to another length than requested.
        Raises UsageError: there is no such clip."""
        if not isinstance(item, int) or not 0 <= item < len(self.seeds):
            raise UsageError(
                f"There is no clip {item!r}.", f"Clips are 0 to {len(self.seeds) - 1}."
            )
        settings, making, rate = self.settings, self.making, self.model.frame_rate
        if seconds is not None and seconds * rate <= self.codes.shape[-1] - 1:
            # A command that asks for fewer frames makes other codes.
            whole = making.duration or self.codes.shape[-1] / rate
            settings = {**settings, "partial": {"seconds": seconds, "of": whole}}
        elif seconds is not None:
            making = replace(making, duration=seconds)
        codes, audio = self.codes[item : item + 1], self.audio[item]
        return Clip(self.model, codes, settings, making, seconds or making.duration, item, audio)

    def save(self, path: AnyPath, item: int = 0, **how: Any) -> Path:
        """Write one of the clips; see `clip` and `Clip.save`."""
        return self.clip(item).save(path, **how)


@dataclass(frozen=True)
class Edit:
    """A sound file with regions regenerated; all other samples are unchanged."""

    source: Path | Sound
    patches: Patches
    making: Making

    @property
    def regions(self) -> tuple[tuple[float, float], ...]:
        """The regenerated regions in seconds, rounded to whole frames."""
        return self.patches.regions

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON-able, from `Pipeline.describe`."""
        return self.patches.settings

    def save(self, path: AnyPath, *, force: bool = False) -> Path:
        """Write at the input's sample rate, channels and bit depth. Errors as for `Clip.save`."""
        file = _path(path)
        check_writable(file, force)
        said = self.settings["prompts"][0] or "", self.settings["seeds"][0]
        return _where(self.write(Target(*said, file, "wav", None, force)))

    def write(
        self,
        target: Target,
        output: OutputConfig = OUTPUT_DEFAULTS,
        stdout: Stdout | None = None,
        on_step: OnStep | None = None,
    ) -> SavedClip:
        """As `Clip.write`; the file has the input's format, so `output` and `on_step` are ignored.
        Raises MagnetError: the file cannot be written."""
        kept = self.making.record(self.settings, 0, OUTPUT_DEFAULTS) | {"output": {}}
        opened = self.source
        with nullcontext(opened) if isinstance(opened, Sound) else open_sound(opened) as sound:
            encoding = encoding_for(sound, target.path)
            place = _place(target, stdout)
            at = write_patched(sound, self.patches.patches, place, encoding, kept, target.force)
            more = {"regions": self.regions, "subtype": encoding[1]}
            if lost := lost_chunks(sound, encoding):
                more["lost"] = lost
            where = replace(target, path=at)
            size = sound.duration, sound.sample_rate, sound.channels
        return SavedClip(where, *size, None, kept, target, more)


def _place(target: Target, stdout: Stdout | None) -> Path | Stdout:
    return target.path if target.path is not None else stdout or (lambda data: None)


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def _path(given: object) -> Path:
    if not isinstance(given, (str, os.PathLike)):
        raise UsageError(f"{given!r} is not a file.", "Give its path.")
    return Path(given)


def _target(
    said: tuple[str, int], path: object, output: object, codes: object, force: bool
) -> Target:
    """Build the target of a clip and check that it can be written."""
    file = _path(path)
    if not isinstance(output, OutputConfig):
        raise UsageError(f"output cannot be {output!r}.", "Give an OutputConfig.")
    kind = checked_format(file, output)
    kept = None if codes is None else _path(codes)
    check_targets(file, kept, force)
    return Target(*said, file, kind, kept, force)


def _where(saved: SavedClip) -> Path:
    assert saved.target.path is not None
    return saved.target.path


def _with_weights(model: dict[str, Any]) -> dict[str, Any]:
    """A model's record, with the id of its weights if built in: later versions reuse its name."""
    if model.get("repo") is not None or model.get("source") is not None:
        return model
    weights = builtin_weights(model["model"])
    return model if weights is None else {**model, "weights": weights}
