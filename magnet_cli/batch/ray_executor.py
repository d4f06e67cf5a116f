"""Workers as actors of a Ray cluster: the driver is `batch.crew`, a worker runs `batch.processes.serve`.

This uses Ray Core only: an actor for each GPU, or for a share of the CPUs, waits until the cluster has these.
The driver fetches its events; without a shared disk, files come with them as bytes.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magnet_cli.batch.executors import as_magnet_error
from magnet_cli.batch.hands import Hand, Hire, Tell, Told
from magnet_cli.batch.jobs import Job
from magnet_cli.batch.manifest import Manifest, mark_of
from magnet_cli.batch.processes import serve
from magnet_cli.batch.ray_cluster import Share, why
from magnet_cli.batch.report import Outcome
from magnet_cli.batch.resume import Standing
from magnet_cli.batch.worker import Setup, Task
from magnet_cli.errors import UsageError
from magnet_cli.files import PARTIAL, draft, marked, write_error
from magnet_cli.targets import check_inside

_MOST_TOLD = 16  # maximum events, including finished clips, waiting in an actor
_PATIENCE = 20.0  # seconds before a note that an actor waits for the cluster


@dataclass(frozen=True)
class Place:
    """Where actors work.

    Attributes:
        folder: the driver's working folder, to which names of files and models are relative.
        token: a file in the clips' folder that nodes must see; None: files are sent to the driver.
    """

    folder: str
    token: Path | None


@dataclass(frozen=True)
class Files:
    """A clip's outcome, with its files as bytes."""

    outcome: Outcome
    sound: bytes
    codes: bytes | None


class Actor:
    """A worker on a node of the cluster: takes messages, and queues events."""

    def __init__(self, number: int, setup: Setup, place: Place) -> None:
        """Begin to load the model.

        Args:
            number: the worker's number.
            setup: what it loads and does.
            place: where it works.
        """
        with contextlib.suppress(OSError):  # it may not exist without a shared disk
            os.chdir(place.folder)
        self._in: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._out: queue.Queue[tuple[str, Any]] = queue.Queue(_MOST_TOLD)
        self._own: Path | None = None
        if place.token is None:
            self._own = Path(tempfile.mkdtemp(prefix="magnet-"))
            setup = replace(setup, folder=self._own, manifest=self._own / setup.manifest.name)
        elif not place.token.is_file():
            error = UsageError(
                f"{platform.node()} does not see the folder {setup.folder} of this machine.",
                "Put it on a disk that all nodes share, or use --collect.",
            )
            self._out.put(("stuck", error))
            self._out.put(("ended", "ended"))
            return
        self._in.put((number, setup))
        threading.Thread(target=self._work, daemon=True).start()

    def put(self, message: Any) -> None:
        """Take a task or a question; None means to end."""
        if self._own is not None and isinstance(message, Task):
            message = replace(message, jobs=[_moved(job, self._own) for job in message.jobs])
        self._in.put(message)

    def take(self) -> tuple[str, Any]:
        """Wait for and return the next event; ("ended", ...) is the last."""
        kind, value = self._out.get()
        if kind == "ready":
            value = replace(value, host=platform.node())
        if self._own is not None and kind == "outcome" and value.saved is not None:
            target = value.saved.target
            codes = None if target.codes is None else target.codes.read_bytes()
            value = Files(value, target.path.read_bytes(), codes)
            for path in (target.path, target.codes):
                if path is not None:
                    path.unlink()
        return kind, value

    def leave(self) -> None:
        """Remove its files from this node; called before the end."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def _work(self) -> None:
        try:
            serve(self._in.get, self._out.put, lambda: None)
        except Exception as error:
            self._out.put(("stuck", as_magnet_error(error)))
        self._out.put(("ended", "ended"))


class RayHand(Hand):
    """The driver's handle of an actor (`hands.Hand`)."""

    def __init__(
        self, ray: Any, number: int, actor: Any, tell: Tell, setup: Setup, needs: str
    ) -> None:
        """Listen to the actor in a thread.

        Args:
            ray: the module.
            number: the worker's number.
            actor: Ray's handle.
            tell: called with its events.
            setup: the driver's setup.
            needs: the resources it needs, in words.
        """
        self._ray, self._number, self._actor, self._tell = ray, number, actor, tell
        self._setup, self._needs = setup, needs
        self._noted = Manifest(setup.manifest)  # the driver's records of current jobs
        self._planned: dict[int, Job] = {}  # by index, for files that are sent
        self._is_killed = False
        threading.Thread(target=self._listen, name=f"actor {number}", daemon=True).start()

    def give(self, task: Task) -> None:
        """As `hands.Hand`."""
        self._planned |= {job.index: job for job in task.jobs}
        self._noted.clips.update(task.noted)
        super().give(task)

    def kill(self) -> None:
        """As `hands.Hand`."""
        if not self._is_killed:
            self._is_killed = True
            with contextlib.suppress(Exception):  # the actor or the cluster may be gone
                self._ray.get(self._actor.leave.remote(), timeout=1.0)
            with contextlib.suppress(Exception):
                self._ray.kill(self._actor)

    def _send(self, message: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._actor.put.remote(message)

    def _listen(self) -> None:
        try:
            kind = ""
            while kind != "ended":
                kind, value = self._taken(self._actor.take.remote(), first=not kind)
                self._hear(kind, value)
        except self._ray.exceptions.RayError as error:
            self._hear("ended", f"was lost ({why(error)})")
        except Exception as error:  # such as a full disk
            self._hear("stuck", as_magnet_error(error))
            self._hear("ended", "cannot send its clips")
        self.kill()

    def _taken(self, event: Any, first: bool) -> Any:
        """Wait for an actor's event. Raises RayError if the actor is gone."""
        began, is_said = time.monotonic(), not first
        while True:
            try:
                return self._ray.get(event, timeout=1.0)
            except self._ray.exceptions.GetTimeoutError:
                if self._is_killed:
                    return "ended", "ended"
            if not is_said and time.monotonic() - began > _PATIENCE:
                is_said = True
                self._tell(Told(self._number, "waits", self._needs))

    def _hear(self, kind: str, value: Any) -> None:
        if kind == "outcome":
            done = value.outcome if isinstance(value, Files) else value
            job = self._planned.pop(done.job.index)
            if isinstance(value, Files):
                with marked(f"{self._noted.mark}-{self._number}"):
                    value = written(value, job, self._setup, self._noted)
            self._noted.clips.pop(job.file, None)
        self._tell(Told(self._number, kind, value))


def written(files: Files, job: Job, setup: Setup, noted: Manifest) -> Outcome:
    """Write a clip's files, received as bytes; returns its outcome with their paths.

    Args:
        files: the outcome and the files.
        job: the planned job.
        setup: the run's setup.
        noted: the manifest's record of the clip.

    Raises:
        MagnetError: the disk is full or cannot be written to.
    """
    path, saved = job.target.path, files.outcome.saved
    assert path is not None
    assert saved is not None
    try:
        Standing(noted, setup.force).refuse(job)
        check_inside(setup.folder, path.parent)
    except UsageError as error:
        return replace(files.outcome, job=job, saved=None, size=None, error=error)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for data, place in ((files.sound, path), (files.codes, job.target.codes)):
            if data is not None and place is not None:
                with draft(place, replace=True) as made:
                    made.path.write_bytes(data)
    except OSError as error:
        raise write_error(path, error) from error
    return replace(files.outcome, job=job, saved=replace(saved, target=job.target))


@contextlib.contextmanager
def hire_actors(ray: Any, setup: Setup, share: Share, collect: bool) -> Iterator[Hire]:
    """Yield a `Hire` for actors of a cluster.

    Args:
        ray: the module.
        setup: what they load and do.
        share: resources of each.
        collect: send files here, for lack of a shared disk.
    """
    remote = ray.remote(Actor)
    device = "cuda" if share.gpus and setup.device != "auto" else setup.device
    setup = replace(setup, threads=share.cpus, device=device)
    token: Path | None = None
    if not collect:
        prefix = f"{PARTIAL}{mark_of(setup.manifest)}-"  # removed with a killed run's other partial files
        handle, name = tempfile.mkstemp(prefix=prefix, dir=setup.folder)
        os.close(handle)
        token = Path(name)

    def hire(number: int, tell: Tell) -> Hand:
        actor = remote.options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_concurrency=4,  # `put` must work while `take` waits
            max_restarts=0,  # the crew replaces it
        ).remote(number, setup, Place(os.getcwd(), token))
        return RayHand(ray, number, actor, tell, setup, str(share))

    try:
        yield hire
    finally:
        if token is not None:
            token.unlink(missing_ok=True)


def _moved(job: Job, folder: Path) -> Job:
    """Redirect a job's files to another folder, named by its index as names may be long."""
    target = job.target
    assert target.path is not None
    place = folder / f"{job.index}{target.path.suffix}"
    codes = None if target.codes is None else place.with_name(f"{place.name}.npz")
    return replace(job, target=replace(target, path=place, codes=codes))
