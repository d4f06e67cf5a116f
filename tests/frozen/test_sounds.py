"""Users' sound files: their printed command makes the same samples again in every later version."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version

from magnet_cli import settings
from magnet_cli.checkpoints import registry
from magnet_cli.cli.again import command_for, differences
from magnet_cli.settings import DecodingConfig, OutputConfig
from tests import sounds
from tests.cli.conftest import Magnet
from tests.frozen.make import SOUNDS, twin

HERE = Path(__file__).parent
FILES = sorted(path.name for path in (HERE / "sounds").iterdir())

# Defaults that no version had, each far from the one in effect when the files were made.
DECODING = {
    "temperature": 1.0,
    "decoding_steps": (3, 3, 3, 3),
    "anneal_temperature": False,
    "final_temperature": 0.7,
    "top_p": 0.0,
    "top_k": 7,
    "max_cfg_coef": 2.0,
    "min_cfg_coef": 2.0,
    "cfg_coef": 1.5,
    "coherence_boost": 1.0,
    "frequency_penalty": 0.5,
    "bar_repeat": 2.0,
    "half_bar_repeat": 1.0,
    "span_arrangement": "stride1",
    "span_order": "spread",
    "span_scoring": "prod",
    "later_codes": "mean",
    "score_noise": 3.0,
    "rescorer_weight": 0.1,
    "rescore_streams": (1,),
    "hybrid_temperature": 0.3,
    "hybrid_top_k": 3,
}
OUTPUT = {
    "lufs": -22.0, "peak": -4.0, "fade": 0.1, "bit_depth": "24", "channels": 2, "max_limiting": 1.0,
    "true_peak": True,
}  # fmt: skip


def test_every_example_is_here() -> None:
    assert sorted([*SOUNDS, "input.wav"]) == FILES


@pytest.fixture
def work(home: Path) -> Path:
    """A folder with the inputs of the examples."""
    twin(home / "twin")
    shutil.copy(HERE / "sounds" / "input.wav", home)
    return home


def changed_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another default for every setting, of the program and of every known model."""
    for name in ("DECODING_DEFAULTS", "AUTOREGRESSIVE_DEFAULTS"):
        old = getattr(settings, name)
        new = dataclasses.replace(old, **DECODING)
        for module in [m for key, m in sys.modules.items() if key.startswith("magnet_cli")]:
            if getattr(module, name, None) is old:
                monkeypatch.setattr(module, name, new)
    entries = []
    for entry in registry.RELEASED:
        values = {k: v for k, v in DECODING.items() if getattr(entry.decoding, k) is not None}
        decoding = dataclasses.replace(entry.decoding, **values)
        entries.append(dataclasses.replace(entry, decoding=decoding))
    monkeypatch.setattr(registry, "RELEASED", tuple(entries))


# Rounding differs by the version of torch and the processor, and opus amplifies it: noise of 1e-6 in its
# input came out as 0.006, the rounding of another torch as 0.015. So does ogg from torch 2.5: 0.040.
NEAR = {"clip.opus": 0.03}
if Version(torch.__version__) < Version("2.13"):
    NEAR["clip.ogg"] = 0.05


def assert_made_again(name: str, magnet: Magnet) -> None:
    shown = magnet("show", str(HERE / "sounds" / name), "--json").records[0]
    assert shown["approximation"] == []
    again = magnet(*shlex.split(shown["command"])[1:], "--force")
    assert again.status == 0, again.err
    old, new = sounds.read(HERE / "sounds" / name), sounds.read(name)
    assert (new.kind, new.subtype, new.sample_rate) == (old.kind, old.subtype, old.sample_rate)
    np.testing.assert_allclose(new.samples, old.samples, rtol=0, atol=NEAR.get(name, 1e-4))
    assert new.metadata is not None
    assert old.metadata is not None
    for key in ("prompt", "negative", "seed", "frames", "output", "dtype"):
        assert new.metadata[key] == old.metadata[key]
    used = new.metadata["decoding"]
    younger = {k: v for k, v in settings.UNRECORDED_DECODING.items() if k in used}
    assert used == younger | old.metadata["decoding"]


PLAIN = ["masked.wav", "steps-told.flac", "clip.opus", "loop.wav", "patched.wav", "varied.wav"]


@pytest.mark.parametrize("name", PLAIN)
def test_the_printed_command_makes_the_same_samples(name: str, work: Path, magnet: Magnet) -> None:
    assert_made_again(name, magnet)


@pytest.mark.parametrize("name", FILES)
def test_it_does_after_every_default_has_changed(
    name: str, work: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_defaults(monkeypatch)
    assert_made_again(name, magnet)


def record(name: str) -> dict[str, Any]:
    kept = sounds.read(HERE / "sounds" / name).metadata
    assert kept is not None
    return dict(kept)


def spoken(made: dict[str, Any]) -> str:
    return shlex.join(command_for(made, "a.wav"))


def test_a_setting_that_is_younger_than_a_file_is_said_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file cannot record that there was no noise; a later default must not add any."""
    made = record("masked.wav")
    del made["decoding"]["score_noise"]
    plain = spoken(made)
    assert "--score-noise" not in plain
    changed_defaults(monkeypatch)
    assert "--score-noise 0" in spoken(made)
    assert "--temperature 3" in spoken(made)


def test_a_changed_default_of_the_sound_file_is_said_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = record("float.wav")
    new = OutputConfig(**OUTPUT)
    monkeypatch.setattr("magnet_cli.cli.again.OUTPUT_DEFAULTS", new)
    command = spoken(made)
    for words in ("--bit-depth float", "--lufs -20", "--peak -3", "--fade 0.05"):
        assert words in command
    command = spoken(record("masked.wav"))
    for words in ("--lufs -14", "--peak -1", "--fade 0"):
        assert words in command
    # No flag means "as the model has it" now that two channels are the default.
    assert differences(record("masked.wav")) == ["no flag sets bit_depth, channels as it was"]


def test_a_file_from_before_the_limiter_had_its_measure_is_made_again_as_loud() -> None:
    """Files without the setting were limited by up to 24 dB; wav and lossy ones had no true-peak limit."""
    assert "--max-limiting 24" in spoken(record("masked.wav"))
    assert "true-peak" not in spoken(record("masked.wav"))
    lossy = shlex.join(command_for(record("clip.opus"), "a.opus"))
    assert "--max-limiting 24 --no-true-peak" in lossy
    now = record("clip.opus") | {"output": {"max_limiting": 4.0, "true_peak": True}}
    assert "peak" not in shlex.join(command_for(now, "a.opus"))


def test_another_overlap_of_windows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made = record("long.wav")
    assert "--overlap" not in spoken(made)
    monkeypatch.setattr("magnet_cli.cli.again.OVERLAP", 0.5)
    assert "--overlap 3" in spoken(made)


def test_what_was_used_by_default_is_not_said_twice() -> None:
    """For a model that is missing here, or a deleted folder, every setting that is not the general default is
    printed."""
    made = record("sound.flac") | {"repo": "someone/else", "revision": None}
    made["output"] = {"max_limiting": 4.0}
    assert "--temperature 3.5 --top-p 0.8 --max-cfg-coef 20 --dtype float32 -o" in spoken(made)
    made = record("masked.wav") | {"repo": "someone/else", "output": {"max_limiting": 4.0}}
    assert (
        spoken(made).count("--") == 3
    )  # seed, duration, and the precision, which depends on the processor


def test_every_setting_has_its_meaning_where_a_file_does_not_say_it() -> None:
    """A new field has `before=`: the value from before it existed."""
    first = {
        "decoding_steps", "temperature", "anneal_temperature", "top_p", "top_k", "use_sampling",
        "max_cfg_coef", "min_cfg_coef", "cfg_coef", "span_len", "span_arrangement", "span_scoring",
        "full_length", "rescorer_weight", "rescore_streams", "hybrid", "hybrid_temperature",
        "hybrid_top_p", "hybrid_top_k",
    }  # fmt: skip
    models_own = {"subcodes_context"}  # None was in effect: the model's, which no default changes
    names = {field.name for field in dataclasses.fields(DecodingConfig)}
    assert names == first | models_own | settings.UNRECORDED_DECODING.keys()
    DecodingConfig(**settings.UNRECORDED_DECODING)
    names = {field.name for field in dataclasses.fields(OutputConfig)} - {"format"}
    assert names == settings.UNRECORDED_OUTPUT.keys()
    OutputConfig(**settings.UNRECORDED_OUTPUT)


# What nano's files record, as far as it matters here.
NANO = {
    "prompt": "lofi piano", "model": "nano", "repo": None, "revision": None, "source": None,
    "seed": 1, "duration": None, "frames": 250, "given": {}, "output": {"max_limiting": 4.0},
    "dtype": "float32", "device": "cpu",
    "decoding": {
        "decoding_steps": [10, 6, 6, 6, 2, 2, 2, 2, 2, 2, 2, 2], "temperature": 1.0,
        "anneal_temperature": True, "top_p": 0.9, "top_k": 0, "use_sampling": True,
        "max_cfg_coef": 1.5, "min_cfg_coef": 1.5, "cfg_coef": 4.5, "coherence_boost": 0.5,
        "frequency_penalty": 0.0, "span_len": 3, "span_arrangement": "nonoverlap",
        "span_scoring": "max", "score_noise": 4.0, "full_length": True, "hybrid": 9.0,
        "hybrid_temperature": 0.95, "hybrid_top_p": 0.9, "hybrid_top_k": 0,
    },
}  # fmt: skip
# And what version 4's files record since bars are repeated,
BARS = NANO | {
    "decoding": NANO["decoding"] | {  # type: ignore[operator]
        "decoding_steps": [20, 4, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1], "max_cfg_coef": 4.0,
        "min_cfg_coef": 1.0, "bar_repeat": 4.0, "half_bar_repeat": 0.0, "span_len": 1,
        "span_order": "spread", "hybrid": 4.0,
    },
}  # fmt: skip
# and today's.
TODAY = NANO | {
    "decoding": {
        "decoding_steps": [50, 1, 1], "temperature": 0.9, "anneal_temperature": True,
        "final_temperature": 0.36, "top_p": 0.9, "top_k": 0, "use_sampling": True,
        "max_cfg_coef": 2.5, "min_cfg_coef": 1.0, "sound_temperature": 1.0, "later_codes": "mean",
        "bar_repeat": 1.5, "half_bar_repeat": 0.0, "span_len": 1, "span_arrangement": "nonoverlap",
        "span_order": "blocks", "full_length": True, "hybrid": 0.0,
    },
    "weights": registry.builtin_weights("nano"),
}  # fmt: skip


def other_nano(monkeypatch: pytest.MonkeyPatch, folder: Path, **defaults: Any) -> None:
    """The built-in model of another version: other defaults."""
    shutil.copytree(registry.ASSETS / "nano", folder / "nano")
    path = folder / "nano" / "config.json"
    config = json.loads(path.read_text())
    config["defaults"].update(defaults)
    path.write_text(json.dumps(config))
    monkeypatch.setattr(registry, "ASSETS", folder)


def test_other_defaults_of_the_built_in_model_are_said_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = "magnet gen -m nano --seed 1 -o a.wav 'lofi piano'"
    short = BARS | {"duration": 2.0, "frames": 50}
    short["decoding"] = {**BARS["decoding"], "hybrid": 2.0}  # type: ignore[dict-item]
    assert spoken(TODAY) == plain
    assert spoken(BARS) == plain.replace(
        " -o", " --hybrid 4 --hybrid-temperature 0.95 --temperature 1 --final-temperature 0"
        " --sound-temperature 0 --later-codes sampled --max-cfg-coef 4 --bar-repeat 4"
        " --span-order spread -o"
    )  # fmt: skip
    assert spoken(NANO) == plain.replace(
        " -o", " --hybrid 9 --hybrid-temperature 0.95 --temperature 1 --final-temperature 0"
        " --sound-temperature 0 --later-codes sampled --max-cfg-coef 1.5 --min-cfg-coef 1.5"
        " --bar-repeat 0 --span-len 3 --span-order certainty -o"
    )  # fmt: skip
    seventh = TODAY | {"decoding": {**TODAY["decoding"]}}  # type: ignore[dict-item]
    del seventh["decoding"]["final_temperature"]  # type: ignore[attr-defined]
    assert spoken(seventh) == plain.replace(" -o", " --final-temperature 0 -o")
    older = BARS | {"decoding": {**BARS["decoding"]}}  # type: ignore[dict-item]
    del older["decoding"]["coherence_boost"]  # type: ignore[attr-defined]
    assert "--coherence-boost 0" in spoken(older)
    # Settings of autoregressive seconds need those seconds, which are no default any more.
    guided = spoken(BARS | {"given": {"cfg_coef": 3.0}})
    assert "--hybrid 4" in guided
    assert "--cfg-coef 3" in guided
    assert spoken(TODAY | {"decoding": without_half()}) == plain
    assert "--hybrid 2" in spoken(short)
    other_nano(
        monkeypatch, tmp_path, hybrid=4.0, temperature=2.0, hybrid_top_p=0.5, half_bar_repeat=2.0
    )
    assert "--hybrid " not in spoken(short)  # no longer than the clip
    assert spoken(TODAY | {"decoding": without_half()}) == spoken(TODAY)
    for flag in ("--hybrid 0", "--temperature 0.9", "--half-bar-repeat 0"):
        assert flag in spoken(TODAY)
    assert differences(TODAY) == []
    # A piece continued from a beginning has the checkpoint's default, for which `extend` has no flag.
    edit = {"command": "extend", "input": "a.wav", "flags": {"to": 20.0}, "overlap": 3.0}
    lost = "no flag sets decoding_steps, hybrid_temperature, hybrid_top_p as it was"
    assert lost in differences(BARS | {"edit": edit})


def test_settings_of_first_seconds_are_said_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where they are no default any more, these settings alone would be refused."""
    other_nano(monkeypatch, tmp_path, hybrid=0.0)
    command = spoken(BARS | {"given": {"cfg_coef": 3.0}})
    assert "--hybrid 4" in command
    assert "--cfg-coef 3" in command


def without_half() -> dict[str, object]:
    """Today's settings in a record from before --half-bar-repeat."""
    used: dict[str, object] = dict(TODAY["decoding"])  # type: ignore[call-overload]
    del used["half_bar_repeat"]
    return used


def test_steps_of_other_stages_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command must run, and say what it cannot repeat, if the built-in model has other stages now."""
    lost = "no flag sets decoding_steps as it was"
    given = BARS | {"given": {"decoding_steps": [1] * 12}}
    for made in (BARS, given):
        assert "--steps" not in spoken(made)
        assert lost in differences(made)
    one = BARS | {"given": {"decoding_steps": [7]}}
    assert "--steps 7" in spoken(one)
    assert lost not in differences(one)
    other_nano(monkeypatch, tmp_path, decoding_steps=[20, 4, 4, 4] + 8 * [1])
    assert "--steps 20,4,4,4,1,1,1,1,1,1,1,1" not in spoken(BARS)  # as without the flag
    assert "--steps 1,1,1,1,1,1,1,1,1,1,1,1" in spoken(given)


def test_loops_and_bars_that_were_made_otherwise_say_so() -> None:
    """Since they repeat bars more strictly than other music."""
    strict = {**TODAY["decoding"], "bar_repeat": 8.0, "half_bar_repeat": 4.0}  # type: ignore[dict-item]
    for flags in ({"loop": True}, {"loop": False, "bpm": 120.0, "bars": 2}):
        edit = {"command": "gen", "flags": {**flags, "exact": False, "tries": 1}}
        assert "repeat" not in spoken(TODAY | {"edit": edit, "decoding": strict})
        before = spoken(TODAY | {"edit": edit, "decoding": without_half()})
        assert "--bar-repeat 1.5 --half-bar-repeat 0" in before
        given = TODAY | {"edit": edit, "given": {"bar_repeat": 4.0}}
        assert spoken(given).count("repeat") == 1
    exact = {"command": "gen", "flags": {"loop": True, "exact": True}}
    assert "repeat" not in spoken(TODAY | {"edit": exact})


def test_other_weights_of_the_built_in_model_are_said(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = np.full((1, 8000), 0.1, np.float32)
    sounds.write(Path("today.wav"), samples, 8000, "wav", OutputConfig(), TODAY)
    # Files from before weights were recorded are by nano's weights of that time.
    unmarked = {name: value for name, value in TODAY.items() if name != "weights"}
    sounds.write(Path("old.wav"), samples, 8000, "wav", OutputConfig(), unmarked)
    made = TODAY | {"weights": "sha256:" + "0" * 64}
    sounds.write(Path("other.wav"), samples, 8000, "wav", OutputConfig(), made)
    partner = {"model": "nano", "repo": None, "revision": None, "weights": "sha256:1"}
    sounds.write(
        Path("part.wav"), samples, 8000, "wav", OutputConfig(), TODAY | {"rescorer": partner}
    )
    names = ("today.wav", "old.wav", "other.wav", "part.wav")
    now, old, other, part = magnet("show", *names, "--json").records
    assert now["approximation"] == []
    assert settings.UNRECORDED_WEIGHTS["nano"] != TODAY["weights"]
    assert old["approximation"] == other["approximation"]
    assert other["approximation"] == ["the weights of nano have changed since"]
    assert part["approximation"] == other["approximation"]
    said = magnet("show", "other.wav").out
    assert "To make an approximation of it (the weights of nano have changed since):" in said
    assert "To make it again:" in magnet("show", "today.wav").out
    # A user's folder of that name is not the built-in model.
    folder = made | {"source": "nano"}
    assert differences(folder) == []


def test_clips_of_the_built_in_model_keep_the_id_of_its_weights(magnet: Magnet) -> None:
    assert (
        magnet("gen", "rain", "-m", "nano", "-d", "0.1", "--seed", "1", "-o", "a.wav").status == 0
    )
    kept = sounds.read("a.wav").metadata or {}
    assert kept["weights"] == registry.builtin_weights("nano")
    assert magnet("show", "a.wav", "--json").records[0]["approximation"] == []
    assert (
        magnet("gen", "rain", "-m", "small", "-d", "0.1", "--steps", "1", "-o", "b.wav").status == 0
    )
    assert "weights" not in (sounds.read("b.wav").metadata or {})
