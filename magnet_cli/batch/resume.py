"""Decides which clips of a batch to make, and which an earlier run has made."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magnet_cli.audio.sound import open_sound
from magnet_cli.batch.jobs import Job
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.report import InTheWayError
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.naming import count_of, some
from magnet_cli.settings import LOSSY, OUTPUT_DEFAULTS, UNRECORDED_OUTPUT, OutputConfig

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
    foreign: list[Job] = field(default_factory=list)  # their file was not made by this batch
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
                f"Files exist that this batch did not make: {some([job.file for job in self.foreign])}.",
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
                is_foreign = self.is_foreign(job) or self._is_older(job)
                (review.foreign if is_foreign else review.make).append(job)
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
        if self.is_foreign(job):
            raise InTheWayError(
                f"{job.file} exists, but this batch did not make it.",
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
        return [file for file in done if (self._manifest.path.parent / file).is_file()]

    def is_foreign(self, job: Job) -> bool:
        """Whether a job's path has a file that this batch did not make.

        A file that a killed run wrote but did not record counts as its own.
        """
        path = job.target.path
        noted = self._manifest.clips.get(job.file)
        if self._force or path is None or (noted is not None and not noted.get("in_the_way")):
            return False
        if not os.path.lexists(path):  # a broken link exists, too
            return False
        try:
            with open_sound(path) as sound:
                kept = sound.metadata or {}
        except MagnetError:
            return True
        return (kept.get("prompt"), kept.get("seed")) != (job.target.prompt, job.target.seed)

    def _is_older(self, job: Job) -> bool:
        """Whether one of a job's files was there before the batch began, or its manifest was deleted."""
        if self._force or job.file in self._manifest.clips:
            return False
        begun = self._manifest.begun if self._manifest.run or self._manifest.clips else math.inf
        paths = [path for path in (job.target.path, job.target.codes) if path is not None]
        return any(os.path.lexists(path) and path.lstat().st_mtime < begun for path in paths)


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
            found.append(f"the {words} changed ({_short_id(was)}, now {_short_id(now)})")
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
