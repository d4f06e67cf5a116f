"""Draws the batches of every training step from (seed, step, global item index) and nothing else.

Item g of the run is clip `order[g % N]` in pass g // N over the data (with weighted clips, each pass draws
N clips, some twice and some not at all). A process that resumes the run at step s, or computes one part of
a step, draws exactly what a single process would have drawn from the start: there is no state to save or
share. Validation assembles its batches in the same way, from fixed draws.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magnet_cli.config import LMConfig
from magnet_cli.data.tokens import TokenClip, TokenFolder
from magnet_cli.errors import DataError
from magnet_cli.models.lm import BarGrid, DelayPattern
from magnet_cli.models.text import TextEncoder, said_bars
from magnet_cli.settings import BLOCK_SECONDS
from magnet_cli.training.config import TrainConfig
from magnet_cli.training.objective import Batch, Draws, mask_batch, with_code_noise

TEMPO_TAG = "tempo_bpm: "  # of clips whose first bar starts at their beginning

EncodeTexts = Callable[[Sequence[str]], Sequence[Tensor]]  # each -> [L, width]


def keyed_generator(*key: int | str) -> torch.Generator:
    """A generator seeded by the whole key; similar keys give unrelated numbers."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little", signed=True))


@contextmanager
def own_defaults() -> Iterator[None]:
    """Set torch's defaults to float32 and the CPU within this context, whatever the caller has set. Also a
    decorator."""
    # Not get_default_device: in torch 2.5 it fails once a default was set and unset.
    dtype, device = torch.get_default_dtype(), torch.empty(0).device
    torch.set_default_dtype(torch.float32)
    try:
        with nullcontext() if device.type == "cpu" else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


@dataclass(frozen=True)
class Source:
    """All clips of some token folders, as one list."""

    folders: tuple[TokenFolder, ...]
    low: float = 0.0  # only clips all of whose `places_of` are at least this
    high: float = 1.0  # and below this: clips that are held out share no place with the others
    weights: tuple[float, ...] = ()  # per folder: how often its clips are drawn; (): equally
    by_duration: bool = False  # draw clips in proportion to their frames

    def __post_init__(self) -> None:
        first = self.folders[0]
        for folder in self.folders[1:]:
            if folder.format != first.format:
                raise DataError(
                    f"{folder.folder} and {first.folder} hold codes of different codecs.",
                    "Train on tokens of one codec.",
                )
        if not self.entries:
            raise DataError(
                f"{first.folder} holds no clips.", "Encode some with `magnet data encode`."
            )

    @functools.cached_property
    def entries(self) -> list[tuple[TokenFolder, TokenClip]]:
        """Every clip with its folder, in a stable order."""
        return [
            (folder, clip)
            for folder in self.folders
            for clip in folder.clips
            if clip.frames and all(self.low <= place < self.high for place in places_of(clip))
        ]

    @functools.cached_property
    def _upto(self) -> Tensor | None:
        """Cumulative weights of the clips, float64 [N]; None if all weights are equal."""
        by_folder = dict(zip(map(id, self.folders), self.weights, strict=False))
        weights = [
            by_folder.get(id(folder), 1.0) * clip.weight * (clip.frames if self.by_duration else 1)
            for folder, clip in self.entries
        ]
        if len(set(weights)) == 1:
            return None
        return torch.tensor(weights, dtype=torch.float64).cumsum(0)

    def hash(self) -> str:
        """A hash of the clips' names, lengths, captions and tags."""
        told = hashlib.sha256()
        for _, clip in self.entries:
            told.update(repr((clip.id, clip.frames, clip.captions, clip.tags)).encode())
        return told.hexdigest()[:16]

    def split(self, share: float) -> tuple[Source, Source]:
        """Split into clips to train on and a held-out share, of at least one clip. Adding clips moves none
        between the two, except one that was held out because the share had none.
        Raises DataError: there is only one clip."""
        places = sorted({place for _, clip in self.entries for place in places_of(clip)})
        if len(places) < 2:
            raise DataError(
                "There is only one clip, so none can be held out for validation.",
                "Encode more, or name a validation set with --valid.",
            )
        share = min(max(share, places[1]), places[-1])
        return replace(self, low=share), replace(self, high=share)

    def clip_of(self, seed: int, item: int) -> tuple[TokenFolder, TokenClip]:
        """The clip that item `item` of the run is cut from."""
        count = len(self.entries)
        round_, place = divmod(item, count)
        number = _permutation(count, seed, round_)[place]
        if self._upto is not None:
            # Evenly spaced over the total weight, from a random start: in every pass each clip is drawn in
            # proportion to its weight, plus or minus one.
            start = float(torch.rand((), generator=keyed_generator(seed, "weights", round_)))
            at = (start + number) / count * self._upto[-1]
            number = min(int(torch.searchsorted(self._upto, at, right=True)), count - 1)
        return self.entries[number]


def places_of(clip: TokenClip) -> list[float]:
    """A number in 0..1 that depends only on a clip's name; of a mixed pair both sounds' numbers, so that a
    pair of one that is held out and one that is not is on neither side."""
    names = clip.id.split("//")[1:3] if clip.id.startswith("mix//") else [clip.id]
    each = [hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in names]
    return [int.from_bytes(digest[:6], "big") / 2**48 for digest in each]


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, round_: int) -> list[int]:
    generator = keyed_generator(seed, "order", round_)
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order


class TextCache:
    """A frozen text encoder that caches its results, up to a memory limit. Thread-safe."""

    def __init__(self, encoder: TextEncoder, limit: int = 256 * 2**20) -> None:
        """`limit`: bytes of the cache, which is in the CPU's memory even if the encoder is not."""
        self.encoder, self.limit = encoder, limit
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> each float32 [L, width], on the CPU; new ones are encoded together."""
        with self._lock:
            new = [text for text in dict.fromkeys(texts) if text not in self._kept]
            with torch.no_grad():
                hidden = self.encoder.encode_all(new) if new else []
            found = dict(zip(new, (each.cpu() for each in hidden), strict=True))
            for text in dict.fromkeys(texts):
                if text in self._kept:
                    self._kept.move_to_end(text)
                    found[text] = self._kept[text]
                else:
                    self._kept[text] = found[text]
                    self._bytes += found[text].nbytes
            while self._bytes > self.limit and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.nbytes
            return [found[text] for text in texts]


class Ahead:
    """Draws each step's batches in a thread while the previous step is computed.

    Draws are keyed, so the thread does not affect them. Leaving the context ends the thread.
    """

    def __init__(self, draw: Callable[[int], list[Batch]], steps: int) -> None:
        """`draw` returns the batches of a step; nothing is drawn from step `steps` on."""
        self._draw, self._steps = draw, steps
        self._pool = ThreadPoolExecutor(1, "drawing")
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, step: int) -> list[Batch]:
        """The batches of a step, on the CPU; also starts drawing the next step's."""
        ready, self._next = self._next, None
        drawn = ready[1].result() if ready is not None and ready[0] == step else self._draw(step)
        if step + 1 < self._steps:
            self._next = step + 1, self._pool.submit(self._draw, step + 1)
        return drawn


@dataclass(frozen=True)
class Segments:
    """Segments of several clips, before masking."""

    codes: Tensor  # int64 [B, K, T]
    valid: Tensor  # bool [B, T], false past the end of a short clip
    conditions: tuple[Tensor | None, ...]
    bars: tuple[BarGrid, ...]
    names: tuple[str, ...]

    def masked(self, draws: Draws, lm: LMConfig) -> Batch:
        """Mask them for one stage."""
        batch = mask_batch(self.codes, self.valid, draws, lm)
        return replace(batch, conditions=self.conditions, bars=self.bars, names=self.names)


class BatchDrawer:
    """Draws the batches of a run."""

    def __init__(
        self, source: Source, lm: LMConfig, config: TrainConfig, encode_texts: EncodeTexts
    ) -> None:
        self.source, self.lm, self.config, self.encode_texts = source, lm, config, encode_texts
        self.frames = lm.segment_frames
        self.size = config.batch_size // config.micro_batches  # items in a batch

    def batch(self, step: int, micro: int) -> Batch:
        """Micro-batch `micro` of a step; all its items have one stage and one prefix."""
        first = step * self.config.batch_size + micro * self.size
        items = range(first, first + self.size)
        seed = self.config.seed
        segments = self._segments(
            [self.source.clip_of(seed, item) for item in items],
            [keyed_generator(seed, "item", item) for item in items],
            lambda clip, generator: caption_of(clip, self.config, generator),
            self.config.condition_dropout,
        )
        frames = segments.codes.shape[-1]
        chance = keyed_generator(seed, "stage", first)
        stage = self._stage(chance)
        time, noise = spans_of(seed, items, len(self.lm.stage_streams[stage]), frames)
        rows = self._prefix_rows(chance, frames)
        block = self._block(chance, frames) if stage == 0 and rows == 1 else None
        draws = Draws(stage, time, noise, rows, block)
        batch = segments.masked(draws, self.lm)
        if self.config.code_noise > 0:
            noise_chance = keyed_generator(seed, "code noise", first)
            batch = with_code_noise(batch, self.config.code_noise, self.lm.mask_id, noise_chance)
        return batch

    def validation_batches(self) -> Iterator[Batch]:
        """One segment of each of several clips spread evenly over the set, the same every time.

        Each batch is yielded once per stage and then, unless the model is masked, all as prefix.
        """
        entries = self.source.entries
        count = min(self.config.valid_items, len(entries))
        for first in range(0, count, self.size):
            items = range(first, min(first + self.size, count))
            segments = self._segments(
                [entries[item * len(entries) // count] for item in items],
                [keyed_generator("validation", item) for item in items],
                lambda clip, generator: clip.captions[0],
            )
            frames = segments.codes.shape[-1]
            # Mask rates spread evenly over the items, so that few items are as informative as many.
            time = torch.tensor([(item * 0.618034 + 0.5) % 1.0 for item in items])
            sizes = [len(streams) for streams in self.lm.stage_streams]
            noises = [spans_of(0, items, size, frames)[1] for size in sizes]
            if self.lm.modeling != "autoregressive":
                for stage, noise in enumerate(noises):
                    yield segments.masked(Draws(stage, time, noise), self.lm)
            if self.lm.modeling != "masked":
                rows = DelayPattern(self.lm.delays).steps(frames)
                yield segments.masked(Draws(0, time, noises[0], rows), self.lm)

    def _segments(
        self,
        clips: Sequence[tuple[TokenFolder, TokenClip]],
        generators: Sequence[torch.Generator],
        caption: Callable[[TokenClip, torch.Generator], str | None],
        without_bars: float = 0.0,
    ) -> Segments:
        """A random segment and a caption of each clip, drawn by the clip's own generator; and, except for a
        share `without_bars`, its bars."""
        # If all clips are shorter than a segment, shorten it instead of computing padding.
        frames = min(self.frames, max(clip.frames for _, clip in clips))
        codes, valid, texts, bars = [], [], [], []
        for (folder, clip), generator in zip(clips, generators, strict=True):
            start, cut, inside = crop(folder, clip, frames, self.lm.mask_id, generator)
            codes.append(cut)
            valid.append(inside)
            texts.append(caption(clip, generator))
            if self.lm.bar_position:
                kept = float(torch.rand((), generator=generator)) >= without_bars
                bars.append(grid_of(clip, start, self.lm) if kept else (0.0, 0.0))
        encoded = iter(self.encode_texts([text for text in texts if text]))
        conditions = tuple(next(encoded) if text else None for text in texts)
        names = tuple(clip.id for _, clip in clips)
        return Segments(torch.stack(codes), torch.stack(valid), conditions, tuple(bars), names)

    def _stage(self, chance: torch.Generator) -> int:
        weights = self.config.stage_weights or (1.0,) * len(self.lm.stage_streams)
        return int(torch.multinomial(torch.tensor(weights), 1, generator=chance))

    def _prefix_rows(self, chance: torch.Generator, frames: int) -> int:
        """The number of rows that attend causally: the special step, and a prefix of uniformly drawn
        length."""
        if self.lm.modeling == "masked":
            return 1
        steps = DelayPattern(self.lm.delays).steps(frames)
        kind = float(torch.rand((), generator=chance))
        drawn = int(torch.randint(1, steps + 1, (), generator=chance))
        if self.lm.modeling == "autoregressive" or kind >= 1 - self.config.full_prefix_share:
            return steps
        return 1 if kind < self.config.no_prefix_share else drawn

    def _block(self, chance: torch.Generator, frames: int) -> tuple[int, int] | None:
        """The frames of a block for `--span-order blocks`; None: the whole segment. The first block, which is
        decided from the text alone, is drawn twice as often as any other."""
        size = max(round(BLOCK_SECONDS * self.lm.frame_rate), 1)
        kind = float(torch.rand((), generator=chance))
        start = size * max(0, int(torch.randint(-1, -(-frames // size), (), generator=chance)))
        return (start, min(start + size, frames)) if kind < self.config.block_share else None


def spans_of(seed: int, items: Sequence[int], streams: int, frames: int) -> tuple[Tensor, Tensor]:
    """For each item, u [B] and the noise [B, G, T] that determines the spans of a stage's streams."""
    generators = (keyed_generator(seed, "spans", item) for item in items)
    both = torch.stack([torch.rand(streams * frames + 1, generator=each) for each in generators])
    return both[:, 0], both[:, 1:].unflatten(1, (streams, frames))


def crop(
    folder: TokenFolder, clip: TokenClip, frames: int, filler: int, generator: torch.Generator
) -> tuple[int, Tensor, Tensor]:
    """Draw a random segment of a clip.

    Returns:
        its first frame, codes int64 [K, T], padded with `filler` after a short clip, and bool [T], false
        for padding.
    """
    last = max(clip.frames - frames, 0)
    start = int(torch.randint(0, last + 1, (), generator=generator))
    codes = folder.codes(clip, start, frames)
    here = codes.shape[1]
    codes = torch.nn.functional.pad(codes, (0, frames - here), value=filler)
    return start, codes, torch.arange(frames) < here


def grid_of(clip: TokenClip, start: int, lm: LMConfig) -> BarGrid:
    """The bars of a clip from frame `start` on, if a tag says its tempo ("tempo_bpm: 120"); its first bar
    starts with it."""
    said = next((tag for tag in clip.tags if tag.startswith(TEMPO_TAG)), "")
    (bar,) = said_bars([f"{said.removeprefix(TEMPO_TAG)} bpm"], lm)
    return (bar, start % bar) if bar else (0.0, 0.0)


def caption_of(clip: TokenClip, config: TrainConfig, generator: torch.Generator) -> str | None:
    """Draw a clip's text for one step; None if the condition is dropped.

    It is one of the captions, sometimes merged with the clip's tags, or the tags alone, with words left out
    (docs/reference.md, Training).
    """
    # All are drawn every time, so that changing one share changes nothing else.
    dropped, merged, alone, which = torch.rand(4, generator=generator).tolist()
    order = torch.randperm(max(len(clip.tags), 1), generator=generator).tolist()
    kept = torch.rand(max(len(clip.tags), 1), generator=generator).tolist()
    if dropped < config.condition_dropout:
        return None
    text = clip.captions[int(which * len(clip.captions))]
    tags = [clip.tags[i] for i in order if clip.tags and kept[i] >= config.drop_tag]
    if tags and merged < config.merge_tags:
        joined = ". ".join(tags)
        text = joined if alone < config.drop_caption else f"{text.rstrip('.')}. {joined}"
    if config.word_dropout > 0:
        words = text.split()
        stays = torch.rand(len(words), generator=generator) >= config.word_dropout
        text = " ".join(word for word, stay in zip(words, stays.tolist(), strict=True) if stay)
    return text or None
