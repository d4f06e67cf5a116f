"""Writes a web page for a folder of clips: index.html, and pictures in a subfolder.

The page works from disk and any static host: its script and style are inline, sounds and pictures have
relative addresses and are loaded as they come into view. Text from prompts and files is data, never HTML,
and no other script can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from magnet_cli.audio.loudness import level_of
from magnet_cli.audio.pictures import SMALL, Portrait, thumbnail
from magnet_cli.audio.sound import Sound, open_sound
from magnet_cli.batch.jobs import WHOLE
from magnet_cli.batch.manifest import Manifest
from magnet_cli.data.manifests import sound_files
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.files import written
from magnet_cli.foreign.reading import shown

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

PAGE, PICTURES = "index.html", "thumbnails"

_OURS = re.compile(r'<meta name="magnet-gallery" content="([0-9a-f]{16})">')
_PICTURE = re.compile(r"[0-9a-f]{32}\.png")
_DRAWN = "1"  # change it to redraw all pictures
_STALE_SECONDS = 600.0  # a younger picture without a clip may be another process's


@dataclass(frozen=True)
class Told:
    """What the page shows about how a clip was made.

    Attributes:
        command: the command line that makes it again.
        again: the line of a prompt file that makes it again, without models.
        by: that line's models, needed if the clips have different ones.
    """

    prompt: str = ""
    negative: str | None = None
    seed: int | None = None
    model: str | None = None
    command: str | None = None
    again: Mapping[str, Any] | None = None
    by: Mapping[str, Any] | None = None


# (record in a file, the file's name, its suffix) -> what to show.
Tell = Callable[[Mapping[str, Any], str, str], Told]


@dataclass(frozen=True)
class Gallery:
    """The result of writing a page.

    Attributes:
        clips: number of clips on it.
        failed: number of clips that failed, by the manifest.
        missing: number of clips that are done, by the manifest, but whose files are missing.
        faults: (file, why) of sounds that could not be read.
    """

    page: Path
    clips: int
    failed: int
    missing: int
    faults: tuple[tuple[str, str], ...]


def check_page(folder: Path, force: bool) -> str | None:
    """The id of a folder's gallery, under which browsers keep its stars; None if there is no gallery.
    Raises UsageError: there is an index.html that is not a gallery, and `force` is off."""
    path = folder / PAGE
    if not os.path.lexists(path):
        return None
    found = None
    if path.is_file():
        try:
            with path.open("rb") as file:
                found = _OURS.search(file.read(2000).decode("utf-8", "replace"))
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}.", "Move it away, or make it readable."
            ) from error
    if path.is_dir() or (found is None and not force):
        raise UsageError(
            f"{path} exists and is not a gallery.", "Move it away, or replace it with --force."
        )
    return found[1] if found else None


def write_gallery(
    folder: Path,
    tell: Tell,
    title: str | None = None,
    force: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, count: None,
) -> Gallery:
    """Write the page for all sounds in a folder and its subfolders, with missing pictures.

    Args:
        folder: a batch's folder, or any folder of sounds.
        tell: turns a file's record into what is shown.
        title: the page's title; None: the folder's name.
        force: replace an index.html that is not a gallery.
        on_clip: called with the clips read and the total.

    Raises:
        UsageError: there is no such folder, it has no sounds, or its index.html is not a gallery.
        MagnetError: files cannot be written.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"There is no folder {folder}.", "Give a folder of clips.")
    identity = check_page(folder, force) or secrets.token_hex(8)
    noted = Manifest.read(folder, WHOLE).clips
    files = {path.relative_to(folder).as_posix(): path for path in sound_files(folder)}
    if not files:
        raise UsageError(
            f"{folder} has no sounds.", "Make some with magnet batch prompts.txt -O DIR."
        )
    order = sorted(files, key=lambda file: (_index(noted.get(file)), file))
    clips: list[dict[str, Any]] = []
    faults: list[tuple[str, str]] = []
    for done, file in enumerate(order, start=1):
        try:
            clips.append(_clip(folder, file, files[file], tell))
        except MagnetError as error:
            faults.append((file, error.message))
        on_clip(done, len(files))
    if len({json.dumps(clip["by"]) for clip in clips if clip["by"]}) < 2:
        for clip in clips:
            del clip["by"]  # the next command chooses the model
    lost = [clip for file, clip in noted.items() if file not in files]
    failed = [clip for clip in lost if clip["status"] == "failed"]
    data = {
        "id": identity,
        "title": title or folder.resolve().name or "Clips",
        "folder": folder.as_posix(),  # as the next batch needs it
        "clips": clips,
        "failed": [_problem(clip["file"], clip.get("error")) for clip in failed]
        + [_problem(*fault) for fault in faults],
    }
    with written(folder / PAGE) as partial:
        partial.write_text(_page(data), "utf-8")
    _remove_stale(folder / PICTURES, {clip["picture"] for clip in clips})
    missing = len(lost) - len(failed)
    return Gallery(folder / PAGE, len(clips), len(failed), missing, tuple(faults))


def _index(clip: Mapping[str, Any] | None) -> float:
    index = clip.get("index") if clip else None
    return index if isinstance(index, int) else math.inf


def _problem(file: str, why: object) -> dict[str, str]:
    return {"file": shown(file, 300), "problem": shown(str(why or "unknown reason"), 500)}


def _clip(folder: Path, file: str, path: Path, tell: Tell) -> dict[str, Any]:
    """The page's data for a clip. Raises MagnetError: the clip cannot be read, or its picture not written."""
    if not path.is_file():
        raise UsageError("It is not a file.", "Remove it.")
    status = path.stat()
    with open_sound(path) as sound:
        told = tell(sound.metadata, path.name, path.suffix[1:]) if sound.metadata else Told()
        name = os.fsencode(file) + f"\0{status.st_size} {status.st_mtime_ns} {_DRAWN}".encode()
        picture = f"{PICTURES}/{hashlib.sha256(name).hexdigest()[:32]}.png"
        heard = _known(folder / picture) or _drawn(sound, folder / picture)
        return {
            "file": shown(file),
            "src": quote(os.fsencode(file)),
            "picture": picture,
            "prompt": told.prompt,
            "negative": told.negative,
            "seed": told.seed,
            "model": told.model,
            "seconds": round(sound.duration, 3),
            "lufs": heard["lufs"],
            "peak": heard["peak"],
            "rate": sound.sample_rate,
            "channels": sound.channels,
            "at": status.st_mtime_ns // 1_000_000,
            "command": told.command,
            "again": told.again,
            "by": told.by,
        }


def _drawn(sound: Sound, place: Path) -> dict[str, float | None]:
    """Draw a sound, and store its loudness in the picture, as measuring takes as long as drawing.
    Raises MagnetError: the sound cannot be read, or the picture cannot be written."""
    portrait = Portrait(sound.length, sound.sample_rate, *SMALL)
    blocks = portrait.watched(sound.blocks(checked=False))
    level = level_of(blocks, sound.channels, sound.sample_rate)
    heard = {"lufs": _finite(level.lufs), "peak": _finite(level.peak)}
    with written(place, make_folder=True) as partial:
        thumbnail(portrait).save(partial, format="PNG", pnginfo=_note(heard))
    return heard


def _note(heard: Mapping[str, float | None]) -> PngInfo:
    from PIL.PngImagePlugin import PngInfo

    note = PngInfo()
    note.add_text("magnet", json.dumps(heard))
    return note


def _known(place: Path) -> dict[str, float | None] | None:
    """A sound's loudness as stored in its picture, or None."""
    from PIL import Image

    try:
        with Image.open(place, formats=["PNG"]) as image:
            heard = json.loads(image.info.get("magnet", ""))
        values = {name: heard[name] for name in ("lufs", "peak")}
    except (OSError, ValueError, KeyError, TypeError, SyntaxError):
        return None
    fits = all(value is None or _is_level(value) for value in values.values())
    return values if fits else None


def _is_level(value: object) -> bool:
    return isinstance(value, float) and -1000 < value < 1000


def _finite(value: float | None) -> float | None:
    return round(float(value), 2) if value is not None and math.isfinite(value) else None


def _page(data: Mapping[str, Any]) -> str:
    """The page with its data, escaped so that it cannot end the script; no other script can run."""
    text = (Path(__file__).parent.parent / "assets" / "gallery" / PAGE).read_text("utf-8")
    for kind, tag in (("SCRIPT", "script"), ("STYLE", "style")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        text = text.replace(f"{kind}-HASH", f"sha256-{digest}", 1)
    text = text.replace("IDENTITY", data["id"], 1)
    known = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return text.replace('{"clips": null}', known, 1)


def _remove_stale(folder: Path, used: set[str]) -> None:
    """Remove pictures of clips that no longer exist, and no other files."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if f"{PICTURES}/{path.name}" in used or not _PICTURE.fullmatch(path.name):
            continue
        try:
            if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                path.unlink()
        except OSError:
            continue  # harmless
