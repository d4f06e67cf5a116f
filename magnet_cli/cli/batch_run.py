"""One run of `magnet batch`: checks lines, loads models, makes clips and reports."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from magnet_cli.batch.jobs import BatchSettings, Job, Shard, names_of
from magnet_cli.batch.manifest import Manifest, manifest_name, open_manifest
from magnet_cli.batch.report import Tally
from magnet_cli.batch.resume import Review, Standing, check_run
from magnet_cli.cli.batch_crew import BatchDisplay, CrewDisplay, CrewOptions
from magnet_cli.cli.batch_makers import Maker, Makers, Named, named
from magnet_cli.cli.batch_words import (
    MOST_SHOWN,
    partly_made,
    say_damage,
    say_doubts,
    say_made,
    say_unasked,
)
from magnet_cli.cli.inputs import say_no_word_of
from magnet_cli.cli.settings import ModelOptions, PartnerOptions
from magnet_cli.cli.talk import Talk, complain, printable, stdout, write_stdout
from magnet_cli.data.prompts import BadLine
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.naming import count_of
from magnet_cli.version import __version__

if TYPE_CHECKING:
    from magnet_cli.api import Model

Planned = Iterable[Job | BadLine]


class BatchRun:
    """A run: `whole` makes a file's clips, `stream` a pipe's, `show` lists them."""

    def __init__(
        self,
        settings: BatchSettings,
        shard: Shard,
        size: int | Literal["auto"],
        model: ModelOptions,
        more: PartnerOptions,
        talk: Talk,
        *,
        force: bool,
        skip_bad: bool | None,
        path_end: bytes | None,
        gallery: bool = False,
        loaded: Model | None = None,
        workers: CrewOptions | None = None,
    ) -> None:
        """Set up a run.

        Args:
            skip_bad: whether to skip bad lines; None: no, and there is no flag for it.
            path_end: written after each finished file's path on stdout; None: write no paths.
            gallery: whether to write a page of the clips at the end.
            loaded: the model that `model` names, if it is loaded already.
            workers: the workers; None: this process makes the clips.
        """
        self._settings, self._shard, self._size, self._talk = settings, shard, size, talk
        self._force, self._skip_bad, self._path_end = force, skip_bad, path_end
        self._tally, self._gallery, self._has_begun = Tally(), gallery, False
        self._makers = Makers(
            model,
            more,
            tuple(names_of(settings.models).items()),
            settings.decoding,
            settings.folder,
            settings.folder / manifest_name(shard),
            size,
            force,
            workers,
            talk,
            loaded,
        )
        # Numbers of clips in all and in this shard; {}: unknown.
        self._clips: dict[str, int] = {}
        if gallery:
            from magnet_cli.batch.gallery import check_page

            check_page(settings.folder, force)
        if path_end is not None:
            stdout()  # raises if it is closed

    def whole(self, name: str, planned: Planned) -> None:
        """Check all lines of a file, then make their clips.
        Raises UsageError: a line is bad and not to be skipped, or a file would be replaced;
        PartialFailureError: lines were skipped, or clips failed."""
        everything, jobs = self.check(name, planned)
        part = len(jobs)
        with open_manifest(self._settings.folder, self._shard) as manifest:
            say_damage(manifest, self._talk)
            check_run(manifest, self._asked(), self._force)
            standing = Standing(manifest, self._force)
            review = standing.review(jobs)
            review.refuse()
            if review.done:
                self._talk.note(f"{len(review.done)} of {len(jobs)} clips are done already.")
            say_unasked(name, standing.unasked(everything), bool(review.make), self._talk)
            say_doubts(review, self._talk)
            if review.make:
                self._clips = {"clips": len(everything), "part": part}
                self._by_models(name, manifest, standing, jobs, review)
        self._end()

    def _by_models(
        self, name: str, manifest: Manifest, standing: Standing, jobs: list[Job], review: Review
    ) -> None:
        """Make all missing clips, model by model in order of first use."""
        begun = manifest.run
        first, *others = dict.fromkeys(map(named, review.make))
        self._makers.fetch(others)
        with self._makers.of(first, jobs, len(review.make), begun) as maker:
            identified = [self._makers.identified(job) for job in jobs]
            if identified != jobs:
                jobs = identified
                review = standing.review(jobs)
                review.refuse()
            make = review.make
            # Whether other models can make their clips is known once they are loaded; if not, clips fail.
            own = [job for job in jobs if named(job) == first]
            alike = len(own) == len(jobs)
            misfits = maker.fitter.misfits(own)
            flags = self._settings.decoding.given()
            given = {job.line: job.decoding.given() for job in own}
            for bad in misfits:  # of a flag of all lines, rather than of a line's own value
                shared = flags.items() & given[bad.number].items()
                if bad.settings and {*bad.settings} <= {name for name, _ in shared}:
                    raise UsageError(bad.message, settings=bad.settings)
            self._refuse_bad(name, misfits)
            lines = {bad.number for bad in misfits}
            jobs = [job for job in jobs if job.line not in lines]
            if not self._begin(manifest, maker, True, alike=alike):
                make = jobs  # the model has changed and --force was given
            missing = {job.index: job for job in make if job.line not in lines}
            self._tally.total = len(missing)
            self._part(manifest, maker, jobs, missing, first)
        del maker  # and the models it holds
        counts = Counter(map(named, missing.values()))  # in the order of first need
        for other, clips in counts.items():
            if other != first:
                with self._makers.of(other, jobs, clips, begun) as maker:
                    self._part(manifest, maker, jobs, missing, other)
                del maker

    def _part(
        self,
        manifest: Manifest,
        maker: Maker,
        jobs: list[Job],
        missing: Mapping[int, Job],
        models: Named,
    ) -> None:
        """Make the missing clips of one set of models."""
        own = [job for job in jobs if named(job) == models]
        self._say_unknown(maker, [job for job in own if job.index in missing])
        self._make(manifest, maker, own, lambda job: job.index in missing, whole=True)

    def stream(self, name: str, planned: Planned) -> None:
        """Make clips as their lines arrive; bad lines are reported and skipped.
        Raises UsageError: there was no line, or the folder holds another batch; PartialFailureError: lines
        were bad, or clips failed."""
        with (
            open_manifest(self._settings.folder, self._shard) as manifest,
            contextlib.ExitStack() as stack,
        ):
            say_damage(manifest, self._talk)
            check_run(manifest, self._asked(), self._force)
            models, begun = self._makers.own, manifest.run
            maker = stack.enter_context(self._makers.of(models, [], None, begun, keep=True))
            standing = Standing(manifest, self._force)
            again = not self._begin(manifest, maker, False, alike=True)
            already, doubts = 0, Review()

            def wanted(job: Job) -> bool:
                nonlocal already
                review = standing.review([job])
                try:
                    review.refuse()
                except UsageError as error:
                    self._bad(BadLine(job.line, str(error)))
                    return False
                missing = again or bool(review.make)
                already += not missing
                if missing:
                    self._say_unknown(maker, [job])
                else:
                    doubts.unsaid += review.unsaid
                    doubts.smaller += review.smaller
                return missing

            is_used = False  # workers serve one group of lines
            for other, part in itertools.groupby(self._arriving(name, planned), named):
                if is_used or other != models:
                    stack.close()
                    models = other
                    maker = stack.enter_context(self._makers.of(models, [], None, begun, keep=True))
                is_used = True
                jobs = map(self._makers.identified, part)
                self._make(manifest, maker, jobs, wanted, whole=False)
        if already:
            self._talk.note(f"Already done: {count_of(already, 'clip')}.")
        say_doubts(doubts, self._talk)
        if not (already or self._tally.finished or self._tally.bad_lines):
            raise _nothing(name)
        self._end()

    def show(self, name: str, planned: Planned, drawn: bool) -> None:
        """List what would be made.

        Args:
            name: the file's name.
            planned: its lines.
            drawn: whether seeds are random, so that the next run would draw others.

        Raises:
            UsageError: a line is bad and not to be skipped.
            PartialFailureError: lines were skipped.
        """
        everything, jobs = self.check(name, planned)
        manifest = Manifest.read(self._settings.folder, self._shard)
        standing = Standing(manifest, self._force)
        review = standing.review(jobs)
        standings = {job.index: "done" for job in review.done}
        standings |= {job.index: "changed" for job, _ in review.changed}
        standings |= {job.index: "in the way" for job in review.foreign}
        for job in jobs:
            status = standings.get(job.index, "to make")
            seed, prompt = job.target.seed, job.target.prompt
            if self._talk.json:
                record = {"event": "plan", "status": status, "file": job.file, "line": job.line}
                self._talk.data({**record, "index": job.index, "settings": job.settings()})
            elif self._path_end is not None:
                write_stdout(os.fsencode(str(job.target.path)) + self._path_end)
            else:
                self._talk.print(printable(f"{status:10}  {job.file}  (seed {seed})  {prompt}"))
        self._talk.note(f"{len(review.make)} of {len(jobs)} clips would be made.")
        say_unasked(name, standing.unasked(everything), bool(review.make), self._talk)
        say_doubts(review, self._talk)
        if drawn:
            self._talk.note(f"Seeds are random: use --seed {self._settings.seed} for these names.")
        self._end()

    def check(self, name: str, planned: Planned) -> tuple[list[Job], list[Job]]:
        """Read all lines of a file; returns all jobs, and this shard's jobs.
        Raises UsageError: there are none, or a line is bad and not to be skipped."""
        jobs: list[Job] = []
        bad: list[BadLine] = []
        for item in planned:
            if isinstance(item, BadLine):
                bad.append(item)
                _refuse_noise(name, len(bad), len(jobs), most=100_000)
            else:
                jobs.append(item)
        self._refuse_bad(name, bad)
        if not jobs:
            raise _nothing(name)
        return jobs, [job for job in jobs if self._shard.has(job.index)]

    def _refuse_bad(self, name: str, bad: list[BadLine]) -> None:
        """Report bad lines; raise UsageError unless they are to be skipped."""
        for number, line in enumerate(bad):
            self._bad(line, say=number < MOST_SHOWN)
        if len(bad) > MOST_SHOWN:
            complain(f"{count_of(len(bad) - MOST_SHOWN, 'more bad line')}.")
        if bad and not self._skip_bad:
            raise UsageError(
                f"{count_of(len(bad), 'line')} of {name} cannot be used. Nothing was made.",
                "Repair them."
                if self._skip_bad is None
                else "Repair them, or skip them with --skip-bad.",
            )

    def _bad(self, line: BadLine, say: bool = True) -> None:
        self._tally.bad_lines += 1
        if say:
            complain(f"Line {line.number}: {line.message}")
        self._talk.data({"event": "bad", "line": line.number, "error": line.message})

    def _arriving(self, name: str, planned: Planned) -> Iterator[Job]:
        good = 0
        for item in planned:
            if isinstance(item, BadLine):
                self._bad(item)
                _refuse_noise(name, self._tally.bad_lines, good, most=1000)
                continue
            good += 1
            if self._shard.has(item.index):
                yield item

    def _asked(self) -> dict[str, str | int]:
        return {"seed": self._settings.seed, "name": self._settings.name}

    def _begin(self, manifest: Manifest, maker: Maker, whole: bool, alike: bool) -> bool:
        """Record the run in the manifest; returns whether it continues an earlier one.

        Args:
            maker: makes the first clips.
            alike: whether it makes all of them.
        """
        from magnet_cli.batch.fitting import batch_size, mates_matter

        model = maker.facts
        place = {"repo": model.repo, "revision": model.revision, "dtype": model.dtype}
        run = {
            **self._asked(),
            **(model.models if alike else self._settings.models),
            **(place if alike else {}),
            "device": model.device.type,
            "batch_size": batch_size(self._size, model, whole),
            "magnet": __version__,
            **self._clips,
        }
        goes_on = check_run(manifest, run, self._force)
        if manifest.anything_done:
            for part in ("device", "dtype", *(["batch_size"] if mates_matter(model) else [])):
                if part in run and (before := manifest.run.get(part, run[part])) != run[part]:
                    self._talk.warn(
                        f"The {part.replace('_', ' ')} was {before}, is {run[part]}: further clips may "
                        "differ from what it would have made."
                    )
        manifest.begin(run)
        self._talk.note(f"Seeds from {self._settings.seed}, one per clip.")
        return goes_on

    def _make(
        self,
        manifest: Manifest,
        maker: Maker,
        jobs: Iterable[Job],
        wanted: Callable[[Job], bool],
        whole: bool,
    ) -> None:
        from magnet_cli.batch.executors import Engine, Writer
        from magnet_cli.batch.fitting import Fitter, batch_size

        size, fitter = batch_size(self._size, maker.facts, whole), maker.fitter
        total = self._tally.total
        if not self._has_begun:
            self._has_begun = True
            self._talk.data({"event": "start", "clips": total, "seed": self._settings.seed})
            self._tally.start()
        try:
            if not isinstance(fitter, Fitter):
                assert maker.voice is not None
                with CrewDisplay(self._talk, self._tally, self._path_end, maker.voice) as told:
                    fitter.run(jobs, wanted, size, manifest, told.finished)
                return
            with (
                BatchDisplay(self._talk, self._tally, self._path_end) as display,
                Writer(
                    manifest, self._settings.folder, display.finished, 2 * size, self._force
                ) as writer,
            ):
                engine = Engine(fitter, writer, size, display.begin_jobs, display.less)
                engine.run(jobs, wanted)
        except KeyboardInterrupt:
            of = "" if total is None else f" of {total}"
            self._talk.note(f"{self._tally.made}{of} clips done; run the same command to continue.")
            raise

    def _say_unknown(self, maker: Maker, jobs: list[Job]) -> None:
        prompts = dict.fromkeys(text for job in jobs for text in job.texts)
        say_no_word_of(maker.fitter.unknown([*prompts]), maker.facts.name, self._talk)

    def _end(self) -> None:
        """Report the results.
        Raises PartialFailureError: not all clips were made; MagnetError: the gallery could not be written."""
        tally = self._tally
        problem = self._write_gallery() if self._gallery else None
        self._talk.data(
            {
                "event": "end",
                "seed": self._settings.seed,
                "made": tally.made,
                "failed": tally.failed,
                "bad_lines": tally.bad_lines,
                "seconds": round(tally.seconds, 3),
            }
        )
        say_made(tally, self._settings.output, self._talk)
        if not (tally.failed or tally.bad_lines):
            if problem is not None:
                raise problem
            return
        if problem is not None:
            complain(problem.message, problem.hint)
        raise partly_made(tally)

    def _write_gallery(self) -> MagnetError | None:
        """Write the gallery; returns the error if that failed, as the clips are not affected."""
        from magnet_cli.cli.gallery import write

        try:
            write(self._settings.folder, self._talk, force=self._force)
        except MagnetError as error:
            return error
        return None


def _nothing(name: str) -> UsageError:
    return UsageError(f"{name} has no prompts.", "Write one per line, such as: lofi piano")


def _refuse_noise(name: str, bad: int, good: int, most: int) -> None:
    """Raise UsageError if over `most` lines are bad and few are good; there may be no end to them."""
    if bad > most and bad > 10 * good:
        raise UsageError(
            f"{bad} of the first {bad + good} lines of {name} cannot be used.",
            "Give a file of prompts, one per line.",
        )
