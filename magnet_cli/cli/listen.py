"""`magnet listen`: makes and analyses listening tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magnet_cli.cli.evaluate import check_plot, pairs_of, say_faults
from magnet_cli.cli.help import group
from magnet_cli.cli.settings import TalkOptions, takes_flags
from magnet_cli.cli.talk import Talk
from magnet_cli.errors import UsageError
from magnet_cli.naming import count_of
from magnet_cli.settings import MAX_SEED

app = group("listen", "Make and analyse listening tests.")

MAKE_EXAMPLES = """
Examples:

    magnet listen make ours=clips theirs=other -O study
    magnet listen make ours=clips theirs=other --reference test --test mushra -O study
"""
RESULTS_EXAMPLES = """
Examples:

    magnet listen results study answers/
    magnet listen results study answers-*.json --plot study.png --json
"""


@app.command("make", epilog=MAKE_EXAMPLES)
@takes_flags
def make(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=DIR",
            help="Systems, each a name and a folder: a batch's, or sounds with .txt captions.",
        ),
    ],
    folder: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            "-O",
            metavar="STUDY",
            help="Folder for the page and the key.",
        ),
    ],
    test: Annotated[
        str,
        typer.Option(
            metavar="mos|mushra|ab",
            help="mos: rate each clip's quality and fit from 1 to 100. mushra: rate clips side by side "
            "against a reference, with a hidden reference and a low anchor. ab: choose between two.",
        ),
    ] = "mos",
    reference: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Real recordings for the same prompts."),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Number of prompts, drawn from those that all systems answered. Default: all, at most 20.",
        ),
    ] = None,
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="Title of the page.")
    ] = "Listening test",
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=MAX_SEED,
            help="Seed for the draw and the orders. Default: random.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a study that exists.")
    ] = False,
    *,
    talk: TalkOptions,
) -> None:
    """Make a listening test: a page in a single file, and its key.

    Give listeners STUDY/page/index.html: it works from disk, on a phone or on any static host, sends nothing
    anywhere, and gives each listener a JSON file to send back. Keep STUDY/key.json, which maps clips to
    systems. Add ?listener=1, 2, … to the page's address to give each listener the next balanced order.
    """
    from magnet_cli.evaluation.listening import KEY, make_study
    from magnet_cli.evaluation.sets import read_set

    voice = Talk(talk)
    if (folder / KEY).exists() and not force:
        raise UsageError(
            f"{folder} already holds a study, whose answers a new key cannot read.",
            "Choose another folder with -O, or add --force.",
        )
    named = pairs_of(systems, "system")
    sets = {name: read_set(Path(path), name) for name, path in named.items()}
    true = read_set(reference, "reference") if reference is not None else None
    study = make_study(
        sets,
        true,
        test,  # type: ignore[arg-type]  # checked there
        folder,
        title=title,
        clips=clips,
        seed=seed,
    )
    voice.data(
        {
            "page": str(study.page),
            "key": str(study.key),
            "prompts": study.prompts,
            "screens": study.screens,
            "unshared": study.unshared,
            "bytes": study.size,
            "faults": [{"set": name, **vars(fault)} for name, fault in study.faults],
        }
    )
    voice.note(
        f"Made {study.page} ({study.size / 1e6:.1f} MB): {count_of(study.prompts, 'prompt')}, "
        f"{count_of(study.screens, 'page')} for each listener. Keep {study.key} to yourself."
    )
    if study.unshared:
        voice.note(f"Left out: {count_of(study.unshared, 'prompt')} that not all systems answered.")
    say_faults(study.faults, voice)


@app.command("results", epilog=RESULTS_EXAMPLES)
@takes_flags
def results(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="The folder that `magnet listen make` wrote.")
    ],
    answers: Annotated[
        list[Path],
        typer.Argument(
            metavar="ANSWERS",
            help="JSON files that listeners sent, or folders of them.",
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also draw the means."),
    ] = None,
    *,
    talk: TalkOptions,
) -> None:
    """Analyse the answers to a listening test: means or choices, differences, and excluded listeners.

    Means have CrowdMOS's intervals, choices Wilson's; differences are paired and corrected (Holm).
    Files that cannot be used are listed, and the exit status is 4.
    """
    from magnet_cli.evaluation.listening_results import read_results

    voice = Talk(talk)
    check_plot(plot)
    found = read_results(study, answers)
    if voice.json:
        voice.data(found.record())
    else:
        voice.print(found.markdown())
    if plot is not None:
        from magnet_cli.evaluation.plots import Panel, draw_intervals

        panels = [Panel(question, of) for question, of in found.ratings.items()]
        draw_intervals(plot, list(next(iter(found.ratings.values()))), panels, found.title)
        voice.note(f"Drew {plot}")
    say_faults([("", fault) for fault in found.faults], voice)
