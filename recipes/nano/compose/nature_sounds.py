"""Rain, wind, water, fire, thunder and animals, made of noise and sines.

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
from recipes.nano.compose.score import CLIP_SAMPLES, CLIP_SECONDS, SAMPLE_RATE


def rain(rng: np.random.Generator, variant: str) -> Array:
    """A bed of high noise with single drops on it; heavy rain has a lower roar and more of both."""
    heavy = variant == "heavy"
    bed = band_noise(rng, 1200, 9000) * (0.5 if heavy else 0.16)
    if heavy:
        bed += band_noise(rng, 200, 1500) * 0.25
    drops = np.zeros(CLIP_SAMPLES)
    for _ in range(4):
        drop = band_noise(rng, 2500, 8000, 640) * decay(0.02, 0.003, 0.0005)
        count = 300 if heavy else 120
        drops += place(drop, rng.uniform(0, CLIP_SECONDS, count), rng.uniform(0.1, 0.8, count))
    return bed + drops


def wind(rng: np.random.Generator, variant: str) -> Array:
    """Low noise in gusts; a strong wind howls through a moving resonance."""
    if variant == "gentle":
        return band_noise(rng, 80, 500) * slow_curve(rng, 2.5, 0.25, 0.7)
    low = band_noise(rng, 80, 600) * slow_curve(rng, 1.5, 0.3, 1.0)
    pitch = slow_curve(rng, 1.5, 380, 800)
    wobble = lowpass(rng.standard_normal(CLIP_SAMPLES), 25)
    howl = tone(pitch + 30 * wobble / wobble.std(), CLIP_SECONDS) * slow_curve(rng, 1.2, 0.0, 0.7)
    return low + howl


def waves(rng: np.random.Generator, variant: str) -> Array:
    """Surf: noise that swells, breaks bright and draws back."""
    period = {"calm": 5.12, "stormy": 3.2}[variant] * rng.uniform(0.85, 1.15)
    phase = (np.arange(CLIP_SAMPLES) / SAMPLE_RATE / period + rng.uniform()) % 1.0
    swell = np.where(phase < 0.35, phase / 0.35, np.exp(-(phase - 0.35) * 4.5)) ** 1.5
    roar = band_noise(rng, 100, 900) * (0.15 + 0.85 * swell)
    foam = band_noise(rng, 1500, 8000) * swell**2 * 0.6
    return roar * (1.0 if variant == "stormy" else 0.6) + foam


def stream(rng: np.random.Generator, variant: str) -> Array:
    """Running water: bubbles are short rising sines over a soft hiss."""
    count = {"gentle": 260, "rushing": 520}[variant]
    water = band_noise(rng, 500, 4000) * (0.05 if variant == "gentle" else 0.3)
    for pitch in (420, 560, 700, 880, 1100, 1400):
        sweep = np.linspace(pitch, pitch * 1.35, round(0.05 * SAMPLE_RATE))
        bubble = tone(sweep, 0.05) * decay(0.05, 0.012)
        hits = count // 6
        water += place(bubble, rng.uniform(0, CLIP_SECONDS, hits), rng.uniform(0.1, 0.6, hits))
    return water


def fire(rng: np.random.Generator, variant: str) -> Array:
    """A low flutter with sharp crackles."""
    roar = band_noise(rng, 60, 400) * slow_curve(rng, 0.3, 0.2, 0.5)
    count = {"crackling": 110, "roaring": 70}[variant]
    out = roar * (0.35 if variant == "crackling" else 1.0)
    for length in (0.004, 0.008, 0.02):
        crackle = band_noise(rng, 1000, 10000, round(4 * length * SAMPLE_RATE)) * decay(
            4 * length, length / 2, 0.0003
        )
        hits = count // 3
        out += place(crackle, rng.uniform(0, CLIP_SECONDS, hits), rng.uniform(0.2, 1.4, hits))
    return out


def thunder(rng: np.random.Generator, variant: str) -> Array:
    """A crack and a long rolling rumble; distant thunder is the rumble alone."""
    out = band_noise(rng, 40, 200) * 0.02
    for start in (rng.uniform(0.1, 0.8), rng.uniform(4.5, 6.0)):
        rumble = lowpass(rng.standard_normal(round(4.5 * SAMPLE_RATE)), 130)
        rumble *= decay(4.5, 1.1, 0.25) / rumble.std()
        roll = 0.6 + 0.4 * np.sin(2 * np.pi * 1.7 * seconds(4.5) + rng.uniform(0, 6))
        out += place(rumble * roll, [start])
        if variant == "close":
            crack = band_noise(rng, 200, 6000, round(0.6 * SAMPLE_RATE)) * decay(0.6, 0.07)
            out += place(crack, [start, start + 0.13], [0.6, 0.35])
    return out


def birds(rng: np.random.Generator, variant: str) -> Array:
    """Whistled chirps: fast falling or rising sweeps in phrases."""
    out = np.zeros(CLIP_SAMPLES)
    for low, high in ((2600, 4200), (3500, 5600)) if variant == "many" else ((2800, 4600),):
        sweep = np.linspace(high, low, round(0.09 * SAMPLE_RATE))
        down = tone(sweep, 0.09) * np.hanning(len(sweep))
        up = tone(sweep[::-1], 0.09) * np.hanning(len(sweep))
        start = rng.uniform(0.1, 0.5)
        while start < CLIP_SECONDS:
            calls = int(rng.integers(3, 7))
            chirp = down if rng.random() < 0.6 else up
            out += place(chirp, [start + 0.14 * i for i in range(calls)])
            start += 0.14 * calls + rng.uniform(0.3, 1.0)
    return out + band_noise(rng, 500, 3000) * 0.006


def crickets(rng: np.random.Generator, variant: str) -> Array:
    """Chirps of a few pulses of one high tone, at a steady rate."""
    rate = {"slow": 0.8, "fast": 0.4}[variant]
    pulse = tone(float(rng.uniform(3900, 4900)), 0.02) * np.hanning(round(0.02 * SAMPLE_RATE))
    chirp = np.concatenate([np.concatenate([pulse, np.zeros(320)]) for _ in range(4)])
    far = chirp * 0.25
    offset = float(rng.uniform(0.2, 0.4)) * rate
    return (
        place(chirp, every(rate))
        + place(far, every(rate, offset))
        + band_noise(rng, 200, 2000) * 0.004
    )


def heartbeat(rng: np.random.Generator, variant: str) -> Array:
    """Two low thumps a beat."""
    period = float(rng.choice({"slow": (0.9, 1.0, 1.1), "fast": (0.46, 0.5, 0.54)}[variant]))
    sweep = np.linspace(75, 45, round(0.16 * SAMPLE_RATE)) * rng.uniform(0.85, 1.25)
    thump = tone(sweep, 0.16) * decay(0.16, 0.035, 0.006)
    beats = every(period, 0.02 * rng.integers(1, 12))
    second = [start + 0.28 * min(period, 0.8) for start in beats]
    body = band_noise(rng, 40, 120) * 0.004
    return place(thump, beats) + place(thump * 0.65, second) + body
