"""Seamless loops: the seam is generated in codes, and decoded with the loop's other end as context.

The piece is rotated by half, so that its end and beginning meet in the middle of a window, where the codes
are decoded again with both sides known. The former middle is now at the window's ends and stays continuous
there. No cross-fade is used.
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

from magnet_cli.audio.tempo import cut_on_bars, cut_on_beat, cut_on_pulse, hear, pulsing
from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing.pieces import (
    Direction,
    Filler,
    Piece,
    bars_said,
    check_codes,
    extend,
    need_masks,
)
from magnet_cli.editing.windows import Cue, Region, Window, derived_seed
from magnet_cli.errors import UsageError
from magnet_cli.pipeline import Pipeline
from magnet_cli.settings import LOOP_TRIES

SEAM_SECONDS = 1.0  # to decode again in the first pass, at most a quarter of the piece
MOST_PASSES = 4
SHORTEST = 8  # frames
CONTEXT_SECONDS = 2.0  # of the loop's other end, decoded on either side and cut off

_SPECTRUM = 1024  # samples per spectrum for `seam_flux`; the hop is a quarter


@dataclass(frozen=True)
class Beat:
    """The beat of a loop, whose length is a whole number of beats to within half a codec frame."""

    bpm: float
    beats: int
    off: float  # distance of the seam from the beat, as a share of a beat
    stretch: float = 1.0  # final length divided by generated length

    def record(self) -> dict[str, float | int]:
        """The beat as JSON types."""
        said = {"bpm": round(self.bpm, 2), "beats": self.beats, "off": round(self.off, 3)}
        return said if self.stretch == 1 else said | {"stretch": round(self.stretch, 4)}


@dataclass(frozen=True)
class Loop:
    """A piece whose end continues into its beginning."""

    codes: Tensor  # int64 [1, K, T]
    audio: Tensor  # float32 [1, C, T * hop], decoded around the seam
    seam_flux: float  # spectral flux at the seam
    body_flux: float  # 95th percentile of the flux elsewhere
    settings: dict[str, Any]  # JSON types
    beat: Beat | None = None  # None: no steady beat

    @property
    def seamless(self) -> bool:
        """Whether the flux at the seam is no higher than elsewhere."""
        return self.seam_flux <= self.body_flux


# Seconds to generate beyond the requested length, to find the beat: a quarter, but at most _MOST_MORE, and
# at least _LEAST_MORE if that needs no further window.
_MOST_MORE, _LEAST_MORE = 2.5, 4.0
# With this much pulse at both ends, nine loops in ten meet it at the seam; with less, try another seed.
_SURE = 0.25


def frames_to_hear(model: Pipeline, frames: int) -> int:
    """Frames to generate for a loop of about `frames` frames."""
    more = min(frames / 4, _MOST_MORE * model.frame_rate)
    room = min(_LEAST_MORE * model.frame_rate, model.segment_frames - frames)
    return frames + max(2, round(max(more, room)))


@dataclass(frozen=True)
class Take:
    """A piece from which to make a loop."""

    codes: Tensor  # int64 [1, K, T], as long as the loop
    beat: Beat | None  # None: no steady beat
    pulse: float | None  # without a beat: result of `pulsing`, None if there are no hits
    direction: Direction  # with the seed of this take
    tried: int  # number of takes of which it is the best

    @property
    def settles(self) -> bool:
        """Whether no other take is needed: it has a clear beat or pulse, or no hits at all."""
        return self.beat is not None or self.pulse is None or self.pulse >= _SURE

    @property
    def rank(self) -> float:
        """Highest for the steadiest take."""
        return math.inf if self.beat is not None else self.pulse or 0.0


def directions(direction: Direction, tries: int) -> Iterator[Direction]:
    """Yield `tries` directions with different seeds, the first with the given one."""
    for number in range(tries):
        seed = derived_seed(direction.seed, f"try {number}") if number else direction.seed
        yield dataclasses.replace(direction, seed=seed)


def best_take(
    model: Pipeline, direction: Direction, frames: int, tries: int | None = None, **hooks: Any
) -> Take:
    """The steadiest of a few pieces, cut to about `frames` frames so that the beat continues at the seam.

    Further pieces are made only if there are hits but no clear pulse at both ends; no more than `tries`.
    """
    best: Take | None = None
    for tried, one in enumerate(directions(direction, tries or LOOP_TRIES), start=1):
        piece = extend(model, one, frames_to_hear(model, frames), **hooks)
        take = _take(model, piece, frames, one)
        best = dataclasses.replace(
            take if best is None or take.rank > best.rank else best, tried=tried
        )
        if best.settles:
            break
    assert best is not None
    return best


def _take(model: Pipeline, piece: Piece, frames: int, direction: Direction) -> Take:
    """Cut a piece of at least `frames` frames to about `frames`: to whole bars if they were repeated, or else
    to a whole number of beats, or else of its strongest pulse, or else to exactly `frames`."""
    audio = model.decode_audio(piece.codes.to(model.device))[0].mean(0).numpy()
    about = hear(audio, model.sample_rate), frames / model.frame_rate
    rate = model.frame_rate
    cut = cut_on_bars(*about, rate, piece.bar) or cut_on_beat(*about, rate)
    if cut is not None and cut.frames >= SHORTEST:
        beat = Beat(cut.bpm, cut.beats, cut.off)
        return Take(piece.codes[..., : cut.frames], beat, None, direction, 1)
    length = max(cut_on_pulse(*about, rate) or frames, SHORTEST)
    return Take(piece.codes[..., :length], None, pulsing(*about), direction, 1)


def close_loop(
    model: Pipeline,
    direction: Direction,
    codes: Tensor,
    beat: Beat | None = None,
    *,
    found: bool = False,
    on_step: OnStep | None = None,
) -> Loop:
    """Make a piece into a loop of the same length by decoding again where its end meets its beginning.

    While the seam is audible it is decoded again, wider each time; the best pass is kept.

    Args:
        model: a masked or hybrid one.
        codes: int64 [1, K, T], generated or encoded, of any length.
        beat: the beat that its length fits, for the record.
        found: whether the codes are of an existing sound, not generated by the direction.

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
    """Yield passes, each with a wider seam and another seed. Arguments as for `close_loop`."""
    check_codes(model, codes)
    frames = codes.shape[-1]
    check_loop(model, frames)
    # The cut to whole beats may leave out the last cues.
    kept = [cue for cue in direction.cues if cue.start < frames / model.frame_rate]
    played = dataclasses.replace(direction, cues=tuple(kept))
    whole = Filler(model, played, frames, bars=bars_said(model, direction) if found else None)
    for turn in range(MOST_PASSES):
        seconds = SEAM_SECONDS * (1 + turn / 2)
        width = max(2, min(round(seconds * model.frame_rate), frames // 4))
        seed = derived_seed(direction.seed, f"loop {turn}")
        turned = dataclasses.replace(played, seed=seed)
        closed = _close(model, turned, codes, width, whole.request.bars, found, on_step)
        audio = decode_around(model, closed)
        at_seam, in_body = seam_flux(audio[0].mean(0).numpy())
        known = torch.ones_like(closed, dtype=torch.bool)
        known[..., : width - width // 2] = known[..., frames - width // 2 :] = False
        settings = whole.describe(
            *("loop", known),
            cues=[[cue.start, cue.prompt] for cue in direction.cues],
            passes=turn + 1,
            seam_flux=at_seam,
            body_flux=in_body,
        )
        yield Loop(closed, audio, at_seam, in_body, settings)


def check_loop(model: Pipeline, frames: int) -> None:
    """Raise UsageError if the model is autoregressive, or the loop is too short."""
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
    found: bool,
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
    # A piece starts with a bar, and the loop of whole bars goes on with one at the seam.
    in_bars = not found and any(bars) and all(frames % bar == 0 for bar in bars)
    since = frames - before if in_bars else None
    filler = Filler(model, around, size, on_step, bars=bars, since=since)
    for _ in filler.fill(turned, open_, [Window(0, size, (seam,))]):
        pass

    closed = codes.to("cpu", copy=True)
    closed[..., frames - before :] = turned[..., :before]
    closed[..., : size - before] = turned[..., before:]
    return closed


@torch.inference_mode()
def decode_around(model: Pipeline, codes: Tensor) -> Tensor:
    """Decode a loop's codes [1, K, T] to float32 [1, C, T * hop] on the CPU, as if it repeated forever."""
    context = round(CONTEXT_SECONDS * model.frame_rate)
    return model.codec.decode_loop(codes.to(model.device), context).float().cpu().clone()


def seam_flux(samples: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Spectral flux of a loop [N] at its seam, and the 95th percentile elsewhere.

    Flux is the sum of absolute changes between magnitude spectra of consecutive windows. For each place it
    is the maximum over windows that touch it, so that seam and body are measured alike.
    """
    size = _SPECTRUM
    while size > 16 and size * 16 > len(samples):
        size //= 2
    hop = size // 4
    seam = len(samples) // 2
    turned = np.roll(samples, seam)  # the seam is now in the middle
    frames = np.lib.stride_tricks.sliding_window_view(turned, size)[::hop]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(size), axis=-1))
    flux = np.abs(np.diff(spectra, axis=0)).sum(-1)  # flux[j]: windows at j * hop, (j + 1) * hop
    touching = size // hop + 1
    highest = np.lib.stride_tricks.sliding_window_view(flux, touching).max(-1)
    # highest[j] is for the place that windows j to j + touching have in common.
    at = min(max(seam // hop - touching + 1, 0), len(highest) - 1)
    body = np.delete(highest, slice(max(at - touching, 0), at + touching + 1))
    body = body if len(body) else highest
    return float(highest[at]), float(np.percentile(body, 95))
