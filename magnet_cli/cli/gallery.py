"""`magnet gallery`: writes a web page for a folder of clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli.again import command_for, models_of_line, prompt_line
from magnet_cli.cli.progress import counting
from magnet_cli.cli.recorded import problem_of, recorded
from magnet_cli.cli.settings import TalkOptions, takes_flags
from magnet_cli.cli.talk import Talk, shell_line
from magnet_cli.errors import PartialFailureError
from magnet_cli.naming import count_of

if TYPE_CHECKING:
    from magnet_cli.batch.gallery import Gallery, Told

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet gallery clips
    magnet batch prompts.txt -O clips --gallery
"""

_MOST_SHOWN = 20  # unreadable sounds to list; --json and the page list all


@app.command("gallery", epilog=EXAMPLES)
@takes_flags
def gallery(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A batch's folder, or any folder of sounds."),
    ],
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Title of the page. Default: the folder's name."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace an index.html that is not a gallery.")
    ] = False,
    *,
    talk: TalkOptions,
) -> None:
    """Write a web page for browsing and playing clips.

    It works from disk or any web host, with thousands of clips. Each has a player, waveform, spectrogram,
    prompt, seed, loudness and the command that makes it again. Clips can be sorted, searched and starred;
    starred ones can be saved as a prompts.jsonl for the next batch. Running it again reuses its pictures.
    """
    voice = Talk(talk)
    written = write(folder, voice, title, force)
    if written.faults:
        sounds = count_of(len(written.faults), "sound")
        raise PartialFailureError(f"{sounds} could not be read.", "The others are in the gallery.")


def write(folder: Path, voice: Talk, title: str | None = None, force: bool = False) -> Gallery:
    """Write the gallery of a folder and report it.
    Raises MagnetError: it cannot be written, or there is nothing to show."""
    from magnet_cli.batch.gallery import write_gallery

    with counting(voice, "Drawing") as on_clip:
        written = write_gallery(folder, told, title, force, on_clip)
    voice.note(f"Wrote {written.page}: {count_of(written.clips, 'clip')}")
    for file, why in written.faults[:_MOST_SHOWN]:
        voice.warn(f"{file}: {why}")
    if written.missing:
        voice.note(f"Missing files: {count_of(written.missing, 'clip')} of the manifest.")
    voice.data(
        {
            "event": "gallery",
            "page": str(written.page),
            "clips": written.clips,
            "failed": written.failed,
            "missing": written.missing,
            "faults": [{"file": file, "error": why} for file, why in written.faults],
        }
    )
    return written


def told(made: Mapping[str, Any], name: str, suffix: str) -> Told:
    """What a gallery shows of a record, after validation (cli/recorded.py)."""
    from magnet_cli.batch.gallery import Told

    kept = recorded(made)
    known = problem_of(made) is None
    return Told(
        prompt=kept.get("prompt", ""),
        negative=kept.get("negative"),
        seed=kept.get("seed"),
        model=kept.get("repo") or kept.get("model"),
        command=shell_line(command_for(made, name, suffix)) if known else None,
        again=prompt_line(made, suffix) if known else None,
        by=models_of_line(kept),
    )
