"""The documents say what the program does: references are current, README's examples run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from magnet_cli.cli.app import run
from tests.golden_cases import HUB_CACHE

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_and_completions_are_current() -> None:
    stale = [str(path.relative_to(ROOT)) for path in generator().outdated()]
    assert stale == [], "run: python docs/generate.py"


def test_every_flag_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    from magnet_cli.cli.app import COMMANDS

    for name in COMMANDS:
        assert f"### magnet {name}\n" in text
    for flag in ("--steps", "--spectrogram", "--num", "--no-normalize", "--offline", "--reset"):
        assert f"`{flag}" in text


def test_bash_completes_commands_flags_and_models(tmp_path: Path) -> None:
    (tmp_path / "magnet").symlink_to(Path(sys.executable).parent / "magnet")
    asked = [(1, "mod"), (2, "gen --temperat"), (4, "gen rain -m musicgen-")]
    lines = [f"source {shlex.quote(str(ROOT / 'completions' / 'magnet.bash'))}"]
    for position, words in asked:
        lines += [f"COMP_WORDS=(magnet {words}); COMP_CWORD={position}; _magnet_completion magnet"]
        lines += ['echo "${COMPREPLY[@]}"']
    outcome = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert outcome.stdout.splitlines() == [
        "models",
        "--temperature",
        "musicgen-small musicgen-medium musicgen-large",
    ]


def test_zsh_finds_its_completion_on_the_first_line() -> None:
    assert (ROOT / "completions" / "_magnet").read_text("utf-8").startswith("#compdef magnet\n")


def examples() -> list[str]:
    """The lines of README's shell blocks, joined where they are continued."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def test_readme_has_examples() -> None:
    assert len(examples()) >= 10
    for command in ("gen", "show", "models list", "models use"):
        assert any(line.startswith(f"magnet {command}") for line in examples())


def test_readmes_examples_work_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one folder, as a newcomer would: only the models are golden's tiny ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(HUB_CACHE))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("MAGNET_MODEL", raising=False)
    for line in examples():
        if re.search(r"[|>]", line):
            status = subprocess.run(["bash", "-c", line], capture_output=True).returncode
        else:
            status = run(shlex.split(line)[1:])
        assert status == 0, line
    sounds = {path.name for path in tmp_path.rglob("*") if path.suffix in (".wav", ".flac", ".mp3")}
    assert {"piano.wav", "punk.flac", "short.mp3", "pad.wav"} <= sounds
    assert len(list((tmp_path / "clips").iterdir())) == 4
    assert (tmp_path / "piano.png").read_bytes().startswith(b"\x89PNG")
