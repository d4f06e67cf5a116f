"""The tagger: musicnn's MagnaTagATune network (Pons & Serra, 2019, arXiv 1909.06654), run in torch.

Its weights are read from the package's wheel, downloaded with `pip download musicnn --no-deps`. The wheel's
code has the ISC licence; the weights were trained on MagnaTagATune and are only used for evaluation here.
"""

from __future__ import annotations

import functools
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.nano.judges.tensorflow_bundle import read_bundle

SAMPLE_RATE = 16_000
N_FFT = 512
HOP = 256
N_MELS = 96
PATCH_FRAMES = 187  # three seconds, as in the network's training
TAGS = (  # noqa: SIM905
    "guitar classical slow techno strings drums electronic rock fast piano ambient beat violin "
    "vocal synth female indian opera male singing vocals no_vocals harpsichord loud quiet flute "
    "woman male_vocal no_vocal pop soft sitar solo man classic choir voice new_age dance "
    "male_voice female_vocal beats harp cello no_voice weird country metal female_voice choral"
).split()


class Tagger(nn.Module):
    """Audio at 16 kHz -> probabilities of 50 tags and a 200-d embedding, one of each per 3 s patch."""

    def __init__(self, wheel: Path) -> None:
        super().__init__()
        for name, tensor in _wheel_tensors(wheel).items():
            self.register_buffer(name.replace("/", "__"), torch.from_numpy(tensor.copy()))

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio [samples] -> tags [patches, 50], embeddings [patches, 200]."""
        return self.judge(patches(audio))

    @torch.inference_mode()
    def judge(self, mels: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel patches [P, 187, 96] -> tags [P, 50], embeddings [P, 200]."""
        x = self._norm(mels[:, None], 0)  # [P, 1, frames, mels]
        wide = F.pad(x, (0, 0, 3, 3))
        front = [self._block(wide, 0, 1), self._block(wide, 1, 2)]  # timbre
        for conv, norm in (
            (2, 3),
            (3, 4),
            (4, 5),
        ):  # rhythm: long kernels, padded as TensorFlow does
            taps = self._weight(f"conv2d_{conv}__kernel").shape[0]
            padded = F.pad(x, (0, 0, (taps - 1) // 2, taps - 1 - (taps - 1) // 2))
            front.append(self._block(padded, conv, norm))
        feature = torch.cat(front, dim=1)  # [P, 561, frames]
        first = self._mid(feature, 5, 6)
        second = self._mid(first, 6, 7) + first
        third = self._mid(second, 7, 8) + second
        maps = torch.cat([feature, first, second, third], dim=1)  # [P, 753, frames]
        pooled = torch.stack([maps.amax(-1), maps.mean(-1)], dim=-1).flatten(1)
        pooled = self._norm(pooled, 9)
        hidden = F.relu(pooled @ self._weight("dense__kernel") + self._weight("dense__bias"))
        embedding = self._norm(hidden, 10)
        logits = embedding @ self._weight("dense_1__kernel") + self._weight("dense_1__bias")
        return torch.sigmoid(logits), embedding

    def _weight(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def _norm(self, x: Tensor, index: int) -> Tensor:
        name = f"batch_normalization{f'_{index}' if index else ''}__"
        stats = [self._weight(name + part) for part in ("moving_mean", "moving_variance")]
        scale = [self._weight(name + part) for part in ("gamma", "beta")]
        return F.batch_norm(x, *stats, *scale, eps=1e-3)

    def _conv(self, x: Tensor, index: int) -> Tensor:
        name = f"conv2d{f'_{index}' if index else ''}__"
        kernel = self._weight(name + "kernel").permute(3, 2, 0, 1)
        return F.relu(F.conv2d(x, kernel, self._weight(name + "bias")))

    def _block(self, x: Tensor, conv: int, norm: int) -> Tensor:
        """[P, 1, frames, mels] -> [P, filters, frames]: the maximum over the frequency axis."""
        return self._norm(self._conv(x, conv), norm).amax(-1)

    def _mid(self, x: Tensor, conv: int, norm: int) -> Tensor:
        """[P, C, frames] -> [P, 64, frames]."""
        plane = F.pad(x.transpose(1, 2)[:, None], (0, 0, 3, 3))
        return self._norm(self._conv(plane, conv), norm)[..., 0]


def patches(audio: Tensor) -> Tensor:
    """Audio [samples] at 16 kHz -> consecutive log-mel patches [P, 187, 96] without overlap.

    The network was trained on mels rounded to float16 and then scaled by 10000; only the rounding is done in
    float16 here, since the product would overflow.

    Raises:
        ValueError: the audio is shorter than a patch.
    """
    spectrum = torch.stft(
        audio, N_FFT, HOP, window=torch.hann_window(N_FFT), pad_mode="reflect", return_complex=True
    )
    mels = (mel_matrix() @ spectrum.abs().square()).T.half().float()
    frames = torch.log10(10_000 * mels + 1)
    count = len(frames) // PATCH_FRAMES
    if count == 0:
        raise ValueError("The tagger needs at least three seconds of audio.")
    return frames[: count * PATCH_FRAMES].reshape(count, PATCH_FRAMES, N_MELS)


@functools.lru_cache(maxsize=1)
def mel_matrix() -> Tensor:
    """Slaney's mel filters [96, 257], each of unit area, as the network was trained with."""
    bins = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE / 2), N_MELS + 2))
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(filters).float()


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale: linear up to 1 kHz (15 mel), logarithmic above."""
    return hz / (200 / 3) if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))


def _wheel_tensors(wheel: Path) -> dict[str, np.ndarray]:
    """The network's tensors from the package's wheel; the optimizer's are left out."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith("musicnn/MTT_musicnn/."):
                archive.extract(member, folder)
        tensors = read_bundle(f"{folder}/musicnn/MTT_musicnn/")
    return {name: tensor for name, tensor in tensors.items() if "Adam" not in name and "/" in name}
