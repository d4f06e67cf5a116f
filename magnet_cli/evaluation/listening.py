"""Listening tests: a self-contained page for listeners, and the key that says which clip is whose.

Listeners get `page/index.html`, which works from disk or any host and sends nothing anywhere; its clips
have random names. `key.json` maps those to systems and stays with the experimenter.

- mos: rates each clip's quality and fit to the text from 1 to 100 (as MusicGen's and MAGNeT's studies).
- mushra: rates a prompt's systems side by side, with a hidden reference and a low anchor (the reference
  low-passed at 3.5 kHz) among them (ITU-R BS.1534, as EnCodec's study).
- ab: chooses between two systems.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from magnet_cli.audio.finish import write_sound
from magnet_cli.audio.sound import Samples, open_sound
from magnet_cli.errors import AudioFileError, UsageError
from magnet_cli.evaluation.sets import ClipSet, Fault, Item, prompts_of
from magnet_cli.files import written
from magnet_cli.settings import OutputConfig

ListeningTest = Literal["mos", "mushra", "ab"]
KEY_FORMAT, ANSWERS_FORMAT = "magnet listening key 1", "magnet listening answers 1"
PAGE, KEY = Path("page") / "index.html", Path("key.json")
REFERENCE, ANCHOR = "hidden reference", "low anchor"

LOUDNESS = -23.0  # LUFS; so low that few clips reach the limiter, which would be audible
_CEILING = -1.0  # dBFS
_ANCHOR_HZ = 3500.0
_SLOTS = 24  # minimum number of orders; listeners beyond it start again with the first
_SCALE = ["bad", "poor", "fair", "good", "excellent"]
_QUALITY = {"id": "quality", "text": "How good does it sound?", "scale": _SCALE}
_RELEVANCE = {
    "id": "relevance",
    "text": "How well does it fit the description?",
    "scale": ["not at all", "poorly", "fairly", "well", "perfectly"],
}
_WORDS: dict[str, dict[str, Any]] = {
    "mos": {
        "heading": "Listen, then rate the clip",
        "questions": [_QUALITY, _RELEVANCE],
        "instructions": [
            "You will hear short clips, each made for the description above it. Listen to each clip to "
            "the end, as often as you like, and rate from 1 to 100 how good it sounds and how well it "
            "fits its description."
        ],
    },
    "mushra": {
        "heading": "Compare the clips with the reference",
        "questions": [{**_QUALITY, "text": "How good does it sound compared with the reference?"}],
        "instructions": [
            "Each page has a reference and several clips. Listen to all of them, as often as you like, "
            "and rate each clip from 1 to 100 compared with the reference. One of the clips is the "
            "reference itself and should get 100."
        ],
    },
    "ab": {
        "heading": "Listen to both, then choose",
        "questions": [
            {"id": "quality", "text": "Which sounds better?"},
            {"id": "relevance", "text": "Which fits the description better?"},
        ],
        "instructions": [
            "Each page has two clips made for one description. Listen to both to the end, as often as you "
            "like, then choose the one that sounds better and the one that fits the description better."
        ],
    },
}


@dataclass(frozen=True)
class Study:
    """The files and size of a study.

    Attributes:
        prompts: number of prompts.
        screens: number of pages that a listener sees.
        unshared: number of prompts that some system did not answer.
        faults: (set name, fault) of clips that could not be used.
    """

    page: Path
    key: Path
    prompts: int
    screens: int
    unshared: int
    size: int  # bytes of the page
    faults: tuple[tuple[str, Fault], ...]


def make_study(
    systems: Mapping[str, ClipSet],
    reference: ClipSet | None,
    test: ListeningTest,
    folder: Path,
    *,
    title: str = "Listening test",
    clips: int | None = None,
    seed: int | None = None,
    secret: str | None = None,
) -> Study:
    """Make a listening test from clips for the same prompts.

    Args:
        systems: by name; names appear in the key only.
        reference: real recordings for the same prompts; mushra needs them.
        folder: where to write the page and the key.
        clips: number of prompts to draw from those that all systems answered; None: at most twenty.
        seed: for that draw and for the orders; None: random.
        secret: from which clips' names in the page are derived; None: random. For tests only.

    Raises:
        UsageError: the systems do not suit the test, or have no prompt in common.
        MagnetError: the files cannot be written.
    """
    _check(systems, reference, test)
    names = list(systems)
    if reference is not None:
        names += [REFERENCE, ANCHOR] if test == "mushra" else [REFERENCE]
    sets = [*systems.values(), *([reference] if reference is not None else [])]
    answers = [_by_prompt(one, prompts_of(sets)) for one in sets]
    shared = sorted(set.intersection(*(set(one) for one in answers)))
    faults = [(one.name, fault) for one in sets for fault in one.faults]
    drawn = random.Random(secrets.randbits(64) if seed is None else seed)
    drawn.shuffle(shared)
    most = 20 if clips is None else clips
    secret = secrets.token_hex(16) if secret is None else secret
    screens: list[tuple[str, str, list[str]]] = []  # id, prompt, a token for each system
    sounds: dict[str, bytes] = {}
    key: dict[str, dict[str, str]] = {}
    for prompt in shared:
        if len(screens) == most:
            break
        items = _matching([one[prompt] for one in answers])
        try:
            heard = _heard(items, test)
        except AudioFileError as error:
            faults.append(("", Fault(prompt, error.message)))
            continue
        said = next((item.prompt for item in items if item.prompt), prompt)
        tokens = [_token(secret, prompt, name) for name in names]
        for token, name, (flac, item) in zip(tokens, names, heard, strict=True):
            sounds[token] = flac
            key[token] = {"system": name, "prompt": said, "file": str(item.path)}
        screens.append((_token(secret, prompt, ""), said, tokens))
    if not screens:
        raise UsageError(
            "No prompt has a playable clip from every system.",
            "Make the batches from one prompt file: magnet batch prompts.txt -O DIR.",
            [f"{fault.where}: {fault.what}" for _, fault in faults[:5]],
        )
    shown: list[dict[str, Any]] = []
    for id_, said, tokens in sorted(screens):
        shown.append({"id": id_, "prompt": said, "reference": None})
        if test == "mushra":  # the visible reference is the same sound under another name
            hidden = tokens[names.index(REFERENCE)]
            open_ = _token(secret, hidden, "open")
            shown[-1]["reference"], sounds[open_] = open_, sounds[hidden]
    sounds["check"] = _flac(*_test_sound())
    identity = _token(secret, "", "study")
    study = {
        "study": identity,
        "answers": ANSWERS_FORMAT,
        "title": title,
        "test": test,
        **_WORDS[test],
        "screens": shown,
        "orders": orders([(id_, tokens) for id_, _, tokens in screens], test, drawn),
        "sounds": {token: base64.b64encode(sounds[token]).decode() for token in sorted(sounds)},
    }
    page = _page(study)
    record = {
        "format": KEY_FORMAT,
        "study": identity,
        "test": test,
        "title": title,
        "systems": list(systems),
        "clips": key,
        "screens": {id_: {"prompt": said, "clips": tokens} for id_, said, tokens in screens},
    }
    # Both are renamed at the end, so that there is never a page without its key. Names of files may not be
    # UTF-8, which is why the key is ASCII.
    with written(folder / PAGE, make_folder=True) as page_file, written(folder / KEY) as key_file:
        page_file.write_text(page, "utf-8")
        key_file.write_text(json.dumps(record, indent=1) + "\n", "ascii")
    count = len(screens) * (len(names) if test == "mos" else 1)
    size = len(page.encode())
    unshared = len(set.union(*(set(one) for one in answers))) - len(shared)
    return Study(folder / PAGE, folder / KEY, len(screens), count, unshared, size, tuple(faults))


def orders(
    screens: Sequence[tuple[str, Sequence[str]]], test: ListeningTest, drawn: random.Random
) -> list[list[tuple[str, list[str]]]]:
    """The order of screens, and of the clips on each, for each listener.

    Over all listeners, every system is equally often in each place, and equally often before and after
    each other system (Williams, 1949); within a session nearly so. In a mos test a screen has one clip,
    and every prompt comes once before any comes again.
    """
    systems = len(screens[0][1])
    rows = williams(systems)
    slots = len(rows) * -(-_SLOTS // len(rows))
    found = []
    for slot in range(slots):
        shuffled = list(screens)
        drawn.shuffle(shuffled)
        ordered = [
            (id_, [tokens[i] for i in rows[(slot + place) % len(rows)]])
            for place, (id_, tokens) in enumerate(shuffled)
        ]
        if test == "mos":
            ordered = [(id_, [clips[turn]]) for turn in range(systems) for id_, clips in ordered]
        found.append(ordered)
    return found


def williams(count: int) -> list[list[int]]:
    """Williams' balanced orders of `count` things: a Latin square, or two if `count` is odd."""
    first = [0]
    for step in range(1, count):
        first.append((first[-1] + (step if step % 2 else -step)) % count)
    square = [[(place + shift) % count for place in first] for shift in range(count)]
    return square if count % 2 == 0 else square + [row[::-1] for row in square]


def _check(systems: Mapping[str, ClipSet], reference: ClipSet | None, test: ListeningTest) -> None:
    if test not in get_args(ListeningTest):
        raise UsageError(
            f"There is no test {test!r}.", f"Use one of {', '.join(get_args(ListeningTest))}."
        )
    if test == "ab" and len(systems) != 2:
        raise UsageError("An ab test compares two systems.", "Give A=DIR B=DIR.")
    if test == "ab" and reference is not None:
        raise UsageError(
            "An ab test has no reference.", "Remove it, or use it as a system: A=DIR B=DIR."
        )
    if test == "mushra" and reference is None:
        raise UsageError("A mushra test needs a reference.", "Add --reference DIR.")
    for name in (REFERENCE, ANCHOR):
        if name in systems:
            raise UsageError(f"No system can be named {name!r}.", "Give it another name.")


def _by_prompt(one: ClipSet, stands: Mapping[str, str]) -> dict[str, list[Item]]:
    """The clips of each prompt."""
    found: dict[str, list[Item]] = {}
    for item in sorted(one.items, key=lambda item: str(item.path)):
        if item.prompt:
            found.setdefault(stands[item.prompt], []).append(item)
    return found


def _matching(each: Sequence[Sequence[Item]]) -> list[Item]:
    """The first clip of each set that has a caption which all sets have; if there is none, the first."""
    captions = (caption for item in each[0] for caption in item.captions)
    own = ([[i for i in items if said in i.captions] for items in each] for said in captions)
    return [items[0] for items in next((found for found in own if all(found)), each)]


def _heard(items: Sequence[Item], test: ListeningTest) -> list[tuple[bytes, Item]]:
    """The clips of a prompt as FLAC at equal loudness; for mushra the anchor comes last.
    Raises AudioFileError: one cannot be read or is silent."""
    found = []
    for item in items:
        with open_sound(item.path) as sound:
            found.append((_flac(sound.read(), sound.sample_rate, item.path), item))
    if test == "mushra":
        with open_sound(items[-1].path) as sound:
            low = _low_passed(sound.read(), sound.sample_rate)
            found.append((_flac(low, sound.sample_rate, items[-1].path), items[-1]))
    return found


def _flac(samples: Samples, rate: int, path: Path | None = None) -> bytes:
    """Encode a sound as FLAC at LOUDNESS, in one or two channels. Raises AudioFileError: it is silent."""
    parts: list[bytes] = []
    channels = None if samples.shape[0] <= 2 else 1
    # Equal loudness matters most, so heavy limiting is preferred to a quieter clip.
    output = OutputConfig(
        format="flac", lufs=LOUDNESS, peak=_CEILING, channels=channels, max_limiting=24.0
    )
    written = write_sound(parts.append, [samples], rate, "flac", output)
    if written.loudness.silent:
        raise AudioFileError(f"{path} is silent.", "Make it again.")
    return b"".join(parts)


def _low_passed(samples: Samples, rate: int) -> Samples:
    from scipy.signal import butter, sosfiltfilt

    if rate <= 2 * _ANCHOR_HZ:
        return samples
    low = sosfiltfilt(butter(8, _ANCHOR_HZ, fs=rate, output="sos"), samples, axis=1)
    return np.ascontiguousarray(low, dtype=np.float32)


def _test_sound() -> tuple[Samples, int]:
    """Two seconds of pink noise, mono [1, samples], and its sample rate."""
    rate = 32_000
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=2 * rate))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20))
    noise = np.fft.irfft(spectrum)[None].astype(np.float32)
    return noise / np.abs(noise).max(), rate


def _token(secret: str, prompt: str, name: str) -> str:
    """A name that reveals nothing without the secret."""
    return hashlib.sha256(f"{secret}\0{prompt}\0{name}".encode()).hexdigest()[:12]


def _page(study: Mapping[str, Any]) -> str:
    """The page for a study; characters that could end its script are escaped."""
    blank = Path(__file__).parent.parent / "assets" / "listening" / "index.html"
    data = json.dumps(study).replace("<", "\\u003c")
    return blank.read_text("utf-8").replace('{"study": null}', data, 1)
