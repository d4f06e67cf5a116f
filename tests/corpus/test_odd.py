"""Every odd sound is shown, edited and encoded correctly, as tests/corpus/odd.py specifies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from magnet_cli.audio.sound import open_sound
from magnet_cli.data.manifests import read_clips
from magnet_cli.training.encode import EncodeOptions, check_clips, encode_clips, token_format
from tests.corpus.odd import Odd, cases, wave
from tests.corpus.runner import MOST_MEGABYTES, MOST_SECONDS, Ran, Worker
from tests.training.conftest import tiny_codec

pytestmark = pytest.mark.slow

ALL = cases()


def test_there_are_enough() -> None:
    assert len(ALL) >= 150


QUICK = ("-m", "nano", "--preset", "fast", "--seed", "1", "-q")


def run(worker: Worker, folder: Path, *arguments: str) -> Ran:
    """Run a command that must succeed, within limits."""
    home = {"XDG_CONFIG_HOME": str(folder.parent / "config"), "HF_HUB_OFFLINE": "1"}
    ran = worker.run(arguments, folder, b"", home)
    assert ran.status == 0, ran.err
    assert "Traceback" not in ran.err
    assert ran.seconds < MOST_SECONDS
    assert ran.megabytes < MOST_MEGABYTES
    return ran


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_odd(case: Odd, worker: Worker, tmp_path: Path) -> None:
    """It is shown with its rate, channels and length, and unchanged outside the edited region."""
    path = case.make(tmp_path)
    shown = json.loads(run(worker, tmp_path, "show", path.name, "--json").out)
    assert (shown["sample_rate"], shown["channels"]) == (case.rate, case.channels)
    assert shown["duration"] == pytest.approx(case.seconds, abs=case.within + 1e-3)
    assert shown["loudness"] is not None
    words = ("edit", path.name, "rain", "--region", "0.2-0.28")
    run(worker, tmp_path, *words, *QUICK, "-o", "out.wav")
    with open_sound(path) as before, open_sound(tmp_path / "out.wav") as after:
        assert (after.sample_rate, after.channels) == (case.rate, case.channels)
        assert after.length == before.length
        # Whole frames of 40 ms, and crossfades of 20 ms around them.
        early, late = round(0.17 * case.rate), round(0.35 * case.rate)
        # An mp3 decoder keeps some state from before a seek.
        tolerance = 1e-3 if before.kind == "MP3" else 0.0
        same = np.isclose(before.read(), after.read(), rtol=0, atol=tolerance)
        assert same[:, :early].all()
        assert same[:, late:].all()
        assert not same[:, early:late].all()
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "out.wav"])


@pytest.mark.parametrize("case", ALL[::16], ids=lambda case: case.name)
@pytest.mark.parametrize(
    "words", [("extend", "--to", "0.8"), ("vary",)], ids=lambda words: words[0]
)
def test_odd_is_heard(case: Odd, words: tuple[str, ...], worker: Worker, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    command, *flags = words
    run(worker, tmp_path, command, path.name, "rain", *flags, *QUICK, "-o", "out.flac")
    with open_sound(tmp_path / "out.flac") as made:
        seconds = 0.8 if flags else case.seconds
        assert made.duration == pytest.approx(seconds, abs=case.within + 1e-3)


def bad(folder: Path) -> None:
    """Unusual sounds, some of which cannot be made into clips."""

    def put(name: str, samples: np.ndarray, rate: int = 24_000, **how: str) -> Path:
        path = folder / name
        soundfile.write(path, samples, rate, **how)
        path.with_suffix(".txt").write_text("a tone\n")
        return path

    tone = wave(24_000, 1, 1.0)
    put("silent.wav", 0 * tone)
    put("cancels.wav", np.concatenate([tone, -tone], 1))
    put("nan.wav", np.where(np.arange(24_000)[:, None] == 9, np.nan, tone), subtype="FLOAT")
    put("huge.wav", tone * 1e38, subtype="DOUBLE")
    put("beyond.wav", tone * 1e60, subtype="DOUBLE")
    put("empty.wav", tone[:0])
    put("one.wav", tone[:1])
    for name, seconds in (("least", 0.45), ("shorter", 0.4499), ("longer", 0.4501)):
        for rate in (8000, 44_100):
            put(f"{name}-{rate}.wav", wave(rate, 1, seconds), rate)
    for name in ("cut.flac", "cut.wav", "cut.mp3", "cut.ogg"):
        path = put(name, 0.1 * np.random.default_rng(0).standard_normal(48_000))
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    put("text.wav", tone).write_text("hello")
    put("gone.wav", tone).unlink()
    (folder / "list.wav").mkdir()


def test_what_check_calls_good_is_encoded(tmp_path: Path) -> None:
    """It read only headers: clips that it called good were skipped hours later."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number, case in enumerate(ALL):
        made = case.make(tmp_path)
        path = made.rename(sounds / f"{number:03d}-{case.name}{made.suffix}")
        if path.suffix == ".snd":
            path = path.rename(path.with_suffix(".wav"))
        path.with_suffix(".txt").write_text("a tone\n")
    bad(sounds)
    found, codec = read_clips(sounds), tiny_codec()
    checked = {problem.where for problem in check_clips(found, 0.45) if problem.skipped}
    format_, options = token_format(codec, "tiny"), EncodeOptions(min_duration=0.45)
    report = encode_clips(found, codec, format_, tmp_path / "tokens", options)
    assert {problem.where for problem in report.problems if problem.skipped} == checked
    assert report.encoded == len(found.clips) - len(checked & {str(c.path) for c in found.clips})
    names = {Path(where).name for where in checked}
    assert not [name for name in names if name[:3].isdigit()]
    assert names >= {"nan.wav", "empty.wav", "one.wav", "text.wav", "shorter-8000.wav"}
    assert not names & {"cancels.wav", "least-44100.wav", "longer-8000.wav", "cut.mp3"}
