"""Pack a trained model as the built-in one: half precision, with its decoding defaults and sources.

    python -m recipes.nano.pack models/nano [--codec models/codec] [--text-encoder models/text-taught]

The decoding defaults were chosen by spectrograms and by how often a tagger hears what was requested, on
captions of the validation set (experiments.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from pathlib import Path

import torch

from magnet_cli.checkpoints import native
from magnet_cli.settings import DecodingConfig

ASSETS = Path(__file__).parents[2] / "magnet_cli" / "assets" / "nano"

DEFAULTS = DecodingConfig(
    decoding_steps=(50, 1, 1),
    temperature=0.9,
    anneal_temperature=True,
    final_temperature=0.36,
    sound_temperature=1.0,
    later_codes="mean",
    top_p=0.9,
    top_k=0,
    max_cfg_coef=2.5,
    min_cfg_coef=1.0,
    cfg_coef=4.5,
    coherence_boost=0.5,
    bar_repeat=1.5,
    span_len=1,
    span_order="blocks",
    score_noise=4.0,  # of the order by certainty
    hybrid=0.0,
    hybrid_temperature=0.95,
    hybrid_top_p=0.9,
)
SOUNDS = (
    "FluidR3_GM (MIT), MuseScore_General (MIT, parts public domain or CC0), Sonic Pi samples (CC0), "
    "synthesized effects; text vectors distilled from all-MiniLM-L6-v2 (Apache-2.0)"
)


def trained_steps(directory: Path) -> int:
    """The number of steps of a run, from its log."""
    rows = [json.loads(line) for line in (directory / "log.jsonl").read_text("utf-8").splitlines()]
    return max(row["step"] for row in rows)


def main() -> None:
    """Read the command line and write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="what `magnet train lm` made")
    parser.add_argument(
        "--codec", type=Path, help="a codec with the same codes and a better decoder"
    )
    parser.add_argument("--text-encoder", type=Path, help="one that was taught to read for it")
    parser.add_argument("--out", type=Path, default=ASSETS)
    given = parser.parse_args()
    model = native.load(given.model)
    codec = model.codec if given.codec is None else native.load_codec(given.codec)
    text_encoder = (
        model.text_encoder
        if given.text_encoder is None
        else native.load_text_encoder(given.text_encoder)
    )
    parts = dataclasses.replace(
        model,
        name="nano",
        kind="music",
        licence="MIT",
        defaults=DEFAULTS,
        codec=codec,
        text_encoder=text_encoder,
    )
    provenance = {
        "recipe": "recipes/nano",
        "sources": SOUNDS,
        "steps": trained_steps(given.model),
    }
    # `save` replaces nothing but a model, and beside the built-in one's files is its README.
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.out.parent) as folder:
        packed = Path(folder) / "model"
        native.save(packed, parts, provenance, lm_dtype=torch.float16, part_dtype=torch.float16)
        for file in packed.iterdir():
            os.replace(file, given.out / file.name)
    size = sum(file.stat().st_size for file in given.out.iterdir())
    print(f"{given.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
