"""Who makes the clips of a batch: this process or workers, with one model after the other.

Lines may name models of their own. Each is loaded once, when it is first needed.
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
from magnet_cli.cli.batch_crew import CrewOptions, CrewTalk, loaded_crew
from magnet_cli.cli.loading import load, load_partners, loading
from magnet_cli.cli.settings import ModelOptions, PartnerOptions
from magnet_cli.cli.talk import Talk
from magnet_cli.settings import DecodingConfig

if TYPE_CHECKING:
    from magnet_cli.api import Model
    from magnet_cli.batch.crew import Crew
    from magnet_cli.batch.fitting import Facts, Fitter

# Models by part, as they are named.
Named = tuple[tuple[str, str], ...]


def named(job: Job) -> Named:
    """The models that make a job."""
    return tuple(job.named.items())


@dataclass(frozen=True)
class Maker:
    """Who makes clips with loaded models."""

    fitter: Fitter | Crew
    facts: Facts  # of the models, with the ids that are known now
    voice: CrewTalk | None = None  # says what workers do, where there are any


@dataclass
class Makers:
    """All that may be needed to load the models of a batch.

    Attributes:
        model, more: as the batch asks for them.
        own: the models that these are, for lines that name no other.
        decoding: what holds for lines that say nothing.
        folder, manifest: of the clips.
        size: clips decoded at once, as asked for.
        workers: who make the clips; None: this process does.
        loaded: the batch's own model, where it is loaded already.
        ids: of what was loaded or fetched: each part's name and id.
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
        """A job that knows the weights that were loaded: they may have been downloaded just now."""
        known = self.ids.get(named(job))
        return job if known in (None, job.models) else dataclasses.replace(job, models=known)

    def fetch(self, models: Iterable[Named]) -> None:
        """Download what will be needed later and is not here: hours later is no time to be refused.

        Raises:
            MagnetError: it cannot be had.
        """
        from magnet_cli.checkpoints.place import find_place

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
        """Who makes clips with some models, which are loaded now.

        Args:
            models: to be loaded.
            jobs: all that are known.
            clips: that are missing; None: not known.
            begun: what the manifest says of the last run.
            keep: they stay loaded, for lines to come.

        Raises:
            MagnetError: one cannot be loaded.
        """
        if models in self._kept:
            yield self._kept[models]
            return
        gc.collect()  # what was loaded before holds on to itself
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
        """How to load some models; where no precision was asked for, in that which a batch of theirs was
        begun with on a processor, as `auto` may be another one on the next machine."""
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
            # Lines say for how many seconds that model is; without any it would be refused.
            asked = next((job.decoding.hybrid for job in jobs if job.decoding.hybrid), None)
            config = dataclasses.replace(config, hybrid=asked)
        model = self.loaded if models == self.own else None
        model = model or load(options, self.talk)
        partners = load_partners(self.more, options, model, config, None, self.talk)
        facts = Facts.of(model, with_identities(dict(models)))
        return Maker(Fitter(model, partners), facts)

    @contextlib.contextmanager
    def _hired(self, options: ModelOptions, models: Named, clips: int | None) -> Iterator[Maker]:
        """Workers, of whom the first has loaded the models."""
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
