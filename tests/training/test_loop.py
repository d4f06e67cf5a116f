"""The training loop: learning, resuming after a kill, stopping at NaN."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.config import Modeling
from magnet_cli.errors import CheckpointError, MagnetError, UsageError
from magnet_cli.training import state
from magnet_cli.training.config import TrainConfig, read_config
from magnet_cli.training.loop import NotANumberError, Progress, Trainer
from magnet_cli.training.losses import validate
from magnet_cli.training.setup import make_trainer
from tests.training.conftest import needs_muon


def settings(workshop: Path, **more: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "data": (str(workshop / "tokens"),),
        "codec": str(workshop / "codec"),
        "text_encoder": str(workshop / "text"),
        "modeling": "hybrid",
        "dim": 16,
        "num_heads": 2,
        "num_layers": 1,
        "segment_duration": 2.4,
        "steps": 6,
        "batch_size": 4,
        "micro_batch": 2,
        "warmup_steps": 2,
        "learning_rate": 1e-2,
        "log_every": 1,
        "checkpoint_every": 2,
        "keep_checkpoints": 9,
        "ema_every": 2,
    }
    return TrainConfig(**{**base, **more})


def held_out(workshop: Path) -> str:
    """The same clips in a second folder."""
    return str(shutil.copytree(workshop / "tokens", workshop / "held-out"))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in trainer.output.lm.state_dict().items()}


def run(workshop: Path, out: str, **more: Any) -> tuple[Trainer, list[Progress]]:
    heard: list[Progress] = []
    trainer = make_trainer(settings(workshop, **more), workshop / out)
    trainer.run(heard.append)
    return trainer, heard


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "step"}


def test_equal_settings_give_equal_weights(workshop: Path) -> None:
    first, _ = run(workshop, "a")
    second, _ = run(workshop, "b")
    for name, weight in weights(first).items():
        assert torch.equal(weight, weights(second)[name]), name


def test_a_model_without_restriction_of_context_is_trained_and_kept_as_such(workshop: Path) -> None:
    trainer, _ = run(workshop, "wide", subcodes_context=-1, modeling="masked", steps=2)
    kept = json.loads((workshop / "wide" / "config.json").read_text("utf-8"))["lm"]
    assert kept["subcodes_context"] == trainer.output.lm.config.subcodes_context == -1


def test_a_killed_run_goes_on_as_if_nothing_had_been(workshop: Path) -> None:
    """Kill -9 after step 5, between two checkpoints: the steps since the last one have no effect."""
    whole, _ = run(workshop, "whole")

    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.kind == "step" and progress.step == 5:
            raise Killed

    broken = make_trainer(settings(workshop), workshop / "killed")
    with pytest.raises(Killed):
        broken.run(kill)
    out = workshop / "killed"
    # What a kill can leave: an incomplete checkpoint, line of the log or file.
    (out / "checkpoints" / ".partial-6").mkdir()
    (out / "checkpoints" / ".partial-6" / "model.safetensors").write_bytes(b"half")
    (out / "checkpoints" / "step-00000006").mkdir()
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "kind": "st')

    resumed = make_trainer(settings(workshop), out, resume=True)
    assert resumed.step == 4
    resumed.run()
    assert losses(out) == losses(workshop / "whole")
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name
    for name, average in whole.ema.state_dict()["shadow"].items():
        assert torch.equal(average, resumed.ema.state_dict()["shadow"][name]), name
    assert not list((out / "checkpoints").glob(".partial-*"))


def test_what_a_run_keeps_is_its_averages_and_validation_speaks_of_them(workshop: Path) -> None:
    trainer, heard = run(workshop, "kept", valid=held_out(workshop), valid_every=6)
    kept = load_file(workshop / "kept" / "lm.safetensors")
    averages = trainer.ema.state_dict()["shadow"]
    assert any(not torch.equal(weights(trainer)[name], tensor) for name, tensor in kept.items())
    for name, tensor in kept.items():
        assert torch.equal(tensor, averages[f"lm.{name}"]), name
    told = next(progress.record["mean"] for progress in heard if progress.kind == "valid")
    trainer.output.lm.load_state_dict(kept)
    assert trainer.valid is not None
    assert validate(trainer.accelerator, trainer.model, trainer.valid).mean == told


def test_a_run_too_short_for_averages_keeps_what_it_learned(workshop: Path) -> None:
    """With fewer steps than --ema-every it saved, and validated, its initial weights."""
    trainer, _ = run(workshop, "short", steps=3, ema_every=10)
    for name, tensor in load_file(workshop / "short" / "lm.safetensors").items():
        assert torch.equal(tensor, weights(trainer)[name]), name


def test_a_run_killed_between_samples_and_its_first_checkpoint_goes_on_as_it_was(
    workshop: Path,
) -> None:
    """Samples replaced the model's file, from which a run without a checkpoint would start again."""
    more = {"sample_every": 2, "checkpoint_every": 6, "sample_prompts": ("rain",)}
    run(workshop, "whole", **more)

    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.kind == "step" and progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        make_trainer(settings(workshop, **more), workshop / "killed").run(kill)
    resumed = make_trainer(settings(workshop, **more), workshop / "killed", resume=True)
    resumed.run()
    assert losses(workshop / "killed") == losses(workshop / "whole")


def test_validation_reads_no_more_padding_than_training_does(workshop: Path) -> None:
    """Clips of a fifth of a segment were validated with four fifths of masks, and looked worse."""
    trainer = make_trainer(settings(workshop, segment_duration=12.0), workshop / "padded")
    longest = max(clip.frames for _, clip in trainer.train.source.entries)
    assert longest < trainer.train.frames
    for batch in trainer.train.validation_batches():
        assert batch.codes.shape[-1] <= longest


def test_the_micro_batches_of_a_step_add_up_to_one_batch(workshop: Path) -> None:
    """Two passes over two items each have the loss and the gradients of one pass over four.

    The items of a pass share their stage and prefix, so both are made equal for this test.
    """
    together = make_trainer(
        settings(
            workshop,
            no_prefix_share=1.0,
            full_prefix_share=0.0,
            stage_weights=(1.0, 0.0),
            micro_batch=4,
        ),
        workshop / "one",
    )
    apart = make_trainer(
        settings(
            workshop,
            no_prefix_share=1.0,
            full_prefix_share=0.0,
            stage_weights=(1.0, 0.0),
            micro_batch=2,
        ),
        workshop / "two",
    )
    one, norm_one, _ = together.take_step()
    two, norm_two, _ = apart.take_step()
    assert one == pytest.approx(two, rel=1e-6)
    assert norm_one == pytest.approx(norm_two, rel=1e-5)


@pytest.mark.parametrize(("kind", "good"), [("step", 4), ("checkpoint", 2)])
def test_a_loss_that_is_not_a_number_names_step_batch_and_checkpoint(
    workshop: Path, kind: str, good: int
) -> None:
    """A checkpoint whose own weights caused it was called good; resuming from it gave the same again."""

    def poison(progress: Progress) -> None:
        if progress.kind == kind and progress.step == (4 if kind == "checkpoint" else 5):
            with torch.no_grad():
                trainer.output.lm.out_norm.weight.fill_(float("nan"))

    trainer = make_trainer(settings(workshop), workshop / "out")
    with pytest.raises(NotANumberError) as caught:
        trainer.run(poison)
    step = 5 if kind == "checkpoint" else 6
    assert caught.value.message.startswith(f"The loss is NaN or infinite at step {step},")
    assert "clip-" in caught.value.message
    assert (
        f"good checkpoint is {workshop / 'out/checkpoints'}/step-{good:08d}."
        in caught.value.message
    )
    assert caught.value.hint.startswith("Remove ") == (kind == "checkpoint")


def test_a_loss_that_is_no_number_at_once_does_not_advise_to_resume(workshop: Path) -> None:
    """There is no checkpoint yet, but the hint was to resume from it."""
    trainer = make_trainer(settings(workshop), workshop / "out")
    with torch.no_grad():
        trainer.output.lm.out_norm.weight.fill_(float("nan"))
    with pytest.raises(NotANumberError) as caught:
        trainer.run()
    assert "There is no good checkpoint yet" in caught.value.message
    assert "--resume" not in caught.value.hint
    assert "Start again" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run.json", b"{}"),
        ("run.json", b"[" * 100_000),
        ("run.json", b'{"step": -1, "config": {}}'),
        ("ema-0.pt", b"hello"),
        ("ema-0.pt", b""),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("optimizer.bin", b"x" * 100),
    ],
)
def test_a_damaged_state_is_named(workshop: Path, name: str, data: bytes) -> None:
    """Errors of torch, pickle and json were passed on."""
    make_trainer(settings(workshop), workshop / "out").run()
    latest = sorted((workshop / "out" / "checkpoints").iterdir())[-1]
    (latest / name).write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        make_trainer(settings(workshop, steps=8), workshop / "out", resume=True)
    assert str(latest) in caught.value.message
    assert caught.value.hint


def test_a_damaged_log_loses_its_damaged_lines(workshop: Path) -> None:
    make_trainer(settings(workshop), workshop / "out").run()
    log = workshop / "out" / "log.jsonl"
    kept = log.read_text()
    log.write_text(kept + '{"step": "x"}\n{"a": [[[\n{}\n')
    make_trainer(settings(workshop), workshop / "out", resume=True).run()
    assert log.read_text().startswith(kept)
    assert '"x"' not in log.read_text()


def test_a_full_disk_keeps_the_last_checkpoint(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(settings(workshop), workshop / "out")
    save = trainer.accelerator.save_state

    def full(folder: str) -> None:
        save(folder)
        if folder.endswith("4"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.accelerator, "save_state", full)
    with pytest.raises(MagnetError, match="step 4 could not be written"):
        trainer.run()
    kept = state.latest_checkpoint(workshop / "out")
    assert kept is not None
    assert kept.name == "step-00000002"
    assert sorted(p.name for p in kept.parent.iterdir()) == ["step-00000002"]


def test_a_model_older_than_its_checkpoint_is_written_when_the_run_is_resumed(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of the last step was there, so the run was said to be done, with an untrained model."""
    trainer = make_trainer(settings(workshop, checkpoint_every=6), workshop / "out")

    def full(weights: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(trainer.output, "update", full)
        with pytest.raises(MagnetError, match="The model could not be written: No space left"):
            trainer.run()
    again = make_trainer(settings(workshop), workshop / "out", resume=True)
    assert again.step == 6
    again.run()
    averages = again.ema.state_dict()["shadow"]
    for name, weight in load_file(workshop / "out" / "lm.safetensors").items():
        assert torch.equal(weight, averages[f"lm.{name}"]), name


def test_a_resumed_run_has_the_decay_and_betas_that_were_asked_for(workshop: Path) -> None:
    """The checkpoint's applied, and yet they were said to be changed."""
    run(workshop, "out", steps=2, weight_decay=0.0)
    asked = settings(workshop, steps=3, weight_decay=0.5, beta1=0.1, beta2=0.2)
    again = make_trainer(asked, workshop / "out", resume=True)
    assert "weight_decay was 0.0, is 0.5" in again.changes
    again.run()
    groups = [group for each in again.optimizers for group in each.param_groups]
    assert [(group["weight_decay"], group["betas"]) for group in groups] == [
        (0.5, (0.1, 0.2)),
        (0.0, (0.1, 0.2)),  # norms and biases
    ]


def test_old_checkpoints_go(workshop: Path) -> None:
    run(workshop, "out", keep_checkpoints=1)
    assert [p.name for p in (workshop / "out" / "checkpoints").iterdir()] == ["step-00000006"]


def test_an_existing_folder_is_not_written_over(workshop: Path) -> None:
    run(workshop, "out", steps=2)
    with pytest.raises(UsageError, match="exists already"):
        make_trainer(settings(workshop), workshop / "out")


def test_resume_of_nothing_starts(workshop: Path) -> None:
    trainer = make_trainer(settings(workshop), workshop / "new", resume=True)
    assert trainer.step == 0
    assert (workshop / "new" / "config.json").is_file()


def test_validation_tells_every_stream(workshop: Path) -> None:
    _, heard = run(workshop, "out", valid=held_out(workshop), valid_every=3, valid_items=4)
    records = [progress.record for progress in heard if progress.kind == "valid"]
    assert len(records) == 2
    assert all(value > 0 for record in records for value in record["masked"])
    assert all(value > 0 for record in records for value in record["following"])


def test_accelerated_options_learn_the_same(workshop: Path) -> None:
    """Gradient checkpointing changes memory, not the result."""
    plain, _ = run(workshop, "plain", steps=2)
    saving, _ = run(workshop, "saving", steps=2, gradient_checkpointing=True)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weight, weights(saving)[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "more", [pytest.param({"optimizer": "muon"}, marks=needs_muon), {"mixed_precision": "bf16"}]
)
def test_other_ways_to_step(workshop: Path, more: dict[str, Any]) -> None:
    _, heard = run(workshop, "out", steps=30, **more)
    seen = [progress.record["loss"] for progress in heard if progress.kind == "step"]
    assert sum(seen[-5:]) < sum(seen[:5])


def test_fine_tuning_starts_from_a_model_and_its_samples_can_be_heard(workshop: Path) -> None:
    run(workshop, "base", steps=2)
    config = settings(
        workshop,
        init=str(workshop / "base"),
        steps=2,
        sample_every=2,
        sample_prompts=("rain", "slow piano"),
    )
    trainer = make_trainer(config, workshop / "tuned")
    base = state.Ema(trainer.output.lm, 0.9).state_dict()["shadow"]
    trainer.run()
    assert any(not torch.equal(base[n], w) for n, w in weights(trainer).items())
    sounds = sorted((workshop / "tuned" / "samples" / "step-00000002").iterdir())
    assert [sound.suffix for sound in sounds] == [".wav", ".wav"]


def test_what_a_model_is_cannot_be_set_anew_by_a_run_that_starts_from_it(workshop: Path) -> None:
    """Flags for other sizes were silently ignored, and train.toml claimed that they applied."""
    run(workshop, "base", steps=2)
    init = {"init": str(workshop / "base"), "steps": 2}
    for other in ({"num_layers": 3}, {"modeling": "autoregressive"}, {"segment_duration": 1.2}):
        with pytest.raises(UsageError, match=f"{next(iter(other))} cannot be"):
            make_trainer(settings(workshop, **init, **other), workshop / "x")
    fields = {**settings(workshop, **init).__dict__, "dim": TrainConfig.dim}
    with pytest.raises(UsageError, match="dim cannot be 256"):
        make_trainer(TrainConfig(**fields), workshop / "x", given={"dim"})
    make_trainer(TrainConfig(**fields), workshop / "tuned")  # not set: the model's
    kept = read_config(workshop / "tuned" / "train.toml", {})
    assert (kept.dim, kept.modeling, kept.num_layers) == (16, "hybrid", 1)


@pytest.mark.parametrize(
    ("modeling", "setting"),
    [
        ("autoregressive", {"block_share": 0.5}),
        ("autoregressive", {"stage_weights": (1.0, 2.0)}),
        ("masked", {"no_prefix_share": 0.5}),
        ("masked", {"full_prefix_share": 0.0}),
        ("masked", {"prefix_weight": 0.5}),
        ("masked", {"stream_weights": (1.0, 2.0)}),
    ],
)
def test_settings_of_another_objective_are_refused(
    workshop: Path, modeling: Modeling, setting: dict[str, Any]
) -> None:
    """They did nothing, and no message said so."""
    config = dataclasses.replace(settings(workshop), modeling=modeling)
    with pytest.raises(UsageError, match=f"{next(iter(setting))} would have no effect"):
        make_trainer(dataclasses.replace(config, **setting), workshop / "x")
    assert not (workshop / "x").exists()
    make_trainer(config, workshop / "x")


def test_settings_that_do_not_fit_are_refused(workshop: Path) -> None:
    config = settings(workshop)
    with pytest.raises(UsageError, match="nothing to train on"):
        make_trainer(dataclasses.replace(config, data=()), workshop / "x")
    with pytest.raises(UsageError, match="codec and a text encoder"):
        make_trainer(dataclasses.replace(config, codec=None), workshop / "x")
    with pytest.raises(UsageError, match="stage_weights"):
        make_trainer(dataclasses.replace(config, stage_weights=(1.0,)), workshop / "x")
    with pytest.raises(UsageError, match="bf16 or no with --optimizer muon"):
        dataclasses.replace(config, mixed_precision="fp16", optimizer="muon")
    assert not (workshop / "x").exists()


@pytest.mark.parametrize(
    "size",
    [
        {"segment_duration": 4000.0},
        {"segment_duration": 0.01},
        {"span_len": 200_000},
        {"subcodes_context": 200_000},
        {"hidden_scale": 100},
        {"num_layers": 300},
        {"num_heads": 1025, "dim": 2050},
    ],
)
def test_a_model_that_could_not_be_loaded_is_not_trained(
    workshop: Path, size: dict[str, Any]
) -> None:
    """It was trained to the end, and its folder could be neither played nor resumed."""
    with pytest.raises(UsageError, match=f"{next(iter(size))} cannot be"):
        make_trainer(settings(workshop, **size), workshop / "x")
    assert not (workshop / "x").exists()


def test_tokens_of_another_codec_are_refused(workshop: Path) -> None:
    index = workshop / "tokens" / "index.json"
    shutil.copytree(workshop / "tokens", workshop / "others")
    for path in (index,):
        changed = json.loads(path.read_text())
        assert changed["codec"]["codec"] == "tiny"
    from safetensors import safe_open
    from safetensors.torch import save_file

    for shard in (workshop / "others").glob("*.safetensors"):
        with safe_open(shard, framework="pt") as opened:
            metadata, codes = dict(opened.metadata()), opened.get_tensor("codes")
        metadata["format"] = metadata["format"].replace(changed["codec"]["codec_hash"], "0" * 16)
        save_file({"codes": codes}, shard, metadata)
    changed["codec"]["codec_hash"] = "0" * 16
    (workshop / "others" / "index.json").write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="not the codec of this model"):
        make_trainer(settings(workshop, data=(str(workshop / "others"),)), workshop / "x")
