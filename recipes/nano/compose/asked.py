"""What a caption asks for, derived with the tables from which captions are written.

A caption leaves out much of what is in its clip, and a clip generated from it cannot be blamed for what the
words leave open. So judges ask only for:

instruments  those that can lead, by any of their words. Basses only accompany: "synth bass" asks for no
             synth. Nylon and steel strings are one guitar, since both may be called just that.
drums        asked for if drums, a beat, percussion or a tabla is named (`DRUM_WORDS`,
             `DRUM_SOLO_NOUNS`); excluded if the words say so (`NO_DRUM_WORDS`), or if an instrument
             plays by itself (`ALONE`: "solo piano", "only piano"). Left open by anything else: a style
             alone ("techno"), a use ("for dancing"), an instrument ("piano, calm").
tempo        the class of a word ("mid-tempo") or of a number ("107 bpm"); a mood ("driving") or a style
             leaves it open.

A sound effect is asked for none of these: "slow footsteps" give no tempo and "a quick heart beat" no drums,
so the phrases of `EFFECTS` are removed before anything is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from recipes.nano.compose.captions import (
    DRUM_SOLO_NOUNS,
    DRUM_WORDS,
    NO_DRUM_WORDS,
    TEMPO_WORDS,
)
from recipes.nano.compose.effects import EFFECTS
from recipes.nano.compose.instruments import INSTRUMENTS, LEADS
from recipes.nano.compose.styles import TEMPI, bpm, tempo_class

ALONE = ("solo", "only", "alone", "nothing else")  # with an instrument: without drums


@dataclass(frozen=True)
class Asked:
    """What a caption asks for; None or empty if it leaves it open."""

    instruments: tuple[str, ...]  # leads, in the order in which they are named
    drums: bool | None
    tempo_class: str | None  # slow | medium | fast


def asked(caption: str) -> Asked:
    """What a caption asks for, by the rules above."""
    text = _EFFECT.sub(" ", caption)
    named = [_MEANINGS[word.lower()] for word in _INSTRUMENT.findall(text)]
    instruments = tuple(dict.fromkeys(name for names in named for name in names))
    drums: bool | None = None
    if _NO_DRUMS.search(text):
        drums = False
    elif _DRUMS.search(text):
        drums = True
    elif instruments and _ALONE.search(text):
        drums = False
    return Asked(instruments, drums, _tempo_class(text))


def _tempo_class(text: str) -> str | None:
    word, number = _TEMPO.search(text), _BPM.search(text)
    if word:
        return next(name for name, words in TEMPO_WORDS.items() if word[0].lower() in words)
    if number:
        frames = [f for tempi in TEMPI.values() for f in tempi]
        return tempo_class(min(frames, key=lambda f: abs(bpm(f) - float(number[1]))))
    return None


def _phrases(phrases: Iterable[str]) -> re.Pattern[str]:
    """Any of the phrases as whole words, the longest first: a "synth pad" is not a synth."""
    longest_first = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", re.I)


_WORDS = {word for instrument in INSTRUMENTS.values() for word in instrument.words}


def _is_needed(word: str, words: tuple[str, ...]) -> bool:
    """Whether a word is needed in addition to the others of its instrument.

    "grand piano" is not, because it contains "piano", and "electronic synth" must not be: it would match
    "electronic synth pad". "synth pad" is, or it would match as a synth and a pad.
    """
    shorter = [other for other in words if word.endswith(f" {other}")]
    return all(word.removesuffix(f" {other}") in _WORDS for other in shorter)


# Basses are included so that "synth bass" does not match as a synth; they ask for no lead.
_MEANINGS = {
    word.lower(): tuple(lead.name for lead in LEADS if word in lead.words)
    for instrument in INSTRUMENTS.values()
    for word in instrument.words
    if _is_needed(word, instrument.words)
}
_INSTRUMENT = _phrases(_MEANINGS)
_NO_DRUMS = _phrases(NO_DRUM_WORDS)
_DRUMS = _phrases(
    word.removeprefix("a ")  # captions that are lists of tags omit it
    for words in (*DRUM_WORDS.values(), DRUM_SOLO_NOUNS)
    for word in words
)
_ALONE = _phrases(ALONE)
_TEMPO = _phrases(word for words in TEMPO_WORDS.values() for word in words)
_BPM = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?) ?bpm\b", re.I)
_EFFECT = _phrases(
    phrase
    for effect in EFFECTS.values()
    for phrases in (effect.words, *effect.variants.values())
    for phrase in phrases
)
