r"""Compare decoding settings on captions of the validation set; nano's defaults were chosen with it.

    python -m recipes.nano.compare_decoding --sounds DIR [--also-trained-on MANIFEST ...] --tagger WHEEL \
        '{}' '{"temperature": 1.0}'

Each argument is a JSON object of decoding settings (docs/python.md) that override the model's. A row has the
columns of recipes.nano.evaluate, and measures that tell drones and silence from music:

repeats   share of codes equal to the previous frame's, by coarse stream
distinct  different codes in a clip, by coarse stream
silent    share of clips below -60 dBFS
beat      mean regularity of onsets (judges/beat.py), of the clips whose rendering has drums

The share of drums includes captions that ask for none; the line before the table has the number of each.

Clips with the notes, drum hits and kit of a training clip are skipped. nano was trained on more than
train.jsonl of --sounds; name the other manifests after --also-trained-on.

The Fréchet distance is from 170 rendered clips; that of 40 clips is only comparable between rows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

import magnet_cli
from magnet_cli.evaluation.metrics import frechet_distance
from magnet_cli.settings import DecodingConfig
from recipes.nano.cases import Case, add_trained_option, composed_cases, compositions
from recipes.nano.evaluate import BATCH, Evaluation, faults
from recipes.nano.judges.beat import regularity
from recipes.nano.judges.hearing import Heard, judge, judged, percent_of, rates
from recipes.nano.judges.tagger import Tagger

COARSE = 4  # streams that determine what is heard; the others refine them
REFERENCE_CLIPS = 170


def habits(codes: list[Tensor]) -> tuple[str, str]:
    """Repeats and distinct codes of clips [K, T], by coarse stream."""
    coarse = [clip[:COARSE] for clip in codes]
    repeats = torch.stack([(c[:, 1:] == c[:, :-1]).float().mean(1) for c in coarse]).mean(0)
    distinct = torch.tensor([[len(s.unique()) for s in c] for c in coarse]).float().mean(0)
    return " ".join(f"{r:.2f}" for r in repeats), " ".join(f"{d:.0f}" for d in distinct)


def row(
    name: str,
    codes: list[Tensor],
    clips: list[Tensor],
    heard: list[Heard],
    cases: list[Case],
    evaluation: Evaluation,
    reference: Tensor,
) -> str:
    """A line of the table, as Markdown."""
    verdicts = [
        judge(one, case.wanted, evaluation.threshold)
        for one, case in zip(heard, cases, strict=True)
    ]
    counts = judged(verdicts)
    shares = " | ".join(percent_of(share, counts[q]) for q, share in rates(verdicts).items())
    distance = frechet_distance(torch.cat([one.embeddings for one in heard]), reference)
    silent = faults(codes, clips)["silent"]
    beats = [
        regularity(clip.mean(0), evaluation.rate)
        for clip, case in zip(clips, cases, strict=True)
        if case.drums
    ]
    beat = f"{sum(beats) / len(beats):.2f}" if beats else "–"
    return (
        f"| {name} | {' | '.join(habits(codes))} | {shares} | {distance:.1f} | {100 * silent:.0f} % "
        f"| {beat} |"
    )


def main() -> None:
    """Print the table line by line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", help="JSON objects")
    parser.add_argument("--sounds", type=Path, required=True, help="what recipes.nano.compose made")
    parser.add_argument("--tagger", type=Path, required=True, help="the musicnn wheel")
    add_trained_option(parser)
    parser.add_argument("--model", default=None, help="default: the built-in one")
    parser.add_argument("--clips", type=int, default=40)
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    ways = {text: DecodingConfig(**json.loads(text)) for text in given.settings}
    model = magnet_cli.load_model(given.model, offline=True)
    evaluation = Evaluation(
        given.sounds, Tagger(given.tagger), model.sample_rate, model.segment_duration
    )
    trained = compositions([given.sounds / "train.jsonl", *given.also_trained_on])
    rendered = composed_cases(given.sounds, "valid", REFERENCE_CLIPS, trained=trained)
    clips = [evaluation.rendered(case) for case in rendered]
    heard = evaluation.listen(clips)
    reference = torch.cat([one.embeddings for one in heard])
    cases = rendered[: given.clips]
    coded = [model.codec.encode(clip[None])[0] for clip in clips[: given.clips]]
    rebuilt = [model.codec.decode(codes[None])[0] for codes in coded]
    asked = [case.wanted.drums for case in cases]
    print(f"drums are asked for by {asked.count(True)} captions, none by {asked.count(False)}\n")
    print(
        "| settings | repeats | distinct | instrument | drums | tempo | Fréchet | silent | beat |"
    )
    print("|---|---|---|---|---|---|---|---|---|")

    def show(name: str, codes: list[Tensor], audio: list[Tensor]) -> None:
        heard = evaluation.listen(audio)
        print(row(name, codes, audio, heard, cases, evaluation, reference), flush=True)

    show("reconstructed", coded, rebuilt)
    for text, config in ways.items():
        made = [
            model.generate(
                [case.prompt for case in cases[first : first + BATCH]],
                config,
                seeds=range(first, min(first + BATCH, len(cases))),
            )
            for first in range(0, len(cases), BATCH)
        ]
        codes = [one for result in made for one in result.codes]
        show(text, codes, [one for result in made for one in result.audio])


if __name__ == "__main__":
    main()
