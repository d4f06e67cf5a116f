"""From lines of a prompt file to clips to be made: each with its seed, its settings and its file.

A batch may be divided into shards for several machines: shard I of N makes every N-th clip.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from magnet_cli.audio.formats import checked_format
from magnet_cli.batch.names import (
    DEFAULT_NAME,
    NameTemplate,
    check_inside,
    check_relative,
)
from magnet_cli.data.prompts import BadLine, PromptLine
from magnet_cli.data.wildcards import Wildcards
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.naming import Names, numbered
from magnet_cli.settings import DecodingConfig, OutputConfig
from magnet_cli.targets import Target


@dataclass(frozen=True)
class Shard:
    """One of `count` parts, with `number` from 1."""

    number: int = 1
    count: int = 1

    @property
    def suffix(self) -> str:
        """What marks the files of this part; empty for the whole."""
        return f".shard-{self.number}-of-{self.count}" if self.count > 1 else ""

    def has(self, index: int) -> bool:
        """Whether the clip with an index, from 0, is of this part."""
        return index % self.count == self.number - 1

    def shares_nothing_with(self, suffix: str) -> bool:
        """Whether the files marked by `suffix` are of another part of the same division."""
        return self.count > 1 and suffix != self.suffix and suffix.endswith(f"-of-{self.count}")


WHOLE = Shard()
MOST_WORKERS = 256


def parse_shard(text: str | None) -> Shard:
    """ "2/8" -> the second of eight parts; None: the whole.

    Raises:
        UsageError: it is anything else.
    """
    if text is None:
        return WHOLE
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if found is None:
        raise UsageError(f"--shard cannot be {text[:40]!r}.", "It takes I/N, such as 1/4.")
    number, count = int(found[1]), int(found[2])
    if not 1 <= number <= count:
        raise UsageError(
            f"There is no shard {number} of {count}.", f"Shards are 1/{count} to {count}/{count}."
        )
    return Shard(number, count)


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """ "auto" or a whole number from 1.

    Raises:
        UsageError: it is anything else.
    """
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 4096):
        raise UsageError(
            f"--batch-size cannot be {text[:40]!r}.", "It takes auto, or 1 to 4096 clips."
        )
    return int(text)


def parse_workers(text: str | None) -> int | Literal["auto"] | None:
    """ "auto" or a whole number from 1.

    Raises:
        UsageError: it is anything else.
    """
    if text is None or text == "auto":
        return "auto" if text else None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MOST_WORKERS):
        raise UsageError(
            f"--workers cannot be {text[:40]!r}.", f"It takes auto, or 1 to {MOST_WORKERS}."
        )
    return int(text)


@dataclass(frozen=True)
class BatchSettings:
    """What holds for every line that does not say otherwise."""

    folder: Path  # where the files go
    seed: int  # of the clip with index 0; clip i has seed + i
    num: int = 1  # variations of each prompt
    duration: float | None = None  # seconds; None: the model's segment
    negative: str | None = None
    preset: str | None = None
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    name: str = DEFAULT_NAME
    codes: bool = False  # keep each clip's codes beside it
    models: Mapping[str, str] = field(default_factory=dict)  # as named; <part>_id: identity
    wildcards: Wildcards | None = None  # what draws those of prompts; None: they are plain text


@dataclass(frozen=True)
class Job:
    """One clip to be made."""

    index: int  # of the clip in the batch, from 0
    line: int  # of the prompt file, from 1
    file: str  # below the output folder, with forward slashes: its key in the manifest
    target: Target  # prompt, seed and path
    duration: float | None
    negative: str | None
    preset: str | None
    decoding: DecodingConfig
    output: OutputConfig
    models: Mapping[str, str]

    def settings(self) -> dict[str, Any]:
        """All that decides what the file holds, as JSON-able values: what resuming compares."""
        chosen = {
            **self.models,
            "prompt": self.target.prompt,
            "negative": self.negative,
            "seed": self.target.seed,
            "duration": self.duration,
            "preset": self.preset,
            "format": self.target.format,
            **self.decoding.given(),
            **self.output.given(),
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in chosen.items()
            if value is not None
        }


class Planner:
    """Makes jobs of lines, one by one. The same lines make the same jobs, whatever is done of them."""

    def __init__(self, settings: BatchSettings) -> None:
        """Check what can be checked without lines.

        Raises:
            UsageError: the name template cannot be used.
        """
        self.settings = settings
        self._template = NameTemplate(settings.name)
        self._names = Names()
        self._inside = {PurePosixPath()}
        self._index = 0

    def plan(self, lines: Iterable[PromptLine | BadLine]) -> Iterator[Job | BadLine]:
        """The jobs of each line, as the lines come.

        A line that is bad takes indices all the same, one for each variation that it or else the batch
        asks for: the clips after it keep their names and seeds when it is repaired.
        """
        for line in lines:
            if isinstance(line, BadLine):
                self._index += line.num or self.settings.num
                yield line
                continue
            try:
                jobs = self._jobs(line)
            except MagnetError as error:
                self._index += line.num or self.settings.num
                yield BadLine(line.number, str(error))
                continue
            self._index += len(jobs)
            yield from jobs

    def _jobs(self, line: PromptLine) -> list[Job]:
        """One job for each variation.

        Raises:
            MagnetError: the line's values do not fit the batch's, or its file cannot be named so.
        """
        batch = self.settings
        output = dataclasses.replace(batch.output, **line.output) if line.output else batch.output
        preset, decoding = _decoding(line, batch)
        count = line.num or batch.num
        first = batch.seed + self._index if line.seed is None else line.seed
        if first + count > 2**63:
            raise UsageError("The seeds would pass 2^63 - 1.", "Take a smaller seed.")
        negative = batch.negative if line.negative is None else line.negative
        prompts = [line.prompt] * count
        if batch.wildcards is not None:
            prompts = [batch.wildcards.drawn(line.prompt, first + i) for i in range(count)]
        files = [self._file(line, output, i, first + i, prompts[i], count) for i in range(count)]
        formats = [checked_format(Path(file), output) for file in files]
        jobs = []
        for i, (file, kind) in enumerate(zip(files, formats, strict=True)):
            unused = self._names.unused(file)
            path = batch.folder / unused
            codes = path.with_name(f"{path.name}.npz") if batch.codes else None
            jobs.append(
                Job(
                    index=self._index + i,
                    line=line.number,
                    file=unused,
                    # What may be replaced is for the manifest to say: `resume.Standing`.
                    target=Target(prompts[i], first + i, path, kind, codes, force=True),
                    duration=batch.duration if line.duration is None else line.duration,
                    negative=negative or None,
                    preset=preset,
                    decoding=decoding,
                    output=output.decided(kind),
                    models=batch.models,
                )
            )
        return jobs

    def _file(
        self,
        line: PromptLine,
        output: OutputConfig,
        variation: int,
        seed: int,
        prompt: str,
        count: int,
    ) -> str:
        suffix = f".{output.format or 'wav'}"
        if line.out is None:
            index = self._index + variation
            name = self._template.name(index, line.number, prompt, seed, variation + 1)
            path = check_relative(name + suffix)
        else:
            out = line.out.strip()
            path = check_relative(out)
            path = path if path.suffix else check_relative(out + suffix)
            path = numbered(path, variation + 1) if count > 1 else path
        if path.parent not in self._inside:
            check_inside(self.settings.folder, self.settings.folder / path.parent)
            self._inside.add(path.parent)
        return path.as_posix()


def _decoding(line: PromptLine, batch: BatchSettings) -> tuple[str | None, DecodingConfig]:
    """Preset and settings of a line over the batch's: what the line says of the steps decides."""
    decoding, preset = batch.decoding, batch.preset
    if line.decoding.given():
        decoding = line.decoding.over(decoding)
    if line.preset is not None:
        preset, decoding = line.preset, dataclasses.replace(decoding, decoding_steps=None)
    elif line.decoding.decoding_steps is not None:
        preset = None
    return preset, decoding
