"""Stores band levels of many clips in one memory-mapped file, so that each clip is read and transformed
once.

The file holds, clip by clip, float16 log(1 + amplitude / floor) of up to `frames` spectral frames and all
bands, neither centred nor weighted, so they can be used with every basis and weighting of the same spectra.
The space after a shorter clip is empty, and is never drawn or summed: the lengths are in a file beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.audio.sound import check_readable, mono_of, open_sound
from magnet_cli.files import atomic_path
from magnet_cli.foreign import reading
from magnet_cli.models.spectral_codec import SpectralCodec
from magnet_cli.training.batches import keyed_generator
from magnet_cli.training.codec_start import Moments


@dataclass(frozen=True)
class LevelFile:
    """Levels of `clips` clips, up to `frames` spectral frames each."""

    values: npt.NDArray[np.float16]  # [clips, frames, bands], memory-mapped
    lengths: tuple[int, ...]  # spectral frames per clip, a multiple of a frame of codes

    @property
    def clips(self) -> int:
        """Number of clips."""
        return int(self.values.shape[0])

    @property
    def frames(self) -> int:
        """Maximum number of spectral frames per clip."""
        return int(self.values.shape[1])

    def share(self, clip: int) -> float:
        """The length of a clip relative to the maximum: its weight in means over clips."""
        return self.lengths[clip] / self.frames

    def read(self, clip: int, start: int, count: int) -> Tensor:
        """Levels float32 [count, bands] of a clip."""
        return torch.from_numpy(self.values[clip, start : start + count].astype(np.float32))

    def whole(self, clip: int) -> Tensor:
        """All levels float32 [N, bands] of a clip."""
        return self.read(clip, 0, self.lengths[clip])


# ------------------------------------------------------------------------------------- the file


def sounds_key(clips: Sequence[Path], source: Path) -> str:
    """A hash of the files' names relative to `source`, sizes and dates.

    Args:
        clips: audio files.
        source: the manifest or folder that lists them; both may be moved together.

    Raises AudioFileError: a clip cannot be read.
    """
    home = source if source.is_dir() else source.parent
    told = hashlib.sha256()
    for clip in clips:
        check_readable(clip)
        name = clip.relative_to(home) if clip.is_relative_to(home) else clip
        stat = clip.stat()
        told.update(json.dumps([name.as_posix(), stat.st_size, stat.st_mtime_ns]).encode())
    return told.hexdigest()


def write_levels(
    path: Path, clips: Sequence[Path], sounds: str, codec: SpectralCodec, frames: int
) -> LevelFile:
    """Write the levels of the first `frames` frames of codes of each clip; a file for the same clips is
    reused.

    Args:
        clips: audio files of any sample rate and length.
        sounds: their key (`sounds_key`).
        codec: determines spectra, bands and floor.

    Raises AudioFileError: a clip cannot be read.
    """
    config = codec.config
    shape = (len(clips), frames * config.stack, codec.bands.count)
    key = {
        "clips": sounds,
        "spectra": [config.sample_rate, config.spectral_hop, config.overlap, config.stack],
        "bands": [config.linear_hz, config.high_bands, config.floor],
        "shape": list(shape),
    }
    said = path.with_suffix(".json")
    try:  # what an earlier run wrote
        told = reading.read_object(said, most=500_000_000)
    except (OSError, reading.ReadError):
        told = {}
    lengths = told.pop("lengths", [])
    # A file is only reused if it was written by this function, for the same clips and settings.
    size = 2 * math.prod(shape)
    whole = path.is_file() and path.stat().st_size >= size and _are_lengths(lengths, shape)
    if told != key or not whole:
        said.unlink(missing_ok=True)
        lengths = []
        # Not memory-mapped: on a full disk that ends the process (SIGBUS) without a word.
        with atomic_path(path) as partial, partial.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for clip in clips:
                levels = clip_levels(clip, codec, frames)
                place = np.zeros(shape[1:], "<f2")
                place[: len(levels)] = levels.half().numpy()
                file.write(place.tobytes())
                lengths.append(len(levels))
        with atomic_path(said) as partial:
            partial.write_text(json.dumps({**key, "lengths": lengths}), encoding="utf-8")
    return LevelFile(np.load(path, mmap_mode="r"), tuple(lengths))


def _are_lengths(lengths: Any, shape: tuple[int, int, int]) -> bool:
    if not isinstance(lengths, list) or len(lengths) != shape[0]:
        return False
    return all(type(length) is int and 0 <= length <= shape[1] for length in lengths)


@torch.no_grad()
def clip_levels(path: Path, codec: SpectralCodec, frames: int) -> Tensor:
    """Compute levels [N, bands] of a clip, neither centred nor weighted; N is at most frames * stack.

    The last frame of codes is padded with silence, as in encoding.
    """
    with open_sound(path) as sound:
        samples = torch.from_numpy(mono_of(sound.read(codec.sample_rate, checked=False))[0])
    own = min(frames, max(1, -(-samples.shape[1] // codec.hop_length)))
    wanted = own * codec.hop_length
    samples = F.pad(samples[:, :wanted], (0, max(0, wanted - samples.shape[1])))
    margin = codec.spectrum.margin
    spectrum = codec.spectrum.analyse(F.pad(samples, (margin, margin)))
    amplitudes = codec.bands.amplitudes(spectrum.abs())
    return torch.log1p(amplitudes / codec.config.floor)[0]


# ------------------------------------------------------------------------------- batches and means


def weighted(levels: Tensor, codec: SpectralCodec) -> Tensor:
    """Centre and weight levels [..., N, bands] from a file as in the codec."""
    return (levels - codec.mean) * codec.weight


def draw_crops(
    levels: LevelFile, codec: SpectralCodec, count: int, frames: int, generator: torch.Generator
) -> list[Tensor]:
    """Random crops of `count` random clips, up to `frames` frames of codes each.

    Returns:
        Weighted levels [B, N, bands] for each length N that occurs: shorter clips are used whole.
    """
    stack = codec.config.stack
    clips = torch.randint(levels.clips, (count,), generator=generator).tolist()
    by_length: dict[int, list[Tensor]] = {}
    for clip in clips:
        whole = levels.lengths[clip] // stack
        crop = min(frames, whole)
        start = int(torch.randint(whole - crop + 1, (1,), generator=generator))
        by_length.setdefault(crop, []).append(levels.read(clip, start * stack, crop * stack))
    return [weighted(torch.stack(crops), codec) for crops in by_length.values()]


def mean_level(levels: LevelFile) -> Tensor:
    """The mean over all frames, float64 [bands]."""
    total = torch.zeros(levels.values.shape[2], dtype=torch.float64)
    for clip in range(levels.clips):
        total += levels.share(clip) * levels.whole(clip).mean(0, dtype=torch.float64)
    return total / sum(levels.share(clip) for clip in range(levels.clips))


def moments(levels: LevelFile, codec: SpectralCodec) -> Moments:
    """The moments of all frames of codes, for principal components."""
    found = Moments(len(codec.basis))
    for clip in range(levels.clips):
        found.add(_stacked(levels, codec, clip))
    return found


def draw_rows(levels: LevelFile, codec: SpectralCodec, count: int, seed: int) -> Tensor:
    """About `count` frames of codes [N, stack * bands], spread evenly over the data."""
    total = sum(levels.lengths)
    rows = []
    for clip in range(levels.clips):
        frames = _stacked(levels, codec, clip)
        each = max(1, count * levels.lengths[clip] // total)
        generator = keyed_generator(seed, "rows", clip)
        rows.append(frames[torch.randperm(len(frames), generator=generator)[:each]])
    return torch.cat(rows)


def _stacked(levels: LevelFile, codec: SpectralCodec, clip: int) -> Tensor:
    """A clip's frames of codes [T, stack * bands], weighted and centred."""
    return weighted(levels.whole(clip), codec).reshape(-1, len(codec.basis))
