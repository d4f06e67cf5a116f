"""Jobs against a model: settings completed and checked, and equal ones put together in groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from magnet_cli.api import Model
from magnet_cli.batch.jobs import Job
from magnet_cli.clips import Making
from magnet_cli.data.prompts import BadLine
from magnet_cli.editing.pieces import Direction, Filler
from magnet_cli.editing.transcoding import frames_holding
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.models.parts import Parts
from magnet_cli.partners import NONE, Partners, gather
from magnet_cli.request import frames_for, make_request
from magnet_cli.settings import DecodingConfig, with_preset

_AUTO_ON_CUDA = 8


@dataclass(frozen=True)
class Fit:
    """What jobs must have in common to be decoded as one batch."""

    config: DecodingConfig  # as asked for, with the preset's steps
    frames: int | None  # None: the segment
    is_piece: bool = False  # longer than the segment: made window by window, and alone


class Fitter:
    """Fits jobs to a model, and checks each different set of settings once."""

    def __init__(
        self,
        model: Model,
        partners: Partners = NONE,
        source: str | None = None,
        helper_sources: dict[str, str] | None = None,
    ) -> None:
        """`source`, `helper_sources`: folders that models were loaded from (`clips.Making`)."""
        self.model, self.partners = model, partners
        self._source, self._helper_sources = source, helper_sources
        self._known: dict[tuple[DecodingConfig, str | None, float | None], Fit] = {}

    def fit(self, job: Job) -> Fit:
        """The settings that a job is decoded with.

        Raises:
            MagnetError: the model cannot do what the job asks for.
        """
        key = (job.decoding, job.preset, job.duration)
        if key not in self._known:
            self._known[key] = self._checked(job)
        return self._known[key]

    def misfits(self, jobs: Iterable[Job]) -> list[BadLine]:
        """The lines whose jobs the model cannot do, and why; one for each line."""
        bad: dict[int, BadLine] = {}
        for job in jobs:
            try:
                self.fit(job)
            except MagnetError as error:
                bad.setdefault(job.line, BadLine(job.line, str(error)))
        return list(bad.values())

    def making(self, job: Job) -> Making:
        """How a job's clip is finished and described."""
        return Making(
            self.fit(job).config, job.output, job.duration, self._source, self._helper_sources
        )

    def _checked(self, job: Job) -> Fit:
        model, partners = self.model, self.partners
        config = with_preset(job.decoding, job.preset, model.defaults)
        if job.duration is not None and job.duration > model.segment_duration:
            return self._piece(job.duration, config)
        frames = frames_for(job.duration, model.lm.config, model.name)
        gather(model.parts, config, partners.rescorer, partners.hybrid_model, _never)
        make_request(model.parts, [None], config=config, frames=frames)
        return Fit(config, frames)

    def _piece(self, seconds: float, config: DecodingConfig) -> Fit:
        if self.partners or config.hybrid:
            raise UsageError(
                f"What is longer than the model's {self.model.segment_duration:g} seconds is made "
                "by one model.",
                "Leave --rescorer and --hybrid out, or take a shorter duration.",
            )
        frames = frames_holding(self.model, seconds)
        Filler(self.model, Direction.of(None, 0, config=config), frames)
        return Fit(config, frames, is_piece=True)


def grouped(jobs: Iterable[Job], fitter: Fitter, size: int) -> Iterator[list[Job]]:
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


def batch_size(asked: int | Literal["auto"], model: Model, whole: bool) -> int:
    """How many clips are decoded at once.

    Args:
        asked: what the user said.
        model: a CPU is as fast with one clip at a time, and needs the memory of one.
        whole: the jobs are all known. Where they arrive one by one, none waits for others.
    """
    if asked != "auto":
        return asked
    return _AUTO_ON_CUDA if whole and model.device.type == "cuda" else 1


def mates_matter(model: Model) -> bool:
    """Whether a clip may differ, by rounding, with what is decoded beside it.

    Masked decoding on a CPU computes item by item (`models.session`).
    """
    return model.device.type != "cpu" or model.modeling != "masked"


def _never(name: str) -> Parts:
    raise UsageError(f"{name} is not loaded.", "Load it before.")
