"""Makers of a batch's clips: this process or workers, with one model after the other.

Lines may name other models; each is loaded once, when it is first needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from magnet_cli.batch.jobs import Job
from magnet_cli.checkpoints.identity import with_identities
from magnet_cli.checkpoints.place import find_place
from magnet_cli.cli.batch_crew import CrewOptions, CrewTalk, loaded_crew
from magnet_cli.cli.loading import load, load_partners, loading
from magnet_cli.cli.settings import ModelOptions, PartnerOptions
from magnet_cli.cli.talk import Talk
from magnet_cli.settings import DecodingConfig

if TYPE_CHECKING:
    from magnet_cli.api import Model
    from magnet_cli.batch.crew import Crew
    from magnet_cli.batch.fitting import Facts, Fitter

# Model names by role.
Named = tuple[tuple[str, str], ...]


def named(job: Job) -> Named:
    """The models of a job."""
    return tuple(job.named.items())


@dataclass(frozen=True)
class Maker:
    """This process or a crew, with models loaded."""

    fitter: Fitter | Crew
    facts: Facts  # about the models, with their ids
    voice: CrewTalk | None = None  # reports on workers, if there are any


@dataclass
class Makers:
    """What is needed to load the models of a batch.

    Attributes:
        model, more: the command's options.
        own: the models that these name, for lines that name no other.
        decoding: the command's decoding settings.
        folder, manifest: where clips and records go.
        size: the requested batch size.
        workers: the workers; None: this process makes the clips.
        loaded: the batch's own model, if it is loaded already.
        ids: names and ids of the parts that were loaded or downloaded.
    """

    model: ModelOptions
    more: PartnerOptions
    own: Named
    decoding: DecodingConfig
    folder: Path
    manifest: Path
    size: int | Literal["auto"]
    force: bool
    workers: CrewOptions | None
    talk: Talk
    loaded: Model | None = None
    ids: dict[Named, dict[str, str]] = field(default_factory=dict)
    _kept: dict[Named, Maker] = field(default_factory=dict)

    def identified(self, job: Job) -> Job:
        """A job with the ids of the loaded weights, which may have been downloaded just now."""
        known = self.ids.get(named(job))
        return job if known in (None, job.models) else dataclasses.replace(job, models=known)

    def fetch(self, models: Iterable[Named]) -> None:
        """Download missing models that are needed later, so that a failure shows now and not in hours.
        Raises MagnetError: a download failed."""
        for each in models:
            known = with_identities(dict(each))
            for part, name in each:
                if f"{part}_id" not in known and not part.startswith("lora"):
                    with loading(self.talk, name) as on_download:
                        find_place(name, offline=self.model.offline, progress=on_download)
                    known = with_identities(dict(each))
            self.ids[each] = known

    @contextlib.contextmanager
    def of(
        self,
        models: Named,
        jobs: Sequence[Job],
        clips: int | None,
        begun: Mapping[str, Any],
        keep: bool = False,
    ) -> Iterator[Maker]:
        """Load models and yield their maker.

        Args:
            models: the models to load.
            jobs: all known jobs.
            clips: number of missing clips; None: unknown.
            begun: the last run's record in the manifest.
            keep: keep the models loaded for later lines.

        Raises:
            MagnetError: one cannot be loaded.
        """
        if models in self._kept:
            yield self._kept[models]
            return
        gc.collect()  # the previous model is in reference cycles
        if self.workers is not None:
            with self._hired(self._options(models, begun), models, clips) as maker:
                self.ids[models] = dict(maker.facts.models)
                yield maker
            return
        maker = self._here(self._options(models, begun), models, jobs)
        self.ids[models] = dict(maker.facts.models)
        if keep:
            self._kept[models] = maker
        yield maker

    def _options(self, models: Named, begun: Mapping[str, Any]) -> ModelOptions:
        """Options for loading models. With --dtype auto on a CPU, a batch continues in the dtype that it was
        begun with, as `auto` depends on the machine."""
        parts, options = dict(models), self.model
        if models != self.own:
            loras = tuple(name for part, name in models if part.startswith("lora"))
            options = dataclasses.replace(options, model=parts["model"], lora=loras)
        dtype = begun.get("dtype") if begun.get("device") == "cpu" else None
        theirs = begun.get("model") == parts["model"] and dtype in ("float32", "bfloat16")
        if options.dtype == "auto" and theirs:
            options = dataclasses.replace(options, dtype=str(dtype))
        return options

    def _here(self, options: ModelOptions, models: Named, jobs: Sequence[Job]) -> Maker:
        from magnet_cli.batch.fitting import Facts, Fitter

        config = self.decoding
        if config.hybrid is None and self.more.hybrid_model is not None:
            # Only lines set the hybrid's seconds, without which the partner would be refused.
            asked = next((job.decoding.hybrid for job in jobs if job.decoding.hybrid), None)
            config = dataclasses.replace(config, hybrid=asked)
        model = self.loaded if models == self.own else None
        model = model or load(options, self.talk)
        partners = load_partners(self.more, options, model, config, None, self.talk)
        facts = Facts.of(model, with_identities(dict(models)))
        return Maker(Fitter(model, partners), facts)

    @contextlib.contextmanager
    def _hired(self, options: ModelOptions, models: Named, clips: int | None) -> Iterator[Maker]:
        """Workers, the first of which has loaded the models."""
        from magnet_cli.batch.worker import Setup

        assert self.workers is not None
        setup = Setup(
            models=dict(models),
            device=options.device,
            dtype=options.dtype,
            offline=options.offline,
            threads=options.threads,
            folder=self.folder,
            manifest=self.manifest,
            size=self.size,
            whole=clips is not None,
            force=self.force,
        )
        known = with_identities(dict(models))
        is_here = all(f"{part}_id" in known for part, _ in models)
        with (
            self.workers.hire(setup, clips) as (hire, count),
            loaded_crew(hire, count, options, is_here, self.talk) as (crew, facts, voice),
        ):
            yield Maker(crew, facts, voice)
