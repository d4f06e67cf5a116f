"""The program as a whole: help, speed, imports, documentation."""

from __future__ import annotations

import dataclasses
import errno
import glob
import importlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from magnet_cli.cli.app import COMMANDS, _explain, build_app, run
from magnet_cli.cli.help import Group
from magnet_cli.cli.loading import suit_threads
from magnet_cli.cli.settings import DecodingOptions, PartnerOptions, flags_of
from magnet_cli.errors import (
    EXIT_INTERRUPTED,
    EXIT_MODEL,
    EXIT_PARTIAL,
    EXIT_UNEXPECTED,
    EXIT_USAGE,
    PartialFailureError,
)
from magnet_cli.settings import DecodingConfig, OutputConfig
from tests import processes
from tests.cli.conftest import QUICK, Magnet
from tests.cli.test_lora import make_adapter
from tests.commands import commands, options


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_told_of_wherever_it_is_met(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quota, which clusters have instead of full disks, was reported as an unexpected error."""
    assert _explain(OSError(number, os.strerror(number))) == EXIT_UNEXPECTED
    said = capsys.readouterr().err
    assert f"There is no room on the disk: {os.strerror(number)}." in said
    assert "Free some space" in said


NO_TORCH = """
import sys
from magnet_cli.cli.app import run
status = run(sys.argv[1:])
heavy = {"torch", "soundfile", "scipy", "huggingface_hub"} & set(sys.modules)
sys.exit(f"{heavy} was imported" if heavy else status)
"""

FROZEN = Path(__file__).parents[1] / "frozen" / "sounds"

MISTAKES = [(["-m", "smal"], 3), (["-o", "a.xyz"], 2), (["--steps", "x"], 2)]

# One process for many calls: an import is reported for its call, and for all after it.
NO_TORCH_IN_ANY = """
import json, sys
from magnet_cli.cli.app import run
heavy = {"torch", "scipy", "huggingface_hub"}
for arguments, status in json.loads(sys.argv[1]):
    assert run(arguments) == status, arguments
    if status == 0 and arguments[0] != "show":
        assert "soundfile" not in sys.modules, arguments
    assert not heavy & set(sys.modules), (arguments, heavy & set(sys.modules))
"""


@pytest.mark.process
def test_help_lists_and_mistakes_never_import_torch(home: Path) -> None:
    helps = ["--help", "--version", "gen --help", "batch --help", "show --help", "models list"]
    calls = [(call.split(), 0) for call in helps]
    calls += [(["gen", "rain", *words], status) for words, status in MISTAKES]
    calls.append((["show", str(FROZEN / "extended.wav")], 0))  # a second, with scipy's meter
    command = [sys.executable, "-c", NO_TORCH_IN_ANY, json.dumps(calls)]
    outcome = processes.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.process
def test_completion_never_imports_torch_and_knows_models(home: Path) -> None:
    words = "magnet gen rain -m magnet-sm"
    outcome = processes.run(
        [sys.executable, "-c", NO_TORCH],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_MAGNET_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": "4",
        },
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.split() == ["magnet-small-10secs", "magnet-small-30secs"]


@pytest.mark.process
def test_help_imports_little_beside_its_libraries(home: Path) -> None:
    """Its time was compared with theirs, which fails by chance where a processor is fast and busy."""
    count = "; print(len(sys.modules), file=sys.stderr)"
    libraries, shown = (
        int(processes.run([sys.executable, "-c", code + count], capture_output=True).stderr)
        for code in (
            "import sys, typer, rich",
            "import sys; from magnet_cli.cli.app import run; run(['--help'])",
        )
    )
    assert libraries < shown <= libraries + 50  # 28 when this was written; torch has a thousand


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_each_command_is_its_own(name: str) -> None:
    """`magnet --help` shows commands that it has not imported, so their lines are written twice."""
    module, about = COMMANDS[name]
    app = importlib.import_module(module).app
    if app.info.name == name:
        assert app.info.help == about
    else:
        (command,) = app.registered_commands
        assert command.name == name
        assert (command.callback.__doc__ or "").splitlines()[0] == about


def test_help_tells_the_exit_statuses(magnet: Magnet) -> None:
    text = " ".join(magnet("--help").out.split())
    statuses = (EXIT_UNEXPECTED, EXIT_USAGE, EXIT_MODEL, EXIT_PARTIAL, EXIT_INTERRUPTED)
    for status in (0, *statuses):
        assert f"{status} " in text
    for name in COMMANDS:
        assert f" {name} " in text


def test_bare_magnet_shows_its_help(magnet: Magnet) -> None:
    outcome = magnet()
    assert outcome.status == 2
    assert "Usage: magnet" in outcome.err + outcome.out
    assert "Error" not in outcome.err


def help_rows(text: str) -> dict[str, str]:
    """The help text of each flag, by its first name."""
    rows: dict[str, str] = {}
    flag = ""
    for line in text.splitlines():
        if named := re.match(r"│[ *]*(-[\w-]+)", line):
            flag = named[1]
        if line.startswith("│") and flag:
            rows[flag] = f"{rows.get(flag, '')} {line}"
        else:
            flag = ""
    return rows


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_help_says_every_flag_with_its_default(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch, name: str, command: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    whole = (
        "--help-all" if any(option.name == "help_all" for option in options(command)) else "--help"
    )
    rows = help_rows(magnet(*name.split(), whole).out)
    for option in options(command):
        row = rows[option.opts[0]]
        assert {*option.opts, *option.secondary_opts} <= set(re.split(r"[\s,]+", row))
        assert ("[required]" in row) == option.required
        if option.default is True:
            assert f"[default: {option.opts[0][2:]}]" in row
        elif option.default not in (None, False):
            shown = f"[default: {option.default}]" in row or str(option.default) in option.help
            assert shown, f"{option.opts[0]}: its default is not said"


def test_every_help_has_an_example(magnet: Magnet) -> None:
    for name, _ in commands():
        _, example, behind = magnet(*name.split(), "--help").out.partition("Example")
        assert example, name
        assert f"magnet {name}" in behind


def examples() -> list[str]:
    """The lines of every help text that call the program."""
    found: list[str] = []

    def look(command: Any) -> None:
        lines = [line.strip() for line in (command.epilog or "").splitlines()]
        found.extend(line for line in lines if line.startswith("magnet "))
        for inner in getattr(command, "commands", {}).values():
            look(inner)

    look(typer.main.get_command(build_app()))
    return found


@pytest.mark.parametrize("line", [line for line in examples() if line.startswith("magnet gen")])
def test_examples_of_gen_reach_the_model(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """All flags and values are valid: the run reaches loading the model."""

    def stop(*arguments: object, **more: object) -> None:
        raise PartialFailureError("Loading.", "So far so good.")

    monkeypatch.setattr("magnet_cli.cli.loading.load", stop)
    monkeypatch.setattr("magnet_cli.audio.stretch.check_stretch", lambda: None)  # whatever is here
    arguments = shlex.split(line.partition("|")[0])[1:]
    assert magnet(*arguments).status == EXIT_PARTIAL


def test_examples_of_models_and_show_work(home: Path, magnet: Magnet) -> None:
    make_adapter(home / "rain")
    assert magnet("gen", "rain", *QUICK, "-o", "piano.wav").status == 0
    assert magnet("models", "import", "small", "models/mine").status == 0
    assert magnet("gen", "rain", *QUICK, "-n", "2", "-o", "clips/").status == 0
    for line in examples():
        words = shlex.split(line.partition("|")[0])[1:]  # and as a shell expands them
        arguments = [name for word in words for name in sorted(glob.glob(word)) or [word]]
        if arguments[0] in ("show", "models") and arguments[1] != "remove":
            outcome = magnet(*arguments)
            assert outcome.status == 0, f"{line}: {outcome.err}"


def test_every_setting_has_a_flag_in_one_group() -> None:
    """A setting whose panel is in no group would have no flag."""
    flags = [each.name for group in (DecodingOptions, PartnerOptions) for each in flags_of(group)]
    assert set(flags) == {
        *(field.name for field in dataclasses.fields(DecodingConfig)),
        *("preset", "rescorer", "hybrid_model"),
    }
    assert len(set(flags)) == len(flags)
    output = [field.name for field in dataclasses.fields(OutputConfig)]
    assert [each.name for each in flags_of(OutputConfig)] == output


def test_a_flag_is_its_settings_name_or_a_short_form() -> None:
    short = {"decoding_steps": "--steps", "span_arrangement": "--spans", "use_sampling": "--sample"}
    short["anneal_temperature"] = "--anneal"
    for group in (DecodingOptions, OutputConfig):
        for each in flags_of(group):
            assert each.names[0] == short.get(each.name, "--" + each.name.replace("_", "-"))


def test_all_commands_can_be_built_at_once() -> None:
    program = typer.main.get_command(build_app())
    assert isinstance(program, Group)
    assert list(program.commands) == list(COMMANDS)


def test_the_version(magnet: Magnet) -> None:
    from magnet_cli import __version__

    assert magnet("--version").out == f"magnet {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["generate", "rain"], "Did you mean `magnet gen`?"),
        (["shwo", "a.wav"], "Did you mean `magnet show`?"),
        (["lofi piano"], 'magnet gen "lofi piano"'),
        (["lofi", "piano"], 'magnet gen "lofi piano"'),
    ],
)
def test_what_is_no_command_gets_a_suggestion(
    arguments: list[str], hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said = capfd.readouterr().err
    assert f"There is no command {arguments[0]!r}" in said
    assert hint in said


def test_a_flag_without_its_value_points_to_its_commands_help(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["show", "--spectrogram"]) == 2
    assert "`magnet show --help` shows what it takes." in capfd.readouterr().err


def every_help(capfd: pytest.CaptureFixture[str]) -> Iterator[str]:
    """The whole help of every command and group."""

    def walk(command: Any, words: list[str]) -> Iterator[list[str]]:
        yield [*words, "--help-all" if words == ["gen"] else "--help"]
        for name, one in getattr(command, "commands", {}).items():
            yield from walk(one, [*words, name])

    for words in walk(typer.main.get_command(build_app()), []):
        assert run(words) == 0
        yield capfd.readouterr().out


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_fits_the_terminal_and_is_not_pythons(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Tables of 60 columns cut flags to `--temperatu…`, and groups wrote <bool> beside --help."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    for text in every_help(capfd):
        assert [line for line in text.splitlines() if len(line.rstrip()) > columns] == []
        assert "--help" in text
        assert re.findall(r"-\w+…|<\w[^>]*>", text) == []


def test_help_of_gen_shows_the_flags_of_every_day(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sixty flags hid the common ones."""
    monkeypatch.setenv("COLUMNS", "120")
    assert run(["gen", "--help"]) == 0
    short = capfd.readouterr().out
    flags = [*["-o", "-n", "--seed", "-d", "-m", "--negative", "--loop", "--preset"], "--help-all"]
    assert [flag for flag in flags if not re.search(rf"{flag}[ /,]", short)] == []
    assert "--temperature" not in short
    assert run(["gen", "--help-all"]) == 0
    every = capfd.readouterr().out
    assert "--temperature" in every
    left_out = len(help_rows(every)) - len(help_rows(short))
    assert f"--help-all shows {left_out} more flags" in " ".join(short.split())


VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("nano", {}, {"OMP_NUM_THREADS": "1"}),
        ("small", {}, {}),
        ("nano", {"OMP_NUM_THREADS": "4"}, {"OMP_NUM_THREADS": "4"}),
        ("nano", {"MKL_NUM_THREADS": "1"}, {"MKL_NUM_THREADS": "1"}),
        ("./damaged", {}, {}),
    ],
)
def test_threads_suit_the_model_unless_the_user_says(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    given: dict[str, str],
    expected: dict[str, str],
) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, given.get(variable, ""))  # undone afterwards
    Path("damaged").mkdir()
    Path("damaged/config.json").write_text('{"parameters": "many"}')
    assert not suit_threads(model)  # torch is loaded: too late
    assert {name: os.environ[name] for name in VARIABLES if os.environ[name]} == given
    monkeypatch.delitem(sys.modules, "torch")
    assert suit_threads(model) == (given != expected)
    assert {name: os.environ[name] for name in VARIABLES if os.environ[name]} == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "30000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "9"}, {"GOMP_SPINCOUNT": "9"}),
    ],
)
def test_waiting_threads_sleep_in_every_command(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    """Beside six busy processes a clip of nano took 100 s with spinning threads, and 12 s with sleeping
    ones. Training and the workers of a batch had been left out."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, given.get(variable, ""))
    assert run(["config", "nonsense"]) == EXIT_USAGE
    assert {name: os.environ[name] for name in VARIABLES if os.environ[name]} == expected


@pytest.mark.process
def test_passes_of_a_small_model_are_computed_at_once(home: Path) -> None:
    """The second core idled, as a small model's layers are too small for two threads."""
    command = [
        *processes.MAGNET,
        "gen",
        "soft piano",
        "-m",
        "nano",
        "--seed",
        "3",
        "-d",
        "2",
        "-n",
        "2",
    ]
    files = {}
    for name, more in {"all": {}, "one": {"OMP_NUM_THREADS": "1"}}.items():
        env = {**os.environ, **dict.fromkeys(VARIABLES, ""), **more}
        done = processes.run([*command, "-o", f"{name}.wav"], env=env, capture_output=True)
        assert done.returncode == 0, done.stderr
        files[name] = [path.read_bytes() for path in sorted(Path().glob(f"{name}*.wav"))]
    assert len(files["all"]) == 2
    assert files["all"] == files["one"]
