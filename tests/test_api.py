"""The facade: each verb makes what its command makes, with the same record; wrong types are errors."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from magnet_cli import BarsConfig, DecodingConfig, MagnetError, OutputConfig
from magnet_cli.api import Model
from magnet_cli.audio.sound import open_sound
from magnet_cli.cli.again import command_for
from magnet_cli.cli.app import run
from magnet_cli.errors import UsageError
from tests.models.tiny import golden_model

pytestmark = pytest.mark.usefixtures("hub_cache")

QUICK = DecodingConfig(decoding_steps=(2, 1, 1, 1))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return golden_model("facebook/magnet-small-10secs")


def same_again(path: str) -> None:
    """The command of a file's record makes the same file again."""
    with open_sound(path) as sound:
        assert sound.metadata is not None
        command = command_for(sound.metadata, f"again-{path}")
    assert run([*command[1:], "--quiet"]) == 0, shlex.join(command)
    assert np.array_equal(soundfile.read(path)[0], soundfile.read(f"again-{path}")[0])


def test_every_verb_is_its_command(model: Model) -> None:
    clip = model.generate(["lofi piano", "x"], QUICK, [1, 2], duration=1.01)
    assert clip.audio.shape[-1] == round(1.01 * 32_000)
    assert clip.save("clip.wav", item=1, codes="clip.npz") == Path("clip.wav")
    assert np.array_equal(np.load("clip.npz")["codes"], clip.codes[1])
    model.generate(["x"], QUICK, [1], frames=40).save("frames.wav", output=OutputConfig(lufs=-20))
    how = {"seed": 3, "config": QUICK, "negative_prompt": "noise"}
    model.extend("clip.wav", "drums", 2, **how).save("longer.wav")
    model.extend(None, [(0, "a"), (1, "b")], 2, **how).save("timed.wav")
    edited = model.inpaint("longer.wav", "bells", [(0.5, 1.0)], **how)
    edited.save("edited.wav")
    assert edited.regions == ((0.5, 1.0),)
    whole = model.inpaint("longer.wav", "bells", [(0.5, 1.0)], through_codec=True, **how)
    whole.save("whole.wav")
    assert whole.audio.shape == (1, 1, 64_000)
    model.vary("longer.wav", "bells", 0.4, **how).save("varied.wav")
    model.loop("beat", 1, **how).save("loop.wav")
    played = model.bars("beat", BarsConfig(bpm=200, bars=1, tries=1), **how)
    assert played.audio.shape == (1, 1, 38_400)
    played.save("bars.wav")
    for name in ("clip", "frames", "longer", "timed", "edited", "whole", "varied", "loop", "bars"):
        same_again(f"{name}.wav")


def test_what_was_made_is_edited_on(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    clip = model.generate(["x"], QUICK, [1], duration=1)
    longer = model.extend(clip, "x", 2, seed=1, config=QUICK)
    assert torch.equal(longer.codes[..., :50], clip.codes)
    mended = model.inpaint(longer, "x", [(1, 1.5)], config=QUICK)
    assert torch.equal(mended.codes[..., :50], clip.codes)
    assert torch.equal(model.vary(mended, "x", 0).codes, mended.codes)
    loop = model.loop("x", source=mended.codes, config=QUICK)
    assert loop.seamless in (True, False)
    assert mended.seamless is None
    loop.save("loop.wav")
    assert run(["show", "loop.wav"]) == 0
    assert "made in Python from given codes" in capsys.readouterr().out
    with pytest.raises(MagnetError, match=r"loop\.wav exists"):
        loop.save("loop.wav")
    loop.save("loop.wav", force=True)
    with pytest.raises(MagnetError, match="cannot have a fade"):
        loop.save("faded.wav", output=OutputConfig(fade=1))


WRONG = {
    "prompts that are no list": lambda model: model.generate(3),
    "a prompt that is no text": lambda model: model.generate([3]),
    "seeds that are no list": lambda model: model.generate(["x"], seeds=3),
    "settings that are none": lambda model: model.generate(["x"], {"top_k": 3}),
    "two lengths": lambda model: model.generate(["x"], frames=3, duration=1),
    "a length that is none": lambda model: model.generate(["x"], duration="long"),
    "a partner that is none": lambda model: model.generate(["x"], rescorer=3),
    "a source that is none": lambda model: model.vary(3, "x"),
    "a prompt of a piece": lambda model: model.extend(None, 3, 12),
    "a time that is none": lambda model: model.extend(None, [("soon", "x")], 12),
    "seconds of a piece": lambda model: model.extend(None, "x", "12"),
    "a seed": lambda model: model.extend(None, "x", 12, seed=1.5),
    "an overlap": lambda model: model.extend(None, "x", 12, overlap="much"),
    "regions": lambda model: model.inpaint("x.wav", "x", [3]),
    "a strength": lambda model: model.vary("x.wav", "x", "half"),
    "streams": lambda model: model.vary("x.wav", "x", 0.5, keep_streams=1.5),
    "no bars": lambda model: model.bars("x", BarsConfig()),
    "bars that are none": lambda model: model.bars("x", 4),
    "a loop of a sound and a length": lambda model: model.loop("x", 2, source="x.wav"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_types_are_usage_errors(model: Model, case: str) -> None:
    with pytest.raises(UsageError) as caught:
        WRONG[case](model)
    assert caught.value.hint


def test_what_cannot_be_saved_is_said(model: Model) -> None:
    clip = model.generate(["x"], QUICK, [1], frames=10)
    for arguments in (
        {"path": 3},
        {"path": "a.wav", "item": 1},
        {"path": "a.wav", "output": {}},
        {"path": "a.wav", "codes": "a.txt"},
    ):
        with pytest.raises(UsageError):
            clip.save(**arguments)
    with pytest.raises(MagnetError, match="no suffix"):
        clip.save("a")


@pytest.mark.parametrize(
    "wrong",
    [
        {"seeds": 3},
        {"seeds": {1: 2}},
        {"seeds": {1}},
        {"seeds": [1.5]},
        {"frames": 10.5},
        {"frames": "3"},
        {"frames": True},
        {"prompts": b"rain"},
        {"prompts": [b"rain"]},
        {"prompts": {"a": 1}},
        {"config": {"temperature": 1}},
        {"negative_prompts": {"a": 1}},
        {"prompt_codes": [1]},
        {"known_codes": np.zeros((1, 4, 5)), "known_mask": np.zeros((1, 4, 5))},
    ],
)
def test_arguments_of_other_types_are_said(model: Model, wrong: dict) -> None:
    """TypeErrors and AttributeErrors of torch were passed on, or the clip had another length."""
    with pytest.raises(UsageError) as caught:
        model.generate(**{"prompts": ["rain"], "config": QUICK, **wrong})
    assert caught.value.hint
