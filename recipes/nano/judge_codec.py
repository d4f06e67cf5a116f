"""Measure how well a codec preserves unseen clips, reproducibly.

    python -m recipes.nano.judge_codec --sounds DIR --codec DIR --tagger WHEEL [--notes WHEEL]
        [--splits valid]

On clips of the splits `valid`, `test` and `test_combo`, in turn. Choose settings with `--splits valid`: a
clip used for a choice is no longer unseen. The figures:

first, three  the tagger's first choice on the rendered clip is its first, is among its first three, on
              the reconstruction
distance      multi-resolution spectral distance (magnet_cli/evaluation/metrics.py), nepers
notes         F-measure of the notes that basic-pitch hears, against the score: rendered, reconstructed
tuning        median and 95th percentile of the shift of the strongest partial in steady half seconds
attack        rise of the level at the 50 steepest places of a clip, reconstructed over rendered
buzz          modulation of the loudness at the frame rate in clips without drums: rendered, reconstructed
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.audio.sound import open_sound
from magnet_cli.checkpoints.load import load_codec
from magnet_cli.checkpoints.place import find_codec
from magnet_cli.models.codec import AudioCodec
from recipes.nano.judges import tagger as tagging
from recipes.nano.judges.measures import (
    modulation_depth,
    note_scores,
    rank_agreement,
    spectral_distance,
)
from recipes.nano.judges.notes import SAMPLE_RATE as NOTES_RATE
from recipes.nano.judges.notes import NoteListener
from recipes.nano.judges.tagger import TAGS, Tagger

SPLITS = ("valid", "test", "test_combo")


def unseen_clips(sounds: Path, count: int, splits: Sequence[str] = SPLITS) -> list[dict[str, Any]]:
    """The first clips of each split, in turn."""
    manifests = [
        [json.loads(line) for line in (sounds / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in splits
    ]
    turns = [clip for clips in zip(*manifests, strict=False) for clip in clips]
    return turns[:count]


def read(path: Path, rate: int) -> Tensor:
    """A clip as mono samples [N] at `rate`."""
    with open_sound(path) as sound:
        return torch.from_numpy(sound.read(rate, 1))[0]


def tags_of(tagger: Tagger, sound: Tensor, rate: int) -> Tensor:
    """Mean tag probabilities [50] of a clip."""
    heard = soxr.resample(sound.numpy(), rate, tagging.SAMPLE_RATE)
    return tagger(torch.from_numpy(heard))[0].mean(0)


def detuning(reference: Tensor, other: Tensor, rate: int) -> list[float]:
    """Cents between the strongest partials of both, in half seconds where the pitch is clear."""
    found = []
    for first, second in zip(reference.split(rate // 2), other.split(rate // 2), strict=True):
        if len(first) < rate // 2 or float(first.square().mean()) < 1e-5:
            continue
        window = torch.hann_window(len(first))
        spectra = [torch.fft.rfft(sound * window, 4 * rate).abs() for sound in (first, second)]
        low, high = 4 * 80, 4 * 2000  # bins of 1/4 Hz
        peak = low + int(spectra[0][low:high].argmax())
        near = spectra[0][low:high] > 0.5 * spectra[0][peak]
        if int(near.sum()) > 16:  # several partials, or a broad one: no clear pitch
            continue
        reach = max(4, round(peak * 0.03))  # half a semitone
        moved = peak - reach + int(spectra[1][peak - reach : peak + reach + 1].argmax())
        found.append(abs(1200 * float(torch.log2(torch.tensor(moved / peak)))))
    return found


def attack(reference: Tensor, other: Tensor, rate: int) -> float:
    """Mean rise of the level in 10 ms at the 50 steepest places of the reference: other's over its own."""

    def levels(sound: Tensor) -> Tensor:
        power = F.avg_pool1d(sound.square()[None], rate // 100, rate // 200)[0]
        return 10 * torch.log10(power + 1e-6)

    rises = [(level[2:] - level[:-2]) for level in map(levels, (reference, other))]
    places = rises[0].topk(50).indices
    near = F.max_pool1d(rises[1][None], 5, 1, 2)[0]  # within 10 ms
    return float(near[places].mean() / rises[0][places].mean().clamp(min=0.1))


def f_measure(scores: tuple[float, float]) -> float:
    """The F-measure of precision and recall."""
    return 2 * scores[0] * scores[1] / max(sum(scores), 1e-9)


class CodecJudge:
    """The judges and their results so far."""

    def __init__(self, codec: AudioCodec, tagger: Tagger, listener: NoteListener | None) -> None:
        self.codec, self.tagger, self.listener = codec, tagger, listener
        self.tags: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.found: dict[str, list[float]] = {}
        self.missed: list[str] = []

    def hear(self, clip: dict[str, Any], sounds: Path) -> None:
        """Encode and decode a clip, and compare."""
        rate = self.codec.sample_rate
        reference = read(sounds / clip["path"], rate)
        with torch.inference_mode():
            other = self.codec.decode(self.codec.encode(reference[None, None]))[0, 0]
        other = other[: len(reference)]
        both = (reference, other)
        for tags, sound in zip(self.tags, both, strict=True):
            tags.append(tags_of(self.tagger, sound, rate))
        first, second = (TAGS[int(tags[-1].argmax())] for tags in self.tags)
        if first != second:
            self.missed.append(f"{first} -> {second}: {clip['caption']}")
        self._note("distance", spectral_distance(*both))
        pitched, drums = clip["notes"] is not None, clip["tags"]["drums"]
        if pitched:
            self._note("attack", attack(*both, rate))
        if pitched and not drums:
            self.found.setdefault("tuning", []).extend(detuning(*both, rate))
            for name, sound in zip(("buzz rendered", "buzz"), both, strict=True):
                self._note(name, modulation_depth(sound, rate, self.codec.frame_rate))
        if pitched and self.listener is not None:
            score = json.loads((sounds / clip["notes"]).read_text("utf-8"))["notes"]
            played = [(onset, pitch) for onset, _, pitch, _ in score]
            for name, sound in zip(("notes rendered", "notes"), both, strict=True):
                heard = self.listener.notes(soxr.resample(sound.numpy(), rate, NOTES_RATE))
                if played:
                    self._note(name, f_measure(note_scores(played, heard)))

    def _note(self, name: str, value: float) -> None:
        self.found.setdefault(name, []).append(value)

    def figures(self) -> dict[str, float]:
        """All figures, by name."""
        reference, other = (torch.stack(tags) for tags in self.tags)
        found = {name: statistics.mean(values) for name, values in self.found.items() if values}
        cents = sorted(self.found.get("tuning", [0.0])) or [0.0]
        found |= {
            "tuning": statistics.median(cents),
            "tuning 95 %": cents[int(0.95 * (len(cents) - 1))],
            "first": rank_agreement(reference, other),
            "three": rank_agreement(reference, other, among=3),
            "bits/s": self.codec.frame_rate
            * self.codec.n_q
            * float(torch.log2(torch.tensor(self.codec.card))),
        }
        return found


def main() -> None:
    """Print the figures, and the clips whose first tag changed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sounds", type=Path, required=True, help="what compose rendered")
    parser.add_argument("--codec", required=True, help="folder of a codec")
    parser.add_argument("--tagger", type=Path, required=True, help="musicnn's wheel")
    parser.add_argument("--notes", type=Path, help="basic-pitch's wheel")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=SPLITS,
        help="default: all; to choose settings, valid alone",
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    listener = NoteListener(given.notes) if given.notes else None
    judge = CodecJudge(load_codec(find_codec(given.codec), "cpu"), Tagger(given.tagger), listener)
    clips = unseen_clips(given.sounds, given.clips, given.splits)
    for number, clip in enumerate(clips, start=1):
        judge.hear(clip, given.sounds)
        if number % 50 == 0:
            figures = judge.figures()
            print(
                f"{number} clips: first {figures['first']:.3f}, three {figures['three']:.3f}",
                flush=True,
            )
    print("\n".join(judge.missed))
    for name, value in sorted(judge.figures().items()):
        print(f"{name:15} {value:.4f}")


if __name__ == "__main__":
    main()
