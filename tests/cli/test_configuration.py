"""config.toml and profiles: precedence, and that files do not depend on them later."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import QUICK, SMALL, Magnet, Outcome


@pytest.fixture
def config(home: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config" / "magnet" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def made(outcome: Outcome) -> Any:
    assert outcome.status == 0, outcome.err
    (record,) = outcome.records
    return record


def test_a_flag_goes_before_the_environment_before_a_profile_before_the_rest(
    magnet: Magnet, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        f'model = "{SMALL}"\nsteps = [2]\nlufs = -20\nnegative = "drums"\n'
        '[profile.quiet]\nlufs = -30\ntop-k = 9\n[profile.broken]\nmodel = "nothing"\n'
    )
    call = ("gen", "rain", "-d", "0.2", "--seed", "5", "--json", "-f", "-o", "a.wav")
    plain = made(magnet(*call))
    assert plain["loudness"] == pytest.approx(-20, abs=0.2)
    assert plain["settings"]["negative"] == "drums"
    assert plain["settings"]["given"] == {"decoding_steps": [2]}
    quiet = made(magnet(*call, "--profile", "quiet", "--negative", ""))
    assert quiet["loudness"] == pytest.approx(-30, abs=0.2)
    assert quiet["settings"]["negative"] is None
    assert quiet["settings"]["given"] == {"decoding_steps": [2], "top_k": 9}
    assert magnet(*call, "--profile", "broken").status == 3
    monkeypatch.setenv("MAGNET_MODEL", SMALL)
    assert magnet(*call, "--profile", "broken").status == 0
    monkeypatch.setenv("MAGNET_PROFILE", "quiet")
    assert made(magnet(*call, "--lufs", "-25"))["loudness"] == pytest.approx(-25, abs=0.2)
    none = made(magnet(*call, "--profile", "none", "--steps", "1"))
    assert none["loudness"] == pytest.approx(-14, abs=0.2)
    assert none["settings"]["negative"] is None


def test_no_printed_command_depends_on_it(magnet: Magnet, config: Path) -> None:
    config.write_text('lufs = -20\nnegative = "drums"\n')
    assert magnet("gen", "rain", *QUICK, "-o", "a.wav").status == 0
    command = made(magnet("show", "a.wav", "--json"))["command"]
    assert "--profile" in command
    config.write_text("lufs = -30\ntop_k = 3\n")
    sound = Path("a.wav").read_bytes()
    assert magnet(*shlex.split(command)[1:], "-f").status == 0
    assert Path("a.wav").read_bytes() == sound
    config.unlink()
    assert magnet(*shlex.split(command)[1:], "-f").status == 0
    assert Path("a.wav").read_bytes() == sound
    assert "--profile" not in made(magnet("show", "a.wav", "--json"))["command"]


def test_a_game_loop_and_an_effect(magnet: Magnet, home: Path) -> None:
    loop = ("gen", "rain", "-m", SMALL, "--steps", "1", "-d", "1", "--seed", "5", "--json")
    record = made(magnet(*loop, "--profile", "game-loop"))
    assert record["file"] == "rain-5.ogg"
    assert record["settings"]["edit"]["flags"]["loop"] is True
    assert record["loudness"] == pytest.approx(-16, abs=0.3)
    record = made(magnet(*loop, "--profile", "sfx", "-o", "hit.flac"))
    assert (record["sample_rate"], record["duration"]) == (48_000, 1.0)
    assert Path("hit.flac").read_bytes().startswith(b"fLaC")


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('preset = "fast"', ("gen", "rain", *QUICK)),
        ("steps = 3", ("gen", "rain", "-m", SMALL, "-d", "0.2", "--preset", "fast")),
        ('format = "ogg"\nbit_depth = 24', ("gen", "rain", *QUICK, "-o", "b.wav")),
        ("bit_depth = 24\nsample-rate = 96000", ("gen", "rain", *QUICK, "-o", "b.mp3")),
        ("fade = 0.1", ("gen", "rain", *QUICK, "-d", "1", "--loop")),
        ("lufs = -20\nfade = 1", ("edit", "a.wav", "rain", "--region", "0.1-0.3", *QUICK[:4])),
        ("rescorer_weight = 0.5", ("gen", "rain", *QUICK)),
    ],
)
def test_what_does_not_go_with_what_was_said_gives_way(
    magnet: Magnet, config: Path, text: str, call: tuple[str, ...]
) -> None:
    assert magnet("gen", "rain", *QUICK, "-d", "1", "-o", "a.wav").status == 0
    config.write_text(text)
    outcome = magnet(*call)
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lufs = ", "it is not TOML"),
        ("\udcff", "is not UTF-8"),
        ('lufs = "loud"', "lufs cannot be 'loud': it takes a number"),
        ("lufs = 40", "lufs cannot be 40"),
        ("num = 0", "num cannot be 0"),
        ('preset = "quick"', "preset cannot be 'quick'"),
        ("seed = 3", "there is no setting 'seed'"),
        ("loudness = 3", "there is no setting 'loudness'"),
        ("top_k = 1\ntop-k = 2", "top_k is set twice"),
        ("profile = 3", "[profile.NAME]"),
        ("[profile.a]\nlufs = 40", "profile a: lufs cannot be 40"),
    ],
)
def test_what_cannot_be_used_is_said_and_stops_nothing(
    magnet: Magnet, config: Path, text: str, said: str
) -> None:
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    outcome = magnet("gen", "rain", *QUICK, "-f", "-o", "a.wav")
    assert outcome.status == 0
    assert said in outcome.err
    assert outcome.err.count(said) == 1, "it was said by the parser, and by who chose the model"
    assert str(config) in outcome.err
    assert magnet("gen", "rain", *QUICK, "-f", "-o", "a.wav", "-q").err == ""
    assert said in magnet("config").err
    refused = magnet("gen", "rain", *QUICK, "--profile", "mine")
    assert refused.status == 2
    assert "There is no profile 'mine'." in refused.err


def test_profile_none_ignores_the_model_too(magnet: Magnet, config: Path) -> None:
    """It ignored everything except the model."""
    config.write_text('model = "nothing"\nlufs = "loud"\n')
    call = ("gen", "rain", "--preset", "fast", "-d", "0.2", "--seed", "1")
    outcome = magnet(*call, "-o", "a.wav", "--profile", "none")
    assert outcome.status == 0, outcome.err
    assert "config.toml" not in outcome.err
    outcome = magnet(*call, "-o", "b.wav")
    assert outcome.status == 3
    assert outcome.err.count("lufs cannot be") == 1


def test_use_writes_the_file_and_leaves_its_other_lines(
    magnet: Magnet, config: Path, tmp_path: Path
) -> None:
    notes = config.with_name("settings.json")
    notes.write_text(json.dumps({"model": "large", "licences_said": ["a/b"]}))
    assert made(magnet("config", "--json"))["holds"]["model"]["value"] == "large"
    text = '# mine\nmodel = "medium" # for now\nlufs = -20\n\n[profile.a]\nmodel = "x"\n'
    config.write_text(text)
    assert made(magnet("config", "--json"))["holds"]["model"]["value"] == "medium"
    assert magnet("models", "use", "small").status == 0
    kept = config.read_text()
    assert kept.startswith('model = "small"\n# mine\nlufs = -20\n')
    assert kept.endswith('[profile.a]\nmodel = "x"\n')
    assert json.loads(notes.read_text()) == {"licences_said": ["a/b"]}
    assert magnet("models", "use", "--reset").status == 0
    assert config.read_text() == '# mine\nlufs = -20\n\n[profile.a]\nmodel = "x"\n'
    strange = 'negative = """\nmodel = "x"\n"""\n'
    config.write_text(strange)
    outcome = magnet("models", "use", "small")
    assert outcome.status == 2
    assert "cannot be changed automatically" in outcome.err
    assert config.read_text() == strange
    config.write_text("lufs = ")
    assert magnet("models", "use", "small").status == 2


def test_config_shows_what_holds_and_from_where(
    magnet: Magnet, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "(does not exist)" in magnet("config").out
    config.write_text('model = "large"\nlufs = -20\n[profile.game-loop]\nlufs = -18\n')
    monkeypatch.setenv("MAGNET_MODEL", "small")
    rows = [line.split() for line in magnet("config", "--profile", "game-loop").out.splitlines()]
    assert ["model", "small", "MAGNET_MODEL"] in rows
    assert ["lufs", "-18.0", "profile", "game-loop"] in rows
    assert ["game-loop", "lufs", "-18.0"] in rows  # it takes precedence over the built-in one
    config.write_text('lora = ["rain:0.7", "wind"]\nsteps = [20, 10]\n')
    out = magnet("config").out
    assert "rain:0.7,wind" in out
    assert "20,10" in out
    refused = magnet("gen", "rain", "-m", SMALL)
    assert "rain" in refused.err  # there is no such adapter
    assert refused.status != 0
    assert magnet("config", "--path").out == f"{config}\n"
    none = made(magnet("config", "--profile", "none", "--json"))
    assert none["holds"] == {"model": {"value": "small", "source": "MAGNET_MODEL"}}


def test_a_batch_notes_what_came_of_it(magnet: Magnet, config: Path) -> None:
    Path("p.txt").write_text("rain\n")
    config.write_text("[profile.night]\nlufs = -20\nnum = 2\n")
    call = ("batch", "p.txt", "-O", "clips", *QUICK)
    assert magnet(*call, "--profile", "night").status == 0
    lines = [json.loads(line) for line in Path("clips/manifest.jsonl").read_text().splitlines()]
    assert [line["settings"]["lufs"] for line in lines[1:]] == [-20.0, -20.0]
    outcome = magnet(*call)
    assert outcome.status == 2
    assert "lufs was -20.0, is not given" in outcome.err
