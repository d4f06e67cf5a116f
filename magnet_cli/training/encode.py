"""Encodes audio to token shards: `magnet data check` and `magnet data encode`.

A broken clip is reported and does not end the run; what is on disk is kept, and an interrupted run is
resumed. After a complete run the folder has only the clips of its source: what was deliberately removed
from the source must not be trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from magnet_cli.audio.loudness import level_of
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
    """Options for encoding."""

    min_duration: float = 0.5  # seconds; shorter clips are skipped
    clips_per_shard: int = 256
    mix_share: float = 0.0  # mixed pairs per clip; 1: half of all items are mixed (AudioGen)
    mix_snr: float = 5.0  # dB; the second of a pair is within ±mix_snr of the first
    mix_duration: float = 10.0  # seconds; length of a mixed pair
    seed: int = 0  # for the pairs
    workers: int = 0  # clips read and encoded at a time; 0: one per core, at most four


@dataclass(frozen=True)
class EncodeReport:
    """The result of `encode_clips`."""

    encoded: int
    kept: int  # encoded by an earlier run
    left_out: int  # in the folder, but no longer listed, or now broken
    seconds: float  # of audio, encoded in this run
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Heard:
    """Measurements of a file that was read to its end."""

    sample_rate: int  # Hz
    channels: int
    seconds: float
    loudness: float  # LUFS; -70, where the meter's range ends, for silence


MOST_SECONDS = 7200.0  # length of a clip, which is in memory whole: 1.4 GB

OnClip = Callable[[int, int], None]  # clips done, clips in total


def check_clips(
    found: ClipList,
    min_duration: float = 0.5,
    on_clip: OnClip = lambda done, count: None,
    on_sound: Callable[[Heard], None] = lambda heard: None,
) -> tuple[Problem, ...]:
    """List the problems of the clips: what `encode_clips` would skip, and why.

    `on_clip` is called after each clip, `on_sound` for each readable file.
    """
    problems = list(found.problems)
    first: dict[str, Path] = {}  # content of a file -> its first path
    for number, clip in enumerate(found.clips, start=1):
        try:
            with open_sound(clip.path) as sound:
                _check_duration(sound.duration, min_duration)
                problems += _incomplete(clip.path, sound)
                rate, channels = sound.sample_rate, sound.channels
                level = level_of(sound.blocks(), channels, rate, true_peaks=False)
                if (level.peak or 0.0) < SILENCE:
                    problems.append(Problem(str(clip.path), "it is silent", False))
                on_sound(Heard(rate, channels, sound.duration, max(level.lufs or 0.0, -70.0)))
            same = first.setdefault(_content(clip), clip.path)
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
    """Encode clips into a folder of token shards; what it already contains is not encoded again.

    After a complete run the folder has only these clips; others from earlier runs are left out. A run that
    finds nothing to encode or keep leaves the folder unchanged.

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
    """The source of one clip of the folder: a file, or a mixed pair of files."""

    id: str
    clips: tuple[Clip, ...]
    where: str  # its name in problems
    key: Callable[[], str]
    load: Callable[[], tuple[Tensor, list[Problem]]]  # [C, samples], and its problems
    captions: tuple[str, ...]
    tags: tuple[str, ...]
    content: Callable[[], str] = str  # hash of its audio; empty: unknown
    weight: float = 1.0


@dataclass
class _Made:
    """The result of an item; no codes if they exist already, or it cannot be encoded."""

    problems: list[Problem]
    key: str = ""
    content: str = ""
    codes: Tensor | None = None  # [K, T]
    seconds: float = 0.0  # seconds of audio encoded; 0: the codes are those of equal audio
    there: bool = False  # already in the folder


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
        self.current: set[str] = set()  # ids of this run's items in the folder

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
        else:  # an unmounted disk, a wrong path: no reason to drop the folder's clips
            self.writer.flush()
        left_out = len(self.writer.left_out)
        return EncodeReport(self.encoded, self.kept, left_out, self.seconds, tuple(self.problems))

    def _sounds(self) -> Iterator[_Item]:
        for clip in self.found.clips:
            key, load = partial(clip_key, clip), partial(self._audio, clip.path)
            said = clip.captions, clip.tags, partial(_content, clip), clip.weight
            yield _Item(clip.id, (clip,), str(clip.path), key, load, *said)

    def _mixtures(self, pairs: list[tuple[int, int, float]]) -> Iterator[_Item]:
        drawn: Counter[str] = Counter()
        for first, second, snr in pairs:
            a, b = self.found.clips[first], self.found.clips[second]
            # No file's id contains two slashes in a row. The same clips are rarely paired again, and then
            # at another level.
            id_ = f"mix//{a.id}//{b.id}"
            drawn[id_] += 1
            yield _Item(
                id_ if drawn[id_] == 1 else f"{id_}//{drawn[id_]}",
                (a, b),
                f"{a.path} mixed with {b.path}",
                partial(self._mixture_key, clip_key, a, b, snr),
                partial(self._mixture, a, b, snr),
                joined_captions(a, b),
                (),
                partial(self._mixture_key, _content, a, b, snr),
            )

    def _make(self, item: _Item) -> _Made:
        """Encode one item, unless it exists already or cannot be encoded. Runs in any thread."""
        try:
            key = item.key()
            there = self.writer.written.get(item.id) == key
            content = "" if there else item.content()
            codes = None if there else self.writer.known(content)
            if there or codes is not None:
                for clip in item.clips:
                    self._check_encoded(clip)
                return _Made([], key, content, codes, there=there)
            audio, problems = item.load()
            with torch.inference_mode():
                codes = self.codec.encode(audio[None].to(device_of(self.codec)))[0].cpu()
        except (AudioFileError, ValueError) as error:
            return _Made([Problem(item.where, _what(error, item.where))])
        except OSError as error:  # the file disappeared; a full disk shows in the writer
            what = f"it cannot be read: {error.strerror or error}"
            return _Made([Problem(item.where, what)])
        return _Made(problems, key, content, codes, audio.shape[-1] / self.codec.sample_rate)

    def _check_encoded(self, clip: Clip) -> None:
        """Apply `min_duration`, which may have changed, to a clip whose codes are in the folder. Its file is
        opened only if their number leaves the length open, as opening takes milliseconds."""
        known = self.writer.written.get(clip.id) == clip_key(clip)
        least = (self.writer.frames[clip.id] - 1) / self.writer.format.frame_rate if known else 0
        if least < self.options.min_duration:
            with open_sound(clip.path) as sound:
                _check_duration(sound.duration, self.options.min_duration)

    def _take(self, item: _Item, made: _Made) -> None:
        """Add an item's result to the folder and the report; called in the items' order."""
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
        """The clip [C, samples] at the codec's sample rate and channels."""
        with open_sound(path) as sound:
            # The duration before resampling, as in `check_clips`: resampling rounds to whole samples.
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

    def _mixture_key(self, of: Callable[[Clip], str], a: Clip, b: Clip, snr: float) -> str:
        return _hash(of(a), of(b), snr, self.options.mix_duration)


def in_threads(make: Callable[[_T], _R], items: Iterable[_T], workers: int) -> Iterator[_R]:
    """Yield the results of `make` in the items' order, computing `workers` at a time and few ahead.

    Threads, not processes: reading, resampling and networks release the GIL, the codec is in memory once, and
    a GPU works while files are read. Torch's threads are divided among them.
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
            torch.set_num_threads(threads)  # some libraries have one setting for all


def _incomplete(path: Path, sound: Sound) -> list[Problem]:
    """The problems of an incomplete file, worded without its name, which is `where`."""
    said = [remark.removeprefix(sound.name).strip(" .") for remark in sound.remarks]
    return [Problem(str(path), f"it {what}", skipped=False, incomplete=True) for what in said]


def clip_key(clip: Clip) -> str:
    """A hash of the file, captions, tags and weight of a clip. Raises AudioFileError: the file does not
    exist."""
    try:
        stat = clip.path.stat()
    except (OSError, ValueError) as error:
        raise AudioFileError(f"There is no file {clip.path}.", "Check the manifest.") from error
    weight = [clip.weight] if clip.weight != 1 else []  # as before there were weights
    return _hash(stat.st_size, stat.st_mtime_ns, clip.captions, clip.tags, *weight)


def _content(clip: Clip) -> str:
    """A hash of a file's bytes, so that a copy with another name or date is not encoded again."""
    return hashed(clip.path).hex()[:32]


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
    """The text of an error, without the file's name, which is given separately."""
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
    """Check that tokens were made by this codec. Raises UsageError: naming both."""
    if tokens.codec_hash != codec_hash(codec):
        raise UsageError(
            f"The tokens were made with {tokens.codec}, which is not the codec of this model.",
            "Encode the data again: `magnet data encode --codec` with the model's own.",
        )


def codec_hash(codec: AudioCodec) -> str:
    """A hash of the codebooks in half precision, as in files: equal if codes have the same meaning."""
    digest = hashlib.sha256(f"{codec.hop_length} {codec.sample_rate}".encode())
    digest.update(b"codebooks")
    digest.update(codec.codebooks().to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()[:16]
