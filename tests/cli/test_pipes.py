"""The program as a process: pipes, signals, limits."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import processes, sounds
from tests.cli.conftest import QUICK, SMALL, Magnet

WHOLE = ("-m", SMALL, "--steps", "1", "--seed", "1")  # ten seconds: larger than a pipe's buffer

READ_WAVE = """
import sys, wave
with wave.open(sys.stdin.buffer) as reader:
    print(reader.getframerate(), len(reader.readframes(10**9)) // 2)
"""


@pytest.mark.process
def test_text_in_sound_out(home: Path) -> None:
    """echo "lofi piano" | magnet gen - -o - | a program that reads wav from a pipe."""
    maker = processes.start(
        [*processes.MAGNET, "gen", "-", "-o", "-", *WHOLE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    reader = processes.start(
        [sys.executable, "-c", READ_WAVE], stdin=maker.stdout, stdout=subprocess.PIPE
    )
    assert maker.stdin is not None
    assert maker.stdout is not None
    assert maker.stderr is not None
    maker.stdout.close()
    maker.stdin.write(b"lofi piano\n")
    maker.stdin.close()
    assert reader.communicate()[0].split() == [b"32000", b"320000"]
    assert b"Saved stdout" in maker.stderr.read()
    assert maker.wait() == 0


@pytest.mark.process
def test_a_reader_that_leaves_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """magnet gen ... -o - | head -c 100

    Unbuffered, Python writes as much as the pipe holds and says so: what was left was lost once.
    """
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    maker = processes.start(
        [*processes.MAGNET, "gen", "rain", "-o", "-", "-q", *WHOLE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert maker.stdout is not None
    assert maker.stderr is not None
    assert maker.stdout.read(100).startswith(b"RIFF")
    maker.stdout.close()
    assert maker.stderr.read() == b""
    assert maker.wait() == 141


# Ways in which stderr can fail at the first message.
DEAF = {
    "a reader that left": "2>&1 | true",
    "a full log disk": "2> /dev/full",
    "no stderr": "2>&-",
}


# Several calls in one process, and their results.
SEVERAL = """
import json, sys
from pathlib import Path
from magnet_cli.cli.app import run
Path("statuses").write_text(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
"""


def in_shell(command: str, *words: str) -> int:
    """The exit status of magnet in a shell, at the start of a pipe."""
    return _in_shell(command, [*processes.MAGNET, *words])


def _in_shell(command: str, words: Sequence[str]) -> int:
    line = f"sleep 0.1; {shlex.join(words)}"
    called = command.replace("MAGNET", f"{{ {line}; echo $? > status; }}")
    processes.run(["bash", "-c", called], check=False, timeout=120)
    return int(Path("status").read_text())


@pytest.mark.process
@pytest.mark.parametrize("way", DEAF)
def test_work_goes_on_where_nobody_hears_of_it(home: Path, way: str) -> None:
    """magnet gen ... 2>&1 | head -n 1, or a log on a full disk: it ended without a file or a message."""
    if "/dev/full" in DEAF[way] and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    Path("prompts.txt").write_text("rain\nwind\n")
    calls = [
        ("gen", "rain", *QUICK, "-o", "a.wav"),
        ("batch", "prompts.txt", "-O", "clips", *QUICK),
        # Errors still show in the status.
        ("gen", "rain", "--debug", "-m", "smal"),
        ("gen",),
    ]
    command = (sys.executable, "-c", SEVERAL, json.dumps(calls))
    assert _in_shell(f"MAGNET {DEAF[way]}", command) == 0
    assert json.loads(Path("statuses").read_text()) == [0, 0, 3, 2]
    assert sounds.read("a.wav").samples.shape == (1, 6400)
    assert len(list((home / "clips").glob("*.wav"))) == 2


@pytest.mark.process
def test_bars_whose_terminal_is_gone_are_no_error(home: Path) -> None:
    leader, follower = os.openpty()
    maker = processes.start(
        [*processes.MAGNET, "gen", "rain", *QUICK, "-o", "a.wav"],
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(follower)
    os.close(leader)
    assert maker.wait(timeout=120) == 0
    assert Path("a.wav").exists()


@pytest.mark.process
@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("gen", "--help"), ("models", "-h")]
)
def test_a_reader_that_leaves_help_is_told_by_the_status(home: Path, words: tuple[str]) -> None:
    assert in_shell("MAGNET 2> said | true", *words) == 141
    assert Path("said").read_text() == ""


@pytest.mark.process
def test_ctrl_c_leaves_whole_files_alone(home: Path) -> None:
    maker = processes.start(
        [*processes.MAGNET, "gen", "rain", *QUICK, "-n", "10000", "-o", "clips/"],
        stderr=subprocess.PIPE,
    )
    folder = home / "clips"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(folder.glob("*.wav"))) < 2:
        time.sleep(0.02)
    maker.send_signal(signal.SIGINT)
    assert maker.stderr is not None
    said = maker.stderr.read().decode()
    assert maker.wait() == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    for path in folder.iterdir():
        assert sounds.read(path).samples.shape == (1, 6400)


@pytest.mark.parametrize("more", [(), ("-d", "10.5"), ("-d", "5", "--loop")], ids=str)
def test_a_full_disk_is_said_and_leaves_nothing(
    magnet: Magnet, home: Path, more: tuple[str, ...]
) -> None:
    """A limit on the size of files stands for the disk: the same error comes from the same place.

    The codes, which are small, were written first and stayed: in the way when it was tried again.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        outcome = magnet("gen", "rain", *WHOLE, "-o", "a.wav", "--codes", "a.npz", *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.status == 1
    assert "There is no room for a.wav" in outcome.err
    assert "Traceback" not in outcome.err
    assert list(home.iterdir()) == []


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [("gen", "rain", *QUICK, "-o", "-"), ("gen", "rain", *QUICK, "--json"), ("models", "list")],
    ids=["sound", "JSON", "a list"],
)
def test_a_full_disk_behind_stdout_is_said(home: Path, words: tuple[str, ...]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    assert in_shell("MAGNET > /dev/full 2> said", *words) == 1
    said = Path("said").read_text()
    assert "There is no room for stdout: No space left on device" in said
    assert "Unexpected" not in said
    assert "Exception ignored" not in said


def test_sound_is_not_written_to_a_terminal(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    outcome = magnet("gen", "rain", *QUICK, "-o", "-")
    assert outcome.status == 2
    assert "would go to the terminal" in outcome.err
    assert outcome.stdout == b""


@pytest.mark.process
def test_progress_on_a_terminal_keeps_stdout_clean(home: Path) -> None:
    """stderr is a terminal: the bars are drawn there, and the JSON on stdout is only JSON."""
    leader, follower = os.openpty()
    maker = processes.start(
        [*processes.MAGNET, "gen", "rain", *QUICK, "-n", "2", "--json", "-o", "a.wav"],
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(follower)
    drawn = b""
    while True:
        try:
            piece = os.read(leader, 65_536)
        except OSError:  # Linux reports this at a terminal's end
            break
        if not piece:
            break
        drawn += piece
    os.close(leader)
    assert maker.stdout is not None
    lines = maker.stdout.read().splitlines()
    assert maker.wait() == 0
    assert [line[:17] for line in lines] == [b'{"status": "done"'] * 2
    text = drawn.decode()
    for words in (
        "Loading",
        "codec",  # this model's steps are over before a bar is drawn
        "Saved a-2.wav",
    ):
        assert words in text
    assert "\x1b[?25h" in text  # the cursor is shown again


def test_a_named_pipe_is_waited_for_in_words(magnet: Magnet, home: Path) -> None:
    """Without a word it looked as if the program did nothing, and without a writer it does so for ever."""
    os.mkfifo("prompts")
    os.mkfifo("sound")
    for name, data, words in (
        ("prompts", b"rain\n", ("batch", "prompts", "-O", "clips", *QUICK)),
        (
            "sound",
            b"no sound",
            ("extend", "sound", "rain", "--to", "3", "-o", "long.wav", "-m", SMALL),
        ),
        ("sound", b"no sound", ("show", "sound")),
        ("sound", b"no sound", ("again", "sound")),
    ):
        writer = threading.Thread(target=Path(name).write_bytes, args=(data,), daemon=True)
        writer.start()
        found = magnet(*words)
        writer.join(20)
        assert f"{name} is a pipe: waiting for what a program writes to it." in found.err


def test_a_sweep_refuses_a_named_pipe_without_waiting(magnet: Magnet, home: Path) -> None:
    os.mkfifo("prompts")
    found = magnet("sweep", "prompts", "-O", "rows", "--seed", "7", "--vary", "hybrid=0;1", *QUICK)
    assert found.status == 2
    assert "A sweep reads its prompts to their end first." in found.err
