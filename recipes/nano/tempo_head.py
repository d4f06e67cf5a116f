"""Fit the linear classifier that draws a tempo, from the mean of a text's vectors, where a prompt has none.

    python -m recipes.nano.tempo_head nano models/nano-tempo --sounds sounds

Its classes are no tempo, and the tempi of the composed clips. It is fitted on the captions of the training
split (convex: L-BFGS) and prints its cross-entropy on those of `valid`, in nats, and that of the tempi's
frequencies. No other weight changes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.native import save
from magnet_cli.checkpoints.place import find_place
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.parts import Parts
from magnet_cli.models.text import TextEncoder
from recipes.nano.compose.styles import TEMPI

CLIP_FRAMES = 2  # frames of the composer's grid in a frame of the codec
CAPTIONS, HELD_OUT = 12_000, 1_500
DECAY = 1e-4  # weight decay


def rows(manifest: Path, tempi: list[float], rate: float, most: int) -> list[tuple[str, int]]:
    """Captions of a manifest, each with the index of its tempo (0: none), shuffled."""
    found = []
    for line in manifest.read_text("utf-8").splitlines():
        row = json.loads(line)
        bpm = row["tags"].get("tempo_bpm")
        number = 1 + tempi.index(round(60 * rate / bpm)) if bpm else 0
        found += [(caption, number) for caption in row["captions"]]
    random.Random(0).shuffle(found)
    return found[:most]


@torch.inference_mode()
def means(encoder: TextEncoder, captions: list[str]) -> Tensor:
    """float32 [N, text_dim]: the mean of each caption's vectors."""
    return torch.stack([hidden.float().mean(0) for hidden in encoder.encode_all(captions)])


def fitted(features: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Fit the classifier: weights [count, text_dim] and biases [count], for unscaled features."""
    middle, spread = features.mean(0), features.std(0) + 1e-3
    scaled = torch.cat([torch.ones(len(features), 1), (features - middle) / spread], 1)
    weights = torch.zeros(scaled.shape[1], count, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = F.cross_entropy(scaled @ weights, classes) + DECAY * weights[1:].square().sum()
        value.backward()
        return value

    search.step(loss)  # type: ignore[arg-type]
    bias, slopes = weights.detach()[0], weights.detach()[1:] / spread[:, None]
    return slopes.T.contiguous(), bias - middle @ slopes


def with_head(parts: Parts, tempi: list[float], weight: Tensor, bias: Tensor) -> Parts:
    """Add the tempo head to a model."""
    old = parts.lm
    lm = LanguageModel(dataclasses.replace(old.config, tempi=tuple(tempi)))
    head = {"tempo.weight": weight, "tempo.bias": bias}
    lm.load_state_dict({**old.state_dict(), **head})
    return dataclasses.replace(parts, lm=lm)


def main() -> None:
    """Parse the command line, fit and write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="name or folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sounds", type=Path, required=True, help="what `compose` wrote")
    given = parser.parse_args()
    parts = load_parts(find_place(given.model), "cpu", "float32")
    rate = parts.lm.config.frame_rate
    tempi = sorted(float(beat // CLIP_FRAMES) for each in TEMPI.values() for beat in each)
    train = rows(given.sounds / "train.jsonl", tempi, rate, CAPTIONS)
    valid = rows(given.sounds / "valid.jsonl", tempi, rate, HELD_OUT)
    classes, theirs = (torch.tensor([number for _, number in part]) for part in (train, valid))
    weight, bias = fitted(
        means(parts.text_encoder, [text for text, _ in train]), classes, 1 + len(tempi)
    )
    said = means(parts.text_encoder, [text for text, _ in valid]) @ weight.T + bias
    usual = torch.bincount(classes, minlength=1 + len(tempi)) / len(classes)
    print(
        f"valid: {F.cross_entropy(said, theirs):.3f} nats, "
        f"by frequency {-usual[theirs].log().mean():.3f}"
    )
    save(given.out, with_head(parts, tempi, weight, bias), {"init": given.model})


if __name__ == "__main__":
    main()
