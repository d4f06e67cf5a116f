"""Renders a batch of plans to finished clips: synthesized, mixed with one-shots, normalized, without
clipping."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pyloudnorm

from recipes.nano.compose.composer import compose
from recipes.nano.compose.effects import synthesise
from recipes.nano.compose.kits import ONE_SHOT_KITS, one_shot_drums, vinyl_hiss
from recipes.nano.compose.noise import Array, lowpass
from recipes.nano.compose.plan import Plan
from recipes.nano.compose.score import CLIP_SAMPLES, SAMPLE_RATE, Score
from recipes.nano.compose.soundfont import render_notes
from recipes.nano.compose.styles import STYLES

TARGET_LUFS = -18.0
PEAK = 0.89  # -1 dBFS
HISS_DB = -26.0  # peak of the crackle relative to the music
_METER = pyloudnorm.Meter(SAMPLE_RATE)


def render_batch(plans: Sequence[Plan]) -> list[tuple[Array, Score | None]]:
    """Audio (mono, `CLIP_SAMPLES`, 32 kHz) and score of each plan, in order; effects have no score."""
    scores = [None if plan.kind == "effect" else compose(plan) for plan in plans]
    clips: list[Array] = [np.zeros(CLIP_SAMPLES) for _ in plans]
    for font in sorted({plan.soundfont for plan in plans}):
        chosen = [
            (i, score)
            for i, score in enumerate(scores)
            if score is not None and plans[i].soundfont == font and _needs_soundfont(score)
        ]
        if chosen:
            rendered = render_notes([score for _, score in chosen], font)
            for (i, _), clip in zip(chosen, rendered, strict=True):
                clips[i] = clip
    return [
        (_finished(plan, score, clip), score)
        for plan, score, clip in zip(plans, scores, clips, strict=True)
    ]


def _needs_soundfont(score: Score) -> bool:
    return bool(score.notes) or score.kit not in ONE_SHOT_KITS


def _finished(plan: Plan, score: Score | None, notes: Array) -> Array:
    if score is None:
        return levelled(synthesise(plan.seed, plan.index, plan.effects), TARGET_LUFS)
    mix = levelled(notes, TARGET_LUFS, peak=None)
    if score.kit in ONE_SHOT_KITS:
        drums = one_shot_drums(score.hits, score.kit, score.kit_variant)
        offset = STYLES[plan.style].drums_level_db if plan.style else 0.0
        mix = mix + levelled(drums, TARGET_LUFS + offset, peak=None)
    if score.lowpass_hz is not None and score.notes:
        mix = lowpass(mix, score.lowpass_hz)
    mix = levelled(mix, TARGET_LUFS)
    if score.hiss:
        mix = mix + vinyl_hiss() * 10 ** (HISS_DB / 20)
    return np.clip(mix, -PEAK, PEAK) if np.abs(mix).max() > PEAK else mix


def levelled(audio: Array, lufs: float, peak: float | None = PEAK) -> Array:
    """Normalize audio to a loudness (ITU-R BS.1770), or as near as the peak allows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # silence has no loudness and is left unchanged
        loudness = _METER.integrated_loudness(audio)
    highest = float(np.abs(audio).max())
    if highest == 0.0 or not np.isfinite(loudness):
        return audio
    gain = 10 ** ((lufs - loudness) / 20)
    return audio * (gain if peak is None else min(gain, peak / highest))
