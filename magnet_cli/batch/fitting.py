"""Jobs against a model: settings completed and checked, and equal ones put together in groups."""

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
    """What is known of a loaded model, told by who has it to who has not."""

    name: str
    repo: str | None
    revision: str | None
    licence: str | None
    device: torch.device
    dtype: str
    modeling: str
    models: Mapping[str, str]  # all that take part, as named, and their ids: BatchSettings.models
    magnet: str = __version__  # of whoever has loaded it
    host: str | None = None  # where that is; None: this machine

    @property
    def place(self) -> str:
        """Where it computes, in words."""
        return f"{self.device} of {self.host}" if self.host else str(self.device)

    @classmethod
    def of(cls, model: Model, models: Mapping[str, str]) -> Facts:
        """Those of a model."""
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
    """What jobs must have in common to be decoded as one batch."""

    config: DecodingConfig  # as asked for, with the preset's steps
    frames: int | None  # None: the segment
    is_piece: bool = False  # a task, or longer than the segment: made window by window, and alone


class Fits(Protocol):
    """Who knows with which settings a job is decoded."""

    def fit(self, job: Job) -> Fit:
        """Raises MagnetError: the model cannot do what the job asks for."""
        ...


class Fitter:
    """Fits jobs to a model, and checks each different set of settings once."""

    def __init__(
        self,
        model: Model,
        partners: Mapping[str, Model | None] | None = None,
    ) -> None:
        """`partners`: what `Model.generate` takes as `rescorer` and `hybrid_model`."""
        self.model = model
        self.partners: dict[str, Any] = dict(partners or {})
        self._known: dict[FitKey, Fit] = {}

    def fit(self, job: Job) -> Fit:
        """The settings that a job is decoded with.

        Raises:
            MagnetError: the model cannot do what the job asks for.
        """
        key = fit_key(job)
        if key not in self._known:
            self._known[key] = self._checked(job)
        return self._known[key]

    def misfits(self, jobs: Iterable[Job]) -> list[BadLine]:
        """The lines whose jobs the model cannot do, and why; one for each line."""
        return misfits(jobs, self)

    def unknown(self, prompts: Iterable[str | None]) -> list[str]:
        """The prompts of which the model knows no word."""
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
                f"What is longer than the model's {model.segment_duration:g} seconds, a loop, prompts by "
                "time and what starts from a sound are made by one model.",
                "Leave --rescorer and --hybrid out.",
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
    """What the fit of a job depends on."""
    return (job.decoding, job.preset, job.duration, job.task)


def timed(job: Job) -> Prompt:
    """The prompts of a job with the seconds at which they begin, where it has several."""
    first = job.target.prompt
    return [(0.0, first), *job.task.at] if job.task.at else first


def misfits(jobs: Iterable[Job], fitter: Fits) -> list[BadLine]:
    """The lines whose jobs the model cannot do, and why; one for each line."""
    bad: dict[int, BadLine] = {}
    for job in jobs:
        try:
            fitter.fit(job)
        except MagnetError as error:
            bad.setdefault(job.line, BadLine(job.line, str(error)))
    return list(bad.values())


def grouped(jobs: Iterable[Job], fitter: Fits, size: int) -> Iterator[list[Job]]:
    """Jobs in groups of `size` that fit together, by index; what is left over comes last.

    Which jobs are a group follows from all the jobs, not from which of them are done, so that a
    resumed run computes the same batches. Pieces come alone, and jobs that do not fit the model.
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
    """How many clips are decoded at once.

    Args:
        asked: what the user said.
        model: a CPU is as fast with one clip at a time, and needs the memory of one.
        whole: the jobs are all known. Where they arrive one by one, none waits for others.
    """
    if asked != "auto":
        return asked
    return _AUTO_ON_CUDA if whole and model.device.type == "cuda" else 1


def mates_matter(model: Model | Facts) -> bool:
    """Whether a clip may differ, by rounding, with what is decoded beside it.

    Masked decoding on a CPU computes item by item (`models.session`).
    """
    return model.device.type != "cpu" or model.modeling != "masked"


def unknown_prompts(prompts: Iterable[str | None], model: Model) -> list[str]:
    """Those that hold no word that a model knows: they are made as if nothing were asked."""
    knows = model.parts.text_encoder.knows
    return [text for text in prompts if text and not knows(text)]


def _never(name: str) -> Parts:
    raise UsageError(f"{name} is not loaded.", "Load it before.")
