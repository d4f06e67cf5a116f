"""`magnet config`: shows the defaults in effect and where they come from."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from magnet_cli.cli import configuration
from magnet_cli.cli.settings import TalkOptions, complete_profile, takes_flags
from magnet_cli.cli.talk import Talk, printable

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet config
    magnet config --profile game-loop
    "${EDITOR:-vi}" "$(magnet config --path)"
"""


@app.command("config", epilog=EXAMPLES)
@takes_flags
def config(
    named: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            envvar="MAGNET_PROFILE",
            help="Show the defaults with a profile.",
            autocompletion=complete_profile,
        ),
    ] = None,
    path: Annotated[
        bool, typer.Option("--path", help="Print the path of config.toml only.")
    ] = False,
    *,
    talk: TalkOptions,
) -> None:
    """Show the defaults in effect and where they come from.

    Flags take precedence over the environment, then come profiles, then the rest of config.toml. The file
    sets flags by name (`lufs = -16`), and profiles as tables (`[profile.drums]`).
    """
    voice = Talk(talk)
    file = configuration.folder() / configuration.FILE
    if path:
        voice.data({"path": str(file)})
        if not voice.json:
            voice.print(str(file))
        return
    found = configuration.read()
    held = configuration.layered(found, named)
    model = configuration.default_model()
    if "model" not in held and model is not None and named != configuration.NO_PROFILE:
        held = {"model": configuration.Held(model, "settings.json"), **held}
    if os.environ.get("MAGNET_MODEL"):
        held["model"] = configuration.Held(os.environ["MAGNET_MODEL"], "MAGNET_MODEL")
    profiles = {**configuration.SHIPPED, **found.profiles}
    voice.data(
        {
            "path": str(file),
            "exists": file.exists(),
            "profile": named,
            "holds": {name: vars(each) for name, each in held.items()},
            "profiles": profiles,
            "problems": found.problems,
        }
    )
    for problem in found.problems:
        voice.warn(problem)
    if voice.json:
        return
    absent = "" if file.exists() else " (does not exist)"
    voice.print(f"{printable(str(file))}{absent}\n")
    rows = [(_flag(name), _text(each.value), each.source) for name, each in held.items()]
    for row in rows or [("nothing", "", "every flag has its built-in default")]:
        voice.print(f"  {row[0]:<20}  {printable(row[1]):<20}  {printable(row[2])}".rstrip())
    voice.print("\nProfiles:\n")
    for name, own in sorted(profiles.items()):
        shipped = "" if name in found.profiles else "  (shipped)"
        values = ", ".join(f"{_flag(each)} {_text(value)}" for each, value in own.items())
        voice.print(f"  {printable(name):<20}  {printable(values)}{shipped}")


def _flag(name: str) -> str:
    """A setting's name in the file and on the command line."""
    return configuration.settable()[name].names[0].removeprefix("--")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
