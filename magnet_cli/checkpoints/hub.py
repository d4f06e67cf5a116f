"""Reads the hub's local cache, and downloads what is missing. Imports no torch.

The cache is the hub's own documented layout, shared with every other program that uses it:

    <cache>/models--owner--name/refs/<branch>             the commit that the branch was at
    <cache>/models--owner--name/snapshots/<commit>/<file>

Reading needs neither the network nor write access, nor the hub's library. The environment is read at
each call (`HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`), not once at import as by the library.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magnet_cli.checkpoints.registry import file_names, unreadable
from magnet_cli.errors import MagnetError, ModelNotFoundError
from magnet_cli.foreign import reading
from magnet_cli.naming import some
from magnet_cli.version import __version__

_PROGRAM = "magnet-cli"  # our name in requests to the hub
_REPO = re.compile(r"[\w\-.]{1,96}(/[\w\-.]{1,96})?", re.ASCII)
# As git allows for branches and tags, without paths that lead elsewhere.
_REVISION = re.compile(r"[^\s/~^:?*\[\\\x00-\x1f\x7f][^\s~^:?*\[\\\x00-\x1f\x7f]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Snapshot:
    """The cached files of a repository at one commit."""

    repo: str
    revision: str  # the commit
    directory: Path

    def names(self) -> list[str]:
        """The names of the cached files; see `file_names`."""
        return file_names(self.directory)


@dataclass(frozen=True)
class Progress:
    """Progress of the download of one file."""

    repo: str
    file: str
    done: int  # bytes
    total: int | None  # bytes, where the server says


ProgressHook = Callable[[Progress], None]
# Chooses the needed files of a repository by name; raises if they are unsuitable.
FileChoice = Callable[[Sequence[str]], Sequence[str]]


def is_repo_id(text: str) -> bool:
    """Whether a name is valid for a repository on the hub."""
    good = bool(_REPO.fullmatch(text)) and "--" not in text and ".." not in text
    return good and not any(part[0] in "-." or part[-1] in "-." for part in text.split("/"))


def cache_directory() -> Path:
    """The hub's cache folder, by the current environment."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return _path(os.environ[variable])
    if os.environ.get("HF_HOME"):
        return _path(os.environ["HF_HOME"]) / "hub"
    return _path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def offline() -> bool:
    """Whether the environment forbids the network."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def repo_directory(repo: str) -> Path:
    """The folder of a cached repository, or None."""
    return cache_directory() / f"models--{repo.replace('/', '--')}"


def cached(repo: str, revision: str | None = None) -> Snapshot | None:
    """The cached files of `repo` at a branch, tag or commit (or a prefix of one); None: nothing.
    Raises ModelNotFoundError: the cache cannot be read there."""
    folder = repo_directory(repo)
    try:
        commit = _commit(folder, revision or "main")
        if commit is None:
            return None
        directory = folder / "snapshots" / commit
        return Snapshot(repo, commit, directory) if directory.is_dir() else None
    except OSError as error:
        raise unreadable(folder, error) from error


def cached_anywhere(repo: str) -> Snapshot | None:
    """As `cached`, but of another commit where the cache has none of the default branch."""
    names = ["main", *sorted(path.name for path in (repo_directory(repo) / "snapshots").glob("*"))]
    return next((found for name in names if (found := cached(repo, name)) is not None), None)


def download(
    repo: str,
    choose: FileChoice,
    revision: str | None = None,
    progress: ProgressHook | None = None,
    again: Sequence[str] = (),
) -> Snapshot:
    """Download the files of `repo` that `choose` picks from its listing into the cache.

    Cached files are not downloaded again, and interrupted downloads are resumed.

    Args:
        revision: branch, tag or commit.
        again: names of files to download even if cached; `revision` is then their commit.

    Raises ModelNotFoundError: no such repository or revision, no access, no network, no space.
    """
    import huggingface_hub  # here, because it takes a third of a second and few runs download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        api = huggingface_hub.HfApi(endpoint=endpoint, library_name=_PROGRAM)
        # Without a timeout the library waits forever for the listing, unlike for files.
        patience = huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT  # seconds: 10, or the user's own
        listing = api.model_info(repo, revision=revision, timeout=patience)
        names = [entry.rfilename for entry in listing.siblings or ()]
        # The first file is requested by the branch's name, which records the branch's commit in the cache;
        # the others by that commit, so that all are from one.
        at = revision
        snapshot = None
        for name in choose(names):
            if revision is not None and name in again:
                _discard(repo_directory(repo), revision, name)
            path = huggingface_hub.hf_hub_download(
                repo,
                name,
                revision=at,
                cache_dir=cache_directory(),
                endpoint=endpoint,
                force_download=name in again,
                tqdm_class=_bar_for(repo, name, progress),
                library_name=_PROGRAM,
                library_version=__version__,
            )
            directory = Path(path).parent
            at = directory.name
            snapshot = Snapshot(repo, at, directory)
    except MagnetError:
        raise
    except Exception as error:
        # The library passes on its HTTP client's errors, and has changed that client twice.
        raise _explained(repo, revision, error) from error
    if snapshot is None:
        raise ModelNotFoundError(f"Nothing in {repo} is needed.", "Check the name of the model.")
    return snapshot


def _path(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def _commit(folder: Path, revision: str) -> str | None:
    """The commit that a branch, tag or (short) commit stands for in the cache."""
    if not _REVISION.fullmatch(revision) or ".." in revision:
        return None
    try:
        commit = reading.read_text(folder / "refs" / revision, most=200).strip()
    except (OSError, reading.ReadError):  # a pipe, a device, or a name that was not cached
        pass
    else:
        return commit if _COMMIT.fullmatch(commit) else None
    if not _SHORT_COMMIT.fullmatch(revision) or not (folder / "snapshots").is_dir():
        return None
    found = [path.name for path in (folder / "snapshots").iterdir()]
    matching = [name for name in found if name.startswith(revision) and _COMMIT.fullmatch(name)]
    return matching[0] if len(matching) == 1 else None


def _discard(folder: Path, commit: str, name: str) -> None:
    """Delete a file of a snapshot with its blob, which the library would link to again.

    If a link points elsewhere, somebody else made it, and its target is kept.
    """
    path = folder / "snapshots" / commit / name
    if path.is_symlink():
        blob = path.parent / os.readlink(path)
        if blob.parent.resolve() == (folder / "blobs").resolve():
            blob.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _bar_for(repo: str, file: str, hook: ProgressHook | None) -> Any:
    """A progress-bar class for the hub's library that reports to `hook` instead.

    Without a hook it is silent, because the library's own bar would write to stderr.
    """
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.done = int(kwargs.get("initial") or 0)
            total = kwargs.get("total")
            self.expected = int(total) if total else None
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)
            self._tell()

        def update(self, n: float | None = 1) -> bool | None:
            self.done += int(n or 0)
            self._tell()
            return None

        def _tell(self) -> None:
            if hook is not None:
                hook(Progress(repo, file, self.done, self.expected))

    return Bar


def _explained(repo: str, revision: str | None, error: Exception) -> ModelNotFoundError:
    """Convert a download's exception to our error."""
    from huggingface_hub import errors as hub

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub.GatedRepoError):
        return ModelNotFoundError(
            f"{repo} is gated: its owner must grant you access.",
            f"Accept its terms on https://huggingface.co/{repo}, then set HF_TOKEN to your token.",
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{repo} has no revision {revision!r}.", "Leave the revision out, or check it."
        )
    # The hub answers 401 for private repositories and, to callers without a token, for missing ones.
    if isinstance(error, hub.RepositoryNotFoundError) or status == 404:
        return ModelNotFoundError(
            f"The hub has no model {repo}, or it is private.",
            "Check the name; if it is private, set HF_TOKEN to a token that may read it.",
        )
    if status in (401, 403):
        return ModelNotFoundError(
            f"The hub does not let you read {repo} ({status}).",
            "Set HF_TOKEN to a token that may read it.",
        )
    if status is not None:
        return ModelNotFoundError(f"The hub answered {status} for {repo}.", "Try again later.")
    if isinstance(error, hub.OfflineModeIsEnabled):
        return not_here(repo)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ModelNotFoundError(
            f"No space is left for {repo} in {cache_directory()}.",
            "Free some space, or set HF_HUB_CACHE to another disk; partial downloads are kept.",
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return ModelNotFoundError(
            f"{cache_directory()} cannot be written to, so {repo} cannot be downloaded.",
            "Set HF_HUB_CACHE to a writable folder.",
        )
    reason = str(error).partition("\n")[0].strip() or type(error).__name__
    return ModelNotFoundError(
        f"{repo} could not be downloaded: {reason}.".replace("..", "."),
        "Check the network and run it again; partial downloads are kept.",
    )


def fetch_again(path: Path) -> str:
    """The hint for a damaged file."""
    if cache_directory() in path.parents:
        return "Run `magnet models pull` with the model's name: it fetches damaged files again."
    return "Copy it again from where it came from."


def not_here(repo: str, revision: str | None = None) -> ModelNotFoundError:
    """The error for a repository or revision that is not cached while the network is off."""
    if other := _cached_revisions(repo):
        return ModelNotFoundError(
            f"{repo} is on this machine at {other}; its revision {(revision or 'main')[:80]!r} is not on "
            "this machine, and the network is off (--offline or HF_HUB_OFFLINE).",
            "Ask for what is here with @REVISION after the name, or fetch another once with "
            f"`magnet models pull {repo}@REVISION`.",
        )
    return ModelNotFoundError(
        f"{repo} is not on this machine, and the network is off (--offline or HF_HUB_OFFLINE).",
        f"Fetch it once with `magnet models pull {repo}`.",
    )


def _cached_revisions(repo: str) -> str:
    """The cached branches and tags of a repository, or else commits, in words; empty if there are none."""
    for folder in ("refs", "snapshots"):
        names = sorted(path.name for path in (repo_directory(repo) / folder).glob("*"))
        if found := [name for name in names if cached(repo, name) is not None]:
            return some(found)
    return ""
