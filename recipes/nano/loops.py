r"""Measure whether loops keep the beat at their seam, by librosa, which is not used in making them.

    python -m recipes.nano.loops make loops --seeds 11 12 13 14 15  # twelve prompts, 8 s, wav
    python -m recipes.nano.loops judge loops     # needs librosa
    python -m recipes.nano.loops clicks          # the same for click tracks of known tempo

A row per loop: the program's tempo; the pulse of librosa's onsets (bpm); and the phase difference at the seam
between the pulse of the last four seconds and of the first four, as a fraction of a beat. The beat is the
program's if its tempo is a whole multiple of the pulse's period, else the pulse. "body" is the same in the
middle of the loop, where nothing was cut: a seam cannot be expected to be better.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import magnet_cli
from magnet_cli.audio.sound import open_sound
from magnet_cli.audio.tempo import cut_on_beat, hear

PROMPTS = (
    "funk drums",
    "techno loop, 120 bpm",
    "house beat with claps",
    "punk rock, fast drums",
    "hip hop beat",
    "disco bass and drums",
    "drum and bass",
    "reggae groove",
    "marching drums",
    "bossa nova with guitar",
    "arpeggiated synth, steady beat",
    "rock drums, 100 bpm",
)
SECONDS = 8.0
_RATE, _HOP = 22_050, 64  # Hz, samples: of librosa's onsets
_SLOWEST, _FASTEST, _TAPPED = 0.75, 3.0, 2.0  # Hz

Floats = npt.NDArray[np.float64]


def make(folder: Path, seeds: list[int], seconds: float = SECONDS) -> None:
    """Make a loop for every prompt and seed; existing ones are skipped."""
    model = magnet_cli.load_model()
    for number, prompt in enumerate(PROMPTS):
        for seed in seeds:
            path = folder / f"{number:02d}-{seed}.wav"
            if not path.exists():
                model.loop(prompt, seconds, seed=seed).save(path)
                print(path, flush=True)


def onsets(samples: Floats, sample_rate: int) -> Floats:
    """librosa's onset strength of a sound [N]."""
    import librosa

    sound = librosa.resample(samples.astype(np.float32), orig_sr=sample_rate, target_sr=_RATE)
    strength: Floats = librosa.onset.onset_strength(
        y=sound, sr=_RATE, hop_length=_HOP, n_fft=1024, aggregate=np.median
    )
    return strength


def pulse_of(strength: Floats) -> float:
    """The strongest pulse of onsets, in Hz, in the range in which people tap; its multiples refine it."""
    times = np.arange(len(strength)) * _HOP / _RATE
    windowed = (strength - strength.mean()) * np.hanning(len(strength))
    tried = np.arange(_SLOWEST, _FASTEST, 0.004)
    tapped = np.exp(-0.5 * (np.log2(tried / _TAPPED) / 0.8) ** 2)
    best = tried[int(np.argmax(np.abs(_at(windowed, times, tried)) * tapped))]
    near = best + np.arange(-0.1, 0.1, 0.0005)
    return float(
        near[int(np.argmax(sum(np.abs(_at(windowed, times, k * near)) ** 2 for k in (1, 2, 4))))]
    )


def missed(strength: Floats, at: float, pulse: float, side: float) -> float:
    """The phase jump, as a fraction of the pulse, at a time (s), between `side` seconds before and after
    it."""
    times = np.arange(len(strength)) * _HOP / _RATE
    phases = []
    for start, stop in ((at - side, at), (at, at + side)):
        inside = (times >= start) & (times < stop)
        part = strength[inside]
        windowed = (part - part.mean()) * np.hanning(len(part))
        phases.append(_at(windowed, times[inside], np.array([pulse]))[0])
    return abs(float(np.angle(phases[1] * np.conj(phases[0])))) / (2 * math.pi)


def judged(samples: Floats, sample_rate: int) -> tuple[float, float, float]:
    """For a loop [N]: its pulse in Hz, and the phase jump at the seam and in the middle."""
    length = len(samples) / sample_rate
    strength = onsets(np.tile(samples, 3), sample_rate)
    per_second = _RATE / _HOP
    pulse = pulse_of(strength[round(length * per_second) : round(2 * length * per_second)])
    side = min(4.0, length / 2)
    return pulse, missed(strength, length, pulse, side), missed(strength, 1.5 * length, pulse, side)


def judge(folder: Path) -> None:
    """Print a row for each loop of a folder, and the shares that are on the beat."""
    rows = []
    for path in sorted(folder.glob("*.wav")):
        with open_sound(path) as sound:
            samples = sound.read(channels=1)[0].astype(np.float64)
            rate, made = sound.sample_rate, sound.metadata or {}
        beat: dict[str, Any] = made.get("edit", {}).get("beat", {})
        pulse, seam, body = judged(samples, rate)
        of = _pulses_of_a_beat(pulse, beat.get("bpm"))
        said = f"{beat['bpm']:6.1f} bpm, {beat['beats']:2d} beats" if beat else "no steady beat  "
        print(
            f"{path.stem}  {said}  pulse {60 * pulse:6.1f}  seam {seam / of:.3f}  body {body / of:.3f}"
        )
        rows.append((bool(beat), seam / of, body / of))
    for name, chosen in (("all", rows), ("with a beat", [row for row in rows if row[0]])):
        seams, bodies = ([row[i] for row in chosen] for i in (1, 2))
        shares = [np.mean(np.array(of or [1.0]) <= 0.05) for of in (seams, bodies)]
        print(f"{name}: {len(chosen)} loops, within 5 % of a beat at the seam {shares[0]:.0%}, "
              f"in the middle {shares[1]:.0%}")  # fmt: skip


def clicks() -> None:
    """Judge loops cut from click tracks, with and without a weaker click between the beats."""
    rows = list(_clicks())
    print(f"{len(rows)} click tracks: {np.mean([row <= 0.05 for row in rows]):.0%} within 5 % of a beat; "
          f"median {np.median(rows):.3f}, worst {max(rows):.3f}")  # fmt: skip


def _clicks() -> Iterator[float]:
    draw = np.random.default_rng(0)
    rate, seconds, frames = 24_000, 10.0, 25.0
    for bpm in np.arange(60, 181, 5.0):
        for between in (0.0, 0.4):
            made = 0.001 * draw.standard_normal(round(seconds * rate))
            hit = draw.standard_normal(1200) * np.exp(-np.arange(1200) / 250)
            places = np.arange(draw.uniform(0.02, 0.4), seconds - 0.06, 30 / bpm)
            for number, place in enumerate(places):
                made[round(place * rate) :][:1200] += hit * (between if number % 2 else 1.0)
            cut = cut_on_beat(hear(made.astype(np.float32), rate), SECONDS, frames)
            if cut is None:
                print(f"{bpm:g} bpm, {between:g} between: no steady beat")
                yield 1.0
                continue
            beats = cut.frames / frames * bpm / 60
            off = abs(beats - round(beats))
            print(
                f"{bpm:g} bpm, {between:g} between: {cut.bpm:.1f} bpm, {cut.beats} beats, {off:.3f} off"
            )
            yield off


def _pulses_of_a_beat(pulse: float, bpm: float | None) -> int:
    """The number of pulses in a beat of the program's tempo; 1 if it is not whole."""
    many = 60 * pulse / bpm if bpm else 1.0
    return round(many) if many >= 1 and abs(many - round(many)) < 0.05 * many else 1


def _at(signal: Floats, times: Floats, frequencies: Floats) -> npt.NDArray[np.complex128]:
    found: npt.NDArray[np.complex128] = np.exp(-2j * np.pi * np.outer(frequencies, times)) @ signal
    return found


def main() -> None:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["make", "judge", "clicks"])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("loops"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    given = parser.parse_args()
    if given.what == "make":
        given.folder.mkdir(exist_ok=True)
        make(given.folder, given.seeds)
    elif given.what == "judge":
        judge(given.folder)
    else:
        clicks()


if __name__ == "__main__":
    main()
