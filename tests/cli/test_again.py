"""`magnet again`: the printed command, with changes; and `--play`, with and without a device."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from magnet_cli import DecodingConfig, load_model
from magnet_cli.audio import playback
from magnet_cli.cli.remake import with_changes
from magnet_cli.errors import UsageError
from tests.cli.conftest import QUICK, SMALL, Magnet
from tests.sounds import read


def said(path: str) -> Any:
    return read(path).metadata


def test_a_file_is_made_again_beside_itself(magnet: Magnet, home: Path) -> None:
    (home / "own").mkdir()
    assert magnet("gen", "rain", *QUICK, "-o", "own/a.wav").status == 0
    assert magnet("again", "own/a.wav").status == 0
    assert Path("own/a-2.wav").read_bytes() == Path("own/a.wav").read_bytes()
    outcome = magnet("again", "own/a.wav", "--seed", "9", "--prompt", "-wind-", "--format", "flac")
    assert outcome.status == 0, outcome.err
    made = said("own/a-2.flac")
    assert (made["seed"], made["prompt"]) == (9, "-wind-")
    assert (made["duration"], made["given"]) == (0.2, {"decoding_steps": [1]})
    assert magnet("again", "own/a.wav", "--seed", "new", "-q").err == ""
    assert said("own/a-3.wav")["seed"] != 5
    outcome = magnet("again", "own/a.wav", "--preset", "fast", "--lufs=-20", "-o", "b.wav")
    assert outcome.status == 0, outcome.err
    assert said("b.wav")["given"]["decoding_steps"] != [1]
    assert said("b.wav")["output"]["lufs"] == -20
    for missing in (["--steps"], ["--seed", "9", "--steps"]):
        assert "--steps has no value" in magnet("again", "own/a.wav", *missing).err


def test_edits_and_loops_are_made_again_too(magnet: Magnet, home: Path) -> None:
    assert magnet("gen", "rain", *QUICK, "-d", "1", "-o", "a.wav").status == 0
    assert (
        magnet("edit", "a.wav", "hum", "--region", "0.2-0.4", *QUICK[:4], "-o", "e.wav").status == 0
    )
    outcome = magnet("again", "e.wav", "--region", "0.6-0.8", "--seed", "3")
    assert outcome.status == 0, outcome.err
    assert said("e-2.wav")["edit"]["flags"]["region"] == ["0.6-0.8"]
    assert magnet("gen", "rain", *QUICK, "-d", "1", "--loop", "-o", "l.wav").status == 0
    for change, name in (("--no-loop", "straight.wav"), ("--exact", "exact.wav")):
        outcome = magnet("again", "l.wav", change, "-o", name)
        assert outcome.status == 0, outcome.err
    outcome = magnet("again", "exact.wav", "--no-loop", "-o", "straight-2.wav")
    assert outcome.status == 0, outcome.err


def test_a_flag_of_another_kind_replaces_what_the_file_records(magnet: Magnet, home: Path) -> None:
    """A record's bit depth could not be given up, nor its length for bars."""
    assert magnet("gen", "rain", *QUICK, "--bit-depth", "24", "-o", "a.flac").status == 0
    assert magnet("again", "a.flac", "-o", "b.mp3").status == 0
    assert magnet("again", "a.flac", "--format=ogg").status == 0
    assert "bit_depth" not in said("a-2.ogg")["output"]
    assert "no bit depth 16" in magnet("again", "a.flac", "-o", "c.mp3", "--bit-depth", "16").err
    assert magnet("gen", "rain", *QUICK, "--sample-rate", "44100", "-o", "a.wav").status == 0
    assert magnet("again", "a.wav", "-o", "a.opus").status == 0
    words = ["gen", "--duration", "2", "--seed", "1", "rain"]
    assert with_changes(words, ["--bpm", "125"]) == ["gen", "--seed", "1", "rain", "--bpm", "125"]
    words = ["gen", "--bpm", "125", "--bars", "2", "--tries", "1", "rain"]
    assert with_changes(words, ["-d", "3"]) == ["gen", "rain", "-d", "3"]


def test_what_was_made_in_python_alone_is_said_to_be(magnet: Magnet, home: Path) -> None:
    """Without a prompt the printed command was refused, and with timed ones it made another clip."""
    model = load_model(SMALL)
    config, short = DecodingConfig(decoding_steps=(1,)), {"seed": 1, "seconds": 0.4}
    model.generate([None], config, seeds=[1], duration=0.2).save("null.wav")
    model.extend(None, [(0, "rain"), (0.2, None)], config=config, **short).save("cue.wav")
    for name in ("null.wav", "cue.wav"):
        assert "it was made in Python without a prompt" in magnet("show", name).out
        assert "it was made in Python without a prompt" in magnet("again", name).err
    result = model.generate(["rain"], config, seeds=[1], duration=0.4)
    result.clip(0, seconds=0.2).save("cut.wav")
    shown = magnet("show", "cut.wav").out
    assert "0.2 of 0.4 s; the command below makes all of it" in shown
    assert "--duration 0.4" in shown
    edit = model.inpaint("cut.wav", "hum", [(0.00001, 0.1)], seed=1, config=config)
    with pytest.raises(UsageError, match="save an edit of a file first") as refused:
        model.vary(edit, "hum")
    assert len(str(refused.value)) < 300
    edit.save("edit.wav")
    assert "--region 0.00001-0.1" in magnet("show", "edit.wav").out
    assert magnet("again", "edit.wav").status == 0


def test_what_cannot_be_made_again_is_said(magnet: Magnet, home: Path) -> None:
    import soundfile

    soundfile.write("plain.wav", [0.0] * 100, 8000)
    outcome = magnet("again", "plain.wav")
    assert outcome.status == 2
    assert "does not record how it was made" in outcome.err
    assert magnet("gen", "rain", *QUICK, "-o", "a.wav").status == 0
    outcome = magnet("again", "a.wav", "wind")
    assert outcome.status == 2
    assert "--prompt" in outcome.err
    outcome = magnet("again", "a.wav", "--bad")
    assert "magnet again runs magnet gen, which has no flag --bad." in outcome.err
    assert "behind --" not in outcome.err


class Device(SimpleNamespace):
    """Replaces sounddevice."""

    class PortAudioError(Exception):
        pass

    def __init__(self, broken: bool = False) -> None:
        super().__init__(broken=broken, played=[])

    def play(self, samples: Any, rate: int, loop: bool) -> None:
        if self.broken:
            raise self.PortAudioError("no default output device")
        self.played.append((samples.shape, rate, loop))

    def wait(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    monkeypatch.setenv("PATH", "")
    return device


def test_what_was_made_is_played(magnet: Magnet, home: Path, device: Device) -> None:
    assert magnet("gen", "rain", *QUICK, "--num", "2", "-o", "a.wav", "--play").status == 0
    assert [(shape[1], loop) for shape, _, loop in device.played] == [(1, False)] * 2
    outcome = magnet("show", "a-1.wav", "--play")
    assert outcome.status == 0
    assert "Playing a-1.wav" in outcome.err
    assert len(device.played) == 3
    for command in (
        ("extend", "a-1.wav", "rain", "--to", "0.3"),
        ("edit", "a-1.wav", "rain", "--region", "0.05-0.1"),
        ("vary", "a-1.wav", "rain"),
    ):
        assert magnet(*command, *QUICK[:4], "--play").status == 0, command
    assert len(device.played) == 6


def test_a_loop_goes_round_until_enter(
    magnet: Magnet, home: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = ("gen", "rain", *QUICK, "-d", "1", "--loop", "-o", "l.wav", "--play")
    assert magnet(*loop).status == 0
    assert device.played[-1][2] is False  # nobody is there to press Enter

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    keyboard = Terminal("\nnot read")
    monkeypatch.setattr("magnet_cli.cli.hearing.sys", SimpleNamespace(stdin=keyboard))
    outcome = magnet("show", "l.wav", "--play")
    assert keyboard.read() == "not read"
    assert outcome.status == 0
    assert "until you press Enter" in outcome.err
    assert device.played[-1][2] is True


def test_a_machine_without_a_device_is_told_so_in_a_line(
    magnet: Magnet, home: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.broken = True
    outcome = magnet("gen", "rain", *QUICK, "-o", "a.wav", "--play")
    assert outcome.status == 0
    assert outcome.err.endswith("cannot be played here: no default output device.\n")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    outcome = magnet("show", "a.wav", "--play")
    assert outcome.status == 0
    assert "pip install sounddevice" in outcome.err


@pytest.mark.process
def test_a_program_plays_where_there_is_no_sounddevice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    heard = tmp_path / "heard"
    for name, status in (("ffplay", 1), ("aplay", 0)):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho "$0" "$@" >> {heard}\nexit {status}\n')
        program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/bin{os.pathsep}/usr/bin")
    sound = tmp_path / "a b.wav"
    playback.play(sound)
    calls = heard.read_text().splitlines()
    assert calls[0].startswith(f"{programs}/ffplay -nodisp")
    assert calls[1] == f"{programs}/aplay -q {sound}"
    (programs / "aplay").unlink()
    with pytest.raises(playback.CannotPlayError, match="ffplay failed: it ended with status 1"):
        playback.play(sound)
