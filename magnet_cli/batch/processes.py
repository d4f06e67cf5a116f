"""Workers as local processes: one per GPU, or with a share of the CPU cores each.

A worker is started by its driver only: messages come as pickles on stdin, and events go to stdout. It ends
when its stdin does, as its driver is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any, Literal

from magnet_cli.batch.hands import Hand, Hire, Tell, Told
from magnet_cli.batch.worker import Setup, Task, Worker
from magnet_cli.errors import MagnetError
from magnet_cli.models.precision import available_cores

_LENGTH = struct.Struct("<Q")
_TAIL = 2000  # bytes to read of an ended worker's stderr


@dataclass(frozen=True)
class Places:
    """How workers are placed on this machine.

    Attributes:
        count: number of workers.
        gpus: names as in CUDA_VISIBLE_DEVICES, assigned to workers in turn; empty: use the CPU.
        threads: threads per worker.
    """

    count: int
    gpus: tuple[str, ...]
    threads: int

    def of(self, worker: int) -> dict[str, str]:
        """Environment variables of a worker (from 1), which must be set before torch is imported."""
        more = {"OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            more["CUDA_VISIBLE_DEVICES"] = self.gpus[(worker - 1) % len(self.gpus)]
        return more


def places(asked: int | Literal["auto"], device: str, threads: int | None) -> Places:
    """Place `asked` workers on this machine; auto: one per GPU, or without a GPU as many as the cores allow.
    `threads`: per worker; None: its share of the cores."""
    cores = available_cores()
    gpus = visible_gpus() if device in ("auto", "cuda") else ()
    if asked == "auto":
        by_cores = max(1, cores // (threads or 1))
        asked = len(gpus) or (by_cores if device in ("auto", "cpu") else 1)
    return Places(asked, gpus, threads or max(1, cores // asked))


def visible_gpus() -> tuple[str, ...]:
    """CUDA devices that this process may use, named as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    said = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    named = [name for name in said if name]
    return tuple(named[:count]) if len(named) >= count else tuple(map(str, range(count)))


def hire_processes(setup: Setup, where: Places) -> Hire:
    """A `Hire` for local processes."""

    def hire(number: int, tell: Tell) -> Hand:
        return Process(number, replace(setup, threads=where.threads), where.of(number), tell)

    return hire


class Process(Hand):
    """The driver's handle of a worker process (`hands.Hand`)."""

    def __init__(self, number: int, setup: Setup, more: Mapping[str, str], tell: Tell) -> None:
        """Start the process.

        Args:
            number: the worker's number.
            setup: what it loads and does.
            more: environment variables to add.
            tell: called with its events, from a thread.
        """
        self._number, self._tell = number, tell
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        # Not with -m, which puts the working folder first: a file there, such as random.py, would be run.
        begin = f"import sys; sys.path[:] = {sys.path!a}; from {__name__} import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", begin],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **more},
            # Only the driver gets Ctrl-C, and lets its workers write what they have.
            start_new_session=True,
        )
        self._send((number, setup))
        threading.Thread(target=self._listen, name=f"worker {number}", daemon=True).start()

    def kill(self) -> None:
        """As `hands.Hand`."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            _write(self._process.stdin, message)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                self._tell(Told(self._number, *_read(self._process.stdout)))
        self.kill()
        status = self._process.wait()
        self._tell(Told(self._number, "ended", self._how(status)))

    def _how(self, status: int) -> str:
        if status < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-status).name
                more = ", perhaps because memory ran out" if name == "SIGKILL" else ""
                return f"was killed ({name}{more})"
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _TAIL))
        last = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return f"ended with status {status}" + (f": {last[-1].strip()}" if last else "")


def serve(
    receive: Callable[[], Any],
    send: Callable[[tuple[str, Any]], None],
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """Run a worker: load the model, make tasks as they arrive, and report events.

    Args:
        receive: waits for the next message; raises EOFError or OSError if the driver is gone.
        send: sends an event; called by one thread at a time.
        on_end: called from a thread when the driver is gone.
    """
    lock = threading.Lock()

    def tell(kind: str, value: Any = None) -> None:
        with lock:
            send((kind, value))

    number, setup = receive()
    try:
        worker = Worker(
            str(number),
            setup,
            on_outcome=lambda outcome: tell("outcome", outcome),
            on_begin=lambda prompt: tell("begin", prompt),
            on_less=lambda size: tell("less", size),
            on_download=lambda progress: tell("download", progress),
            on_stuck=lambda error: tell("stuck", error),
        )
    except MagnetError as error:
        tell("stuck", error.with_traceback(None))
        return
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                message = receive()
            except (EOFError, OSError):
                on_end()
                return
            if isinstance(message, tuple):
                tell("answer", (message[0], worker.answer(message[1])))
            else:
                if message is None:
                    worker.stop()
                tasks.put(message)

    threading.Thread(target=listen, daemon=True).start()
    tell("ready", worker.facts)
    with worker:
        while (task := tasks.get()) is not None:
            worker.make(task)
            tell("free")


def _write(sink: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    sink.write(_LENGTH.pack(len(data)) + data)
    sink.flush()


def _read(source: IO[bytes]) -> Any:
    """Read the next message. Raises EOFError at the end."""
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    return pickle.loads(_exactly(source, length))


def _exactly(source: IO[bytes], length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    """Serve on stdin and stdout; redirect other output on stdout to stderr."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source = sys.stdin.buffer
    serve(lambda: _read(source), lambda told: _write(sink, told), lambda: os._exit(1))
    sink.close()
    os._exit(0)  # do not wait for reading threads
