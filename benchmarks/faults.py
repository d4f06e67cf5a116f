"""Check a batch whose workers and driver are killed (-9), and whose disk is full.

    python benchmarks/faults.py                        200 clips, 10 workers and 2 drivers killed
    python benchmarks/faults.py --model small --clips 24 --kills 3 --drivers 1
    python benchmarks/faults.py --engine ray           the same with actors of a local Ray cluster

Makes a batch once in one process without interruption, then again with workers: some are killed at random
times, the driver is killed at others and started again, a second driver is started beside the first, and one
run may not write files as large as a clip, as on a full disk (not with Ray, which would lose its own files).
In the end both folders must be equal: every clip once, complete, with the same bytes, and nothing else.
Prints the result as one JSON line; the exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batch_kill import SUBJECTS, command, compare, noted

_PATIENCE = 900.0  # seconds for one run


def workers_of(driver: int) -> list[int]:
    """A driver's child processes that have loaded a model (Linux)."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            below.setdefault(int(after[1]), []).append(int(entry.name))
    found, waiting = [], [driver]
    while waiting:
        for child in below.get(waiting.pop(), []):
            waiting.append(child)
            try:
                said = (Path("/proc") / str(child) / "cmdline").read_bytes()
            except OSError:
                continue
            if b"magnet_cli.batch.processes" in said or said.startswith(b"ray::Actor"):
                found.append(child)
    return found


def wait_for(driver: subprocess.Popen[bytes], folder: Path, clips: int) -> bool:
    """Wait until so many clips are recorded; false if the driver ended earlier."""
    deadline = time.monotonic() + _PATIENCE
    while len(noted(folder)) < clips:
        if driver.poll() is not None:
            return False
        if time.monotonic() > deadline:
            driver.kill()
            raise TimeoutError(f"no {clips} clips in {_PATIENCE:.0f} s")
        time.sleep(0.01)
    return driver.poll() is None


def beside(driver: subprocess.Popen[bytes], program: list[str]) -> list[str]:
    """Start a second driver beside a stopped one; it must be refused."""
    driver.send_signal(signal.SIGSTOP)
    try:
        other = subprocess.run(program, capture_output=True, check=False)
    finally:
        driver.send_signal(signal.SIGCONT)
    if other.returncode == 2 and b"Another batch is running" in other.stderr:
        return []
    return [f"a second driver was not refused: {other.returncode}"]


def is_alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def outliving(workers: list[int]) -> list[str]:
    """Wait for the workers of a killed driver to end by themselves."""
    deadline = time.monotonic() + 60
    while left := [pid for pid in workers if is_alive(pid)]:
        if time.monotonic() > deadline:
            return [f"workers outlived their driver by a minute: {len(left)}"]
        time.sleep(0.05)
    return []


def disturbed(
    program: list[str],
    folder: Path,
    clips: int,
    kills: int,
    drivers: int,
    longest: float,
    rng: random.Random,
) -> tuple[int, int, list[str]]:
    """Run with kills at random times, up to `longest` seconds after a clip.

    Returns:
        The numbers of killed workers and drivers, and the problems.
    """
    moments = sorted(rng.sample(range(1, clips), kills + drivers))
    victims = ["worker"] * kills + ["driver"] * drivers
    rng.shuffle(victims)
    killed = {"worker": 0, "driver": 0}
    wrong: list[str] = []
    driver = subprocess.Popen(program)
    second = False
    for moment, victim in zip(moments, victims, strict=True):
        if not wait_for(driver, folder, moment):
            break
        if not second:
            second = True
            wrong += beside(driver, program)
        time.sleep(rng.uniform(0, longest))
        if driver.poll() is not None:
            break
        workers = workers_of(driver.pid)
        if victim == "driver":
            driver.kill()
            driver.wait()
            killed["driver"] += 1
            wrong += outliving(workers)
            driver = subprocess.Popen(program)
        elif workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed["worker"] += 1
    if (status := driver.wait()) != 0:
        wrong.append(f"the last run ended with status {status}")
    return killed["worker"], killed["driver"], wrong


def without_room(program: list[str], folder: Path) -> list[str]:
    """Run with a file size limit below a clip's size: it must stop without leaving anything incomplete."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    done = subprocess.run(program, capture_output=True, preexec_fn=no_room, check=False)
    wrong = []
    if done.returncode != 1 or b"There is no room" not in done.stderr:
        wrong.append(f"a full disk ended with {done.returncode}: {done.stderr[-300:]!r}")
    if left := [path.name for path in folder.iterdir() if path.suffix == ".wav"]:
        wrong.append(f"a full disk left {left[:5]}")
    return wrong


def main() -> int:
    """Run everything and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="default: the built-in one")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10, help="of workers")
    parser.add_argument("--drivers", type=int, default=2, help="kills of the driver")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--engine", default="local")
    parser.add_argument("--steps", default="1")
    parser.add_argument("--duration", type=float, default=1.0)
    parser.add_argument("--batch-size", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    base = Path(tempfile.mkdtemp())
    try:
        prompts = base / "prompts.txt"
        prompts.write_text("".join(f"{rng.choice(SUBJECTS)}\n" for _ in range(arguments.clips)))
        whole, killed = base / "whole", base / "killed"
        began = time.monotonic()
        subprocess.run([*command(arguments, prompts, whole), "--threads", "1"], check=True)
        unbroken = time.monotonic() - began
        each = sum(record["seconds"] for record in noted(whole)) / arguments.clips
        crew = ["--workers", arguments.workers, "--engine", arguments.engine, "--threads", "1"]
        program = [*command(arguments, prompts, killed), *crew]
        wrong = without_room(program, killed) if arguments.engine == "local" else []
        began = time.monotonic()
        workers, drivers, more = disturbed(
            program, killed, arguments.clips, arguments.kills, arguments.drivers, each, rng
        )
        seconds = time.monotonic() - began
        wrong += more + compare(whole, killed, arguments.clips)
    finally:
        shutil.rmtree(base)
    report = {
        "clips": arguments.clips,
        "engine": arguments.engine,
        "workers": arguments.workers,
        "workers_killed": workers,
        "drivers_killed": drivers,
        "seconds_one_process": round(unbroken, 1),
        "seconds_disturbed": round(seconds, 1),
        "wrong": wrong,
    }
    print(json.dumps(report))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
