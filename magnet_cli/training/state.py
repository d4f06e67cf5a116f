"""The state that a run resumes from: averaged weights, and checkpoints that are complete or absent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.files import plain_errors
from magnet_cli.foreign import reading
from magnet_cli.foreign.bounds import BOUNDS

CHECKPOINTS = "checkpoints"
_PREFIX = "step-"
_PARTIAL = ".partial-"
_WRAPPED = ("module.", "_orig_mod.")  # prefixes of parameter names added by DDP and torch.compile


def plain_name(name: str) -> str:
    """A parameter's name without the prefixes of DDP and torch.compile."""
    while name.startswith(_WRAPPED):
        name = name.partition(".")[2]
    return name


class Ema:
    """An exponential moving average of a model's parameters, updated every few steps.

    The first updates have a larger weight, or a short run would stay near its start: the n-th keeps at most
    (1 + n) / (10 + n). Each process averages its own parts of the parameters, so DDP and FSDP need nothing
    else.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.names = [plain_name(name) for name, p in model.named_parameters() if p.requires_grad]
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.shadow = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the current parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, parameter in zip(self.shadow, self._parameters, strict=True):
            average.lerp_(parameter.detach(), 1 - decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within this context the model has the averaged weights, or its own if nothing was averaged yet."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        if not self.updates:
            return  # the averages are the initial weights
        for average, parameter in zip(self.shadow, self._parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and by parameter name this process's part of the averages."""
        parts = {
            name: local(average).cpu()
            for name, average in zip(self.names, self.shadow, strict=True)
        }
        return {"updates": self.updates, "shadow": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        if not BOUNDS["updates"].holds(state["updates"]):
            raise ValueError("its averages lack their number of updates")
        self.updates = state["updates"]
        saved = {plain_name(name): part for name, part in state["shadow"].items()}
        for name, average in zip(self.names, self.shadow, strict=True):
            local(average).copy_(saved[name])


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor sharded by FSDP; other tensors unchanged."""
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local


def keep_only_trained(accelerator: Any) -> None:
    """Exclude frozen weights from checkpoints: a resumed run loads them from the model that it started
    from.
    Raises UsageError: the run is under FSDP, whose checkpoints contain the whole model."""
    if _is_sharded(accelerator):
        raise UsageError("A LoRA cannot be trained under FSDP.", "Use DDP: its base fits one GPU.")

    def save(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        for number, model in enumerate(models):
            trained = {plain_name(n) for n, p in model.named_parameters() if p.requires_grad}
            weights[number] = {
                plain_name(n): t for n, t in weights[number].items() if plain_name(n) in trained
            }

    def load(models: list[nn.Module], folder: str) -> None:
        model = models.pop()  # accelerate loads what is left in the list
        saved = load_file(Path(folder) / "model.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(saved[plain_name(name)])

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_checkpoint(
    accelerator: Any, ema: Ema, out: Path, step: int, record: dict[str, Any], keep: int
) -> Path:
    """Save everything that a resumed run needs, after `step` steps; all processes take part.

    Args:
        record: JSON-able, saved with it: `config`, the run's settings, and what identifies its data.
        keep: number of checkpoints to keep; older ones are removed.

    It is written under another name and renamed once it is on disk, so a kill leaves the earlier
    checkpoints untouched and no incomplete one.
    Raises OSError: the disk is full, or not writable; the incomplete checkpoint is removed.
    """
    folder = out / CHECKPOINTS
    partial, final = folder / f"{_PARTIAL}{step}", folder / _name(step)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        with plain_errors():
            accelerator.save_state(str(partial))
            # Under FSDP each process saves its own part.
            if accelerator.is_main_process or _is_sharded(accelerator):
                torch.save(ema.state_dict(), partial / _ema_name(accelerator))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial / "run.json").write_text(json.dumps({"step": step, **record}))
            _flush(partial)
            shutil.rmtree(final, ignore_errors=True)  # from a run that went back to an earlier one
            partial.rename(final)
            for old in _complete(out)[:-keep]:
                shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Any, ema: Ema, checkpoint: Path) -> int:
    """Resume from a checkpoint of `save_checkpoint`; returns the number of steps done.
    Raises CheckpointError: a file is damaged; it does not fit the model or the number of processes."""
    _check_whole(checkpoint)
    try:
        accelerator.load_state(str(checkpoint))
        ema.load_state_dict(torch.load(checkpoint / _ema_name(accelerator), weights_only=True))
        step: int = checkpoint_record(checkpoint)["step"]
    except CheckpointError:
        raise
    except Exception as error:  # damaged files make torch and pickle raise anything
        raise CheckpointError(
            f"{checkpoint} cannot be resumed: {reading.reason(error)}.",
            "Sizes of the model, optimizer and (under FSDP) the number of processes must be those "
            "of the run; or start a new one from its weights with --init.",
        ) from error
    return step


def _check_whole(checkpoint: Path) -> None:
    """Find damaged files before torch and safetensors load them: their errors are about internals, and
    torch's advice, `weights_only=False`, would run code from the file."""
    for path in sorted(checkpoint.iterdir()):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".pt", ".bin") and not zipfile.is_zipfile(path):
                raise ValueError
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} cannot be read: it is damaged or truncated.", _one_before(checkpoint)
            ) from error


def _one_before(checkpoint: Path) -> str:
    return f"Remove {checkpoint}, and --resume goes on from the one before it."


def _is_sharded(accelerator: Any) -> bool:
    return accelerator.distributed_type == "FSDP"


def _ema_name(accelerator: Any) -> str:
    return f"ema-{accelerator.process_index if _is_sharded(accelerator) else 0}.pt"


def latest_checkpoint(out: Path, before: int | None = None) -> Path | None:
    """The newest complete checkpoint of a run, with fewer than `before` steps if given; or None."""
    complete = _complete(out)
    if before is not None:
        complete = [each for each in complete if each.name < _name(before)]
    return complete[-1] if complete else None


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def checkpoint_record(checkpoint: Path) -> dict[str, Any]:
    """`step`: steps done; `config`: the settings it was made with."""
    path = checkpoint / "run.json"
    try:
        record = reading.read_object(path)
        if not BOUNDS["step"].holds(record.get("step")) or not isinstance(record["config"], dict):
            raise reading.ReadError("it does not say step and config")
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {reading.reason(error)}.", _one_before(checkpoint)
        ) from error
    return record


def _complete(out: Path) -> list[Path]:
    return sorted(
        path for path in (out / CHECKPOINTS).glob(f"{_PREFIX}*") if (path / "run.json").is_file()
    )


def _flush(folder: Path) -> None:
    """Make sure that all files are on disk before the folder is renamed."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
