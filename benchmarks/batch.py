"""Measure clips per minute by batch size, and the time saved by writing during generation.

    python benchmarks/batch.py                                   the built-in model
    python benchmarks/batch.py --model small --device cuda --sizes 1,2,4,8,16

Each size makes the same clips with the engine of `magnet batch`, including files and manifest, without the
time to load the model. Sizes are interleaved, so that other load on the machine affects them alike, and the
median of the rounds is printed. "In turn" is size 1 with each clip written before the next is started.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch

from magnet_cli import load_model
from magnet_cli.batch.executors import Engine, Generated, Writer
from magnet_cli.batch.fitting import Fitter
from magnet_cli.batch.jobs import WHOLE, BatchSettings, Job, Planner
from magnet_cli.batch.manifest import open_manifest
from magnet_cli.batch.report import Outcome
from magnet_cli.data.prompts import PromptLine
from magnet_cli.settings import DecodingConfig

PROMPTS = ("lofi piano", "rain on a roof", "punk rock, fast drums", "soft strings, a slow melody")


class InTurn(Writer):
    """A writer that finishes each clip before the next; `written` is released after each."""

    written = threading.Semaphore(0)

    def submit(self, clip: Generated) -> None:
        """Submit a clip and wait until it is written."""
        super().submit(clip)
        self.written.acquire()


def seconds_for(fitter: Fitter, jobs: list[Job], folder: Path, size: int, in_turn: bool) -> float:
    """Seconds to make the jobs, up to the last file."""
    began = time.perf_counter()

    def over(outcome: Outcome) -> None:
        InTurn.written.release()
        if outcome.error is not None:
            raise outcome.error

    kind = InTurn if in_turn else Writer
    with open_manifest(folder, WHOLE) as manifest, kind(manifest, folder, over, 2 * size) as writer:
        Engine(fitter, writer, size, lambda jobs: None, print).run(jobs, lambda job: True)
    InTurn.written = threading.Semaphore(0)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="default: the built-in one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="1,2,4,8")
    parser.add_argument("--steps", help="default: the checkpoint's own")
    parser.add_argument("--duration", type=float, help="seconds; default: the segment")
    arguments = parser.parse_args()
    model = load_model(arguments.model, device=arguments.device)
    fitter = Fitter(model)
    steps = tuple(map(int, arguments.steps.split(","))) if arguments.steps else None
    runs = [(1, True), *((int(size), False) for size in arguments.sizes.split(","))]
    taken: dict[tuple[int, bool], list[float]] = {run: [] for run in runs}
    for round_ in range(arguments.rounds + 1):
        for size, in_turn in runs:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                settings = BatchSettings(
                    folder=folder,
                    seed=0,
                    duration=arguments.duration,
                    decoding=DecodingConfig(decoding_steps=steps),
                )
                lines = [PromptLine(i, PROMPTS[i % len(PROMPTS)]) for i in range(arguments.clips)]
                jobs = [job for job in Planner(settings).plan(lines) if isinstance(job, Job)]
                if round_ == 0:  # warm-up
                    jobs = jobs[:size]
                seconds = seconds_for(fitter, jobs, folder, size, in_turn)
                if round_:
                    taken[size, in_turn].append(seconds)
    where = torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU"
    print(
        f"{model.name} on {where}, {model.dtype}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; {arguments.clips} clips of "
        f"{arguments.duration or model.segment_duration:g} s, median of {arguments.rounds}"
    )
    print(f"{'clips at once':>14} {'seconds':>9} {'clips/min':>10}")
    for (size, in_turn), rounds in taken.items():
        seconds = statistics.median(rounds)
        label = "1, in turn" if in_turn else str(size)
        print(f"{label:>14} {seconds:9.2f} {60 * arguments.clips / seconds:10.1f}")


if __name__ == "__main__":
    main()
