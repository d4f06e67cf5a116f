"""Key maps: renaming by a table, without missing or leftover keys."""

import pytest
import torch

from magnet_cli.checkpoints import key_map
from magnet_cli.checkpoints.building import check_state
from magnet_cli.errors import CheckpointError

TABLE = [
    ("layers.0.first.w", "head.w"),  # before the general row
    ("layers.{}.parts.{}.w", "blocks.{}.{}.w"),
    ("layers.{}.first.w", "blocks.{}.w"),
]


def state(*keys):
    return {key: torch.full((2,), float(n)) for n, key in enumerate(keys)}


def test_there_and_back():
    theirs = state("layers.0.first.w", "layers.10.parts.3.w", "layers.4.first.w")
    ours = key_map.to_ours(theirs, TABLE, (), "x")
    assert list(ours) == ["head.w", "blocks.10.3.w", "blocks.4.w"]
    back = key_map.from_ours(ours, TABLE, "x")
    assert list(back) == list(theirs)
    assert all(back[key] is theirs[key] for key in theirs)


def test_drops_are_explicit():
    theirs = state("layers.1.first.w", "layers.1.first.seen")
    with pytest.raises(CheckpointError, match=r"layers\.1\.first\.seen"):
        key_map.to_ours(theirs, TABLE, (), "x")
    assert list(key_map.to_ours(theirs, TABLE, ["layers.{}.first.seen"], "x")) == ["blocks.1.w"]


def test_a_pattern_matches_whole_keys_and_only_numbers():
    for key in ("layers.one.first.w", "layers.1.first.w.more", "my.layers.1.first.w"):
        with pytest.raises(CheckpointError, match="unknown keys"):
            key_map.to_ours(state(key), TABLE, (), "x")


def test_two_keys_of_one_name_are_refused():
    table = [*TABLE, ("old.{}.w", "blocks.{}.w")]
    with pytest.raises(CheckpointError, match=r"blocks\.4\.w twice"):
        key_map.to_ours(state("layers.4.first.w", "old.4.w"), table, (), "x")


def test_many_left_over_keys_are_counted():
    with pytest.raises(CheckpointError, match=r"k4 and 3 more"):
        key_map.to_ours(state(*(f"k{n}" for n in range(8))), TABLE, (), "x")


def test_check_names_what_is_missing_left_over_or_of_another_shape():
    expected = state("a", "b")
    check_state(state("b", "a"), expected, "x")
    with pytest.raises(CheckpointError, match="lacks b"):
        check_state(state("a"), expected, "x")
    with pytest.raises(CheckpointError, match="unexpected tensors: c"):
        check_state(state("a", "b", "c"), expected, "x")
    with pytest.raises(CheckpointError, match=r"b is \[3\], its settings make it \[2\]"):
        check_state({"a": torch.zeros(2), "b": torch.zeros(3)}, expected, "x")
