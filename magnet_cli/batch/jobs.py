"""Turns lines of a prompt file into jobs: clips with their seeds, settings and files.

A batch can be divided into shards for several machines: shard I of N makes every N-th clip.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from magnet_cli.audio.formats import checked_format
from magnet_cli.batch.inputs import Inputs
from magnet_cli.checkpoints.identity import with_identities
from magnet_cli.checkpoints.loras import parse_lora
from magnet_cli.checkpoints.place import check_name
from magnet_cli.data.prompts import BadLine, PromptLine
from magnet_cli.data.tasks import PLAIN, LineTask
from magnet_cli.data.wildcards import Wildcards
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.fields import shown
from magnet_cli.naming import Names, numbered
from magnet_cli.settings import OUTPUT_DEFAULTS, AudioFormat, DecodingConfig, OutputConfig, listed
from magnet_cli.targets import DEFAULT_NAME, NameTemplate, Target, check_inside, check_relative


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count`."""

    number: int = 1
    count: int = 1

    @property
    def suffix(self) -> str:
        """Mark in the names of this part's files; empty for the whole."""
        return f".shard-{self.number}-of-{self.count}" if self.count > 1 else ""

    def has(self, index: int) -> bool:
        """Whether this part makes the clip of an index (from 0)."""
        return index % self.count == self.number - 1

    def shares_nothing_with(self, suffix: str) -> bool:
        """Whether `suffix` marks another part of the same division."""
        return self.count > 1 and suffix != self.suffix and suffix.endswith(f"-of-{self.count}")


WHOLE = Shard()
MOST_WORKERS = 256


def parse_shard(text: str | None) -> Shard:
    """Parse "2/8" as the second of eight parts; None is the whole.

    Raises:
        UsageError: it is not valid.
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
    """Parse "auto" or a number of clips from 1. Raises UsageError if it is not valid."""
    return _count("batch-size", text, 4096, " clips")


def parse_workers(text: str | None) -> int | Literal["auto"] | None:
    """Parse "auto" or a number from 1; None stays None. Raises UsageError if it is not valid."""
    return None if text is None else _count("workers", text, MOST_WORKERS)


def _count(flag: str, text: str, most: int, of: str = "") -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= most):
        raise UsageError(
            f"--{flag} cannot be {text[:40]!r}.", f"It takes auto, or 1 to {most}{of}."
        )
    return int(text)


@dataclass(frozen=True)
class BatchSettings:
    """A batch's settings, which lines may override."""

    folder: Path  # for the files
    seed: int  # of the clip with index 0; clip i has seed + i
    num: int = 1  # variations of each prompt
    duration: float | None = None  # seconds; None: the model's segment
    negative: str | None = None
    preset: str | None = None
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    name: str = DEFAULT_NAME
    codes: bool = False  # save each clip's codes beside it
    models: Mapping[str, str] = field(default_factory=dict)  # names by part; <part>_id: their ids
    wildcards: Wildcards | None = None  # expands wildcards in prompts; None: they are plain text


@dataclass(frozen=True)
class Job:
    """One clip to make."""

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
    task: LineTask = PLAIN
    input_id: str | None = None  # of its input sound

    @property
    def named(self) -> dict[str, str]:
        """Its models' names, by part."""
        return names_of(self.models)

    @property
    def texts(self) -> list[str | None]:
        """All texts for the text encoder."""
        return [self.target.prompt, self.negative, *(text for _, text in self.task.at)]

    def settings(self) -> dict[str, Any]:
        """All that determines the file's content, as JSON types, to compare when resuming."""
        chosen = {
            **self.models,
            **self.task.settings(),
            "input_id": self.input_id,
            "prompt": self.target.prompt,
            "negative": self.negative,
            "seed": self.target.seed,
            "duration": self.duration,
            "preset": self.preset,
            "format": self.target.format,
            **self.decoding.given(),
            **self.output.given(),
        }
        return {name: value for name, value in listed(chosen).items() if value is not None}


class Planner:
    """Turns lines into jobs. The same lines give the same jobs, whichever are done."""

    def __init__(self, settings: BatchSettings) -> None:
        """Set up a planner. Raises UsageError: the name template is not valid."""
        self.settings = settings
        self._template = NameTemplate(settings.name)
        self._names = Names()
        self._inside = {PurePosixPath()}
        self._inputs = Inputs()
        self._models: dict[tuple[str | None, tuple[str, ...] | None], Mapping[str, str]] = {}
        self._index = 0

    def plan(self, lines: Iterable[PromptLine | BadLine]) -> Iterator[Job | BadLine]:
        """Yield the jobs of each line.

        A bad line also takes indices, one per variation, so that the clips after it keep their names and
        seeds when it is repaired.
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
        """One job for each variation of a line.
        Raises MagnetError: the line's values do not fit the batch's, or its file name is not valid."""
        batch = self.settings
        output = dataclasses.replace(batch.output, **line.output) if line.output else batch.output
        duration = batch.duration if line.duration is None else line.duration
        if line.task.keeps_file:
            output = OUTPUT_DEFAULTS
        if line.task.task in ("edit", "vary") or line.task.bpm is not None:
            duration = None
        preset, decoding = _decoding(line, batch)
        count = line.num or batch.num
        first = batch.seed + self._index if line.seed is None else line.seed
        if first + count > 2**63:
            raise UsageError("The seeds would exceed 2^63 - 1.", "Use a smaller seed.")
        negative = batch.negative if line.negative is None else line.negative
        said = [self._said(line, first + i) for i in range(count)]
        for prompt, task in said[:1] if batch.wildcards is None else said:
            self._inputs.check(task, prompt, duration, output)
        prompts = [prompt for prompt, _ in said]
        given = None if line.task.input is None else self._inputs.of(line.task.input)
        models = self._models_of(line)
        files = [self._file(line, output, i, first + i, prompts[i], count) for i in range(count)]
        formats = [self._format(line.task, Path(file), output) for file in files]
        jobs = []
        for i, (file, kind) in enumerate(zip(files, formats, strict=True)):
            unused = self._names.unused(file)
            keeps = batch.codes and not line.task.keeps_file  # such a file has no codes
            names = [unused, *([self._names.unused(f"{unused}.npz")] if keeps else [])]
            for name in names:
                check_relative(name)  # again, as it may have got a number
                if self._names.clashes(name):
                    raise UsageError(
                        f"{shown(name)} cannot be a file and the folder of another.",
                        "Choose another name.",
                    )
            codes = batch.folder / names[1] if keeps else None
            jobs.append(
                Job(
                    index=self._index + i,
                    line=line.number,
                    file=unused,
                    # `resume.Standing` decides what may be replaced.
                    target=Target(
                        prompts[i], first + i, batch.folder / unused, kind, codes, force=True
                    ),
                    duration=duration,
                    negative=negative or None,
                    preset=preset,
                    decoding=decoding,
                    output=output.decided(kind),
                    models=models,
                    task=said[i][1],
                    input_id=None if given is None else given.id,
                )
            )
        return jobs

    def _said(self, line: PromptLine, seed: int) -> tuple[str, LineTask]:
        """A line's prompt and task with wildcards expanded. Raises UsageError if that fails."""
        draws = self.settings.wildcards
        if draws is None:
            return line.prompt, line.task
        task = line.task
        if task.at:
            cues = tuple((start, draws.drawn(text, seed)) for start, text in task.at)
            task = dataclasses.replace(task, at=cues)
        return draws.drawn(line.prompt, seed), task

    def _models_of(self, line: PromptLine) -> Mapping[str, str]:
        """A line's models, or else the batch's.
        Raises MagnetError if a model or an adapter does not exist."""
        key = (line.model, line.lora)
        if key == (None, None):
            return self.settings.models
        if key not in self._models:
            if line.model is not None:
                check_name(line.model)
            own = names_of(self.settings.models)
            # The batch's adapters belong to the batch's model.
            named = {part: name for part, name in own.items() if not part.startswith("lora")}
            named |= {"model": line.model} if line.model is not None else {}
            named |= lora_parts(line.lora or ())
            self._models[key] = with_identities(named)
        return self._models[key]

    def _format(self, task: LineTask, file: Path, output: OutputConfig) -> AudioFormat:
        """The format of a job's file. Raises AudioFileError if it cannot be written."""
        if not task.keeps_file:
            return checked_format(file, output)
        assert task.input is not None
        self._inputs.check_copy(task.input, file)
        return "wav"  # not used: the file has its input's format

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
        if line.task.keeps_file and line.task.input is not None:
            suffix = self._inputs.of(line.task.input).suffix
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


def names_of(models: Mapping[str, str]) -> dict[str, str]:
    """Models' names by part, without their ids."""
    return {part: name for part, name in models.items() if not part.endswith("_id")}


def lora_parts(texts: Iterable[str]) -> dict[str, str]:
    """Adapters, given as `--lora` takes them, by part.
    Raises ModelNotFoundError or UsageError if an adapter does not exist."""
    return {
        f"lora_{number}" if number > 1 else "lora": str(parse_lora(text).check())
        for number, text in enumerate(texts, 1)
    }


def _decoding(line: PromptLine, batch: BatchSettings) -> tuple[str | None, DecodingConfig]:
    """A line's preset and settings over the batch's; the line's preset or steps replace both of the batch."""
    decoding, preset = batch.decoding, batch.preset
    if line.decoding.given():
        decoding = line.decoding.over(decoding)
    if line.preset is not None:
        preset, decoding = line.preset, dataclasses.replace(decoding, decoding_steps=None)
    elif line.decoding.decoding_steps is not None:
        preset = None
    return preset, decoding
