"""The interface between a crew's driver and its workers, whether processes or actors.

A `Hire` starts a worker and returns its `Hand`; the worker's events arrive as `Told`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from magnet_cli.batch.worker import Question, Task


@dataclass(frozen=True)
class Told:
    """An event of a worker.

    Kinds and values: ready: Facts. answer: (number of the question, result of `Worker.answer`). begin: the
    prompt. outcome: an Outcome. free: None; the task is generated. less: the new batch size after memory ran
    out. download: a hub.Progress. waits: what it waits for, in words. stuck: a MagnetError that affects every
    clip. ended: how it ended, in words.
    """

    worker: int
    kind: str
    value: Any = None


Tell = Callable[[Told], None]


class Hand(ABC):
    """The driver's handle of a worker; messages are those that `processes.serve` takes."""

    def give(self, task: Task) -> None:
        """Give it a task."""
        self._send(task)

    def ask(self, number: int, question: Question) -> None:
        """Ask it a question, which `Worker.answer` answers."""
        self._send((number, question))

    def stop(self) -> None:
        """Let it write its generated clips and end."""
        self._send(None)

    @abstractmethod
    def kill(self) -> None:
        """End it immediately."""

    @abstractmethod
    def _send(self, message: Any) -> None:
        """Send it a message; does nothing if it has ended, which its events report."""


# Starts a worker, given its number and a callback for its events, called from any thread.
Hire = Callable[[int, Tell], Hand]


class OnCrew(Protocol):
    """Callbacks for what workers do, called from a crew's thread."""

    def started(self, worker: int, where: str) -> None:
        """A worker is ready."""

    def begun(self, worker: int, prompt: str) -> None:
        """A worker began a clip."""

    def ended(self, worker: int, why: str, groups: int) -> None:
        """A worker ended, with `groups` unfinished groups."""

    def waits(self, worker: int, needs: str) -> None:
        """A worker cannot begin yet."""

    def less(self, size: int) -> None:
        """Memory ran out; the worker continues with a batch size of `size`."""

    def download(self, progress: Any) -> None:
        """A download made progress."""
