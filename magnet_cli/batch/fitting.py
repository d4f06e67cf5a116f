"""Checks jobs against a model, and groups jobs that can be decoded together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from magnet_cli.api import Model, Prompt
from magnet_cli.audio.sound import open_sound
from magnet_cli.audio.stretch import check_stretch
from magnet_cli.batch.jobs import Job
from magnet_cli.data.prompts import BadLine
from magnet_cli.data.tasks import LineTask
from magnet_cli.editing.pieces import need_masks
from magnet_cli.editing.transcoding import frames_in
from magnet_cli.editing.variation import check_variation
from magnet_cli.editing.windows import regions_of
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.models.parts import Parts
from magnet_cli.request import frames_for, make_request
from magnet_cli.resolving import gather
from magnet_cli.settings import DecodingConfig, required, with_preset
from magnet_cli.version import __version__

_AUTO_ON_CUDA = 8


@dataclass(frozen=True)
class Facts:
    """Facts about a loaded model, for those who have not loaded it."""

    name: str
    repo: str | None
    revision: str | None
    licence: str | None
    device: torch.device
    dtype: str
    modeling: str
    models: Mapping[str, str]  # names and ids of all models: see BatchSettings.models
    magnet: str = __version__  # version of the process that loaded it
    host: str | None = None  # its machine; None: this one

    @property
    def place(self) -> str:
        """The device, with the host if it is another one."""
        return f"{self.device} of {self.host}" if self.host else str(self.device)

    @classmethod
    def of(cls, model: Model, models: Mapping[str, str]) -> Facts:
        """The facts about a model."""
        parts = model.parts
        return cls(
            model.name,
            parts.repo,
            parts.revision,
            parts.licence,
            model.device,
            model.dtype,
            model.modeling,
            dict(models),
        )


@dataclass(frozen=True)
class Fit:
    """What jobs must have in common to be decoded together."""

    config: DecodingConfig  # the given settings, with the preset's steps
    frames: int | None  # None: the segment
    is_piece: bool = False  # a task, or longer than the segment: made alone


class Fits(Protocol):
    """A Fitter, or a Crew that asks one."""

    def fit(self, job: Job) -> Fit:
        """See `Fitter.fit`."""
        ...


class Fitter:
    """Checks jobs against a model, each set of settings once."""

    def __init__(self, model: Model, partners: Mapping[str, Model | None] | None = None) -> None:
        """`partners`: the arguments `rescorer` and `hybrid_model` of `Model.generate`."""
        self.model = model
        self.partners: dict[str, Any] = dict(partners or {})
        self._known: dict[FitKey, Fit] = {}

    def fit(self, job: Job) -> Fit:
        """The settings with which to decode a job. Raises MagnetError: the model cannot do the job."""
        key = fit_key(job)
        if key not in self._known:
            self._known[key] = self._checked(job)
        return self._known[key]

    def misfits(self, jobs: Iterable[Job]) -> list[BadLine]:
        """See the function `misfits`."""
        return misfits(jobs, self)

    def unknown(self, prompts: Iterable[str | None]) -> list[str]:
        """See `unknown_prompts`."""
        return unknown_prompts(prompts, self.model)

    def _checked(self, job: Job) -> Fit:
        model, partners = self.model, self.partners
        config = with_preset(job.decoding, job.preset, model.defaults)
        is_long = job.duration is not None and job.duration > model.segment_duration
        if is_long or job.task.is_piece:
            return self._piece(job, config)
        frames = frames_for(job.duration, model.lm.config, model.name)
        parts = {role: None if one is None else one.parts for role, one in partners.items()}
        rescorer, writer = parts.get("rescorer"), parts.get("hybrid_model")
        gather(model.parts, config, rescorer, writer, _never)
        make_request(model.parts, [None], config=config, frames=frames)
        return Fit(config, frames)

    def _piece(self, job: Job, config: DecodingConfig) -> Fit:
        model, task = self.model, job.task
        if any(self.partners.values()) or config.hybrid:
            raise UsageError(
                f"Clips longer than the model's {model.segment_duration:g} seconds, loops, timed prompts and "
                "edits of a sound use one model, without partners.",
                "Remove --rescorer and --hybrid.",
            )
        seconds = job.duration or task.seconds or model.segment_duration
        if task.bpm is not None:
            check_stretch()
        if task.input is not None:
            with open_sound(task.input) as sound:
                seconds, frames = job.duration or sound.duration, frames_in(model, sound)
            if task.task == "edit":
                need_masks(model, "fill in a region")
                regions_of(task.region, model.frame_rate, frames)
        if task.task == "vary":
            check_variation(model, required(task.strength), task.keep_streams)
        how = {"config": config, "overlap": task.overlap}
        model.check_piece(timed(job), seconds, task.task == "loop", **how)
        return Fit(config, None, is_piece=True)


FitKey = tuple[DecodingConfig, str | None, float | None, LineTask]


def fit_key(job: Job) -> FitKey:
    """The parts of a job that its fit depends on."""
    return (job.decoding, job.preset, job.duration, job.task)


def timed(job: Job) -> Prompt:
    """A job's prompt, or its prompts with the seconds at which they begin."""
    first = job.target.prompt
    return [(0.0, first), *job.task.at] if job.task.at else first


def misfits(jobs: Iterable[Job], fitter: Fits) -> list[BadLine]:
    """Lines whose jobs the model cannot do, with the reason, once per line."""
    bad: dict[int, BadLine] = {}
    for job in jobs:
        try:
            fitter.fit(job)
        except MagnetError as error:
            bad.setdefault(job.line, BadLine(job.line, str(error), settings=error.settings))
    return list(bad.values())


def grouped(jobs: Iterable[Job], fitter: Fits, size: int) -> Iterator[list[Job]]:
    """Yield jobs in groups of `size` with equal fits, in order of index; incomplete groups come last.

    Groups depend on all jobs, not on which are done, so that a resumed run computes the same batches.
    Pieces, and jobs that the model cannot do, are groups of their own.
    """
    waiting: dict[Fit, list[Job]] = {}
    for job in jobs:
        try:
            fit = fitter.fit(job)
        except MagnetError:
            yield [job]
            continue
        if fit.is_piece:
            yield [job]
            continue
        group = waiting.setdefault(fit, [])
        group.append(job)
        if len(group) == size:
            yield waiting.pop(fit)
    yield from sorted(waiting.values(), key=lambda group: group[0].index)


def batch_size(asked: int | Literal["auto"], model: Model | Facts, whole: bool) -> int:
    """How many clips to decode together.

    Args:
        asked: the user's value.
        model: on a CPU, `auto` is 1: no slower, with the least memory.
        whole: whether all jobs are known; jobs that arrive one by one do not wait for others.
    """
    if asked != "auto":
        return asked
    return _AUTO_ON_CUDA if whole and model.device.type == "cuda" else 1


def mates_matter(model: Model | Facts) -> bool:
    """Whether a clip's rounding may depend on the other clips in its batch.

    Masked decoding on a CPU computes item by item (`models.session`), so there it does not.
    """
    return model.device.type != "cpu" or model.modeling != "masked"


def unknown_prompts(prompts: Iterable[str | None], model: Model) -> list[str]:
    """The prompts without any word that the model knows, whose clips would be unconditional."""
    knows = model.parts.text_encoder.knows
    return [text for text in prompts if text and not knows(text)]


def _never(name: str) -> Parts:
    raise UsageError(f"{name} is not loaded.", "Load it before.")
