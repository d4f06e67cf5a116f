"""Sets of clips to measure: folders of batches, or of sounds with captions."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.batch.jobs import WHOLE
from magnet_cli.batch.manifest import Manifest
from magnet_cli.data.manifests import clean_caption, read_clips, sound_files
from magnet_cli.errors import UsageError
from magnet_cli.targets import MANIFEST_STEM, check_relative


@dataclass(frozen=True)
class Fault:
    """A clip that was left out, and why; or a warning."""

    where: str
    what: str
    left_out: bool = True  # False: a warning, every clip is used


@dataclass(frozen=True)
class Item:
    """A clip to measure."""

    path: Path
    captions: tuple[str, ...] = ()  # paraphrases of one prompt; empty if the prompt is unknown

    @property
    def prompt(self) -> str | None:
        """The first caption, or None."""
        return self.captions[0] if self.captions else None


@dataclass(frozen=True)
class ClipSet:
    """The clips of a folder."""

    name: str
    folder: Path
    items: tuple[Item, ...]
    faults: tuple[Fault, ...] = ()


def read_set(folder: Path, name: str | None = None, only: Container[str] | None = None) -> ClipSet:
    """Read a batch's folder by its manifest, or all sounds of any other folder.

    Args:
        folder: the folder of clips.
        name: the set's name; None: the folder's.
        only: a batch's files to take; None: all.

    Raises:
        UsageError: there is no such folder, or it has no clips.
    """
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {str(folder)[:200]!r}.",
            "Give a folder made by magnet batch, or one of sounds with .txt captions.",
        )
    if any(folder.glob(f"{MANIFEST_STEM}*.jsonl")):
        items, faults = _of_batch(folder, only)
    else:
        items, faults = _of_sounds(folder)
    if not items:
        raise UsageError(
            f"{folder} has no clips to measure.", "Make some with magnet batch prompts.txt -O DIR."
        )
    return ClipSet(name or folder.resolve().name, folder, tuple(items), tuple(faults))


def name_apart(folders: Sequence[Path]) -> list[str]:
    """A distinct name for each folder: the last part of its path, or more where that is ambiguous."""
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


def _of_batch(folder: Path, only: Container[str] | None) -> tuple[list[Item], list[Fault]]:
    items, faults = [], []
    manifest = Manifest.read(folder, WHOLE)
    if manifest.damaged:
        faults.append(Fault(str(manifest.path), f"{manifest.damaged} lines cannot be read", False))
    for file, record in sorted(manifest.clips.items()):
        path = folder / file
        if only is not None and file not in only:
            continue
        try:
            check_relative(file)
        except UsageError as error:  # the manifest is untrusted
            faults.append(Fault(file, error.message))
            continue
        if record["status"] != "done":
            faults.append(Fault(file, "the batch could not make it"))
        elif not path.is_file():
            faults.append(Fault(file, "it is in the manifest but not in the folder"))
        elif isinstance(size := record.get("bytes"), int) and path.stat().st_size < size:
            faults.append(
                Fault(file, "it is smaller than when written; remove it to make it again")
            )
        else:
            prompt = record.get("prompt")
            caption = clean_caption(prompt) if isinstance(prompt, str) else ""
            items.append(Item(path, (caption,) if caption else ()))
    return items, faults


def _of_sounds(folder: Path) -> tuple[list[Item], list[Fault]]:
    found = read_clips(folder)
    captions = {clip.path: clip.captions for clip in found.clips}
    items = [Item(path, captions.get(path, ())) for path in sound_files(folder)]
    # A sound without a caption can be measured by metrics that need none, so it is no fault.
    silent = {str(item.path.relative_to(folder)) for item in items if not item.captions}
    faults = [
        Fault(problem.where, problem.what, problem.skipped)
        for problem in found.problems
        if problem.where not in silent or "no caption" not in problem.what
    ]
    # A pipe would be waited for, and a device has no end.
    odd = [item for item in items if not item.path.is_file()]
    faults += [Fault(str(item.path), "it is not a file") for item in odd]
    return [item for item in items if item not in odd], faults


def prompts_of(sets: Iterable[ClipSet]) -> dict[str, str]:
    """Map each caption to a canonical one, the same for all captions of one clip.

    A clip of the reference may have several captions, and a system may have answered any of them.
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
