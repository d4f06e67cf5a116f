"""Captioned clips: a JSONL manifest, or a folder of sounds with captions beside them.

A manifest line is an object: `path` (relative to the manifest), `caption` or `captions` or both (a
text, or a list of texts that say the same in other words; all of them count), and optional `tags`
(an object or a list of texts). Lines of one path are one clip with what all of them say, so that one
line for each caption is as good as one for each sound. A folder is searched for sounds; `sound.txt`
(one caption a line) or `sound.json` (the object of a manifest line, without `path`) beside `sound.wav`
holds its captions.

What is broken is a `Problem` with its place, never an exception for the whole: one bad line among
thousands costs that line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magnet_cli.audio import foreign_sound
from magnet_cli.errors import DataError
from magnet_cli.foreign import reading

_MOST_MANIFEST = 2_000_000_000  # bytes: a line has some hundreds

# What libsndfile reads, and what ffmpeg does where it is installed.
SOUND_SUFFIXES = foreign_sound.SUFFIXES | {
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
}
MAX_CAPTION = 4096  # characters; what is longer is cut, and said


@dataclass(frozen=True)
class Clip:
    """A sound and what is said of it."""

    id: str  # its path from the manifest's folder, or the folder given: the same however it is spelled
    path: Path
    captions: tuple[str, ...]  # the same in other words; one is drawn each time
    tags: tuple[str, ...] = ()  # "tempo: 120", "rock"; merged into the caption in training


@dataclass(frozen=True)
class Problem:
    """Something that is broken, and where."""

    where: str  # a file, or manifest:line
    what: str
    skipped: bool = True  # False: a warning, the clip is used all the same


@dataclass(frozen=True)
class ClipList:
    """What was found: clips in a stable order, and what was wrong with the rest."""

    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...]
    merged: int = 0  # manifest lines that said more of a clip that an earlier line had named


def read_clips(source: str | os.PathLike[str]) -> ClipList:
    """Clips of a manifest or a folder.
    Raises DataError: there is no such manifest or folder, or it cannot be read."""
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_manifest(path)
    raise DataError(
        f"There is no manifest or folder at {path}.",
        "Give a .jsonl manifest, or a folder of sounds with .txt captions beside them.",
    )


def _read_manifest(manifest: Path) -> ClipList:
    clips: dict[str, Clip] = {}
    problems: list[Problem] = []
    merged = 0
    try:
        # Bytes that are not UTF-8 break their own line, not the file.
        lines = reading.read_bytes(manifest, _MOST_MANIFEST).split(b"\n")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{manifest} cannot be read: {reading.reason(error)}.", "Check the file."
        ) from error
    lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{manifest.name}:{number}"
        try:
            fields = _parse(line)
            name = fields.get("path")
            if not isinstance(name, str) or not name or "\0" in name:
                raise ValueError("it has no path")
            clip = _clip(manifest.parent / name, manifest.parent, fields, where, problems)
        except ValueError as error:
            problems.append(Problem(where, str(error)))
            continue
        merged += clip.id in clips
        clips[clip.id] = _merged(clips[clip.id], clip) if clip.id in clips else clip
    return ClipList(tuple(clips.values()), tuple(problems), merged)


def _read_folder(folder: Path) -> ClipList:
    clips: list[Clip] = []
    problems: list[Problem] = []
    for sound, beside in _sounds(folder, problems):
        where = str(sound.relative_to(folder))
        try:
            clips.append(_clip(sound, folder, _sidecar(sound, beside), where, problems))
        except ValueError as error:
            problems.append(Problem(where, str(error)))
        except OSError as error:
            what = f"what is beside it cannot be read: {reading.reason(error)}"
            problems.append(Problem(where, what))
    return ClipList(tuple(clips), tuple(problems))


def sound_files(folder: Path) -> Iterator[Path]:
    """Sound files under a folder, sorted, so that every machine sees the same order."""
    return (sound for sound, _ in _sounds(folder, []))


def _sounds(folder: Path, problems: list[Problem]) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Sound files under a folder, sorted, so that every machine sees the same order, each with the
    texts of its folder by their names in small letters. What is passed over is a problem."""

    def unreadable(error: OSError) -> None:
        where = os.path.relpath(error.filename, folder)
        problems.append(Problem(where, f"the folder cannot be read: {error.strerror}"))

    for root, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(root)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (here / name).is_symlink():
                where = str((here / name).relative_to(folder))
                problems.append(
                    Problem(
                        where, "it is a link to a folder, which is not followed: give that, too"
                    )
                )
        seen = [Path(name) for name in sorted(names) if not name.startswith(".")]
        texts = {each.name.lower(): here / each for each in seen if _is_text(each)}
        sounds = [each for each in seen if each.suffix.lower() in SOUND_SUFFIXES]
        for each in sounds:
            # The very name comes first, where another differs only in capitals.
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


def _sidecar(sound: Path, beside: dict[str, Path]) -> dict[str, Any]:
    """The fields beside a sound: .json first, then .txt, one caption a line."""
    stem = sound.stem.lower()
    described = beside.get(f"{stem}.json")
    if described is not None:
        return _parse(reading.read_bytes(described).removeprefix(b"\xef\xbb\xbf"))
    text = beside.get(f"{stem}.txt")
    if text is not None:
        lines = _utf8(text).splitlines()
        return {"caption": [line for line in lines if line.strip()]}
    raise ValueError(
        f"it has no caption: neither {sound.stem}.txt nor {sound.stem}.json is beside it"
    )


def _utf8(text: Path) -> str:
    """What is in a text file. Raises ValueError: it is of another encoding, with its name."""
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


def _parse(line: bytes) -> dict[str, Any]:
    # What is no number stands for nothing: the fields that are read here are texts.
    fields = reading.json_of(line, invalid=True)
    if not isinstance(fields, dict):
        raise ValueError(f"it is not a JSON object but {reading.kind_of(fields)}")
    return fields


def _merged(first: Clip, more: Clip) -> Clip:
    """A clip with what another line says of it, in the order of the lines."""
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


def _clip(
    path: Path, root: Path, fields: dict[str, Any], where: str, problems: list[Problem]
) -> Clip:
    # Both names at once is common: one caption that stands for all, and all of them.
    said = [*_texts(fields.get("caption")), *_texts(fields.get("captions"))]
    captions = [clean_caption(text) for text in said]
    captions = [text for text in dict.fromkeys(captions) if text]
    if not captions:
        raise ValueError("its caption is empty" if said else "it has no caption")
    if any(len(text) > MAX_CAPTION for text in captions):
        problems.append(Problem(where, f"a caption is cut to {MAX_CAPTION} characters", False))
        captions = [text[:MAX_CAPTION] for text in captions]
    return Clip(_id(path, root), path, tuple(captions), _tags(fields.get("tags")))


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("caption must be a text or a list of texts")
    return texts


def clean_caption(text: str) -> str:
    """A caption without control characters and lone surrogates, its white space collapsed."""
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
    if not isinstance(tags, list):
        raise ValueError("tags must be an object or a list")
    return tuple(text for tag in tags if (text := clean_caption(str(tag))))


def _words(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
