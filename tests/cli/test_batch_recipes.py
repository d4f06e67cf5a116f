"""The recipes of docs/batch.md, run verbatim with xargs, parallel, ffmpeg and sox."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests import processes, sounds
from tests.cli.conftest import SMALL

DOCS = Path(__file__).resolve().parents[2] / "docs" / "batch.md"

# Quick clips of golden's checkpoint; flags of the recipe come last and win.
SHIM = f"""#!/bin/sh
command=$1; shift
exec {sys.executable} -m magnet_cli "$command" -m {SMALL} --steps 1 -d 0.2 "$@"
"""


def recipes() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)


def folder(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if not file.name.startswith("."))


@pytest.mark.slow
@pytest.mark.timeout(900)  # eight processes, each with its torch
def test_the_recipes_do_what_they_say(home: Path, tmp_path: Path) -> None:
    for program in ("xargs", "parallel", "ffmpeg", "sox"):
        assert shutil.which(program), f"install {program}: the recipes are tested with it"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "magnet").write_text(SHIM)
    (programs / "magnet").chmod(0o755)
    (home / "prompts.txt").write_text("a door creaks\nslow strings\n")
    (home / "notes").mkdir()
    (home / "notes" / "one.md").write_text("# Rain\n\non 'tin' \"roofs\" $HOME\n")
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_ARRAY_TASK_COUNT": "8",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "8",
    }
    said = ""
    for recipe in recipes():
        outcome = processes.run(
            ["bash", "-euo", "pipefail", "-c", recipe],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert outcome.returncode == 0, f"{recipe}\n{outcome.stderr}"
        said += outcome.stdout
    assert folder(home / "shards") == ["0001-slow-strings-8.wav", "manifest.shard-2-of-8.jsonl"]
    assert folder(home / "parts") == [
        "0000-a-door-creaks-7.wav",
        "0001-slow-strings-8.wav",
        "manifest.shard-1-of-2.jsonl",
        "manifest.shard-2-of-2.jsonl",
    ]
    both = ("shards/0001-slow-strings-8.wav", "parts/0001-slow-strings-8.wav")
    assert len({(home / name).read_bytes() for name in both}) == 1
    assert len(folder(home / "wet")) == 2
    assert sounds.read(home / "wet" / folder(home / "wet")[0]).samples.shape == (1, 6400)
    assert [name[-4:] for name in folder(home / "mp3")] == [".mp3", ".mp3"]
    for name in ("all.wav", "joined.wav"):
        assert sounds.read(home / name).samples.shape == (1, 12_800)
    assert "# Rain on 'tin' \"roofs\" $HOME" in said


@pytest.mark.parametrize("program", ["xargs", "parallel", "ffmpeg", "sox"])
def test_each_program_has_a_recipe(program: str) -> None:
    assert any(program in recipe for recipe in recipes())
