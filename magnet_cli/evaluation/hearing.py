"""Runs judges over sets of sounds, with a cache on disk keyed by the content of each file.

A file that is copied, renamed or measured by another command is not computed again. The cache lies in
the user's cache folder (platformdirs) and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor

from magnet_cli.audio.sound import is_silent, mono_of, open_sound, resample
from magnet_cli.checkpoints.registry import hashed
from magnet_cli.errors import AudioFileError, MagnetError, UsageError
from magnet_cli.evaluation.embedders import Judge, windows_of
from magnet_cli.evaluation.sets import ClipSet, Fault, prompts_of
from magnet_cli.files import atomic_path
from magnet_cli.foreign import reading
from magnet_cli.foreign.reading import ReadError

_AT_ONCE = 8  # windows

Listen = Callable[[Sequence[Tensor]], Tensor]  # windows -> one row per window


class Cache:
    """Judges' outputs on disk, by judge and content of the sound file."""

    def __init__(self, folder: Path | None) -> None:
        """Use a folder; None keeps nothing."""
        self._folder = folder

    def get(self, judge: Judge, content: str) -> Tensor | None:
        """The stored rows; None if there are none that can be used."""
        if self._folder is None:
            return None
        with suppress(Exception):  # a damaged file may raise anything
            rows = torch.from_numpy(np.load(self._path(judge, content), allow_pickle=False))
            if rows.dtype == torch.float32 and _are_rows(rows):
                return rows
        return None

    def put(self, judge: Judge, content: str, rows: Tensor) -> None:
        """Store rows; failures to write are ignored."""
        if self._folder is None:
            return
        path = self._path(judge, content)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial:
                np.save(partial, rows.numpy())

    def _path(self, judge: Judge, content: str) -> Path:
        assert self._folder is not None
        of = hashlib.sha256(judge.identity.encode()).hexdigest()[:16]
        return self._folder / of / content[:2] / f"{content[2:]}.npy"


def user_cache() -> Cache:
    """A cache in the user's cache folder."""
    return Cache(Path(platformdirs.user_cache_dir("magnet", appauthor=False)) / "embeddings")


class Heard:
    """A sound file for judges: read once, resampled only for judges that have no cached rows."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises AudioFileError: it cannot be read or is silent."""
        self._path, self.content = path, content_hash(path)
        with open_sound(path) as sound:
            self._samples, self._rate = mono_of(sound.read())[0], sound.sample_rate
        if is_silent(self._samples):
            raise AudioFileError(f"{path} is silent.", "Make it again.")

    def rows(self, judge: Judge, listen: Listen, cache: Cache) -> Tensor:
        """A judge's rows [windows, D], from the cache if possible."""
        kept = cache.get(judge, self.content)
        if kept is not None:
            return kept
        samples = resample(self._samples, self._rate, judge.sample_rate)[0]
        rows = heard_rows(windows_of(torch.from_numpy(samples.copy()), judge.window), listen)
        if not _are_rows(rows):
            what = f"{judge.name} returns NaN or infinite values for {self._path}."
            raise AudioFileError(what, "Try --device cpu.")
        cache.put(judge, self.content, rows)
        return rows


def heard_rows(windows: Sequence[Tensor], listen: Listen) -> Tensor:
    """Run a judge over windows in small batches: [windows, D].
    Raises MagnetError: it does not return one row per window."""
    parts = [listen(windows[i : i + _AT_ONCE]) for i in range(0, len(windows), _AT_ONCE)]
    rows = torch.cat(parts).float().cpu()
    if rows.dim() != 2 or len(rows) != len(windows):
        raise MagnetError(
            f"The judge returned {list(rows.shape)} for {len(windows)} windows.",
            "It should return [windows, D] (docs/evaluation.md).",
        )
    return rows


def _are_rows(rows: Tensor) -> bool:
    return rows.dim() == 2 and len(rows) > 0 and bool(torch.isfinite(rows).all())


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises AudioFileError: it cannot be read."""
    try:
        return hashed(path).hex()
    except (OSError, ReadError) as error:
        reason = reading.reason(error)
        raise AudioFileError(f"{path} cannot be read: {reason}.", "Check the name.") from error


@dataclass(frozen=True)
class HeardSet:
    """A set of clips with the judges' rows.

    Attributes:
        units: the unit of each clip: one number per prompt, and one per clip without a prompt.
        captions: those of each clip; empty if its prompt is unknown.
        heard: rows [windows, D] of each clip, by the judge's identity.
    """

    name: str
    units: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    heard: dict[str, list[Tensor]]

    def windows(self, judge: Judge) -> tuple[Tensor, tuple[int, ...]]:
        """Rows of all windows [N, D], and the unit of each row."""
        clips = self.heard[judge.identity]
        units = tuple(u for u, clip in zip(self.units, clips, strict=True) for _ in clip)
        return torch.cat(clips), units

    def pooled(self, judge: Judge) -> list[tuple[int, Tensor, tuple[str, ...]]]:
        """Each clip's unit, its row [D], averaged over its windows, and its captions."""
        rows = [clip.mean(0) for clip in self.heard[judge.identity]]
        return list(zip(self.units, rows, self.captions, strict=True))


@dataclass(frozen=True)
class Hearing:
    """Sets with the judges' rows, sharing one numbering of units.

    Attributes:
        captions: the caption of each unit, or None.
        faults: (set name, fault) of clips that could not be used.
    """

    systems: tuple[HeardSet, ...]
    reference: HeardSet | None
    captions: tuple[str | None, ...]
    faults: tuple[tuple[str, Fault], ...]


OnClip = Callable[[int, int], None]  # clips done, clips in all


def hear_sets(
    systems: Sequence[ClipSet],
    reference: ClipSet | None,
    listeners: Sequence[tuple[Judge, Listen]],
    cache: Cache,
    on_clip: OnClip | None = None,
) -> Hearing:
    """Run all judges over all clips; files that are silent or cannot be read are listed and left out.
    So are systems of fewer than two clips. Raises UsageError: the first system or the reference is one."""
    sets = [*systems, *([reference] if reference is not None else [])]
    faults = [(one.name, fault) for one in sets for fault in one.faults]
    total, done = sum(len(one.items) for one in sets), 0
    stands = prompts_of(sets)
    found: list[tuple[str, list[_HeardClip]]] = []
    for one in sets:
        clips = []
        for item in one.items:
            try:
                heard = Heard(item.path)
                rows = {j.identity: heard.rows(j, listen, cache) for j, listen in listeners}
                unit = stands[item.prompt] if item.prompt else f"\0{heard.content}"
                clips.append(_HeardClip(unit, item.captions, heard.content, rows))
            except AudioFileError as error:
                faults.append((one.name, Fault(str(item.path), error.message)))
            done += 1
            if on_clip is not None:
                on_clip(done, total)
        if len(clips) < 2 and not (one is sets[0] or one is reference):
            faults.append((one.name, Fault("", "fewer than two of its clips can be measured")))
            continue
        if len(clips) < 2:
            why = "".join(f" {fault.what}" for name, fault in faults[-1:] if name == one.name)
            raise UsageError(
                f"Fewer than two clips of {one.name} can be measured.{why}",
                "Use folders of at least about a hundred clips.",
            )
        found.append((one.name, clips))
    # Ordered by a hash, so that halves and parts do not depend on the files' order or the prompts' text.
    names = {clip.unit for _, clips in found for clip in clips}
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    numbers = {name: number for number, name in enumerate(order)}
    heard_sets = [_set(name, numbers, clips) for name, clips in found]
    last = heard_sets.pop() if reference is not None else None
    captions = tuple(None if name.startswith("\0") else name for name in order)
    return Hearing(tuple(heard_sets), last, captions, tuple(faults))


@dataclass(frozen=True)
class _HeardClip:
    unit: str  # the canonical caption of its prompt; without one, NUL and the content's hash
    captions: tuple[str, ...]
    content: str
    rows: dict[str, Tensor]


def _set(name: str, numbers: dict[str, int], clips: Sequence[_HeardClip]) -> HeardSet:
    clips = sorted(clips, key=lambda clip: (numbers[clip.unit], clip.content))
    return HeardSet(
        name,
        tuple(numbers[clip.unit] for clip in clips),
        tuple(clip.captions for clip in clips),
        {identity: [clip.rows[identity] for clip in clips] for identity in clips[0].rows},
    )
