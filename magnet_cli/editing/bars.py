"""Makes sounds of a given number of bars at a tempo: tries a few seeds and stretches the closest.

To a model the tempo is one word of the prompt among others, so its result is approximate. A result within
MOST_STRETCH of the tempo is stretched to exact length; others stay unchanged.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from magnet_cli.audio.stretch import check_stretch, stretched
from magnet_cli.audio.tempo import MOST_MISSED, Cut, cut_on_bars, cut_on_beat, hear, missed_at
from magnet_cli.editing import pieces
from magnet_cli.editing.looping import SHORTEST, Beat, Loop, close_loop, directions, frames_to_hear
from magnet_cli.editing.pieces import Direction
from magnet_cli.models.text import TEMPO
from magnet_cli.pipeline import Pipeline
from magnet_cli.settings import MOST_STRETCH, TRIES, BarsConfig, required, steady

# Relative error of the tempo that ends the search, if a loop's seam is good, too.
_NEAR = 0.01


@dataclass(frozen=True)
class Bars:
    """The result of `make_bars`."""

    codes: Tensor  # int64 [1, K, T], not stretched
    audio: Tensor  # float32 [C, samples] on the CPU
    settings: dict[str, Any]  # JSON types
    tried: int  # number of seeds tried
    beat: Beat | None  # None: no steady beat
    loop: Loop | None = None  # if a loop was wanted


@dataclass(frozen=True)
class _Try:
    direction: Direction
    piece: pieces.Piece
    audio: Tensor  # float32 [C, samples] on the CPU
    cut: Cut | None
    off: float  # relative error of its beat's length; infinity: no beat
    seam: float  # of a loop: error at the seam, as a share of a beat; else 0
    held: bool = False  # its bars were repeated at the prompt's tempo: no seed comes closer

    @property
    def rank(self) -> tuple[float, float]:
        """Lowest for the best try. If it can be stretched, the seam counts, too."""
        if self.off > MOST_STRETCH:
            return (self.off, self.seam)
        return (0.0, self.off + self.seam)


def with_tempo(prompt: str | None, bpm: float) -> str | None:
    """Set the tempo in a prompt, replacing another one. None and "" stay unchanged."""
    if not prompt:
        return prompt
    said = f"{bpm:g} bpm"
    return TEMPO.sub(said, prompt) if TEMPO.search(prompt) else f"{prompt}, {said}"


def make_bars(
    model: Pipeline, direction: Direction, bars: BarsConfig, loop: bool = False, **hooks: Any
) -> Bars:
    """Make bars at a tempo from the best of a few seeds.

    The first try uses the direction's seed. The settings record the chosen seed, which makes the same in a
    single try.

    Raises UsageError: the library for stretching is missing, or the model cannot do it.
    """
    check_stretch()
    bpm, seconds = required(bars.bpm), required(bars.seconds)
    cues = tuple(
        dataclasses.replace(cue, prompt=with_tempo(cue.prompt, bpm)) for cue in direction.cues
    )
    config = steady(direction.config, model.parts.defaults)
    direction = dataclasses.replace(direction, cues=cues, config=config)
    best, tried = None, 0
    for each in directions(direction, bars.tries or TRIES):
        tried += 1
        one = _tried(model, each, bars, loop, hooks)
        best = one if best is None or one.rank < best.rank else best
        if (best.off <= _NEAR or best.held) and best.seam <= MOST_MISSED / 2:
            break
    assert best is not None
    cut, size = best.cut, round(seconds * model.sample_rate)
    frames = round(seconds * model.frame_rate) if cut is None else cut.frames
    codes, settings, closed = best.piece.codes[..., :frames], best.piece.settings, None
    made = frames * model.codec.hop_length
    # Without a beat, only stretch by the fraction of a frame.
    length = size if cut is None or best.off <= MOST_STRETCH + 1e-6 else made
    if loop:
        closed = close_loop(model, best.direction, codes, on_step=hooks.get("on_step"))
        codes, settings, audio = closed.codes, closed.settings, closed.audio[0].numpy()
        audio = stretched(audio, model.sample_rate, length, loop=True)
    else:
        # Stretch more than is needed and cut, so that it does not fade at the end.
        audio, whole = best.audio.numpy(), round(best.audio.shape[-1] * length / made)
        audio = stretched(audio, model.sample_rate, whole)[:, :length]
    beat = None
    if cut is not None:
        beat = Beat(bpm if length == size else cut.bpm, cut.beats, cut.off, length / made)
        settings = settings | {"edit": settings["edit"] | {"beat": beat.record()}}
    return Bars(codes, torch.from_numpy(audio), settings, tried, beat, closed)


def frames_of(model: Pipeline, bars: BarsConfig) -> int:
    """Frames to generate before cutting: enough for the slowest beat that can be stretched."""
    frames = required(bars.seconds) * model.frame_rate
    return max(frames_to_hear(model, round(frames)), math.ceil(frames * (1 + MOST_STRETCH)) + 1)


def _tried(
    model: Pipeline, direction: Direction, bars: BarsConfig, loop: bool, hooks: dict[str, Any]
) -> _Try:
    piece = pieces.extend(model, direction, frames_of(model, bars), **hooks)
    audio = model.decode_audio(piece.codes.to(model.device))[0]
    heard = hear(audio.mean(0).numpy(), model.sample_rate)
    seconds = required(bars.seconds)
    # Seconds of so many of the model's bars.
    own = piece.bar * required(bars.bars) / model.frame_rate
    held = cut_on_bars(heard, own, model.frame_rate, piece.bar)
    cut = held or cut_on_beat(heard, seconds, model.frame_rate, bars.beats, loop)
    if cut is None or cut.frames < SHORTEST:
        seam = missed_at(heard, seconds) if loop else 0.0
        return _Try(direction, piece, audio, None, math.inf, seam)
    wanted = cut.beats * 60 / required(bars.bpm)
    off = abs(cut.frames / model.frame_rate / wanted - 1)
    if cut.beats != bars.beats:  # too slow for that many
        off = max(off, 2 * MOST_STRETCH)
    return _Try(direction, piece, audio, cut, off, cut.off if loop else 0.0, held is not None)
