"""A page to look and listen through a folder of clips: index.html beside the manifest, pictures below it.

The page works from a disk and from any host of files: its script and style are inside, sounds and
pictures are named from where it lies, and both are fetched as they come into view. What stands in
prompts and files is data in it, never HTML, and no other script may run.
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
from collections.abc import Callable, Iterator, Mapping
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
_DRAWN = "1"  # another number makes all pictures again
_STALE_SECONDS = 600.0  # a picture of no clip may be of one that another process has just made


@dataclass(frozen=True)
class Told:
    """What is shown of how a clip was made.

    Attributes:
        command: the command line that makes it again.
        again: the line of a prompt file that does, but for its models.
        by: what that line says of these, where others are made by others.
    """

    prompt: str = ""
    negative: str | None = None
    seed: int | None = None
    model: str | None = None
    command: str | None = None
    again: Mapping[str, Any] | None = None
    by: Mapping[str, Any] | None = None


# What a file's record says, the record's own name and what files of its format end in.
Tell = Callable[[Mapping[str, Any], str, str], Told]


@dataclass(frozen=True)
class Gallery:
    """A page that was written.

    Attributes:
        clips: how many are on it.
        failed: clips of which the manifest says that they could not be made.
        missing: clips that the manifest calls done, and that are not there.
        faults: (file, why) of sounds that could not be read.
    """

    page: Path
    clips: int
    failed: int
    missing: int
    faults: tuple[tuple[str, str], ...]


def check_page(folder: Path, force: bool) -> str | None:
    """The identity of the gallery that a folder has, by which browsers keep its stars; None: it has none.

    Raises:
        UsageError: there is an index.html that is no gallery, and `force` is off.
    """
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
                f"{path} cannot be read: {error.strerror}.", "Move it away, or let it be read."
            ) from error
    if path.is_dir() or (found is None and not force):
        raise UsageError(
            f"{path} is there, and is not a gallery.", "Move it away, or replace it with --force."
        )
    return found[1] if found else None


def write_gallery(
    folder: Path,
    tell: Tell,
    title: str | None = None,
    force: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, count: None,
) -> Gallery:
    """Write the page of all sounds in a folder and below, and the pictures that are missing.

    Args:
        folder: of a batch, or of any sounds.
        tell: says how a clip was made from what its file says.
        title: what it is called; None: as the folder.
        force: an index.html that is no gallery is replaced.
        on_clip: told how many of how many clips are read.

    Raises:
        UsageError: there is no such folder, no sound in it, or an index.html of someone else.
        MagnetError: files cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Give a folder of clips.")
    identity = check_page(folder, force) or secrets.token_hex(8)
    noted = Manifest.read(folder, WHOLE).clips
    files = {path.relative_to(folder).as_posix(): path for path in sound_files(folder)}
    if not files:
        raise UsageError(
            f"{folder} holds no sound.", "A batch makes some: magnet batch prompts.txt -O DIR."
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
            del clip["by"]  # a line leaves it to the next command
    lost = [clip for file, clip in noted.items() if file not in files]
    failed = [clip for clip in lost if clip["status"] == "failed"]
    data = {
        "id": identity,
        "title": title or folder.resolve().name or "Clips",
        "folder": folder.as_posix(),  # where the next batch, from the same place, finds the clips
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
    return {"file": shown(file, 300), "problem": shown(str(why or "no reason is known"), 500)}


def _clip(folder: Path, file: str, path: Path, tell: Tell) -> dict[str, Any]:
    """What the page has of a clip.

    Raises:
        MagnetError: it cannot be read, or its picture cannot be written.
    """
    if not path.is_file():
        raise UsageError("It is not a file.", "Take it away.")
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
    """Draw a sound; the picture keeps how loud it is, which takes as long to find out.

    Raises:
        MagnetError: the sound cannot be read, or the picture cannot be written.
    """
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
    """How loud a sound is, from the picture that was drawn of it; None: there is none that says it."""
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
    """The page with its data; what could end the data is escaped, and no other script may run."""
    text = (Path(__file__).parent.parent / "assets" / "gallery" / PAGE).read_text("utf-8")
    for kind, tag in (("SCRIPT", "script"), ("STYLE", "style")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        text = text.replace(f"{kind}-HASH", f"sha256-{digest}", 1)
    text = text.replace("IDENTITY", data["id"], 1)
    known = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return text.replace('{"clips": null}', known, 1)


def _remove_stale(folder: Path, used: set[str]) -> None:
    """Remove the pictures of clips that are not there any more; no other files."""
    for path in _files(folder):
        if f"{PICTURES}/{path.name}" in used or not _PICTURE.fullmatch(path.name):
            continue
        try:
            if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                path.unlink()
        except OSError:
            continue  # it costs some room


def _files(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())
