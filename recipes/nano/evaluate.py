"""Measure the quality of the built-in model, reproducibly.

    python -m recipes.nano.evaluate --sounds DIR --tagger WHEEL [--also-trained-on MANIFEST ...]
        [--model DIR] [--clips 200] [--sets test]

Compares rendered, codec-reconstructed and generated audio on three sets: `test` (held-out compositions),
`test_combo` (held-out combinations) and `human` (40 prompts that people wrote, without rendered clips). Clips
with the notes, drum hits and kit of a training clip are skipped. The columns, each with the number of clips
whose prompt asks for it (cases.py):

instrument  a tag of the requested instrument is among the tagger's first three instrument tags
drums       the tagger's drum score is on the requested side of the threshold that best separates
            rendered validation clips with drums from those without
tempo       librosa's tempo, its double or its half is in the class that a word or a number asks for
frechet     distance, in the tagger's embedding, from the rendered clips of the set: for the rendered
            ones between their two halves (the floor); white noise and shuffled captions are ceilings
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

import magnet_cli
from magnet_cli.api import Model
from magnet_cli.evaluation.metrics import frechet_distance
from recipes.nano.cases import Case, add_trained_option, composed_cases, compositions, human_cases
from recipes.nano.judges.hearing import (
    QUESTIONS,
    Heard,
    drum_threshold,
    judge,
    judged,
    listen,
    percent_of,
    rates,
)
from recipes.nano.judges.tagger import Tagger

HUMAN = "human"
SETS = ("test", "test_combo", HUMAN)
# With fewer patches, a 200-d covariance says little (a 10 s clip has three patches).
MIN_PATCHES = 500

BATCH = 8  # clips generated at once, in half the time; equal to single ones up to rounding
# Prompts and as many seeds -> codes int64 [B, K, T] and audio [B, C, samples].
Generate = Callable[[Sequence[str], Sequence[int]], tuple[Tensor, Tensor]]


def read(path: Path, rate: int, seconds: float) -> Tensor:
    """A rendered clip as [1, samples] at `rate`."""
    audio, found = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(audio.mean(1), found, rate)[: round(seconds * rate)]
    return torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))[None]


class Evaluation:
    """The judges, set up once for all rows."""

    def __init__(self, sounds: Path, tagger: Tagger, rate: int, seconds: float) -> None:
        self.sounds, self.tagger, self.rate, self.seconds = sounds, tagger, rate, seconds
        # By the contents of the clips: the threshold does not depend on what captions ask for.
        valid = [case for case in composed_cases(sounds, "valid", 150) if case.drums is not None]
        heard = self.listen([self.rendered(case) for case in valid])
        self.threshold = drum_threshold(heard, [bool(case.drums) for case in valid])

    def rendered(self, case: Case) -> Tensor:
        """The rendered clip of a case."""
        if case.sound is None:
            raise ValueError(f"nothing was rendered for {case.prompt!r}")
        return read(case.sound, self.rate, self.seconds)

    def listen(self, clips: Sequence[Tensor]) -> list[Heard]:
        """What the judges hear in each clip."""
        return [listen(clip, self.rate, self.tagger) for clip in clips]

    def row(
        self, heard: Sequence[Heard], cases: Sequence[Case], reference: Tensor | None
    ) -> dict[str, float]:
        """The shares heard right, the numbers of clips they are of ("drums of"), and the Fréchet distance
        from `reference` if available."""
        verdicts = [
            judge(h, case.wanted, self.threshold) for h, case in zip(heard, cases, strict=True)
        ]
        figures = rates(verdicts)
        figures |= {f"{question} of": count for question, count in judged(verdicts).items()}
        embeddings = torch.cat([h.embeddings for h in heard])
        if reference is not None and min(len(reference), len(embeddings)) >= MIN_PATCHES:
            figures["frechet"] = float(frechet_distance(embeddings, reference))
        return figures

    def reference_rows(
        self, cases: Sequence[Case], model: Model
    ) -> tuple[dict[str, dict[str, float]], Tensor]:
        """Rows for rendered and reconstructed clips and noise; and the rendered clips' embeddings."""
        clips = [self.rendered(case) for case in cases]
        heard = self.listen(clips)
        reference = torch.cat([h.embeddings for h in heard])
        rows = {"rendered": self.row(heard, cases, None)}
        order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(0))
        first, second = order.chunk(2)
        if len(second) >= MIN_PATCHES:
            rows["rendered"]["frechet"] = float(
                frechet_distance(reference[first], reference[second])
            )
        rebuilt = [model.codec.decode(model.codec.encode(clip[None]))[0] for clip in clips]
        rows["reconstructed"] = self.row(self.listen(rebuilt), cases, reference)
        noise = torch.Generator().manual_seed(0)
        noises = [0.1 * torch.randn(clip.shape, generator=noise) for clip in clips]
        rows["white noise"] = self.row(self.listen(noises), cases, reference)
        return rows, reference

    def generated_rows(
        self, cases: Sequence[Case], generate: Generate, reference: Tensor | None, seed: int = 0
    ) -> tuple[dict[str, dict[str, float]], list[Tensor], list[Tensor]]:
        """Rows for generated clips, with their own captions and with shuffled ones; codes; audio."""
        codes: list[Tensor] = []
        audio: list[Tensor] = []
        for first in range(0, len(cases), BATCH):
            prompts = [case.prompt for case in cases[first : first + BATCH]]
            made = generate(prompts, range(seed + first, seed + first + len(prompts)))
            codes.extend(made[0])
            audio.extend(made[1])
        heard = self.listen(audio)
        shuffled = list(cases)
        random.Random(seed).shuffle(shuffled)
        rows = {
            "generated": self.row(heard, cases, reference),
            "generated, captions shuffled": self.row(heard, shuffled, None),
        }
        return rows, codes, audio


def nearest_share(codes: Sequence[Tensor], training: Sequence[Tensor]) -> float:
    """Mean share of codes [K, T] that differ from those of the nearest training clip."""
    frames = min(c.shape[-1] for c in (*codes, *training))
    bank = torch.stack([c[:, :frames] for c in training])
    nearest = [float((bank != c[None, :, :frames]).float().mean((1, 2)).min()) for c in codes]
    return sum(nearest) / len(nearest)


def faults(codes: Sequence[Tensor], clips: Sequence[Tensor]) -> dict[str, float]:
    """Shares of clips that are clipped, silent or stuck (a fifth of a clip without one new code)."""
    clipped = [float((clip.abs() >= 0.999).float().mean()) > 1e-3 for clip in clips]
    silent = [float(clip.square().mean().sqrt()) < 10 ** (-60 / 20) for clip in clips]
    stuck = [longest_run(c) > c.shape[-1] / 5 for c in codes]
    named = {"clipped": clipped, "silent": silent, "stuck": stuck}
    return {name: sum(found) / len(found) for name, found in named.items()}


def longest_run(codes: Tensor) -> int:
    """Frames in the longest stretch of codes [K, T] in which no stream changes."""
    same = (codes[:, 1:] == codes[:, :-1]).all(0).tolist()
    longest = run = 1
    for repeated in same:
        run = run + 1 if repeated else 1
        longest = max(longest, run)
    return longest


def table(rows: dict[str, dict[str, float]], clips: int) -> str:
    """Rows as Markdown."""
    columns = (*QUESTIONS, "frechet")
    lines = [f"| {clips} clips | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in rows.items():
        cells = [percent_of(figures[q], round(figures[f"{q} of"])) for q in QUESTIONS]
        cells.append(f"{figures['frechet']:.1f}" if "frechet" in figures else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sounds", type=Path, required=True, help="what recipes.nano.compose made")
    parser.add_argument("--tagger", type=Path, required=True, help="the musicnn wheel")
    add_trained_option(parser)
    parser.add_argument("--model", default=None, help="default: the built-in one")
    parser.add_argument("--clips", type=int, default=200, help="of each composed set")
    parser.add_argument("--train-clips", type=int, default=2000, help="to look for the nearest in")
    parser.add_argument(
        "--sets",
        nargs="+",
        choices=SETS,
        default=SETS,
        help="default: all; one a process is faster",
    )
    given = parser.parse_args()

    torch.set_grad_enabled(False)
    model = magnet_cli.load_model(given.model, offline=True)
    evaluation = Evaluation(
        given.sounds, Tagger(given.tagger), model.sample_rate, model.segment_duration
    )

    def generate(prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        result = model.generate(prompts, seeds=seeds)
        return result.codes, result.audio

    trained = compositions([given.sounds / "train.jsonl", *given.also_trained_on])
    training = [
        model.codec.encode(evaluation.rendered(case)[None])[0]
        for case in composed_cases(given.sounds, "train", given.train_clips)
    ]
    for name in (name for name in given.sets if name != HUMAN):
        cases = composed_cases(given.sounds, name, given.clips, trained=trained)
        rows, reference = evaluation.reference_rows(cases, model)
        made, codes, audio = evaluation.generated_rows(cases, generate, reference)
        print(f"\n### {name}\n\n{table({**rows, **made}, len(cases))}\n")
        unseen = [model.codec.encode(evaluation.rendered(case)[None])[0] for case in cases]
        print(
            f"codes unlike the nearest training clip: generated {nearest_share(codes, training):.3f},"
        )
        print(f"held-out rendered {nearest_share(unseen, training):.3f}")
        print(f"of the first 100 generated: {faults(codes[:100], audio[:100])}", flush=True)
    if HUMAN in given.sets:
        cases = human_cases()
        rows, _, _ = evaluation.generated_rows(cases, generate, None, seed=1000)
        print(f"\n### human\n\n{table(rows, len(cases))}")


if __name__ == "__main__":
    main()
