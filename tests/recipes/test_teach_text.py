"""Training the text encoder: the language model is frozen, the loss falls, a killed run resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from magnet_cli.data.tokens import TokenFolder
from magnet_cli.models.lm import LanguageModel
from magnet_cli.training.config import TrainConfig
from magnet_cli.training.encode import token_format
from magnet_cli.training.initial import initialise
from magnet_cli.training.objective import batch_losses
from magnet_cli.training.setup import new_lm_config
from recipes.nano.teach_text import FRAMES, Teacher, bare_prompts, grown, with_bare_prompts
from tests.training.conftest import tiny_codec, tiny_text_encoder, write_tokens


@pytest.mark.parametrize(
    ("tags", "prompts"),
    [
        (
            ["kind: song", "instrument: piano", "style: lofi", "tempo_class: slow", "drums: True"],
            ["lofi", "piano", "lofi piano", "slow lofi", "slow piano"],
        ),
        (["kind: solo", "instrument: harp", "instruments: harp"], ["harp"]),
        (["kind: drums", "instruments: kit", "style: techno"], ["techno", "drums", "techno drums"]),
        (["kind: effect", "effects: {'effect': 'alarm', 'variant': 'ringing'}"], ["alarm"]),
        (
            [
                "kind: effect",
                "effects: {'effect': 'rain', 'variant': 'a'}, {'effect': 'surf', 'variant': 'b'}",
            ],
            ["rain and surf"],
        ),
    ],
)
def test_bare_prompts_are_what_someone_in_a_hurry_types(
    tags: list[str], prompts: list[str]
) -> None:
    assert bare_prompts(tags) == prompts


def teacher(folder: Path, name: str, steps: int = 12) -> tuple[Teacher, TrainConfig]:
    codec = tiny_codec()
    tokens = folder / "tokens"
    if not tokens.exists():
        generator = torch.Generator().manual_seed(2)
        shape = codec.n_q, 20
        codes = {
            text: torch.randint(0, codec.card, shape, generator=generator)
            for text in ("slow piano", "rain", "fast piano", "slow rain")
        }
        write_tokens(tokens, codes, token_format(codec, "tiny"))
    config = TrainConfig(
        data=(str(tokens),),
        modeling="hybrid",
        dim=16,
        num_heads=2,
        num_layers=1,
        segment_duration=2.4,
        steps=steps,
        batch_size=4,
        micro_batch=2,
        warmup_steps=1,
        learning_rate=1e-2,
        no_prefix_share=0.0,
        full_prefix_share=1.0,
        condition_dropout=0.0,
    )
    encoder = tiny_text_encoder()
    lm = LanguageModel(new_lm_config(config, TokenFolder(tokens).format, encoder.width))
    initialise(lm, 0)
    lm.requires_grad_(False)
    return Teacher(lm, grown(encoder, 1, 0), config, folder / f"{name}.pt"), config


def test_it_learns_what_texts_tell_apart_and_only_that(tmp_path: Path) -> None:
    run, config = teacher(tmp_path, "a", steps=40)
    before = {name: p.clone() for name, p in run.lm.named_parameters()}
    table = run.encoder.table.clone()
    drawer = run.drawer(config.data, config)
    batch = drawer.batch(0, 0)
    with torch.autocast("cpu", torch.bfloat16):
        plain = batch_losses(run.lm, batch, run.weights)
    assert torch.equal(run.losses(batch).total, plain.total)  # it starts as nothing
    for _ in range(40):
        run.take_step(drawer)
    assert run.losses(batch).total.sum().item() < 0.97 * plain.total.sum().item()
    assert all(torch.equal(before[name], p) for name, p in run.lm.named_parameters())
    assert torch.equal(run.encoder.table, table)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, config = teacher(tmp_path, "whole")
    broken, _ = teacher(tmp_path, "broken")
    for _ in range(6):
        whole.take_step(whole.drawer(config.data, config))
    for _ in range(3):
        broken.take_step(broken.drawer(config.data, config))
    broken.keep()
    resumed, _ = teacher(tmp_path, "broken")
    assert resumed.step == 3
    for _ in range(3):
        resumed.take_step(resumed.drawer(config.data, config))
    for ours, theirs in zip(whole.reader.parameters(), resumed.reader.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_clips_are_cut_to_what_is_read_and_keep_their_captions(tmp_path: Path) -> None:
    codec = tiny_codec()
    long = torch.zeros(codec.n_q, 2 * FRAMES, dtype=torch.int64)
    short = long[:, :20]
    write_tokens(tmp_path, {"rain": long, "surf": short}, token_format(codec, "tiny"))
    clips = with_bare_prompts(TokenFolder(tmp_path)).clips
    assert [clip.captions for clip in clips] == [("rain",), ("surf",)]
    assert FRAMES < clips[0].frames < FRAMES + 10
    assert clips[1].frames == 20
