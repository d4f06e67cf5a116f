"""Which files a command will write: named, numbered and refused before any model is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from magnet_cli.audio.formats import checked_format
from magnet_cli.errors import UsageError
from magnet_cli.naming import Names, numbered, slug
from magnet_cli.settings import OutputConfig
from magnet_cli.targets import Target, check_targets, no_path

STDOUT = "-"


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
    if destination == STDOUT:
        if len(clips) > 1:
            raise UsageError(
                f"{len(clips)} clips cannot all go to stdout.", "Name a folder: -o clips/"
            )
        return [None]
    folder = _folder(destination)
    if folder is None:
        assert destination is not None
        return [_nth(Path(destination), i, len(clips)) for i in range(len(clips))]
    names = Names()
    return [folder / names.unused(f"{slug(prompt)}-{seed}.{suffix}") for prompt, seed in clips]


def _folder(destination: str | None) -> Path | None:
    """The folder that names are to be made up in; None where a file is named."""
    if destination is None:
        return Path()
    if not destination:
        raise UsageError("-o is empty.", "Name a file, such as -o out.wav.")
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
