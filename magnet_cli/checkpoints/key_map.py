"""Key maps: tables that rename a checkpoint's keys, with none missing and none left over.

A table is a list of (their pattern, our pattern). `{}` stands for a whole number, the same numbers
in the same order on both sides; the first matching row applies. Export uses the table from right to
left. Keys without a counterpart are dropped only if listed; any other unknown or missing key is an
error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from magnet_cli.errors import CheckpointError

Table = Sequence[tuple[str, str]]

MOST_NAMED = 5  # keys named in a message; the rest are counted
HINT = "The file is damaged, or made by a version that this one does not know."


def to_ours(
    state: Mapping[str, Tensor], table: Table, drops: Sequence[str], where: str
) -> dict[str, Tensor]:
    """Rename `state` to our names; keys that match a pattern of `drops` are left out.
    Raises CheckpointError: a key matches neither, or two keys get the same name."""
    rows = [(_compiled(source), target) for source, target in table]
    dropped = [_compiled(pattern) for pattern in drops]
    renamed: dict[str, Tensor] = {}
    left_over = []
    for key, tensor in state.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{where} has the name {key!r}, which is not a text.", HINT)
        _check_plain(key, tensor, where)
        for pattern, target in rows:
            if match := pattern.fullmatch(key):
                name = target.format(*match.groups())
                if name in renamed:
                    raise CheckpointError(f"{where} holds {name} twice, once as {key}.", HINT)
                renamed[name] = tensor
                break
        else:
            if not any(pattern.fullmatch(key) for pattern in dropped):
                left_over.append(key)
    if left_over:
        raise CheckpointError(f"{where} has unknown keys:  {named(left_over)}.", HINT)
    return renamed


def from_ours(state: Mapping[str, Tensor], table: Table, where: str) -> dict[str, Tensor]:
    """Rename our `state` to their names, using the table from right to left.
    Raises CheckpointError: a key has no row."""
    return to_ours(state, [(ours, theirs) for theirs, ours in table], (), where)


def _check_plain(key: str, tensor: object, where: str) -> None:
    """Check that a value from a pickle is a plain tensor."""
    if not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise CheckpointError(f"{where}: {key} is a {kind}, not a tensor.", HINT)
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise CheckpointError(f"{where}: {key} is a sparse or quantized tensor.", HINT)
    if tensor.is_meta or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        # With a stride of zero, a tensor can be larger than its storage.
        raise CheckpointError(f"{where}: {key} is larger than what is stored of it.", HINT)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(r"(\d+)".join(re.escape(part) for part in pattern.split("{}")))


def named(keys: Sequence[str]) -> str:
    more = len(keys) - MOST_NAMED
    return ", ".join(keys[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
