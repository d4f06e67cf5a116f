"""`magnet gen` with more than one model, and with an autoregressive one."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from magnet_cli.cli.again import command_for
from tests import sounds
from tests.cli.conftest import QUICK, SMALL, Magnet
from tests.golden_cases import snapshot

MUSICGEN = "facebook/musicgen-small"


@pytest.fixture
def twin(home: Path) -> str:
    """A folder with golden's MusicGen and golden's MAGNeT's codec; the released models share one."""
    folder = home / "twin"
    folder.mkdir()
    shutil.copy(snapshot(MUSICGEN) / "state_dict.bin", folder)
    shutil.copy(snapshot(SMALL) / "compression_state_dict.bin", folder)
    return folder.name


def test_rescored_clips_can_be_made_again(magnet: Magnet, twin: str) -> None:
    clip = ("-m", SMALL, "--steps", "8,4,2,2", "-d", "0.8", "--seed", "5")
    rescored = ("--rescorer", twin, "--rescorer-weight", "0.02", "--rescore-streams", "0,1")
    assert magnet("gen", "piano", *clip, "-o", "plain.wav").status == 0
    outcome = magnet("gen", "piano", *clip, *rescored, "-o", "rescored.wav", "--verbose")
    assert outcome.status == 0
    assert "stream 1 of 4: 8 steps in " in outcome.err
    assert "(rescorer 0." in outcome.err
    metadata = sounds.read("rescored.wav").metadata
    assert metadata is not None
    assert (sounds.read("plain.wav").samples != sounds.read("rescored.wav").samples).any()

    shown = magnet("show", "rescored.wav").out
    assert "Rescorer  twin" in shown
    command = command_for(metadata, "again.wav")
    assert shlex.join(rescored) in shlex.join(command)
    assert magnet(*command[1:]).status == 0
    assert (sounds.read("again.wav").samples == sounds.read("rescored.wav").samples).all()


def test_weight_1_is_no_rescorer(magnet: Magnet, twin: str) -> None:
    magnet("gen", "piano", *QUICK, "-o", "plain.wav")
    outcome = magnet(
        "gen", "piano", *QUICK, "--rescorer", twin, "--rescorer-weight", "1", "-o", "one.wav"
    )
    assert outcome.status == 0
    assert "(rescorer" not in outcome.err
    assert (sounds.read("plain.wav").samples == sounds.read("one.wav").samples).all()


def test_two_models_make_a_clip_and_say_once_that_it_is_an_approximation(
    magnet: Magnet, twin: str
) -> None:
    hybrid = ("--hybrid", "0.1", "--hybrid-model", twin)
    outcome = magnet("gen", "piano", *QUICK, *hybrid, "-n", "2", "-o", "hybrid.wav", "--verbose")
    assert outcome.status == 0
    assert outcome.err.count("approximation") == 1
    assert "all streams: 8 steps in " in outcome.err  # 5 frames, and 3 steps of delay
    assert outcome.err.count("stream 4 of 4") == 2
    metadata = sounds.read("hybrid-1.wav").metadata
    assert metadata is not None
    command = command_for(metadata, "again.wav")
    assert magnet(*command[1:]).status == 0
    assert (sounds.read("again.wav").samples == sounds.read("hybrid-1.wav").samples).all()


def test_an_autoregressive_model_works_like_any(magnet: Magnet) -> None:
    clip = ("-m", MUSICGEN, "-d", "0.2", "--seed", "5")
    outcome = magnet("gen", "piano", *clip, "--cfg-coef", "2", "-o", "a.wav", "--verbose")
    assert outcome.status == 0
    assert "all streams: 13 steps in " in outcome.err
    metadata = sounds.read("a.wav").metadata
    assert metadata is not None
    assert metadata["decoding"]["top_k"] == 250
    assert magnet(*command_for(metadata, "b.wav")[1:]).status == 0
    assert (sounds.read("a.wav").samples == sounds.read("b.wav").samples).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-m", SMALL, "--rescorer", MUSICGEN), "different codecs"),
        (("-m", SMALL, "--rescorer", "self"), "cannot be its own rescorer"),
        (("-m", SMALL, "--rescorer-weight", "0.5"), "needs a rescorer"),
        (("-m", SMALL, "--rescore-streams", "0"), "needs a rescorer"),
        (("-m", SMALL, "--rescorer", "twin", "--rescorer-weight", "1.5"), "from 0"),
        (("-m", SMALL, "--rescorer", "twin", "--rescorer-weight", "nan"), "from 0"),
        (("-m", SMALL, "--rescorer", "twin", "--rescore-streams", "4"), "has 4 streams"),
        (("-m", SMALL, "--rescorer", "twin", "--rescore-streams", "-1"), "from 0"),
        (("-m", SMALL, "--rescorer", "twin", "--rescore-streams", "all"), "whole numbers"),
        (("-m", SMALL, "--hybrid", "1"), "--hybrid-model"),
        (("-m", SMALL, "--hybrid-model", "twin"), "needs --hybrid, too"),
        (
            ("-m", SMALL, "-d", "1", "--hybrid", "2", "--hybrid-model", "twin"),
            "longer than the clip",
        ),
        (("-m", SMALL, "--hybrid", "-1", "--hybrid-model", "twin"), "seconds from 0"),
        (("-m", SMALL, "--hybrid", "1", "--hybrid-model", SMALL), "it is not autoregressive"),
        (("-m", MUSICGEN, "--rescorer", "twin"), "decodes autoregressively"),
        (("-m", MUSICGEN, "--hybrid", "1"), "decodes autoregressively"),
        (("-m", MUSICGEN, "--steps", "3"), "decodes autoregressively"),
    ],
)
def test_what_cannot_be_is_said(
    magnet: Magnet, twin: str, flags: tuple[str, ...], message: str
) -> None:
    outcome = magnet("gen", "piano", *flags, "-o", "a.wav")
    assert outcome.status == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not Path("a.wav").exists()


def test_a_rescorer_that_is_nowhere_is_looked_for_by_name(magnet: Magnet) -> None:
    outcome = magnet("gen", "piano", *QUICK, "--rescorer", "musicgen-smal", "-o", "a.wav")
    assert outcome.status == 3
    assert "Did you mean musicgen-small" in outcome.err
