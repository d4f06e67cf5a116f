"""The sound effects: variants of each with the phrases that people would type, and the function that makes
it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recipes.nano.compose import machine_sounds as machines
from recipes.nano.compose import nature_sounds as nature
from recipes.nano.compose.noise import Array

Synthesis = Callable[[np.random.Generator, str], Array]


@dataclass(frozen=True)
class Effect:
    """A sound effect: `words` apply to any variant, `variants` map a variant to its own phrases."""

    synthesis: Synthesis
    words: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]


EFFECTS: dict[str, Effect] = {
    "rain": Effect(nature.rain, ("rain", "rain falling", "the sound of rain"), {
        "light": ("light rain", "gentle rain", "soft rain falling", "raindrops"),
        "heavy": ("heavy rain", "a downpour of rain", "pouring rain", "rain storm"),
    }),
    "wind": Effect(nature.wind, ("wind", "wind blowing", "the sound of wind"), {
        "gentle": ("gentle wind", "a soft breeze", "light wind blowing"),
        "howling": ("howling wind", "strong wind", "a storm wind howling"),
    }),
    "waves": Effect(nature.waves, ("ocean waves", "waves", "surf", "the sea", "the sound of the sea"), {
        "calm": ("calm ocean waves", "gentle waves on a beach", "slow sea waves"),
        "stormy": ("crashing waves", "heavy surf", "stormy sea waves", "rough ocean waves"),
    }),
    "stream": Effect(nature.stream, ("a stream", "running water", "water flowing", "a river"), {
        "gentle": ("a gentle stream", "a babbling brook", "water trickling"),
        "rushing": ("a rushing river", "fast running water", "a rushing stream"),
    }),
    "fire": Effect(nature.fire, ("fire", "a fire burning", "the sound of fire"), {
        "crackling": ("crackling fire", "a campfire crackling", "fireplace crackling"),
        "roaring": ("a roaring fire", "big fire burning", "a bonfire roaring"),
    }),
    "thunder": Effect(nature.thunder, ("thunder", "a thunderstorm", "the sound of thunder"), {
        "close": ("loud thunder", "a thunder crack", "thunder and lightning close by"),
        "distant": ("distant thunder", "thunder rumbling far away", "rolling thunder"),
    }),
    "birds": Effect(nature.birds, ("birds", "birdsong", "birds singing", "birds chirping"), {
        "single": ("a bird singing", "a single bird chirping", "one bird whistling"),
        "many": ("many birds singing", "birds chirping in a forest", "a dawn chorus of birds"),
    }),
    "crickets": Effect(nature.crickets, ("crickets", "crickets chirping", "insects at night"), {
        "slow": ("slow crickets at night", "crickets chirping slowly", "a quiet night with crickets"),
        "fast": ("fast crickets", "crickets chirping quickly", "busy crickets on a summer night"),
    }),
    "heartbeat": Effect(nature.heartbeat, ("heartbeat", "a heart beating", "heart sound"), {
        "slow": ("a slow heartbeat", "calm heart beating", "slow heart beat"),
        "fast": ("a fast heartbeat", "heart racing", "quick heart beat"),
    }),
    "engine": Effect(machines.engine, ("engine", "a car engine", "motor", "a motor running"), {
        "idling": ("an engine idling", "a car engine running", "motor idling"),
        "revving": ("an engine revving", "a car accelerating", "motor revving up and down"),
    }),
    "siren": Effect(machines.siren, ("siren", "a siren", "emergency siren"), {
        "wailing": ("a wailing siren", "police siren wailing", "an emergency siren rising and falling"),
        "two-tone": ("an ambulance siren", "a two-tone siren", "european ambulance siren"),
    }),
    "alarm": Effect(machines.alarm, ("alarm", "alarm clock", "an alarm going off"), {
        "beeping": ("a beeping alarm clock", "digital alarm beeping", "electronic beeps"),
        "ringing": ("an alarm bell ringing", "a fire alarm bell", "ringing alarm bell"),
    }),
    "phone": Effect(machines.phone, ("phone ringing", "telephone", "a phone"), {
        "old": ("an old telephone ringing", "old phone bell", "vintage telephone ring"),
        "mobile": ("a mobile phone ringtone", "cell phone ringing", "a ringtone"),
    }),
    "footsteps": Effect(machines.footsteps, ("footsteps", "someone walking", "steps"), {
        "wood": ("footsteps on a wooden floor", "someone walking indoors", "slow footsteps"),
        "gravel": ("footsteps on gravel", "walking on gravel", "crunching footsteps"),
        "running": ("running footsteps", "someone running", "fast footsteps"),
    }),
    "clock": Effect(machines.clock, ("clock ticking", "a clock", "ticking clock", "tick tock"), {
        "wall": ("a wall clock ticking", "fast ticking clock", "a watch ticking"),
        "grandfather": ("a grandfather clock ticking", "slow ticking clock", "an old clock tick tock"),
    }),
    "helicopter": Effect(machines.helicopter, ("helicopter", "a helicopter flying"), {
        "near": ("a helicopter close by", "loud helicopter", "helicopter hovering overhead"),
        "distant": ("a distant helicopter", "helicopter far away", "low helicopter rumble"),
    }),
    "knocking": Effect(machines.knocking, ("knocking", "a knock on the door", "door knocking"), {
        "polite": ("someone knocking on a door", "three knocks on a door", "polite knocking"),
        "urgent": ("urgent knocking", "fast banging on a door", "loud knocking on a door"),
    }),
    "bell": Effect(machines.church_bell, ("church bell", "a bell ringing", "bells"), {
        "large": ("a large church bell tolling", "slow church bell", "a deep bell"),
        "small": ("a small bell ringing", "bright bell", "a chapel bell ringing"),
    }),
}  # fmt: skip

# Two sounds at once, the louder one first.
SCENES: tuple[tuple[str, str], ...] = (
    ("rain", "thunder"), ("rain", "wind"), ("rain", "clock"), ("rain", "footsteps"),
    ("fire", "crickets"), ("fire", "wind"), ("birds", "stream"), ("birds", "waves"),
    ("stream", "crickets"), ("footsteps", "birds"), ("wind", "bell"), ("clock", "heartbeat"),
)  # fmt: skip
SECOND_GAIN = 0.7


def synthesise(seed: int, index: int, effects: tuple[tuple[str, str], ...]) -> Array:
    """The effects (name, variant) of clip `index`, normalized to one loudness and mixed."""
    digest = hashlib.sha256(f"nano/effects/{seed}/{index}".encode()).digest()
    rng = np.random.default_rng(list(digest[:16]))
    mixed = np.zeros(0)
    for order, (name, variant) in enumerate(effects):
        sound = EFFECTS[name].synthesis(rng, variant)
        sound = sound / (np.sqrt(np.mean(sound**2)) + 1e-9)
        mixed = sound if order == 0 else mixed + SECOND_GAIN * sound
    return mixed
