"""Token shards: clips as codes, with their captions, ready for training.

A folder of shards is

    index.json                 the codec of the codes, the shards with their counts, and the ids
                               in them that are no longer used
    shard-00000.safetensors    `codes` int [frames of all its clips, K], and in the file's
                               metadata the clips: id, offset, frames, captions, tags

A shard is written atomically and contains everything about its clips, so a crash loses at most the shard
being written, and the index can always be rebuilt. Shards are never changed: old codes of a clip that is
encoded again or no longer listed are kept but ignored. Frames are the first dimension of `codes`, so a crop
of a clip is one contiguous read from the memory-mapped file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from magnet_cli.errors import DataError
from magnet_cli.files import atomic_path
from magnet_cli.foreign import bounds, reading
from magnet_cli.foreign.bounds import BOUNDS
from magnet_cli.foreign.reading import ReadError

INDEX_NAME = "index.json"
FORMAT = 1


@dataclass(frozen=True)
class TokenFormat:
    """The format of codes: the codec that made them, and its sizes."""

    codec: str = field(compare=False)  # its name, for messages
    codec_hash: str  # hash of the codec's tensors: another codec's codes are noise to this one
    sample_rate: int
    frame_rate: float
    n_q: int
    card: int


@dataclass(frozen=True)
class TokenClip:
    """A clip in a shard."""

    id: str  # path of the sound relative to its manifest's folder
    key: str  # changes when the sound or its description changes
    shard: str
    offset: int  # first frame in the shard's `codes`
    frames: int
    captions: tuple[str, ...]
    tags: tuple[str, ...] = ()
    content: str = ""  # hash of the sound and how it is used; empty in older shards
    weight: float = 1.0  # relative frequency in training


class TokenWriter:
    """Collects clips and writes a shard for every `clips_per_shard` of them."""

    def __init__(
        self, folder: str | os.PathLike[str], format_: TokenFormat, clips_per_shard: int = 256
    ) -> None:
        """Open a new or existing folder for writing.
        Raises DataError: it holds codes of another codec, or is broken."""
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.format = format_
        self.clips_per_shard = clips_per_shard
        self.written: dict[str, str] = {}  # id -> key of clips that are safely on disk
        self.left_out: frozenset[str] = frozenset()  # ids on disk that are not used
        with suppress(DataError):  # a new folder, or an index that will be rebuilt
            self.left_out = _read_index(self.folder).left_out
        self._by_content: dict[str, TokenClip] = {}
        self.frames: dict[str, int] = {}  # id -> frames of its newest codes on disk
        self._shards: dict[str, tuple[int, int]] = {}  # file -> clips, frames
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            # The index is only a summary of the shards.
            found, clips = _read_shard(path)
            if found != format_:
                raise DataError(
                    f"{self.folder} holds codes of {found.codec}, not of this {format_.codec}.",
                    "Encode into another folder, or remove this one first.",
                )
            self._note(path.name, clips)
        self._codes: list[Tensor] = []
        self._clips: list[dict[str, Any]] = []

    def _note(self, shard: str, clips: Sequence[TokenClip]) -> None:
        self.frames.update({clip.id: clip.frames for clip in clips})
        self.written.update({clip.id: clip.key for clip in clips})
        self._by_content.update({clip.content: clip for clip in clips if clip.content})
        self._shards[shard] = len(clips), sum(clip.frames for clip in clips)

    def known(self, content: str) -> Tensor | None:
        """Codes [K, T] of a sound with this content, under any id, that is on disk; else None."""
        clip = self._by_content.get(content)
        if clip is None:
            return None
        with safe_open(self.folder / clip.shard, framework="pt") as opened:
            rows = opened.get_slice("codes")[clip.offset : clip.offset + clip.frames]
        codes: Tensor = rows.t().contiguous()
        return codes

    def add(
        self,
        id_: str,
        key: str,
        codes: Tensor,
        captions: tuple[str, ...],
        tags: tuple[str, ...],
        content: str = "",
        weight: float = 1.0,
    ) -> None:
        """Add a clip, codes [K, T]; a full shard is written at once. `content`, `weight`: as of TokenClip.
        Raises OSError: the disk is full, or not writable; earlier shards stay as they are."""
        type_ = torch.int16 if self.format.card <= 2**15 else torch.int32
        self._clips.append(
            {
                "id": id_,
                "key": key,
                "offset": sum(c.shape[0] for c in self._codes),
                "frames": codes.shape[-1],
                "captions": list(captions),
                "tags": list(tags),
                **({"content": content} if content else {}),
                **({"weight": weight} if weight != 1 else {}),
            }
        )
        self._codes.append(codes.t().to(type_).cpu().contiguous())
        if len(self._clips) >= self.clips_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write the clips added since the last shard, and the index."""
        if self._clips:
            numbers = [int(name.split("-")[1].split(".")[0]) for name in self._shards]
            name = f"shard-{max(numbers, default=-1) + 1:05d}.safetensors"
            metadata = {
                "format": json.dumps(dataclasses.asdict(self.format)),
                # ASCII-escaped: file names may contain bytes that are not UTF-8.
                "clips": json.dumps(self._clips),
            }
            with atomic_path(self.folder / name) as partial:
                save_file({"codes": torch.cat(self._codes)}, partial, metadata)
            self._note(name, [_token_clip(name, clip) for clip in self._clips])
            self.left_out -= {clip["id"] for clip in self._clips}
            self._codes, self._clips = [], []
        self._write_index()

    def use_only(self, ids: Collection[str]) -> None:
        """Mark these clips as used and all others as unused, overriding earlier runs."""
        self.flush()
        self.left_out = frozenset(self.written.keys() - set(ids))
        self._write_index()

    def _write_index(self) -> None:
        shards = [
            {"file": name, "clips": clips, "frames": frames}
            for name, (clips, frames) in sorted(self._shards.items())
        ]
        index = {
            "format": FORMAT,
            "codec": dataclasses.asdict(self.format),
            "clips": len(self.frames.keys() - self.left_out),
            "frames": sum(n for id_, n in self.frames.items() if id_ not in self.left_out),
            "shards": shards,
            "left_out": sorted(self.left_out),
        }
        with atomic_path(self.folder / INDEX_NAME) as partial:
            partial.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class TokenFolder:
    """Clips of a folder of token shards; codes are read on demand."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Read the index and every shard's list of clips.
        Raises DataError: it is not a folder of token shards, or a shard is broken."""
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.format = index.format
        newest: dict[str, TokenClip] = {}  # a sound encoded again replaces its older codes
        for name in index.shards:
            found, clips = _read_shard(self.folder / name)
            if found != self.format:
                raise DataError(
                    f"{self.folder / name} holds codes of {found.codec}, the rest of its folder "
                    f"those of {self.format.codec}.",
                    "Keep the shards of each codec in a folder of their own.",
                )
            newest.update({clip.id: clip for clip in clips})
        self.clips = tuple(clip for id_, clip in newest.items() if id_ not in index.left_out)
        self._open: dict[str, Any] = {}

    def codes(self, clip: TokenClip, start: int = 0, frames: int | None = None) -> Tensor:
        """Codes int64 [K, T] of a clip, or of `frames` frames of it from `start` on (fewer at its end)."""
        stop = clip.frames if frames is None else min(start + frames, clip.frames)
        if clip.shard not in self._open:
            # Kept open: the file is memory-mapped, so this holds no data.
            opened = safe_open(self.folder / clip.shard, framework="pt")
            self._open[clip.shard] = opened.get_slice("codes")
        with torch.device("cpu"):  # not on the default device that the caller set
            rows = self._open[clip.shard][clip.offset + start : clip.offset + stop]
        rows = rows.to(torch.int64)
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < self.format.card:
            raise DataError(
                f"{self.folder / clip.shard} holds codes outside 0 to {self.format.card - 1}.",
                "Remove it and run `magnet data encode` again.",
            )
        return rows.t().contiguous()


@dataclass(frozen=True)
class _Index:
    format: TokenFormat
    shards: tuple[str, ...]
    left_out: frozenset[str]


def _read_index(folder: Path) -> _Index:
    path = folder / INDEX_NAME
    try:
        index = reading.read_object(path, _MOST_LIST)
        format_ = _format(index.get("codec"))
        listed = index.get("shards")
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise ReadError("its shards are not a list of files")
        names = [each.get("file") for each in listed]
        left_out = index.get("left_out", [])  # folders of older versions have none
        if not _are_texts(names) or not _are_texts(left_out):
            raise ReadError("it names files by something other than text")
        shards = tuple(Path(name).name for name in names)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not a folder of tokens: it has no {INDEX_NAME}.",
            "Make one with `magnet data encode`.",
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is broken: {reading.reason(error)}.",
            "Run `magnet data encode` on the folder again: it rebuilds the index.",
        ) from error
    return _Index(format_, shards, frozenset(left_out))


def _read_shard(path: Path) -> tuple[TokenFormat, list[TokenClip]]:
    try:
        header = bounds.read_header(path)
        shape = header.shapes.get("codes", ())
        if len(shape) != 2 or not {"format", "clips"} <= header.metadata.keys():
            raise ReadError("it holds no codes")
        with safe_open(path, framework="pt") as opened:
            kind = opened.get_slice("codes").get_dtype()
        if not kind.startswith(("I", "U")):
            raise ReadError(f"its codes are {kind}, not whole numbers")
        found = _format(reading.json_of(header.metadata["format"]))
        said = reading.json_of(header.metadata["clips"])
        if not isinstance(said, list):
            raise ReadError("its clips are not a list")
        clips = [_token_clip(path.name, clip) for clip in said]
        rows, streams = shape
        if streams != found.n_q:
            raise ReadError(f"it has {streams} streams, and says {found.n_q}")
        if any(clip.offset + clip.frames > rows for clip in clips):
            raise ReadError(f"its clips reach past its {rows} frames")
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(
            f"{path} is broken: {reading.reason(error)}.",
            "Remove it and run `magnet data encode` again.",
        ) from error
    return found, clips


_MOST_LIST = 500_000_000  # bytes of an index: a million unused clips take 100 million


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _format(said: Any) -> TokenFormat:
    """The token format in a file."""
    names = [each.name for each in dataclasses.fields(TokenFormat)]
    if not isinstance(said, dict) or sorted(said) != sorted(names):
        raise ReadError("it does not say which codec made the codes")
    for name in names:
        bound = BOUNDS.get(name)
        if not (bound.holds(said[name]) if bound else isinstance(said[name], str)):
            raise ReadError(f"its codec's {name} is invalid")
    return TokenFormat(**said)


def _token_clip(shard: str, clip: Any) -> TokenClip:
    if not isinstance(clip, dict):
        raise ReadError("a clip is not a mapping")
    good = all(isinstance(clip.get(name), str) for name in ("id", "key"))
    numbers = {"weight": 1.0, **clip}
    good = good and all(BOUNDS[n].holds(numbers.get(n)) for n in ("offset", "frames", "weight"))
    if not good or not _are_texts(clip.get("captions")) or not _are_texts(clip.get("tags")):
        raise ReadError("a clip lacks a field, or has one of the wrong type")
    return TokenClip(
        id=clip["id"],
        key=clip["key"],
        shard=shard,
        offset=clip["offset"],
        frames=clip["frames"],
        captions=tuple(clip["captions"]),
        tags=tuple(clip["tags"]),
        content=clip["content"] if isinstance(clip.get("content"), str) else "",
        weight=numbers["weight"],
    )
