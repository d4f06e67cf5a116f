"""Runs commands in forks of one process that has imported everything once: seconds and memory are their own.

    with Worker() as worker:
        ran = worker.run(["show", "a.wav"], folder)

`python -m tests.corpus.runner` is the process: a JSON line for each command on stdin, one back on stdout.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import processes

MOST_SECONDS = 20.0
MOST_MEGABYTES = 1000.0  # of a command, the modules it has imported among them


@dataclass(frozen=True)
class Ran:
    """The result of a command."""

    status: int  # -9: killed after MOST_SECONDS
    out: str
    err: str
    seconds: float
    megabytes: float  # most at a time


class Worker:
    """The process that forks; a context manager."""

    def __enter__(self) -> Worker:
        self._process = processes.start(
            [sys.executable, "-m", "tests.corpus.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run `magnet` with these arguments in a folder, with this on stdin."""
        asked = {
            # Arguments may be bytes that are not UTF-8.
            "arguments": [os.fsencode(word).decode("latin-1") for word in arguments],
            "folder": str(folder),
            "stdin": stdin.decode("latin-1"),
            "environment": dict(environment or {}),
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Ran(**json.loads(self._process.stdout.readline()))


def _serve() -> None:
    import magnet_cli

    for module in pkgutil.walk_packages(magnet_cli.__path__, "magnet_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    _keep_nano()
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), flush=True)


def _keep_nano() -> None:
    """Load the built-in model once for all; loading is tested elsewhere."""
    from magnet_cli import api

    load, nano = api.load_model, api.load_model("nano", device="cpu")

    def kept(name: Any = None, **how: Any) -> api.Model:
        plain = {"device": "auto", "dtype": "auto"}
        usual = {**plain, **{k: how[k] for k in plain if k in how}} == plain
        return nano if name == "nano" and usual else load(name, **how)

    if nano.device.type == "cpu" and not _has_accelerator():
        api.load_model = kept


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _forked(asked: dict[str, Any]) -> dict[str, Any]:
    read_out, write_out = _spool(), _spool()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(asked, read_out, write_out)
    status, usage, megabytes = None, None, 0.0
    while status is None:
        done, code, usage = os.wait4(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        elif time.monotonic() - began > MOST_SECONDS:
            os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            status = -9
        else:
            time.sleep(0.005)
    if usage is not None:
        megabytes = usage.ru_maxrss / 1024
    seconds = time.monotonic() - began
    said = []
    for number in (read_out, write_out):
        os.lseek(number, 0, os.SEEK_SET)
        with os.fdopen(number, "rb") as file:
            said.append(file.read(2_000_000).decode("utf-8", "backslashreplace"))
    return {
        "status": status,
        "out": said[0],
        "err": said[1],
        "seconds": seconds,
        "megabytes": megabytes,
    }


def _spool() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _child(asked: dict[str, Any], out: int, err: int) -> None:
    status = 1
    try:
        os.environ.update(asked["environment"])
        with contextlib.suppress(OSError):
            os.chdir(asked["folder"])
        stdin = _spool()
        os.write(stdin, asked["stdin"].encode("latin-1"))
        os.lseek(stdin, 0, os.SEEK_SET)
        for number, place in ((stdin, 0), (out, 1), (err, 2)):
            os.dup2(number, place)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        from magnet_cli.cli.app import run

        status = run([os.fsdecode(word.encode("latin-1")) for word in asked["arguments"]])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve()
