"""`magnet gen`: its clips, their places, its messages."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from magnet_cli import clips
from magnet_cli.audio.finish import Written
from magnet_cli.audio.loudness import measure
from magnet_cli.cli.progress import ClipDisplay
from magnet_cli.errors import UsageError
from magnet_cli.files import write_error
from tests import sounds
from tests.cli.conftest import QUICK, SMALL, Magnet


def test_one_prompt_makes_one_file(magnet: Magnet, home: Path) -> None:
    outcome = magnet(
        "gen", "lofi piano", "-m", SMALL, "--seed", "7", "--steps", "2,1,1,1", "-o", "a.wav"
    )
    assert outcome.status == 0
    assert outcome.stdout == b""
    assert "Saved a.wav: 10 s" in outcome.err
    sound = sounds.read("a.wav")
    assert sound.samples.shape == (1, 320_000)
    assert sound.sample_rate == 32_000
    assert measure(sound.samples, 32_000) == pytest.approx(-14, abs=0.2)
    assert sound.metadata is not None
    assert sound.metadata["prompt"] == "lofi piano"
    assert sound.metadata["seed"] == 7
    assert sound.metadata["given"] == {"decoding_steps": [2, 1, 1, 1]}
    assert len(sound.metadata["revision"]) == 40


def test_the_same_seed_makes_the_same_file(magnet: Magnet) -> None:
    for name in ("a.wav", "b.wav"):
        assert magnet("gen", "lofi piano", *QUICK, "-o", name).status == 0
    assert magnet("gen", "lofi piano", *QUICK, "--seed", "6", "-o", "c.wav").status == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    assert Path("a.wav").read_bytes() != Path("c.wav").read_bytes()


def test_variations_have_the_seeds_that_follow(magnet: Magnet) -> None:
    assert magnet("gen", "rain", *QUICK, "-n", "3", "-o", "rain.wav").status == 0
    assert magnet("gen", "rain", *QUICK, "--seed", "7", "-o", "third.wav").status == 0
    seeds = [(sounds.read(f"rain-{i}.wav").metadata or {})["seed"] for i in (1, 2, 3)]
    assert seeds == [5, 6, 7]
    assert Path("rain-3.wav").read_bytes() == Path("third.wav").read_bytes()


def test_names_come_from_prompts_and_seeds(magnet: Magnet, home: Path) -> None:
    outcome = magnet("gen", "Lo-fi Piano!", "🎹", "ピアノ", *QUICK)
    assert outcome.status == 0
    names = sorted(path.name for path in home.iterdir())
    assert names == ["clip-5.wav", "lo-fi-piano-5.wav", "ピアノ-5.wav"]


def test_prompts_that_make_the_same_name_are_numbered(magnet: Magnet, home: Path) -> None:
    assert magnet("gen", "rain", "Rain!", *QUICK, "-o", "clips/").status == 0
    assert sorted(path.name for path in (home / "clips").iterdir()) == [
        "rain-5-2.wav",
        "rain-5.wav",
    ]


def test_a_drawn_seed_is_said_and_makes_the_clip_again(magnet: Magnet) -> None:
    fresh = ("-m", SMALL, "--steps", "1", "-d", "0.2")
    outcome = magnet("gen", "rain", *fresh, "-o", "a.wav")
    seed = (sounds.read("a.wav").metadata or {})["seed"]
    assert f"--seed {seed}" in outcome.err
    magnet("gen", "rain", *fresh, "--seed", str(seed), "-o", "b.wav")
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.333, 1.0])
def test_a_shorter_clip_has_its_length_and_is_generated_so(magnet: Magnet, seconds: float) -> None:
    outcome = magnet(
        "gen", "rain", "-m", SMALL, "--steps", "1", "-d", str(seconds), "-o", "a.wav", "--json"
    )
    assert outcome.status == 0
    sound = sounds.read("a.wav")
    assert sound.samples.shape[1] == round(seconds * 32_000)
    assert outcome.records[0]["settings"]["frames"] == int(np.ceil(seconds * 50 - 1e-6))


def test_json_says_everything_on_stdout_and_nothing_else(magnet: Magnet) -> None:
    outcome = magnet("gen", "rain", "wind", *QUICK, "--json", "-q", "--codes", "c.npz")
    assert outcome.status == 0
    assert outcome.err == ""
    first, second = outcome.records
    assert first["status"] == "done"
    assert first["file"] == "rain-5.wav"
    assert first["codes"] == "c-1.npz"
    assert first["duration"] == 0.2
    assert first["loudness"] == pytest.approx(-14, abs=0.2)
    assert second["prompt"] == "wind"
    assert second["settings"]["given"] == {"decoding_steps": [1]}


def test_codes_are_kept_with_their_settings(magnet: Magnet) -> None:
    assert magnet("gen", "rain", *QUICK, "-o", "a.wav", "--codes", "a.npz").status == 0
    with np.load("a.npz", allow_pickle=False) as kept:
        assert kept["codes"].shape == (4, 10)
        assert json.loads(str(kept["settings"]))["seed"] == 5


def test_a_prompt_is_read_from_stdin(magnet: Magnet) -> None:
    text = "\ufeffwarm\r\n  synth pad\n".encode()
    outcome = magnet("gen", "-", *QUICK, "-o", "a.wav", stdin=text)
    assert outcome.status == 0
    assert (sounds.read("a.wav").metadata or {})["prompt"] == "warm synth pad"


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "opus", "mp3"])
def test_stdout_is_the_sound_and_nothing_else(magnet: Magnet, name: str) -> None:
    outcome = magnet("gen", "rain", *QUICK, "-o", "-", "--format", name)
    assert outcome.status == 0
    sound = sounds.read(io.BytesIO(outcome.stdout))
    assert sound.duration == pytest.approx(0.2, abs=0.08)
    assert "Saved stdout" in outcome.err


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "opus", "mp3"])
def test_every_format_is_written_by_its_suffix(magnet: Magnet, name: str) -> None:
    assert magnet("gen", "rain", *QUICK, "-o", f"a.{name}").status == 0
    info = soundfile.info(f"a.{name}")
    assert info.format == {"ogg": "OGG", "opus": "OGG"}.get(name, name.upper())
    assert info.samplerate == (48_000 if name == "opus" else 32_000)


def test_the_file_is_as_asked(magnet: Magnet) -> None:
    outcome = magnet(
        "gen", "rain", *QUICK, "-o", "a.wav", "--bit-depth", "24", "--sample-rate", "44100",
        "--channels", "2", "--lufs", "-20", "--peak", "-3", "--fade", "0.05",
    )  # fmt: skip
    assert outcome.status == 0
    sound = sounds.read("a.wav")
    assert (sound.subtype, sound.sample_rate, sound.samples.shape) == ("PCM_24", 44_100, (2, 8820))
    assert measure(sound.samples, 44_100) == pytest.approx(-20, abs=0.2)
    assert np.abs(sound.samples).max() <= 10 ** (-3 / 20)
    assert abs(sound.samples[0, 0]) < 0.001


def test_without_normalising_the_level_is_the_models_own(magnet: Magnet) -> None:
    import magnet_cli

    magnet("gen", "rain", *QUICK, "-o", "a.wav", "--no-normalize", "--bit-depth", "float")
    model = magnet_cli.load_model(SMALL, device="cpu")
    config = magnet_cli.DecodingConfig(decoding_steps=(1,))
    result = model.generate(["rain"], config=config, seeds=[5], frames=10)
    np.testing.assert_array_equal(sounds.read("a.wav").samples, result.audio[0].numpy())


def test_an_existing_file_is_replaced_only_by_force(magnet: Magnet) -> None:
    Path("a.wav").write_bytes(b"mine")
    outcome = magnet("gen", "rain", *QUICK, "-o", "a.wav")
    assert outcome.status == 2
    assert "--force" in outcome.err
    assert Path("a.wav").read_bytes() == b"mine"
    assert magnet("gen", "rain", *QUICK, "-o", "a.wav", "--force").status == 0
    assert sounds.read("a.wav").duration == pytest.approx(0.2)


@pytest.fixture
def someone_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a clip is started, another program creates a.wav and a.npz."""
    begin = ClipDisplay.begin

    def slowly(*arguments: Any) -> Any:
        for name in ("a.wav", "a.npz"):
            Path(name).write_bytes(b"precious")
        return begin(*arguments)

    monkeypatch.setattr(ClipDisplay, "begin", slowly)


@pytest.mark.parametrize(
    "more",
    [("-d", "0.2"), ("-d", "1", "--loop"), ("-d", "10.1")],
    ids=["a clip", "a loop", "a piece"],
)
def test_a_file_that_appears_while_a_clip_is_made_is_left_alone(
    magnet: Magnet, home: Path, someone_writes: None, more: tuple[str, ...]
) -> None:
    """It was lost: only the plan, minutes before, checked existing files."""
    asked = ("gen", "rain", "-m", SMALL, "--steps", "1", "--seed", "5", *more)
    asked = (*asked, "-o", "a.wav", "--codes", "a.npz", "--json", "-q")
    outcome = magnet(*asked)
    assert outcome.status == 0
    assert Path("a.wav").read_bytes() == Path("a.npz").read_bytes() == b"precious"
    (record,) = outcome.records
    assert (record["file"], record["codes"]) == ("a-2.wav", "a-2.npz")
    assert sounds.read("a-2.wav").duration == pytest.approx(float(more[1]))
    assert "a.wav appeared meanwhile and was not replaced" in outcome.err
    assert "the output is a-2.npz" in outcome.err
    outcome = magnet(*asked, "--force")
    assert (outcome.records[0]["file"], outcome.err) == ("a.wav", "")
    assert sounds.read("a.wav").duration == pytest.approx(float(more[1]))
    assert len(list(home.iterdir())) == 4


def test_a_file_that_appears_while_a_sound_is_edited_is_left_alone(
    magnet: Magnet, someone_writes: None
) -> None:
    magnet("gen", "rain", *QUICK, "-d", "1", "-o", "in.wav")
    asked = ("-m", SMALL, "--steps", "1", "--region", "0.2-0.4", "-o", "a.wav", "--json")
    Path("a.wav").unlink()
    outcome = magnet("edit", "in.wav", "wind", *asked)
    assert outcome.records[0]["file"] == "a-2.wav"
    assert "Saved a-2.wav" in outcome.err
    assert "the output is a-2.wav" in outcome.err
    assert Path("a.wav").read_bytes() == b"precious"
    assert sounds.read("a-2.wav").duration == pytest.approx(1)


def test_a_link_to_nothing_is_not_replaced(magnet: Magnet, home: Path) -> None:
    """Its disk may be temporarily unavailable."""
    Path("a.wav").symlink_to(home / "not-mounted" / "a.wav")
    outcome = magnet("gen", "rain", *QUICK, "-o", "a.wav")
    assert outcome.status == 2
    assert "a.wav exists" in outcome.err
    assert Path("a.wav").is_symlink()


def test_presets_scale_the_checkpoints_own_steps(magnet: Magnet) -> None:
    base = ("-m", "facebook/magnet-small-30secs", "-d", "0.1", "--seed", "1", "--json", "-q")
    steps = {
        preset: magnet("gen", "x", *base, "--preset", preset, "-o", f"{preset}.wav").records[0]
        for preset in ("fast", "default", "best")
    }
    found = {name: r["settings"]["decoding"]["decoding_steps"] for name, r in steps.items()}
    assert found == {
        "fast": [30, 5, 5, 5],
        "default": [60, 10, 10, 10],
        "best": [120, 20, 20, 20],
    }


def test_every_decoding_setting_reaches_the_model(magnet: Magnet) -> None:
    outcome = magnet(
        "gen", "rain", "-m", SMALL, "-d", "0.2", "--steps", "3,2,1,1", "--temperature", "2",
        "--no-anneal", "--top-p", "0", "--top-k", "7", "--greedy", "--max-cfg-coef", "4",
        "--min-cfg-coef", "2", "--span-len", "2", "--spans", "stride1", "--span-scoring", "prod",
        "--trim", "--negative", "drums", "--json", "-o", "a.wav",
    )  # fmt: skip
    assert outcome.status == 0
    settings = outcome.records[0]["settings"]
    assert settings["negative"] == "drums"
    wanted = {
        "decoding_steps": [3, 2, 1, 1], "temperature": 2.0, "anneal_temperature": False,
        "top_p": 0.0, "top_k": 7, "use_sampling": False, "max_cfg_coef": 4.0, "min_cfg_coef": 2.0,
        "span_len": 2, "span_arrangement": "stride1", "span_scoring": "prod", "full_length": False,
    }  # fmt: skip
    assert settings["given"] == wanted
    assert {key: settings["decoding"][key] for key in wanted} == wanted


def test_an_autoregressive_model_is_a_model_like_any(magnet: Magnet) -> None:
    base = ("-m", "facebook/musicgen-small", "-d", "0.1", "--seed", "1", "-o", "a.wav", "--json")
    outcome = magnet("gen", "rain", *base, "--cfg-coef", "2")
    assert outcome.status == 0
    assert outcome.records[0]["settings"]["decoding"]["cfg_coef"] == 2.0


def test_one_failure_does_not_stop_the_others(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = clips.write_sound

    def sometimes(path: Path, *arguments: Any, **more: Any) -> Written:
        if "wind" in str(path):
            raise UsageError("The wind broke it.", "Wait.")
        return write(path, *arguments, **more)

    monkeypatch.setattr(clips, "write_sound", sometimes)
    outcome = magnet("gen", "rain", "wind", "fire", *QUICK, "--json")
    assert outcome.status == 4
    assert [record["status"] for record in outcome.records] == ["done", "failed", "done"]
    assert "The wind broke it. (wind-5.wav)" in outcome.err
    assert "1 of 3 clips" in outcome.err
    assert Path("fire-5.wav").exists()


@pytest.mark.parametrize("room", [0, 2])
def test_a_full_disk_stops_the_others(
    magnet: Magnet, home: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """All of them were generated, for hours, and then could not be written."""
    write, tried = clips.write_sound, []

    def full(path: Path, *arguments: Any, **more: Any) -> Written:
        tried.append(path)
        if len(tried) > room:
            raise write_error(path, OSError(errno.ENOSPC, "No space left on device"))
        return write(path, *arguments, **more)

    monkeypatch.setattr(clips, "write_sound", full)
    outcome = magnet("gen", "rain", *QUICK, "-n", "20", "-o", "a.wav", "--json")
    assert len(tried) == room + 1
    assert [record["status"] for record in outcome.records] == ["done"] * room + ["failed"]
    assert f"There is no room for a-{room + 1}.wav" in outcome.err
    assert outcome.status == (4 if room else 1)
    assert ("2 of 20 clips were made before the disk was full" in outcome.err) == bool(room)
    assert len(list(home.iterdir())) == room


def test_the_licence_is_said_once(magnet: Magnet) -> None:
    assert "CC-BY-NC" in magnet("gen", "rain", *QUICK, "-o", "a.wav").err
    assert "CC-BY-NC" not in magnet("gen", "rain", *QUICK, "-o", "b.wav").err


def test_a_prompt_may_begin_with_a_hyphen(magnet: Magnet) -> None:
    assert magnet("gen", *QUICK, "-o", "a.wav", "--", "--loud drums").status == 0
    assert (sounds.read("a.wav").metadata or {})["prompt"] == "--loud drums"


def test_quiet_says_nothing(magnet: Magnet) -> None:
    outcome = magnet("gen", "rain", *QUICK, "-q", "-o", "a.wav")
    assert (outcome.status, outcome.stdout, outcome.err) == (0, b"", "")


def test_plain_lines_where_stderr_is_no_terminal(magnet: Magnet) -> None:
    outcome = magnet("gen", "rain", *QUICK, "-n", "2", "-o", "a.wav", "--verbose")
    assert "Loading facebook/magnet-small-10secs" in outcome.err
    assert "Generating 2 of 2: rain (seed 6)" in outcome.err
    assert "stream 4 of 4: 1 step in" in outcome.err
    assert "\x1b" not in outcome.err
    assert "\r" not in outcome.err


def test_a_line_a_clip_where_nothing_is_watched(magnet: Magnet) -> None:
    """A log had fifteen lines per clip of nano."""
    outcome = magnet("gen", "rain", *QUICK, "-n", "2", "-o", "a.wav", "--lufs", "-30")
    lines = [line for line in outcome.err.splitlines() if not line.startswith("The weights")]
    assert [line[:12] for line in lines] == ["Saved a-1.wa", "Saved a-2.wa"]


def test_quotes_that_were_forgotten_are_told(magnet: Magnet) -> None:
    outcome = magnet("gen", "lofi", "piano", *QUICK, "-o", "clips/")
    assert outcome.status == 0
    said = (
        'These are 2 prompts, one clip each. Quotes make them one prompt: magnet gen "lofi piano"'
    )
    assert said in outcome.err
    outcome = magnet("gen", "lofi piano", "rain", *QUICK, "-o", "others/")
    assert "Quotes" not in outcome.err


def test_names_of_files_have_the_fields_of_batch(magnet: Magnet) -> None:
    outcome = magnet("gen", "rain", "a door", *QUICK, "-n", "2", "-o", "x-{seed}-{slug}.flac")
    assert outcome.status == 0, outcome.err
    assert sorted(path.name for path in Path().glob("*.flac")) == [
        "x-5-a-door.flac", "x-5-rain.flac", "x-6-a-door.flac", "x-6-rain.flac",
    ]  # fmt: skip
    outcome = magnet("gen", "rain", *QUICK, "-o", "x-{sed}.wav")
    assert outcome.status == 2
    assert "-o has no field 'sed'" in outcome.err


def test_an_empty_negative_prompt_is_none(magnet: Magnet) -> None:
    """A script without one for a prompt passes "", which was refused."""
    for number, more in enumerate([(), ("--negative", ""), ("--negative", " ")]):
        assert magnet("gen", "rain", *QUICK, *more, "-o", f"{number}.wav").status == 0
    plain, empty, blank = (sounds.read(Path(f"{number}.wav")) for number in range(3))
    for other in (empty, blank):
        assert (other.samples == plain.samples).all()
        assert (other.metadata or {})["negative"] is None


@pytest.mark.parametrize("words", [("钢琴",), ("rain", "ピアノ", "пианино")], ids=["one", "some"])
def test_a_prompt_of_which_the_model_knows_no_word_is_named(
    magnet: Magnet, words: tuple[str, ...]
) -> None:
    """nano generated something without a warning, as for an empty prompt."""
    nano = ("-m", "nano", "-d", "0.2", "--preset", "fast", "--seed", "1", "-o", "clips/", "--force")
    outcome = magnet("gen", *words, *nano)
    assert outcome.status == 0, outcome.err
    said = [line for line in outcome.err.splitlines() if "knows no word of" in line]
    assert len(said) == 1
    assert repr(words[-2] if len(words) > 1 else words[0]) in said[0]
    assert ("and of 1 more" in said[0]) == (len(words) > 1)
    assert "knows no word" not in magnet("gen", "rain", *nano).err
    Path("lines.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    batch = magnet("batch", "lines.txt", *nano[:-3], "-O", "batch")
    assert batch.status == 0, batch.err
    assert batch.err.count("knows no word of") == 1
