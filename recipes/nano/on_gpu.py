r"""Train nano on a machine whose GPU is available for minutes, with no network and little output.

    python -m recipes.nano.on_gpu pack tokens/train tokens/train2 --valid tokens/valid --out gpu --max-mib 30
    python -m recipes.nano.on_gpu train gpu --model models/nano5 --config recipes/nano/lm.toml --out run \
        --max-minutes 9 --send "$OUT"                    # there; run it again to continue
    python -m recipes.nano.on_gpu collect RECEIVED models/nano5-gpu --model models/nano5       # back home

`pack` writes token shards into one file, as many clips as fit (a clip of ten seconds takes 2 KiB). `train` is
`magnet train lm` in one process with torch alone: the same steps from the same draws, with batches prepared
by other processes. It stops before the time is over, and returns the averaged model in half precision, in
parts of 15 MiB, and its log. `collect` joins the parts to a model to listen to, to pack, or to train further
with `--init`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import lzma
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from magnet_cli.checkpoints import native
from magnet_cli.config import LMConfig
from magnet_cli.data.tokens import TokenFolder, TokenFormat, TokenWriter
from magnet_cli.training.batches import BatchDrawer, Source, TextCache
from magnet_cli.training.config import TrainConfig, read_config
from magnet_cli.training.loop import Progress, Trainer, fitting_precision
from magnet_cli.training.objective import Batch
from magnet_cli.training.output import OutputModel
from recipes.nano.one_process import OneProcess

MIB = 2**20
TRAIN, VALID = "train.tokens", "valid.tokens"
PART_MIB = 15
_GROUP = 256  # clips compressed together


def pack(folders: list[Path], out: Path, max_mib: float) -> int:
    """Pack clips of token folders, in turn, into one file up to a size; returns their number."""
    sources = [TokenFolder(folder) for folder in folders]
    entries = Source(tuple(sources)).entries
    # Shuffled, so that clips that do not fit are missing from all folders alike.
    order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(0)).tolist()
    written, count = 0, 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        head = json.dumps(dataclasses.asdict(sources[0].format)).encode() + b"\n"
        written += file.write(head)
        for first in range(0, len(order), _GROUP):
            clips, rows = [], []
            for number in order[first : first + _GROUP]:
                folder, clip = entries[number]
                clips.append({**dataclasses.asdict(clip), "id": f"{folder.folder.name}/{clip.id}"})
                rows.append(folder.codes(clip).to(torch.int16))
            # By stream: a code is likely to equal the one before it.
            body = torch.cat(rows, dim=1).contiguous().numpy().tobytes()
            part = lzma.compress(json.dumps(clips).encode() + b"\n" + body)
            if written + len(part) + 8 > max_mib * MIB:
                break
            written += file.write(len(part).to_bytes(8, "little") + part)
            count += len(clips)
    return count


def unpack(packed: Path, folder: Path) -> None:
    """Unpack token shards, unless the folder exists."""
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with packed.open("rb") as file:
        format_ = TokenFormat(**json.loads(file.readline()))
        writer = TokenWriter(partial, format_)
        while size := file.read(8):
            said, _, body = lzma.decompress(file.read(int.from_bytes(size, "little"))).partition(
                b"\n"
            )
            codes = torch.frombuffer(bytearray(body), dtype=torch.int16).view(format_.n_q, -1)
            start = 0
            for clip in json.loads(said):
                stop = start + clip["frames"]
                captions, tags = tuple(clip["captions"]), tuple(clip["tags"])
                writer.add(clip["id"], clip["key"], codes[:, start:stop], captions, tags)
                start = stop
        writer.flush()
    partial.rename(folder)


class Ahead:
    """A `BatchDrawer` whose batches are prepared by other processes, in the run's order."""

    def __init__(self, drawer: BatchDrawer, first_step: int, workers: int) -> None:
        self.lm, self.drawer, self.source = drawer.lm, drawer, drawer.source
        micros = drawer.config.micro_batches
        self._turns = [
            (step, micro)
            for step in range(first_step, drawer.config.steps)
            for micro in range(micros)
        ]
        loader = torch.utils.data.DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=workers,
            prefetch_factor=8 if workers else None,
        )
        self._next = iter(loader)
        self._asked = 0

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, turn: int) -> Batch:
        return self.drawer.batch(*self._turns[turn])

    def batch(self, step: int, micro: int) -> Batch:
        """As `BatchDrawer.batch`, for the next one in order.

        Raises:
            ValueError: it is not the next one.
        """
        if self._turns[self._asked] != (step, micro):
            raise ValueError(f"asked for {(step, micro)}, not for {self._turns[self._asked]}")
        self._asked += 1
        made: Batch = next(self._next)
        return made


def train(
    packed: Path,
    model: Path,
    config: TrainConfig,
    out: Path,
    *,
    minutes: float,
    send: Path | None,
    device: str,
    workers: int,
) -> None:
    """Continue the run in `out`, or start it from a model, for at most so many minutes."""
    began = time.monotonic()
    for name in (TRAIN, VALID):
        if (packed / name).exists():
            unpack(packed / name, out.with_name(f"{out.name}-{Path(name).stem}"))
    folders = {name: out.with_name(f"{out.name}-{Path(name).stem}") for name in (TRAIN, VALID)}
    loaded = native.load(out if (out / native.CONFIG_FILE).is_file() else model)
    config = sized(dataclasses.replace(config, init=str(model)), loaded.lm.config)
    encode_texts = TextCache(loaded.text_encoder)

    def drawer(name: str) -> BatchDrawer:
        return BatchDrawer(
            Source((TokenFolder(folders[name]),)), loaded.lm.config, config, encode_texts
        )

    parts = dataclasses.replace(loaded, name=out.name)
    output = OutputModel(out, parts, {"init": str(model)})
    valid = drawer(VALID) if folders[VALID].exists() else None
    place = torch.device(device)
    auto = config.mixed_precision == "auto"
    one = OneProcess(place, fitting_precision(place) if auto else config.mixed_precision)
    trainer = Trainer(config, output, drawer(TRAIN), valid, one)  # type: ignore[arg-type]
    if (out / native.CONFIG_FILE).is_file():
        trainer.resume()
        output.write_config(config)
    else:
        output.create(config)
    if trainer.step < config.steps:
        ahead = Ahead(trainer.train, trainer.step, workers)
        trainer.train = ahead  # type: ignore[assignment]
        deadline = began + 60 * minutes

        def watch(progress: Progress) -> None:
            print(json.dumps({"step": progress.step, "kind": progress.kind, **progress.record}))
            if time.monotonic() > deadline:
                trainer.stop()

        with contextlib.suppress(KeyboardInterrupt):
            trainer.run(watch)
    if send is not None:
        send_model(out, send)


def sized(config: TrainConfig, lm: LMConfig) -> TrainConfig:
    """The settings with the sizes of the model."""
    ours = {field.name for field in dataclasses.fields(TrainConfig)}
    both = {name: value for name, value in vars(lm).items() if name in ours}
    return dataclasses.replace(config, **both, stage_sizes=tuple(map(len, lm.stages)))


def send_model(run: Path, send: Path) -> None:
    """Copy a run's averaged model, in half precision and in parts, and its log."""
    send.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts_of(load_file(run / native.LM_FILE), PART_MIB)):
        save_file(part, send / f"part-{number}.safetensors")
    for name in (native.CONFIG_FILE, "log.jsonl", "train.toml"):
        shutil.copy(run / name, send / name)


def parts_of(tensors: dict[str, Tensor], max_mib: float) -> Iterator[dict[str, Tensor]]:
    """Split tensors in half precision into dictionaries of at most so many MiB."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        half = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        if part and size + half.nbytes > max_mib * MIB:
            yield part
            part, size = {}, 0
        part[name] = half
        size += half.nbytes
    yield part


def collect(received: Path, out: Path, model: Path) -> None:
    """Join the parts from `send_model` to a model, with codec and text encoder of the one it started from."""
    tensors: dict[str, Tensor] = {}
    for part in sorted(received.glob("part-*.safetensors")):
        tensors.update(load_file(part))
    begun = native.load(model)
    nn.Module.load_state_dict(begun.lm, {name: t.float() for name, t in tensors.items()})
    said: dict[str, Any] = json.loads((received / native.CONFIG_FILE).read_text("utf-8"))
    native.save(out, dataclasses.replace(begun, name=out.name), said["provenance"])
    for name in ("log.jsonl", "train.toml"):
        shutil.copy(received / name, out / name)


def main() -> None:
    """Parse the command line and run one of the three commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = parser.add_subparsers(dest="way", required=True)
    packing = ways.add_parser("pack")
    packing.add_argument("tokens", type=Path, nargs="+", help="folders of token shards")
    packing.add_argument("--valid", type=Path, help="a folder that training never sees")
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--max-mib", type=float, default=40.0, help="of what training sees")
    training = ways.add_parser("train")
    training.add_argument("packed", type=Path)
    training.add_argument("--model", type=Path, required=True, help="where a new run begins")
    training.add_argument("--config", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True, help="the run, kept between calls")
    training.add_argument("--steps", type=int)
    training.add_argument("--max-minutes", type=float, default=9.0)
    training.add_argument("--send", type=Path, help="where to put what is sent back")
    training.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    training.add_argument("--workers", type=int, default=0, help="processes that make batches")
    collecting = ways.add_parser("collect")
    collecting.add_argument("received", type=Path)
    collecting.add_argument("out", type=Path)
    collecting.add_argument("--model", type=Path, required=True, help="what the run began from")
    given = parser.parse_args()
    if given.way == "pack":
        count = pack(given.tokens, given.out / TRAIN, given.max_mib)
        print(f"{count} clips, {(given.out / TRAIN).stat().st_size / MIB:.1f} MiB")
        if given.valid is not None:
            pack([given.valid], given.out / VALID, given.max_mib)
    elif given.way == "train":
        # Paths in the settings are from another machine; the packed folders replace them.
        config = read_config(given.config, {"steps": given.steps})
        config = dataclasses.replace(config, data=(), valid=None, codec=None, text_encoder=None)
        train(
            given.packed,
            given.model,
            config,
            given.out,
            minutes=given.max_minutes,
            send=given.send,
            device=given.device,
            workers=given.workers,
        )
    else:
        collect(given.received, given.out, given.model)


if __name__ == "__main__":
    main()
