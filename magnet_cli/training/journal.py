"""The log of a run: one JSON object a line, and TensorBoard events where they are wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magnet_cli.errors import UsageError
from magnet_cli.files import atomic_path

LOG_NAME = "log.jsonl"


class Journal:
    """Appends to `log.jsonl`; only the main process has one."""

    def __init__(self, out: Path, tensorboard: bool, steps_done: int) -> None:
        """Open the log of a run that has done `steps_done` steps; what lies behind them is cut off.

        Raises:
            UsageError: TensorBoard is wanted and not installed.
        """
        self.path = out / LOG_NAME
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UsageError(
                    "TensorBoard is not installed.",
                    "Install it with `pip install tensorboard`, or magnet with its `tensorboard` extra.",
                ) from error
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=steps_done)
        kept = [line for line in self._lines() if json.loads(line)["step"] <= steps_done]
        if self.path.exists():
            with atomic_path(self.path) as partial:
                partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def _lines(self) -> list[str]:
        """Whole lines: a kill may have cut the last one."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return [line for line in text.split("\n")[:-1] if line.startswith("{")]

    def write(self, record: dict[str, Any]) -> None:
        """Append a record, which names its step; numbers in it go to TensorBoard too."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in _numbers("", record):
                if name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _numbers(prefix: str, value: Any) -> list[tuple[str, float]]:
    """Every number in nested dicts and lists, under a path for its name."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, (int, float)):
        return [(prefix, float(value))]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for name, part in pairs:
        found += _numbers(f"{prefix}/{name}" if prefix else str(name), part)
    return found
