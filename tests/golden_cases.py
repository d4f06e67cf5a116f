"""The golden cases: what the reference made, read from tests/golden (see its README.md).

for case in cases(section=1, prefix="t5/t5base/"):
    hidden = tensor(case["outputs"]["embeddings"])
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
HUB_CACHE = GOLDEN / "hf_cache"


@functools.cache
def index() -> dict[str, Any]:
    """The content of expected/index.json."""
    loaded: dict[str, Any] = json.loads((GOLDEN / "expected" / "index.json").read_text("utf-8"))
    return loaded


def cases(section: int | None = None, prefix: str | None = None) -> list[dict[str, Any]]:
    """The cases of a section with ids that start with `prefix`; never an empty list."""
    found = [
        case
        for case in index()["cases"]
        if (section is None or case["section"] == section)
        and (prefix is None or case["id"].startswith(prefix))
    ]
    if not found:
        raise LookupError(f"no golden case has section {section} and prefix {prefix!r}")
    return found


def case(case_id: str) -> dict[str, Any]:
    """The case with this id."""
    (found,) = (case for case in cases() if case["id"] == case_id)
    return found


def case_id(case: dict[str, Any]) -> str:
    """For `pytest.mark.parametrize(..., ids=case_id)`."""
    return str(case["id"])


def tensor(ref: dict[str, Any]) -> Tensor:
    """The tensor of a reference {file, key, dtype, shape}.

    Integers are stored small: int16 and int32 are returned as int64 (codes, ids), uint8 as bool.
    """
    with safe_open(GOLDEN / ref["file"], framework="pt") as file:
        stored: Tensor = file.get_tensor(ref["key"])
    if list(stored.shape) != list(ref["shape"]):
        raise ValueError(f"{ref['key']} is {list(stored.shape)}, the index says {ref['shape']}")
    if stored.dtype in (torch.int16, torch.int32):
        return stored.long()
    if stored.dtype == torch.uint8:
        return stored.bool()
    return stored


def snapshot(model: str) -> Path:
    """The folder that holds the files of a golden model, such as `facebook/magnet-small-10secs`."""
    return GOLDEN / str(index()["models"][model]["path"])
