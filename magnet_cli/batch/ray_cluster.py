"""Connects to a Ray cluster or starts a local one; the resources of an actor."""

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

from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.models.precision import available_cores

_OWN = "magnet-ray-"  # prefix of a local cluster's folder
_YOUNG_SECONDS = 60.0  # a younger folder may belong to a cluster that is starting


@dataclass(frozen=True)
class Share:
    """Resources of an actor."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"
        return f"{cpus} and a GPU" if self.gpus else cpus

    def count(self, ray: Any) -> int:
        """How many actors a cluster has resources for, at least 1. Raises MagnetError if it is gone."""
        kind, each = ("GPU", self.gpus) if self.gpus else ("CPU", self.cpus)
        try:
            return max(1, int(ray.cluster_resources().get(kind, 0)) // each)
        except Exception as error:  # Ray raises many kinds
            raise MagnetError(
                f"The Ray cluster is gone: {why(error)}.",
                "Finished clips are kept; run the same command to continue, with any engine.",
            ) from error


@contextlib.contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[Any]:
    """Connect to the cluster at an address, or start a local one for the duration of the block.

    Args:
        address: as `ray start` prints it, or `auto`; None: RAY_ADDRESS, else a local cluster.
        cpus: CPUs of a local cluster.

    Yields:
        the connected module `ray`.

    Raises:
        UsageError: there is no cluster at the address.
        MagnetError: a local cluster cannot be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    with contextlib.ExitStack() as stack:
        if address == "local":
            how |= {"num_cpus": cpus, "include_dashboard": False}
            how["_temp_dir"] = stack.enter_context(_own_folder())
        stack.callback(ray.shutdown)  # before its folder is removed
        before = signal.getsignal(signal.SIGTERM)
        try:
            _reach(address)
            ray.init(address, **how)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            if address == "local":
                raise MagnetError(
                    f"Ray does not start: {why(error)}.",
                    "Use --workers without --engine ray, which makes the same clips.",
                ) from error
            raise UsageError(
                f"There is no Ray cluster at {address}: {why(error)}.",
                "Start one with `ray start --head`, or remove --address for a local one.",
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray replaced it
        # When an actor dies Ray prints a page to stdout, which is for data; no public setting prevents it.
        ray._private.worker._worker_logs_enabled = False
        yield ray


def _reach(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT, where Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


@contextlib.contextmanager
def _own_folder() -> Iterator[str]:
    """A temporary folder for a local cluster; also removes those of killed runs."""
    # It contains sockets, whose paths are limited to about a hundred bytes.
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
    """An actor's resources: a GPU if one is requested or, with `auto`, the cluster has any; else CPUs."""
    is_gpu = device.partition(":")[0] == "cuda"
    if device == "auto":
        is_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    return Share(threads or 1, int(is_gpu))


def counted(
    ray: Any, share: Share, asked: int | Literal["auto"], most: int | None
) -> int | Callable[[], int]:
    """The number of actors to start.

    Args:
        ray: the module.
        share: resources of each.
        asked: number of workers; auto: as many as the cluster has resources for at any time.
        most: maximum useful number.
    """
    most = most or 1_000_000
    return min(most, asked) if asked != "auto" else lambda: min(most, share.count(ray))


def local_cpus(asked: int | Literal["auto"], threads: int | None) -> int:
    """CPUs to declare for a local cluster: enough for all requested workers."""
    return max(available_cores(), (1 if asked == "auto" else asked) * (threads or 1))


def why(error: Exception) -> str:
    """Ray's message in one line; for an actor that failed to start, its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1 if "creation task" in lines[0] else 0] if lines else type(error).__name__
    return " ".join(said.split())[:200].rstrip(".:")
