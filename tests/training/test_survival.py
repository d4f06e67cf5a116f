"""Ends and failures of a run: signals, a second run in its folder, NaN."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.checkpoints import native
from magnet_cli.cli.train import _minutes, _same_start, _stopping_well
from magnet_cli.errors import CheckpointError, MagnetError, UsageError
from magnet_cli.files import ENDINGS
from magnet_cli.training import state
from magnet_cli.training.config import TrainConfig
from magnet_cli.training.encode import token_format
from magnet_cli.training.lock import locked
from magnet_cli.training.loop import NotANumberError, Progress, launched_alone, shared_out
from magnet_cli.training.output import Journal
from magnet_cli.training.setup import make_trainer
from tests.training.conftest import tiny_codec, write_tokens
from tests.training.test_loop import held_out, settings


@contextmanager
def signals_noted(heard: list[int]) -> Iterator[None]:
    """Within this context, Ctrl-C and SIGTERM are recorded and end the run, whatever the suite's handlers."""

    def usually(number: int, frame: object) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    usual = {n: signal.signal(n, usually) for n in (signal.SIGINT, *ENDINGS)}
    try:
        yield
        assert {signal.getsignal(n) for n in usual} == {usually}
    finally:
        for one, before in usual.items():
            signal.signal(one, before)


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDINGS])
def test_both_signals_end_a_run_with_a_checkpoint(workshop: Path, number: signal.Signals) -> None:
    """SIGTERM, which queues and containers send, saved nothing, and later ended with Ctrl-C's status. SIGHUP,
    which a closed terminal sends, also saved nothing, and comes twice."""
    heard: list[int] = []
    said: list[str] = []
    in_main: list[bool] = []
    trainer = make_trainer(settings(workshop, checkpoint_every=6), workshop / "out")

    def after_three(progress: Progress) -> None:
        if progress.kind == "step" and progress.step == 3:
            for _ in range(1 if number in (signal.SIGINT, signal.SIGTERM) else 2):
                os.kill(os.getpid(), number)

    def note(text: str) -> None:
        said.append(text)
        in_main.append(threading.current_thread() is threading.main_thread())

    stopping_well = _stopping_well(trainer.stop, note, "Resume it with: --resume")
    with signals_noted(heard), pytest.raises(KeyboardInterrupt), stopping_well:
        trainer.run(after_three)
    assert heard == [number], "the status is that of what came"
    kept = state.latest_checkpoint(workshop / "out")
    assert kept is not None
    assert kept.name == "step-00000004"
    assert said == [
        "Stopping after this step, with a checkpoint. Once more stops at once.",
        "Resume it with: --resume",
    ]
    assert in_main == [False, True], "said by a handler, a line that is being printed comes twice"


def test_with_several_processes_a_second_signal_does_not_end_them_at_once() -> None:
    """Their launcher passes it on and sends one of its own; and yet once more was said to stop at once."""
    heard: list[int] = []
    said: list[str] = []
    stops: list[None] = []

    def both() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyboardInterrupt

    well = _stopping_well(lambda: stops.append(None), said.append, "Resume it", several=True)
    with signals_noted(heard), pytest.raises(KeyboardInterrupt), well:
        both()
    assert (len(stops), heard) == (2, [signal.SIGINT])
    assert set(said) == {"Stopping after this step, with a checkpoint.", "Resume it"}


def test_a_process_ends_when_another_is_asked_to(workshop: Path) -> None:
    """Ctrl-C with several processes killed them all, and nothing was saved."""
    trainer = make_trainer(settings(workshop), workshop / "out")

    class Two:
        num_processes, device = 2, torch.device("cpu")

        def reduce(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
            return tensor + 1  # the other one was asked

    trainer.accelerator = Two()
    assert trainer._asked_to_stop()


def test_a_launcher_that_starts_one_of_several_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --cpu --num_processes 2` sets these, and silently runs one process."""
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert not launched_alone(1), "one was asked for"
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert launched_alone(1)
    assert not launched_alone(2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launched_alone(1), "whoever started it counts them"


def test_a_folder_takes_one_run_at_a_time(workshop: Path) -> None:
    trainer = make_trainer(settings(workshop), workshop / "out")
    with locked(workshop / "out"):
        with pytest.raises(UsageError, match="Another run is writing"):
            trainer.run()
        assert not (workshop / "out" / "log.jsonl").exists()
    trainer.run()  # and it is free again


def test_gradients_that_are_not_numbers_change_no_weights(workshop: Path) -> None:
    """The loss was a number but the weights no longer were, and the checkpoint was called good."""
    trainer = make_trainer(settings(workshop), workshop / "out")
    trainer.take_step()
    weight = trainer.output.lm.out_norm.weight
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NotANumberError, match="gradients are not numbers at step 2"):
        trainer.take_step()
    assert all(torch.isfinite(p).all() for p in trainer.output.lm.parameters())


def test_weights_that_are_not_numbers_are_not_saved(workshop: Path) -> None:
    trainer = make_trainer(settings(workshop), workshop / "out")
    before = (workshop / "out" / "lm.safetensors").read_bytes()
    with torch.no_grad():
        trainer.output.lm.out_norm.weight.fill_(float("inf"))
    with pytest.raises(NotANumberError, match="are not saved"):
        trainer.checkpoint()
    assert state.latest_checkpoint(workshop / "out") is None
    assert (workshop / "out" / "lm.safetensors").read_bytes() == before


def test_processes_share_a_batch_without_being_told_how() -> None:
    """`torchrun --nproc_per_node 2` failed with the defaults."""
    assert shared_out(TrainConfig(), 2).micro_batch == 8
    assert shared_out(TrainConfig(), 1) == TrainConfig()
    with pytest.raises(UsageError, match="16 items cannot be divided among 3"):
        shared_out(TrainConfig(), 3)
    with pytest.raises(UsageError, match="1 micro-batches cannot be divided among 2"):
        shared_out(TrainConfig(micro_batch=16), 2)


def test_what_torch_compile_names_is_kept_under_the_models_own_names(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every name in the model's file had `_orig_mod.` before it, and nothing could load it."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    trainer = make_trainer(settings(workshop, steps=2), workshop / "out")
    assert not [name for name in trainer.ema.names if "_orig_mod" in name]
    state_of = {f"_orig_mod.{n}": t for n, t in trainer.model.state_dict().items()}
    trainer.output.update(state_of)
    kept = load_file(workshop / "out" / "lm.safetensors")
    assert kept.keys() == trainer.output.lm.state_dict().keys()


@contextmanager
def most_bytes(count: int) -> Iterator[None]:
    """Within this context, no file of this process may exceed a size, so writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_without_the_insides_of_libraries(workshop: Path) -> None:
    """It printed torch's message, and a traceback for safetensors, whose exceptions are not OSErrors."""
    trainer = make_trainer(settings(workshop, steps=1), workshop / "out")
    trainer.take_step()
    weights = (workshop / "out" / "lm.safetensors").stat().st_size
    reasons = []
    # The weights are truncated; then the optimizer's state, twice as large, in the middle and at its end.
    for count in (100, weights + 2000, 2 * weights + 100):
        with most_bytes(count), pytest.raises(MagnetError) as caught:
            trainer.checkpoint()
        assert "could not be written" in caught.value.message
        assert "Free some space and continue with --resume" in caught.value.hint
        assert list((workshop / "out" / "checkpoints").iterdir()) == []
        reasons.append(caught.value.message.partition(": ")[2])
    assert reasons == ["File too large.", *2 * ["the disk is full, or cannot be written to."]]
    with most_bytes(100), pytest.raises(OSError, match="File too large"):
        native.save(workshop / "copy", trainer.output.parts, {})
    best = make_trainer(settings(workshop, valid=held_out(workshop)), workshop / "best")
    with most_bytes(100), pytest.raises(MagnetError, match="best model could not be written"):
        best._validate()


def test_a_short_run_reaches_its_rate() -> None:
    assert [TrainConfig(steps=steps).warmup for steps in (5, 200, 1000, 5000)] == [0, 20, 100, 100]
    assert TrainConfig(steps=5, warmup_steps=7).warmup == 7


def test_half_precision_on_a_cpu_is_refused(workshop: Path) -> None:
    """It silently used float32."""
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        make_trainer(settings(workshop, mixed_precision="fp16"), workshop / "out")
    assert not (workshop / "out").exists()


def test_training_data_are_no_validation_set(workshop: Path) -> None:
    twice = settings(workshop, valid=str(workshop / "x" / ".." / "tokens"))
    with pytest.raises(UsageError, match="is training data"):
        make_trainer(twice, workshop / "out")


def test_a_board_that_is_not_there_is_told_before_a_folder_is_made(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="TensorBoard is not installed"):
        make_trainer(settings(workshop, tensorboard=True), workshop / "out")
    assert not (workshop / "out").exists()


def test_the_board_shows_training_and_validation_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, tensorboard=False, steps_done=0)
    seen: list[str] = []

    class Board:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append(name)

        def close(self) -> None: ...

    journal._board = Board()
    journal.write({"step": 1, "kind": "step", "loss": 2.0, "masked": [1.0]})
    journal.write({"step": 1, "kind": "valid", "mean": 2.0, "masked": [1.0]})
    journal.close()
    assert seen == ["train/loss", "train/masked/0", "valid/mean", "valid/masked/0"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "ema-0.pt", "run.json"])
def test_a_damaged_checkpoint_is_named_and_not_loaded(workshop: Path, name: str) -> None:
    """torch reported internals, and advised loading the file with weights_only=False, which runs code from
    it."""
    config = settings(workshop, steps=1)
    make_trainer(config, workshop / "out").run()
    kept = state.latest_checkpoint(workshop / "out")
    assert kept is not None
    whole = (kept / name).read_bytes()
    for bad in (whole[: len(whole) // 2], b"[]", b""):
        (kept / name).write_bytes(bad)
        with pytest.raises(CheckpointError) as refused:
            make_trainer(config, workshop / "out", resume=True)
        assert str(kept / name) in refused.value.message
        assert "goes on from the one before it" in refused.value.hint
        assert "orch" not in str(refused.value)


def test_a_run_goes_on_from_what_it_began_with(tmp_path: Path) -> None:
    """Another text encoder was said to be the run's now, and ignored; another rank or optimizer failed
    in torch's words."""
    began = TrainConfig(init="small", lora_rank=2, codec=str(tmp_path))
    _same_start(began, began, tmp_path)
    _same_start(began, TrainConfig(init="small", lora_rank=2, codec=f"{tmp_path}/."), tmp_path)
    for change, said in {
        "init": ("medium", "--init cannot be medium: the run of .* began with small"),
        "codec": ("nano", "--codec cannot be nano"),
        "text_encoder": ("t5", "--text-encoder cannot be t5: the run of .* began with none"),
        "lora_rank": (0, "--lora-rank cannot be none: the run of .* began with 2"),
        "lora_targets": (("self", "feed"), "--lora-targets cannot be self feed"),
        "optimizer": ("muon", "--optimizer cannot be muon"),
    }.items():
        with pytest.raises(UsageError, match=said[1]):
            _same_start(began, dataclasses.replace(began, **{change: said[0]}), tmp_path)


def test_clips_that_were_exchanged_are_told_of(workshop: Path) -> None:
    """Only their number was held against the one before."""
    make_trainer(settings(workshop, steps=2), workshop / "out").run()
    again = make_trainer(settings(workshop, steps=3), workshop / "out", resume=True)
    assert again.changes == ["steps was 2, is 3"]
    codec = tiny_codec()
    codes = {f"other words {n}": torch.zeros(2, 20, dtype=torch.int64) for n in range(8)}
    shutil.rmtree(workshop / "tokens")
    write_tokens(workshop / "tokens", codes, token_format(codec, "tiny"))
    again = make_trainer(settings(workshop, steps=3), workshop / "out", resume=True)
    assert again.changes == ["as many clips, but others", "steps was 2, is 3"]


def test_a_run_goes_on_without_what_it_was_made_of(workshop: Path) -> None:
    """Its folder has the codec and the text encoder, and yet the ones that they came from had to be there."""
    make_trainer(settings(workshop, steps=2), workshop / "out").run()
    for part in ("codec", "text"):
        (workshop / part).rename(workshop / f"{part}-gone")
    again = make_trainer(settings(workshop, steps=3), workshop / "out", resume=True)
    again.run()
    assert again.step == 3


def test_times_are_for_people() -> None:
    """4320 min left."""
    assert _minutes(4320 * 60) == "3 d 0 h"
    assert [_minutes(t) for t in (45, 12 * 60, 320 * 60)] == ["45 s", "12 min", "5 h 20 min"]
