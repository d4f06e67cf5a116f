"""Between sounds and codes: from a stored sound to the model's codes, and from codes to a stream."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from magnet_cli.audio.loudness import SILENCE, peak_of
from magnet_cli.audio.sound import Samples, Sound, heard_with
from magnet_cli.decoding.contracts import OnStep, StepEvent
from magnet_cli.errors import AudioFileError
from magnet_cli.pipeline import Pipeline

SHORTEST = 0.1  # seconds
LONGEST = 3600.0  # seconds that are encoded at once: an hour of mono at 32 kHz takes 460 MB
MARGIN = 1.0  # seconds around a part that are encoded and decoded with it, then cut off


def frames_in(model: Pipeline, sound: Sound) -> int:
    """Frames of the model's codec that hold the whole sound."""
    return frames_holding(model, sound.duration)


def whole_frames_in(model: Pipeline, sound: Sound) -> int:
    """Frames that the sound fills: its last frame may hold less than a frame is long."""
    return int(sound.duration * model.frame_rate + 1e-6)


def frames_holding(model: Pipeline, seconds: float) -> int:
    """The fewest frames that hold `seconds`: rounding adds none to a length of whole frames."""
    return max(1, math.ceil(seconds * model.frame_rate - 1e-6))


def samples_at(model: Pipeline, sound: Sound, frame: int) -> int:
    """Where a frame begins, in samples of the sound's own rate; never past its end."""
    return min(round(frame / model.frame_rate * sound.sample_rate), sound.length)


def encode_sound(model: Pipeline, sound: Sound) -> Tensor:
    """The codes of a whole sound, int64 [1, K, frames_in] on the CPU.

    Raises:
        AudioFileError: it is too short, too long, silent or damaged.
    """
    return encode(model, hear(model, sound, 0, frames_in(model, sound)))


def encode(model: Pipeline, heard: Tensor) -> Tensor:
    """Audio of whole frames, of `hear` -> codes int64 [1, K, frames] on the CPU."""
    with torch.inference_mode():
        codes = model.codec.encode(heard.to(model.device))
    return codes.cpu().clone()  # outside: a tensor that may be written to


def hear(model: Pipeline, sound: Sound, first: int, last: int) -> Tensor:
    """Frames `first` up to `last` of a sound as the model hears them, float32 [1, C, frames * hop].

    The sound is resampled, and mixed to the model's channels: many to one by the mean, one to many
    by copies. What the last frame lacks is silence.

    Raises:
        AudioFileError: it is too short, too long, silent or damaged.
    """
    if sound.duration < SHORTEST:
        raise AudioFileError(
            f"{sound.name} is too short ({sound.duration:.3f} s).",
            f"Give {SHORTEST:g} s or more.",
        )
    if (last - first) / model.frame_rate > LONGEST:
        raise AudioFileError(
            f"{sound.name} is too long to be encoded ({sound.duration / 3600:.1f} hours).",
            "Cut an hour or less out of it.",
        )
    start, stop = samples_at(model, sound, first), samples_at(model, sound, last)
    samples, _ = heard_with(sound, model.sample_rate, model.channels, start, stop)
    if peak_of(samples) < SILENCE:
        raise AudioFileError(
            f"{sound.name} is silent{_where(sound, start, stop)}.",
            "There is nothing to go on from; `magnet gen` starts from nothing.",
        )
    fitted = np.zeros((samples.shape[0], (last - first) * model.codec.hop_length), np.float32)
    length = min(fitted.shape[1], samples.shape[1])
    fitted[:, :length] = samples[:, :length]
    return torch.from_numpy(fitted)[None]


def decode_stream(
    model: Pipeline, codes: Tensor, length: int | None = None, on_step: OnStep | None = None
) -> Iterator[Samples]:
    """Codes [1, K, T] -> consecutive samples [C, n], each as long as the codec makes it at once.

    Args:
        length: samples after which to stop; None for all.
        on_step: told of each part; steps are seconds here.
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
