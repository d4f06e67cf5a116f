"""Decides which clips of a batch to make, and which an earlier run has made."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magnet_cli.audio.sound import open_sound
from magnet_cli.batch.jobs import Job
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.report import InTheWayError
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.foreign import reading
from magnet_cli.naming import count_of, some
from magnet_cli.settings import LOSSY, OUTPUT_DEFAULTS, TRIES, UNRECORDED_OUTPUT, OutputConfig

# What identifies a clip's models (BatchSettings.models) and its input, in words.
_PARTS = {
    "model": "model's weights",
    "rescorer": "rescorer's weights",
    "hybrid_model": "hybrid model's weights",
    "input": "input's sound",
}
_ID = "_id"  # suffix of a part's id

# Values that all runs of a batch share; others would make different files with similar names.
_SAME_RUN = ("seed", "name", "repo", "revision")


@dataclass
class Review:
    """The jobs of a file, sorted."""

    make: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    changed: list[tuple[Job, list[str]]] = field(default_factory=list)  # done with other settings
    foreign: list[Job] = field(default_factory=list)  # a file of theirs was not made by this batch
    in_the_way: list[str] = field(default_factory=list)  # the names of these files
    unsaid: list[Job] = field(default_factory=list)  # done, with unrecorded weights
    smaller: list[Job] = field(default_factory=list)  # done, but the file has become smaller

    def refuse(self) -> None:
        """Raise UsageError if files would be replaced, naming them and the changed settings."""
        if self.changed:
            are = "is" if len(self.changed) == 1 else "are"
            differences = sorted({text for _, texts in self.changed for text in texts})
            raise UsageError(
                f"{count_of(len(self.changed), 'clip')} of this batch {are} done with other settings: "
                f"{some(differences, '; ')} ({some([job.file for job, _ in self.changed])}).",
                "Remake them with --force, or use another folder with -O.",
            )
        if self.foreign:
            raise UsageError(
                f"Files exist that this batch did not make: {some(self.in_the_way)}.",
                "Replace them with --force, or use another folder with -O.",
            )


class Standing:
    """The state of jobs by the manifest and the folder."""

    def __init__(self, manifest: Manifest, force: bool) -> None:
        """`force`: replace clips made with other settings, and files of others."""
        self._manifest, self._force = manifest, force

    def review(self, jobs: Iterable[Job]) -> Review:
        """Sort the jobs."""
        review = Review()
        for job in jobs:
            changes = self.changes(job)
            if changes is None:
                stranger = self.stranger(job) or self._older(job)
                (review.make if stranger is None else review.foreign).append(job)
                review.in_the_way += [] if stranger is None else [stranger]
                continue
            unsaid, smaller = self._is_unsaid(job), self._is_smaller(job)
            if self._force and (changes or unsaid or smaller):
                review.make.append(job)
            elif changes:
                review.changed.append((job, changes))
            else:
                review.done.append(job)
                review.unsaid += [job] * unsaid
                review.smaller += [job] * smaller
        return review

    def refuse(self, job: Job) -> None:
        """Check again that a job's file may be written.
        Raises InTheWayError: there is a file that this batch did not make."""
        if (stranger := self.stranger(job)) is not None:
            raise InTheWayError(
                f"{stranger} exists, but this batch did not make it.",
                "Move it away, or replace it with --force.",
            )

    def changes(self, job: Job) -> list[str] | None:
        """Differences between a job and the finished clip of its name; None if there is no such clip."""
        clip = self._manifest.clips.get(job.file)
        path = job.target.path
        if clip is None or clip["status"] != "done" or path is None or not _is_whole(path):
            return None
        if job.target.codes is not None and not job.target.codes.is_file():
            return None
        return clip_differences(clip.get("settings", {}), job.settings())

    def _is_unsaid(self, job: Job) -> bool:
        """Whether a job's clip has no recorded ids of its models, as with earlier versions."""
        kept = self._manifest.clips[job.file].get("settings", {})
        return any(name.endswith(_ID) and name not in kept for name in job.models)

    def _is_smaller(self, job: Job) -> bool:
        """Whether a clip's file is smaller than when written: an incomplete copy, or an edit."""
        written = self._manifest.clips[job.file].get("bytes")
        assert job.target.path is not None
        return isinstance(written, int) and job.target.path.stat().st_size < written

    def unasked(self, jobs: Iterable[Job]) -> list[str]:
        """Finished clips' files that no job, of any shard, asks for."""
        asked = {job.file for job in jobs}
        clips = self._manifest.clips.items()
        done = (file for file, clip in clips if clip["status"] == "done" and file not in asked)
        return [file for file in done if os.path.isfile(self._manifest.path.parent / file)]

    def stranger(self, job: Job) -> str | None:
        """The name of a job's file, or of its codes, that exists and was not made by this batch.

        A file that a killed run wrote but did not record counts as its own.
        """
        if self._force:
            return None
        target, made = job.target, _takes(job)
        # A record does not tell of codes: the clip may have been made without, beside somebody's file.
        if target.codes is not None and os.path.lexists(target.codes):
            kept = _kept_in_codes(target.codes)
            if (kept.get("prompt"), kept.get("seed")) not in made:
                return f"{job.file}.npz"
        # A broken link exists, too.
        if target.path is None or self._is_done(job) or not os.path.lexists(target.path):
            return None
        try:
            with open_sound(target.path) as sound:
                kept = sound.metadata or {}
        except MagnetError:
            return job.file
        return None if (kept.get("prompt"), kept.get("seed")) in made else job.file

    def _is_done(self, job: Job) -> bool:
        """Whether the job's file is recorded as made; a clip that failed has left none."""
        return self._manifest.clips.get(job.file, {}).get("status") == "done"

    def _older(self, job: Job) -> str | None:
        """The name of a job's file that was there before the batch began, or its manifest was deleted."""
        if self._force or self._is_done(job):
            return None
        begun = self._manifest.begun if self._manifest.run or self._manifest.clips else math.inf
        for path, name in ((job.target.path, job.file), (job.target.codes, f"{job.file}.npz")):
            if path is not None and os.path.lexists(path) and path.lstat().st_mtime < begun:
                return name
        return None


def _takes(job: Job) -> set[tuple[str | None, int]]:
    """The prompts and seeds that a job's file may record: loops and bars may take another seed than the one
    asked for, and bars say their tempo in the prompt."""
    target, task = job.target, job.task
    said: str | None = target.prompt
    if task.bpm is None and task.task != "loop":
        return {(said, target.seed)}
    from magnet_cli.editing.bars import with_tempo  # with torch, so only where it is needed
    from magnet_cli.editing.looping import directions
    from magnet_cli.editing.pieces import Direction

    said = said if task.bpm is None else with_tempo(said, task.bpm)
    tried = directions(Direction.of(said, target.seed), task.tries or TRIES)
    return {(said, each.seed) for each in tried}


def _kept_in_codes(path: Path) -> dict[str, Any]:
    """The record in a file of codes (`Clip.write`), or {} if it has none."""
    try:
        with (
            reading.open_regular(path) as file,
            zipfile.ZipFile(file) as parts,
            parts.open("settings.npy") as part,
        ):
            said = np.load(io.BytesIO(part.read(reading.MOST_BYTES)))  # never a pickle
        kept = reading.json_of(str(said))
    except Exception:  # zipfile and numpy raise many kinds for a file that is not ours
        return {}
    return kept if isinstance(kept, dict) else {}


def check_run(manifest: Manifest, run: Mapping[str, Any], force: bool) -> bool:
    """Whether a run continues an earlier one: the same seed, names and revision of the model.

    Args:
        manifest: the folder's.
        run: the known values of this run.
        force: allow a run that does not.

    Raises:
        UsageError: clips are done, the run does not continue them, and `force` is off.
    """
    if not manifest.anything_done:
        return True
    shared = [name for name in _SAME_RUN if name in manifest.run and name in run]
    old = {name: manifest.run[name] for name in shared}
    found = differences(old, {name: run[name] for name in shared})
    if found and not force:
        raise UsageError(
            f"This batch was begun with other settings: {'; '.join(found)}.",
            "Use the same again, another folder with -O, or remake all with --force.",
        )
    return not found


def as_begun(output: OutputConfig, manifest: Manifest) -> OutputConfig:
    """Output settings with the defaults of the version that began a batch, so that its clips are alike.

    Args:
        output: the settings of this run.
        manifest: the folder's.
    """
    made = [
        clip.get("settings", {}) for clip in manifest.clips.values() if clip["status"] == "done"
    ]
    kept: dict[str, Any] = {}
    if made and output.max_limiting == OUTPUT_DEFAULTS.max_limiting:
        before = UNRECORDED_OUTPUT["max_limiting"]
        if all("max_limiting" not in clip for clip in made):
            kept["max_limiting"] = before
    lossy = [clip for clip in made if clip.get("format") in LOSSY]
    if lossy and output.true_peak is None and all("true_peak" not in clip for clip in lossy):
        kept["true_peak"] = UNRECORDED_OUTPUT["true_peak"]
    return dataclasses.replace(output, **kept) if kept else output


def clip_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`differences` of a clip's settings; models are compared by id if known, and otherwise by name."""
    old, new = dict(old), dict(new)
    found = []
    for name in [name for name in {**new, **old} if name.endswith(_ID)]:
        part = name.removesuffix(_ID)
        words = _PARTS.get(part, "LoRA's weights")
        was, now = old.pop(name, None), new.pop(name, None)
        if was is None or now is None:
            continue
        if was == now:
            old.pop(part, None)
            new.pop(part, None)
        elif old.get(part) == new.get(part):
            found.append(f"the {words} changed ({_short_id(str(was))}, now {_short_id(str(now))})")
    return found + differences(old, new)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changed settings, in the form "temperature was 3, is 2"."""
    names = [*new, *(name for name in old if name not in new)]
    return [
        f"{name} was {_said(old.get(name))}, is {_said(new.get(name))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _short_id(identity: str) -> str:
    """An id with its digits shortened."""
    kind, mark, digits = identity.rpartition("@" if "@" in identity else ":")
    return f"{kind}{mark}{digits[:12]}"


def _said(value: Any) -> str:
    if value is None:
        return "not given"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _is_whole(path: Path) -> bool:
    """Whether a file exists and is not empty, as after a full disk or an incomplete copy."""
    return path.is_file() and path.stat().st_size > 0
