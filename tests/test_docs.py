"""The documentation matches the program: references are current, README's examples run."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from magnet_cli.cli.app import run
from tests import processes
from tests.commands import commands, options
from tests.golden_cases import HUB_CACHE
from tests.scripts import script

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def generator() -> ModuleType:
    return script("docs/generate.py")


@pytest.mark.process  # typer's completion asks bash for its version
def test_reference_and_completions_are_current() -> None:
    stale = [str(path.relative_to(ROOT)) for path in generator().outdated()]
    assert stale == [], "run: python docs/generate.py"


def reference_rows(name: str) -> dict[str, str]:
    """The first and second cells of the rows of a command's tables in docs/cli.md."""
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    (section,) = re.findall(
        rf"^###+ magnet {name}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE
    )
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    assert {len(row) for row in cells} <= {2}, f"a | that is not written \\|: {cells}"
    return {first.strip(): second.strip() for first, second in cells}


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_flag_is_in_the_reference(name: str, command: Any) -> None:
    rows = reference_rows(name)
    for option in options(command):
        flags = (*option.opts, *option.secondary_opts)
        (row,) = [row for row in rows if set(flags) <= set(re.findall(r"(?<=`)-[\w-]+", row))]
        assert len(rows[row]) > 5, f"{row}: nothing is said of it"
        assert rows[row].endswith("**Required.**") == option.required, row
        if option.metavar:
            assert option.metavar.replace("|", "\\|") in row
        if option.default not in (None, True, False):
            assert str(option.default) in rows[row], f"{row}: its default is not said"


@pytest.mark.slow
def test_bash_completes_commands_flags_and_models(tmp_path: Path) -> None:
    (tmp_path / "magnet").symlink_to(Path(sys.executable).parent / "magnet")
    asked = [(1, "mod"), (2, "gen --temperat"), (4, "gen rain -m musicgen-")]
    lines = [f"source {shlex.quote(str(ROOT / 'completions' / 'magnet.bash'))}"]
    for position, words in asked:
        lines += [f"COMP_WORDS=(magnet {words}); COMP_CWORD={position}; _magnet_completion magnet"]
        lines += ['echo "${COMPREPLY[@]}"']
    outcome = processes.run(
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


ZSH = """
zmodload zsh/zpty
zpty z "zsh -f -i"
zpty -w z 'PS1="> "; fpath=($COMPLETIONS $fpath); autoload -Uz compinit; compinit -u -d $DUMP'
zpty -w z 'bindkey "^I" complete-word; echo READY'
zpty -r -m z line '*READY*READY*'
zpty -n -w z $'magnet mod\\t'
zpty -r -m z line '*magnet models*'
print -r -- "completed"
zpty -d z
"""


@pytest.mark.slow
def test_zsh_completes_at_the_first_tab(tmp_path: Path) -> None:
    """The file that zsh then read defined later completions, and completed nothing itself."""
    (tmp_path / "magnet").symlink_to(Path(sys.executable).parent / "magnet")
    place = {"COMPLETIONS": str(ROOT / "completions"), "DUMP": str(tmp_path / "dump")}
    outcome = processes.run(
        ["zsh", "-f", "-c", ZSH],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **place, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert outcome.stdout == "completed\n", outcome.stderr


@pytest.mark.slow
def test_fish_completes_commands_and_flags(tmp_path: Path) -> None:
    (tmp_path / "magnet").symlink_to(Path(sys.executable).parent / "magnet")
    source = f"source {shlex.quote(str(ROOT / 'completions' / 'magnet.fish'))}"
    asked = f"{source}; complete -C 'magnet mod'; complete -C 'magnet gen --temperat'"
    outcome = processes.run(
        ["fish", "-N", "-c", asked],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
    )
    words = [line.split("\t")[0] for line in outcome.stdout.splitlines()]
    assert words == ["models", "--temperature"], outcome.stderr


def test_zsh_finds_its_completion_on_the_first_line() -> None:
    assert (ROOT / "completions" / "_magnet").read_text("utf-8").startswith("#compdef magnet\n")


def examples() -> list[str]:
    """The lines of README's shell blocks, with continuations joined."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def test_readme_has_examples() -> None:
    assert len(examples()) >= 10
    for command in ("gen", "show", "models list", "models use"):
        assert any(line.startswith(f"magnet {command}") for line in examples())


@pytest.mark.process
def test_readmes_examples_work_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and in one folder, as a newcomer would run them, but with golden's tiny models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(HUB_CACHE))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("MAGNET_MODEL", raising=False)
    for line in examples():
        if re.search(r"[|>]", line):
            status = processes.run(["bash", "-c", line], capture_output=True).returncode
        else:
            status = run(shlex.split(line)[1:])
        assert status == 0, line
    sounds = {path.name for path in tmp_path.rglob("*") if path.suffix in (".wav", ".flac", ".mp3")}
    assert {"piano.wav", "punk.flac", "short.mp3", "pad.wav"} <= sounds
    assert len(list((tmp_path / "clips").iterdir())) == 4
    assert (tmp_path / "piano.png").read_bytes().startswith(b"\x89PNG")


def test_every_function_of_the_architecture_is_there() -> None:
    """docs/architecture.md gives them as module:name."""
    said = re.findall(
        r"`(magnet_cli[\w.]*):([\w.]+)`", (ROOT / "docs/architecture.md").read_text("utf-8")
    )
    assert len(said) >= 40
    for module, name in said:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found), f"{module}:{name}"
