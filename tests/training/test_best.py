"""Validation: the best model, early stopping, and which clips are held out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.place import find_place
from magnet_cli.data.tokens import TokenFolder
from magnet_cli.errors import DataError, UsageError
from magnet_cli.training import loop, state
from magnet_cli.training.batches import Source, places_of
from magnet_cli.training.loop import Progress
from magnet_cli.training.losses import ValidationLoss
from magnet_cli.training.setup import make_trainer
from tests.training.test_loop import held_out, run, settings


def test_disk_and_time_are_told_as_they_are(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole model's files, most of a LoRA's disk space, were not counted; validation's seconds were."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(*_: object) -> ValidationLoss:
        now[0] += 100
        return ValidationLoss([1.0], [None])

    monkeypatch.setattr(loop, "validate", slow)
    more = {"valid_every": 1, "steps": 2, "keep_checkpoints": 2, "checkpoint_every": 1}
    trainer, heard = run(workshop, "out", valid=held_out(workshop), **more)
    assert [p.record["seconds_per_step"] for p in heard if p.kind == "step"] == [0, 0]
    said = trainer.summary()
    numbers = sum(p.numel() for p in trainer.model.parameters())
    assert said["checkpoint_bytes"] == 16 * numbers
    assert said["disk_bytes"] == 16 * 3 * numbers + 2 * 4 * numbers
    kept = state.latest_checkpoint(workshop / "out")
    assert kept is not None
    size = sum(path.stat().st_size for path in kept.iterdir())
    assert said["checkpoint_bytes"] < size < said["checkpoint_bytes"] + 60_000, (
        "and names and states"
    )


def losses_are(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """The losses of successive validations."""
    left: Iterator[float] = iter(values)
    monkeypatch.setattr(loop, "validate", lambda *_: ValidationLoss([next(left)], [None]))


def test_the_best_by_validation_is_kept_beside_the_last(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_are(monkeypatch, 3.0, 2.0, 2.5, 4.0, 4.0, 4.0)
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def note(progress: Progress) -> None:
        if progress.kind == "checkpoint":
            kept[progress.step] = load_file(workshop / "out" / "lm.safetensors")

    chosen = settings(workshop, valid=held_out(workshop), valid_every=1, checkpoint_every=1)
    make_trainer(chosen, workshop / "out").run(note)
    best = load_parts(find_place(str(workshop / "out" / "best")), "cpu", "float32").lm.state_dict()
    assert all(torch.equal(best[name], tensor) for name, tensor in kept[2].items())
    assert not all(torch.equal(best[name], tensor) for name, tensor in kept[6].items())
    said = json.loads((workshop / "out/best/best.json").read_text())
    assert {**said, "valid": "it"} == {"step": 2, "loss": 2.0, "valid": "it"}


def test_a_run_ends_when_it_gets_no_better_and_goes_on_knowing_its_best(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_are(monkeypatch, 3.0, 2.0, 2.5, 2.1)
    more = {"valid": held_out(workshop), "valid_every": 1, "patience": 2}
    trainer, heard = run(workshop, "out", **more)
    assert trainer.step == 4
    assert [p.kind for p in heard][-3:] == ["checkpoint", "enough", "finished"]
    assert heard[-1].record["path"].endswith("best")
    again = make_trainer(settings(workshop, **{**more, "patience": 3}), workshop / "out", True)
    losses_are(monkeypatch, 2.2, 1.0)
    assert again.best is not None
    assert (again.best.step, again.best.loss) == (2, 2.0)
    again.run()
    assert again.step == 5, "three validations after the second"


def test_a_run_that_patience_ended_takes_no_further_step(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `--resume` took one more step, and said again that it was enough."""
    losses_are(monkeypatch, 2.0, 2.5)
    more = {"valid": held_out(workshop), "valid_every": 1, "patience": 1}
    trainer, _ = run(workshop, "out", **more)
    assert trainer.step == 2
    heard: list[Progress] = []
    again = make_trainer(settings(workshop, **more), workshop / "out", True)
    again.run(heard.append)
    assert again.step == 2
    assert [p.kind for p in heard] == ["enough", "finished"]


def test_losses_on_other_clips_are_not_compared(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best loss on an easy validation set stayed the best after it was exchanged."""
    valid = {"valid": held_out(workshop), "valid_every": 6}
    losses_are(monkeypatch, 0.1, 3.0)
    run(workshop, "out", **valid)

    def resumed(**more: Any) -> loop.Trainer:
        return make_trainer(settings(workshop, **{**valid, **more}), workshop / "out", True)

    same = resumed()
    assert same.best is not None
    assert same.best.loss == 0.1
    assert same.changes == []
    assert resumed(valid_items=9).best == same.best, "there are eight"
    other = resumed(steps=12, valid_items=4)
    assert other.best is None
    assert "the validation set, so its best starts anew" in other.changes
    other.run()
    best = json.loads((workshop / "out/best/best.json").read_text())
    assert (best["step"], best["loss"]) == (12, 3.0)
    del best["valid"]  # as of earlier versions, which did not tell
    (workshop / "out/best/best.json").write_text(json.dumps(best))
    assert resumed(steps=12).best == loop.Best(12, 3.0)


def test_a_share_of_the_clips_is_held_out_and_stays_so(workshop: Path) -> None:
    trainer, heard = run(workshop, "out", valid_share=0.3, valid_every=6)
    assert trainer.valid is not None
    trained = {clip.id for _, clip in trainer.train.source.entries}
    held = {clip.id for _, clip in trainer.valid.source.entries}
    assert trained
    assert held
    assert not trained & held
    assert len(trained | held) == 8
    assert "valid" in [progress.kind for progress in heard]
    # A clip's own name decides, so further clips do not move any.
    assert {clip.id for _, clip in whole(workshop).entries if places_of(clip)[0] < 0.3} == held


def test_a_pair_of_which_one_is_held_out_is_on_neither_side(workshop: Path) -> None:
    """A pair had a place of its own, so that what was held out was heard in training, mixed."""
    source = whole(workshop)
    (folder,) = source.folders
    first, *others = folder.clips
    folder.clips += tuple(
        dataclasses.replace(one, id=f"mix//{one.id}//{other.id}")
        for one in (first, *others)
        for other in (first, *others)
    )
    train, held = (
        {name for _, clip in part.entries for name in clip.id.removeprefix("mix//").split("//")}
        for part in Source((folder,)).split(0.3)
    )
    assert train
    assert held
    assert not train & held
    count = sum(len(part.entries) for part in Source((folder,)).split(0.3))
    assert count == 8 + len(train) ** 2 + len(held) ** 2


def test_of_few_clips_one_at_least_is_on_each_side(workshop: Path) -> None:
    """A share of a tenth held out none of sixteen clips for one in six sets of names, and was refused."""
    for share in (0.0001, 0.9999):
        train, held = (part.entries for part in whole(workshop).split(share))
        assert len(train) + len(held) == 8
        assert min(len(train), len(held)) == 1
    one = whole(workshop)
    one.folders[0].clips = one.folders[0].clips[:1]
    with pytest.raises(DataError, match="none can be held out"):
        Source(one.folders).split(0.5)


def whole(workshop: Path) -> Source:
    return Source((TokenFolder(workshop / "tokens"),))


def test_patience_needs_something_to_wait_for(workshop: Path) -> None:
    with pytest.raises(UsageError, match="without a validation set"):
        settings(workshop, patience=2)
    with pytest.raises(UsageError, match="0 where --valid names"):
        settings(workshop, valid="x", valid_share=0.1)
