"""Judges a clip: instrument and drums by the tagger, tempo by librosa."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from torch import Tensor

from recipes.nano.compose.styles import TEMPI, bpm
from recipes.nano.judges.tagger import SAMPLE_RATE, TAGS, Tagger

# The tags for each instrument. The tagger lacks some instruments, which are judged by the nearest tags it
# has.
INSTRUMENT_TAGS = {
    "piano": ("piano",),
    "electric piano": ("piano", "synth"),
    "harpsichord": ("harpsichord",),
    "vibraphone": ("piano", "harp", "synth"),
    "organ": ("choral", "choir", "synth"),
    "classical guitar": ("guitar",),
    "acoustic guitar": ("guitar",),
    "electric guitar": ("guitar", "rock", "metal"),
    "violin": ("violin", "strings"),
    "cello": ("cello", "violin", "strings"),
    "strings": ("strings", "violin", "cello"),
    "harp": ("harp",),
    "choir": ("choir", "choral", "opera"),
    "trumpet": ("violin", "flute", "synth"),
    "flute": ("flute",),
    "sitar": ("sitar", "indian"),
    "synth lead": ("synth", "electronic", "techno"),
    "synth pad": ("synth", "ambient", "new_age", "electronic"),
}
NAMING = sorted({tag for tags in INSTRUMENT_TAGS.values() for tag in tags})
QUESTIONS = ("instrument", "drums", "tempo")  # the fields of a verdict
DRUM_TAGS = ("drums", "beat", "beats", "techno", "dance")


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for; None if it leaves it open or it cannot be judged."""

    instrument: str | None
    drums: bool | None
    tempo_class: str | None


@dataclass(frozen=True)
class Heard:
    """The judges' results for a clip."""

    tags: Tensor  # float [50], mean over the patches
    embeddings: Tensor  # float [patches, 200]
    drum_score: float
    tempo: float  # beats a minute


@dataclass(frozen=True)
class Verdict:
    """Whether what was asked for was heard; None if it was not asked for."""

    instrument: bool | None
    drums: bool | None
    tempo: bool | None


def listen(clip: Tensor, rate: int, tagger: Tagger) -> Heard:
    """Judge a clip [channels, samples]."""
    import librosa  # only this needs recipes/nano/requirements.txt

    mono = soxr.resample(clip.mean(0).numpy(), rate, SAMPLE_RATE).astype(np.float32)
    patch_tags, embeddings = tagger(torch.from_numpy(mono))
    tags = patch_tags.mean(0)
    tempo = librosa.feature.tempo(y=mono, sr=SAMPLE_RATE)
    drum_score = max(float(tags[TAGS.index(tag)]) for tag in DRUM_TAGS)
    return Heard(tags, embeddings, drum_score, float(np.atleast_1d(tempo)[0]))


def judge(heard: Heard, wanted: Wanted, drum_threshold: float) -> Verdict:
    """Compare what was heard with what was asked for."""
    instrument = drums = tempo = None
    if wanted.instrument is not None:
        ranked = sorted(NAMING, key=lambda tag: -float(heard.tags[TAGS.index(tag)]))
        instrument = bool(set(ranked[:3]) & set(INSTRUMENT_TAGS[wanted.instrument]))
    if wanted.drums is not None:
        drums = (heard.drum_score > drum_threshold) == wanted.drums
    if wanted.tempo_class is not None:
        # Trackers find double or half the written tempo as often; so do listeners.
        slow_end, fast_end = tempo_range(wanted.tempo_class)
        tempo = any(slow_end <= heard.tempo * factor <= fast_end for factor in (0.5, 1.0, 2.0))
    return Verdict(instrument, drums, tempo)


def tempo_range(tempo_class: str) -> tuple[float, float]:
    """Beats a minute of a class, with 4 % to spare on each side."""
    tempi = [bpm(frames) for frames in TEMPI[tempo_class]]
    return 0.96 * min(tempi), 1.04 * max(tempi)


def drum_threshold(heard: Sequence[Heard], drums: Sequence[bool]) -> float:
    """The drum score that best separates clips with drums from those without (balanced accuracy)."""
    scores = np.array([h.drum_score for h in heard])
    truth = np.array(drums)
    if truth.all() or not truth.any():
        raise ValueError("clips with drums and clips without are needed to tell them apart")

    def balanced(threshold: float) -> float:
        over = scores > threshold
        return float(over[truth].mean() + (~over[~truth]).mean())

    return float(max(scores, key=balanced))


def rates(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """For each question, the share of clips heard right among those that ask for it; NaN if none."""
    answers = {question: _answers(verdicts, question) for question in QUESTIONS}
    return {
        question: sum(given) / len(given) if given else float("nan")
        for question, given in answers.items()
    }


def judged(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """For each question, the number of clips that ask for it: what `rates` are shares of."""
    return {question: len(_answers(verdicts, question)) for question in QUESTIONS}


def percent_of(share: float, count: int) -> str:
    """Format as "68 % of 41", so that a share of few clips is not mistaken for one of all; "–" if there are
    none."""
    return f"{100 * share:.0f} % of {count}" if count else "–"


def _answers(verdicts: Sequence[Verdict], question: str) -> list[bool]:
    return [answer for v in verdicts if (answer := getattr(v, question)) is not None]
