"""Engines, alarms, clocks, bells and steps, made of sines, pulses and noise.

Every function takes the clip's generator and a variant's name from `effects.py`, and returns the clip.
"""

from __future__ import annotations

import numpy as np

from recipes.nano.compose.noise import (
    Array,
    band_noise,
    decay,
    every,
    lowpass,
    place,
    seconds,
    slow_curve,
    tone,
)
from recipes.nano.compose.score import CLIP_SECONDS, FRAME_SECONDS, SAMPLE_RATE


def _begin(rng: np.random.Generator) -> float:
    """A first event within the first 0.4 s, on the 20 ms grid."""
    return FRAME_SECONDS * int(rng.integers(20))


def engine(rng: np.random.Generator, variant: str) -> Array:
    """Harmonics of the firing rate with a growl; a revving engine sweeps it up and down."""
    t = seconds(CLIP_SECONDS)
    if variant == "idling":
        rate = rng.uniform(26, 40) + slow_curve(rng, 0.5, -0.6, 0.6)
    else:
        phase = t / rng.choice((2.0, 2.56, 3.2)) + rng.uniform()
        rate = rng.uniform(38, 55) + 65 * (0.5 - 0.5 * np.cos(2 * np.pi * phase)) ** 2
    out = np.zeros(len(t))
    for harmonic in range(1, 25):
        out += tone(rate * harmonic, CLIP_SECONDS) / harmonic**0.8
    growl = band_noise(rng, 80, 900) * (0.6 + 0.4 * tone(rate, CLIP_SECONDS))
    return np.tanh(0.5 * out + 0.15 * growl)


def siren(rng: np.random.Generator, variant: str) -> Array:
    """A wailing sweep, or the two steady notes of an ambulance."""
    phase = seconds(CLIP_SECONDS) / rng.choice((2.0, 2.56, 3.2)) + rng.uniform()
    if variant == "wailing":
        pitch = rng.uniform(0.85, 1.15) * (850 - 350 * np.cos(2 * np.pi * phase))
    else:
        pitch = rng.uniform(0.9, 1.15) * np.where((2 * phase) % 1.0 < 0.5, 440.0, 587.0)
    wave = tone(pitch, CLIP_SECONDS)
    return wave + 0.35 * tone(2 * pitch, CLIP_SECONDS) + 0.2 * tone(3 * pitch, CLIP_SECONDS)


def alarm(rng: np.random.Generator, variant: str) -> Array:
    """Groups of electronic beeps, or a steady ringing bell."""
    pitch = float(rng.uniform(0.8, 1.25))
    if variant == "ringing":
        strike = sum(tone(pitch * f, 0.3) for f in (1870.0, 2510.0, 3320.0)) * decay(
            0.3, 0.05, 0.001
        )
        return place(np.asarray(strike), every(float(rng.choice((0.06, 0.08)))))
    beep = np.sign(tone(1000.0 * pitch, 0.08)) * 0.5 + tone(2000.0 * pitch, 0.08)
    beeps = int(rng.choice((2, 3, 4)))
    times = [start + 0.16 * i for start in every(1.28, _begin(rng)) for i in range(beeps)]
    return lowpass(place(beep, times), 7000)


def phone(rng: np.random.Generator, variant: str) -> Array:
    """An old bell telephone or a melodic mobile one."""
    scale = float(rng.uniform(0.85, 1.2))
    begin = _begin(rng)
    if variant == "old":
        bells = ((1180.0, 1.0), (1490.0, 1.0), (2930.0, 0.5))
        strike = sum(gain * tone(scale * pitch, 0.2) for pitch, gain in bells) * decay(0.2, 0.05)
        return place(
            np.asarray(strike), [s + 0.05 * i for s in every(2.56, begin) for i in range(26)]
        )
    out = np.zeros(round(CLIP_SECONDS * SAMPLE_RATE))
    for order, pitch in enumerate((1318.5, 1174.7, 740.0, 830.6, 1108.7, 987.8, 587.3, 659.3)):
        note = (tone(scale * pitch, 0.16) + 0.3 * tone(2 * scale * pitch, 0.16)) * decay(0.16, 0.06)
        out += place(note, [start + 0.16 * order for start in every(2.56, begin)])
    return out


def footsteps(rng: np.random.Generator, variant: str) -> Array:
    """Heel and sole, twice a step; gravel crunches."""
    period = {"wood": 0.6, "gravel": 0.64, "running": 0.32}[variant] + 0.02 * rng.integers(-2, 3)
    steps = every(period, _begin(rng))
    gains = [1.0 if i % 2 == 0 else 0.8 for i in range(len(steps))]
    if variant == "gravel":
        crunch = band_noise(rng, 1200, 7000, round(0.22 * SAMPLE_RATE))
        grains = np.repeat(rng.uniform(0, 1, 88) ** 3, 80)
        crunch *= grains[: len(crunch)] * decay(0.22, 0.07, 0.03)
        return place(crunch, steps, gains)
    heel = tone(np.linspace(160, 90, 2560) * rng.uniform(0.8, 1.25), 0.08) * decay(
        0.08, 0.015, 0.001
    )
    click = band_noise(rng, 800, 4000, 2560) * decay(0.08, 0.008, 0.0005)
    sole = band_noise(rng, 300, 2500, 2560) * decay(0.08, 0.012) * 0.25
    out = place(heel + 0.4 * click, steps, gains)
    return out + place(sole, [s + 0.1 for s in steps], gains)


def clock(rng: np.random.Generator, variant: str) -> Array:
    """Tick and tock, in the resonance of a case."""
    period = {"wall": 0.5, "grandfather": 1.0}[variant]
    low = variant == "grandfather"
    scale = float(rng.uniform(0.8, 1.25))
    begin = _begin(rng)
    burst = rng.standard_normal(1920) * decay(0.06, 0.002, 0.0002)
    resonances = ((900, 0.012), (2100, 0.006)) if low else ((2400, 0.006), (4100, 0.004))
    tick = 0.25 * burst
    for pitch, half_life in resonances:
        tick = tick + tone(scale * pitch, 0.06) * decay(0.06, half_life, 0.0003)
    tock = np.interp(np.arange(0, len(tick), 0.82), np.arange(len(tick)), tick) * 0.8
    return place(tick, every(2 * period, begin)) + place(tock, every(2 * period, begin + period))


def helicopter(rng: np.random.Generator, variant: str) -> Array:
    """Rotor chops over engine noise."""
    rate = (10.0 if variant == "near" else 7.5) * rng.uniform(0.85, 1.15)
    chop = np.maximum(0.0, tone(rate, CLIP_SECONDS)) ** 3
    blades = lowpass(band_noise(rng, 50, 700), 700) * chop
    whine = band_noise(rng, 1500, 5000) * 0.12 * (0.4 + chop) if variant == "near" else 0.0
    return blades + whine + band_noise(rng, 60, 300) * 0.12


def knocking(rng: np.random.Generator, variant: str) -> Array:
    """Knuckles on a wooden door."""
    pitch = float(rng.uniform(170, 260))
    knock = tone(pitch, 0.15) * decay(0.15, 0.018, 0.001)
    knock += 0.6 * tone(1.95 * pitch, 0.15) * decay(0.15, 0.01)
    knock += 0.5 * band_noise(rng, 500, 3000, len(knock)) * decay(0.15, 0.005, 0.0005)
    count, spacing = (3, 0.24) if variant == "polite" else (6, 0.14)
    return place(knock, [s + spacing * i for s in every(2.56, _begin(rng)) for i in range(count)])


def church_bell(rng: np.random.Generator, variant: str) -> Array:
    """A struck bell: inharmonic partials, the hum lasting longest."""
    strike = (220.0 if variant == "large" else 440.0) * rng.uniform(0.85, 1.3)
    partials = (
        (0.5, 1.6, 0.6),
        (1.0, 1.2, 1.0),
        (1.2, 0.8, 0.7),
        (1.5, 0.5, 0.4),
        (2.0, 0.6, 0.8),
        (2.7, 0.3, 0.4),
    )
    bell = np.zeros(round(4.0 * SAMPLE_RATE))
    for ratio, half_life, gain in partials:
        bell += gain * tone(strike * ratio, 4.0) * decay(4.0, half_life / 2, 0.002)
    return place(bell, every(2.56 if variant == "large" else 1.28, _begin(rng)))
