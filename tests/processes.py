"""Starts processes for tests marked `process` or `slow`; no other module does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

# The program, as a process of its own.
MAGNET = (sys.executable, "-m", "magnet_cli")


def start(command: Sequence[str], **more: Any) -> subprocess.Popen[Any]:
    """Start a process, which Ctrl-C and a closed terminal end even if the suite ignores them (started with
    `&` or nohup)."""
    return subprocess.Popen(command, preexec_fn=_heed_signals, **more)


def run(command: Sequence[str], **more: Any) -> subprocess.CompletedProcess[Any]:
    """Run a process to its end. Takes the arguments of `start` and subprocess.run."""
    return subprocess.run(command, preexec_fn=_heed_signals, **more)


def _heed_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
