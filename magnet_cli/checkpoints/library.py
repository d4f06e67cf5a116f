"""What of the hub's cache is on this machine: known models or not, their sizes; removing. No torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.checkpoints import hub
from magnet_cli.checkpoints.layouts import model_layout
from magnet_cli.checkpoints.registry import KnownCheckpoint
from magnet_cli.errors import ModelNotFoundError, UsageError


@dataclass(frozen=True)
class CachedModel:
    """A model in the hub's cache, at the commit that its main branch was at."""

    repo: str
    revision: str  # the commit
    directory: Path
    bytes: int  # on disk, of all revisions
    complete: bool  # none of its own files is missing; codec and text encoder may be elsewhere


def cached_models() -> list[CachedModel]:
    """All models that can be loaded from the cache, and those that are there in part, by name."""
    try:
        folders = sorted(hub.cache_directory().glob("models--*--*"))
    except OSError:
        return []
    found = (cached_model("/".join(folder.name.split("--")[1:])) for folder in folders)
    return [model for model in found if model is not None]


def cached_model(repo: str) -> CachedModel | None:
    """The model of this repository; None where it is not in the cache, or is no model."""
    snapshot = hub.cached(repo)
    if snapshot is None:
        return None
    names = snapshot.names()
    layout = model_layout(names)
    if layout is None:
        return None
    size = _bytes(hub.repo_directory(repo))
    return CachedModel(repo, snapshot.revision, snapshot.directory, size, not layout.missing(names))


def is_here(known: KnownCheckpoint) -> bool:
    """Whether a known model is built in, or complete in the cache."""
    if known.repo is None:
        return True
    model = cached_model(known.repo)
    return model is not None and model.complete


def remove(repo: str) -> int:
    """Remove a model from the cache, all revisions of it; the bytes that this frees.

    Its codec and text encoder stay where they are repositories of their own: others may use them.

    Raises:
        ModelNotFoundError: it is not there.
        UsageError: it cannot be removed, as from a read-only cache.
    """
    directory = hub.repo_directory(repo)
    if not directory.is_dir():
        raise ModelNotFoundError(
            f"{repo} is not on this machine.", "`magnet models list` shows what is."
        )
    freed = _bytes(directory)
    try:
        if directory.is_symlink():
            directory.unlink()
        else:
            shutil.rmtree(directory)
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be removed: {error.strerror or error}.",
            "Check who may write there.",
        ) from error
    return freed


def _bytes(directory: Path) -> int:
    """What the files take, each once: snapshots are links to blobs."""
    files = (path for path in directory.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(path.stat().st_size for path in files)
