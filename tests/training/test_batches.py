"""A step's batch depends only on (seed, step, item)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from magnet_cli.config import LMConfig
from magnet_cli.data.tokens import TokenClip, TokenFolder, TokenFormat
from magnet_cli.errors import DataError
from magnet_cli.training.batches import (
    BatchDrawer,
    Source,
    _permutation,
    caption_of,
    keyed_generator,
)
from magnet_cli.training.config import TrainConfig
from tests.training.conftest import write_tokens

FORMAT = TokenFormat("tiny", "abc", 100, 10.0, 2, 16)
CLIP = TokenClip("a", "k", "s", 0, 10, ("slow piano.", "a piano"), ("tempo: 80", "rock", "loud"))


def source(folder: Path, lengths: tuple[int, ...] = (5, 9, 30)) -> Source:
    codes = {
        f"caption {n}": torch.arange(length).remainder(16).repeat(2, 1)
        for n, length in enumerate(lengths)
    }
    return Source((TokenFolder(write_tokens(folder, codes, FORMAT)),))


def drawer_of(folder: Path, modeling: str = "hybrid", **more: object) -> BatchDrawer:
    config = TrainConfig(**{"batch_size": 4, "micro_batch": 2, "condition_dropout": 0.5, **more})  # type: ignore[arg-type]
    lm = LMConfig(
        dim=16, num_heads=2, num_layers=1, n_q=2, card=16, modeling=modeling,  # type: ignore[arg-type]
        text_dim=4, frame_rate=10.0, segment_duration=0.8, delays=(0, 1),
    )  # fmt: skip

    def encode(texts: Sequence[str]) -> list[Tensor]:
        return [torch.full((1, 4), float(len(text))) for text in texts]

    return BatchDrawer(source(folder), lm, config, encode)


def test_a_batch_is_the_same_whoever_asks_and_when(tmp_path: Path) -> None:
    one, other = drawer_of(tmp_path / "a"), drawer_of(tmp_path / "b")
    other.batch(0, 0)
    for step, micro in ((7, 1), (3, 0), (7, 0)):
        a, b = one.batch(step, micro), other.batch(step, micro)
        assert torch.equal(a.inputs, b.inputs)
        assert (a.stage, a.prefix_rows, a.names) == (b.stage, b.prefix_rows, b.names)
    reseeded = drawer_of(tmp_path / "c", seed=1)
    drawn = [
        (s.batch(n, 0).stage, s.batch(n, 0).prefix_rows) for s in (one, reseeded) for n in range(8)
    ]
    assert drawn[:8] != drawn[8:]


def test_a_model_that_asks_for_it_is_told_where_bars_start(tmp_path: Path) -> None:
    """From the tag `tempo_bpm`, moved with the segment; validation is always told."""
    assert not drawer_of(tmp_path / "without").batch(0, 0).bars
    drawer = drawer_of(tmp_path / "with", condition_dropout=0.25)
    drawer.lm = replace(drawer.lm, bar_position=True)
    # 10 frames a second: a bar of four beats at 150 bpm has 16 frames.
    tagged = [
        (folder, replace(clip, tags=("rock", "tempo_bpm: 150.0") if clip.frames > 5 else ("rock",)))
        for folder, clip in drawer.source.entries
    ]
    drawer.source.__dict__["entries"] = tagged
    told: Counter[tuple[str, float]] = Counter()
    for step in range(100):
        batch = drawer.batch(step, 0)
        assert len(batch.bars) == len(batch.names)
        for name, codes, (bar, since) in zip(batch.names, batch.codes, batch.bars, strict=True):
            told[name, bar] += 1
            assert bar in ((0.0,) if name == "clip-0" else (0.0, 16.0))
            # Frame n of a clip has code n % 16.
            assert since == (int(codes[0, 0]) % 16 if bar else 0.0)
    share = told["clip-2", 0.0] / (told["clip-2", 0.0] + told["clip-2", 16.0])
    assert share == pytest.approx(0.25, abs=0.12)
    checked = {
        name: bar
        for batch in drawer.validation_batches()
        for name, bar in zip(batch.names, batch.bars, strict=True)
    }
    assert {name: bar for name, (bar, _) in checked.items()} == {
        "clip-0": 0.0,
        "clip-1": 16.0,
        "clip-2": 16.0,
    }


def test_every_clip_is_seen_once_a_round(tmp_path: Path) -> None:
    data = source(tmp_path, (5,) * 7)
    for round_ in range(3):
        seen = [data.clip_of(0, round_ * 7 + n)[1].id for n in range(7)]
        assert sorted(seen) == sorted(f"clip-{n}" for n in range(7))
    orders = {tuple(data.clip_of(seed, n)[1].id for n in range(7)) for seed in range(5)}
    assert len(orders) > 1


def test_clips_come_as_often_as_their_weights_say(tmp_path: Path) -> None:
    """A track of an hour was drawn as often as a loop of a second."""
    many = source(tmp_path / "many", (10, 20, 30, 40)).folders[0]
    few = source(tmp_path / "few", (20, 20)).folders[0]

    def drawn(**more: Any) -> list[tuple[str, int]]:
        data = Source((many, few), **more)
        each = [data.clip_of(0, item) for item in range(6 * 50)]
        assert each[6:12] == [data.clip_of(0, item) for item in range(6, 12)], "whoever asks"
        counts = Counter(
            (str(folder.folder.name), clip.frames) for folder, clip in each if folder is many
        )
        return [counts["many", n] for n in (10, 20, 30, 40)] + [
            sum(folder is few for folder, _ in each)
        ]  # type: ignore[return-value]

    assert drawn() == [50, 50, 50, 50, 100]
    assert drawn(weights=(2.0, 2.0)) == [50, 50, 50, 50, 100]
    by_weight = drawn(weights=(1.0, 3.0))
    assert all(abs(n - 30) <= 12 for n in by_weight[:4])
    assert abs(by_weight[4] - 180) <= 25
    lengths = drawn(by_duration=True)
    assert [round(n / 300 * 140, -1) for n in lengths] == [10, 20, 30, 40, 40]


def test_a_clip_has_a_weight_of_its_own(tmp_path: Path) -> None:
    data = source(tmp_path, (10, 20, 30))
    (folder,) = data.folders
    folder.clips = tuple(replace(c, weight=w) for c, w in zip(folder.clips, (1, 2, 5), strict=True))
    for more, shares in (({}, (1, 2, 5)), ({"by_duration": True}, (1, 4, 15))):
        weighed = Source((folder,), **more)
        drawn = Counter(weighed.clip_of(0, item)[1].frames for item in range(600))
        for frames, share in zip((10, 20, 30), shares, strict=True):
            assert drawn[frames] == pytest.approx(600 * share / sum(shares), abs=30)


def test_orders_where_all_weigh_the_same_are_those_of_before(tmp_path: Path) -> None:
    """Resumed runs continue with the draws that they started with."""
    data = source(tmp_path, (5,) * 7)
    assert [data.clip_of(3, n)[1].id for n in range(7)] == [
        f"clip-{n}" for n in _permutation(7, 3, 0)
    ]


def test_crops_are_anywhere_and_padding_is_never_asked(tmp_path: Path) -> None:
    drawer = drawer_of(tmp_path, "masked")
    starts = set()
    for step in range(60):
        batch = drawer.batch(step, 0)
        assert batch.codes.shape[-1] == max({"clip-0": 5}.get(name, 8) for name in batch.names)
        for row, name in enumerate(batch.names):
            length = {"clip-0": 5, "clip-1": 9, "clip-2": 30}[name]
            here = min(length, 8)
            first = int(batch.codes[row, 0, 0])
            if name == "clip-2":
                starts.add(first)
            expected = (torch.arange(here) + first).remainder(16)
            assert torch.equal(batch.codes[row, 0, :here], expected)
            assert (batch.codes[row, :, here:] == 16).all()
            assert not batch.masked[row, :, here:].any()
            assert not batch.following[row, :, here:].any()
    assert len(starts) > 10


def test_prefixes_come_as_often_as_asked(tmp_path: Path) -> None:
    drawer = drawer_of(tmp_path, no_prefix_share=0.4, full_prefix_share=0.3)
    batches = [drawer.batch(step, 0) for step in range(300)]
    # Two short clips make a short segment; drawn clips are cut at another length.
    rows = [batch.prefix_rows for batch in batches if batch.codes.shape[-1] == 8]
    steps = 8 + 1 + 1
    assert min(rows) == 1
    assert max(rows) == steps
    assert 0.4 < sum(row == 1 for row in rows) / len(rows) < 0.55  # a drawn one may be 1, too
    assert 0.25 < sum(row == steps for row in rows) / len(rows) < 0.45
    assert len(set(rows)) > 7
    masked = drawer_of(tmp_path / "m", "masked")
    assert {masked.batch(n, 0).prefix_rows for n in range(9)} == {1}


def test_blocks_come_as_often_as_asked_in_the_first_stage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnet_cli.training.batches.BLOCK_SECONDS", 0.2)  # two frames
    drawer = drawer_of(tmp_path, "masked", block_share=0.4)
    whole = drawer_of(tmp_path / "whole", "masked")
    blocks = []
    for step in range(300):
        batch, plain = drawer.batch(step, 0), whole.batch(step, 0)
        here = batch.codes.shape[-1]
        assert torch.equal(batch.codes, plain.codes[..., :here])
        assert batch.stage == plain.stage
        asked = batch.masked.any(1).any(0).nonzero()
        if batch.weight == 1:
            assert torch.equal(batch.masked, plain.masked)
        elif plain.codes.shape[-1] == 8:
            blocks.append(int(asked.min()) // 2)
            assert int(asked.max()) // 2 == blocks[-1] == here // 2 - 1
            assert (batch.stage, batch.weight) == (0, 4)
    assert set(blocks) == {0, 1, 2, 3}
    assert 30 < len(blocks) < 90  # of some 150 batches of the first stage, some of them shorter


def test_stages_are_drawn_by_their_weights(tmp_path: Path) -> None:
    equal = drawer_of(tmp_path)
    stages = [equal.batch(step, 0).stage for step in range(40)]
    assert {0, 1} == set(stages)
    only = drawer_of(tmp_path / "only", stage_weights=(0.0, 1.0))
    assert {only.batch(step, 0).stage for step in range(20)} == {1}


def captions(**settings: float) -> list[str | None]:
    none = {"condition_dropout": 0.0, "merge_tags": 0.0}
    config = TrainConfig(**{**none, **settings})  # type: ignore[arg-type]
    return [caption_of(CLIP, config, keyed_generator("test", n)) for n in range(400)]


def test_captions_are_drawn_dropped_and_merged() -> None:
    assert set(captions()) == {"slow piano.", "a piano"}
    dropped = captions(condition_dropout=0.3)
    assert 80 < dropped.count(None) < 160
    kept = captions(merge_tags=1.0, drop_caption=0.0, drop_tag=0.0)
    assert all(text is not None and text.startswith(("slow piano. ", "a piano. ")) for text in kept)
    assert all(text is not None and text.count(". ") == 3 for text in kept)
    assert len(set(kept)) > 6, "tags come in any order"
    alone = captions(merge_tags=1.0, drop_caption=1.0, drop_tag=0.5)
    assert any(text == "rock" for text in alone)
    assert any(text == "slow piano." for text in alone), "all tags dropped: the caption stays"


def test_words_are_left_out() -> None:
    texts = captions(word_dropout=0.5)
    assert {"slow", "piano.", "a", "piano", None} <= set(texts)
    assert set(captions(word_dropout=1.0)) == {None}


def test_folders_of_different_codecs_do_not_mix(tmp_path: Path) -> None:
    one = source(tmp_path / "one").folders[0]
    other = dataclasses.replace(FORMAT, codec_hash="other")
    write_tokens(tmp_path / "two", {"x": torch.zeros(2, 4, dtype=torch.int64)}, other)
    with pytest.raises(DataError, match="different codecs"):
        Source((one, TokenFolder(tmp_path / "two")))


def test_a_folder_without_clips_is_said(tmp_path: Path) -> None:
    write_tokens(tmp_path, {}, FORMAT)
    with pytest.raises(DataError, match="no clips"):
        Source((TokenFolder(tmp_path),))
