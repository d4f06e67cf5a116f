"""The driver of several workers: hands out groups of jobs, records results, and replaces workers that end.

Only the driver holds the folder's lock and manifest, and it loads no model. A worker may be a process or a
cluster's actor; only its `Hire` knows which. Groups depend on the jobs, as with one process, and not on
the number of workers. If a worker ends, its groups go to others; after a few such ends the group's clips
count as failed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from magnet_cli.batch.fitting import Facts, Fit, fit_key, grouped, mates_matter, misfits
from magnet_cli.batch.hands import Hand, Hire, OnCrew, Told
from magnet_cli.batch.jobs import Job
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.report import OnOutcome, Outcome
from magnet_cli.batch.worker import Question, Task
from magnet_cli.data.prompts import BadLine
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.files import PARTIAL

_COUNT_SECONDS = 5.0  # between checks of the wanted number of workers
_ROOM = 64  # maximum waiting groups if that number varies
MOST_TRIES = 3  # workers that may end during one group before its clips count as failed
_LAST_SECONDS = 60.0  # for a stopped worker to write its generated clips


@dataclass
class _Member:
    hand: Hand
    facts: Facts | None = None
    free: bool = False
    tasks: dict[int, Task] = field(default_factory=dict)  # unfinished ones, by number


class Crew:
    """Workers and their driver; a context manager: leaving it ends the workers.

    One thread handles all events of workers and records clips in the manifest.
    """

    def __init__(
        self, hire: Hire, count: int | Callable[[], int], told: OnCrew, at_once: bool = False
    ) -> None:
        """Set up a crew without starting workers: `hire` starts one, `told` is called with what they do.

        `at_once`: start all at the beginning; otherwise only the first until its model is loaded, so that
        downloads happen once."""
        self._hire, self._told, self._at_once = hire, told, at_once
        self._count: Callable[[], int] = count if callable(count) else lambda: count
        self._counted = 0.0  # time of the last check of the count
        self._refused = 0  # workers that are not replaced
        self._events: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="driver of workers", daemon=True)
        self._crew: dict[int, _Member] = {}
        self._hired = 0
        self._lost_early = 0  # workers that ended before they were ready, since the last ready one
        self._waiting: deque[Task] = deque()
        room = _ROOM if callable(count) else 2 * count
        self._room = threading.Semaphore(room)  # limits waiting groups
        self._questions: dict[int, tuple[Question, queue.Queue[list[Any]]]] = {}
        self._asked = 0
        self._known: dict[Any, Fit | MagnetError] = {}
        self._facts: Facts | None = None
        self._is_ready = threading.Event()
        self._error: BaseException | None = None
        self._manifest: Manifest | None = None
        self._on_outcome: OnOutcome = lambda outcome: None
        self._no_more = self._stopping = False
        self._deadline = 0.0

    def __enter__(self) -> Crew:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._events.put("end" if kind is None else "stop")
        try:
            self._thread.join()
        finally:
            for member in list(self._crew.values()):
                member.hand.kill()
        if kind is None and self._error is not None:
            raise self._error

    def facts(self) -> Facts:
        """Facts about the model from the first worker; waits until it is loaded.
        Raises MagnetError: no worker could load it."""
        self._is_ready.wait()
        self._check()
        assert self._facts is not None
        return self._facts

    def fit(self, job: Job) -> Fit:
        """As `Fitter.fit`, answered by a worker. Raises MagnetError if the model cannot do the job."""
        self._learn([job])
        found = self._known[fit_key(job)]
        if isinstance(found, MagnetError):
            raise found
        return found

    def misfits(self, jobs: Sequence[Job]) -> list[BadLine]:
        """As `Fitter.misfits`."""
        self._learn(jobs)
        return misfits(jobs, self)

    def unknown(self, prompts: Sequence[str | None]) -> list[str]:
        """The prompts of which the model knows no word."""
        return self._answered(("unknown", list(prompts)))

    def run(
        self,
        jobs: Iterable[Job],
        wanted: Callable[[Job], bool],
        size: int,
        manifest: Manifest,
        on_outcome: OnOutcome,
    ) -> None:
        """Make every wanted job in groups of `size`, as `Engine.run`; `on_outcome` is called in a thread.
        Raises Exception: an error that affects every clip, such as a full disk."""
        self._manifest, self._on_outcome = manifest, on_outcome
        try:
            self._submit(jobs, wanted, size, manifest)
            self._events.put("end")
            self._thread.join()
        except BaseException:
            self._events.put("stop")
            self._thread.join()  # generated clips are still written and recorded
            raise
        self._check()

    def _submit(
        self, jobs: Iterable[Job], wanted: Callable[[Job], bool], size: int, manifest: Manifest
    ) -> None:
        mates = mates_matter(self.facts())
        for number, group in enumerate(grouped(jobs, self, size)):
            missing = frozenset(job.index for job in group if wanted(job))
            if not missing:
                continue
            chosen = group if mates else [job for job in group if job.index in missing]
            noted = {j.file: manifest.clips[j.file] for j in chosen if j.file in manifest.clips}
            self._room.acquire()
            self._check()
            self._events.put(Task(number, chosen, missing, noted))

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _learn(self, jobs: Iterable[Job]) -> None:
        """Ask a worker about the fits of jobs that are not known yet."""
        unknown = {key: job for job in jobs if (key := fit_key(job)) not in self._known}
        if not unknown:
            return
        found = self._answered(("fits", list(unknown.values())))
        self._known.update(zip(unknown, found, strict=True))

    def _answered(self, question: Question) -> list[Any]:
        answer: queue.Queue[list[Any]] = queue.Queue()
        self._events.put((question, answer))
        while True:
            self._check()
            with contextlib.suppress(queue.Empty):
                return answer.get(timeout=1.0)

    # The following methods run in the driver's thread.

    def _work(self) -> None:
        try:
            self._staff()
            while not self._is_over():
                if time.monotonic() - self._counted > _COUNT_SECONDS:
                    self._staff()  # the cluster may have grown
                try:
                    event = self._events.get(timeout=1.0)
                except queue.Empty:
                    continue
                self._handle(event)
                self._hand_out()
        except BaseException as error:
            self._fail(error)
        for member in self._crew.values():
            member.hand.kill()
        self._release()

    def _is_over(self) -> bool:
        if self._stopping:
            return not self._crew or time.monotonic() > self._deadline
        busy = self._waiting or any(member.tasks for member in self._crew.values())
        return self._no_more and not busy

    def _handle(self, event: Any) -> None:
        if isinstance(event, Task):
            self._waiting.append(event)
        elif isinstance(event, Told):
            self._hear(event)
        elif isinstance(event, tuple):
            self._asked += 1
            self._questions[self._asked] = event
            self._ask(self._asked)
        elif event == "end":
            self._no_more = True
        else:
            self._stop()

    def _hear(self, told: Told) -> None:
        member = self._crew.get(told.worker)
        if member is None:
            return
        if told.kind == "ready":
            self._welcome(told.worker, member, told.value)
        elif told.kind == "answer":
            number, found = told.value
            if number in self._questions:  # not if another worker has answered it
                self._questions.pop(number)[1].put(found)
        elif told.kind == "begin":
            self._told.begun(told.worker, told.value)
        elif told.kind == "outcome":
            self._note(told.worker, member, told.value)
        elif told.kind == "free":
            member.free = True
        elif told.kind == "waits":
            self._told.waits(told.worker, told.value)
        elif told.kind == "less":
            self._told.less(told.value)
        elif told.kind == "download":
            self._told.download(told.value)
        elif told.kind == "stuck":
            self._fail(told.value)
        elif told.kind == "ended":
            self._replace(told.worker, member, told.value)

    def _welcome(self, number: int, member: _Member, facts: Facts) -> None:
        if self._facts is None:
            self._facts = facts
        elif problem := differing(self._facts, facts):
            member.hand.kill()
            del self._crew[number]
            self._told.ended(number, "refused", 0)
            self._refused += 1  # a replacement would be the same
            if not self._crew:
                raise problem
            return
        member.facts, member.free, self._lost_early = facts, True, 0
        self._told.started(number, facts.place)
        self._is_ready.set()
        self._staff()
        for question in self._questions:
            self._ask(question)

    def _staff(self) -> None:
        """Start workers until there are as many as wanted."""
        self._counted = time.monotonic()
        alone = self._facts is None and not self._at_once
        count = 1 if alone else self._count() - self._refused
        while len(self._crew) < count and not self._stopping:
            self._hired += 1
            self._crew[self._hired] = _Member(self._hire(self._hired, self._events.put))

    def _ask(self, question: int) -> None:
        for member in self._crew.values():
            if member.facts is not None:
                member.hand.ask(question, self._questions[question][0])
                return

    def _hand_out(self) -> None:
        for member in self._crew.values():
            if self._waiting and member.free and not self._stopping:
                task = self._waiting.popleft()
                if task.tries == 0:
                    self._room.release()
                member.free = False
                member.tasks[task.number] = task
                member.hand.give(task)

    def _note(self, worker: int, member: _Member, outcome: Outcome) -> None:
        """Record a clip that a worker made or failed to make."""
        index = outcome.job.index
        for number, task in list(member.tasks.items()):
            if index in task.missing:
                # Use the planned job, as the worker returned a copy.
                job = next(job for job in task.jobs if job.index == index)
                self._settle(replace(outcome, job=job, worker=str(worker)))
                left = task.missing - {index}
                member.tasks[number] = replace(task, missing=left)
                if not left:
                    del member.tasks[number]

    def _settle(self, outcome: Outcome) -> None:
        assert self._manifest is not None
        self._manifest.add(outcome.record())
        self._on_outcome(outcome)

    def _replace(self, number: int, member: _Member, why: str) -> None:
        """A worker ended: give its groups to others, and start another worker."""
        del self._crew[number]
        if self._stopping:
            return
        self._told.ended(number, why, len(member.tasks))
        for task in reversed(member.tasks.values()):
            self._clean(task, number)
            if task.tries + 1 < MOST_TRIES:
                self._waiting.appendleft(replace(task, tries=task.tries + 1))
                continue
            error = MagnetError(
                f"{MOST_TRIES} workers ended while making its group, the last one {why}.",
                "If memory ran out, use fewer --workers or a smaller --batch-size.",
            )
            for job in task.jobs:
                if job.index in task.missing:
                    self._settle(Outcome(job, 0.0, error=error))
        self._lost_early += member.facts is None
        if self._lost_early > MOST_TRIES and not any(m.facts for m in self._crew.values()):
            raise MagnetError(
                f"Workers end before they have loaded the model, the last one {why}.",
                "Try without --workers for a better message, or with fewer to save memory.",
            )
        self._staff()
        for question in self._questions:
            self._ask(question)

    def _clean(self, task: Task, worker: int) -> None:
        """Remove partial files of a worker that ended."""
        assert self._manifest is not None
        folders = {path.parent for job in task.jobs if (path := job.target.path) is not None}
        for folder in folders:
            for path in folder.glob(f"{PARTIAL}{self._manifest.mark}-{worker}-*"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._deadline = time.monotonic() + _LAST_SECONDS
            for member in self._crew.values():
                member.hand.stop()

    def _fail(self, error: BaseException) -> None:
        """Stop after an error that affects every clip: let workers write what they have, and wake waiters."""
        self._error = self._error or error
        self._stop()
        self._release()

    def _release(self) -> None:
        self._is_ready.set()
        self._room.release(1_000_000)


def differing(known: Facts, other: Facts) -> MagnetError | None:
    """Why a worker cannot work beside the first: it would make other clips. None if it can."""
    if known.magnet != other.magnet:
        return UsageError(
            f"A worker runs magnet {other.magnet}, the first one {known.magnet}.",
            "Install the same version on all machines.",
        )
    if dict(known.models) != dict(other.models):
        return UsageError(
            "A worker loaded other weights than the first one: the model was replaced meanwhile.",
            "Start the batch again: it reports which clips were made with which weights.",
        )
    if (known.device.type, known.dtype) != (other.device.type, other.dtype):
        return UsageError(
            f"A worker computes on {other.device.type} in {other.dtype}, the first one on "
            f"{known.device.type} in {known.dtype}.",
            "Set --device and --dtype.",
        )
    return None
