"""Captions: what a person might type to get this clip, in several wordings, lengths and orders.

A caption never mentions what is not in the clip; most leave out much of what is.
"""

from __future__ import annotations

from random import Random

from recipes.nano.compose.effects import EFFECTS
from recipes.nano.compose.instruments import INSTRUMENTS
from recipes.nano.compose.plan import Plan, clip_random
from recipes.nano.compose.styles import MOODS, STYLES, bpm, tempo_class

CAPTIONS_PER_CLIP = 6

TEMPO_WORDS = {
    "slow": ("slow", "slow", "slow tempo", "slow-paced"),
    "medium": ("medium tempo", "mid-tempo", "moderate"),
    "fast": ("fast", "fast", "up-tempo", "quick"),
}
DRUM_WORDS = {
    "lofi": ("soft drums", "a mellow beat", "a lazy beat", "drums", "a slow drum beat"),
    "acoustic": ("light drums", "drums", "soft percussion"),
    "jazz": ("swing drums", "jazz drums", "a ride cymbal", "drums"),
    "epic": ("epic drums", "big drums", "cinematic percussion", "drums"),
    "electronic": (
        "a four-on-the-floor beat",
        "electronic drums",
        "a pounding kick",
        "drums",
        "a beat",
    ),
    "rock": ("drums", "rock drums", "a drum kit", "a steady beat"),
    "hip hop": ("a boom bap beat", "hip hop drums", "a beat", "drums"),
    "tabla": ("tabla", "tabla drums", "Indian percussion"),
}
NO_DRUM_WORDS = ("no drums", "without drums", "no percussion", "no beat")
HISS_WORDS = ("vinyl crackle", "vinyl noise", "tape hiss")
TEXTURE_WORDS = {
    "chords": ("chords", "playing chords"),
    "arpeggio": ("arpeggios", "playing arpeggios", "broken chords"),
    "picking": ("fingerpicking", "fingerpicked"),
    "strum": ("strumming", "strummed chords"),
    "melody": ("melody", "playing a melody"),
    "two_hands": ("melody with accompaniment", "playing a melody over chords"),
    "sustained": ("long chords", "long sustained notes", "holding long chords"),
    "pulse": ("short repeated notes", "staccato chords"),
    "drone_melody": ("melody over a drone", "playing over a drone"),
    "riff": ("riff", "playing a riff"),
    "power_chords": ("power chords", "playing power chords"),
}
STYLE_NOUNS = {
    "lofi": ("beat", "track", "music", "tune"),
    "ambient": ("music", "soundscape", "track"),
    "classical": ("music", "piece"),
    "folk": ("song", "tune", "music"),
    "jazz": ("music", "tune", "jam"),
    "cinematic": ("music", "soundtrack", "score"),
    "techno": ("music", "track", "beat"),
    "house": ("music", "track"),
    "rock": ("music", "song", "track"),
    "hip hop": ("beat", "track", "instrumental"),
    "funk": ("groove", "music", "jam"),
    "Indian": ("music", "piece"),
}
DRUM_SOLO_NOUNS = ("drums", "drum beat", "drum loop", "beat", "percussion")
# Words of a style that only fit some leads.
STYLE_WORD_LEADS = {
    "baroque": ("harpsichord", "organ", "flute", "violin"),
    "metal": ("electric guitar",),
    "hard rock": ("electric guitar",),
    "orchestral": ("strings", "cello", "trumpet", "choir"),
    "country": ("acoustic guitar", "violin"),
}
ENSEMBLES = ("choir", "strings", "synth pad")  # not played by one person
USES = {
    "lofi": ("to study to", "for studying", "to relax to"),
    "ambient": ("for meditation", "for sleep", "to relax to"),
    "techno": ("for a club", "for dancing"),
    "house": ("for dancing", "for a party"),
    "cinematic": ("for a film", "for a movie trailer"),
    "jazz": ("in a small bar", "for a late night"),
}


def captions(plan: Plan) -> tuple[str, ...]:
    """Up to `CAPTIONS_PER_CLIP` different captions, the principal one first."""
    rng = clip_random(plan.seed, plan.index, "captions")
    wording = {"effect": _effect, "drums": _drums}.get(plan.kind, _music)
    distinct: dict[str, None] = {}
    for attempt in range(40):
        distinct.setdefault(" ".join(wording(plan, rng, attempt).split()).replace(" ,", ","))
        if len(distinct) == CAPTIONS_PER_CLIP:
            break
    return tuple(distinct)


def _article(phrase: str, noun: str = "") -> str:
    if noun == "music":
        return phrase
    return (
        f"{'an' if phrase[0].lower() in 'aeiou' and not phrase.startswith('uni') else 'a'} {phrase}"
    )


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


class _Words:
    """Words drawn for a musical plan."""

    def __init__(self, plan: Plan, rng: Random) -> None:
        assert plan.frames_per_beat is not None
        self.lead = rng.choice(INSTRUMENTS[plan.lead].words) if plan.lead else ""
        self.style = self._style(plan, rng)
        self.mood = rng.choice(MOODS[plan.mood].words) if plan.mood else ""
        self.tempo = rng.choice(TEMPO_WORDS[tempo_class(plan.frames_per_beat)])
        self.bpm = f"{bpm(plan.frames_per_beat):.0f} bpm"
        self.noun = self._noun(plan, rng)
        self.use = rng.choice(USES[plan.style]) if plan.style in USES else ""
        self.drums = (
            rng.choice(DRUM_WORDS[plan.drums[0]]) if plan.drums else rng.choice(NO_DRUM_WORDS)
        )
        self.bass = rng.choice(INSTRUMENTS[plan.bass[0]].words) if plan.bass else ""
        self.backing = rng.choice(INSTRUMENTS[plan.backing[0]].words) if plan.backing else ""
        self.hiss = rng.choice(HISS_WORDS) if plan.hiss else ""
        self.texture = rng.choice(TEXTURE_WORDS[plan.texture]) if plan.texture else ""
        self.key = f"in {plan.key.name}" if plan.key else ""
        self.mode = f"in a {plan.key.mode} key" if plan.key else ""

    @staticmethod
    def _style(plan: Plan, rng: Random) -> str:
        if plan.style is None:
            return ""
        word = rng.choice(STYLES[plan.style].words)
        fits = plan.lead in STYLE_WORD_LEADS.get(word, (plan.lead,))
        return word if fits else plan.style

    @staticmethod
    def _noun(plan: Plan, rng: Random) -> str:
        nouns = STYLE_NOUNS[plan.style] if plan.style else ("piece", "music")
        return rng.choice([noun for noun in nouns if plan.drums or noun != "beat"])


def _music(plan: Plan, rng: Random, attempt: int) -> str:
    """Principal captions are of medium length; the second has only two or three words."""
    w = _Words(plan, rng)
    forms = _solo_forms(w, plan) if plan.kind == "solo" else _arrangement_forms(w, plan)
    if attempt == 0:
        return rng.choice(forms["middle"])
    if attempt == 1:
        return rng.choice(forms["short"])
    kind = rng.choice(("short", "middle", "middle", "long", "long", "tags"))
    if kind != "tags":
        return rng.choice(forms[kind])
    known = [w.lead, w.mood, w.tempo, w.style, w.bass, w.backing, w.hiss, w.drums]
    tags = [t.removeprefix("a ") for t in known if t and (t == w.lead or rng.random() < 0.7)]
    if plan.kind == "solo":
        tags.append("solo")
    rng.shuffle(tags)
    return ", ".join(dict.fromkeys(tags))


def _solo_forms(w: _Words, plan: Plan) -> dict[str, list[str]]:
    played = f"someone playing {_article(w.mood)} {w.tempo} tune on the {w.lead}, {w.drums}"
    if plan.lead in ENSEMBLES:
        played = f"the sound of {w.lead}, {w.mood} and {w.tempo}, {w.drums}"
    return {
        "short": [
            w.lead, f"solo {w.lead}", f"{w.mood} {w.lead}", f"{w.tempo} {w.lead}", f"{w.lead} solo",
            f"{w.mood} solo {w.lead}",
        ],
        "middle": [
            f"{w.mood} {w.lead}, {w.tempo}", f"{w.tempo} {w.mood} {w.lead} solo",
            f"{w.lead} {w.texture}, {w.mood}", f"{w.mood} {w.lead} music, {w.drums}",
            f"{w.tempo} {w.lead} {w.texture}", f"solo {w.lead} {w.mode}, {w.mood} and {w.tempo}",
        ],
        "long": [
            f"{_article(w.mood)} {w.lead} piece, {w.tempo}, {w.texture}, {w.drums}",
            f"{_article(w.tempo)}, {w.mood} {w.lead} solo {w.key}",
            f"solo {w.lead} {w.texture} {w.key}, {w.bpm}, {w.mood}",
            played,
            f"only {w.lead}, nothing else, {w.mood} and {w.tempo}, {w.texture}",
        ],
    }  # fmt: skip


def _arrangement_forms(w: _Words, plan: Plan) -> dict[str, list[str]]:
    has_drums = plan.drums is not None
    extras = [part for part in (w.backing, w.bass, w.drums if has_drums else "", w.hiss) if part]
    company = f"with {_listed([w.lead, *extras])}"
    over = f"over {_listed(extras)}" if extras else ""
    ending = "" if has_drums else f", {w.drums}"
    short = [
        f"{w.style} {w.lead}",
        f"{w.mood} {w.style} {w.lead}",
        f"{w.style} {w.lead}",
        f"{w.style} {w.noun} with {w.lead}",
    ]
    middle = [
        f"{w.style} {w.lead}, {w.mood}{ending}",
        f"{w.mood} {w.style} {w.noun} with {w.lead}{ending}",
        f"{w.tempo} {w.style} {w.noun}, {w.lead} and {w.drums}",
        f"{w.style} {w.lead} with {_listed(extras)}" if extras else f"{w.style} {w.lead}, {w.tempo}",
        f"{w.mood} {w.lead}, {w.style}, {w.tempo}",
    ]  # fmt: skip
    if not has_drums:
        middle[2] = f"{w.tempo} {w.style} {w.noun} with {w.lead}, {w.drums}"
    long = [
        f"{_article(w.tempo, w.noun)}, {w.mood} {w.style} {w.noun} {company}{ending}",
        f"{w.style} {w.noun} {w.use} {company}, {w.mood}",
        f"{w.mood} {w.style}: {w.lead} {w.texture} {over}, {w.key}, {w.bpm}",
        f"{_article(w.mood, w.noun)} {w.style} {w.noun} where the {w.lead} leads {over}{ending}",
        f"{w.style} at {w.bpm} {w.mode}, {_listed([w.lead, *extras])}",
    ]
    return {"short": short, "middle": middle, "long": long}


def _drums(plan: Plan, rng: Random, attempt: int) -> str:
    w = _Words(plan, rng)
    noun = "tabla" if plan.drums and plan.drums[0] == "tabla" else rng.choice(DRUM_SOLO_NOUNS)
    forms = [
        f"{w.style} {noun}", f"{w.tempo} {w.style} {noun}", f"{w.style} {noun}, {w.bpm}",
        f"{noun}, {w.style}, {w.tempo}", f"only drums, {w.style} {noun}", f"{w.tempo} {noun}",
        f"{_article(w.tempo)} {w.style} {noun} with no other instruments", f"solo {noun}, {w.style}",
        f"{w.drums}, {w.tempo}, no melody", f"{w.tempo} {w.style} rhythm, drums only",
    ]  # fmt: skip
    return rng.choice(forms)


def _effect(plan: Plan, rng: Random, attempt: int) -> str:
    phrases = []
    for name, variant in plan.effects:
        effect = EFFECTS[name]
        exact = rng.random() < (0.7 if attempt == 0 else 0.5)
        phrases.append(rng.choice(effect.variants[variant] if exact else effect.words))
    if len(phrases) == 1:
        bare = phrases[0]
        forms = [
            bare,
            bare,
            bare,
            f"{bare}, sound effect",
            f"{bare}, no music",
            f"recording of {bare}",
        ]
        if not bare.startswith("the sound"):
            forms.append(f"the sound of {bare}")
        return rng.choice(forms)
    first, second = phrases
    return rng.choice((
        f"{first} and {second}", f"{first} with {second}", f"{first}, {second}",
        f"{first} with {second} in the background", f"{second} and {first}",
    ))  # fmt: skip
