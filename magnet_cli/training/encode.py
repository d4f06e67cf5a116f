"""Audio to token shards: `magnet data check` and `magnet data encode`.

A broken clip is a problem in the report, not the end of the run; what is on disk stays, and an
interrupted run is resumed. After a complete run the folder has the clips of its source and no
others: what was removed from the source on purpose must not be trained on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from magnet_cli.audio.loudness import peak_of
from magnet_cli.audio.sound import SILENCE, Sound, heard_with, open_sound
from magnet_cli.checkpoints.registry import hashed
from magnet_cli.data.manifests import Clip, ClipList, Problem
from magnet_cli.data.tokens import TokenFormat, TokenWriter
from magnet_cli.errors import AudioFileError, MagnetError, UsageError
from magnet_cli.files import write_error
from magnet_cli.models.codec import AudioCodec, device_of
from magnet_cli.training.batches import own_defaults
from magnet_cli.training.lock import locked
from magnet_cli.training.mixing import joined_captions, mix, mixed_pairs

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class EncodeOptions:
    """How audio becomes tokens."""

    min_duration: float = 0.5  # seconds; shorter clips are skipped
    clips_per_shard: int = 256
    mix_share: float = 0.0  # pairs added for each clip; 1: half of all items are mixed (AudioGen)
    mix_snr: float = 5.0  # dB; the second of a pair is between -mix_snr and +mix_snr of the first
    mix_duration: float = 10.0  # seconds of a mixed pair
    seed: int = 0  # of the pairs
    workers: int = 0  # clips that are read and encoded at a time; 0: one a core, at most four


@dataclass(frozen=True)
class EncodeReport:
    """What a run of `encode_clips` did."""

    encoded: int
    kept: int  # encoded by an earlier run
    left_out: int  # in the folder, but no longer listed, or broken now
    seconds: float  # of audio, encoded now
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Heard:
    """Measures of a sound that was read to its end."""

    sample_rate: int  # Hz
    channels: int
    seconds: float
    level: float  # dBFS of its mean square; -120 for digital silence


MOST_SECONDS = 7200.0  # of a clip, which is in memory whole; 1.4 GB then

OnClip = Callable[[int, int], None]  # clips done, clips in all


def check_clips(
    found: ClipList,
    min_duration: float = 0.5,
    on_clip: OnClip = lambda done, count: None,
    on_sound: Callable[[Heard], None] = lambda heard: None,
) -> tuple[Problem, ...]:
    """Everything that is wrong with the clips: what `encode_clips` would skip, and why.

    `on_clip` is called after each clip, `on_sound` for each sound that can be read.
    """
    problems = list(found.problems)
    first: dict[str, Path] = {}  # a sound's content -> where it was met
    for number, clip in enumerate(found.clips, start=1):
        try:
            with open_sound(clip.path) as sound:
                _check_duration(sound.duration, min_duration)
                problems += _incomplete(clip.path, sound)
                loudest, squares, count = -math.inf, 0.0, 1
                for block in sound.blocks():
                    loudest = max(loudest, peak_of(block))
                    squares += float(np.square(block, dtype=np.float64).sum())
                    count += block.size
                if loudest < SILENCE:
                    problems.append(Problem(str(clip.path), "it is silent", False))
                on_sound(
                    Heard(
                        sound.sample_rate, sound.channels, sound.duration, _level(squares / count)
                    )
                )
            same = first.setdefault(_content(clip.path), clip.path)
            if same != clip.path:
                problems.append(Problem(str(clip.path), f"it is the same sound as {same}", False))
        except (AudioFileError, ValueError) as error:
            problems.append(Problem(str(clip.path), _what(error, clip.path)))
        on_clip(number, len(found.clips))
    return tuple(problems)


@own_defaults()
def encode_clips(
    found: ClipList,
    codec: AudioCodec,
    format_: TokenFormat,
    folder: Path,
    options: EncodeOptions | None = None,
    on_clip: OnClip = lambda done, count: None,
) -> EncodeReport:
    """Encode clips into a folder of token shards; what it holds already is not encoded again.

    After a complete run the folder has only these clips: those of earlier runs that are not among them
    are left out. A run that finds no sound at all to encode or keep leaves the folder as it was.

    Raises:
        DataError: the folder holds codes of another codec.
        UsageError: another run is writing to it.
        MagnetError: the disk is full; the shards that were written stay.
    """
    options = options or EncodeOptions()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            return _Encoding(found, codec, format_, folder, options, on_clip).run()
    except OSError as error:
        hint = "Free some space and run the command again: it continues where it stopped."
        raise write_error(folder, error, hint) from error


@dataclass(frozen=True)
class _Item:
    """What becomes one clip of the folder: a sound, or a mixed pair of sounds."""

    id: str
    where: str  # to name it in a problem
    key: Callable[[], str]
    load: Callable[[], tuple[Tensor, list[Problem]]]  # [C, samples], and what is odd about it
    captions: tuple[str, ...]
    tags: tuple[str, ...]
    content: Callable[[], str] = str  # of its sound; empty: that is not known
    weight: float = 1.0


@dataclass
class _Made:
    """The result of an item; without codes if it is there already, or cannot be encoded."""

    problems: list[Problem]
    key: str = ""
    content: str = ""
    codes: Tensor | None = None  # [K, T]
    seconds: float = 0.0  # of audio that was encoded; 0: codes of a sound of equal content
    there: bool = False  # in the folder already


class _Encoding:
    """One run over all clips, then over the mixed pairs."""

    def __init__(
        self,
        found: ClipList,
        codec: AudioCodec,
        format_: TokenFormat,
        folder: Path,
        options: EncodeOptions,
        on_clip: OnClip,
    ) -> None:
        self.found, self.codec, self.options, self.on_clip = found, codec, options, on_clip
        self.writer = TokenWriter(folder, format_, options.clips_per_shard)
        self.problems = list(found.problems)
        self.encoded = self.kept = 0
        self.seconds = 0.0
        self.current: set[str] = set()  # ids of what the folder holds of this run's items

    def run(self) -> EncodeReport:
        asked = self.options
        pairs = mixed_pairs(len(self.found.clips), asked.mix_share, asked.mix_snr, asked.seed)
        items = [*self._sounds(), *self._mixtures(list(pairs))]
        made = in_threads(self._make, items, self.options.workers)
        for number, (item, each) in enumerate(zip(items, made, strict=True), start=1):
            self._take(item, each)
            self.on_clip(number, len(items))
        if self.current:
            self.writer.use_only(self.current)
        else:  # a disk that is not mounted, a wrong path: no reason to forget the folder's clips
            self.writer.flush()
        left_out = len(self.writer.left_out)
        return EncodeReport(self.encoded, self.kept, left_out, self.seconds, tuple(self.problems))

    def _sounds(self) -> Iterator[_Item]:
        for clip in self.found.clips:
            key, load = partial(clip_key, clip), partial(self._audio, clip.path)
            content = partial(_content, clip.path)
            said = clip.captions, clip.tags
            yield _Item(clip.id, str(clip.path), key, load, *said, content, clip.weight)

    def _mixtures(self, pairs: list[tuple[int, int, float]]) -> Iterator[_Item]:
        drawn: Counter[str] = Counter()
        for first, second, snr in pairs:
            a, b = self.found.clips[first], self.found.clips[second]
            # No sound's id has two slashes in a row. Few clips meet again, at another level.
            id_ = f"mix//{a.id}//{b.id}"
            drawn[id_] += 1
            yield _Item(
                id_ if drawn[id_] == 1 else f"{id_}//{drawn[id_]}",
                f"{a.path} mixed with {b.path}",
                partial(self._mixture_key, a, b, snr),
                partial(self._mixture, a, b, snr),
                joined_captions(a, b),
                (),
            )

    def _make(self, item: _Item) -> _Made:
        """The codes of one item, unless it is there already or cannot be encoded. In any thread."""
        try:
            key = item.key()
            if self.writer.written.get(item.id) == key:
                return _Made([], there=True)
            content = item.content()
            if (codes := self.writer.known(content)) is not None:
                return _Made([], key, content, codes)
            audio, problems = item.load()
            with torch.inference_mode():
                codes = self.codec.encode(audio[None].to(device_of(self.codec)))[0].cpu()
        except (AudioFileError, ValueError) as error:
            return _Made([Problem(item.where, _what(error, item.where))])
        except OSError as error:  # a file that went away; a full disk shows in the writer
            what = f"it cannot be read: {error.strerror or error}"
            return _Made([Problem(item.where, what)])
        return _Made(problems, key, content, codes, audio.shape[-1] / self.codec.sample_rate)

    def _take(self, item: _Item, made: _Made) -> None:
        """Add the result of an item to the folder and the report; called in the items' order."""
        self.problems += [each for each in made.problems if each not in self.problems]
        if made.codes is not None:
            said = item.captions, item.tags
            self.writer.add(item.id, made.key, made.codes, *said, made.content, item.weight)
        if made.codes is not None or made.there:
            self.current.add(item.id)
            self.encoded += made.seconds > 0
            self.kept += not made.seconds
            self.seconds += made.seconds

    def _audio(self, path: Path) -> tuple[Tensor, list[Problem]]:
        """The clip [C, samples] at the codec's rate and channels."""
        with open_sound(path) as sound:
            # Of the sound itself, as `check_clips` does it: resampling rounds to whole samples.
            _check_duration(sound.duration, self.options.min_duration)
            samples, anti = heard_with(sound, self.codec.sample_rate, self.codec.channels)
            problems = _incomplete(path, sound)
        if anti:
            what = "its channels cancel each other: the loudest alone is used"
            problems.append(Problem(str(path), what, False))
        return torch.from_numpy(samples), problems

    def _mixture(self, a: Clip, b: Clip, snr: float) -> tuple[Tensor, list[Problem]]:
        most = round(self.options.mix_duration * self.codec.sample_rate)
        (one, said), (other, more) = self._audio(a.path), self._audio(b.path)
        return mix(one[:, :most], other[:, :most], snr), said + more

    def _mixture_key(self, a: Clip, b: Clip, snr: float) -> str:
        return _hash(clip_key(a), clip_key(b), snr, self.options.mix_duration)


def in_threads(make: Callable[[_T], _R], items: Iterable[_T], workers: int) -> Iterator[_R]:
    """The results of `make` in the items' order, `workers` of them computed at a time, few of them ahead.

    Threads, not processes: reading, resampling and networks release Python's lock, the codec is in memory
    once, and a GPU works while files are read. Torch's threads are divided among them.
    """
    threads = torch.get_num_threads()
    workers = workers or min(threads, 4)
    if workers == 1:
        yield from map(make, items)
        return
    share = max(1, threads // workers)
    ahead: deque[Future[_R]] = deque()
    with ThreadPoolExecutor(workers, "encoding", torch.set_num_threads, (share,)) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(make, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for each in ahead:
                each.cancel()
            torch.set_num_threads(threads)  # some of its libraries have one number for all threads


def _level(square: float) -> float:
    return 10 * math.log10(max(square, 1e-12))


def _incomplete(path: Path, sound: Sound) -> list[Problem]:
    """Problems of a sound that is incomplete, worded without its name, which is `where`."""
    said = [remark.removeprefix(sound.name).strip(" .") for remark in sound.remarks]
    return [Problem(str(path), f"it {what}", skipped=False, incomplete=True) for what in said]


def clip_key(clip: Clip) -> str:
    """Changes when the file does, its captions, tags or weight.
    Raises AudioFileError: there is no such file."""
    try:
        stat = clip.path.stat()
    except (OSError, ValueError) as error:
        raise AudioFileError(f"There is no file {clip.path}.", "Check the manifest.") from error
    weight = [clip.weight] if clip.weight != 1 else []  # as before there were any
    return _hash(stat.st_size, stat.st_mtime_ns, clip.captions, clip.tags, *weight)


def _content(path: Path) -> str:
    """A hash of a sound's bytes: a copy with another name or date is not encoded again."""
    return hashed(path).hex()[:32]


def _hash(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _check_duration(seconds: float, least: float) -> None:
    if seconds < least:
        raise ValueError(f"it is too short: {seconds:.2f} s, of {least:g} s at least")
    if seconds > MOST_SECONDS:
        raise ValueError(
            f"it is too long: {seconds / 3600:.1f} h, of {MOST_SECONDS / 3600:g} h at most; cut it"
        )


def _what(error: Exception, where: str | Path) -> str:
    """What is wrong, without the name of the sound, which is said before it."""
    message = error.message if isinstance(error, MagnetError) else str(error)
    own = message.startswith(f"{where} ")
    return " ".join(message.replace(str(where), "it", own).split()).rstrip(".")


def token_format(codec: AudioCodec, name: str) -> TokenFormat:
    """The format of a codec's codes; `name` is for messages."""
    return TokenFormat(
        codec=name,
        codec_hash=codec_hash(codec),
        sample_rate=codec.sample_rate,
        frame_rate=codec.frame_rate,
        n_q=codec.n_q,
        card=codec.card,
    )


def check_tokens(tokens: TokenFormat, codec: AudioCodec) -> None:
    """Refuse tokens that another codec made. Raises UsageError: it names both."""
    if tokens.codec_hash != codec_hash(codec):
        raise UsageError(
            f"The tokens were made with {tokens.codec}, which is not the codec of this model.",
            "Encode the data again: `magnet data encode --codec` with the model's own.",
        )


def codec_hash(codec: AudioCodec) -> str:
    """Equal where codes mean the same: of the codebooks, in half precision, as files keep them."""
    digest = hashlib.sha256(f"{codec.hop_length} {codec.sample_rate}".encode())
    vectors = codebooks_of(codec)
    if vectors is not None:
        tensors: dict[str, Tensor] = {"codebooks": vectors}
    else:
        tensors = dict(codec.state_dict())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()[:16]


def codebooks_of(codec: AudioCodec) -> Tensor | None:
    """[K, card, d] of a codec with residual quantization; None of any other."""
    books = getattr(getattr(codec, "quantizer", None), "codebooks", None)
    return None if books is None else torch.stack([book.detach().float() for book in books])
