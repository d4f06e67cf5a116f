r"""Measure how often clips get stuck: over many seeds of a prompt, how long a clip goes without a hit or a
change.

    python -m recipes.nano.seeds "lofi piano" "alarm" --seeds 20 --settings '{"coherence_boost": 0}'

One row per prompt, with the model's settings, overridden by `--settings` (JSON, docs/python.md):

still     half seconds in which the coarse streams hardly change (nine of ten codes equal the frame before),
          and of how many clips these are more than a quarter
quiet     seconds below -50 dBFS, and of how many clips these are more than a quarter
no hit    clips with more than two seconds without a hit, and their seeds; music with a beat has none
longest   the longest such time of any clip, in seconds

A hit is a rise of 9 dB within 40 ms between 2 and 6 kHz, to at least 30 dB below the clip's maximum there:
drums, and plucked strings that are loud enough.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

import magnet_cli
from magnet_cli.settings import DecodingConfig

COARSE = 4  # streams that determine what is heard; the others refine them
HALF_SECOND = 12  # frames of nano
QUIET = -50.0  # dBFS
LONG = 2.0  # seconds
MOST = 0.25  # of a clip
BATCH = 20
_WINDOW, _HOP = 1024, 320  # samples
_RISE, _WITHIN, _BELOW = 9.0, 3, 30.0  # dB, hops, dB


def still(codes: Tensor) -> int:
    """Half seconds of a clip's codes [K, T] in which the coarse streams hardly change."""
    same = (codes[:COARSE, 1:] == codes[:COARSE, :-1]).float().mean(0)
    return int((same.unfold(0, HALF_SECOND, HALF_SECOND).mean(1) > 0.9).sum())


def quiet(sound: Tensor, rate: int) -> int:
    """Whole seconds of a sound [samples] that are below `QUIET`."""
    seconds = sound[: len(sound) // rate * rate].view(-1, rate)
    return int((10 * seconds.square().mean(1).clamp(min=1e-12).log10() < QUIET).sum())


def longest_without_a_hit(sound: Tensor, rate: int) -> float:
    """The longest time in seconds without a hit in audio [samples]; start and end count as hits."""
    window = torch.hann_window(_WINDOW)
    spectrum = torch.stft(sound, _WINDOW, _HOP, window=window, return_complex=True)
    low, high = (int(hertz * _WINDOW / rate) for hertz in (2000, 6000))
    power = 10 * spectrum[low:high].abs().square().mean(0).clamp(min=1e-9).log10()  # [hops], dB
    rising = power[_WITHIN:] - power[:-_WITHIN] > _RISE
    loud = power[_WITHIN:] > power.max() - _BELOW
    hits = [0, *(rising & loud).nonzero()[:, 0].tolist(), len(power)]
    return max(after - before for before, after in pairwise(hits)) * _HOP / rate


def row(
    prompt: str, seeds: Sequence[int], codes: Sequence[Tensor], clips: Sequence[Tensor], rate: int
) -> str:
    """A line of the table, as Markdown, of codes [K, T] and clips [samples]."""
    times = [longest_without_a_hit(clip, rate) for clip in clips]
    long = [str(seed) for seed, time in zip(seeds, times, strict=True) if time > LONG]
    named = f" ({', '.join(long)})" if long else ""
    stand = [(still(clip), (clip.shape[-1] - 1) // HALF_SECOND) for clip in codes]
    silent = [(quiet(clip, rate), len(clip) // rate) for clip in clips]
    return (
        f"| {prompt} | {_total(stand)} | {_total(silent)} | {len(long)}{named} | {max(times):.1f} |"
    )


def _total(parts: list[tuple[int, int]]) -> str:
    """The sum of parts of a whole, and of how many wholes they are more than `MOST`."""
    return f"{sum(part for part, _ in parts)} ({sum(part > MOST * of for part, of in parts)})"


def main() -> None:
    """Print the table line by line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--model", default=None, help="default: the built-in one")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--settings", default="{}", help="a JSON object")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    config = DecodingConfig(**json.loads(given.settings))
    model = magnet_cli.load_model(given.model, offline=True)
    print("| prompt | still | quiet | no hit | longest |\n|---|---|---|---|---|")
    seeds = range(given.first, given.first + given.seeds)
    for prompt in given.prompts:
        made = [
            model.generate([prompt] * len(part), config, seeds=part)
            for part in (seeds[i : i + BATCH] for i in range(0, len(seeds), BATCH))
        ]
        codes = [one for result in made for one in result.codes]
        clips = [one[0] for result in made for one in result.audio]
        print(row(prompt, seeds, codes, clips, model.sample_rate), flush=True)


if __name__ == "__main__":
    main()
