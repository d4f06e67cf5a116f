"""What a crew's driver and its workers have to do with each other, whatever a worker is.

A `Hire` starts a worker and gives back a `Hand`; from then on all that happens to the worker is `Told`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from magnet_cli.batch.worker import Question, Task


@dataclass(frozen=True)
class Told:
    """Something that a worker tells its driver.

    ready: its Facts. answer: (number of the question, what `Worker.answer` said). begin: a prompt. outcome:
    an Outcome. free: it has generated its task and can have another. less: clips that its memory holds.
    download: a hub.Progress. waits: what it waits for, in words. stuck: a MagnetError that stops every clip.
    ended: in words, how it ended.
    """

    worker: int
    kind: str
    value: Any = None


Tell = Callable[[Told], None]


class Hand(ABC):
    """A worker, as its driver has it: what it is sent is what `processes.serve` takes."""

    def give(self, task: Task) -> None:
        """Let it make a task."""
        self._send(task)

    def ask(self, number: int, question: Question) -> None:
        """Ask it what `Worker.answer` answers."""
        self._send((number, question))

    def stop(self) -> None:
        """Let it write what it has generated, and end."""
        self._send(None)

    @abstractmethod
    def kill(self) -> None:
        """End it now."""

    @abstractmethod
    def _send(self, message: Any) -> None:
        """Send it a message; nothing where it has ended, which is noticed by what it tells."""


# Starts the worker with a number, which tells what happens to it, from any thread.
Hire = Callable[[int, Tell], Hand]


class OnCrew(Protocol):
    """Who is told what workers do, from a thread of the crew."""

    def started(self, worker: int, where: str) -> None:
        """It is ready."""

    def begun(self, worker: int, prompt: str) -> None:
        """It generates a clip."""

    def ended(self, worker: int, why: str, groups: int) -> None:
        """It ended, with so many groups unfinished."""

    def waits(self, worker: int, needs: str) -> None:
        """It cannot begin yet."""

    def less(self, size: int) -> None:
        """A memory holds only so many clips at once."""

    def download(self, progress: Any) -> None:
        """A model is fetched."""
