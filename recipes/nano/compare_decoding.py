r"""Compare decoding settings, or models, on captions of the validation set, as nano's defaults were chosen.

    python -m recipes.nano.compare_decoding --sounds DIR [--also-trained-on MANIFEST ...] --tagger WHEEL \
        '{}' '{"temperature": 1.0}' '{"model": "models/nano5/best"}'

Each argument is a JSON object of decoding settings (docs/python.md) that override the model's, and perhaps
another model. A row has the columns of recipes.nano.evaluate, and measures that tell drones and silence from
music:

repeats   share of codes equal to the previous frame's, by coarse stream
distinct  different codes in a clip, by coarse stream
silent    share of clips below -60 dBFS
beat      mean regularity of onsets (judges/beat.py), of the clips whose rendering has drums

Brackets hold the difference from the first settings, paired by caption, in standard errors (for the Fréchet
distance: over resamples of the captions).

The share of drums includes captions that ask for none; the line before the table has the number of each.

Clips with the notes, drum hits and kit of a training clip are skipped. nano was trained on more than
train.jsonl of --sounds; name the other manifests after --also-trained-on.

The Fréchet distance is from 170 rendered clips, or as many as there are; that of 40 clips is only comparable
between rows.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import magnet_cli
from magnet_cli.evaluation.metrics import frechet_distance
from magnet_cli.settings import DecodingConfig
from recipes.nano.cases import Case, add_trained_option, composed_cases, compositions
from recipes.nano.evaluate import BATCH, Evaluation, faults
from recipes.nano.judges.beat import regularity
from recipes.nano.judges.hearing import Heard, Verdict, judge, judged, percent_of, rates
from recipes.nano.judges.tagger import Tagger

COARSE = 4  # streams that determine what is heard; the others refine them
REFERENCE_CLIPS = 170
RESAMPLES = 30


def habits(codes: list[Tensor]) -> tuple[str, str]:
    """Repeats and distinct codes of clips [K, T], by coarse stream."""
    coarse = [clip[:COARSE] for clip in codes]
    repeats = torch.stack([(c[:, 1:] == c[:, :-1]).float().mean(1) for c in coarse]).mean(0)
    distinct = torch.tensor([[len(s.unique()) for s in c] for c in coarse]).float().mean(0)
    return " ".join(f"{r:.2f}" for r in repeats), " ".join(f"{d:.0f}" for d in distinct)


@dataclass(frozen=True)
class Row:
    """What was made for some captions, and what the judges say of each clip."""

    codes: list[Tensor]
    clips: list[Tensor]
    heard: list[Heard]
    verdicts: list[Verdict]
    beats: list[float | None]  # None: the rendered clip has no drums
    reference: Tensor  # embeddings of rendered clips

    @classmethod
    def judged(
        cls,
        codes: list[Tensor],
        clips: list[Tensor],
        cases: list[Case],
        evaluation: Evaluation,
        reference: Tensor,
    ) -> Row:
        """Listen to the clips of some cases."""
        heard = evaluation.listen(clips)
        pairs = list(zip(heard, cases, strict=True))
        verdicts = [judge(one, case.wanted, evaluation.threshold) for one, case in pairs]
        beats = [
            regularity(clip.mean(0), evaluation.rate) if case.drums else None
            for clip, case in zip(clips, cases, strict=True)
        ]
        return cls(codes, clips, heard, verdicts, beats, reference)

    def distance(self, chosen: Sequence[int] | None = None) -> float:
        """The Fréchet distance of all clips, or of those with these numbers."""
        heard = self.heard if chosen is None else [self.heard[place] for place in chosen]
        return frechet_distance(torch.cat([one.embeddings for one in heard]), self.reference)

    def as_markdown(self, name: str, first: Row | None) -> str:
        """A line of the table, with differences from `first`."""
        counts, shares = judged(self.verdicts), rates(self.verdicts)
        cells = [name, *habits(self.codes)]
        for asked, share in shares.items():
            hits = [[getattr(v, asked) for v in row.verdicts] for row in (self, first or self)]
            cells.append(percent_of(share, counts[asked]) + (paired(*hits) if first else ""))
        apart = self.distance()
        cells.append(f"{apart:.1f}" + (self._further_than(first) if first else ""))
        cells.append(f"{100 * faults(self.codes, self.clips)['silent']:.0f} %")
        beats = [beat for beat in self.beats if beat is not None]
        steady = f"{sum(beats) / len(beats):.2f}" if beats else "–"
        cells.append(steady + (paired(self.beats, first.beats) if first and beats else ""))
        return f"| {' | '.join(cells)} |"

    def _further_than(self, first: Row) -> str:
        draw = random.Random(0)
        places = range(len(self.heard))
        drawn = [[draw.choice(places) for _ in places] for _ in range(RESAMPLES)]
        spread = torch.tensor([self.distance(d) - first.distance(d) for d in drawn]).std()
        return f" ({(self.distance() - first.distance()) / float(spread):+.1f})"


def paired(now: Sequence[float | None], first: Sequence[float | None]) -> str:
    """The mean difference of two rows in standard errors, over the captions that were judged."""
    pairs = [(a, b) for a, b in zip(now, first, strict=True) if a is not None and b is not None]
    differences = torch.tensor([float(a) - float(b) for a, b in pairs])
    error = float(differences.std()) / len(pairs) ** 0.5 if len(pairs) > 1 else 0.0
    return f" ({float(differences.mean()) / error:+.1f})" if error else " (0)"


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
    parser.add_argument(
        "--drums",
        choices=("with", "without"),
        help="only captions of clips with drums, or of all others",
    )
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    ways = {text: json.loads(text) for text in given.settings}
    models = {
        name: magnet_cli.load_model(name, offline=True)
        for name in dict.fromkeys(way.get("model", given.model) for way in ways.values())
    }
    model = next(iter(models.values()))  # the first row's: its codec and sample rate are all rows'
    evaluation = Evaluation(
        given.sounds, Tagger(given.tagger), model.sample_rate, model.segment_duration
    )
    trained = compositions([given.sounds / "train.jsonl", *given.also_trained_on])
    rendered = [
        case
        for case in composed_cases(given.sounds, "valid", trained=trained)
        if given.drums is None or bool(case.drums) == (given.drums == "with")
    ][:REFERENCE_CLIPS]
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

    rebuilt_row = Row.judged(coded, rebuilt, cases, evaluation, reference)
    print(rebuilt_row.as_markdown("reconstructed", None), flush=True)
    first = None
    for text, way in ways.items():
        decoder = models[way.pop("model", given.model)]
        config = DecodingConfig(**way)
        made = [
            decoder.generate(
                [case.prompt for case in cases[start : start + BATCH]],
                config,
                seeds=range(start, min(start + BATCH, len(cases))),
            )
            for start in range(0, len(cases), BATCH)
        ]
        codes = [one for result in made for one in result.codes]
        clips = [one for result in made for one in result.audio]
        now = Row.judged(codes, clips, cases, evaluation, reference)
        print(now.as_markdown(text, first), flush=True)
        first = first or now


if __name__ == "__main__":
    main()
