"""Users' folders: a batch and trainings started by an earlier version can be resumed."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.api import load_model
from magnet_cli.checkpoints import native
from magnet_cli.training.codec import train_codec
from tests import sounds
from tests.cli.conftest import SMALL, Magnet
from tests.frozen.make import TIME
from tests.training.test_codec import settings

HERE = Path(__file__).parent
# The folder was made with torch 2.13, whose multinomial draws other stages from a seed than 2.5's.
SAME_DRAWS = int(version("torch").split(".")[1]) >= 13
BATCH = ("-m", SMALL, "--steps", "1", "-d", "0.2", "--seed", "5", "--batch-size", "1")


@pytest.fixture
def batch(home: Path) -> Path:
    shutil.copytree(HERE / "batch", home, dirs_exist_ok=True)
    return home / "clips"


def test_a_batch_that_was_begun_is_finished(batch: Path, magnet: Magnet) -> None:
    """Of six clips one is lost, one failed, one was never started, and three are done and stay."""
    kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in batch.rglob("*.*a*")}
    kept = {path: facts for path, facts in kept.items() if path.suffix in (".wav", ".flac")}
    assert len(kept) == 3
    dry = magnet("batch", "prompts.jsonl", "-O", "clips", *BATCH, "--dry-run", "--json")
    plan = {r["file"]: r["status"] for r in dry.records if r["event"] == "plan"}
    assert plan == {
        "0000-rain-5.wav": "to make", "deep/wind.flac": "done", "0002-fire-7.wav": "done",
        "0003-fire-8.wav": "done", "0004-a-door-9.wav": "to make", "0005-ice-10.wav": "to make",
    }  # fmt: skip
    outcome = magnet("batch", "prompts.jsonl", "-O", "clips", *BATCH)
    assert outcome.status == 0, outcome.err
    assert "3 of 6 clips are done already." in outcome.err
    assert "[3/3]" in outcome.err
    for path, facts in kept.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == facts
    assert "6 of 6 clips" in magnet("batch", "prompts.jsonl", "-O", "clips", *BATCH).err
    # The clip that was lost is the one that was there: the same samples as an unbroken run's.
    text = (batch / "manifest.jsonl").read_text().splitlines()
    noted = [json.loads(line) for line in text if "0000-rain-5.wav" in line]
    for fact in ("peak", "loudness", "duration", "settings"):
        assert noted[0][fact] == noted[1][fact]


def test_a_batch_that_was_begun_knows_what_it_was_made_with(batch: Path, magnet: Magnet) -> None:
    outcome = magnet("batch", "prompts.jsonl", "-O", "clips", *BATCH, "--temperature", "2")
    assert outcome.status == 2
    assert "temperature was not given, is 2" in outcome.err
    outcome = magnet("batch", "prompts.jsonl", "-O", "clips", *BATCH[:-4], "--seed", "6")
    assert outcome.status == 2
    assert "seed was 5, is 6" in outcome.err


@pytest.fixture
def training(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(HERE / "training", home, dirs_exist_ok=True)
    return home


def test_a_training_that_was_begun_comes_to_the_same_weights(
    training: Path, magnet: Magnet
) -> None:
    """It was killed after its third step of six, one after its checkpoint."""
    assert magnet("train", "lm", "model", "--resume").status == 0
    old, new = load_file("whole/lm.safetensors"), load_file("model/lm.safetensors")
    assert old.keys() == new.keys()
    for name, tensor in old.items() if SAME_DRAWS else ():
        torch.testing.assert_close(new[name], tensor, rtol=0, atol=1e-4)
    lines = {}
    for folder in ("whole", "model"):
        text = Path(folder, "log.jsonl").read_text().splitlines()
        steps = [line for line in map(json.loads, text) if line["kind"] in ("step", "valid")]
        lines[folder] = [
            (line["step"], line["kind"], line.get("loss", line.get("mean"))) for line in steps
        ]
    assert [line[:2] for line in lines["model"]] == [line[:2] for line in lines["whole"]]
    begun = None if SAME_DRAWS else 2  # the steps in the folder were made with the frozen torch
    np.testing.assert_allclose(
        [line[2] for line in lines["model"][:begun]],
        [line[2] for line in lines["whole"][:begun]],
        atol=1e-3,
    )


def test_tokens_and_models_that_were_written_are_read(training: Path, magnet: Magnet) -> None:
    assert magnet("data", "encode", "sounds", "tokens", "--codec", "./codec").status == 0
    again = magnet("data", "encode", "sounds", "other", "--codec", "./codec")
    assert again.status == 0
    old, new = (load_file(f"{name}/shard-00000.safetensors") for name in ("tokens", "other"))
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        assert torch.equal(new[name], tensor), name
    model = load_model("./model")
    assert (model.modeling, model.sample_rate, model.n_q) == ("hybrid", 100, 2)
    assert magnet("gen", "rain", "-m", "./model", "-d", "1", "-o", "a.wav").status == 0
    assert sounds.read("a.wav").samples.shape == (1, 100)


def test_a_codecs_training_that_was_begun_comes_to_the_same_codec(training: Path) -> None:
    for sound in (training / "tones").glob("*.wav"):
        os.utime(sound, ns=(TIME, TIME))
    train_codec(settings(training / "tones", training / "codec-run"), lambda record: None)
    old = native.load_codec(training / "codec-whole").state_dict()
    new = native.load_codec(training / "codec-run" / "codec").state_dict()
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        torch.testing.assert_close(new[name], tensor, rtol=0, atol=1e-4)
