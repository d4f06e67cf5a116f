"""A name, a hub id or a directory -> the local files of everything that a model needs.

    resolve("small")                                  a known name
    resolve("facebook/magnet-small-10secs@<commit>")  a hub id, at a revision or not
    resolve("models/mine")                            a directory, in the released layout or ours

Tried in this order: built in, a directory, the hub's local cache, a download. What a checkpoint
points to (its codec, its text encoder) is resolved with it, so that loading needs no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.checkpoints import audiocraft, hub, integrity, registry
from magnet_cli.checkpoints.identity import directory_of
from magnet_cli.checkpoints.layouts import (
    AUDIOCRAFT,
    ENCODEC,
    NATIVE,
    NATIVE_CODEC,
    T5,
    Layout,
    model_layout,
    needed,
)
from magnet_cli.checkpoints.registry import KnownCheckpoint
from magnet_cli.errors import CheckpointError, ModelNotFoundError, UsageError


@dataclass(frozen=True)
class ResolvedPart:
    """The files of one part of a model: all in one directory, in one layout."""

    layout: Layout
    directory: Path
    repo: str | None  # on the hub; None: a directory of the user's, or built in
    revision: str | None  # the commit


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """Where everything is that a model is loaded from."""

    name: str
    layout: Layout  # AUDIOCRAFT or NATIVE
    directory: Path
    repo: str | None
    revision: str | None
    known: KnownCheckpoint | None  # what the registry says about it
    codec: ResolvedPart
    text: ResolvedPart


@dataclass(frozen=True)
class _Fetching:
    """How what is missing is had."""

    offline: bool
    progress: hub.ProgressHook | None
    repair: bool = False  # damaged files count as missing


def resolve(
    spec: str | None,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: hub.ProgressHook | None = None,
    repair: bool = False,
) -> ResolvedCheckpoint:
    """Find (or fetch) the files of a model.

    Args:
        spec: name, alias, hub id or directory; `@revision` may follow a name or a hub id. None is
            the built-in model.
        revision: branch, tag or commit, where `spec` has none.
        offline: never touch the network, as HF_HUB_OFFLINE does, too.
        progress: told how far each download is.
        repair: read all that the hub's cache has of it, and fetch again what is damaged.

    Raises:
        ModelNotFoundError: it is nowhere, or could not be fetched.
        CheckpointError: it is there, but files are missing or in no known layout.
        UsageError: two different revisions, or one for what is no repository.
    """
    how = _Fetching(offline or hub.offline(), progress, repair)
    spec = registry.builtin_name() if spec is None else spec
    name, at, said = spec.partition("@")
    known = registry.find(name)
    builtin = known if known is not None and known.repo is None else None
    directory = builtin.directory if builtin is not None else directory_of(spec)
    if known is None and directory is None:
        _check_repo(spec, name)
    if at and (directory is None or builtin is not None):
        if revision not in (None, said) or not said:
            raise UsageError(
                f"{spec!r} and the revision {revision!r} do not go together.", "Give one revision."
            )
        revision = said
    if directory is not None:
        if revision is not None:
            raise UsageError(
                f"{spec!r} is on this machine and has no revisions.", "Leave the revision out."
            )
        return _from_directory(directory, builtin, how)
    repo = known.repo if known is not None and known.repo is not None else name
    return _from_snapshot(_snapshot(repo, None, revision, how), known, how)


def resolve_codec(
    spec: str, *, offline: bool = False, progress: hub.ProgressHook | None = None
) -> ResolvedPart:
    """The codec alone: of a model, or of a repository or directory that holds a codec only.

    Raises:
        ModelNotFoundError, CheckpointError: as `resolve`.
    """
    directory = directory_of(spec)
    if directory is not None and model_layout(hub.file_names(directory)) is None:
        names = hub.file_names(directory)
        layout = NATIVE_CODEC if "codec.safetensors" in names else ENCODEC
        needed(layout, names, str(directory))
        return ResolvedPart(layout, directory, None, None)
    name, _, revision = spec.partition("@")
    if directory is None and registry.find(name) is None:
        _check_repo(spec, name)
        how = _Fetching(offline or hub.offline(), progress)
        snapshot = _snapshot(name, None, revision or None, how)
        if model_layout(snapshot.names()) is None:
            return _part(ENCODEC, snapshot)
    return resolve(spec, offline=offline, progress=progress).codec


def resolve_text_encoder(
    name: str, *, offline: bool = False, progress: hub.ProgressHook | None = None
) -> ResolvedPart:
    """A T5 alone, by the name that checkpoints have for it (`t5-base`) or by its repository.

    Raises:
        ModelNotFoundError: it is nowhere, or could not be fetched.
    """
    if not hub.is_repo_id(name):
        raise registry.unknown_name(name)
    return _part(T5, _text_encoder(name, _Fetching(offline or hub.offline(), progress)))


def _check_repo(spec: str, name: str) -> None:
    if "/" not in name or not hub.is_repo_id(name):
        raise registry.unknown_name(spec)


def _from_directory(
    directory: Path, known: KnownCheckpoint | None, how: _Fetching
) -> ResolvedCheckpoint:
    names = hub.file_names(directory)
    layout = model_layout(names)
    if layout is None:
        raise CheckpointError(
            f"{directory} holds no model.",
            f"A model has {_needs(AUDIOCRAFT)} (the released layout) or {_needs(NATIVE)} (ours).",
        )
    needed(layout, names, str(directory))
    codec, text = _parts(layout, directory, None, None, how)
    name = known.name if known is not None else directory.resolve().name
    return ResolvedCheckpoint(name, layout, directory, None, None, known, codec, text)


def _from_snapshot(
    snapshot: hub.Snapshot, known: KnownCheckpoint | None, how: _Fetching
) -> ResolvedCheckpoint:
    layout = model_layout(snapshot.names())
    if layout is None:
        raise _no_model(snapshot.repo)
    repo, revision, directory = snapshot.repo, snapshot.revision, snapshot.directory
    codec, text = _parts(layout, directory, repo, revision, how)
    name = known.name if known is not None else repo
    return ResolvedCheckpoint(name, layout, directory, repo, revision, known, codec, text)


def _parts(
    layout: Layout,
    directory: Path,
    repo: str | None,
    revision: str | None,
    how: _Fetching,
) -> tuple[ResolvedPart, ResolvedPart]:
    """The codec and the text encoder: of the same directory, or where it points to."""
    here = ResolvedPart(layout, directory, repo, revision)
    if layout is NATIVE:
        return here, here
    codec = here
    pointer = audiocraft.codec_pointer(directory / audiocraft.CODEC_FILE)
    if pointer is not None:
        codec = _part(ENCODEC, _snapshot(pointer, ENCODEC, None, how))
    wanted = audiocraft.open_lm(directory / audiocraft.LM_FILE).text_encoder
    text = _part(T5, _text_encoder(wanted, how))
    return codec, text


def _text_encoder(name: str, how: _Fetching) -> hub.Snapshot:
    """The text encoder called `name`, under whichever of its two names the cache has it."""
    repos = [name] if "/" in name else [f"google-t5/{name}", name]
    for repo in repos:
        snapshot = hub.cached(repo)
        if snapshot is not None and not T5.missing(snapshot.names()):
            return _snapshot(repo, T5, None, how)
    if how.offline and hub.cached(repos[0]) is None:
        repos.reverse()  # speak of the one that is there in part, if any
    return _snapshot(repos[0], T5, None, how)


def _snapshot(
    repo: str, layout: Layout | None, revision: str | None, how: _Fetching
) -> hub.Snapshot:
    """All files that `layout` needs (None: of whichever layout of a model it is), at one commit."""
    snapshot = hub.cached(repo, revision)
    names = snapshot.names() if snapshot is not None else []
    missing = _expected(names, layout).missing(names)
    damaged: list[str] = []
    if snapshot is not None and how.repair:
        chosen = _expected(names, layout).chosen(names)
        damaged = integrity.damaged(snapshot.directory, list(chosen.values()))
        if damaged:
            revision = snapshot.revision  # the other files are of this commit
    if snapshot is not None and not missing and not damaged:
        return snapshot
    if how.offline:
        if snapshot is None:
            raise hub.not_here(repo)
        if missing:
            raise ModelNotFoundError(
                f"{repo} is here only in part: {', '.join(missing)} is missing, and the network "
                "is off.",
                f"Fetch the rest with `magnet models pull {repo}`.",
            )
        raise ModelNotFoundError(
            f"{repo} is damaged: {', '.join(damaged)} must be fetched again, and the network is "
            "off.",
            "Run it again without HF_HUB_OFFLINE.",
        )

    def choose(names: Sequence[str]) -> Sequence[str]:
        found = layout or model_layout(names)
        if found is None and not ENCODEC.missing(names):
            found = ENCODEC  # resolve_codec may want it; resolve says that it is no model
        if found is None:
            raise _no_model(repo)
        return needed(found, names, repo)

    try:
        return hub.download(repo, choose, revision, how.progress, again=damaged)
    except ModelNotFoundError as error:
        near = registry.near_names(repo)
        if near and registry.find(repo) is None:
            error.hint = f"{error.hint} Did you mean {' or '.join(near)}?"
        raise


def _expected(names: Sequence[str], layout: Layout | None) -> Layout:
    """`layout`, or the one that a repository with these files seems to be in."""
    # Nothing that tells a model's layout: a codec's repository, or one that is still empty.
    otherwise = ENCODEC if "config.json" in names else AUDIOCRAFT
    return layout or model_layout(names) or otherwise


def _part(layout: Layout, snapshot: hub.Snapshot) -> ResolvedPart:
    return ResolvedPart(layout, snapshot.directory, snapshot.repo, snapshot.revision)


def _needs(layout: Layout) -> str:
    return ", ".join(need[0] for need in layout.needs)


def _no_model(repo: str) -> CheckpointError:
    return CheckpointError(
        f"{repo} holds no model in the released layout, nor in magnet's own.",
        "Text-to-audio checkpoints of MAGNeT, MusicGen and AudioGen can be used.",
    )
