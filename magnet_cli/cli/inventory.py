"""Known and available models, as `magnet models` lists them, without torch or network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from magnet_cli.checkpoints import hub, registry
from magnet_cli.checkpoints.place import find_place
from magnet_cli.checkpoints.registry import T5, KnownCheckpoint, model_layout
from magnet_cli.errors import CheckpointError, MagnetError
from magnet_cli.foreign import reading

LM_FILE = "lm.safetensors"  # marks a folder in magnet's own format

Status = Literal["built in", "cached", "incomplete", "not here", "folder"]


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        name: its name.
        repo: its repository on the hub; None if built in.
        status: whether it is on this machine; incomplete: some of its files are.
        size: bytes on this machine, or bytes to download.
        directory: the folder of its files.
        revision: the cached commit.
        known: facts from the registry or a folder's config.json, if any.
    """

    name: str
    repo: str | None
    status: Status
    size: int
    directory: Path | None
    revision: str | None
    known: KnownCheckpoint | None

    def is_called(self, name: str | None) -> bool:
        """Whether `name`, as `--model` takes it, is this model."""
        if name is None:
            return False
        if self.status == "folder":
            return self.directory is not None and self.directory.resolve() == _path(name)
        aliases = self.known.aliases if self.known is not None else ()
        return name.partition("@")[0] in (self.name.partition("@")[0], self.repo, *aliases)

    def record(self) -> dict[str, Any]:
        """The entry as JSON types."""
        known = self.known
        facts = {
            "name": self.name,
            "repo": self.repo,
            "status": self.status,
            "size": self.size,
            "directory": str(self.directory) if self.directory is not None else None,
            "revision": self.revision,
        }
        if known is None:
            return facts
        return {
            **facts,
            "aliases": list(known.aliases),
            "licence": known.licence,
            "kind": known.kind,
            "modeling": known.modeling,
            "sample_rate": known.sample_rate,
            "segment_duration": known.segment_duration,
            "parameters": known.parameters,
            "text_encoder": known.text_encoder,
            "decoding": known.decoding.given(),
        }


def inventory() -> list[Entry]:
    """The known models, then other models in the hub's cache."""
    entries = [entry_of(known) for known in registry.known_checkpoints()]
    listed = {entry.repo for entry in entries}
    return [*entries, *(entry for entry in _strangers() if entry.repo not in listed)]


def entry_of(known: KnownCheckpoint, revision: str = "") -> Entry:
    """The entry of a known model, at a revision or at any that is cached, the default branch first."""
    if known.repo is None:
        directory = known.directory
        size = _size(directory) if directory is not None else 0
        return Entry(known.name, None, "built in", size, directory, None, known)
    snapshot = _snapshot(known.repo, revision)
    if snapshot is None:
        return Entry(known.name, known.repo, "not here", download_size(known), None, None, known)
    return _cached(known.name, snapshot, known)


def in_folder(name: str) -> Entry:
    """The entry of a model in a folder.
    Raises ModelNotFoundError: there is no such folder; CheckpointError: it lacks files of a model, or its
    config.json is damaged."""
    resolved = find_place(name, offline=True)
    directory = resolved.directory
    size = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    known = _described(directory, name) if (directory / LM_FILE).is_file() else None
    return Entry(name, resolved.repo, "folder", size, directory, None, known)


def find_cached(name: str) -> Entry | None:
    """The entry of any repository in the cache, `@revision` may follow its name, or None."""
    repo, _, revision = name.partition("@")
    snapshot = _snapshot(repo, revision)
    return None if snapshot is None else _cached(repo, snapshot, registry.find(repo))


def _snapshot(repo: str, revision: str) -> hub.Snapshot | None:
    return hub.cached(repo, revision) if revision else hub.cached_anywhere(repo)


def delete(repo: str, commit: str | None = None) -> int:
    """Delete a commit of a repository from the cache, or all (None); returns the freed bytes.
    Raises MagnetError if it could not be deleted."""
    from huggingface_hub import scan_cache_dir

    cache = scan_cache_dir(hub.cache_directory())
    found = [entry for entry in cache.repos if entry.repo_type == "model" and entry.repo_id == repo]
    commits = {each.commit_hash for entry in found for each in entry.revisions}
    strategy = cache.delete_revisions(*(commits if commit is None else {commit}))
    strategy.execute()
    if _snapshot(repo, commit or "") is not None:
        raise MagnetError(
            f"{repo} could not be deleted from {hub.cache_directory()}.", "Check its permissions."
        )
    return int(strategy.expected_freed_size)


def text_encoder_here(name: str) -> bool:
    """Whether a text encoder is in the cache, under either of its names."""
    repos = (name, f"google-t5/{name}")
    snapshots = (hub.cached(repo) for repo in repos)
    return any(found is not None and not T5.missing(found.names()) for found in snapshots)


def _cached(name: str, snapshot: hub.Snapshot, known: KnownCheckpoint | None) -> Entry:
    layout = model_layout(snapshot.names())
    complete = layout is not None and not layout.missing(snapshot.names())
    status: Status = "cached" if complete else "incomplete"
    directory = snapshot.directory
    if snapshot != hub.cached(snapshot.repo):
        name = f"{name}@{snapshot.revision[:12]}"  # as --model finds it
    return Entry(name, snapshot.repo, status, _size(directory), directory, snapshot.revision, known)


def _described(directory: Path, name: str) -> KnownCheckpoint:
    try:
        return registry.described(reading.read_object(directory / "config.json"), name, directory)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The config.json of the model in {directory} cannot be used: {reading.reason(error)}.",
            "Get it from the model's source again, or make the model again.",
        ) from error


def _strangers() -> list[Entry]:
    entries = []
    folder = hub.cache_directory()
    for path in sorted(folder.glob("models--*")) if folder.is_dir() else ():
        repo = path.name.removeprefix("models--").replace("--", "/")
        snapshot = hub.cached_anywhere(repo)
        if snapshot is not None and model_layout(snapshot.names()) is not None:
            entries.append(_cached(repo, snapshot, None))
    return entries


def download_size(known: KnownCheckpoint) -> int:
    """Bytes to download, including a missing text encoder."""
    encoder = known.text_encoder
    more = 0 if encoder is None or text_encoder_here(encoder) else registry.TEXT_ENCODER_MB[encoder]
    return (known.download_mb + more) * 1_000_000


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _path(name: str) -> Path | None:
    try:
        return Path(name).expanduser().resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, no such user
        return None
