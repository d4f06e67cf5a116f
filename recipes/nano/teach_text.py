"""Train the built-in model's text encoder with a frozen language model.

    python -m recipes.nano.teach_text nano models/text-taught --config recipes/nano/lm.toml

Attention layers after the word table (magnet_cli/models/word_pieces.py) start by changing nothing and are
trained with the language model's loss, through the frozen language model and its text projection. They read
every caption of a clip and bare words ("techno", "fast drums"). Text has its effect early, so the first
seconds of each clip are enough.

Give the result to `python -m recipes.nano.pack --text-encoder`. An interrupted run continues from its last
checkpoint when started again with the same arguments.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.place import find_place
from magnet_cli.data.tokens import TokenClip, TokenFolder
from magnet_cli.files import atomic_path
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.word_pieces import WordPieceEncoder
from magnet_cli.training.batches import BatchDrawer, Source
from magnet_cli.training.config import TrainConfig, read_config
from magnet_cli.training.objective import Batch, LossSums, batch_losses, mean_loss
from magnet_cli.training.optimizers import rate_share

LAYERS = 2
FRAMES = 100  # of each clip, 4 s
SETTINGS = {
    "batch_size": 32,
    "micro_batch": 8,
    "learning_rate": 1e-3,
    "warmup_steps": 50,
    "weight_decay": 0.01,
    "valid_items": 96,
    "no_prefix_share": 0.2,
    "full_prefix_share": 0.7,
    "condition_dropout": 0.0,
}


def bare_prompts(tags: Sequence[str]) -> list[str]:
    """Short prompts for a clip: a style, an instrument, a sound, and a tempo.

    Args:
        tags: "name: value", as in the token shards.
    """
    known = dict(tag.split(": ", 1) for tag in tags if ": " in tag)
    if known.get("kind") == "effect":
        effects = known.get("effects", "").split("'effect': '")[1:]
        return [" and ".join(effect.split("'")[0] for effect in effects)]
    style, instrument = known.get("style"), known.get("instrument")
    if known.get("kind") == "drums":
        instrument = "drums"
    things = [thing for thing in (style, instrument) if thing]
    pair = [" ".join(things)] if len(things) > 1 else []
    tempo = known.get("tempo_class", "")
    return [*things, *pair, *(f"{tempo} {thing}" for thing in things if tempo)]


def with_bare_prompts(folder: TokenFolder) -> TokenFolder:
    """Add bare prompts to the captions, and limit clips to the length that is read."""

    def taught(clip: TokenClip) -> TokenClip:
        captions = (*clip.captions, *bare_prompts(clip.tags))
        # A few frames more than a segment, within which it starts, as in the language model's training.
        return replace(clip, captions=captions, frames=min(clip.frames, FRAMES + 6))

    folder.clips = tuple(taught(clip) for clip in folder.clips)
    return folder


def grown(encoder: WordPieceEncoder, layers: int, seed: int) -> WordPieceEncoder:
    """Add layers after the encoder's table."""
    if encoder.reader is not None:
        return encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = WordPieceEncoder(replace(encoder.config, layers=layers), encoder.tokenizer)
    result.load_state_dict(encoder.state_dict(), strict=False)
    return result


class Teacher:
    """A run: the encoder, its optimizer, and its progress."""

    def __init__(
        self, lm: LanguageModel, encoder: WordPieceEncoder, config: TrainConfig, state: Path
    ) -> None:
        assert encoder.reader is not None
        self.lm, self.encoder, self.config, self.state = lm, encoder, config, state
        self.reader = encoder.reader
        self.weights = config.following_weights(lm.config.n_q)
        self.optimizer = torch.optim.AdamW(
            self.reader.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        if state.is_file():
            kept = torch.load(state, weights_only=True)
            self.step = kept["step"]
            self.reader.load_state_dict(kept["reader"])
            self.optimizer.load_state_dict(kept["optimizer"])

    def drawer(self, folders: Sequence[str], config: TrainConfig) -> BatchDrawer:
        """A drawer of batches whose conditions are the table's rows."""
        source = Source(tuple(with_bare_prompts(TokenFolder(folder)) for folder in folders))
        rows = functools.lru_cache(maxsize=200_000)(self.encoder.rows)
        drawer = BatchDrawer(source, self.lm.config, config, lambda texts: [*map(rows, texts)])
        drawer.frames = FRAMES
        return drawer

    def losses(self, batch: Batch) -> LossSums:
        """The language model's losses, with the conditions transformed by the layers."""
        read = tuple(None if rows is None else self.reader(rows) for rows in batch.conditions)
        with torch.autocast("cpu", torch.bfloat16):
            return batch_losses(self.lm, replace(batch, conditions=read), self.weights)

    def take_step(self, drawer: BatchDrawer) -> float:
        """One step of AdamW: the loss in nats."""
        batches = [drawer.batch(self.step, micro) for micro in range(self.config.micro_batches)]
        counts = torch.stack([batch.counts(self.weights) for batch in batches]).sum(0)
        total = 0.0
        for batch in batches:
            loss = mean_loss(self.losses(batch).total, counts, self.config.prefix_weight)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.reader.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate_share(self.step, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return total

    @torch.no_grad()
    def validate(self, drawer: BatchDrawer) -> str:
        """Mean loss of the four coarse streams, masked and autoregressive."""
        sums = torch.zeros(4, self.lm.config.n_q, dtype=torch.float64)
        for batch in drawer.validation_batches():
            told = self.losses(batch)
            sums += torch.stack(
                [told.masked, told.masked_count, told.following, told.following_count]
            )
        masked, following = sums[0] / sums[1], sums[2] / sums[3]

        def coarse(loss: Tensor) -> str:
            return " ".join(f"{one:.3f}" for one in loss[:4].tolist())

        return f"masked {coarse(masked)}, autoregressive {coarse(following)}"

    def keep(self) -> None:
        """Save what a later run needs to continue."""
        with atomic_path(self.state) as partial:
            torch.save(
                {
                    "step": self.step,
                    "reader": self.reader.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                },
                partial,
            )


def main() -> None:
    """Train and write the encoder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the model whose words are to be understood")
    parser.add_argument("out", type=Path, help="the folder to write the text encoder to")
    parser.add_argument("--config", type=Path, required=True, help="of the model's training")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="share of the correction to keep (experiments.md, Text encoder)",
    )
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} exists already: choose another name, or remove it first")
    config = read_config(given.config, {**SETTINGS, "steps": given.steps})
    loaded = load_parts(find_place(given.model), "cpu", "float32")
    assert isinstance(loaded.text_encoder, WordPieceEncoder)
    encoder = grown(loaded.text_encoder, given.layers, config.seed)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    state = given.out.with_name(given.out.name + ".state.pt")
    teacher = Teacher(loaded.lm.requires_grad_(False), encoder, config, state)
    train = teacher.drawer(config.data, config)
    still = replace(config, code_noise=0.0)
    valid = teacher.drawer([config.valid], still) if config.valid else None
    began, losses = time.monotonic(), []
    while teacher.step < config.steps:
        if valid is not None and teacher.step % 500 == 0:
            print(f"step {teacher.step}: {teacher.validate(valid)}", flush=True)
        losses.append(teacher.take_step(train))
        if teacher.step % 50 == 0:
            seconds, mean = time.monotonic() - began, sum(losses) / len(losses)
            print(f"step {teacher.step}: loss {mean:.4f}, {seconds:.0f} s", flush=True)
            losses.clear()
            teacher.keep()
    if valid is not None:
        print(f"step {teacher.step}: {teacher.validate(valid)}")
    with torch.no_grad():
        teacher.reader.out.weight.mul_(given.strength)
        teacher.reader.out.bias.mul_(given.strength)
    native.save_part(given.out, encoder)


if __name__ == "__main__":
    main()
