"""Seamless loops. The seam is made in codes, and decoded with the loop's own other end around it.

The piece is turned by half, so that its end and its beginning meet in the middle of a window; the
codes there are decoded again with both sides known. What lay in the middle is now at the window's
ends, and goes on across them as it did before. No fade hides anything.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from magnet_cli.audio.tempo import cut_on_beat, cut_on_pulse, hear, pulsing
from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing.pieces import Direction, Filler, bars_said, check_codes, extend, need_masks
from magnet_cli.editing.windows import Cue, Region, Window, derived_seed
from magnet_cli.errors import UsageError
from magnet_cli.pipeline import Pipeline
from magnet_cli.settings import LOOP_TRIES

SEAM_SECONDS = 1.0  # decoded again in the first pass, at most a quarter of the piece
MOST_PASSES = 4
SHORTEST = 8  # frames
CONTEXT_SECONDS = 2.0  # of the loop's other end, decoded on either side and cut off

_SPECTRUM = 1024  # samples of the spectra that a seam is judged by, a quarter of it apart


@dataclass(frozen=True)
class Beat:
    """The beat of a loop, which is a whole number of them long, to half a frame of the codec."""

    bpm: float
    beats: int
    off: float  # how far the seam is from the beat, as a share of one
    stretch: float = 1.0  # how many times as long it is as it was made

    def record(self) -> dict[str, float | int]:
        """As JSON-able values."""
        said = {"bpm": round(self.bpm, 2), "beats": self.beats, "off": round(self.off, 3)}
        return said if self.stretch == 1 else said | {"stretch": round(self.stretch, 4)}


@dataclass(frozen=True)
class Loop:
    """A piece whose end goes on into its beginning."""

    codes: Tensor  # int64 [1, K, T]
    audio: Tensor  # float32 [1, C, T * hop], decoded around the seam
    seam_flux: float  # spectral flux at the seam
    body_flux: float  # the 95th percentile of the same everywhere else
    settings: dict[str, Any]  # JSON-able
    beat: Beat | None = None  # None: it has none that is steady

    @property
    def seamless(self) -> bool:
        """The seam stands out no more than the body does."""
        return self.seam_flux <= self.body_flux


# Made beyond the length that is asked for, to hear the beat in: a quarter, but no more seconds than the
# first, and no fewer than the second where that costs no other window of the model.
_MOST_MORE, _LEAST_MORE = 2.5, 4.0
# With so much of a pulse at both ends nine in ten meet it at the seam; with less another seed may do better.
_SURE = 0.25


def frames_to_hear(model: Pipeline, frames: int) -> int:
    """How long a piece is made of which a loop of about `frames` frames is cut."""
    more = min(frames / 4, _MOST_MORE * model.frame_rate)
    room = min(_LEAST_MORE * model.frame_rate, model.segment_frames - frames)
    return frames + max(2, round(max(more, room)))


@dataclass(frozen=True)
class Take:
    """A piece that a loop is made of."""

    codes: Tensor  # int64 [1, K, T], as long as the loop
    beat: Beat | None  # None: it has none that is steady
    pulse: float | None  # of what has none: as of `pulsing`; None: there are no hits either
    direction: Direction  # with its own seed
    tried: int  # it was the best of so many

    @property
    def settles(self) -> bool:
        """No other is asked for: its beat can be told, or it is none of what has a beat."""
        return self.beat is not None or self.pulse is None or self.pulse >= _SURE

    @property
    def rank(self) -> float:
        """The highest is the steadiest."""
        return math.inf if self.beat is not None else self.pulse or 0.0


def directions(direction: Direction, tries: int) -> Iterator[Direction]:
    """As many directions as are to be tried, each with its own seed: the first with what is given."""
    for number in range(tries):
        seed = derived_seed(direction.seed, f"try {number}") if number else direction.seed
        yield dataclasses.replace(direction, seed=seed)


def best_take(
    model: Pipeline, direction: Direction, frames: int, tries: int | None = None, **hooks: Any
) -> Take:
    """The steadiest of a few pieces, cut to about `frames` frames such that its beat meets itself.

    More than one is made only where there are hits, and no pulse that is sure at both ends.

    Args:
        tries: seeds; None: LOOP_TRIES.
        hooks: as of `pieces.growing`.
    """
    best: Take | None = None
    for tried, one in enumerate(directions(direction, tries or LOOP_TRIES), start=1):
        codes = extend(model, one, frames_to_hear(model, frames), **hooks).codes
        take = _take(model, codes, frames, one)
        best = dataclasses.replace(
            take if best is None or take.rank > best.rank else best, tried=tried
        )
        if best.settles:
            break
    assert best is not None
    return best


@torch.inference_mode()
def _take(model: Pipeline, codes: Tensor, frames: int, direction: Direction) -> Take:
    """The beginning of a piece [1, K, T], T at least `frames`, that is near to `frames` frames and meets its
    beat; without one its strongest pulse; where nothing pulses `frames`."""
    audio = model.codec.decode(codes.to(model.device)).float().cpu()[0].mean(0).numpy()
    about = hear(audio, model.sample_rate), frames / model.frame_rate
    cut = cut_on_beat(*about, model.frame_rate)
    if cut is not None and cut.frames >= SHORTEST:
        beat = Beat(cut.bpm, cut.beats, cut.off)
        return Take(codes[..., : cut.frames], beat, None, direction, 1)
    length = max(cut_on_pulse(*about, model.frame_rate) or frames, SHORTEST)
    return Take(codes[..., :length], None, pulsing(*about), direction, 1)


def close_loop(
    model: Pipeline,
    direction: Direction,
    codes: Tensor,
    beat: Beat | None = None,
    *,
    found: bool = False,
    on_step: OnStep | None = None,
) -> Loop:
    """Make a piece into a loop of the same length: decode again where its end meets its beginning.

    Where the seam can be told from the body it is decoded again, wider each time, and the best pass
    is kept.

    Args:
        model: a masked or hybrid one.
        codes: int64 [1, K, T], generated or encoded, of any length.
        beat: what it is as long as, of `on_the_beat`.
        found: the codes are of a sound that was there, not made as the direction says.

    Raises:
        UsageError: the model is autoregressive, or the piece is too short.
    """
    best: Loop | None = None
    for loop in loops(model, direction, codes, found=found, on_step=on_step):
        if best is None or loop.seam_flux - loop.body_flux < best.seam_flux - best.body_flux:
            best = loop
        if best.seamless:
            break
    assert best is not None
    if beat is None:
        return best
    edit = best.settings["edit"] | {"beat": beat.record()}
    return dataclasses.replace(best, beat=beat, settings=best.settings | {"edit": edit})


def loops(
    model: Pipeline,
    direction: Direction,
    codes: Tensor,
    *,
    found: bool = False,
    on_step: OnStep | None = None,
) -> Iterator[Loop]:
    """One pass after the other, each with a wider seam and another seed. Arguments as `close_loop`."""
    check_codes(model, codes)
    frames = codes.shape[-1]
    check_loop(model, frames)
    whole = Filler(model, direction, frames, bars=bars_said(model, direction) if found else None)
    for turn in range(MOST_PASSES):
        seconds = SEAM_SECONDS * (1 + turn / 2)
        width = max(2, min(round(seconds * model.frame_rate), frames // 4))
        seed = derived_seed(direction.seed, f"loop {turn}")
        turned = dataclasses.replace(direction, seed=seed)
        closed = _close(model, turned, codes, width, whole.request.bars, on_step)
        audio = decode_around(model, closed)
        at_seam, in_body = seam_flux(audio[0].mean(0).numpy())
        known = torch.ones_like(closed, dtype=torch.bool)
        known[..., : width - width // 2] = known[..., frames - width // 2 :] = False
        settings = whole.describe(
            "loop", known, passes=turn + 1, seam_flux=at_seam, body_flux=in_body
        )
        yield Loop(closed, audio, at_seam, in_body, settings)


def check_loop(model: Pipeline, frames: int) -> None:
    """Refuse a loop that the model cannot close.

    Raises:
        UsageError: the model is autoregressive, or the loop is too short.
    """
    need_masks(model, "close a loop")
    if frames < SHORTEST:
        raise UsageError(
            f"A loop of {frames / model.frame_rate:g} s is too short.",
            f"Take {SHORTEST / model.frame_rate:g} s or more.",
        )


def _close(
    model: Pipeline,
    direction: Direction,
    codes: Tensor,
    width: int,
    bars: Sequence[float],
    on_step: OnStep | None,
) -> Tensor:
    """Decode `width` frames around the seam again: half of a window before it, half after it."""
    frames = codes.shape[-1]
    size = min(model.segment_frames, frames)
    before = size // 2
    turned = torch.cat([codes[..., frames - before :], codes[..., : size - before]], dim=-1).cpu()

    seam = Region(before - width // 2, before - width // 2 + width)
    open_ = torch.zeros_like(turned, dtype=torch.bool)
    open_[..., seam.start : seam.stop] = True
    first, last = direction.cues[0].prompt, direction.cues[-1].prompt
    cues = [Cue(0.0, last), Cue(before / model.frame_rate, first)]
    around = dataclasses.replace(direction, cues=tuple(cues[: 1 + (first != last)]))
    filler = Filler(model, around, size, on_step, bars=bars)
    for _ in filler.fill(turned, open_, [Window(0, size, (seam,))]):
        pass

    closed = codes.to("cpu", copy=True)
    closed[..., frames - before :] = turned[..., :before]
    closed[..., : size - before] = turned[..., before:]
    return closed


@torch.inference_mode()
def decode_around(model: Pipeline, codes: Tensor) -> Tensor:
    """Codes [1, K, T] of a loop -> float32 [1, C, T * hop] on the CPU, as if it had gone on forever."""
    context = round(CONTEXT_SECONDS * model.frame_rate)
    return model.codec.decode_loop(codes.to(model.device), context).float().cpu().clone()


def seam_flux(samples: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The spectral flux of a loop [N] at its seam, and its 95th percentile in the body.

    Flux is the sum of absolute changes between the magnitude spectra of windows a quarter apart. Of
    a place it is the highest flux between windows that touch the place, so seam and body are
    measured alike.
    """
    size = _SPECTRUM
    while size > 16 and size * 16 > len(samples):
        size //= 2
    hop = size // 4
    seam = len(samples) // 2
    turned = np.roll(samples, seam)  # the seam is in the middle now
    frames = np.lib.stride_tricks.sliding_window_view(turned, size)[::hop]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(size), axis=-1))
    flux = np.abs(np.diff(spectra, axis=0)).sum(-1)  # flux[j]: windows at j * hop, (j + 1) * hop
    touching = size // hop + 1
    highest = np.lib.stride_tricks.sliding_window_view(flux, touching).max(-1)
    # highest[j] is of the place that the windows from j to j + touching have in common.
    at = min(max(seam // hop - touching + 1, 0), len(highest) - 1)
    body = np.delete(highest, slice(max(at - touching, 0), at + touching + 1))
    body = body if len(body) else highest
    return float(highest[at]), float(np.percentile(body, 95))
