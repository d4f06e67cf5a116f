"""Inputs and outputs of commands: sounds, prompts, times, seeds and file names."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from magnet_cli.audio.formats import ONCE_PCM, checked_format
from magnet_cli.cli.progress import shortened
from magnet_cli.cli.settings import SeedOptions, TalkOptions
from magnet_cli.cli.talk import Talk, refuse_terminal, stdin
from magnet_cli.editing import windows as timed
from magnet_cli.errors import UsageError
from magnet_cli.fields import clean_prompt
from magnet_cli.naming import Names, numbered, slug, writable
from magnet_cli.settings import MAX_SEED, OutputConfig
from magnet_cli.targets import NameTemplate, Target, check_targets, is_template, no_path

if TYPE_CHECKING:
    from magnet_cli.api import Model
    from magnet_cli.audio.sound import Sound

STDIN = "-"
_MOST_PIPED = 1_000_000  # bytes of a prompt

# Prompts, each with the second at which it begins.
Cues = Sequence[tuple[float, str]]

# The first argument of commands that take a sound.
Source = Annotated[
    str,
    typer.Argument(metavar="IN", help="A sound file of any format, or `-` for stdin."),
]


@contextmanager
def input_sound(name: str, prompts: Sequence[str], talk: Talk | None = None) -> Iterator[Sound]:
    """Open a command's input sound: a file, or `-` for stdin.
    Raises UsageError: a prompt is also read from stdin, or stdin is closed or a terminal; AudioFileError:
    it cannot be read."""
    from magnet_cli.audio.sound import open_sound

    if name == STDIN and STDIN in prompts:
        raise UsageError("stdin can be read only once.", "Give `-` once.")
    say_pipe(name, talk)
    with open_sound(piped() if name == STDIN else Path(name)) as sound:
        if talk is not None:
            say_remarks(sound, talk)
        yield sound


def piped() -> BinaryIO:
    """stdin, to read a sound from. Raises UsageError if it is closed or a terminal."""
    if stdin().isatty():
        raise UsageError(
            "`-` reads a sound from stdin, which is a terminal.", "Pipe one in, or name a file."
        )
    return stdin().buffer


def say_pipe(name: str, talk: Talk | None) -> None:
    """Say that a named pipe is read, which waits until a program writes to it."""
    if talk is not None and Path(name).is_fifo():
        talk.note(f"{name} is a pipe: waiting for what a program writes to it.")


def say_remarks(sound: Sound, talk: Talk) -> None:
    """Report problems of a usable sound, and a change of its encoding."""
    for remark in sound.remarks:
        talk.warn(remark)
    if sound.subtype in ONCE_PCM:
        talk.note(
            f"{sound.name} is {sound.subtype}, which changes each time it is written: "
            f"the output is 16-bit PCM at the same {sound.sample_rate} Hz."
        )


def say_channels(given: Sound, model: Model, becomes: str, talk: Talk) -> None:
    """Report what happens to the channels of a sound, if the model has another number of them."""
    if given.channels != model.channels:
        one = "channel" if given.channels == 1 else "channels"
        talk.note(
            f"{given.name} has {given.channels} {one}, {model.name} makes {model.channels}: {becomes}."
        )
    if given.channels > 1 == model.channels:
        from magnet_cli.audio.sound import cancels

        if cancels(given):
            talk.warn(
                f"The channels of {given.name} cancel each other, so only the loudest is used, not "
                "their mean."
            )


def say_unknown(prompts: Sequence[str | None], model: Model, talk: Talk) -> None:
    """Warn about prompts without any word that the model knows."""
    knows = model.parts.text_encoder.knows
    say_no_word_of([text for text in prompts if text and not knows(text)], model.name, talk)


def say_no_word_of(unknown: Sequence[str], model: str, talk: Talk) -> None:
    """Warn about prompts of which a model knows no word, if there are any."""
    if unknown:
        more = "" if len(unknown) == 1 else f" and of {len(unknown) - 1} more"
        talk.warn(
            f"{model} knows no word of {shortened(unknown[0])!r}{more}: the result is random. "
            "Describe the sound in English."
        )


def named_after(source: str, what: str) -> str:
    """The label from which to make output names if none was given."""
    return f"{'sound' if source == STDIN else Path(source).stem} {what}"


def texts_of(prompts: Sequence[str], talk: Talk) -> list[str]:
    """The prompts, cleaned; `-` reads all of stdin as one prompt.
    Raises UsageError: stdin is used twice, is closed or is not text, or a prompt is not valid."""
    if prompts.count("-") > 1:
        raise UsageError("stdin can be read only once.", "Give `-` once.")
    texts = []
    for prompt in prompts:
        if prompt == "-":
            if stdin().isatty():
                talk.note("Type a prompt, then press Ctrl-D.")
            try:
                data = stdin().buffer.read(_MOST_PIPED + 1)
                if len(data) > _MOST_PIPED:
                    raise UsageError(
                        "stdin holds more than a prompt.",
                        "Pipe a sentence or two in; `magnet batch -` takes one prompt a line.",
                    )
                prompt = data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UsageError("stdin is not UTF-8 text.", "Pipe a text in.") from error
        texts.append(clean_prompt(as_given(prompt)))
    return texts


def say_split(texts: Sequence[str], at: Sequence[float], talk: Talk) -> None:
    """Point out several prompts of one word each, which may be one text without quotes."""
    if len(texts) > 1 and not at and not any(" " in text for text in texts):
        whole = " ".join(texts)
        how = f': magnet gen "{whole}"' if len(whole) <= 60 else ""
        talk.note(
            f"These are {len(texts)} prompts, one clip each. Quotes make them one prompt{how}"
        )


def as_given(text: str) -> str:
    """Decode an argument as UTF-8 whatever the locale: where that is another encoding (LC_ALL=POSIX),
    Python keeps undecodable bytes as surrogates."""
    try:
        return text if text.isascii() else os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def cues_of(prompts: Sequence[str], at: Sequence[float] | None) -> Cues:
    """Pair each prompt with the time at which it begins; the first prompt's time defaults to 0.
    Raises UsageError: the numbers of prompts and times do not match, or a time is not valid."""
    times = list(at or [])
    if len(times) == len(prompts) - 1:
        times.insert(0, 0.0)
    if len(times) != len(prompts):
        raise UsageError(
            f"Prompts: {len(prompts)}; times (--at): {len(times)}.",
            "Give a time for each prompt after the first: PROMPT --at 6 PROMPT.",
        )
    return list(zip(times, prompts, strict=True))


def check_cues(cues: Cues, seconds: float | None) -> None:
    """Check the times of prompts before a model is loaded.

    Args:
        cues: the prompts and their times.
        seconds: length of the piece; None: not yet known.

    Raises:
        UsageError: no prompt begins at 0, two begin at once, or one begins after the end.
    """
    times = [timed.Cue(start, prompt) for start, prompt in cues]
    timed.check_cues(times, math.inf if seconds is None else seconds)


def seeds_of(options: SeedOptions) -> range:
    """The seeds of the variations, from the given seed or a random one.
    Raises UsageError: the last seed would be too large."""
    first = secrets.randbelow(2**32) if options.seed is None else options.seed
    if first + options.num - 1 > MAX_SEED:
        raise UsageError("The seeds would exceed 2^63 - 1.", "Use a smaller --seed.")
    return range(first, first + options.num)


def say_seed(options: SeedOptions, seeds: range, talk: Talk) -> None:
    """Report the first seed if it is random."""
    if options.seed is None:
        talk.note(f"Seed {seeds[0]} (--seed {seeds[0]} makes the same again)")


def check_stdout(destination: str | None, talk: TalkOptions, play: bool = False) -> None:
    """Check that a sound can be written to stdout, if it is to go there.
    Raises UsageError: stdout is a terminal or takes JSON, or the sound is to be played."""
    if destination == "-":
        if play:
            raise UsageError("--play plays a file, but -o - makes none.", "Remove one of them.")
        if talk.json:
            raise UsageError("--json and -o - both write to stdout.", "Remove one of them.")
        refuse_terminal("The sound")


def cleaned(text: str | None) -> str | None:
    """Clean a text as a prompt; an empty one becomes None, as in a prompt file.
    Raises UsageError: it is not a valid prompt."""
    return None if text is None or not text.strip() else clean_prompt(as_given(text))


def plan(
    prompts: Sequence[str],
    seeds: Sequence[int],
    destination: str | None,
    codes: Path | None,
    output: OutputConfig,
    force: bool,
    label: str | None = None,
) -> list[Target]:
    """A target for each prompt and seed.

    Args:
        prompts: one or more.
        seeds: the seeds for each prompt.
        destination: a file, a folder (existing, or ending in a slash), or "-" for stdout; None: the
            working folder. In a folder, names are made from prompt and seed; a file's name is numbered
            if there are several clips.
        codes: the .npz file for codes, numbered likewise.
        output: the output settings.
        force: replace existing files, including those that appear before the clip is written.
        label: text to make names from, in place of the prompt.

    Raises:
        UsageError: several clips would go to stdout, or --codes is not an .npz file.
        AudioFileError: a format is unknown or lacks a requested setting, or a path cannot be written.
    """
    clips = [(prompt, seed) for prompt in prompts for seed in seeds]
    named = [(prompt if label is None else label, seed) for prompt, seed in clips]
    paths = paths_for(named, destination, output.format or "wav")
    codes_paths = [None if codes is None else _nth(codes, i, len(clips)) for i in range(len(clips))]
    targets = []
    for (prompt, seed), path, codes_path in zip(clips, paths, codes_paths, strict=True):
        name = checked_format(path, output)
        check_targets(path, codes_path, force)
        targets.append(Target(prompt, seed, path, name, codes_path, force))
    return targets


def paths_for(
    clips: Sequence[tuple[str, int]], destination: str | None, suffix: str
) -> list[Path | None]:
    """Paths for clips, each a prompt and a seed; None for stdout. Arguments as in `plan`.

    Args:
        suffix: the suffix of generated names, without the dot.

    Raises:
        UsageError: several clips would go to stdout.
    """
    if destination == STDIN:
        if len(clips) > 1:
            raise UsageError(
                f"{len(clips)} clips cannot all go to stdout.", "Name a folder: -o clips/"
            )
        return [None]
    folder = _folder(destination)
    if folder is None:
        assert destination is not None
        if is_template(os.path.basename(destination)):
            return _by_template(Path(destination), clips)
        return [_nth(Path(destination), i, len(clips)) for i in range(len(clips))]
    names = Names()
    named = (names.unused(f"{slug(prompt)}-{seed}.{suffix}") for prompt, seed in clips)
    return [folder / writable(name) for name in named]


def _by_template(path: Path, clips: Sequence[tuple[str, int]]) -> list[Path | None]:
    """Paths for a template such as `-o x-{seed}.wav`, which works as batch's --name does.
    Raises UsageError: the template has an unknown field, or gives an unusable name."""
    template, names = NameTemplate(path.stem, "-o"), Names()
    prompts = list(dict.fromkeys(prompt for prompt, _ in clips))
    made: dict[str, int] = dict.fromkeys(prompts, 0)
    paths: list[Path | None] = []
    for index, (prompt, seed) in enumerate(clips):
        made[prompt] += 1
        name = template.name(index, prompts.index(prompt) + 1, prompt, seed, made[prompt])
        paths.append(path.parent / writable(names.unused(name + path.suffix)))
    return paths


def _folder(destination: str | None) -> Path | None:
    """The folder for generated names; None if `destination` is a file."""
    if destination is None:
        return Path()
    path = Path(destination)
    try:
        if destination.endswith(("/", os.sep)):
            path.mkdir(parents=True, exist_ok=True)
            return path
        return path if path.is_dir() else None
    except (OSError, ValueError) as error:
        raise no_path(path, error) from error


def _nth(path: Path, index: int, count: int) -> Path:
    return path if count == 1 else numbered(path, index + 1)
