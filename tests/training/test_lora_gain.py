"""The share of full fine-tuning's gain that a LoRA of rank 8 reaches, in equal steps, each at its better
rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.place import find_place
from magnet_cli.models.codec import AudioCodec
from magnet_cli.training.config import TrainConfig
from magnet_cli.training.encode import token_format
from magnet_cli.training.setup import make_trainer
from tests.cli.conftest import SMALL
from tests.training.conftest import write_tokens

pytestmark = pytest.mark.slow  # some ten short trainings

RATES = {0: (1e-3, 3e-3), 8: (1e-2, 2e-2)}  # of all weights, and of rank 8


def lost(folder: Path, out: str, init: str, steps: int = 40, **more: object) -> float:
    """The validation loss at the end of a run, in nats."""
    asked = {
        "data": (str(folder / "train"),),
        "valid": str(folder / "valid"),
        "batch_size": 4,
        **more,
    }
    once = {"valid_every": steps, "checkpoint_every": steps, "log_every": steps}
    trainer = make_trainer(TrainConfig(init=init, steps=steps, **asked, **once), folder / out)  # type: ignore[arg-type]
    trainer.run()
    assert trainer.best is not None
    return trainer.best.loss


def share_of_the_gain(folder: Path, init: str) -> float:
    """The reduction of the validation loss with a LoRA, relative to that with all weights."""
    base = lost(folder, "as-it-is", init, steps=1, learning_rate=1e-9)
    whole, lora = (
        min(
            lost(folder, f"{rank}-{rate}", init, lora_rank=rank, learning_rate=rate)
            for rate in rates
        )
        for rank, rates in RATES.items()
    )
    assert whole < base - 0.5, "all weights learn something, or this shows nothing"
    return (base - lora) / (base - whole)


def tokens(folder: Path, codec: AudioCodec, codes: dict[str, list[torch.Tensor]]) -> Path:
    """Folders of clips: name -> codes [K, T] of each."""
    for name, clips in codes.items():
        said = {f"a melody{' x' * n}": clip for n, clip in enumerate(clips)}
        write_tokens(folder / name, said, token_format(codec, "its own"), shard=64)
    return folder


def squares(seed: int) -> torch.Tensor:
    """Two seconds of a melody of square waves at 32 kHz, far from nano's clips: [1, 1, N]."""
    chance = np.random.default_rng(seed)
    notes = []
    for _ in range(8):
        time = np.arange(8000) / 32000
        pitch = 220 * 2 ** (chance.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
        notes.append(0.3 * np.sign(np.sin(2 * np.pi * pitch * time)) * np.exp(-3 * time))
    return torch.from_numpy(np.concatenate(notes).astype(np.float32))[None, None]


def test_on_nano(tmp_path: Path) -> None:
    """Without the embeddings and heads of codes it was a third."""
    codec = load_parts(find_place("nano"), "cpu", "float32").codec
    with torch.inference_mode():
        made = [codec.encode(squares(seed))[0].clone() for seed in range(20)]
    folder = tokens(tmp_path, codec, {"train": made[:15], "valid": made[15:]})
    assert share_of_the_gain(folder, "nano") > 0.8


def test_on_a_checkpoint_of_the_released_layout(tmp_path: Path, hub_cache: Path) -> None:
    """A model with random weights, trained on melodies of some notes, is fine-tuned on others."""
    parts = load_parts(find_place(SMALL), "cpu", "float32")
    config = parts.lm.config

    def melody(seed: int, low: int) -> torch.Tensor:
        chance = torch.Generator().manual_seed(seed)
        notes = torch.randint(low, low + 12, (10,), generator=chance).repeat_interleave(10)
        streams = torch.arange(config.n_q)[:, None]
        return (7 * notes * (streams + 1) + streams) % config.card

    before = {"train": [melody(n, 0) for n in range(24)], "valid": [melody(99, 0)]}
    tokens(tmp_path / "before", parts.codec, before)
    lost(tmp_path / "before", "base", SMALL, steps=100, learning_rate=3e-3)
    then = {
        "train": [melody(n, 8) for n in range(16)],
        "valid": [melody(n, 8) for n in range(50, 58)],
    }
    folder = tokens(tmp_path, parts.codec, then)
    assert share_of_the_gain(folder, str(tmp_path / "before" / "base")) > 0.8
