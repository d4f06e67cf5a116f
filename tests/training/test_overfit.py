"""Can it learn? Greedy decoding reproduces two captioned clips, in both ways."""

from __future__ import annotations

from pathlib import Path

import torch

from magnet_cli.api import load_model
from magnet_cli.settings import DecodingConfig
from magnet_cli.training.config import TrainConfig
from magnet_cli.training.encode import token_format
from magnet_cli.training.setup import make_trainer
from tests.training.conftest import needs_muon, tiny_codec, write_tokens

FRAMES = 20


@needs_muon
def test_two_clips_are_learned_by_heart_and_told_apart_by_their_captions(workshop: Path) -> None:
    codec = tiny_codec()
    generator = torch.Generator().manual_seed(5)
    codes = {
        caption: torch.randint(0, codec.card, (codec.n_q, FRAMES), generator=generator)
        for caption in ("rain on a roof", "slow piano")
    }
    write_tokens(workshop / "two", codes, token_format(codec, "tiny"))
    config = TrainConfig(
        data=(str(workshop / "two"),),
        codec=str(workshop / "codec"),
        text_encoder=str(workshop / "text"),
        modeling="hybrid",
        dim=64,
        num_heads=2,
        num_layers=2,
        span_len=2,
        segment_duration=FRAMES / codec.frame_rate,
        steps=300,
        batch_size=8,
        micro_batch=4,
        optimizer="muon",
        learning_rate=5e-3,
        muon_learning_rate=2e-2,
        warmup_steps=10,
        final_rate=0.05,
        weight_decay=0.0,
        condition_dropout=0.0,
        ema_decay=0.5,
        ema_every=5,
        checkpoint_every=300,
        log_every=100,
    )
    make_trainer(config, workshop / "learned").run()

    model = load_model(str(workshop / "learned"), device="cpu")
    greedy = DecodingConfig(
        use_sampling=False,
        max_cfg_coef=1.0,
        min_cfg_coef=1.0,
        cfg_coef=1.0,
        decoding_steps=(8, 4),
        hybrid=0.0,
    )
    truth = torch.stack(list(codes.values()))
    masked = model.generate(list(codes), greedy, seeds=[0, 1], frames=FRAMES).codes
    assert torch.equal(masked, truth)
    whole = FRAMES / codec.frame_rate
    written = model.generate(list(codes), greedy, seeds=[0, 1], frames=FRAMES, hybrid=whole).codes
    assert torch.equal(written, truth)
