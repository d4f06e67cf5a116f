"""Two processes with unequal shares of masked codes equal one process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.training import state
from tests import processes

pytestmark = pytest.mark.slow  # each run is a process with its torch

ROOT = Path(__file__).parents[2]


def started(command: Sequence[object], count: int) -> list[subprocess.Popen[str]]:
    """A module with its arguments, in processes that find each other as a launcher has it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(count):
        place = {}
        if count > 1:
            place = {
                "WORLD_SIZE": str(count),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        running.append(
            processes.start(
                [sys.executable, "-m", *map(str, command)],
                cwd=ROOT,
                env={**os.environ, **place, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return running


def take_step(workshop: Path, out: Path, count: int) -> list[dict[str, Any]]:
    out.mkdir(exist_ok=True)
    for process in started(["tests.training.one_step", workshop, out], count):
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said[-3000:]
    return [torch.load(out / f"step-{rank}.pt", weights_only=True) for rank in range(count)]


def test_two_processes_share_a_run_and_end_it_together(workshop: Path) -> None:
    """With the defaults it did not begin ("1 micro-batches"), and a signal to one of them saved nothing."""
    sizes = ("--dim", 16, "--num-heads", 2, "--num-layers", 1, "--segment-duration", 2.4)
    out, often = workshop / "out", ("--valid-every", 2, "--sample-every", 2, "--log-every", 1)
    command = (
        *("magnet_cli", "train", "lm", out, "--data", workshop / "tokens", "--valid-share", 0.3),
        *("--codec", workshop / "codec", "--text-encoder", workshop / "text", "--steps", 100_000),
        *("--sample-prompts", "rain", "--sample-prompts", "piano", *sizes, *often),
    )
    first, second = started(command, 2)
    until = time.monotonic() + 120
    while not (out / "samples/step-00000002/01.wav").is_file() and time.monotonic() < until:
        assert first.poll() is second.poll() is None, first.communicate()[0][-3000:]
        time.sleep(0.1)
    second.send_signal(signal.SIGTERM)  # of a queue, to whichever it likes
    said = first.communicate(timeout=60)[0]
    second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (130, 143), said[-3000:]
    assert "in 2 processes" in said
    assert said.count("\nvalidation  ") >= 1, "shared out, and told by one"
    kept = state.latest_checkpoint(out)
    assert kept is not None
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert state.checkpoint_record(kept)["step"] == steps[-1]
    assert (out / "best" / "lm.safetensors").is_file()


def test_two_processes_give_the_loss_and_gradients_of_one(workshop: Path) -> None:
    (alone,) = take_step(workshop, workshop / "one", 1)
    both = take_step(workshop, workshop / "two", 2)
    assert [one["processes"] for one in both] == [2, 2]
    shares = [sum(one["counts"]) for one in both]  # masked positions, next tokens
    assert not torch.equal(*shares), "the test asks for unequal counts"
    assert torch.equal(sum(shares), sum(alone["counts"]))
    for one in both:
        assert one["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        assert one["norm"] == pytest.approx(alone["norm"], rel=1e-5)
        torch.testing.assert_close(one["sums"], alone["sums"], rtol=1e-6, atol=1e-6)
        assert one["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(
                one["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name
            )
        for name, weight in alone["weights"].items():
            torch.testing.assert_close(one["weights"][name], weight, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_averaged_weights_are_what_is_kept(workshop: Path, processes: int) -> None:
    """They were read while the model had them, but written when it had its own again."""
    run = take_step(workshop, workshop / "kept", processes)[0]
    kept = load_file(workshop / "kept" / "model" / "lm.safetensors")
    for name, weight in kept.items():
        torch.testing.assert_close(weight, run["averages"][f"lm.{name}"], rtol=0, atol=0, msg=name)
    moved = [name for name in kept if not torch.equal(kept[name], run["weights"][name])]
    assert moved, "the averages must lag behind the weights, or this shows nothing"


def test_a_run_goes_on_with_another_number_of_processes(workshop: Path) -> None:
    take_step(workshop, workshop / "fewer", 2)
    (then_alone,) = take_step(workshop, workshop / "fewer", 1)
    take_step(workshop, workshop / "more", 1)
    then_both = take_step(workshop, workshop / "more", 2)
    assert (then_alone["processes"], then_both[0]["processes"]) == (1, 2)
    assert then_alone["step"] == then_both[0]["step"] == 2
    assert then_both[0]["loss"] == pytest.approx(then_alone["loss"], rel=1e-5)
    for name, weight in then_alone["weights"].items():
        torch.testing.assert_close(then_both[0]["weights"][name], weight, rtol=1e-4, atol=1e-6)
