"""Check that a batch that is repeatedly killed (-9) makes the same clips as an uninterrupted one.

    python benchmarks/batch_kill.py                                  200 clips, 10 kills
    python benchmarks/batch_kill.py --model small --clips 12 --kills 3

Runs a batch once without interruption, and once with kills at random times and a resume after each, then
compares the two folders: every file complete, none made twice, all with the same bytes. Prints the result as
one JSON line; the exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import soundfile

SUBJECTS = ["lofi piano", "rain on a roof", "punk rock, fast drums", "soft strings", "a dog barks"]


def command(arguments: argparse.Namespace, prompts: Path, folder: Path) -> list[str]:
    """The command that starts and resumes the batch in a folder."""
    model = ["--model", arguments.model] if arguments.model else []
    settings = ["--steps", arguments.steps, "--duration", str(arguments.duration), "--seed", "7"]
    size = ["--batch-size", arguments.batch_size]
    start = [sys.executable, "-m", "magnet_cli", "batch", str(prompts), "-O", str(folder), "-q"]
    return [*start, *model, *settings, *size]


def noted(folder: Path) -> list[dict[str, Any]]:
    """The manifest's lines for finished clips, without a line that a kill cut off."""
    found = []
    path = folder / "manifest.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("status") == "done":
            found.append(record)
    return found


def kill_at(
    program: list[str], folder: Path, clips: int, extra: float, patience: float = 600.0
) -> bool:
    """Run until `clips` are done and `extra` seconds more, then kill -9; false if it ended earlier."""
    process = subprocess.Popen(program)
    deadline = time.monotonic() + patience
    while len(noted(folder)) < clips and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"no {clips} clips in {patience:.0f} s")
        time.sleep(0.005)
    time.sleep(extra)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return not ended


def compare(whole: Path, killed: Path, clips: int) -> list[str]:
    """List the differences."""
    wrong = []
    names = sorted(path.name for path in whole.glob("*.wav"))
    if len(names) != clips:
        wrong.append(f"the unbroken run made {len(names)} files, not {clips}")
    visible = sorted(path.name for path in killed.iterdir() if not path.name.startswith("."))
    if visible != sorted([*names, "manifest.jsonl"]):
        wrong.append(f"the files differ: {sorted(set(visible) ^ {*names, 'manifest.jsonl'})[:5]}")
    for name in names:
        one, other = whole / name, killed / name
        if not other.exists():
            continue
        soundfile.read(other)
        if one.read_bytes() != other.read_bytes():
            wrong.append(f"{name} differs")
    twice = [name for name, count in Counter(r["file"] for r in noted(killed)).items() if count > 1]
    if twice:
        wrong.append(f"made twice: {twice[:5]}")
    return wrong


def main() -> int:
    """Run both batches and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="default: the built-in one")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", default="1")
    parser.add_argument("--duration", type=float, default=1.0)
    parser.add_argument("--batch-size", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--keep", type=Path, help="keep the folders here")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    base = arguments.keep or Path(tempfile.mkdtemp())
    base.mkdir(parents=True, exist_ok=True)
    try:
        prompts = base / "prompts.txt"
        prompts.write_text("".join(f"{rng.choice(SUBJECTS)}\n" for _ in range(arguments.clips)))
        whole, killed = base / "whole", base / "killed"
        began = time.monotonic()
        subprocess.run(command(arguments, prompts, whole), check=True)
        seconds = time.monotonic() - began
        records = noted(whole)
        each = sum(record["seconds"] for record in records) / max(1, len(records))

        program = command(arguments, prompts, killed)
        moments = sorted(rng.sample(range(1, arguments.clips), arguments.kills))
        moments[0] = 0  # one while the model is loading, or during the first clip
        kills = [
            kill_at(program, killed, clips, rng.uniform(0, 2 * each if clips else 4.0))
            for clips in moments
        ]
        left = len(list(killed.glob(".partial-*"))) if killed.exists() else 0
        subprocess.run(program, check=True)
        wrong = compare(whole, killed, arguments.clips)
    finally:
        if arguments.keep is None:
            shutil.rmtree(base)
    report = {
        "clips": arguments.clips,
        "kills": sum(kills),
        "seconds_unbroken": round(seconds, 1),
        "partial_files_left_by_kills": left,
        "wrong": wrong,
    }
    print(json.dumps(report))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
