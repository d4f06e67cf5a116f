"""Styles, moods and tempi: the tables that determine an arrangement.

Tempi are given as codec frames (20 ms) per beat, so that eighths and sixteenths are whole frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from recipes.nano.compose.score import FRAME_SECONDS

TEMPI = {"slow": (44, 40, 36), "medium": (32, 28), "fast": (24, 20)}  # frames per beat


def tempo_class(frames_per_beat: int) -> str:
    """Slow, medium or fast."""
    return next(name for name, tempi in TEMPI.items() if frames_per_beat in tempi)


def bpm(frames_per_beat: int) -> float:
    """Beats a minute of a tempo in frames a beat."""
    return 60.0 / (frames_per_beat * FRAME_SECONDS)


@dataclass(frozen=True)
class Mood:
    """A mood's effect on the music: mode, tempo classes (with weights), loudness, density, register."""

    name: str
    words: tuple[str, ...]
    modes: tuple[str, ...]
    tempi: dict[str, int]
    harmony: tuple[str, ...]
    velocity: int
    density: int
    register: int  # semitones added to the lead's centre


MOODS = {
    mood.name: mood
    for mood in (
        Mood("calm", ("calm", "relaxing", "peaceful", "gentle", "soft", "mellow", "soothing"),
             ("major",), {"slow": 4, "medium": 1}, ("still", "plain"), 66, 0, 0),
        Mood("happy", ("happy", "cheerful", "upbeat", "bright", "joyful"),
             ("major",), {"medium": 2, "fast": 2}, ("plain",), 92, 1, 3),
        Mood("sad", ("sad", "melancholic", "sorrowful", "emotional", "melancholy"),
             ("minor",), {"slow": 4, "medium": 1}, ("plain", "still"), 70, 0, -1),
        Mood("dark", ("dark", "ominous", "gloomy", "mysterious", "tense"),
             ("minor",), {"slow": 2, "medium": 2}, ("tense", "still"), 84, 1, -7),
        Mood("energetic", ("energetic", "lively", "driving", "powerful", "intense"),
             ("major", "minor"), {"fast": 4, "medium": 1}, ("plain", "tense"), 112, 2, 0),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """One style's arrangement: who leads, how, over what.

    `leads` maps lead instruments to weights; `textures` overrides an instrument's own choice;
    `backings` are (instrument, texture) pairs or None, drawn evenly; `bass` is (instrument, line) or None;
    `drums` is (kit, feel) or None and `drums_share` its share of clips; `density` is added to the mood's.
    """

    name: str
    words: tuple[str, ...]
    weight: float
    leads: dict[str, float]
    moods: dict[str, float]
    tempi: tuple[int, ...]
    harmony: tuple[str, ...] | None = None
    textures: dict[str, tuple[str, ...]] = field(default_factory=dict)
    backings: tuple[tuple[str, str] | None, ...] = (None,)
    bass: tuple[str, str] | None = None
    bass_share: float = 1.0
    drums: tuple[str, str] | None = None
    drums_share: float = 0.0
    drums_level_db: float = 0.0  # loudness of the drums relative to the rest
    swing: float = 0.5
    reverb: int = 30
    lowpass_hz: float | None = None
    hiss_share: float = 0.0


STYLES = {
    style.name: style
    for style in (
        Style(
            "lofi", ("lofi", "lo-fi", "lofi hip hop", "chillhop", "lofi"), 28,
            leads={"piano": 6, "electric piano": 4, "classical guitar": 2, "vibraphone": 1},
            moods={"calm": 3, "sad": 2}, tempi=(44, 40, 36), harmony=("sevenths",),
            textures={"piano": ("chords", "chords", "chords", "two_hands"), "electric piano": ("chords",),
                      "classical guitar": ("arpeggio",)},
            bass=("upright bass", "held"), bass_share=0.7,
            drums=("lofi", "lazy"), drums_share=0.9, drums_level_db=-2.0,
            swing=0.6, reverb=20, lowpass_hz=5500.0, hiss_share=0.5,
        ),
        Style(
            "ambient", ("ambient", "atmospheric", "new age", "meditative"), 9,
            leads={"synth pad": 4, "piano": 3, "choir": 2, "strings": 2, "harp": 2},
            moods={"calm": 3, "sad": 1, "dark": 2}, tempi=(44, 40, 36), harmony=("still",),
            textures={"piano": ("arpeggio", "chords"), "strings": ("sustained",)},
            backings=(("synth pad", "sustained"),), reverb=90,
        ),
        Style(
            "classical", ("classical", "classical", "baroque", "chamber"), 12,
            leads={"piano": 2, "violin": 3, "cello": 2, "flute": 3, "harpsichord": 2, "strings": 2, "harp": 1,
                   "organ": 1, "choir": 1},
            moods={"calm": 2, "happy": 2, "sad": 2, "energetic": 1}, tempi=(40, 32, 28, 24),
            harmony=("plain", "tense"),
            backings=(("strings", "sustained"), ("harpsichord", "arpeggio"), ("piano", "arpeggio")),
            reverb=55,
        ),
        Style(
            "folk", ("folk", "acoustic", "country", "folk"), 7,
            leads={"acoustic guitar": 4, "classical guitar": 2, "flute": 2, "violin": 2},
            moods={"calm": 2, "happy": 3, "sad": 1}, tempi=(36, 32, 28), harmony=("plain",),
            textures={"acoustic guitar": ("strum", "picking"), "classical guitar": ("picking",)},
            backings=(("acoustic guitar", "strum"), None),
            bass=("upright bass", "root_fifth"), bass_share=0.6,
            drums=("acoustic", "light"), drums_share=0.4, drums_level_db=-5.0,
        ),
        Style(
            "jazz", ("jazz", "jazzy", "swing jazz", "jazz"), 8,
            leads={"piano": 3, "trumpet": 3, "vibraphone": 2, "electric piano": 1, "classical guitar": 1},
            moods={"calm": 2, "happy": 3, "energetic": 1}, tempi=(40, 32, 28, 24), harmony=("swing",),
            textures={"piano": ("chords", "melody"), "classical guitar": ("melody",)},
            backings=(("piano", "chords"), None), bass=("upright bass", "walking"),
            drums=("jazz", "swing"), drums_share=0.8, drums_level_db=-5.0, swing=0.64, reverb=35,
        ),
        Style(
            "cinematic", ("cinematic", "epic", "movie", "orchestral"), 9,
            leads={"strings": 4, "choir": 2, "cello": 2, "piano": 2, "trumpet": 2},
            moods={"dark": 3, "energetic": 3, "sad": 2}, tempi=(40, 32, 28, 24), harmony=("plain", "tense"),
            backings=(("strings", "pulse"), ("choir", "sustained")),
            bass=("synth bass", "held"), bass_share=0.3,
            drums=("epic", "epic"), drums_share=0.65, drums_level_db=-2.0, reverb=70,
        ),
        Style(
            "techno", ("techno", "electronic", "EDM", "trance"), 11,
            leads={"synth lead": 4, "synth pad": 2, "piano": 1},
            moods={"energetic": 3, "dark": 2, "happy": 1}, tempi=(24,), harmony=("drone", "still"),
            textures={"synth lead": ("riff",), "piano": ("riff",)},
            backings=(("synth pad", "sustained"), None), bass=("synth bass", "sixteenths"),
            drums=("electronic", "four_on_the_floor"), drums_share=1.0, drums_level_db=1.0, reverb=15,
        ),
        Style(
            "house", ("house", "dance", "disco", "club"), 7,
            leads={"piano": 3, "electric piano": 2, "strings": 1, "synth lead": 1},
            moods={"happy": 3, "energetic": 2}, tempi=(24,), harmony=("plain", "sevenths"),
            textures={"piano": ("chords",), "electric piano": ("chords",), "strings": ("sustained",)},
            bass=("synth bass", "offbeat"),
            drums=("electronic", "four_on_the_floor"), drums_share=1.0, drums_level_db=0.0, reverb=15,
        ),
        Style(
            "rock", ("rock", "rock", "metal", "hard rock"), 8,
            leads={"electric guitar": 6, "piano": 1, "synth lead": 1},
            moods={"energetic": 4, "dark": 1, "happy": 1}, tempi=(28, 24, 20), harmony=("power",),
            textures={"piano": ("power_chords",), "synth lead": ("melody",)},
            bass=("bass guitar", "eighths"),
            drums=("rock", "rock"), drums_share=1.0, drums_level_db=-1.0, reverb=20,
        ),
        Style(
            "hip hop", ("hip hop", "hip-hop", "boom bap", "rap"), 8,
            leads={"piano": 3, "strings": 2, "electric piano": 2, "flute": 2, "harp": 1},
            moods={"dark": 3, "sad": 2, "calm": 1}, tempi=(36, 32), harmony=("still", "plain"),
            textures={"piano": ("arpeggio", "chords"), "strings": ("pulse",), "electric piano": ("chords",)},
            bass=("synth bass", "held"),
            drums=("hip hop", "boom_bap"), drums_share=1.0, drums_level_db=0.0, reverb=15,
        ),
        Style(
            "funk", ("funk", "funky", "groovy", "soul"), 5,
            leads={"electric piano": 3, "trumpet": 2, "piano": 1, "synth lead": 1},
            moods={"happy": 3, "energetic": 2}, tempi=(28,), harmony=("groove",),
            textures={"electric piano": ("chords",), "synth lead": ("riff",), "piano": ("chords",)},
            bass=("bass guitar", "syncopated"),
            drums=("rock", "funk"), drums_share=1.0, drums_level_db=-2.0, reverb=15,
        ),
        Style(
            "Indian", ("Indian", "Indian classical", "raga", "world"), 6,
            leads={"sitar": 5, "flute": 2},
            moods={"calm": 2, "happy": 1, "dark": 1, "energetic": 1}, tempi=(40, 32, 28, 24),
            harmony=("drone",), textures={"flute": ("melody",)},
            backings=(("sitar", "drone_melody"), None),
            drums=("tabla", "tabla"), drums_share=0.75, drums_level_db=-2.0, reverb=45,
        ),
    )
}  # fmt: skip

# Drums alone: style of the kit -> share.
DRUM_SOLOS = {
    "lofi": 3,
    "techno": 3,
    "rock": 3,
    "hip hop": 3,
    "jazz": 2,
    "funk": 2,
    "Indian": 2,
    "cinematic": 2,
}
