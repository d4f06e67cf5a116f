"""Checks that files in the hub's cache are as downloaded; a full or failing disk can damage them.

The cache names each file by its checksum: a snapshot holds links to `blobs/<checksum>`. Where the
file system has no links, the snapshot holds the files themselves, and their checksums are not known:
then a file that can be opened counts as intact.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from magnet_cli.checkpoints import building
from magnet_cli.checkpoints.building import read_pickle, read_safetensors
from magnet_cli.checkpoints.place import Place
from magnet_cli.checkpoints.registry import file_names
from magnet_cli.errors import CheckpointError
from magnet_cli.foreign import bounds, reading

_SHA256 = re.compile(r"[0-9a-f]{64}")  # of large files
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")  # of the others, as git names its blobs
_CHUNK = 1 << 20  # bytes


def damaged(directory: Path, names: Sequence[str]) -> list[str]:
    """The files among `names` in a snapshot that differ from what was downloaded."""
    return [name for name in names if not _is_whole(directory / name)]


def check_weights(place: Place) -> None:
    """Check that a model's files of weights are not cut short, without loading them.
    Raises CheckpointError: one is cut short, or damaged."""
    for part in (place, place.codec, place.text):
        names = part.layout.chosen(file_names(part.directory)).values() if part else ()
        for path in (part.directory / name for name in names if part):
            if path.suffix == ".safetensors":
                read_safetensors(path, lambda name: False)
            elif path.suffix == ".bin":
                try:
                    bounds.check_pickle(path)
                except (OSError, ValueError) as error:
                    raise building.damaged(path, error) from error


def _is_whole(path: Path) -> bool:
    checksum = Path(os.readlink(path)).name if path.is_symlink() else ""
    try:
        if _SHA256.fullmatch(checksum):
            return _hashed(path, hashlib.sha256()) == checksum
        if _GIT_SHA1.fullmatch(checksum):
            header = f"blob {path.stat().st_size}\0".encode()
            return _hashed(path, hashlib.sha1(header, usedforsecurity=False)) == checksum
        return _opens(path)
    except OSError:  # a disk that cannot read it
        return False


def _hashed(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _opens(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            reading.read_json(path, most=64_000_000)  # tokenizers, too
        elif path.suffix == ".safetensors":
            read_safetensors(path, lambda name: False)
        else:
            read_pickle(path)
    except (CheckpointError, ValueError):
        return False
    return True
