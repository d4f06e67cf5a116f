"""Every error's exit status: scripts depend on it, so a change of this table is a change for users."""

from __future__ import annotations

import errno
import importlib
import pkgutil
import sys
from pathlib import Path

import pytest
import typer

import magnet_cli
from magnet_cli.cli import app
from magnet_cli.errors import MagnetError
from tests.cli.conftest import QUICK, SMALL, Magnet

STATUS = {
    "MagnetError": 1,
    "NoRoomError": 1,
    "NotANumberError": 1,
    "AudioFileError": 2,
    "DataError": 2,
    "InTheWayError": 2,
    "UsageError": 2,
    "CheckpointError": 3,
    "ModelNotFoundError": 3,
    "PartialFailureError": 4,
}


def kinds(root: type[MagnetError]) -> set[type[MagnetError]]:
    return {root}.union(*(kinds(kind) for kind in root.__subclasses__()))


def test_every_kind_of_error_has_its_status() -> None:
    for module in pkgutil.walk_packages(magnet_cli.__path__, "magnet_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ours = {kind for kind in kinds(MagnetError) if kind.__module__.startswith("magnet_cli")}
    assert {kind.__name__: kind.exit_status for kind in ours} == STATUS


class TorchOutOfMemoryError(Exception):
    """Named as torch's is."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
        (MemoryError(), 1),
        (TorchOutOfMemoryError(), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (PermissionError("no"), 1),
        (RuntimeError("whatever"), 1),
        (typer.BadParameter("no"), 2),
        (SystemExit(0), 0),
        (SystemExit(7), 7),
        (SystemExit("text"), 1),
        *(
            (kind("It is wrong.", "Mend it."), kind.exit_status)
            for kind in sorted(kinds(MagnetError), key=lambda kind: kind.__name__)
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_whatever_is_raised_ends_with_its_status(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(app, "build_app", broken)
    outcome = magnet("gen")
    assert (outcome.status, outcome.stdout) == (status, b"")
    assert "Traceback" not in outcome.err
    assert outcome.err.endswith("\n") or isinstance(error, SystemExit)


TEXT = "not a sound"

# A call and its status, at least one for every command.
CALLS = [
    ("", 2), ("--help", 0), ("--version", 0), ("-h", 0), ("nonsense", 2), ("--nonsense", 2),
    ("gen", 2), ("gen --help", 0), ("gen rain --steps x", 2), ("gen rain --steps 0", 2),
    ("gen rain -d -1", 2), ("gen rain --preset none", 2), ("gen rain --format xls", 2),
    ("gen rain --seed -1", 2), ("gen rain --nonsense", 2), ("gen rain -o a.xls", 2),
    ("gen rain -m nothing", 3), ("gen rain -m ./nothing", 3), ("gen rain -m no/such-model", 3),
    ("gen rain -m empty", 3), ("gen rain --device tpu", 2), ("gen rain --dtype int3", 2),
    ("gen rain -o nowhere/deep/ --codes a.xls", 2), ("gen - -o a.wav", 2),
    ("gen rain -o exists.wav", 2), ("gen rain wind --at 99", 2), ("gen rain --loop -d 0.01", 2),
    ("gen rain --rescorer nothing", 3), ("gen rain --rescorer-weight 0.5", 2),
    ("batch", 2), ("batch nothing.txt -O clips", 2), ("batch empty.txt -O clips", 2),
    ("batch text.txt", 2), ("batch text.txt -O clips -m nothing", 3),
    ("batch text.txt -O clips --dry-run", 0), ("batch bad.jsonl -O clips", 2),
    ("batch bad.jsonl -O clips --skip-bad", 4), ("batch text.txt -O clips --shard 3/2", 2),
    ("batch text.txt -O clips --shard auto/x", 2),
    ("batch text.txt -O clips --workers 0", 2), ("batch text.txt -O clips --collect", 2),
    ("batch text.txt -O clips --engine ray --address ray://a:1", 2),
    ("batch --status", 2), ("batch --status empty", 2), ("batch --status empty -O clips", 2),
    ("batch text.txt -O page --gallery", 2), ("gallery", 2), ("gallery nothing", 2),
    ("gallery empty", 2), ("gallery page", 2), ("gallery page --force", 4),
    ("show", 2), ("show nothing.wav", 2), ("show text.txt", 2), ("show exists.wav", 0),
    ("show exists.wav text.txt", 4), ("show exists.wav --spectrogram a.txt", 2),
    ("gen rain --play -o -", 2), ("show exists.wav --play", 0), ("show - --play", 2),
    ("again", 2), ("again nothing.wav", 2), ("again text.txt", 2), ("again exists.wav rain", 2),
    ("again exists.wav --seed x", 2), ("again exists.wav --nonsense", 2), ("again exists.wav", 0),
    ("extend", 2), ("extend nothing.wav rain --to 3", 2), ("extend exists.wav rain --to 0.1", 2),
    ("extend exists.wav rain --to 3 -m nothing", 3),
    ("edit", 2), ("edit nothing.wav rain --region 0-1", 2), ("edit exists.wav rain", 2),
    ("edit exists.wav rain --region 9-10", 2), ("edit exists.wav rain --region x", 2),
    ("edit exists.wav rain --region 0-0.1 -m nothing", 3),
    ("vary", 2), ("vary nothing.wav rain", 2), ("vary exists.wav rain --strength 2", 2),
    ("vary exists.wav rain -m nothing", 3),
    ("eval", 2), ("eval nothing --reference empty", 2), ("eval empty", 2),
    ("eval empty --embedder no/such-judge --offline", 2),
    ("sweep", 2), ("sweep text.txt -O rows --vary span_len=1", 2),
    ("sweep text.txt -O rows --seed 1 --vary x=1", 2),
    ("sweep text.txt -O rows --seed 1 --vary span_len=1 -m nothing", 3),
    ("listen", 2), ("listen make", 2), ("listen make empty -O study", 2),
    ("listen make a=empty -O study", 2), ("listen results", 2),
    ("listen results empty empty", 2),
    ("bench --ways x", 2), ("bench -m nothing", 3), ("bench --shape huge", 2),
    ("doctor", 0), ("doctor -m nothing", 3), ("doctor -m empty", 3), ("doctor --threads 0", 2),
    ("config", 0), ("config --path", 0), ("config --profile nothing", 2),
    ("gen rain --profile nothing", 2),
    ("models", 2), ("models list", 0), ("models info nothing", 3), ("models use nothing", 3),
    ("models pull nothing", 3), ("models import nothing into", 3),
    ("models export nothing into", 3), ("models merge nothing into", 2),
    ("models merge nothing into --lora nowhere", 3), ("gen x --lora nowhere", 3),
    ("models remove nothing", 3), ("models nonsense", 2),
    ("data", 2), ("data check", 2), ("data check nothing", 2), ("data check empty", 2),
    ("data encode", 2), ("data encode empty tokens --codec small", 2),
    ("train", 2), ("train lm", 2), ("train lm mine --data nothing", 2),
    ("train lm mine --resume", 2), ("train codec", 2), ("train codec mine --data nothing", 2),
    ("train codec mine --data empty", 2),
]  # fmt: skip


@pytest.fixture
def work(home: Path, magnet: Magnet) -> Path:
    (home / "empty").mkdir()
    (home / "empty.txt").write_text("")
    (home / "page").mkdir()
    (home / "page" / "index.html").write_text("mine")
    (home / "page" / "a.wav").write_text("no sound")
    (home / "text.txt").write_text(TEXT)
    (home / "bad.jsonl").write_text('{"prompt": "rain", "duration": 0.1}\n{"seed": 1}\n')
    assert magnet("gen", "rain", *QUICK, "-o", "exists.wav").status == 0
    return home


def test_every_mistake_ends_with_its_status(
    work: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGNET_MODEL", SMALL)
    monkeypatch.setenv("PATH", "")  # nothing plays
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    found = {call: magnet(*call.split()) for call, _ in CALLS}
    assert {call: outcome.status for call, outcome in found.items()} == dict(CALLS)
    for call, outcome in found.items():
        assert "Traceback" not in outcome.err, call
        assert not (outcome.status and outcome.status != 2 and not outcome.err), call


def test_every_command_is_among_the_calls() -> None:
    from tests.commands import commands

    called = {call for call, _ in CALLS}
    for name, _ in commands():
        assert any(call == name or call.startswith(f"{name} ") for call in called), name
