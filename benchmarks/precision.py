"""Measure the effect of a precision on a model's logits and likelihoods, compared with float32.

    python -m benchmarks.precision [--model NAME] [--sounds DIR --clips 24] [--dtypes bfloat16,int8]

Clips are held-out ones from recipes.nano.compose, or without --sounds the model's own. Masked: in each stage
half of the frames, drawn once, and all later streams are masked. Autoregressive: every code from those before
it. A row has the error of the logits (norm of the difference over that of float32), the mean Kullback-Leibler
distance from float32, and the loss in likelihood of the true codes compared with float32, in nats per code,
with the standard error of the mean over clips; positive is worse.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import magnet_cli
from magnet_cli.api import Model
from recipes.nano.cases import composed_cases
from recipes.nano.evaluate import read

PROMPTS = ("lofi piano", "funk drums", "sad solo cello", "heavy rain")


@dataclass(frozen=True)
class Said:
    """A model's predictions for a clip in one way: logits [N, card] of N codes."""

    way: str
    logits: Tensor
    codes: Tensor  # int64 [N], the true ones


def clips(model: Model, sounds: Path | None, count: int) -> list[tuple[str, Tensor]]:
    """Prompts and codes [1, K, T]."""
    if sounds is None:
        made = [
            (
                PROMPTS[n % len(PROMPTS)],
                model.generate([PROMPTS[n % len(PROMPTS)]], seeds=[n]).codes,
            )
            for n in range(count)
        ]
        return made
    found = []
    for case in composed_cases(sounds, "test", count):
        assert case.sound is not None
        audio = read(case.sound, model.sample_rate, model.segment_duration)
        codes = model.codec.encode(audio[None])[..., : model.segment_frames]
        found.append((case.prompt, codes))
    return found


@torch.inference_mode()
def said(model: Model, prompt: str, codes: Tensor, number: int) -> Iterator[Said]:
    """Yield a model's predictions for a clip in each of its ways."""
    if model.modeling != "autoregressive":
        logits, true = [], []
        for stage, streams in enumerate(model.lm.config.stage_streams):
            draw = torch.Generator().manual_seed(1000 * number + stage)
            hidden = torch.rand(codes.shape[-1], generator=draw) < 0.5
            seen = codes.clone()
            seen[:, list(streams), :] = codes[:, list(streams), :].masked_fill(
                hidden, model.lm.config.mask_id
            )
            seen[:, streams[-1] + 1 :] = model.lm.config.mask_id
            found = model.logits(seen, [prompt], stage)[0]  # [T, (G,) card]
            found = found.unsqueeze(1) if found.dim() == 2 else found
            logits.append(found[hidden].flatten(0, 1))
            true.append(codes[0, list(streams)].t()[hidden].flatten())
        yield Said("masked", torch.cat(logits), torch.cat(true))
    if model.modeling != "masked":
        logits = model.logits(codes, [prompt])[0]  # [K, T, card]
        yield Said("autoregressive", logits.flatten(0, 1), codes[0].flatten())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None, help="default: the built-in one")
    parser.add_argument("--sounds", type=Path, help="what recipes.nano.compose made")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--dtypes", default="bfloat16,int8")
    given = parser.parse_args()
    exact = magnet_cli.load_model(given.model, device="cpu", dtype="float32", offline=True)
    heard = clips(exact, given.sounds, given.clips)
    print(
        f"| {len(heard)} clips | logits | KL, nats | nats a code more than float32 |\n|---|---|---|---|"
    )
    for dtype in given.dtypes.split(","):
        other = magnet_cli.load_model(given.model, device="cpu", dtype=dtype, offline=True)
        figures: dict[str, list[tuple[float, float, float]]] = {}
        for number, (prompt, codes) in enumerate(heard):
            pairs = zip(
                said(exact, prompt, codes, number), said(other, prompt, codes, number), strict=True
            )
            for ours, theirs in pairs:
                error = float((theirs.logits - ours.logits).norm() / ours.logits.norm())
                a, b = ours.logits.log_softmax(-1), theirs.logits.log_softmax(-1)
                distance = float((a.exp() * (a - b)).sum(-1).mean())
                more = float((a - b).gather(-1, ours.codes[:, None]).mean())
                figures.setdefault(ours.way, []).append((error, distance, more))
        for way, found in figures.items():
            errors, distances, more_ = zip(*found, strict=True)
            spread = statistics.stdev(more_) / math.sqrt(len(more_)) if len(more_) > 1 else math.nan
            print(
                f"| {dtype}, {way} | {100 * statistics.mean(errors):.2f} % | "
                f"{statistics.mean(distances):.5f} | {statistics.mean(more_):+.5f} ± {spread:.5f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
