"""What a command starts from and where it goes: sounds, prompts, times, seeds and the names of files."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.audio.formats import checked_format
from magnet_cli.cli.progress import shortened
from magnet_cli.cli.settings import SeedOptions, TalkOptions
from magnet_cli.cli.talk import Talk, refuse_terminal, stdin
from magnet_cli.errors import UsageError
from magnet_cli.fields import clean_prompt
from magnet_cli.naming import Names, numbered, slug, writable
from magnet_cli.settings import MAX_SEED, OutputConfig
from magnet_cli.targets import NameTemplate, Target, check_targets, is_template, no_path

if TYPE_CHECKING:
    from magnet_cli.api import Model
    from magnet_cli.audio.sound import Sound

STDIN = "-"

# A prompt and the second that it begins at.
Cues = Sequence[tuple[float, str]]

# The first argument of every command that starts from a sound.
Source = Annotated[
    str,
    typer.Argument(
        metavar="IN", help="A sound file of any format, or `-` for stdin.", show_default=False
    ),
]


@contextmanager
def input_sound(name: str, prompts: Sequence[str], talk: Talk | None = None) -> Iterator[Sound]:
    """The sound that a command was given: a file, or `-` for stdin.

    Raises:
        UsageError: a prompt is to be read from stdin, too, or stdin is closed.
        AudioFileError: it cannot be read.
    """
    from magnet_cli.audio.sound import open_sound

    if name == STDIN and STDIN in prompts:
        raise UsageError("stdin can be read only once.", "Give `-` once.")
    if name == STDIN and stdin().isatty():
        raise UsageError("The sound is to come from the terminal.", "Pipe one in, or name a file.")
    with open_sound(stdin().buffer if name == STDIN else Path(name)) as sound:
        if talk is not None:
            say_remarks(sound, talk)
        yield sound


def say_remarks(sound: Sound, talk: Talk) -> None:
    """Say what is wrong with a sound that can be used all the same, and what becomes of its encoding."""
    from magnet_cli.audio.formats import ONCE_PCM

    for remark in sound.remarks:
        talk.warn(remark)
    if sound.subtype in ONCE_PCM:
        talk.note(
            f"{sound.name} is {sound.subtype}, which would change each time that it is written: "
            f"what is made of it is 16-bit PCM at the same {sound.sample_rate} Hz."
        )


def say_channels(given: Sound, model: Model, becomes: str, talk: Talk) -> None:
    """Say what happens to the channels of a sound, where the model has another number of them."""
    if given.channels != model.channels:
        one = "channel" if given.channels == 1 else "channels"
        talk.note(
            f"{given.name} has {given.channels} {one}, {model.name} makes {model.channels}: {becomes}."
        )
    if given.channels > 1 == model.channels:
        from magnet_cli.audio.sound import cancels

        if cancels(given):
            talk.warn(
                f"The channels of {given.name} cancel each other: the loudest alone is heard, as "
                "their mean is silence."
            )


def say_unknown(prompts: Sequence[str | None], model: Model, talk: Talk) -> None:
    """Say which prompts hold no word that the model knows: they are made as if nothing were asked."""
    knows = model.parts.text_encoder.knows
    say_no_word_of([text for text in prompts if text and not knows(text)], model.name, talk)


def say_no_word_of(unknown: Sequence[str], model: str, talk: Talk) -> None:
    """Say that a model knows no word of some prompts, if there are any."""
    if unknown:
        more = "" if len(unknown) == 1 else f" and of {len(unknown) - 1} more"
        talk.warn(
            f"{model} knows no word of {shortened(unknown[0])!r}{more}: what it makes is left to "
            "chance. Describe the sound in English."
        )


def named_after(source: str, what: str) -> str:
    """What to name the outputs of a command after, where no name was given."""
    return f"{'sound' if source == STDIN else Path(source).stem} {what}"


def texts_of(prompts: Sequence[str], talk: Talk) -> list[str]:
    """The prompts, cleaned; `-` is read from stdin, and all of it is one prompt.

    Raises:
        UsageError: stdin is asked for twice, closed or no text, or a prompt cannot be one.
    """
    if prompts.count("-") > 1:
        raise UsageError("stdin can be read only once.", "Give `-` once.")
    texts = []
    for prompt in prompts:
        if prompt == "-":
            if stdin().isatty():
                talk.note("Type a prompt, then press Ctrl-D.")
            try:
                prompt = stdin().buffer.read().decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UsageError("stdin is not UTF-8 text.", "Pipe a text in.") from error
        texts.append(clean_prompt(as_given(prompt)))
    return texts


def say_split(texts: Sequence[str], at: Sequence[float], talk: Talk) -> None:
    """Say how many clips several prompts of one word are, as a text without its quotes comes to be."""
    if len(texts) > 1 and not at and not any(" " in text for text in texts):
        whole = " ".join(texts)
        how = f': magnet gen "{whole}"' if len(whole) <= 60 else ""
        talk.note(f"These are {len(texts)} prompts, a clip each. Quotes make one of them{how}")


def as_given(text: str) -> str:
    """An argument as the text that its bytes are: under a locale of another encoding, or of none
    (LC_ALL=POSIX), Python keeps the bytes of UTF-8 that it cannot read as halves of pairs."""
    try:
        return text if text.isascii() else os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def cues_of(prompts: Sequence[str], at: Sequence[float] | None) -> Cues:
    """When each prompt begins, paired with it. The first may go without a time: it begins at 0.

    Raises:
        UsageError: there are more prompts or more times than that, or a time is none.
    """
    times = list(at or [])
    if len(times) == len(prompts) - 1:
        times.insert(0, 0.0)
    if len(times) != len(prompts):
        raise UsageError(
            f"Prompts: {len(prompts)}; times (--at): {len(times)}.",
            "Give a time for each prompt but the first: PROMPT --at 6 PROMPT.",
        )
    for seconds in times:
        if not 0 <= seconds < 1e6:
            raise UsageError(f"--at cannot be {seconds:g}.", "It takes seconds from 0.")
    return list(zip(times, prompts, strict=True))


def check_cues(cues: Cues, seconds: float | None) -> None:
    """Refuse prompts whose times cannot be those of a piece, before a model is loaded for it.

    Args:
        cues: when each prompt begins.
        seconds: length of the piece; None: not known yet.

    Raises:
        UsageError: nothing is said of the start, two begin at once, or one lies behind the end.
    """
    from magnet_cli.editing import windows as timed

    times = [timed.Cue(start, prompt) for start, prompt in cues]
    timed.check_cues(times, math.inf if seconds is None else seconds)


def seeds_of(options: SeedOptions) -> range:
    """The seeds of the variations, from the one that was given or else a drawn one.

    Raises:
        UsageError: the last one would be too large.
    """
    first = secrets.randbelow(2**32) if options.seed is None else options.seed
    if first + options.num - 1 > MAX_SEED:
        raise UsageError("The seeds would pass 2^63 - 1.", "Take a smaller --seed.")
    return range(first, first + options.num)


def say_seed(options: SeedOptions, seeds: range, talk: Talk) -> None:
    """Say the first seed where it was drawn."""
    if options.seed is None:
        talk.note(f"Seed {seeds[0]} (say --seed {seeds[0]} for the same again)")


def check_stdout(destination: str | None, talk: TalkOptions, play: bool = False) -> None:
    """Refuse to send sound to stdout where it cannot go there.

    Raises:
        UsageError: stdout is a terminal, JSON goes there, or what goes there is to be played.
    """
    if destination == "-":
        if play:
            raise UsageError("--play plays a file, and -o - makes none.", "Leave one of them out.")
        if talk.json:
            raise UsageError("--json and -o - both write to stdout.", "Leave one of them out.")
        refuse_terminal("The sound")


def cleaned(text: str | None) -> str | None:
    """A text as a prompt, where there is one: an empty one is none, as in a prompt file.

    Raises:
        UsageError: it cannot be one.
    """
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
        seeds: of the variations of each.
        destination: a file, a folder (there already, or ending in a slash), "-" for stdout;
            None: the working folder. In a folder, names come from prompt and seed. A file's name
            is numbered where there are several clips.
        codes: the .npz file for codes, numbered likewise.
        output: the settings of the files.
        force: existing files may be replaced, those that appear until the clip is written, too.
        label: what names come from in place of the prompt.

    Raises:
        UsageError: several clips cannot all go to stdout, or --codes is not an .npz file.
        AudioFileError: a format is unknown or cannot be as asked, or a path cannot be written to.
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
    """Where clips, each a prompt and a seed, go; None for stdout. Arguments as in `plan`.

    Args:
        suffix: of names that are made up, without the dot.

    Raises:
        UsageError: several clips cannot all go to stdout.
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
    """The names that `-o x-{seed}.wav` makes, as batch's --name does; in the folder that it names.

    Raises:
        UsageError: it holds another field, or makes no name that can be used.
    """
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
    """The folder that names are to be made up in; None where a file is named."""
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
