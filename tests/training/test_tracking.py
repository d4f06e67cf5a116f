"""Destinations of the log other than its file; and the precision for a device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType

from magnet_cli.errors import UsageError
from magnet_cli.training.loop import fitting_precision
from magnet_cli.training.setup import make_trainer
from tests.training.test_loop import held_out, settings


def test_trackers_of_accelerate_get_the_numbers_of_the_log(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its TensorBoard tracker, on a writer that remembers."""
    seen: dict[str, list[int]] = {}
    closed: list[str] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def add_hparams(self, values: dict[str, Any], metric_dict: dict[str, Any]) -> None:
            assert values["steps"] == "2"

        def add_scalar(self, name: str, value: float, global_step: int) -> None:
            seen.setdefault(name, []).append(global_step)

        def flush(self) -> None: ...

        def close(self) -> None:
            closed.append(self.folder)

    fake = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr(torch.utils, "tensorboard", fake, raising=False)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    chosen = settings(
        workshop, steps=2, valid=held_out(workshop), valid_every=2, track=("tensorboard",)
    )
    make_trainer(chosen, workshop / "out").run()
    assert seen["train/loss"] == [1, 2]
    assert seen["valid/mean"] == [2]
    assert closed == [str(workshop / "out" / "tracks" / "out")]


def test_a_tracker_that_is_not_there_is_told_before_a_folder_is_made(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no tracker 'nosuch'") as caught:
        make_trainer(settings(workshop, track=("nosuch",)), workshop / "out")
    assert "tensorboard" in caught.value.hint
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    with pytest.raises(UsageError, match="wandb is not installed"):
        make_trainer(settings(workshop, track=("wandb",)), workshop / "out")
    assert not (workshop / "out").exists()


def test_auto_is_what_a_device_has(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting_precision(torch.device("cpu")) == "no"
    for has, precision in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert fitting_precision(torch.device("cuda")) == precision
    trainer = make_trainer(settings(workshop), workshop / "out")
    assert trainer.config.mixed_precision == "auto"
    assert trainer.summary()["precision"] == "no"
