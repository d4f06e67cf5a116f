"""Folders of clips that are measured together: batches, or sounds with their captions beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.batch.jobs import WHOLE
from magnet_cli.batch.manifest import Manifest
from magnet_cli.data.manifests import clean_caption, read_clips, sound_files
from magnet_cli.errors import UsageError
from magnet_cli.targets import MANIFEST_STEM, check_relative


@dataclass(frozen=True)
class Fault:
    """A clip that was left out, and why."""

    where: str
    what: str


@dataclass(frozen=True)
class Item:
    """A clip to measure."""

    path: Path
    captions: tuple[
        str, ...
    ] = ()  # the same in other words; none: it is not known what was asked for

    @property
    def prompt(self) -> str | None:
        """The caption that stands for all."""
        return self.captions[0] if self.captions else None


@dataclass(frozen=True)
class ClipSet:
    """The clips of a folder."""

    name: str
    folder: Path
    items: tuple[Item, ...]
    faults: tuple[Fault, ...] = ()


def read_set(folder: Path, name: str | None = None) -> ClipSet:
    """The clips of a batch's folder by its manifest, or all sounds of any other folder.

    Args:
        folder: where they are.
        name: what to call the set; None: as the folder.

    Raises:
        UsageError: there is no such folder, or no clip in it.
    """
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {str(folder)[:200]!r}.",
            "Give a folder of magnet batch, or one of sounds with .txt captions beside them.",
        )
    if any(folder.glob(f"{MANIFEST_STEM}*.jsonl")):
        items, faults = _of_batch(folder)
    else:
        items, faults = _of_sounds(folder)
    if not items:
        raise UsageError(
            f"{folder} holds no clip to measure.",
            "A batch makes some: magnet batch prompts.txt -O DIR.",
        )
    return ClipSet(name or folder.resolve().name, folder, tuple(items), tuple(faults))


def name_apart(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: its last part, or as much of its path as tells it from the others."""
    paths = [folder.resolve() for folder in folders]
    names = []
    for path in paths:
        depth = 1
        while depth < len(path.parts) and any(
            other != path and other.parts[-depth:] == path.parts[-depth:] for other in paths
        ):
            depth += 1
        names.append("/".join(path.parts[-depth:]))
    if len(set(names)) < len(names):
        raise UsageError("A folder is given twice.", "Name each folder once.")
    return names


def _of_batch(folder: Path) -> tuple[list[Item], list[Fault]]:
    items, faults = [], []
    manifest = Manifest.read(folder, WHOLE)
    if manifest.damaged:
        faults.append(Fault(str(manifest.path), f"{manifest.damaged} lines cannot be read"))
    for file, record in sorted(manifest.clips.items()):
        path = folder / file
        try:
            check_relative(file)
        except UsageError as error:  # a manifest may be anyone's
            faults.append(Fault(file, error.message))
            continue
        if record["status"] != "done":
            faults.append(Fault(file, "the batch could not make it"))
        elif not path.is_file():
            faults.append(Fault(file, "the manifest names it, and it is not there"))
        else:
            prompt = record.get("prompt")
            caption = clean_caption(prompt) if isinstance(prompt, str) else ""
            items.append(Item(path, (caption,) if caption else ()))
    return items, faults


def _of_sounds(folder: Path) -> tuple[list[Item], list[Fault]]:
    found = read_clips(folder)
    captions = {clip.path: clip.captions for clip in found.clips}
    items = [Item(path, captions.get(path, ())) for path in sound_files(folder)]
    # A sound without a caption can still be measured as sound; other things that are wrong are said.
    silent = {str(item.path.relative_to(folder)) for item in items if not item.captions}
    faults = [
        Fault(problem.where, problem.what)
        for problem in found.problems
        if problem.where not in silent or "no caption" not in problem.what
    ]
    return items, faults


def prompts_of(sets: Iterable[ClipSet]) -> dict[str, str]:
    """For each caption of any clip, the one that stands for it and for all that mean the same clip.

    A reference's clip may have several captions, each of which a system may have answered.
    """
    stands: dict[str, str] = {}

    def root(caption: str) -> str:
        while stands.setdefault(caption, caption) != caption:
            caption = stands[caption]
        return caption

    for item in (item for one in sets for item in one.items):
        for caption in item.captions:
            first, second = sorted([root(item.captions[0]), root(caption)])
            stands[second] = first
    return {caption: root(caption) for caption in list(stands)}
