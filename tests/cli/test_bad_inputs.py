"""User errors: each has a clear message, the right exit status, and no traceback."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from magnet_cli.cli.app import run
from tests.cli.conftest import QUICK, SMALL, Magnet, Outcome

LONG = "a very long prompt " * 3000
REPO = "facebook/magnet-small-10secs"


@dataclass(frozen=True)
class Case:
    """Arguments and the expected result."""

    name: str
    arguments: tuple[str, ...]
    says: str  # somewhere on stderr
    status: int = 2
    stdin: bytes = b""
    environment: dict[str, str] = field(default_factory=dict)


def gen(name: str, *arguments: str, says: str, status: int = 2, **more: object) -> Case:
    """A case of `gen`, on the golden model unless the arguments name another."""
    base = () if "-m" in arguments else QUICK
    return Case(name, ("gen", *base, *arguments), says, status, **more)  # type: ignore[arg-type]


CASES = [
    # The program
    Case("unknown command", ("gne", "rain"), "Did you mean `magnet gen`"),
    Case("help without dashes", ("help",), "Did you mean `magnet --help`?"),
    Case("an empty command", ("",), "An argument is empty."),
    Case("unknown flag of the program", ("--colour",), "magnet has no flag --colour."),
    Case("unknown subcommand", ("models", "lits"), "Did you mean 'list'"),
    # Flags
    gen("unknown flag", "rain", "--tempreature", "3", says="--temperature"),
    gen("flag in the other case", "rain", "-O", "made.wav", says="Did you mean -o?"),
    Case("flag in the other case of a batch", ("batch", "a.txt", "-o", "made"), "Did you mean -O?"),
    gen("flag whose variable is not set", "rain", "-m", "", says="value of -m is empty"),
    gen(
        "likewise behind an equals sign", "rain", "--rescorer=", says="value of --rescorer is empty"
    ),
    Case("a folder's name that is not set", ("gallery", ""), "An argument is empty."),
    Case("a sound's name that is not set", ("extend", "", "rain", "--to", "3"), "is empty."),
    gen("flag in capitals", "rain", "--SEED", "3", says="Did you mean --seed?"),
    gen("flag without a value", "rain", "--seed", says="--seed has no value."),
    gen("no prompt", says="magnet gen needs PROMPT."),
    gen("word for a number", "rain", "--temperature", "hot", says="--temperature"),
    gen("fraction for a whole number", "rain", "--seed", "1.5", says="--seed"),
    gen("negative seed", "rain", "--seed", "-1", says="--seed"),
    gen("seed too large", "rain", "--seed", str(2**64), says="--seed"),
    gen("seeds past the end", "rain", "--seed", str(2**63 - 1), "-n", "2", says="2^63"),
    gen("no variations", "rain", "-n", "0", says="--num"),
    gen("negative temperature", "rain", "--temperature", "-1", says="temperature"),
    gen("temperature that is no number", "rain", "--temperature", "nan", says="temperature"),
    gen("endless temperature", "rain", "--temperature", "inf", says="temperature"),
    gen("top-p above 1", "rain", "--top-p", "1.5", says="--top-p cannot be 1.5."),
    gen("negative top-k", "rain", "--top-k", "-3", says="--top-k"),
    gen("negative guidance", "rain", "--max-cfg-coef", "-3", says="--max-cfg-coef"),
    gen("span of nothing", "rain", "--span-len", "0", says="--span-len"),
    gen("unknown spans", "rain", "--spans", "diagonal", says="nonoverlap"),
    gen("unknown scoring", "rain", "--span-scoring", "min", says="prod"),
    gen("steps that are no numbers", "rain", "--steps", "many", says="20,10,10,10"),
    gen("empty steps", "rain", "--steps", "", says="--steps"),
    gen("steps of zero", "rain", "--steps", "0", says="--steps cannot be 0."),
    gen("steps without end", "rain", "--steps", "100000000", says="--steps"),
    gen("steps for other streams", "rain", "--steps", "2,2", says="4 streams"),
    Case("unknown preset", ("gen", "rain", "-m", SMALL, "--preset", "slow"), "best"),
    gen("preset and steps", "rain", "--preset", "fast", says="Remove one of them"),
    gen("guidance of another kind", "rain", "--cfg-coef", "3", says="Error: --cfg-coef cannot be"),
    gen(
        "settings that exclude each other",
        *("rain", "--span-order", "spread", "--score-noise", "1"),
        says="--score-noise cannot be used: --span-order spread ignores",
    ),
    gen("a tempo alone", "rain", "--bpm", "120", says="--bpm needs --bars, too."),
    gen("a rescorer's setting", "rain", "--rescore-streams", "1", says="Error: --rescore-streams"),
    gen("a length that is no number", "rain", "-d", "nan", says="seconds above 0"),
    gen("a time without end", "rain", "wind", "--at", "inf", says="It takes seconds from 0."),
    gen("a file for a folder", "rain", "-o", "there.wav/a.wav", says="there.wav is not a folder."),
    gen("a text for a number", "rain", "--seed", "a", says="--seed cannot be 'a'."),
    gen("a text for a time", "rain", "-d", "a", says="-d cannot be 'a'.\n  It takes seconds or"),
    gen("an unknown choice", "rain", "--format", "q", says="It takes wav, flac, ogg, opus or mp3."),
    gen("a switch with a value", "rain", "--loop=3", says="--loop takes no value."),
    gen("a prompt that begins with a dash", "-lofi", says='behind --: magnet gen -- "-lofi"'),
    gen("and with a flag's letter", "-dark pads", says='behind --: magnet gen -- "-dark pads"'),
    gen("and with the output's", "-orchestra", says='magnet gen -- "-orchestra"'),
    gen("a prompt that begins with two", "--lofi", "rain", says='magnet gen -- "--lofi"'),
    Case("a number below", ("vary", "a", "b", "--keep-streams", "-1"), "It takes 0 or more."),
    Case("too many arguments", ("doctor", "a", "b"), "magnet doctor has too many arguments: a b"),
    Case("an unknown command in a group", ("models", "q"), "It has list, info, pull"),
    gen(
        "steps for an autoregressive model",
        *("rain", "-m", "facebook/musicgen-small", "--steps", "3"),
        says="autoregressively",
    ),
    gen("no duration", "rain", "-d", "0", says="--duration"),
    gen("negative duration", "rain", "-d", "-3", says="--duration"),
    gen("duration that is no number", "rain", "-d", "nan", says="--duration"),
    gen("longer than the segment, rescored", "rain", "-d", "11", "--hybrid", "2", says="one model"),
    gen("overlap that is no number", "rain", "--overlap", "nan", says="--overlap cannot be nan"),
    gen("endless overlap", "rain", "--overlap", "inf", says="--overlap cannot be inf"),
    gen("no overlap", "rain", "--overlap", "0", says="--overlap cannot be 0"),
    Case(
        "overlap of variations",
        ("vary", "there.wav", "rain", "--overlap", "nan"),
        "--overlap cannot be nan",
    ),
    gen("unknown device", "rain", "--device", "toaster", says="toaster"),
    gen("device that is not here", "rain", "--device", "cuda:99", says="cuda:99"),
    gen("unknown dtype", "rain", "--dtype", "float99", says="float99"),
    gen("no threads", "rain", "--threads", "0", says="--threads"),
    # Prompts
    gen("empty prompt", "", says="empty"),
    gen("blank prompt", "  \n\t ", says="empty"),
    gen("prompt of a book", LONG, says="too long"),
    gen("10 kB of emoji", "🎹" * 2560, says="too long"),
    gen("NUL", "rain\0drop", says="U+0000"),
    gen("escape sequence", "\x1b[31mred", says="U+001B"),
    gen("prompt that is not UTF-8", "caf\udce9", says="not UTF-8"),
    gen("empty stdin", "-", says="empty"),
    gen("stdin that is not UTF-8", "-", says="not UTF-8", stdin=b"caf\xe9"),
    gen("NUL on stdin", "-", says="U+0000", stdin=b"rain\0"),
    gen("stdin twice", "-", "-", says="once", stdin=b"rain"),
    # Files
    gen("unknown suffix", "rain", "-o", "a.xyz", says=".xyz"),
    gen("no suffix", "rain", "-o", "sound", says="no suffix"),
    gen("suffix against format", "rain", "-o", "a.wav", "--format", "mp3", says="--format is mp3"),
    gen("unknown format", "rain", "--format", "wma", says="flac"),
    gen("missing folder", "rain", "-o", "no/such/a.wav", says="mkdir -p no/such"),
    gen("folder where a file is", "rain", "-o", "file.txt/", says="file.txt"),
    gen("file as a folder", "rain", "-o", "file.txt/a.wav", says="file.txt"),
    gen("folder with a suffix", "rain", "-o", "folder.wav", "--codes", "folder.npz", says="folder"),
    gen("read-only folder", "rain", "-o", "locked/a.wav", says="locked"),
    gen("name too long", "rain", "-o", "x" * 300 + ".wav", says="too long"),
    gen("NUL in the name", "rain", "-o", "a\0.wav", says="null"),
    gen("empty name", "rain", "-o", "", says="value of -o is empty"),
    gen("device as a file", "rain", "-o", "/dev/null", "--format", "wav", says="regular file"),
    gen("socket as a file", "rain", "-o", "socket.wav", "-f", says="regular file"),
    gen("file that is there", "rain", "-o", "there.wav", says="--force"),
    gen("codes that are there", "rain", "-o", "a.wav", "--codes", "there.npz", says="--force"),
    gen("codes of another kind", "rain", "--codes", "codes.json", says=".npz"),
    gen("several clips to stdout", "rain", "wind", "-o", "-", says="stdout"),
    gen("JSON and sound to stdout", "rain", "-o", "-", "--json", says="both"),
    # Sound
    gen("bit depth of mp3", "rain", "-o", "a.mp3", "--bit-depth", "16", says="no bit depth"),
    gen("float flac", "rain", "-o", "a.flac", "--bit-depth", "float", says="no bit depth"),
    gen("unknown bit depth", "rain", "--bit-depth", "12", says="--bit-depth"),
    gen("rate of opus", "rain", "-o", "a.opus", "--sample-rate", "44100", says="48000"),
    gen("rate of mp3", "rain", "-o", "a.mp3", "--sample-rate", "96000", says="44100"),
    gen("no rate", "rain", "--sample-rate", "0", says="sample-rate"),
    gen("six channels", "rain", "--channels", "6", says="channels"),
    gen("loudness above full scale", "rain", "--lufs", "3", says="lufs"),
    gen("loudness that is no number", "rain", "--lufs", "nan", says="lufs"),
    gen("ceiling above full scale", "rain", "--peak", "1", says="peak"),
    gen("negative fade", "rain", "--fade", "-1", says="--fade cannot be -1."),
    gen("three fades", "rain", "--fade", "1,2,3", says="or two of them: in, out"),
    gen(
        "more limiting than there is",
        "rain",
        "--max-limiting",
        "30",
        says="--max-limiting cannot be 30.",
    ),
    # Models
    gen("near name", "rain", "-m", "smal", says="Did you mean small", status=3),
    gen("no such name", "rain", "-m", "zzzzzz", says="Known models", status=3),
    gen("no such folder", "rain", "-m", "./nowhere", says="nowhere", status=3),
    gen("folder that is no model", "rain", "-m", "./folder.wav", says="no model", status=3),
    gen("model not here", "rain", "-m", "medium", says="models pull", status=3),
    gen("revision not here", "rain", "-m", f"{REPO}@abc", says="not on this machine", status=3),
    gen("empty revision", "rain", "-m", f"{REPO}@", says="revision"),
    gen("name with NUL", "rain", "-m", "a\0b", says="no model called", status=3),
    gen("name of a book", "rain", "-m", "m" * 5000, says="no model called", status=3),
    Case(
        "model of the environment",
        ("gen", "rain"),
        "Did you mean small",
        3,
        environment={"MAGNET_MODEL": "smal"},
    ),
    Case("info on nothing", ("models", "info", "zzzz"), "no model called", 3),
    Case("use of nothing", ("models", "use", "zzzz"), "no model called", 3),
    Case("use without a name", ("models", "use"), "--reset"),
    Case("use and reset", ("models", "use", "small", "--reset"), "--reset"),
    Case("pull of nothing", ("models", "pull", "zzzz"), "no model called", 3),
    Case("pull without a network", ("models", "pull", "medium"), "network is off", 3),
    Case("remove without asking", ("models", "remove", "small"), "--yes"),
    Case("remove what is not here", ("models", "remove", "medium", "-y"), "not in the cache", 3),
    Case("remove of nothing", ("models", "remove", "zzzz", "-y"), "no model called", 3),
    Case("import over a folder", ("models", "import", "small", "folder.wav"), "exists"),
    Case("export of nothing", ("models", "export", "zzzz", "out"), "no model called", 3),
    # show
    Case("show without a file", ("show",), "magnet show needs FILE."),
    Case("show of nothing", ("show", "nothing.wav"), "no file nothing.wav"),
    Case("show of a folder", ("show", "folder.wav"), "is a folder"),
    Case("show of text", ("show", "file.txt"), "not a sound"),
    Case("show of an empty file", ("show", "empty.wav"), "is empty"),
    Case("picture of another kind", ("show", "there.wav", "--spectrogram", "a.jpg"), ".png"),
    Case("show of NUL", ("show", "a\0b"), "null byte"),
]


@pytest.fixture
def clutter(home: Path) -> Path:
    """Obstacles: existing files and folders."""
    (home / "folder.wav").mkdir()
    (home / "folder.npz").mkdir()
    (home / "file.txt").write_text("text " * 1000)
    (home / "empty.wav").touch()
    (home / "there.wav").write_bytes(b"mine")
    (home / "there.npz").write_bytes(b"mine")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.wav")
    return home


@pytest.fixture
def locked(clutter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that cannot be written to, not even by root."""
    folder = clutter / "locked"
    folder.mkdir()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: "locked" not in str(path) and access(path, mode)
    )
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong_is_said(
    case: Case, magnet: Magnet, locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(str(path) for path in Path().rglob("*"))
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    outcome = magnet(*case.arguments, stdin=case.stdin)
    assert case.says.lower() in outcome.err.lower()
    assert outcome.status == case.status
    check_manners(outcome)
    assert sorted(str(path) for path in Path().rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        ("gen", "-", *QUICK),
        ("batch", "-", "-O", "clips", *QUICK),
        ("show", "-"),
        ("vary", "-", "rain", *QUICK[:-4]),
    ],
    ids=lambda words: words[0],
)
def test_a_closed_stdin_is_said(
    home: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    """magnet gen - <&-: it ended in an unexpected AttributeError."""
    monkeypatch.setattr(sys, "stdin", None)
    status = run([*words])
    said = capfdbinary.readouterr()
    assert status == 2
    check_manners(Outcome(status, said.out, said.err.decode()))
    assert b"stdin is closed" in said.err
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("gen", "rain", *QUICK, "--json"),
        ("gen", "rain", *QUICK, "-o", "-"),
        ("batch", "prompts.txt", "-O", "clips", *QUICK, "--print"),
        ("models", "list"),
    ],
    ids=["JSON", "sound", "paths", "a list"],
)
def test_a_closed_stdout_is_said_before_anything_is_made(
    home: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    """magnet gen rain --json >&-: it failed after the clip was made, with an AttributeError."""
    Path("prompts.txt").write_text("rain\n")
    monkeypatch.setattr(sys, "stdout", None)
    status = run([*words])
    monkeypatch.undo()
    said = capfdbinary.readouterr()
    assert status == 2
    check_manners(Outcome(status, said.out, said.err.decode()))
    assert b"stdout is closed" in said.err
    assert [path.name for path in home.iterdir()] == ["prompts.txt"]


def check_manners(outcome: Outcome) -> None:
    """One error with a hint, nothing on stdout, no traceback, no cursor movement."""
    assert outcome.stdout == b""
    assert outcome.err.count("Error: ") == 1
    message, _, hint = outcome.err.partition("Error: ")[2].partition("\n")
    assert message.strip()
    assert hint.strip()
    assert "Traceback" not in outcome.err
    assert "Unexpected" not in outcome.err
    assert "\x1b" not in outcome.err
    assert len(outcome.err) < 2000


def test_there_are_enough_cases() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize(
    "prompt",
    [
        "x" * 10_240,
        "🎹🥁",
        "موسيقى هادئة",
        "ピアノ",
        "'; rm -rf / #",
        "[bold]rich[/bold]",
        "%s {0}",
    ],
)
def test_strange_prompts_work(magnet: Magnet, home: Path, prompt: str) -> None:
    from tests import sounds

    outcome = magnet("gen", prompt, *QUICK)
    assert outcome.status == 0
    assert [len(line) for line in outcome.err.splitlines() if len(line) > 300] == []
    (path,) = home.iterdir()
    assert (sounds.read(path).metadata or {})["prompt"] == prompt


def test_an_unexpected_error_is_said_without_a_traceback(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError("the roof fell in")

    monkeypatch.setattr("magnet_cli.clips.write_sound", broken)
    outcome = magnet("gen", "rain", *QUICK)
    assert outcome.status == 1
    assert "Unexpected RuntimeError: the roof fell in" in outcome.err
    assert "Traceback" not in outcome.err
    with_debug = magnet("gen", "rain", *QUICK, "--debug")
    assert with_debug.status == 1
    assert "Traceback" in with_debug.err


def test_too_little_memory_is_said(magnet: Magnet, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(*arguments: object, **more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("magnet_cli.api.Model.generate", broken)
    outcome = magnet("gen", "rain", *QUICK)
    assert outcome.status == 1
    assert "memory" in outcome.err


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[]"])
def test_a_broken_preferences_file_is_named_and_stops_nothing(
    magnet: Magnet, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "config" / "magnet" / "settings.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert magnet("gen", "rain", *QUICK).status == 0
    from magnet_cli.cli.configuration import default_model

    said: list[str] = []
    assert default_model(said.append) is None
    assert [str(path) in text for text in said] == [True] * (content in (b"{", b"\xff\xfe", b"[]"))
