"""A worker, wherever it runs: loads a model, makes groups of clips and writes them.

It holds neither lock nor manifest, but reports each clip to the driver (`batch.crew`), which records it.
It uses the same engine as a batch in one process, so the files are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from magnet_cli.api import Model, load_model
from magnet_cli.batch.executors import Engine, Stopped, Writer, as_magnet_error
from magnet_cli.batch.fitting import Facts, Fit, Fitter, batch_size, unknown_prompts
from magnet_cli.batch.jobs import Job
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.report import Outcome
from magnet_cli.checkpoints.hub import Progress
from magnet_cli.checkpoints.identity import with_identities
from magnet_cli.decoding.contracts import OnStep, StepEvent
from magnet_cli.errors import MagnetError
from magnet_cli.resolving import SELF

Question = tuple[Literal["fits", "unknown"], list[Any]]


@dataclass(frozen=True)
class Setup:
    """A worker's settings; can be sent to other machines.

    Attributes:
        models: names by part (model, rescorer, hybrid_model, lora, lora_2, ...).
        threads: CPU threads; None: torch's choice.
        manifest: the folder's.
        size: the requested batch size.
        whole: whether all jobs are known (`fitting.batch_size`).
        force: replace files that this batch did not make.
    """

    models: Mapping[str, str]
    device: str
    dtype: str
    offline: bool
    threads: int | None
    folder: Path
    manifest: Path
    size: int | Literal["auto"]
    whole: bool
    force: bool


@dataclass(frozen=True)
class Task:
    """A group of jobs to decode together.

    Attributes:
        number: the group's number in the run.
        missing: indices of the jobs whose clips are wanted.
        noted: the manifest's records of their files.
        tries: number of workers that ended during it.
    """

    number: int
    jobs: Sequence[Job]
    missing: frozenset[int]
    noted: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    tries: int = 0


class _Noted(Manifest):
    """A driver's records of the current jobs; writes nothing."""

    def __init__(self, path: Path, worker: str) -> None:
        super().__init__(path)
        self._worker = worker

    @property
    def mark(self) -> str:
        """The driver's mark and this worker's, so that a killed worker's partial files can be removed."""
        return f"{super().mark}-{self._worker}"

    def add(self, clip: Mapping[str, Any]) -> None:
        """Drop the record, as the driver records the clip."""
        self.clips.pop(clip["file"], None)


class Worker:
    """A loaded model with an engine and a writer; a context manager that writes waiting clips at its end."""

    def __init__(
        self,
        name: str,
        setup: Setup,
        on_outcome: Callable[[Outcome], None],
        on_begin: Callable[[str], None] = lambda label: None,
        on_less: Callable[[int], None] = lambda size: None,
        on_download: Callable[[Progress], None] | None = None,
        on_stuck: Callable[[MagnetError], None] = lambda error: None,
    ) -> None:
        """Load the models; `name` is for partial files.

        `on_outcome` and `on_stuck` are called from a thread: with each clip's outcome, and with an error that
        affects every clip, such as a full disk; `on_less` with the new batch size when memory runs out.
        Raises MagnetError: a model cannot be loaded, or a partner does not fit."""
        self._model, partners = _loaded(setup, on_download)
        self.fitter = Fitter(self._model, partners)
        self.facts = Facts.of(self._model, with_identities(setup.models))
        self._manifest = _Noted(setup.manifest, name)
        size = batch_size(setup.size, self._model, setup.whole)

        def stuck(error: BaseException) -> None:
            if isinstance(error, Exception):
                on_stuck(as_magnet_error(error))

        self._writer = Writer(
            self._manifest, setup.folder, on_outcome, 2 * size, setup.force, stuck
        )
        self._stopping = False

        def begin(jobs: Sequence[Job]) -> OnStep:
            on_begin(jobs[0].target.prompt)
            return self._watch

        self._engine = Engine(self.fitter, self._writer, size, begin, on_less)

    def __enter__(self) -> Worker:
        self._writer.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.__exit__(Stopped, None, None)  # its error was already reported

    def answer(self, question: Question) -> list[Any]:
        """Answer a question of the driver, which has no model; may be called while clips are made:
        ("fits", jobs) by the Fit of each job or a MagnetError; ("unknown", prompts) by the prompts of which
        the model knows no word."""
        kind, values = question
        if kind == "unknown":
            return unknown_prompts(values, self._model)
        found: list[Fit | MagnetError] = []
        for job in values:
            try:
                found.append(self.fitter.fit(job))
            except MagnetError as error:
                found.append(error.with_traceback(None))
        return found

    def make(self, task: Task) -> None:
        """Generate the clips of a task; writing them may continue afterwards."""
        self._manifest.clips.update(task.noted)
        with contextlib.suppress(Stopped):  # `on_stuck` got the reason
            self._engine.make(task.jobs, task.missing)

    def stop(self) -> None:
        """Stop generating at the next step; may be called from another thread."""
        self._stopping = True

    def _watch(self, event: StepEvent) -> None:
        if self._stopping:
            raise Stopped


def _loaded(
    setup: Setup, on_download: Callable[[Progress], None] | None
) -> tuple[Model, dict[str, Model | None]]:
    """Load the model, and its partners by role."""
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    more: dict[str, Any] = {"offline": setup.offline, "progress": on_download}
    loras = [text for part, text in setup.models.items() if part.partition("_")[0] == "lora"]
    model = load_model(
        setup.models["model"], device=setup.device, dtype=setup.dtype, lora=loras, **more
    )
    loaded = {SELF: model}
    partners: dict[str, Model | None] = {}
    for role in ("rescorer", "hybrid_model"):
        spec = setup.models.get(role)
        if spec is not None and spec not in loaded:
            loaded[spec] = load_model(spec, device=str(model.device), dtype=model.dtype, **more)
        partners[role] = None if spec is None else loaded[spec]
    return model, partners
