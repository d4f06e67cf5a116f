"""The instruments: General MIDI programs, their words, their range and what they play when they lead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instrument:
    """One voice of the repertoire.

    `program` counts from 0; `words` are caption synonyms, the tag's own name first; `centre` is the
    MIDI pitch around which it plays; `textures` name functions of `textures.py`; `solo_weight` is its
    share among solo clips; `gain_db` evens out how loud the soundfont recorded it.
    """

    name: str
    program: int
    words: tuple[str, ...]
    centre: int
    textures: tuple[str, ...]
    solo_weight: float = 0.0
    gain_db: float = 0.0


LEADS = (
    Instrument(
        "piano",
        0,
        ("piano", "grand piano", "piano"),
        64,
        ("chords", "arpeggio", "two_hands"),
        16,
        5.0,
    ),
    Instrument(
        "electric piano",
        4,
        ("electric piano", "Rhodes", "Rhodes piano"),
        62,
        ("chords", "arpeggio"),
        6,
        -3.0,
    ),
    Instrument(
        "harpsichord",
        6,
        ("harpsichord", "harpsichord", "baroque harpsichord"),
        64,
        ("arpeggio", "two_hands"),
        7,
        2.0,
    ),
    Instrument(
        "vibraphone", 11, ("vibraphone", "vibes", "mallets"), 69, ("arpeggio", "melody"), 4, 5.0
    ),
    Instrument(
        "organ",
        19,
        ("organ", "church organ", "pipe organ"),
        62,
        ("sustained", "two_hands"),
        5,
        -2.0,
    ),
    Instrument(
        "classical guitar",
        24,
        ("classical guitar", "nylon guitar", "Spanish guitar", "guitar"),
        57,
        ("arpeggio", "picking"),
        8,
        1.0,
    ),
    Instrument(
        "acoustic guitar",
        25,
        ("acoustic guitar", "steel-string guitar", "guitar"),
        57,
        ("strum", "picking"),
        7,
        3.0,
    ),
    Instrument(
        "electric guitar",
        30,
        ("electric guitar", "distorted guitar", "rock guitar"),
        48,
        ("power_chords", "riff"),
        5,
        -4.0,
    ),
    Instrument("violin", 40, ("violin", "fiddle", "violin"), 74, ("melody",), 8, -2.0),
    Instrument("cello", 42, ("cello", "cello", "violoncello"), 50, ("melody",), 6, -3.0),
    Instrument(
        "strings",
        48,
        ("strings", "string orchestra", "string ensemble", "orchestra"),
        62,
        ("sustained", "pulse"),
        6,
        1.0,
    ),
    Instrument("harp", 46, ("harp", "concert harp", "harp"), 67, ("arpeggio",), 6, 3.0),
    Instrument("choir", 52, ("choir", "voices", "choral voices"), 62, ("sustained",), 7, 1.0),
    Instrument("trumpet", 56, ("trumpet", "brass", "trumpet"), 67, ("melody",), 4, -4.0),
    Instrument("flute", 73, ("flute", "flute", "wooden flute"), 79, ("melody",), 8, -6.0),
    Instrument("sitar", 104, ("sitar", "Indian sitar", "sitar"), 60, ("drone_melody",), 6, 4.0),
    Instrument(
        "synth lead",
        81,
        ("synth", "synth lead", "synthesizer", "electronic synth"),
        64,
        ("riff", "melody"),
        5,
        -2.0,
    ),
    Instrument(
        "synth pad", 89, ("synth pad", "pad", "warm pad", "warm synth"), 60, ("sustained",), 5, 3.0
    ),
)

# Voices that only accompany.
BASSES = (
    Instrument("upright bass", 32, ("upright bass", "double bass", "bass"), 38, (), gain_db=0.0),
    Instrument("bass guitar", 33, ("bass guitar", "bass", "electric bass"), 38, (), gain_db=-2.0),
    Instrument("synth bass", 38, ("synth bass", "deep bass", "bass"), 38, (), gain_db=1.0),
)

INSTRUMENTS = {instrument.name: instrument for instrument in (*LEADS, *BASSES)}
