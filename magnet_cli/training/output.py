"""The folder that a run writes: always a working model for `magnet gen -m DIR`, and the log."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.adapters import marks_of, save_adapter
from magnet_cli.errors import UsageError
from magnet_cli.fields import shown
from magnet_cli.files import atomic_path, write_directory
from magnet_cli.foreign import reading
from magnet_cli.foreign.bounds import BOUNDS
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.lora import adapters, merged, plain_state, updates_of
from magnet_cli.models.parts import Parts
from magnet_cli.settings import OutputConfig
from magnet_cli.training.config import TrainConfig, to_toml
from magnet_cli.training.state import plain_name

if TYPE_CHECKING:
    from magnet_cli.api import Model

CONFIG_NAME = "train.toml"
SAMPLES = "samples"
LOG_NAME = "log.jsonl"
TRACKS = "tracks"  # folder of trackers that write files


BEST = "best"
_BEST_NAME = "best.json"


@dataclass(frozen=True)
class Best:
    """The validation with the lowest loss."""

    step: int
    loss: float  # nats
    valid: str = ""  # identifies the validation set; "": unknown, from an earlier version


class OutputModel:
    """The parts of the model in training, and its folder, which is a working model from the start.

    Codec and text encoder do not change, so they are written once; the language model's file is replaced
    atomically.
    """

    def __init__(self, directory: Path, parts: Parts, provenance: Mapping[str, Any]) -> None:
        """`provenance`: where the model comes from, for its config.json."""
        self.directory, self.parts, self.provenance = directory, parts, provenance
        self.lm = parts.lm
        # The base of an adapter as loaded, in float32 and in the CPU's memory.
        self._base = plain_state(self.lm) if any(adapters(self.lm)) else {}
        self._marks = marks_of(self._base)

    def create(self, config: TrainConfig) -> None:
        """Write the folder, before the first step. Raises UsageError: it exists."""
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()
        if self.directory.exists():
            raise UsageError(
                f"{self.directory} exists already.",
                "Continue its run with --resume, or choose another folder.",
            )
        plain = self.lm
        if self._base:
            with torch.device("meta"):
                plain = LanguageModel(self.lm.config)
            plain.load_state_dict(self._base, assign=True)
        native.save(self.directory, replace(self.parts, lm=plain), self.provenance)
        self.write_config(config)

    def write_config(self, config: TrainConfig) -> None:
        """Write the settings beside the model."""
        with atomic_path(self.directory / CONFIG_NAME) as partial:
            # As bytes: a path may have a name that is not text.
            partial.write_bytes(to_toml(config).encode(errors="surrogateescape"))

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the language model's weights by a training module's state, named `lm.…`.

        A model with adapters (then its own weights are used) is saved twice: merged, for generation, and as
        the adapter's two small files.
        """
        self._write(self.directory, weights)

    def _write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        updates = updates_of(self.lm)
        if updates:
            base = self.provenance.get("init")
            save_adapter(folder, updates, self.lm.config, base, self._marks)
            weights = merged(self._base, updates)
        state = {
            plain_name(name).removeprefix("lm."): tensor.detach().cpu().contiguous().clone()
            for name, tensor in weights.items()
        }
        with atomic_path(folder / native.LM_FILE) as partial:
            save_file(state, partial)

    def keep_best(self, weights: Mapping[str, Tensor], best: Best) -> None:
        """Save weights, named as in `update`, as the model in `best/`, replacing an earlier one."""
        folder = self.directory / BEST
        if not folder.is_dir():
            write_directory(folder, self._copy)
        self._write(folder, weights)
        with atomic_path(folder / _BEST_NAME) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(best)) + "\n", encoding="utf-8")

    def _copy(self, folder: Path) -> None:
        """Hard-link the model's files: codec and text encoder never change."""
        for path in self.directory.iterdir():
            if path.is_file() and path.suffix in (".json", ".safetensors"):
                try:
                    os.link(path, folder / path.name)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, folder / path.name)

    def best(self) -> Best | None:
        """The step and loss last saved by `keep_best`, or None."""
        path = self.directory / BEST / _BEST_NAME
        try:
            said = reading.read_object(path)
            loss, valid = said["loss"], said.get("valid", "")
            good = BOUNDS["step"].holds(said["step"]) and isinstance(valid, str)
            if good and isinstance(loss, float):
                return Best(said["step"], loss, valid)
        except (OSError, ValueError, KeyError):
            pass
        return None

    def samples_of(self, step: int) -> Path:
        """The folder of a step's samples."""
        return self.directory / SAMPLES / f"step-{step:08d}"

    def kept_model(self, device: str) -> Model:
        """Load the saved model for generation."""
        from magnet_cli.api import load_model  # imports audio reading, which training does not need

        return load_model(str(self.directory.resolve()), device=device, dtype="float32")

    def sample(self, model: Model, step: int, number: int, prompt: str, seed: int) -> None:
        """Generate a sample prompt, into `samples/step-…`."""
        from magnet_cli.audio.finish import write_sound

        folder = self.samples_of(step)
        folder.mkdir(parents=True, exist_ok=True)
        result = model.generate([prompt], seeds=[seed])
        write_sound(
            folder / f"{number:02d}.wav",
            [result.audio[0].cpu().numpy()],
            result.sample_rate,
            "wav",
            OutputConfig(normalize=False),
        )


def board_writer() -> Any:
    """TensorBoard's SummaryWriter.
    Raises UsageError: it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "TensorBoard is not installed.",
            "Install it with `pip install tensorboard`, or magnet with its `tensorboard` extra.",
        ) from error
    return SummaryWriter


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers exist in accelerate and their packages are installed.
    Raises UsageError: naming the available ones, or what to install."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    there = set(map(str, get_available_trackers()))
    for name in names:
        if name not in known:
            raise UsageError(
                f"There is no tracker {shown(name)}.", f"accelerate has {', '.join(known)}."
            )
        if name not in there:
            raise UsageError(
                f"The tracker {name} is not installed.",
                f"Install it, for example with `pip install {name}`.",
            )


# The kinds of record that TensorBoard shows, with their prefixes.
_BOARDS = {"step": "train/", "valid": "valid/"}


class Journal:
    """The log: one JSON object per line, and TensorBoard events if enabled. Only the main process has one."""

    def __init__(self, out: Path, tensorboard: bool, steps_done: int) -> None:
        """Open the log of a run that has done `steps_done` steps, and remove later lines.
        Raises UsageError: TensorBoard is enabled but not installed."""
        self.path = out / LOG_NAME
        self._board: Any = None
        if tensorboard:
            self._board = board_writer()(str(out / "tensorboard"), purge_step=steps_done)
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            # A kill may have cut off the last line.
            lines = [line for line in text.split("\n")[:-1] if line.startswith("{")]
            kept = [line for line in lines if _step_of(line) <= steps_done]
            with atomic_path(self.path) as partial:
                partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record, which includes its step; its numbers also go to TensorBoard."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in numbers_of(record.get("kind", ""), record).items():
                self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _step_of(line: str) -> float:
    """The step of a line of the log; infinity if it cannot be read, so that the line is removed."""
    try:
        step = reading.json_of(line, invalid=True).get("step")
    except (reading.ReadError, AttributeError):
        return math.inf
    return step if isinstance(step, int) else math.inf


def numbers_of(kind: str, record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record by their names in boards and trackers; {} for kinds not shown there."""
    if kind not in _BOARDS:
        return {}
    return {_BOARDS[kind] + name: value for name, value in _numbers("", record) if name != "step"}


def _numbers(prefix: str, value: Any) -> list[tuple[str, float]]:
    """Every number in nested dicts and lists, with its path as name."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, (int, float)):
        return [(prefix, float(value))]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for name, part in pairs:
        found += _numbers(f"{prefix}/{name}" if prefix else str(name), part)
    return found
