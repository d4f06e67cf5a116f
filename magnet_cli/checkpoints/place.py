"""From a name to a place: what a name refers to, and where the files of a model are.

    find_place("small")                                  a known name
    find_place("facebook/magnet-small-10secs@<commit>")  a hub id, at a revision or not
    find_place("models/mine")                            a folder, in the released layout or ours

Tried in this order: a built-in model, a folder (if it has the name of a known model, only if it contains a
model), the hub's local cache, a download. The codec and text encoder that a checkpoint refers to are found
with it, so that loading needs no network. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.checkpoints import hub, registry
from magnet_cli.checkpoints.registry import (
    AUDIOCRAFT,
    ENCODEC,
    NATIVE,
    NATIVE_CODEC,
    NATIVE_TEXT,
    T5,
    KnownCheckpoint,
    Layout,
    file_names,
    model_layout,
    needed,
)
from magnet_cli.errors import CheckpointError, ModelNotFoundError, UsageError
from magnet_cli.fields import shown


@dataclass(frozen=True)
class Place:
    """The files of a model or of one of its parts, in one folder and one layout."""

    name: str
    layout: Layout
    directory: Path
    repo: str | None = None  # on the hub; None: a folder of the user's, or built in
    revision: str | None = None  # the commit
    known: KnownCheckpoint | None = None  # its entry in the registry
    codec: Place | None = None  # of a model: the place of its codec, itself or another
    text: Place | None = None  # likewise its text encoder


def folder_of(spec: str) -> Path | None:
    """The folder that `spec` names; None for a known model, or one on the hub.
    Raises ModelNotFoundError: it is a path that does not exist, or a file."""
    if not spec:
        return None
    is_path = spec.startswith((".", "~", os.sep)) or spec.count("/") > 1 or os.sep == "\\" in spec
    path = Path(os.path.expanduser(spec))
    try:
        if path.is_dir():
            # A folder with the name of a known model is used only if it contains a model.
            if is_path or registry.find(spec) is None or model_layout(file_names(path)):
                return path
        elif is_path or (path.is_file() and registry.find(spec) is None):
            name = repr(spec[:200])
            raise ModelNotFoundError(
                f"{name} is a file." if path.exists() else f"There is no folder {name}.",
                "Name a model's folder; `magnet models list` lists the models on this machine.",
            )
    except (OSError, ValueError) as error:  # name too long, NUL in it, no permission
        raise registry.unknown_name(spec) from error
    return None


def check_name(spec: str) -> None:
    """Check a model's name, without loading anything.
    Raises ModelNotFoundError: it is neither a known name, a folder nor written as a hub id."""
    name = spec.partition("@")[0]
    if registry.find(name) is None and folder_of(spec) is None and "/" not in name:
        raise registry.unknown_name(spec)


def source_of(spec: str) -> str | None:
    """`spec` if it names a folder, for the records of files; else None."""
    try:
        return spec if folder_of(spec) is not None else None
    except ModelNotFoundError:
        return None


@dataclass(frozen=True)
class _Fetching:
    """How missing files are fetched."""

    forbidden: bool  # the caller forbids the network
    progress: hub.ProgressHook | None
    repair: bool = False  # damaged files count as missing

    @property
    def offline(self) -> bool:
        """Whether the caller or the environment forbids the network."""
        return self.forbidden or hub.offline()


def find_place(
    spec: str | None,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: hub.ProgressHook | None = None,
    repair: bool = False,
) -> Place:
    """Find (or fetch) the files of a model.

    Args:
        spec: name, alias, hub id or directory; `@revision` may follow a name or a hub id. None is
            the built-in model.
        revision: branch, tag or commit, where `spec` has none.
        offline: never use the network, as with HF_HUB_OFFLINE.
        progress: called with the progress of each download.
        repair: verify its files in the hub's cache, and fetch damaged ones again.

    Raises:
        ModelNotFoundError: it was not found, or could not be fetched.
        CheckpointError: files are missing, or in no known layout.
        UsageError: two different revisions are given, or one for something other than a repository.
    """
    if revision is not None and not isinstance(revision, str):
        raise UsageError(
            f"The revision cannot be {shown(revision)}.", "Give a branch, tag or commit."
        )
    how = _Fetching(offline, progress, repair)
    spec = registry.builtin_name() if spec is None else spec
    name, at, said = spec.partition("@")
    known = registry.find(name)
    builtin = known if known is not None and known.repo is None else None
    directory = builtin.directory if builtin is not None else folder_of(spec)
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


def find_codec(spec: str, *, progress: hub.ProgressHook | None = None) -> Place:
    """Find a codec alone: of a model, or in a repository or directory that contains only a codec.
    Raises ModelNotFoundError, CheckpointError: as `find_place`."""
    directory = folder_of(spec)
    names = [] if directory is None else file_names(directory)
    layout = NATIVE_CODEC if "codec.safetensors" in names else ENCODEC
    if directory is not None and (layout is NATIVE_CODEC or model_layout(names) is None):
        needed(layout, names, str(directory))
        return Place(directory.name, layout, directory)
    name, _, revision = spec.partition("@")
    if directory is None and registry.find(name) is None:
        _check_repo(spec, name)
        snapshot = _snapshot(name, None, revision or None, _Fetching(False, progress))
        if model_layout(snapshot.names()) is None:
            return _part(ENCODEC, snapshot)
    codec = find_place(spec, progress=progress).codec
    assert codec is not None
    return codec


def find_text_encoder(name: str, *, progress: hub.ProgressHook | None = None) -> Place:
    """Find a text encoder alone: a known model's, in a folder, or a T5 by the name used in checkpoints
    (`t5-base`).

    Raises:
        ModelNotFoundError: it was not found, or could not be fetched.
        CheckpointError: the folder contains none.
    """
    known = registry.find(name)
    builtin = known is not None and known.repo is None
    directory = known.directory if known is not None and builtin else folder_of(name)
    name = t5_of(name)
    if directory is not None:
        names = file_names(directory)
        layout = NATIVE_TEXT if not NATIVE_TEXT.missing(names) else T5
        if layout.missing(names):
            raise CheckpointError(
                f"{directory} holds no text encoder.",
                f"It needs {_needs(NATIVE_TEXT)}, or the files of a T5: {_needs(T5)}.",
            )
        return Place(directory.name, layout, directory)
    if not hub.is_repo_id(name):
        raise registry.unknown_name(name)
    return _part(T5, _text_encoder(name, _Fetching(False, progress)))


def t5_of(spec: str) -> str:
    """The T5 of a known model; other names are that of a T5 themselves."""
    known = registry.find(spec)
    return spec if known is None or known.text_encoder is None else known.text_encoder


def _check_repo(spec: str, name: str) -> None:
    if "/" not in name or not hub.is_repo_id(name):
        raise registry.unknown_name(spec)


def _from_directory(directory: Path, known: KnownCheckpoint | None, how: _Fetching) -> Place:
    names = file_names(directory)
    layout = model_layout(names)
    if layout is None:
        raise CheckpointError(
            f"{directory} holds no model.",
            f"A model has {_needs(AUDIOCRAFT)} (the released layout) or {_needs(NATIVE)} (ours).",
        )
    needed(layout, names, str(directory))
    name = known.name if known is not None else directory.resolve().name
    return _with_parts(Place(name, layout, directory, known=known), how)


def _from_snapshot(snapshot: hub.Snapshot, known: KnownCheckpoint | None, how: _Fetching) -> Place:
    layout = model_layout(snapshot.names())
    if layout is None:
        raise _no_model(snapshot.repo)
    name = known.name if known is not None else snapshot.repo
    here = dataclasses.replace(_part(layout, snapshot), name=name, known=known)
    return _with_parts(here, how)


def _with_parts(model: Place, how: _Fetching) -> Place:
    """Add the places of the codec and text encoder: the same folder, or those that it refers to."""
    codec = text = model
    if model.layout is AUDIOCRAFT:
        from magnet_cli.checkpoints import audiocraft

        pointer = audiocraft.codec_pointer(model.directory / audiocraft.CODEC_FILE)
        if pointer is not None:
            codec = _part(ENCODEC, _snapshot(pointer, ENCODEC, None, how))
        wanted = audiocraft.open_lm(model.directory / audiocraft.LM_FILE).text_encoder
        text = _part(T5, _text_encoder(wanted, how))
    return dataclasses.replace(model, codec=codec, text=text)


def _text_encoder(name: str, how: _Fetching) -> hub.Snapshot:
    """Find the text encoder `name`, under the one of its two names that is cached."""
    repos = [name] if "/" in name else [f"google-t5/{name}", name]
    for repo in repos:
        snapshot = hub.cached(repo)
        if snapshot is not None and not T5.missing(snapshot.names()):
            return _snapshot(repo, T5, None, how)
    if how.offline and hub.cached(repos[0]) is None:
        repos.reverse()  # name the one that is partly cached, if any
    return _snapshot(repos[0], T5, None, how)


def _snapshot(
    repo: str, layout: Layout | None, revision: str | None, how: _Fetching
) -> hub.Snapshot:
    """All files that `layout` needs (None: whichever layout the model has), at one commit."""
    snapshot = hub.cached(repo, revision)
    names = snapshot.names() if snapshot is not None else []
    missing = _expected(names, layout).missing(names)
    damaged: list[str] = []
    if snapshot is not None and how.repair:
        chosen = _expected(names, layout).chosen(names)
        from magnet_cli.checkpoints import integrity

        damaged = integrity.damaged(snapshot.directory, list(chosen.values()))
        if damaged:
            revision = snapshot.revision  # the other files are from this commit
    if snapshot is not None and not missing and not damaged:
        return snapshot
    if how.offline:
        if snapshot is None:
            raise hub.not_here(repo, revision)
        if missing:
            raise ModelNotFoundError(
                f"{repo} is on this machine only in part: {', '.join(missing)} is missing, and the network "
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
            found = ENCODEC  # for find_codec; find_place reports that it is not a model
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
    """`layout`, or the likely layout of a repository with these files."""
    # Without a model's files it is a codec's repository, or still empty.
    otherwise = ENCODEC if "config.json" in names else AUDIOCRAFT
    return layout or model_layout(names) or otherwise


def _part(layout: Layout, snapshot: hub.Snapshot) -> Place:
    return Place(snapshot.repo, layout, snapshot.directory, snapshot.repo, snapshot.revision)


def _needs(layout: Layout) -> str:
    return ", ".join(need[0] for need in layout.needs)


def _no_model(repo: str) -> CheckpointError:
    return CheckpointError(
        f"{repo} holds no model in the released layout, nor in magnet's own.",
        "Text-to-audio checkpoints of MAGNeT, MusicGen and AudioGen can be used.",
    )
