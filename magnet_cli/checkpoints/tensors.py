"""Tensors from files, safely and without copies, and into a module, strictly."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from magnet_cli.checkpoints import hub
from magnet_cli.checkpoints.key_map import HINT, named
from magnet_cli.errors import CheckpointError
from magnet_cli.foreign import bounds, reading


@contextmanager
def blank() -> Iterator[None]:
    """Modules made in here have shapes, but neither memory nor initial values: `fill` gives both.

    The initial values are left out because drawing them without memory makes torch import its
    compiler, which takes longer than loading a small model.
    """
    with torch.device("meta"), _NoInitialValues():
        yield


class _NoInitialValues(TorchFunctionMode):
    """Skips the functions of torch.nn.init."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def read_pickle(path: Path) -> dict[str, Any]:
    """What torch.save wrote, memory-mapped. Nothing in the file is ever run.

    Raises:
        CheckpointError: unreadable, not a dictionary, it would need code of its own to be run, or it
            would take more memory than it has bytes.
    """
    try:
        bounds.check_pickle(path)
        try:
            loaded = _load(path, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            loaded = _load(path, mmap=False)  # a file from before torch 1.6 cannot be mapped
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged pickle calls torch's own functions with anything: what they raise is their own.
        raise damaged(path, error) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path.name} holds {reading.kind_of(loaded)}, not a model.",
            "Take the file that the model's makers have released, whole.",
        )
    return loaded


def _load(path: Path, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "weights only" not in str(error).lower():
            raise damaged(path, error) from error
        raise CheckpointError(
            f"{path} was refused: it is a pickle that holds more than tensors, and loading it "
            "would run code that came with the file.",
            "Take this model from a source that you trust, as safetensors if there is a choice; "
            "the released checkpoints hold tensors and text only.",
        ) from error


def read_safetensors(path: Path, wanted: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, only those that `wanted` takes.
    Raises CheckpointError: not a safetensors file, or cut short."""
    try:
        bounds.read_header(path)
        # Older safetensors would put them on whatever device the caller's program made the default.
        with torch.device("cpu"), safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if wanted is None or wanted(name)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise damaged(path, error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickled state dictionary.
    Raises CheckpointError: as `read_safetensors` and `read_pickle`."""
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Put `state` into a module that was built on the meta device: all of it, and nothing else.

    Tensors of another dtype or device are converted one by one, so that the module is never in
    memory twice; the others are taken as they are, still mapped to their file.

    Args:
        source: the file's name, for messages.

    Raises CheckpointError: a tensor is missing, left over, or of another shape; it names them.
    """
    check_state(state, module.state_dict(), source)
    converted = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in state.items()
    }
    module.load_state_dict(converted, strict=True, assign=True)


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Hold `state` against what a model of this config has: the same keys, the same shapes.

    `expected` is the `state_dict()` of such a model, best one on the meta device. Raises
    CheckpointError: naming the keys that are missing, left over, of another shape or kind.
    """
    if missing := [key for key in expected if key not in state]:
        raise CheckpointError(f"{where} lacks {named(missing)}.", HINT)
    if left_over := [key for key in state if key not in expected]:
        raise CheckpointError(f"{where} has more than the model: {named(left_over)}.", HINT)
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{where}: {key} is {list(tensor.shape)}, "
                f"its settings make it {list(expected[key].shape)}.",
                HINT,
            )
        if tensor.is_floating_point() != expected[key].is_floating_point():
            raise CheckpointError(f"{where}: {key} is {tensor.dtype}.", HINT)


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a file of a model that cannot be read, and what to do about it."""
    hint = hub.fetch_again(path)
    if str(error) == reading.LFS_REASON:
        hint = reading.LFS_HINT
    elif isinstance(error, FileNotFoundError):
        hint = "The model is not whole: take all of its files from where it came from."
    return CheckpointError(f"{path} cannot be read: {reading.reason(error)}.", hint)
