"""What a worker does, wherever it runs: it loads a model, makes groups of clips and writes them.

It holds no lock and no manifest: what came of each clip is told to the driver (`batch.crew`), which
notes it. The same engine makes the clips of one process, so the files are the same.
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
    """What workers are told before all else; it can be sent to other machines.

    Attributes:
        models: by part (model, rescorer, hybrid_model, lora, lora_2, ...), as named.
        threads: of the processor; None: as torch chooses.
        manifest: of the folder.
        size: clips decoded at once, as asked for.
        whole: all jobs are known (`fitting.batch_size`).
        force: files that others have made are replaced.
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
    """A group of jobs to be decoded together.

    Attributes:
        number: of the group in the run.
        missing: indices of the jobs whose clips are wanted.
        noted: what the manifest says of their files.
        tries: workers that ended over it before.
    """

    number: int
    jobs: Sequence[Job]
    missing: frozenset[int]
    noted: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    tries: int = 0


class _Noted(Manifest):
    """What a driver's manifest says of the jobs in hand; nothing is written here."""

    def __init__(self, path: Path, worker: str) -> None:
        super().__init__(path)
        self._worker = worker

    @property
    def mark(self) -> str:
        """As the driver's, and this worker's own: what is left of one that is killed can be removed."""
        return f"{super().mark}-{self._worker}"

    def add(self, clip: Mapping[str, Any]) -> None:
        """The driver notes it."""
        self.clips.pop(clip["file"], None)


class Worker:
    """One loaded model at work; a context manager, which writes what is generated when it is left."""

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
        """Load the models.

        Args:
            name: of the worker, in names of files.
            setup: what it is to do.
            on_outcome: told of each clip, from a thread.
            on_begin: told of each prompt that is begun.
            on_less: told where only so many clips fit into memory at once.
            on_download: told of downloads.
            on_stuck: told of what stops every clip, such as a full disk, from a thread.

        Raises:
            MagnetError: a model cannot be loaded, or a partner does not fit.
        """
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
        self._writer.__exit__(Stopped, None, None)  # what has stopped it was told

    def answer(self, question: Question) -> list[Any]:
        """Answer what a driver asks that has no model; may be called while another thread makes clips.

        Args:
            question: ("fits", jobs): of each, the settings that it is decoded with, or the MagnetError why it
                cannot be. ("unknown", prompts): those of which the model knows no word.
        """
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
        """Generate the clips of a task; they are written and told of meanwhile, and after it."""
        self._manifest.clips.update(task.noted)
        with contextlib.suppress(Stopped):  # why, `on_stuck` was told
            self._engine.make(task.jobs, task.missing)

    def stop(self) -> None:
        """End what is being generated at its next step; may be called from another thread."""
        self._stopping = True

    def _watch(self, event: StepEvent) -> None:
        if self._stopping:
            raise Stopped


def _loaded(
    setup: Setup, on_download: Callable[[Progress], None] | None
) -> tuple[Model, dict[str, Model | None]]:
    """The model, and its partners by their roles."""
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
