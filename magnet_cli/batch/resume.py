"""What is to be made of a batch, and what an earlier run has made already."""

from __future__ import annotations

import dataclasses
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
from magnet_cli.naming import some
from magnet_cli.settings import LOSSY, OUTPUT_DEFAULTS, UNRECORDED_OUTPUT, OutputConfig

# The models that a clip may be made by (BatchSettings.models), in words.
_PARTS = {
    "model": "model's weights",
    "rescorer": "rescorer's weights",
    "hybrid_model": "hybrid model's weights",
    "input": "input's sound",
}
_ID = "_id"  # what the id of a part is called after it

# What a run has in common; another value would make other files under names that look the same.
_SAME_RUN = ("seed", "name", "repo", "revision")


@dataclass
class Review:
    """The jobs of a file, sorted."""

    make: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    changed: list[tuple[Job, list[str]]] = field(default_factory=list)  # done with other settings
    foreign: list[Job] = field(default_factory=list)  # a file is there that this batch did not make
    unsaid: list[Job] = field(default_factory=list)  # done, but not known by which weights
    smaller: list[Job] = field(default_factory=list)  # done, but something took from the file since

    def refuse(self) -> None:
        """Refuse to replace what is there.

        Raises:
            UsageError: something would be replaced, saying what, and which settings were changed.
        """
        if self.changed:
            differences = sorted({text for _, texts in self.changed for text in texts})
            raise UsageError(
                f"{_count(len(self.changed), 'clip')} of this batch {_are(len(self.changed))} done "
                f"with other settings: {some(differences, '; ')} "
                f"({some([job.file for job, _ in self.changed])}).",
                "Make them again with --force, or make another folder with -O.",
            )
        if self.foreign:
            raise UsageError(
                f"Files are there that this batch did not make: "
                f"{some([job.file for job in self.foreign])}.",
                "Replace them with --force, or make another folder with -O.",
            )


class Standing:
    """What the manifest and the folder say of a job."""

    def __init__(self, manifest: Manifest, force: bool) -> None:
        """`force`: what was made with other settings, or by others, may be replaced."""
        self._manifest, self._force = manifest, force

    def review(self, jobs: Iterable[Job]) -> Review:
        """Sort the jobs."""
        review = Review()
        for job in jobs:
            changes = self.changes(job)
            if changes is None:
                (review.foreign if self.is_foreign(job) else review.make).append(job)
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
        """Refuse a job whose file someone else has made since the batch began.

        Raises:
            InTheWayError: there is one.
        """
        if self.is_foreign(job):
            raise InTheWayError(
                f"{job.file} is there, and this batch did not make it.",
                "Move it away, or replace it with --force.",
            )

    def changes(self, job: Job) -> list[str] | None:
        """How a job differs from the clip that is done under its name; None where none is done."""
        clip = self._manifest.clips.get(job.file)
        path = job.target.path
        if clip is None or clip["status"] != "done" or path is None or not _is_whole(path):
            return None
        if job.target.codes is not None and not job.target.codes.is_file():
            return None
        return clip_differences(clip.get("settings", {}), job.settings())

    def _is_unsaid(self, job: Job) -> bool:
        """Whether an earlier version has made a job's clip, and noted no id of its model."""
        kept = self._manifest.clips[job.file].get("settings", {})
        return any(name.endswith(_ID) and name not in kept for name in job.models)

    def _is_smaller(self, job: Job) -> bool:
        """Whether a clip's file has fewer bytes than were written: a copy that was cut off, or an edit."""
        written = self._manifest.clips[job.file].get("bytes")
        assert job.target.path is not None
        return isinstance(written, int) and job.target.path.stat().st_size < written

    def unasked(self, jobs: Iterable[Job]) -> list[str]:
        """Files of clips that are done and that none of the jobs, of all shards, is about."""
        asked = {job.file for job in jobs}
        clips = self._manifest.clips.items()
        done = (file for file, clip in clips if clip["status"] == "done" and file not in asked)
        return [file for file in done if (self._manifest.path.parent / file).is_file()]

    def is_foreign(self, job: Job) -> bool:
        """Whether a file is in the way that is not this job's.

        A run that was killed between writing a file and noting it has left one that is.
        """
        path = job.target.path
        noted = self._manifest.clips.get(job.file)
        if self._force or path is None or (noted is not None and not noted.get("in_the_way")):
            return False
        if not os.path.lexists(path):  # a link to nothing is there, too
            return False
        try:
            with open_sound(path) as sound:
                kept = sound.metadata or {}
        except MagnetError:
            return True
        return (kept.get("prompt"), kept.get("seed")) != (job.target.prompt, job.target.seed)


def check_run(manifest: Manifest, run: Mapping[str, Any], force: bool) -> bool:
    """Whether a run goes on with what an earlier one began: seed, names, revision of the model.

    Args:
        manifest: of the folder.
        run: what is known of this run.
        force: it need not.

    Raises:
        UsageError: something is done, it does not go on, and `force` is off.
    """
    if not manifest.anything_done:
        return True
    shared = [name for name in _SAME_RUN if name in manifest.run and name in run]
    old = {name: manifest.run[name] for name in shared}
    found = differences(old, {name: run[name] for name in shared})
    if found and not force:
        raise UsageError(
            f"This batch was begun with other settings: {'; '.join(found)}.",
            "Say the same again, make another folder with -O, or make all again with --force.",
        )
    return not found


def as_begun(output: OutputConfig, manifest: Manifest) -> OutputConfig:
    """The settings of a batch's files as it was begun, where a default was another one then.

    Args:
        output: as this run was asked for, where the batch's own clips do not differ from today's
            default in what it leaves to that.
        manifest: of the folder.
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
    """`differences` of a clip's settings. Where the ids of a model are known, its name says nothing."""
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
    """Every setting that was changed, as "temperature was 3, is 2"."""
    names = [*new, *(name for name in old if name not in new)]
    return [
        f"{name} was {_said(old.get(name))}, is {_said(new.get(name))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _short_id(identity: str) -> str:
    """An id with its first digits, as commits are said."""
    kind, mark, digits = identity.rpartition("@" if "@" in identity else ":")
    return f"{kind}{mark}{digits[:12]}"


def _said(value: Any) -> str:
    if value is None:
        return "not given"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _is_whole(path: Path) -> bool:
    """Whether there is a sound: what a full disk or a copy that was cut off leaves may be empty."""
    return path.is_file() and path.stat().st_size > 0
