"""Workers in threads of the test, which end on request."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magnet_cli.batch.hands import Hand, Hire, Tell, Told
from magnet_cli.batch.jobs import WHOLE
from magnet_cli.batch.manifest import manifest_name
from magnet_cli.batch.report import Outcome
from magnet_cli.batch.worker import Setup, Task, Worker
from tests.batch.batches import SMALL


class Killed(BaseException):
    """Ends a worker at once."""


def setup_of(folder: Path, **more: Any) -> Setup:
    """For the golden model."""
    values: dict[str, Any] = {
        "models": {"model": SMALL}, "device": "cpu", "dtype": "float32", "offline": True, "threads": None,
        "folder": folder, "manifest": folder / manifest_name(WHOLE), "size": 1, "whole": True,
        "force": False, **more,
    }  # fmt: skip
    return Setup(**values)


class ThreadHand(Hand):
    """A worker in a thread; `trouble(worker, prompt)` may raise Killed when a clip is started."""

    def __init__(
        self, number: int, made: Setup, tell: Tell, trouble: Callable[[int, str], None]
    ) -> None:
        self._number, self._tell, self._trouble = number, tell, trouble
        self._tasks: queue.Queue[Task | None] = queue.Queue()
        self._worker: Worker | None = None
        threading.Thread(target=self._work, args=(made,), daemon=True).start()

    def _say(self, kind: str, value: Any = None) -> None:
        self._tell(Told(self._number, kind, value))

    def _begin(self, prompt: str) -> None:
        self._trouble(self._number, prompt)
        self._say("begin", prompt)

    def _work(self, made: Setup) -> None:
        try:
            self._trouble(self._number, "load")
            worker = Worker(
                str(self._number),
                made,
                lambda outcome: self._say("outcome", outcome),
                self._begin,
                on_stuck=lambda error: self._say("stuck", error),
            )
            self._worker = worker
            self._say("ready", self.facts(worker))
            with worker:
                while (task := self._tasks.get()) is not None:
                    worker.make(task)
                    self._say("free")
        except Killed:
            pass
        self._say("ended", "was killed")

    def facts(self, worker: Worker) -> Any:
        """The facts about its model."""
        return worker.facts

    def _send(self, message: Any) -> None:
        if isinstance(message, tuple):
            assert self._worker is not None
            number, question = message
            self._say("answer", (number, self._worker.answer(question)))
            return
        if message is None and self._worker is not None:
            self._worker.stop()
        self._tasks.put(message)

    def kill(self) -> None:
        self._tasks.put(None)


class StrangeHand(ThreadHand):
    """A worker that has loaded other weights."""

    def facts(self, worker: Worker) -> Any:
        return dataclasses.replace(worker.facts, models={"model": "other"})


def hires(
    made: Setup,
    trouble: Callable[[int, str], None] = lambda worker, prompt: None,
    strange: frozenset[int] = frozenset(),
) -> Hire:
    """Starts such workers; those with numbers in `strange` have other weights."""

    def hire(number: int, tell: Tell) -> Hand:
        kind = StrangeHand if number in strange else ThreadHand
        return kind(number, made, tell, trouble)

    return hire


class Heard:
    """Records the calls of `hands.OnCrew`."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, str, int]] = []
        self.outcomes: list[Outcome] = []

    def started(self, worker: int, where: str) -> None: ...

    def begun(self, worker: int, prompt: str) -> None: ...

    def waits(self, worker: int, needs: str) -> None: ...

    def less(self, size: int) -> None: ...

    def download(self, progress: Any) -> None: ...

    def ended(self, worker: int, why: str, groups: int) -> None:
        self.ends.append((worker, why, groups))
