"""A Ray cluster to work with: one at an address or a local one, and what an actor takes of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from magnet_cli.batch.processes import available_cores
from magnet_cli.errors import MagnetError, UsageError

_OWN = "magnet-ray-"  # what the folder of a cluster of ours is called
_YOUNG_SECONDS = 60.0  # a folder so young may be of a cluster that begins


@dataclass(frozen=True)
class Share:
    """What an actor takes of a cluster."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"
        return f"{cpus} and a GPU" if self.gpus else cpus

    def count(self, ray: Any) -> int:
        """How many actors a cluster has room for now; one waits where there is none. Raises MagnetError."""
        kind, each = ("GPU", self.gpus) if self.gpus else ("CPU", self.cpus)
        try:
            return max(1, int(ray.cluster_resources().get(kind, 0)) // each)
        except Exception as error:  # of Ray's own, by what has become of it
            raise MagnetError(
                f"The Ray cluster is gone: {why(error)}.",
                "What is made stays; the same command goes on, with any engine.",
            ) from error


@contextlib.contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[Any]:
    """A cluster to work with: the one at an address, or a local one that is started and ended here.

    Args:
        address: as `ray start` says it, or `auto`; None: what RAY_ADDRESS says, else a local one.
        cpus: that a local one has.

    Yields:
        The module `ray`, connected.

    Raises:
        UsageError: there is no cluster at the address.
        MagnetError: a local one cannot be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when it is imported
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    with contextlib.ExitStack() as stack:
        if address == "local":
            how |= {"num_cpus": cpus, "include_dashboard": False}
            how["_temp_dir"] = stack.enter_context(_own_folder())
        stack.callback(ray.shutdown)  # before its folder goes
        before = signal.getsignal(signal.SIGTERM)
        try:
            _reach(address)
            ray.init(address, **how)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            if address == "local":
                raise MagnetError(
                    f"Ray does not start: {why(error)}.",
                    "Without --engine ray, --workers makes the same.",
                ) from error
            raise UsageError(
                f"There is no Ray cluster at {address}: {why(error)}.",
                "Start one with `ray start --head`, or leave --address out for a local one.",
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has taken it
        # Where an actor is lost, Ray prints a page to stdout, which is data; nothing public stops it.
        ray._private.worker._worker_logs_enabled = False
        yield ray


def _reach(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


@contextlib.contextmanager
def _own_folder() -> Iterator[str]:
    """A folder for a local cluster. What runs that were killed have left goes, too."""
    # Sockets lie below it, and their names have an end at some hundred bytes.
    parent = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
    for left in Path(parent).glob(f"{_OWN}*"):
        with contextlib.suppress(OSError, Timeout):
            if time.time() - left.lstat().st_mtime > _YOUNG_SECONDS:
                with FileLock(left / ".lock", timeout=0):
                    shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=_OWN, dir=parent, ignore_cleanup_errors=True) as own,
        FileLock(Path(own) / ".lock"),
    ):
        yield own


def share_of(ray: Any, device: str, threads: int | None) -> Share:
    """What an actor takes: a GPU where the cluster has some, or where one is asked for; else processors."""
    is_gpu = device.partition(":")[0] == "cuda"
    if device == "auto":
        is_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    return Share(threads or 1, int(is_gpu))


def counted(
    ray: Any, share: Share, asked: int | Literal["auto"], most: int | None
) -> int | Callable[[], int]:
    """How many actors there are to be.

    Args:
        ray: the module.
        share: of each.
        asked: auto: as many as the cluster has room for at any time.
        most: there is no use in more.
    """
    most = most or 1_000_000
    return min(most, asked) if asked != "auto" else lambda: min(most, share.count(ray))


def local_cpus(asked: int | Literal["auto"], threads: int | None) -> int:
    """Processors that a local cluster says it has: room for all that are asked for."""
    return max(available_cores(), (1 if asked == "auto" else asked) * (threads or 1))


def why(error: Exception) -> str:
    """What Ray says, in a line: the error of an actor that could not begin stands at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1 if "creation task" in lines[0] else 0] if lines else type(error).__name__
    return " ".join(said.split())[:200].rstrip(".:")
