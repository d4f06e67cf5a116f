"""Band levels of many clips in one memory-mapped file: sound is read and transformed once.

The file holds, for clip after clip, float16 log(1 + amplitude / floor) of `frames` spectral frames and
all bands, neither centred nor weighted; so they serve every basis and weighting of the same spectra.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.audio import io
from magnet_cli.files import atomic_path
from magnet_cli.models.spectral_codec import SpectralCodec


@dataclass(frozen=True)
class LevelFile:
    """Levels of `clips` clips, `frames` spectral frames each."""

    values: npt.NDArray[np.float16]  # [clips, frames, bands], memory-mapped

    @property
    def clips(self) -> int:
        """Number of clips."""
        return int(self.values.shape[0])

    @property
    def frames(self) -> int:
        """Spectral frames of each clip."""
        return int(self.values.shape[1])

    def read(self, clip: int, start: int, count: int) -> Tensor:
        """Levels float32 [count, bands] of a clip."""
        return torch.from_numpy(self.values[clip, start : start + count].astype(np.float32))


def write_levels(path: Path, clips: Sequence[Path], codec: SpectralCodec, frames: int) -> LevelFile:
    """Levels of the first `frames` frames of codes of each clip; a file of the same clips is kept.

    Args:
        clips: sound files of any rate; shorter ones end in silence.
        codec: whose spectra, bands and floor are used.

    Raises:
        AudioFileError: a clip cannot be read.
    """
    config = codec.config
    shape = (len(clips), frames * config.stack, codec.bands.count)
    key = {
        "clips": hashlib.sha256("\n".join(str(clip) for clip in clips).encode()).hexdigest(),
        "spectra": [config.sample_rate, config.spectral_hop, config.overlap, config.stack],
        "bands": [config.linear_hz, config.high_bands, config.floor],
        "shape": list(shape),
    }
    said = path.with_suffix(".json")
    if not (path.is_file() and said.is_file() and json.loads(said.read_text()) == key):
        said.unlink(missing_ok=True)
        with atomic_path(path) as partial:
            values = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            for index, clip in enumerate(clips):
                values[index] = clip_levels(clip, codec, frames).half().numpy()
            values.flush()
            del values
        with atomic_path(said) as partial:
            partial.write_text(json.dumps(key), encoding="utf-8")
    return LevelFile(np.load(path, mmap_mode="r"))


@torch.no_grad()
def clip_levels(path: Path, codec: SpectralCodec, frames: int) -> Tensor:
    """Levels [frames * stack, bands] of a clip, neither centred nor weighted."""
    sound = io.read(path)
    mono = io.with_channels(sound.samples, 1)
    samples = torch.from_numpy(io.resample(mono, sound.sample_rate, codec.sample_rate))
    wanted = frames * codec.hop_length
    samples = F.pad(samples[:, :wanted], (0, max(0, wanted - samples.shape[1])))
    margin = codec.spectrum.margin
    amplitudes = codec.bands.amplitudes(
        codec.spectrum.analyse(F.pad(samples, (margin, margin))).abs()
    )
    return torch.log1p(amplitudes / codec.config.floor)[0]
