"""Ids of models' weights, computed without loading them. Imports no torch.

The weights behind a name can change: the built-in model with the program's version, a folder by further
training, a branch on the hub. An id depends only on the weights, not on the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from magnet_cli.checkpoints import hub, registry
from magnet_cli.checkpoints.loras import parse_lora
from magnet_cli.checkpoints.place import folder_of
from magnet_cli.checkpoints.registry import NATIVE, hashed, model_layout
from magnet_cli.errors import MagnetError


def identity(spec: str) -> str | None:
    """The id of the weights named by `spec` (as for `find_place`); None: not on this machine.

    "sha256:..." over a folder in magnet's format; "files:..." over the names, sizes and times of a
    released one, which has gigabytes; "owner/name@commit" for the hub's cache. Nothing is downloaded, and
    errors in a name are left to loading.
    """
    try:
        name, _, revision = spec.partition("@")
        known = registry.find(name)
        if known is not None and known.directory is not None:
            return None if revision else _of_folder(known.directory)
        folder = folder_of(spec)
        if folder is not None:
            return _of_folder(folder)
        repo = known.repo if known is not None and known.repo is not None else name
        if "/" not in repo or not hub.is_repo_id(repo):
            return None
        snapshot = hub.cached(repo, revision or None)
        return f"{repo}@{snapshot.revision}" if snapshot is not None and snapshot.names() else None
    except (MagnetError, OSError, ValueError):
        return None


def with_identities(models: Mapping[str, str]) -> dict[str, str]:
    """Models by their part (model, rescorer, ...), and beside each its id as `<part>_id`, where known."""
    found = dict(models)
    for part, spec in models.items():
        known = _of_lora(spec) if part.startswith("lora") else identity(spec)
        if known is not None:
            found[f"{part}_id"] = known
    return found


def _of_lora(spec: str) -> str | None:
    try:
        return parse_lora(spec).id
    except (MagnetError, OSError, ValueError):
        return None


def _of_folder(folder: Path) -> str | None:
    names = registry.file_names(folder)
    layout = model_layout(names)
    if layout is None:
        return None
    files = sorted(layout.chosen(names).values())
    digest = hashlib.sha256()
    for name in files:
        path = folder / name
        if layout is NATIVE:
            digest.update(f"{name}\0".encode() + hashed(path))
        else:
            status = path.stat()
            digest.update(f"{name}\0{status.st_size}\0{int(status.st_mtime)}\0".encode())
    return f"{'sha256' if layout is NATIVE else 'files'}:{digest.hexdigest()}"
