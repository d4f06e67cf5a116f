"""Make a deeper model that initially has a trained one's predictions, with several streams in a stage.

    python -m recipes.nano.deepen nano models/nano5-start --layers 8 --stage-sizes 4 4 4

With `--bar-position` the model gets each frame's position in its bar as an input, where the tempo is known.

Each new block is a copy of the one before it with output matrices of zero, so that it adds nothing until it
is trained (as in Net2Net and in stacking of language models: Chen et al., 2016, arXiv 1511.05641; Gong et
al., 2019).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

import torch

from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.native import save
from magnet_cli.checkpoints.place import find_place
from magnet_cli.models.lm import LanguageModel

# The output matrices of a block; if they are zero, it adds nothing.
_OUTPUTS = ("self_attn.out_proj.weight", "cross_attention.out_proj.weight", "linear2.weight")


def deepened(
    lm: LanguageModel,
    layers: int,
    stage_sizes: list[int],
    span_len: int,
    bar_position: bool = False,
) -> LanguageModel:
    """`lm` with `layers` blocks, copied evenly from its own, and stages of these sizes; with an input for the
    position in the bar that adds nothing until it is trained."""
    ends = list(itertools.accumulate(stage_sizes))
    stages = tuple(tuple(range(e - n, e)) for n, e in zip(stage_sizes, ends, strict=True))
    old = lm.config
    config = dataclasses.replace(
        old,
        num_layers=layers,
        stages=stages,
        span_len=span_len,
        bar_position=bar_position or old.bar_position,
    )
    grown = LanguageModel(config)
    state = lm.state_dict()
    kept = {name: value for name, value in state.items() if ".layers." not in name}
    sources = [new * old.num_layers // layers for new in range(layers)]
    for new, source in enumerate(sources):
        is_copy = new > 0 and sources[new - 1] == source
        prefix = f"transformer.layers.{source}."
        for name, value in state.items():
            if name.startswith(prefix):
                part = name.removeprefix(prefix)
                zero = is_copy and part in _OUTPUTS
                kept[f"transformer.layers.{new}.{part}"] = (
                    torch.zeros_like(value) if zero else value.clone()
                )
    if grown.bars is not None and lm.bars is None:
        torch.nn.init.zeros_(grown.bars.outer.weight)
        kept |= {
            name: value for name, value in grown.state_dict().items() if name.startswith("bars.")
        }
    grown.load_state_dict(kept)
    return grown


def main() -> None:
    """Read the command line and write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="name or folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--stage-sizes", type=int, nargs="+", required=True)
    parser.add_argument("--span-len", type=int, default=1)
    parser.add_argument("--bar-position", action="store_true")
    given = parser.parse_args()
    loaded = load_parts(find_place(given.model), "cpu", "float32")
    sizes = given.layers, given.stage_sizes, given.span_len
    lm = deepened(loaded.lm, *sizes, given.bar_position)
    steps = (30, *(2,) * (len(given.stage_sizes) - 1))
    defaults = dataclasses.replace(loaded.defaults, decoding_steps=steps, span_len=given.span_len)
    parts = dataclasses.replace(loaded, name=given.out.name, lm=lm, defaults=defaults)
    save(given.out, parts, {"init": given.model})


if __name__ == "__main__":
    main()
