"""`magnet eval`: measures folders of clips against a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.loading import loading
from magnet_cli.cli.progress import counting
from magnet_cli.cli.settings import TalkOptions, takes_flags
from magnet_cli.cli.talk import Talk
from magnet_cli.errors import PartialFailureError, UsageError
from magnet_cli.fields import panel
from magnet_cli.naming import count_of

if TYPE_CHECKING:
    from magnet_cli.evaluation.comparison import Judges
    from magnet_cli.evaluation.sets import ClipSet, Fault
    from magnet_cli.evaluation.table import Comparison

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet eval clips --reference test
    magnet eval mine theirs --reference test --embedder laion/larger_clap_music --metrics kad,clap
    magnet eval mine --reference test --embedder models/clap --classifier models/ast --offline --json
"""

_SHOWN = 20  # faults that are listed; --json lists all

_judges, _place = panel("Judges"), panel("Model")


@dataclass(frozen=True)
class JudgeOptions:
    """Flags for judges and metrics."""

    reference: str | None = _judges(
        "Folder of real recordings: a batch's, or sounds with .txt captions.", metavar="DIR"
    )
    metrics: str | None = _judges(
        "kad, fad, kl or clap, separated by commas. Default: all that the judges and clips allow.",
        metavar="NAME,NAME",
    )
    embedder: tuple[str, ...] = _judges(
        "Embedder of sounds: mel (no weights, does not judge perception), CLAP by hub id or folder, or a "
        "plugin's NAME or NAME=ARGUMENT. May be given several times. Default: mel.",
        (),
        metavar="NAME",
    )
    classifier: str | None = _judges(
        "Classifier of sounds, for kl: AST by hub id or folder.", metavar="NAME"
    )
    bootstrap: int = _judges(
        "Bootstrap draws for the intervals of means.",
        2000,
        low=100,
        high=1_000_000,
        words="a whole number from 100 to 1,000,000",
    )


@dataclass(frozen=True)
class PlaceOptions:
    """Flags for the device, and for downloads."""

    device: str = _place(
        "auto, cpu, cuda, cuda:1 or mps.", "auto", metavar="NAME", show_default=False
    )
    threads: int | None = _place("CPU threads. Default: torch's choice.", low=1, high=1024)
    offline: bool = _place("Never use the network (as HF_HUB_OFFLINE=1 does).", False)


@app.command("eval", epilog=EXAMPLES)
@takes_flags
def evaluate(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER",
            help="Folders to measure: batches, or sounds with .txt captions. The first is the baseline "
            "for differences.",
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also draw the figures."),
    ] = None,
    *,
    judges: JudgeOptions,
    place: PlaceOptions,
    talk: TalkOptions,
) -> None:
    """Measure folders of clips against a reference.

    Computes KAD, FAD, KL and CLAP score with intervals, by judge, and writes a table to stdout. Its floor
    compares one half of the reference with the other; its ceiling is shuffled captions and white noise.
    Embeddings are cached, so measuring again takes seconds. Clips that are unreadable, silent or without a
    counterpart are listed, the rest is measured, and the exit status is 4.
    """
    from magnet_cli.evaluation.sets import name_apart, read_set

    voice = Talk(talk)
    check_plot(plot)
    given = [*folders, *([Path(judges.reference)] if judges.reference is not None else [])]
    names = name_apart(given)
    sets = [read_set(folder, name) for folder, name in zip(given, names, strict=True)]
    reference = sets.pop() if judges.reference is not None else None
    asked = judges_of(judges, place, reference is not None, voice)
    found = measured(sets, reference, asked, voice)
    if voice.json:
        voice.data(found.record())
    else:
        voice.print(found.markdown())
    if plot is not None:
        from magnet_cli.evaluation.plots import draw_comparison

        draw_comparison(plot, found)
        voice.note(f"Drew {plot}")
    say_faults(found.faults, voice)


def pairs_of(texts: Sequence[str], what: str) -> dict[str, str]:
    """NAME=DIR texts as folders by name.
    Raises UsageError: a name or folder is missing, or a name is given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name.strip() or not path:
            raise UsageError(
                f"{text[:80]!r} is not a {what}.", "Give NAME=DIR, such as ours=clips."
            )
        if name in found:
            raise UsageError(f"Two {what}s are named {name!r}.", "Give each its own name.")
        found[name] = path
    return found


def check_plot(plot: Path | None) -> None:
    """Raise UsageError if a picture cannot be written, before any work is done."""
    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"{plot} is not a .png file.", "Give a name that ends in .png.")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UsageError(f"The folder of {plot} does not exist.", "Create it first.")


def judges_of(
    options: JudgeOptions, place: PlaceOptions, with_reference: bool, voice: Talk
) -> Judges:
    """Load the judges that the flags name.
    Raises MagnetError: one cannot be loaded, or a metric needs another."""
    from magnet_cli.evaluation.embedders import MEL, find_embedder, short_name
    from magnet_cli.evaluation.hearing import user_cache

    names = options.embedder or (MEL,)
    named = ", ".join(short_name(n) for n in (*names, options.classifier) if n)
    with loading(voice, named) as hook:
        import torch

        from magnet_cli.checkpoints.load import pick_device
        from magnet_cli.evaluation.comparison import Judges
        from magnet_cli.evaluation.judges import load_classifier

        if place.threads is not None:
            torch.set_num_threads(place.threads)
        device = str(pick_device(place.device))
        embedders = [
            find_embedder(name, device=device, offline=place.offline, progress=hook)
            for name in dict.fromkeys(names)
        ]
        classifier = None
        if options.classifier is not None:
            classifier = load_classifier(
                options.classifier, device=device, offline=place.offline, progress=hook
            )
    metrics = None
    if options.metrics is not None:
        metrics = [name.strip().lower() for name in options.metrics.split(",") if name.strip()]
    judges = Judges(embedders, classifier, metrics, options.bootstrap, user_cache())
    judges.check(with_reference)
    return judges


def measured(
    sets: Sequence[ClipSet], reference: ClipSet | None, judges: Judges, voice: Talk
) -> Comparison:
    """Compare sets of clips, with a progress bar."""
    from magnet_cli.evaluation.comparison import compare

    with counting(voice, "Measuring") as on_clip:
        return compare(sets, reference, judges, on_clip)


def say_faults(faults: Sequence[tuple[str, Fault]], voice: Talk) -> None:
    """List warnings, and what was left out of which set. Raises PartialFailureError: anything was."""
    for name, fault in faults[:_SHOWN]:
        voice.warn(": ".join(part for part in (name, fault.where, fault.what) if part))
    if len(faults) > _SHOWN:
        voice.warn(f"… and {len(faults) - _SHOWN} more (--json lists them all).")
    if count := sum(fault.left_out for _, fault in faults):
        clips = count_of(count, "clip")
        raise PartialFailureError(f"{clips} could not be used or paired.", "The others were.")
