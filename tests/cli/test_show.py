"""`magnet show`: the contents of a file, and the command that makes it again."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from magnet_cli.cli.again import command_for
from magnet_cli.cli.talk import shell_line
from magnet_cli.settings import OutputConfig
from tests import sounds
from tests.cli.conftest import QUICK, SMALL, Magnet

# Settings far from the defaults, one list a row.
ROWS = [
    [],
    ["--steps", "2,1,1,1", "--temperature", "1.5", "--no-anneal", "--top-k", "5", "--top-p", "0"],
    ["--greedy", "--max-cfg-coef", "2.5", "--min-cfg-coef", "0.5", "--span-len", "2", "--trim"],
    ["--spans", "stride1", "--span-scoring", "prod", "--negative", 'it\'s "loud"; `x` $HOME'],
    [
        "--lufs",
        "-20.5",
        "--peak",
        "-3",
        "--fade",
        "0.01",
        "--channels",
        "2",
        "--sample-rate",
        "44100",
    ],
    ["--no-normalize", "--bit-depth", "24", "-d", "0.123"],
    ["--preset", "fast"],
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:3]) or "defaults")
@pytest.mark.parametrize("prompt", ["lofi piano", '-o it\'s "🎹" $(rm) `x` \\ !'])
def test_the_command_makes_the_same_samples(magnet: Magnet, row: list[str], prompt: str) -> None:
    base = [
        argument for argument in QUICK if "--preset" not in row or argument not in ("--steps", "1")
    ]
    made = magnet("gen", *base, *row, "-o", "a.wav", "--", prompt)
    assert made.status == 0, made.err
    shown = magnet("show", "a.wav", "--json")
    assert shown.status == 0
    words = shlex.split(shown.records[0]["command"])
    assert words[:2] == ["magnet", "gen"]
    Path("a.wav").rename("first.wav")
    again = magnet(*words[1:])
    assert again.status == 0, again.err
    assert Path("a.wav").read_bytes() == Path("first.wav").read_bytes()


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
def test_any_format_shows_how_it_was_made(magnet: Magnet, suffix: str) -> None:
    magnet("gen", "lofi piano", *QUICK, "-o", f"a.{suffix}")
    outcome = magnet("show", f"a.{suffix}")
    assert outcome.status == 0
    for words in ("lofi piano", "LUFS", "dBFS", "Seed", "--seed 5", "--steps 1", f"-o a.{suffix}"):
        assert words in outcome.out


def test_a_sound_of_another_maker(magnet: Magnet) -> None:
    soundfile.write("a.aiff", np.full((8000, 2), 0.25), 16_000)
    outcome = magnet("show", "a.aiff")
    assert outcome.status == 0
    assert "0.50 s, 2 channels, 16000 Hz" in outcome.out
    assert "-12.0 dBFS" in outcome.out
    assert "another program made it" in outcome.out
    assert magnet("show", "a.aiff", "--json").records[0]["command"] is None


def test_silence_and_many_channels(magnet: Magnet) -> None:
    soundfile.write("a.wav", np.zeros((100, 8)), 16_000)
    outcome = magnet("show", "a.wav")
    assert outcome.status == 0
    assert outcome.out.count("silence") == 2
    record = magnet("show", "a.wav", "--json").records[0]
    assert (record["loudness"], record["peak"], record["channels"]) == (None, None, 8)


def test_the_picture(magnet: Magnet) -> None:
    magnet("gen", "lofi piano", *QUICK, "-o", "a.wav")
    outcome = magnet("show", "a.wav", "--spectrogram", "a.png")
    assert outcome.status == 0
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    again = magnet("show", "a.wav", "--spectrogram", "a.png")
    assert again.status == 2
    assert "--force" in again.err
    assert magnet("show", "a.wav", "--spectrogram", "a.png", "--force").status == 0


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"prompt": None, "seed": "x; rm -rf /", "model": 3, "given": 7, "output": [1]},
        {"prompt": "\x1b[31mred\x1b[0m\u202e", "given": {"top_p": {"a": 1}, "no_such": 3}},
        {"partial": {"of": "x"}, "edit": {"command": "edit", "input": "a", "of": {"seed": {}}}},
        {"partial": 3, "edit": {"input": ["a"], "of": 7, "flags": {"through_codec": "\x1b"}}},
        {"prompt": "x" * 20_000, "repo": "a/b", "revision": None, "decoding": "?", "versions": 1},
    ],
)
def test_a_file_that_was_tampered_with_does_no_harm(
    magnet: Magnet, made: dict[str, object]
) -> None:
    samples = np.full((1, 8000), 0.1, np.float32)
    sounds.write("a.wav", samples, 8000, "wav", OutputConfig(), made)
    outcome = magnet("show", "a.wav")
    assert outcome.status == 0
    assert "\x1b" not in outcome.out
    assert "\u202e" not in outcome.out
    assert json.loads(magnet("show", "a.wav", "--json").out)["settings"] == made


def test_the_command_is_quoted_for_a_shell() -> None:
    made = {"prompt": "a; b", "seed": 1, "repo": "o/n", "revision": "c"}
    command = command_for(made | {"output": {"max_limiting": 4.0}}, "-x.wav")
    assert shlex.join(command) == "magnet gen -m o/n@c --seed 1 -o ./-x.wav 'a; b'"


@pytest.mark.process
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_prompt_with_hidden_characters_is_pasted_as_it_was(shell: str) -> None:
    """An override of the writing direction was printed as an escape within plain quotes."""
    prompt = "lofi \u202epiano\u202c, it's \\ \u2067x"
    line = shell_line(["printf", "%s", prompt, "a b"])
    assert line.isprintable()
    if program := shutil.which(shell):
        ran = subprocess.run([program, "-c", line], capture_output=True, env={"LC_ALL": "C.UTF-8"})
        assert ran.stdout.decode() == prompt + "a b"


def test_several_files_are_shown_and_unreadable_ones_said(magnet: Magnet) -> None:
    """`magnet show clips/*.wav`, expanded by a shell, was refused as too many arguments."""
    magnet("gen", "lofi piano", "rain", *QUICK, "-o", "clips/")
    files = sorted(map(str, Path("clips").iterdir()))
    shown = magnet("show", *files)
    assert shown.status == 0, shown.err
    first, second = shown.out.split("\n\nFile")
    assert ("lofi piano" in first, "rain" in second) == (True, True)
    assert first.startswith("File")
    assert [r["settings"]["prompt"] for r in magnet("show", *files, "--json").records] == [
        "lofi piano",
        "rain",
    ]
    Path("text.wav").write_text("hello")
    some = magnet("show", "text.wav", files[0], "none.wav", "--json")
    assert some.status == 4
    assert "text.wav is not a sound" in some.err
    assert "2 of 3 files" in some.err
    assert ["error" in record for record in some.records] == [True, False, True]
    assert magnet("show", "text.wav", files[0]).out.startswith("File")
    assert magnet("show", "text.wav", "none.wav").status == 2
    alone = magnet("show", "none.wav")
    assert (alone.status, alone.err.count("There is no file")) == (2, 1)


def test_one_picture_is_of_one_file(magnet: Magnet) -> None:
    soundfile.write("a.wav", np.zeros(100), 16_000)
    refused = magnet("show", "a.wav", "a.wav", "--spectrogram", "a.png")
    assert refused.status == 2
    assert "cannot show 2 files" in refused.err
    assert not Path("a.png").exists()


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3"])
def test_a_sound_from_a_pipe_is_shown(magnet: Magnet, kind: str) -> None:
    """With a long prompt, too: libsndfile alone loses the end of a wav file's comment."""
    prompt = "lofi piano " * 250
    made = magnet("gen", prompt, *QUICK, "-o", "-", "--format", kind)
    shown = magnet("show", "-", "--json", stdin=made.stdout)
    assert shown.status == 0, shown.err
    (record,) = shown.records
    assert record["file"] == "-"
    assert record["settings"]["prompt"] == prompt.strip()
    again = magnet(*shlex.split(record["command"])[1:])
    assert again.status == 0, again.err
    assert sounds.read(f"sound.{kind}").samples.shape[1] == round(
        record["duration"] * record["sample_rate"]
    )
    assert "stdin" in magnet("show", "-", stdin=made.stdout).out


def test_stdin_is_shown_once(magnet: Magnet) -> None:
    assert "Give `-` once" in magnet("show", "-", "-").err
    empty = magnet("show", "-")
    assert empty.status == 2
    assert "the input is not a sound" in empty.err


@pytest.mark.parametrize(
    "words",
    [("-o", "b", "--format", "mp3"), ("-o", "b.1", "--format", "flac"), ("-o", "b.ogg")],
    ids=" ".join,
)
def test_a_name_without_a_suffix_is_made_again_in_its_format(
    magnet: Magnet, words: tuple[str, ...]
) -> None:
    """The command was refused, because `-o b` gives no format."""
    assert magnet("gen", "rain", *QUICK, *words).status == 0
    shown = magnet("show", words[1], "--json").records[0]
    first = sounds.read(words[1])
    again = magnet(*shlex.split(shown["command"])[1:], "--force")
    assert again.status == 0, again.err
    second = sounds.read(words[1])
    assert (second.kind, second.subtype) == (first.kind, first.subtype)
    np.testing.assert_array_equal(second.samples, first.samples)


def test_an_edit_without_a_suffix_is_made_again_under_one(magnet: Magnet) -> None:
    """It has no --format: its format is that of its input or its name."""
    magnet("gen", "rain", *QUICK, "-o", "a.flac")
    words = ("edit", "a.flac", "wind", "-m", SMALL, "--steps", "1", "--region", "0-0.1")
    piped = magnet(*words, "-o", "-")
    assert piped.status == 0, piped.err
    Path("piped").write_bytes(piped.stdout)
    shown = magnet("show", "piped", "--json").records[0]
    again = magnet(*shlex.split(shown["command"])[1:])
    assert again.status == 0, again.err
    np.testing.assert_array_equal(sounds.read("piped.flac").samples, sounds.read("piped").samples)


@pytest.mark.parametrize("source", ["a.wav", "-"])
@pytest.mark.parametrize(
    "words", [("edit", "--region", "0-0.1"), ("extend", "--to", "0.3"), ("vary",)], ids=" ".join
)
def test_what_is_edited_in_place_keeps_how_it_was_made(
    magnet: Magnet, words: tuple[str, ...], source: str
) -> None:
    """Prompt and seed of the clip were lost with its file, so it could not be made again."""
    assert magnet("gen", "lofi piano", *QUICK, "-o", "a.wav").status == 0
    original = sounds.read("a.wav").metadata
    command, *flags = words
    quick = ("-m", SMALL, "--steps", "1", "--seed", "9", "-o", "a.wav", "--force")
    for prompt in ("wind", "rain"):
        before = sounds.read("a.wav").metadata
        data = Path("a.wav").read_bytes()
        to = ["--to", "0.5"] if command == "extend" and prompt == "rain" else flags
        outcome = magnet(command, source, prompt, *to, *quick, stdin=data)
        assert outcome.status == 0, outcome.err
        assert before is not None
        kept = (sounds.read("a.wav").metadata or {})["edit"]["of"]
        assert kept["prompt"] == before["prompt"]
        assert "of" not in kept.get("edit", {})
        if prompt == "wind":
            assert kept == original
            shown = magnet("show", "a.wav").out
            named = "stdin" if source == "-" else source
            assert f"{named}: prompt lofi piano, seed 5, model {SMALL}" in shown


def test_an_input_with_a_long_record_is_edited_without_it(magnet: Magnet) -> None:
    """Together they would not fit into a file, and the edit would be refused for its input."""
    samples = np.full((1, 6400), 0.1, np.float32)
    for length, kept in ((9_000, True), (11_000, False)):
        made = {"prompt": "x" * length, "seed": 1}
        sounds.write("a.wav", samples, 32_000, "wav", OutputConfig(), made)
        words = ("-m", SMALL, "--steps", "1", "--region", "0-0.1", "-o", "b.wav", "--force")
        outcome = magnet("edit", "a.wav", "wind", *words)
        assert outcome.status == 0, outcome.err
        assert ("of" in (sounds.read("b.wav").metadata or {})["edit"]) == kept


def test_a_partial_piece_is_called_one(magnet: Magnet) -> None:
    """Nothing showed that --keep-partial had kept a third of it."""
    made = {"prompt": "rain", "partial": {"of": 30.0, "seconds": 10.0}}
    samples = np.full((1, 8000), 0.1, np.float32)
    sounds.write("a.wav", samples, 8000, "wav", OutputConfig(), made)
    assert "10 of 30 s" in magnet("show", "a.wav").out


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_not_called_silence(magnet: Magnet, value: float) -> None:
    samples = np.full(8000, 0.1, np.float32)
    samples[7:10] = value
    soundfile.write("a.wav", samples, 16_000, subtype="FLOAT")
    shown = magnet("show", "a.wav", "--spectrogram", "a.png")
    assert shown.status == 0, shown.err
    assert "silence" not in shown.out
    assert "3 of 8000 samples are NaN or infinite" in shown.out
    record = magnet("show", "a.wav", "--json").records[0]
    assert (record["loudness"], record["peak"], record["invalid_samples"]) == (None, None, 3)


@pytest.mark.parametrize("words", [(), ("--spectrogram", "a.png", "--force")], ids=["", "picture"])
def test_a_long_sound_is_shown_in_the_memory_of_a_block(
    magnet: Magnet, words: tuple[str, ...]
) -> None:
    """It took twelve times the file's size, all of it as float32 and float64 at once."""
    soundfile.write("a.wav", np.full(8000, 0.25), 16_000)
    assert magnet("show", "a.wav", *words).status == 0  # what is imported is so
    most = []
    for seconds in (6, 30):
        noise = np.random.default_rng(0).integers(-9000, 9000, (seconds * 48_000, 2), np.int16)
        soundfile.write("a.wav", noise, 48_000)
        tracemalloc.start()
        shown = magnet("show", "a.wav", "--json", *words)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert shown.records[0]["duration"] == seconds
    assert most[1] - most[0] < 1e6  # 24 seconds are 4.6 MB in the file


def test_a_sound_of_another_name_is_what_its_header_says(magnet: Magnet) -> None:
    """soundfile asks for the sample format of a .raw, although this one has a header."""
    soundfile.write("a.wav", np.full(8000, 0.25), 16_000)
    Path("a.wav").rename("A.RAW")
    assert magnet("show", "A.RAW", "--json").records[0]["duration"] == 0.5
    Path("b.raw").write_bytes(bytes(range(256)) * 99)
    refused = magnet("show", "b.raw")
    assert (refused.status, "not a sound that can be read" in refused.err) == (2, True)


def test_many_files_are_a_table(magnet: Magnet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve clips were twelve pages. On a terminal no line is wrapped."""
    silence = np.zeros((1, 8000), np.float32)
    files = [f"{'a' * 50}-{number}.wav" for number in range(4)]
    for name in files:
        made = {"prompt": "a long prompt, " * 20}
        sounds.write(Path(name), silence, 8000, "wav", OutputConfig(), made)
    whole = magnet("show", *files, "none.wav")
    assert whole.status == 4
    lines = whole.out.splitlines()
    assert lines[0].split() == ["File", "Length", "LUFS", "Peak", "Prompt"]
    assert lines[1].startswith(f"{files[0]}    1.00 s  silence         a long prompt, ")
    assert len(lines) == 5
    assert "none.wav" in whole.err
    assert "To make it again" in magnet("show", *files[:3]).out
    monkeypatch.setattr("magnet_cli.cli.show.stdout_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    lines = magnet("show", *files).out.splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert [line.split()[0][-6:] for line in lines[1:]] == [f"-{n}.wav" for n in range(4)]
    assert len(magnet("show", *files, "--json").records) == 4


def test_the_tempo_that_a_clip_was_held_to_is_shown(magnet: Magnet) -> None:
    """The prompt's, if bars are repeated; and the command makes the same again."""
    held = magnet("gen", "techno, 100 bpm", *QUICK, "--bar-repeat", "2", "-o", "held.wav")
    free = magnet("gen", "techno, 100 bpm", *QUICK, "-o", "free.wav")
    assert (held.status, free.status) == (0, 0), held.err + free.err
    assert "Tempo     100 bpm" in magnet("show", "held.wav").out
    assert "Tempo" not in magnet("show", "free.wav").out
    assert "--bar-repeat 2" in magnet("show", "held.wav", "--json").records[0]["command"]
