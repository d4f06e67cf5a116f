"""`magnet extend`, `edit` and `vary`, and long pieces and loops of `gen`."""

from __future__ import annotations

import functools
import io as byte_streams
import itertools
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from magnet_cli import api
from magnet_cli.audio.loudness import measure
from magnet_cli.audio.tempo import Cut
from magnet_cli.cli.again import command_for
from magnet_cli.decoding import iterative
from magnet_cli.editing import bars, looping
from magnet_cli.editing.looping import seam_flux
from magnet_cli.editing.windows import derived_seed
from tests import sounds
from tests.cli.conftest import SMALL, Magnet
from tests.editing.sounds import noise, numbers, write

LOAD = api.load_model
FAST = ("-m", SMALL, "--steps", "1", "--seed", "5")
MUSICGEN = ("-m", "facebook/musicgen-small", "--seed", "5")


@functools.cache
def loaded(name: str) -> api.Model:
    return LOAD(name, device="cpu", offline=True)


@pytest.fixture(autouse=True)
def _load_each_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading is tested elsewhere, and would take most of the time of these tests."""
    monkeypatch.setattr(api, "load_model", lambda name, **_: loaded(name))


@pytest.fixture
def riff(home: Path) -> Path:
    """Two seconds of stereo at another rate than the model's."""
    return write(home / "riff.wav", noise(2.0, 44_100, 2), 44_100, "PCM_24")


def made(path: str) -> dict:
    metadata = sounds.read(path).metadata
    assert metadata is not None
    return metadata


# --- gen beyond the segment


def test_gen_goes_beyond_the_segment(magnet: Magnet) -> None:
    outcome = magnet(
        "gen", "piano", *FAST, "-d", "15.5", "-o", "long.wav", "--codes", "long.npz", "--verbose"
    )
    assert outcome.status == 0, outcome.err
    assert "window 2 of 2" in outcome.err
    sound = sounds.read("long.wav")
    assert sound.samples.shape == (1, 496_000)
    assert measure(sound.samples, 32_000) == pytest.approx(-14, abs=0.2)
    codes = np.load("long.npz")["codes"]
    assert codes.shape == (4, 775)
    # Its first window is the clip that the same seed makes.
    assert magnet("gen", "piano", *FAST, "-o", "clip.wav", "--codes", "clip.npz").status == 0
    assert np.array_equal(np.load("clip.npz")["codes"], codes[:, :500])


def test_prompts_by_time_make_one_piece(magnet: Magnet) -> None:
    words = ("--at", "0", "soft piano", "--at", "1.5", "drums enter")
    assert magnet("gen", *words, *FAST, "-d", "3", "-o", "a.wav").status == 0
    assert magnet("gen", "soft piano", *words[3:], *FAST, "-d", "3", "-o", "b.wav").status == 0
    assert magnet("gen", "soft piano", *FAST, "-d", "3", "-o", "c.wav").status == 0
    a, b, c = (numbers(Path(f"{name}.wav"), "int16") for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert made("a.wav")["edit"]["cues"] == [[0, "soft piano"], [1.5, "drums enter"]]


def test_a_loop_has_no_seam(magnet: Magnet) -> None:
    outcome = magnet("gen", "techno", *FAST, "-d", "4", "--loop", "--exact", "-o", "loop.wav")
    assert outcome.status == 0, outcome.err
    sound = sounds.read("loop.wav")
    assert sound.samples.shape == (1, 128_000)
    assert abs(float(measure(sound.samples, 32_000)) + 14) < 0.3
    at_seam, in_body = seam_flux(sound.samples[0])
    assert at_seam <= in_body
    edit = made("loop.wav")["edit"]
    assert edit["seam_flux"] <= edit["body_flux"]


@pytest.mark.parametrize("kind", [("--loop", "-d", "1"), ("-d", "11")])
def test_no_beginning_step_by_step_can_be_asked_of_pieces_too(
    magnet: Magnet, kind: tuple[str, ...]
) -> None:
    """`--hybrid 0` turns off a model's default, but was refused as a request."""
    made = magnet("gen", "lofi", *kind, "--hybrid", "0", *FAST, "-o", "a.wav")
    assert made.status == 0, made.err
    more = magnet("gen", "lofi", *kind, "--hybrid", "1", *FAST, "-o", "b.wav")
    assert more.status == 2
    assert "except --hybrid 0" in more.err


def test_a_loop_as_mp3_is_warned_of(magnet: Magnet) -> None:
    outcome = magnet("gen", "techno", *FAST, "-d", "1", "--loop", "-o", "loop.mp3")
    assert outcome.status == 0
    assert "mp3 pads its ends" in outcome.err
    assert "whole frames" not in outcome.err


def test_a_loop_as_opus_is_warned_of(magnet: Magnet) -> None:
    outcome = magnet("gen", "techno", *FAST, "-d", "1", "--loop", "-o", "loop.opus")
    assert outcome.status == 0
    assert "opus blurs its first 20 ms" in outcome.err


def test_bars_have_their_length_where_there_is_no_beat(magnet: Magnet) -> None:
    """As in the output of a model with random weights."""
    how = ("--bpm", "130", "--bars", "1", "--tries", "2", *FAST)
    outcome = magnet("gen", "techno, 95 bpm", *how, "-o", "a.flac")
    assert outcome.status == 0, outcome.err
    said = "There is no steady beat with any of 2 seeds: the clip is 1.85 s, the length of 4 beats at 130 bpm"
    assert said in outcome.err.replace("\n", " ")
    assert sounds.read("a.flac").samples.shape[1] == round(4 * 60 / 130 * 32_000)
    assert made("a.flac")["prompt"] == "techno, 130 bpm"
    assert made("a.flac")["edit"]["flags"]["tries"] == 1


@pytest.mark.parametrize("loop", [("--loop",), ()])
@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (91, "130 bpm, 4 beats, 1.85 s, made at 131.9 with seed "),
        (99, "Its beat is 121.2 bpm, more than 4 % from 130: 4 beats, 1.98 s, not stretched. Try"),
    ],
)
def test_what_came_of_a_tempo_is_said_and_kept(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch, frames: int, says: str, loop: tuple[str, ...]
) -> None:
    found = [None, Cut(frames, 4, 60 * 4 * 50 / frames, 0.01)]
    monkeypatch.setattr(bars, "cut_on_beat", lambda *asked: found.pop(0))
    how = (*loop, "--bpm", "130", "--bars", "1", "--tries", "2", *FAST)
    outcome = magnet("gen", "techno", *how, "-o", "a.wav")
    assert outcome.status == 0, outcome.err
    assert says in outcome.err.replace("\n", " ")
    shown = magnet("show", "a.wav")
    tempo = "130 bpm, 4 beats" if frames == 91 else "121.21 bpm, 4 beats"
    assert tempo in shown.out
    assert shown.out.count("Loop ") == len(loop)
    assert "--tries 1" in shown.out
    assert made("a.wav")["seed"] == derived_seed(5, "try 1")


def test_a_loop_of_whole_frames_says_how_long_it_came_to_be(magnet: Magnet) -> None:
    """Two bars at a tempo are seldom whole frames, and a loop of another length drifts."""
    outcome = magnet("gen", "techno", *FAST, "-d", "1.005", "--loop", "--exact", "-o", "loop.wav")
    assert outcome.status == 0
    assert sounds.read("loop.wav").samples.shape[1] == round(1.02 * 32_000)
    assert "The loop is 1.02 s, not 1.005: whole frames of the codec." in outcome.err


def test_a_loop_without_a_steady_beat_says_so(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looping, "cut_on_beat", lambda *asked: None)
    monkeypatch.setattr(looping, "cut_on_pulse", lambda *asked: 54)
    outcome = magnet("gen", "techno", *FAST, "-d", "1", "--loop", "-o", "loop.wav")
    assert sounds.read("loop.wav").samples.shape[1] == round(1.08 * 32_000)
    said = "No steady beat: 1.08 s, a multiple of its strongest pulse."
    assert said in outcome.err.replace("\n", " ")


def test_the_seed_that_a_loop_took_is_said_and_kept(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two tries has hits and no sure beat. An earlier file has no tries."""
    found = [None, Cut(54, 2, 111.1, 0.01)]
    monkeypatch.setattr(looping, "cut_on_beat", lambda *asked: found.pop(0))
    monkeypatch.setattr(looping, "pulsing", lambda *asked: 0.1)
    outcome = magnet("gen", "techno", *FAST, "-d", "1", "--loop", "--json", "-o", "loop.wav")
    taken = derived_seed(5, "try 1")
    assert f"2 beats, 1.08 s with seed {taken} of 2 tried; the seam" in " ".join(
        outcome.err.split()
    )
    (row,) = outcome.records
    assert (row["seed"], row["taken_seed"], row["tried"]) == (5, taken, 2)
    kept = made("loop.wav")
    assert kept == row["settings"]
    assert kept["seed"] == taken
    found.append(Cut(54, 2, 111.1, 0.01))
    shown = magnet("show", "loop.wav", "--json").records[0]["command"]
    assert f"--seed {taken}" in shown
    again = magnet(*shlex.split(shown)[1:], "-o", "again.wav")
    assert again.status == 0, again.err
    assert Path("again.wav").read_bytes() == Path("loop.wav").read_bytes()
    for before, said in (("tries", "--tries 1"), ("exact", "--exact")):
        del kept["edit"]["flags"][before]
        assert said in shlex.join(command_for(kept, "loop.wav"))


@pytest.mark.parametrize("words", [(), ("--loop", "--exact")])
def test_tries_are_refused_where_nothing_is_tried(magnet: Magnet, words: tuple[str, ...]) -> None:
    outcome = magnet("gen", "techno", *words, "--tries", "2", "-o", "a.wav")
    assert outcome.status == 2
    assert "--tries applies only to --bpm, and to loops that follow their beat." in outcome.err


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Press Ctrl-C in the middle of the window after the first `calls` windows."""
    count = itertools.count(1)
    decode = iterative.decode

    def interrupted(*args, **kwargs):
        if next(count) > calls:
            raise KeyboardInterrupt
        return decode(*args, **kwargs)

    monkeypatch.setattr(iterative, "decode", interrupted)


@pytest.mark.parametrize(
    ("room", "step", "words"),
    [
        (looping, "_close", ("--loop", "-d", "1")),
        (bars, "stretched", ("--bpm", "130", "--bars", "1", "--tries", "1")),
    ],
    ids=["at the seam", "while stretching"],
)
def test_ctrl_c_behind_the_windows_leaves_nothing_either(
    magnet: Magnet,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: object,
    step: str,
    words: tuple[str, ...],
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    before = sorted(home.rglob("*"))
    monkeypatch.setattr(room, step, interrupted)
    outcome = magnet("gen", "techno", *words, *FAST, "-o", "a.wav", "--codes", "a.npz")
    assert outcome.status == 130
    assert "Interrupted.\n  No file was left half written." in outcome.err
    assert sorted(home.rglob("*")) == before


def test_ctrl_c_keeps_what_is_finished_if_asked(magnet: Magnet, monkeypatch) -> None:
    interrupt_after(monkeypatch, 2)
    outcome = magnet("gen", "piano", *FAST, "-d", "60", "--keep-partial", "--json", "-o", "a.wav")
    assert outcome.status == 130
    assert "keeping the first 17 of 60 seconds" in outcome.err
    assert sounds.read("a.wav").duration == 17.0
    assert made("a.wav")["partial"] == {"seconds": 17.0, "of": 60.0}
    assert outcome.records[0]["status"] == "partial"


def test_ctrl_c_leaves_nothing_otherwise(magnet: Magnet, home: Path, monkeypatch) -> None:
    interrupt_after(monkeypatch, 2)
    assert magnet("gen", "piano", *FAST, "-d", "60", "-o", "a.wav").status == 130
    interrupt_after(monkeypatch, 0)
    outcome = magnet("gen", "piano", *FAST, "-d", "60", "--keep-partial", "-o", "a.wav")
    assert outcome.status == 130
    assert [*home.iterdir()] == []


def test_a_long_piece_goes_to_stdout(magnet: Magnet) -> None:
    outcome = magnet("gen", "piano", *FAST, "-d", "11", "-o", "-", "--format", "flac")
    assert outcome.status == 0
    assert soundfile.info(byte_streams.BytesIO(outcome.stdout)).duration == 11.0


# --- extend


def test_extend_goes_on_from_the_input(magnet: Magnet, riff: Path) -> None:
    outcome = magnet(
        "extend", "riff.wav", "lofi", *FAST, "--to", "3.5", "-o", "a.flac", "--codes", "a.npz"
    )
    assert outcome.status == 0, outcome.err
    info = soundfile.info("a.flac")
    assert (info.duration, info.samplerate, info.channels) == (3.5, 32_000, 1)
    assert np.load("a.npz")["codes"].shape == (4, 175)
    assert made("a.flac")["known_codes"] == 4 * 100
    assert measure(sounds.read("a.flac").samples, 32_000) == pytest.approx(-14, abs=0.2)


def test_extend_reads_stdin_and_names_its_output(magnet: Magnet, riff: Path) -> None:
    data = riff.read_bytes()
    assert magnet("extend", "-", "lofi", *FAST, "--to", "2.5", stdin=data).status == 0
    assert magnet("extend", "riff.wav", "lofi", *FAST, "--to", "2.5").status == 0
    one, other = Path("sound-extended-5.wav"), Path("riff-extended-5.wav")
    assert np.array_equal(numbers(one, "int16"), numbers(other, "int16"))


def test_extend_works_with_autoregressive_models(magnet: Magnet, riff: Path) -> None:
    outcome = magnet("extend", "riff.wav", "lofi", *MUSICGEN, "--to", "2.2", "-o", "a.wav")
    assert outcome.status == 0, outcome.err
    assert sounds.read("a.wav").duration == pytest.approx(2.2)


# --- vary


def test_vary_makes_variations(magnet: Magnet, riff: Path) -> None:
    words = ("vary", "riff.wav", "lofi", *FAST)
    assert magnet(*words, "-n", "2", "-o", "v.wav").status == 0
    one, two = numbers(Path("v-1.wav"), "int16"), numbers(Path("v-2.wav"), "int16")
    assert one.shape == two.shape == (64_000, 1)
    assert not np.array_equal(one, two)
    assert made("v-2.wav")["seed"] == 6


def test_strength_is_how_much_changes(magnet: Magnet, riff: Path) -> None:
    for strength in ("0", "0.3", "1"):
        name = f"{strength}.npz"
        words = ("--strength", strength, "-o", f"{strength}.wav", "--codes", name)
        assert magnet("vary", "riff.wav", "lofi", *FAST, *words).status == 0
    zero, some, all_ = (np.load(f"{s}.npz")["codes"] for s in ("0", "0.3", "1"))
    assert 0.6 < (zero == some)[0].mean() < 1
    assert (zero == all_)[0].mean() < 0.3


def test_kept_streams_stay(magnet: Magnet, riff: Path) -> None:
    for name, words in (("a", ("--strength", "0")), ("b", ("--keep-streams", "2"))):
        words = (*words, "-o", f"{name}.wav", "--codes", f"{name}.npz")
        assert magnet("vary", "riff.wav", "lofi", *FAST, *words).status == 0
    a, b = (np.load(f"{name}.npz")["codes"] for name in "ab")
    assert np.array_equal(a[:2], b[:2])
    assert (a[2:] == b[2:]).mean() < 0.5


# --- edit


def test_edit_changes_the_region_and_nothing_else(magnet: Magnet, riff: Path) -> None:
    outcome = magnet("edit", "riff.wav", "solo", *FAST, "--region", "0.511-1", "-o", "out.wav")
    assert outcome.status == 0, outcome.err
    assert "0.50-1.00 s replaced" in outcome.err
    assert "has 2 channels, magnet-small-10secs makes 1: each keeps its own level" in outcome.err
    info = soundfile.info("out.wav")
    assert (info.samplerate, info.channels, info.subtype) == (44_100, 2, "PCM_24")
    before, after = numbers(riff, "int32"), numbers(Path("out.wav"), "int32")
    assert before.shape == after.shape
    changed = np.flatnonzero((before != after).any(1)) / 44_100
    assert 0.479 < changed.min() < 0.51
    assert 0.99 < changed.max() < 1.021


def test_edit_through_the_codec_changes_all_of_it(magnet: Magnet, riff: Path) -> None:
    words = ("--region", "0.5-1", "--through-codec", "--lufs", "-20", "-o", "out.wav")
    assert magnet("edit", "riff.wav", "solo", *FAST, *words).status == 0
    sound = sounds.read("out.wav")
    assert (sound.sample_rate, sound.samples.shape) == (32_000, (1, 64_000))
    assert measure(sound.samples, 32_000) == pytest.approx(-20, abs=0.2)


def test_edit_keeps_the_format_whatever_it_is(magnet: Magnet, home: Path) -> None:
    write(home / "in.aiff", noise(1.0, 16_000), 16_000, "PCM_24")
    assert magnet("edit", "in.aiff", "solo", *FAST, "--region", "0.5-0.6").status == 0
    info = soundfile.info("in-edited-5.aiff")
    assert (info.format, info.subtype, info.samplerate) == ("AIFF", "PCM_24", 16_000)


def test_edit_says_what_of_a_wav_another_format_cannot_keep(magnet: Magnet, riff: Path) -> None:
    body = riff.read_bytes() + b"smpl" + (36).to_bytes(4, "little") + bytes(36)
    riff.write_bytes(body[:4] + (len(body) - 8).to_bytes(4, "little") + body[8:])
    kept = magnet("edit", "riff.wav", "x", "--region", "0.5-1", *FAST, "-o", "kept.wav")
    assert "Not kept" not in kept.err
    assert b"smpl" in Path("kept.wav").read_bytes()
    lost = magnet("edit", "riff.wav", "x", "--region", "0.5-1", *FAST, "-o", "lost.flac")
    assert "only wav can hold it: smpl" in lost.err


def test_an_extensible_wav_from_stdin_stays_a_wav(magnet: Magnet, riff: Path) -> None:
    """Its copy was named after libsndfile's name of the header, .wavex."""
    samples, rate = soundfile.read(riff)
    file = byte_streams.BytesIO()
    soundfile.write(file, samples, rate, format="WAVEX", subtype="PCM_16")
    words = (*FAST, "--region", "0.5-1")
    assert magnet("edit", "-", "solo", *words, stdin=file.getvalue()).status == 0
    assert [path.suffix for path in Path().glob("sound-edited-*")] == [".wav"]


def test_edit_from_stdin_to_stdout(magnet: Magnet, riff: Path) -> None:
    words = (*FAST, "--region", "0:00.5-0:01")
    piped = magnet("edit", "-", "solo", *words, "-o", "-", stdin=riff.read_bytes())
    assert piped.status == 0
    assert magnet("edit", "riff.wav", "solo", *words, "-o", "out.wav").status == 0
    samples, rate = soundfile.read(byte_streams.BytesIO(piped.stdout), dtype="int32")
    assert rate == 44_100
    assert np.array_equal(samples, numbers(Path("out.wav"), "int32"))


def test_edit_says_what_it_did_as_json(magnet: Magnet, riff: Path) -> None:
    words = ("--region", "1-1.5", "--region", "0.2-0.3", "--json", "--quiet", "-o", "out.wav")
    outcome = magnet("edit", "riff.wav", "solo", *FAST, *words)
    assert outcome.err == ""
    (record,) = outcome.records
    assert record["regions"] == [[0.2, 0.3], [1.0, 1.5]]
    assert record["settings"]["edit"]["flags"]["region"] == ["1-1.5", "0.2-0.3"]
    assert json.loads(json.dumps(record)) == record


def test_a_lossy_input_is_warned_of(magnet: Magnet, home: Path) -> None:
    soundfile.write(home / "in.ogg", noise(1.0, 16_000), 16_000)
    outcome = magnet("edit", "in.ogg", "solo", *FAST, "--region", "0.5-0.6", "-o", "out.ogg")
    assert outcome.status == 0
    assert "loses quality each time" in outcome.err


# --- all


@pytest.mark.parametrize(
    "words",
    [
        ("gen", "--at", "0", "soft piano", "--at", "0.5", "drums", "-d", "1"),
        ("gen", "techno", "-d", "1", "--loop"),
        ("gen", "techno", "--bpm", "130", "--bars", "1", "--loop", "--tries", "2"),
        ("gen", "techno", "--bpm", "180.5", "--bars", "2", "--tries", "1"),
        ("gen", "techno", "-d", "10.5", "--overlap", "2"),
        ("extend", "riff.wav", "lofi", "--at", "2", "drums", "--to", "2.4"),
        ("vary", "riff.wav", "lofi", "--strength", "0.3", "--keep-streams", "1"),
        ("edit", "riff.wav", "solo", "--region", "0.5-0.7", "--region", "1-1.1"),
        ("edit", "riff.wav", "solo", "--region", "0.5-0.7", "--through-codec"),
    ],
    ids=" ".join,
)
def test_show_says_the_command_that_makes_it_again(magnet: Magnet, riff: Path, words) -> None:
    assert magnet(*words, *FAST, "-o", "a.wav").status == 0
    shown = magnet("show", "a.wav", "--json").records[0]["command"]
    arguments = shlex.split(shown)[1:]
    assert magnet(*arguments, "--force").status == 0
    first = Path("a.wav").read_bytes()
    assert magnet(*words, *FAST, "-o", "a.wav", "--force").status == 0
    assert Path("a.wav").read_bytes() == first


BAD = [
    (("extend", "no.wav", "lofi", "--to", "5"), 2, "There is no file"),
    (("extend", "riff.wav", "lofi", "--to", "1"), 2, "already 2.00 s long"),
    (("extend", "riff.wav", "lofi", "--to", "0"), 2, "--to cannot be 0"),
    (("extend", "riff.wav", "lofi", "--to", "nan"), 2, "--to"),
    (("extend", "riff.wav", "lofi", "drums", "--to", "5"), 2, "Give a time for each prompt"),
    (("extend", "riff.wav", "a", "--at", "7", "b", "--to", "5"), 2, "begins at 7 s"),
    (("extend", "riff.wav", "a", "--at", "-1", "b", "--to", "5"), 2, "--at cannot be -1"),
    (("extend", "riff.wav", "", "--to", "5"), 2, "An argument is empty"),
    (("extend", "-", "-", "--to", "5"), 2, "stdin can be read only once"),
    (("extend", "-", "lofi", "--to", "5"), 2, "not a sound that can be read"),
    (("extend", ".", "lofi", "--to", "5"), 2, "is a folder"),
    (("extend", "text.wav", "lofi", "--to", "5"), 2, "not a sound that can be read"),
    (("extend", "short.wav", "lofi", "--to", "5"), 2, "too short"),
    (("extend", "silent.wav", "lofi", "--to", "5"), 2, "is silent"),
    (("extend", "riff.wav", "lofi", "--to", "15", "--overlap", "10"), 2, "does not fit"),
    (("extend", "riff.wav", "lofi", "--to", "5", "-o", "riff.wav"), 2, "riff.wav exists"),
    (("extend", "riff.wav", "lofi", "--to", "5", "-o", "a.xyz"), 2, "suffix .xyz"),
    (("vary", "riff.wav", "lofi", "--strength", "1.5"), 2, "--strength cannot be 1.5"),
    (("vary", "riff.wav", "lofi", "--strength", "nan"), 2, "--strength cannot be nan"),
    (("vary", "riff.wav", "lofi", "--keep-streams", "4"), 2, "4 streams cannot be kept"),
    (("vary", "silent.wav", "lofi"), 2, "is silent"),
    (("edit", "riff.wav", "solo"), 2, "--region"),
    (("edit", "riff.wav", "solo", "--region", "1"), 2, "from-to"),
    (("edit", "riff.wav", "solo", "--region", "a-b"), 2, "from-to"),
    (("edit", "riff.wav", "solo", "--region", "-1-2"), 2, "from-to"),
    (("edit", "riff.wav", "solo", "--region", "1-inf"), 2, "from-to"),
    (("edit", "riff.wav", "solo", "--region", "1-1"), 2, "is not a region"),
    (("edit", "riff.wav", "solo", "--region", "2-1"), 2, "is not a region"),
    (("edit", "riff.wav", "solo", "--region", "1-3"), 2, "not inside the sound"),
    (("edit", "riff.wav", "solo", "--region", "1-2", "--lufs", "-9"), 2, "need --through-codec"),
    (("edit", "riff.wav", "solo", "--region", "1-2", "-o", "a.txt"), 2, "no suffix"),
    (
        ("edit", "float.wav", "solo", "--region", "0-1", "-o", "a.flac"),
        2,
        "cannot hold the samples",
    ),
    (("edit", "nan.wav", "solo", "--region", "0-1"), 2, "NaN or infinite"),
    (("edit", "silent.wav", "solo", "--region", "0-1"), 2, "is silent"),
    (("edit", "cut.flac", "solo", "--region", "0.1-0.2"), 2, "damaged"),
    (("gen", "a", "b", "--at", "1", "--at", "2", "--at", "3"), 2, "Give a time"),
    (("gen", "a", "--at", "1", "b", "--rescorer", "self"), 2, "use one model"),
    (("gen", "a", "-d", "0.1", "--loop"), 2, "too short"),
]


@pytest.mark.parametrize(("words", "status", "says"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_what_is_wrong_is_said(magnet: Magnet, riff: Path, words, status, says) -> None:
    home = riff.parent
    write(home / "short.wav", noise(0.05, 8000), 8000)
    write(home / "silent.wav", noise(1.0, 8000) * 0, 8000)
    write(home / "float.wav", noise(1.0, 8000), 8000, "FLOAT")
    broken = noise(1.0, 8000)
    broken[100] = np.nan
    write(home / "nan.wav", broken, 8000, "FLOAT")
    (home / "text.wav").write_text("hello " * 100)
    write(home / "cut.flac", noise(2.0, 44_100), 44_100)
    data = (home / "cut.flac").read_bytes()
    (home / "cut.flac").write_bytes(data[: len(data) // 3])
    before = {path.name for path in home.iterdir()}
    outcome = magnet(*words, *FAST)
    assert outcome.status == status
    assert says in " ".join(outcome.err.replace("│", " ").split())
    assert "Traceback" not in outcome.err
    assert {path.name for path in home.iterdir()} == before


def test_autoregressive_models_cannot_edit(magnet: Magnet, riff: Path) -> None:
    for words in (
        ("edit", "riff.wav", "solo", "--region", "1-1.5"),
        ("vary", "riff.wav", "solo"),
        ("gen", "solo", "-d", "1", "--loop"),
    ):
        outcome = magnet(*words, *MUSICGEN)
        assert outcome.status == 2
        assert "is autoregressive" in outcome.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("gen", "a", "b", "--loop", "--fade", "0.2", "-d", "2"), "cannot have a fade"),
        (("gen", "a", "--at", "5", "b", "-d", "3"), "begins at 5 s, but the piece is 3 s"),
        (("gen", "a", "--at", "0", "b"), "Two prompts begin at 0 s"),
        (("gen", "a", "b", "--at", "2", "--at", "3"), "There is no prompt for the first 2 s"),
        (("gen", "a", "--loop", "--rescorer", "self"), "use one model"),
        (("gen", "a", "--bpm", "120", "--bars", "4", "--hybrid", "1"), "use one model"),
        (
            ("gen", "a", "--bpm", "120", "--bars", "4", "-d", "8"),
            "--bars and -d both set the length",
        ),
        (
            ("gen", "a", "--bpm", "120", "--bars", "4", "--loop", "--exact"),
            "--bars and --exact both",
        ),
        (("gen", "a", "--bpm", "120"), "--bpm needs --bars, too"),
        (("gen", "a", "--bars", "4"), "--bars needs --bpm, too"),
        (("gen", "a", "--bpm", "300", "--bars", "4"), "bpm cannot be 300"),
        (("extend", "riff.wav", "a", "--at", "7", "b", "--to", "5"), "begins at 7 s"),
        (("edit", "riff.wav", "x", "--region", "1.5-0.5"), "1.5-0.5 is not a region"),
        (("edit", "riff.wav", "x", "--region", "1-50"), "It is 2.00 s long"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_can_never_work_is_refused_before_a_model_is_loaded(
    magnet: Magnet, riff: Path, monkeypatch: pytest.MonkeyPatch, words, says
) -> None:
    """It was reported after a download of 2 GB or after a clip was made, and again for every clip."""

    def no_model(name: str, **_: object) -> api.Model:
        raise AssertionError(f"{name} was loaded for nothing")

    monkeypatch.setattr(api, "load_model", no_model)
    outcome = magnet(*words, *FAST, "-n", "3")
    assert outcome.status == 2, outcome.err
    assert outcome.err.count(says) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("gen", "a", "b", "--steps", "1,2"), "There are 2 numbers of steps"),
        (("gen", "a", "b", "--cfg-coef", "3"), "--cfg-coef cannot be used"),
        (("gen", "a", "--trim", "-d", "0.02"), "less than one span"),
        (("gen", "a", "-d", "11", "--steps", "1,2"), "There are 2 numbers of steps"),
        (("gen", "a", "-d", "0.1", "--loop"), "too short"),
        (("gen", "a", "--at", "10", "b"), "begins at 10 s, but the piece is 10 s"),
        (("edit", "riff.wav", "x", "--region", "1-1.5", "--overlap", "10"), "does not fit"),
        (("edit", "riff.wav", "x", "--region", "1-2.05"), "not inside the sound"),
        (("vary", "riff.wav", "x", "--keep-streams", "4"), "4 streams cannot be kept"),
        (("extend", "riff.wav", "x", "--to", "5", "--steps", "1,2"), "There are 2 numbers"),
        (("edit", "riff.wav", "x", "--region", "1-2", *MUSICGEN), "is autoregressive"),
        (("gen", "x", "--loop", "-d", "1", *MUSICGEN), "is autoregressive"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_the_model_is_said_once(
    magnet: Magnet, riff: Path, monkeypatch: pytest.MonkeyPatch, words, says
) -> None:
    """`gen a b --steps 1,2 -n 2` printed the same error five times; a loop was made before it was refused."""

    def no_decoding(*_: object, **__: object) -> None:
        raise AssertionError("something was made of it")

    monkeypatch.setattr(api.Model, "decode", no_decoding)
    monkeypatch.setattr(api.Model, "generate", no_decoding)
    fast = [] if "--steps" in words or MUSICGEN[1] in words else ["--steps", "1"]
    model = [] if "-m" in words else ["-m", SMALL]
    outcome = magnet(*words, *model, *fast, "--seed", "5", "-n", "3")
    assert outcome.status == 2, outcome.err
    assert outcome.err.count(says) == 1
    assert "Seed" not in outcome.err


@pytest.mark.parametrize(
    "words",
    [("edit", "--region", "0.2-0.6"), ("extend", "--to", "2.2"), ("vary",)],
    ids=lambda words: words[0],
)
def test_channels_that_cancel_each_other_are_said(magnet: Magnet, words: tuple[str, ...]) -> None:
    """Their mean is silence, which an edit was refused for, or continued from."""
    one = noise(2.0, 32_000, 1)
    command, *flags = words
    for other, said in ((-one, True), (one, False)):
        soundfile.write("a.wav", np.concatenate([one, other], axis=1), 32_000)
        outcome = magnet(command, "a.wav", "rain", *flags, *FAST, "-o", "b.wav", "--force")
        assert outcome.status == 0, outcome.err
        assert ("channels of a.wav cancel each other" in outcome.err) == said


def test_times_are_taken_as_minutes_too(magnet: Magnet, riff: Path) -> None:
    """As in --region: 1:30 was refused."""
    assert magnet("gen", "rain", *FAST, "-d", "0:00.4", "-o", "a.wav").status == 0
    assert sounds.read("a.wav").samples.shape[1] == 12_800
    words = ("soft piano", "--at", "0:01", "drums enter")
    assert magnet("gen", *words, *FAST, "-d", "0:2", "-o", "b.wav").status == 0
    assert made("b.wav")["edit"]["cues"] == [[0, "soft piano"], [1, "drums enter"]]
    assert magnet("extend", "riff.wav", "rain", *FAST, "--to", "0:02.4", "-o", "c.wav").status == 0
    assert sounds.read("c.wav").samples.shape[1] == 2.4 * 32_000
    for flags in (("-d", "1:x"), ("-d", "1:-5"), ("-d", ":"), ("--at", "1::2", "x", "y")):
        refused = magnet("gen", "rain", *FAST, *flags, "-o", "d.wav")
        assert refused.status == 2, flags
        assert "Traceback" not in refused.err
    far = magnet("gen", "rain", *FAST, "-d", "99999:00", "-o", "d.wav")
    assert (far.status, "1000000" in far.err.replace(",", "")) == (2, True)
