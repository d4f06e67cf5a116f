"""Captioned clips: a list of sounds, or a folder of them with captions beside them.

A row of a list (`lists.py`) names a sound by `path` or `file_name`, relative to the list. Captions are in
`caption`, `captions`, `text` and `description` (a text, or a list of paraphrases; all are used); `tags` are
an object, a list, or a text with commas; `weight` is the relative frequency of the sound in training. So
lists of Hugging Face's audiofolder and of audiocraft can be read unchanged. Rows of the same sound are
merged into one clip. For a row without a caption or tags, these come from `sound.txt` (one caption per
line) or `sound.json` (a row's object, without the path) beside `sound.wav`, or else from the prompt stored
in a sound made by `magnet`.

A folder is searched for sounds, and for lists named `metadata.csv` or `metadata.jsonl` of them.

An error in a line or file is reported as a `Problem`, not raised, so that it affects only that line.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from magnet_cli.audio.formats import FFMPEG_SUFFIXES
from magnet_cli.audio.sound import open_sound
from magnet_cli.data.lists import PATHS, Fields, parse, rows_of
from magnet_cli.errors import DataError, MagnetError
from magnet_cli.foreign import reading
from magnet_cli.foreign.bounds import BOUNDS

# The formats of libsndfile, and of ffmpeg if it is installed.
SOUND_SUFFIXES = FFMPEG_SUFFIXES | {
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
}
MAX_CAPTION = 4096  # characters; longer ones are cut with a warning
# Of the sounds at and below their folder (audiofolder).
METADATA = ("metadata.jsonl", "metadata.csv")

_CAPTIONS = ("caption", "captions", "text", "description")
# What audiocraft merges into a description, as "name: value" (its `MusicInfo`).
_MUSIC = ("key", "bpm", "genre", "moods", "instrument", "keywords")


@dataclass(frozen=True)
class Clip:
    """A sound with its captions and tags."""

    id: str  # path relative to the manifest's folder or the given folder, in one spelling
    path: Path
    captions: tuple[str, ...]  # paraphrases; one is drawn each time
    tags: tuple[str, ...] = ()  # "tempo: 120", "rock"; merged into the caption in training
    weight: float = 1.0  # relative frequency in training


@dataclass(frozen=True)
class Problem:
    """An error, and its place."""

    where: str  # a file, or manifest:line
    what: str
    skipped: bool = True  # False: a warning, the clip is used anyway
    incomplete: bool = False  # part of the sound is missing; the rest is used


@dataclass(frozen=True)
class ClipList:
    """The clips found, in a stable order, and the problems."""

    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...]
    merged: int = 0  # manifest lines that add to a clip of an earlier line


def read_clips(source: str | os.PathLike[str], captioned: bool = True) -> ClipList:
    """Read the clips of a list (a manifest) or a folder; with their captions, which they must have, or
    without.
    Raises DataError: it does not exist, or cannot be read."""
    path = Path(source)
    if path.is_dir() and not captioned:
        return ClipList(tuple(Clip(_id(each, path), each, ()) for each in sound_files(path)), ())
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_manifest(path, captioned)
    raise DataError(
        f"There is no manifest or folder at {path}.",
        "Give a .jsonl or .csv list of sounds, or a folder of sounds with .txt captions beside them.",
    )


def _read_manifest(manifest: Path, captioned: bool) -> ClipList:
    clips: dict[str, Clip] = {}
    problems: list[Problem] = []
    merged = 0
    try:
        rows = list(rows_of(manifest))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{manifest} cannot be read: {reading.reason(error)}.", "Check the file."
        ) from error
    for number, fields in rows:
        where = f"{manifest.name}:{number}"
        try:
            if isinstance(fields, ValueError):
                raise fields
            sound = _place(manifest.parent, _name(fields), "sample_rate" in fields)
            if captioned and not _says(fields):
                fields = {**_sidecar(sound, _beside(sound)), **fields}
            clip = Clip(_id(sound, manifest.parent), sound, ())
            if captioned:
                clip = _clip(sound, manifest.parent, fields, where, problems)
        except (OSError, ValueError) as error:
            problems.append(Problem(where, _why(error)))
            continue
        merged += clip.id in clips
        clips[clip.id] = _merged(clips[clip.id], clip) if clip.id in clips else clip
    return ClipList(tuple(clips.values()), tuple(problems), merged)


def _name(fields: Fields) -> str:
    """The path of a row's sound."""
    name = next((fields[each] for each in PATHS if fields.get(each)), None)
    if not isinstance(name, str) or "\0" in name:
        raise ValueError("it has no path")
    return name


def _place(folder: Path, name: str, from_above: bool) -> Path:
    """The path of a sound in a list in `folder`.

    Args:
        from_above: audiocraft's lists have paths relative to where training is started, a parent folder.
    """
    if from_above and not (folder / name).exists():
        there = (above / name for above in folder.resolve().parents)
        return next((each for each in there if each.exists()), folder / name)
    return folder / name


def _says(fields: Fields) -> bool:
    """Whether a row has captions or tags."""
    return any(fields.get(name) not in (None, "", []) for name in _CAPTIONS)


def _read_folder(folder: Path) -> ClipList:
    clips: list[Clip] = []
    problems: list[Problem] = []
    listed = _Listed(folder, problems)
    for sound, beside in _sounds(folder, problems, listed.read):
        where = str(sound.relative_to(folder))
        rows = listed.take(sound)
        said = [fields for fields in rows if _says(fields)]
        try:
            if not said:
                said = [{**_sidecar(sound, beside), **(rows[0] if rows else {})}]
            each = [_clip(sound, folder, fields, where, problems) for fields in said]
            clips.append(functools.reduce(_merged, each))
        except (OSError, ValueError) as error:
            problems.append(Problem(where, _why(error)))
    listed.end()
    return ClipList(tuple(clips), tuple(problems))


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"what is beside it cannot be read: {reading.reason(error)}"
    return str(error)


class _Listed:
    """Captions and tags from lists in a folder."""

    def __init__(self, folder: Path, problems: list[Problem]) -> None:
        self._folder, self._problems = folder, problems
        self._rows: dict[str, list[tuple[str, Fields]]] = {}  # sound -> its rows, with their places

    def read(self, metadata: Path) -> None:
        """Read a list, before the sounds that it names."""
        name = str(metadata.relative_to(self._folder))
        try:
            for number, fields in rows_of(metadata):
                where = f"{name}:{number}"
                try:
                    if isinstance(fields, ValueError):
                        raise fields
                    sound = os.path.normpath(metadata.parent / _name(fields))
                except ValueError as error:
                    self._problems.append(Problem(where, str(error)))
                    continue
                self._rows.setdefault(sound, []).append((where, fields))
        except (OSError, ValueError) as error:
            self._problems.append(Problem(name, f"it cannot be read: {reading.reason(error)}"))

    def take(self, sound: Path) -> list[Fields]:
        """The rows of a sound."""
        return [fields for _, fields in self._rows.pop(os.path.normpath(sound), [])]

    def end(self) -> None:
        """Report sounds that were listed but not found."""
        for where, fields in (row for rows in self._rows.values() for row in rows):
            what = f"there is no sound {reading.shown(_name(fields), 100)}"
            self._problems.append(Problem(where, what))


def sound_files(folder: Path) -> Iterator[Path]:
    """Sound files under a folder, sorted, so that every machine sees the same order."""
    return (sound for sound, _ in _sounds(folder, [], lambda metadata: None))


def _sounds(
    folder: Path, problems: list[Problem], on_list: Callable[[Path], None]
) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Yield sound files under a folder, sorted, so that every machine sees the same order, each with the
    texts of its folder by lower-case name. `on_list` is called for lists before the sounds at and below them.
    """

    def unreadable(error: OSError) -> None:
        where = os.path.relpath(error.filename, folder)
        problems.append(Problem(where, f"the folder cannot be read: {error.strerror}"))

    for root, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(root)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (here / name).is_symlink():
                what = "it is a link to a folder, which is not followed: give that, too"
                problems.append(Problem(str((here / name).relative_to(folder)), what))
        for name in METADATA:
            if name in names:
                on_list(here / name)
        seen = [Path(name) for name in sorted(names) if not name.startswith(".")]
        texts = {each.name.lower(): here / each for each in seen if _is_text(each)}
        sounds = [each for each in seen if each.suffix.lower() in SOUND_SUFFIXES]
        for each in sounds:
            # An exact match takes precedence over one that differs in case.
            own = {name: here / name for end in _TEXTS for name in (f"{each.stem}{end}",)}
            yield here / each, texts | {k.lower(): v for k, v in own.items() if v.name in names}
        taken = {each.stem.lower() for each in sounds}
        for each in seen:
            if _is_text(each) and each.stem.lower() not in taken and _is_caption(each, seen):
                where = str((here / each).relative_to(folder))
                problems.append(Problem(where, _no_sound(each, seen), skipped=False))


_TEXTS = (".json", ".txt")


def _is_text(name: Path) -> bool:
    return name.suffix.lower() in _TEXTS


def _is_caption(name: Path, beside: list[Path]) -> bool:
    """Whether a text without a sound is a caption rather than a README or the like."""
    return any(
        each.stem.lower() == name.stem.lower() and not _is_text(each) for each in beside
    ) or (name.suffix.lower() == ".txt" and name.stem.lower() not in ("readme", "license", "notes"))


def _no_sound(name: Path, beside: list[Path]) -> str:
    others = [each.name for each in beside if each.stem == name.stem and not _is_text(each)]
    if others:
        return f"it has no sound: {others[0]} is of no format that is known"
    return "it has no sound: none of its name is beside it"


def _beside(sound: Path) -> dict[str, Path]:
    """The texts that may describe a sound, as in `_sounds`."""
    texts = (sound.with_suffix(end) for end in _TEXTS)
    return {each.name.lower(): each for each in texts if each.is_file()}


def _sidecar(sound: Path, beside: dict[str, Path]) -> Fields:
    """The fields beside a sound: from .json, else .txt (one caption per line), else its own prompt."""
    stem = sound.stem.lower()
    described = beside.get(f"{stem}.json")
    if described is not None:
        return parse(reading.read_bytes(described))
    text = beside.get(f"{stem}.txt")
    if text is not None:
        lines = _utf8(text).splitlines()
        return {"caption": [line for line in lines if line.strip()]}
    if prompt := _prompt_in(sound):
        return {"caption": prompt}
    raise ValueError(
        f"it has no caption: neither {sound.stem}.txt nor {sound.stem}.json is beside it"
    )


def _prompt_in(sound: Path) -> str:
    """The prompt in a file made by magnet; empty for others, and for edits, whose prompt describes only a
    part."""
    if not sound.is_file():
        return ""
    with suppress(MagnetError), open_sound(sound) as opened:
        made = opened.metadata or {}
        prompt, edit = made.get("prompt"), made.get("edit")
        if isinstance(prompt, str) and not (isinstance(edit, dict) and "input" in edit):
            return prompt
    return ""


def _utf8(text: Path) -> str:
    """Read a text file. Raises ValueError: it is not UTF-8; names the encoding if known."""
    data = reading.read_bytes(text)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"its caption {text.name} is UTF-16 text: save it as UTF-8")
    if b"\0" in data:
        raise ValueError(f"its caption {text.name} holds a NUL: save it as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"its caption {text.name} is not UTF-8 (byte {error.start + 1}): save it as UTF-8"
        ) from error


def _merged(first: Clip, more: Clip) -> Clip:
    """Merge a clip with another line for the same sound, in the order of the lines."""
    captions = dict.fromkeys(first.captions + more.captions)
    return replace(
        first, captions=tuple(captions), tags=tuple(dict.fromkeys(first.tags + more.tags))
    )


def _id(path: Path, root: Path) -> str:
    """The path from `root`, which moves with the data and does not depend on the working directory."""
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive
        return Path(os.path.abspath(path)).as_posix()


def _clip(path: Path, root: Path, fields: Fields, where: str, problems: list[Problem]) -> Clip:
    # Several fields at once are common: a single caption, and a list of all.
    said = [text for name in _CAPTIONS for text in _texts(fields.get(name))]
    captions = [clean_caption(text) for text in said]
    captions = [text for text in dict.fromkeys(captions) if text]
    tags = _tags(fields.get("tags")) + _music_tags(fields)
    if not captions and tags and not said:
        captions = [". ".join(tags)]  # as training formats them when it drops the caption
    if not captions:
        raise ValueError("its caption is empty" if said else "it has no caption")
    if any(len(text) > MAX_CAPTION for text in captions):
        problems.append(Problem(where, f"a caption is cut to {MAX_CAPTION} characters", False))
        captions = [text[:MAX_CAPTION] for text in captions]
    return Clip(_id(path, root), path, tuple(captions), tags, _weight(fields.get("weight")))


def _weight(value: object) -> float:
    """audiocraft's `weight`, if a list has one: a number, or text in a table."""
    if value is None:
        return 1.0
    with suppress(ValueError):
        weight = float(value) if isinstance(value, str) else value
        if BOUNDS["weight"].holds(weight):
            return float(weight)  # type: ignore[arg-type]
    raise ValueError(f"its weight must be {BOUNDS['weight'].takes}")


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("caption must be a text or a list of texts")
    return texts


def clean_caption(text: str) -> str:
    """Remove control characters and lone surrogates from a caption, and collapse white space."""
    printable = "".join(
        c if c.isprintable() else " " for c in text if not "\ud800" <= c <= "\udfff"
    )
    return " ".join(printable.split())


def _tags(tags: object) -> tuple[str, ...]:
    if tags is None:
        return ()
    if isinstance(tags, dict):
        tags = [
            f"{name}: {_words(value)}" for name, value in tags.items() if value not in (None, "")
        ]
    if isinstance(tags, str):
        tags = tags.split(",")
    if not isinstance(tags, list):
        raise ValueError("tags must be an object, a list, or a text with commas")
    return tuple(text for tag in tags if (text := clean_caption(str(tag))))


def _music_tags(fields: Fields) -> tuple[str, ...]:
    """The tags among audiocraft's fields, if there is a description or keywords: other lists have a `key`,
    too."""
    if not fields.keys() & {"description", "keywords"}:
        return ()
    return _tags({name: fields.get(name) for name in _MUSIC if fields.get(name) != []})


def _words(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
