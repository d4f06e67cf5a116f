"""Converts between sounds and codes, and splices regions that were decoded again into a sound.

An edited region is inpainted in codes, decoded, converted to the file's sample rate, channels and level, and
put in place; all other samples stay the file's, bit for bit. Crossfades lie outside the region, where the
decoded and the original sound are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from magnet_cli.audio.finish import Patch
from magnet_cli.audio.sound import Samples, Sound, heard_with, is_silent, resample, with_channels
from magnet_cli.decoding.contracts import OnStep, StepEvent
from magnet_cli.editing.pieces import Direction, OnWindow, inpaint, need_masks
from magnet_cli.editing.windows import (
    Region,
    around,
    overlap_frames,
    regions_of,
    stretches,
    window_seed,
)
from magnet_cli.errors import AudioFileError, UsageError
from magnet_cli.pipeline import Pipeline

SHORTEST = 0.1  # seconds
LONGEST = 3600.0  # seconds to encode at once: an hour of mono at 32 kHz takes 460 MB
MARGIN = 1.0  # seconds around a part, encoded and decoded with it, then cut off
CROSSFADE = 0.02  # seconds on either side of a region
MOST_GAIN = 4.0  # maximum gain of a new region: 12 dB
FAINT = 1e-4  # RMS below which levels are not matched


def frames_in(model: Pipeline, sound: Sound) -> int:
    """Number of codec frames that hold the whole sound."""
    return frames_holding(model, sound.duration)


def whole_frames_in(model: Pipeline, sound: Sound) -> int:
    """Number of complete codec frames in the sound."""
    return int(sound.duration * model.frame_rate + 1e-6)


def frames_holding(model: Pipeline, seconds: float) -> int:
    """Minimum number of frames that hold `seconds`, tolerating rounding errors."""
    return max(1, math.ceil(seconds * model.frame_rate - 1e-6))


def samples_at(model: Pipeline, sound: Sound, frame: int) -> int:
    """Start of a frame in samples at the sound's rate, at most its length."""
    return min(round(frame / model.frame_rate * sound.sample_rate), sound.length)


def encode_sound(model: Pipeline, sound: Sound) -> Tensor:
    """Encode a whole sound to codes, int64 [1, K, frames_in] on the CPU.
    Raises AudioFileError: it is too short, too long, silent or damaged."""
    return encode(model, hear(model, sound, 0, frames_in(model, sound)))


def encode(model: Pipeline, heard: Tensor) -> Tensor:
    """Encode audio from `hear` to codes, int64 [1, K, frames] on the CPU."""
    with torch.inference_mode():
        codes = model.codec.encode(heard.to(model.device))
    return codes.cpu().clone()  # outside inference mode, so that it can be written to


def hear(model: Pipeline, sound: Sound, first: int, last: int) -> Tensor:
    """Read frames `first` up to `last` of a sound for the model, float32 [1, C, frames * hop].

    The sound is resampled and mixed to the model's channels: many to one by the mean, one to many by copying.
    An incomplete last frame is padded with silence.

    Raises:
        AudioFileError: it is too short, too long, silent or damaged.
    """
    if sound.duration < SHORTEST:
        raise AudioFileError(
            f"{sound.name} is too short ({sound.duration:.3f} s).", f"Give {SHORTEST:g} s or more."
        )
    if (last - first) / model.frame_rate > LONGEST:
        raise AudioFileError(
            f"{sound.name} is too long to be encoded ({sound.duration / 3600:.1f} hours).",
            "Use a part of at most an hour.",
        )
    start, stop = samples_at(model, sound, first), samples_at(model, sound, last)
    samples, _ = heard_with(sound, model.sample_rate, model.channels, start, stop)
    if is_silent(samples):
        raise AudioFileError(
            f"{sound.name} is silent{_where(sound, start, stop)}.",
            "Use a sound that is not silent, or `magnet gen`, which needs none.",
        )
    fitted = np.zeros((samples.shape[0], (last - first) * model.codec.hop_length), np.float32)
    length = min(fitted.shape[1], samples.shape[1])
    fitted[:, :length] = samples[:, :length]
    return torch.from_numpy(fitted)[None]


def decode_stream(
    model: Pipeline, codes: Tensor, length: int | None = None, on_step: OnStep | None = None
) -> Iterator[Samples]:
    """Decode codes [1, K, T] to consecutive blocks of samples [C, n], as long as the codec makes them.

    Args:
        length: number of samples after which to stop; None: all.
        on_step: called after each block, counting seconds as steps.
    """
    total = codes.shape[-1] * model.codec.hop_length
    left = total = total if length is None else min(length, total)
    # `inference_mode` over a generator would stay on while the caller works.
    chunks = model.codec.decode_chunks(codes.to(model.device))
    while left > 0:
        with torch.inference_mode():
            chunk = next(chunks, None)
            if chunk is None:
                return
            samples = chunk[0].float().cpu().numpy()[:, :left]
        left -= samples.shape[1]
        if on_step is not None:
            whole = math.ceil(total / model.sample_rate)
            done = (total - left) // model.sample_rate if left else whole
            on_step(StepEvent("codec", 0, 1, done, whole, 0.0, 1.0, 0.0, left))
        yield samples


def _where(sound: Sound, start: int, stop: int) -> str:
    if (start, stop) == (0, sound.length):
        return ""
    return f" from {start / sound.sample_rate:.1f} to {stop / sound.sample_rate:.1f} s"


# ------------------------------------------------------------------------------------- edits


@dataclass(frozen=True)
class Edit:
    """Patches that replace parts of a sound."""

    patches: tuple[Patch, ...]  # in order, disjoint
    regions: tuple[tuple[float, float], ...]  # in seconds, rounded to frames
    settings: dict[str, Any]  # JSON types


@dataclass(frozen=True)
class Place:
    """A region in samples at the sound's rate."""

    start: int
    stop: int
    fade_in: int  # samples of the crossfade before `start`
    fade_out: int  # samples of the crossfade after `stop`


def edit_regions(
    model: Pipeline,
    direction: Direction,
    sound: Sound,
    spans: Sequence[tuple[float, float]],
    *,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
) -> Edit:
    """Decode regions of a sound again.

    Only the model's context around the regions is read and decoded, so the file may have any length. A mono
    model gets the mean of the sound's channels, and its output goes to all channels, each at its level around
    the region.

    Args:
        model: a masked or hybrid one.
        direction: one prompt for all regions.
        spans: (from, to) in seconds.

    Raises:
        UsageError: the model is autoregressive, there are several prompts, or a region is outside the sound.
        AudioFileError: the sound is too short, silent around a region, or damaged.
    """
    need_masks(model, "fill in a region")
    if len(direction.cues) != 1:
        raise UsageError("An edit takes one prompt.", "Edit once per prompt.")
    total = frames_in(model, sound)
    regions = regions_of(spans, model.frame_rate, total)
    places = places_of(model, sound, regions)
    overlap = overlap_frames(direction.overlap, model.segment_frames, model.frame_rate)
    margin = round(MARGIN * model.frame_rate)
    patches: list[Patch] = []
    settings: dict[str, Any] = {}
    for seen in stretches(around(total, regions, model.segment_frames, overlap)):
        inside = [i for i, r in enumerate(regions) if seen.start <= r.start < seen.stop]
        first, last = max(0, seen.start - margin), min(total, seen.stop + margin)
        heard = hear(model, sound, first, last)
        codes = encode(model, heard)
        window = slice(seen.start - first, seen.stop - first)
        piece = inpaint(
            model,
            replace(direction, seed=window_seed(direction.seed, len(patches))),
            codes[..., window],
            [Region(regions[i].start - seen.start, regions[i].stop - seen.start) for i in inside],
            on_step=on_step,
            on_window=on_window,
        )
        codes[..., window] = piece.codes
        frames = [(regions[i].start - first, regions[i].stop - first) for i in inside]
        with torch.inference_mode():
            new = model.codec.decode_into(codes.to(model.device), heard.to(model.device), frames)
        made = new[0].float().cpu().numpy()
        patches += splice(model, sound, made, first, [places[i] for i in inside])
        settings = settings or piece.settings
    seconds = [(r.start / model.frame_rate, r.stop / model.frame_rate) for r in regions]
    settings["frames"] = total
    settings["edit"] = settings["edit"] | {"regions": [list(pair) for pair in seconds]}
    return Edit(tuple(patches), tuple(seconds), settings)


def places_of(model: Pipeline, sound: Sound, regions: Sequence[Region]) -> list[Place]:
    """Where regions lie in a sound, with crossfades that neither overlap nor leave the sound."""
    edges = [(samples_at(model, sound, r.start), samples_at(model, sound, r.stop)) for r in regions]
    fade = round(CROSSFADE * sound.sample_rate)
    places = []
    for i, (start, stop) in enumerate(edges):
        before = start if i == 0 else (start - edges[i - 1][1]) // 2
        after = sound.length - stop if i + 1 == len(edges) else (edges[i + 1][0] - stop) // 2
        places.append(Place(start, stop, min(fade, before), min(fade, after)))
    return places


def splice(
    model: Pipeline, sound: Sound, decoded: Samples, first: int, places: Sequence[Place]
) -> list[Patch]:
    """Turn a decoded part of a sound into patches at `places`, in the sound's sample format.

    Args:
        decoded: [C, N] at the model's rate, the part with its new regions.
        first: the frame of the sound at which the part begins.
        places: inside the part.
    """
    start = samples_at(model, sound, first)
    frames = decoded.shape[1] // model.codec.hop_length
    stop = samples_at(model, sound, first + frames)
    there = sound.samples(start, stop)
    made = resample(decoded, model.sample_rate, sound.sample_rate)
    if len(made) != sound.channels:
        made = with_channels(with_channels(made, 1), sound.channels)
    made = np.pad(made, [(0, 0), (0, max(0, stop - start - made.shape[1]))])[:, : stop - start]
    kept = np.ones(stop - start, bool)
    for place in places:
        kept[place.start - place.fade_in - start : place.stop + place.fade_out - start] = False
    made = made * level_match(there[:, kept], made[:, kept])[:, None]

    patches = []
    for place in places:
        fade_in = slice(place.start - place.fade_in - start, place.start - start)
        fade_out = slice(place.stop - start, place.stop + place.fade_out - start)
        before = crossfade(there[:, fade_in], made[:, fade_in])
        middle = made[:, fade_in.stop : fade_out.start]
        after = crossfade(made[:, fade_out], there[:, fade_out])
        samples = np.concatenate([before, middle, after], axis=1)
        patches.append(Patch(place.start - place.fade_in, sound.stored(samples)))
    return patches


def level_match(there: Samples, made: Samples) -> Samples:
    """Gains [C] that bring `made` [C, n] to the levels of `there` [C, n].

    They are 1 if either sound is nearly silent, and 0 for a silent channel beside others that are not.
    """

    def levels(samples: Samples) -> npt.NDArray[np.float64]:
        return np.sqrt(np.square(samples, dtype=np.float64).mean(axis=1))

    if there.shape[1] == 0 or levels(there).max() < FAINT or levels(made).min() < FAINT:
        return np.ones(len(there), np.float32)
    gains = levels(there) / levels(made)
    heard = levels(there) >= FAINT
    return np.where(heard, np.minimum(gains, MOST_GAIN), 0.0).astype(np.float32)


def crossfade(out: Samples, into: Samples) -> Samples:
    """Cross-fade two sounds [C, n] at constant level.

    Correlated sounds add in amplitude, uncorrelated ones in power, so the sum is normalised by their
    correlation.
    """
    length = out.shape[1]
    if length == 0:
        return into
    share = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / length)
    energy = np.sqrt(np.square(out).sum(1) * np.square(into).sum(1))
    alike = np.clip((out * into).sum(1) / np.maximum(energy, 1e-12), 0.0, 1.0)[:, None]
    sum_ = np.sqrt(share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * alike)
    mixed: Samples = ((out * (1 - share) + into * share) / sum_).astype(np.float32)
    return mixed
