"""The instruments: General MIDI programs, their words, their range and what they play when they lead.

Which soundfont plays an instrument better was measured: musicnn's tagger hears "piano" in .48 of a piano of
FluidR3 and in .93 of MuseScore_General's, and it hears a synthesizer in the poly synth, not in the saw.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instrument:
    """An instrument.

    `program` counts from 0; `words` are caption synonyms, likelier if repeated; `centre` is the MIDI pitch
    around which it plays; `textures` name functions of `textures.py`; `solo_weight` is its share of solo
    clips; `gain_db` equalizes the levels of the soundfonts; `busier` is added to the mood's density;
    `musescore_share` is the share of clips that the second soundfont plays; `vibrato` is that of long notes
    in cents to either side, of instruments that shape a note while it sounds (0: they only swell).
    """

    name: str
    program: int
    words: tuple[str, ...]
    centre: int
    textures: tuple[str, ...] = ()
    solo_weight: float = 0.0
    gain_db: float = 0.0
    busier: int = 0
    musescore_share: float = 0.15
    vibrato: float | None = None


# fmt: off
LEADS = (
    Instrument(
        "piano", 0, ("piano", "piano", "grand piano"), centre=64, solo_weight=16, gain_db=5.0,
        textures=("chords", "arpeggio", "two_hands", "two_hands"), musescore_share=0.9,
    ),
    Instrument(
        "electric piano", 4, ("electric piano", "Rhodes", "Rhodes piano"), centre=62, solo_weight=6,
        textures=("chords", "arpeggio"), gain_db=-3.0,
    ),
    Instrument(
        "harpsichord", 6, ("harpsichord", "harpsichord", "baroque harpsichord"), centre=60, solo_weight=7,
        textures=("two_hands", "two_hands", "arpeggio"), gain_db=2.0, busier=1,
    ),
    Instrument(
        "vibraphone", 11, ("vibraphone", "vibes", "mallets"), centre=69, solo_weight=4,
        textures=("arpeggio", "melody"), gain_db=5.0,
    ),
    Instrument(
        "organ", 19, ("organ", "church organ", "pipe organ"), centre=62, solo_weight=5,
        textures=("sustained", "two_hands"), gain_db=-2.0, vibrato=0,
    ),
    Instrument(
        "classical guitar", 24, ("classical guitar", "nylon guitar", "Spanish guitar", "guitar"), centre=57,
        textures=("arpeggio", "picking"), solo_weight=8, gain_db=1.0,
    ),
    Instrument(
        "acoustic guitar", 25, ("acoustic guitar", "steel-string guitar", "guitar"), centre=57, solo_weight=7,
        textures=("strum", "picking"), gain_db=3.0,
    ),
    Instrument(
        "electric guitar", 30, ("electric guitar", "distorted guitar", "rock guitar"), centre=48,
        textures=("power_chords", "riff"), solo_weight=5, gain_db=-4.0,
    ),
    Instrument(
        "violin", 40, ("violin", "violin", "fiddle"), centre=74, textures=("melody",), solo_weight=8,
        gain_db=-2.0, vibrato=30,
    ),
    Instrument(
        "cello", 42, ("cello", "cello", "violoncello"), centre=50, textures=("melody",), solo_weight=6,
        gain_db=-3.0, musescore_share=0.6, vibrato=30,
    ),
    Instrument(
        "strings", 48, ("strings", "string orchestra", "string ensemble", "orchestra"), centre=62,
        textures=("sustained", "pulse"), solo_weight=6, gain_db=1.0, vibrato=15,
    ),
    Instrument(
        "harp", 46, ("harp", "harp", "concert harp"), centre=67, textures=("arpeggio",), solo_weight=6,
        gain_db=3.0, busier=1,
    ),
    Instrument(
        "choir", 52, ("choir", "voices", "choral voices"), centre=62, textures=("sustained",), solo_weight=7,
        gain_db=1.0, vibrato=24,
    ),
    Instrument(
        "trumpet", 56, ("trumpet", "trumpet", "brass"), centre=67, textures=("melody",), solo_weight=4,
        gain_db=-4.0, vibrato=20,
    ),
    Instrument(
        "flute", 73, ("flute", "flute", "wooden flute"), centre=79, textures=("melody",), solo_weight=8,
        gain_db=-6.0, vibrato=20,
    ),
    Instrument(
        "sitar", 104, ("sitar", "sitar", "Indian sitar"), centre=60, textures=("drone_melody",),
        solo_weight=6, gain_db=4.0, musescore_share=0.9,
    ),
    Instrument(
        "synth lead", 90, ("synth", "synth lead", "synthesizer", "electronic synth"), centre=64,
        textures=("riff", "melody"), solo_weight=5, gain_db=1.0, vibrato=20,
    ),
    Instrument(
        "synth pad", 89, ("synth pad", "pad", "warm pad", "warm synth"), centre=60, textures=("sustained",),
        solo_weight=5, gain_db=3.0, vibrato=12,
    ),
)

# Voices that only accompany.
BASSES = (
    Instrument("upright bass", 32, ("upright bass", "double bass", "bass"), centre=38),
    Instrument("bass guitar", 33, ("bass guitar", "electric bass", "bass"), centre=38, gain_db=-2.0),
    Instrument("synth bass", 38, ("synth bass", "deep bass", "bass"), centre=38, gain_db=1.0),
)
# fmt: on

INSTRUMENTS = {instrument.name: instrument for instrument in (*LEADS, *BASSES)}
