"""`magnet models`: lists, downloads, converts, chooses and removes models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from magnet_cli.checkpoints import hub, registry
from magnet_cli.checkpoints.place import Place, find_place, folder_of
from magnet_cli.cli import inventory
from magnet_cli.cli.configuration import default_model, set_default_model
from magnet_cli.cli.help import Group
from magnet_cli.cli.loading import loading, say_licence
from magnet_cli.cli.settings import TalkOptions, complete_model, takes_flags
from magnet_cli.cli.talk import Talk, printable
from magnet_cli.errors import MagnetError, ModelNotFoundError, UsageError
from magnet_cli.fields import panel
from magnet_cli.files import write_error

app = typer.Typer(
    name="models",
    cls=Group,
    no_args_is_help=True,
    help="List, fetch, convert and choose models.",
    rich_markup_mode="markdown",
)

_merge = panel("Model")


@dataclass(frozen=True)
class MergeOptions:
    """Flags for adapters to merge."""

    lora: tuple[str, ...] = _merge(
        "A LoRA: its folder or file, and its scale, such as rain:0.7. May be given several times.",
        (),
        metavar="FILE[:SCALE]",
    )


Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name, hub id or folder.", autocompletion=complete_model),
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace a model in the folder.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]


@app.command("list", epilog="Example:\n\n    magnet models list --json | jq -r .name")
@takes_flags
def list_models(*, talk: TalkOptions) -> None:
    """List models: built in, cached and known. * marks the default."""
    voice = Talk(talk)
    entries = inventory.inventory()
    default = _default()
    if default is not None and not any(entry.is_called(default) for entry in entries):
        try:
            entries.append(inventory.in_folder(default))
        except MagnetError as error:
            voice.warn(f"The default model {default} is not available: {error}")
    for entry in entries:
        voice.data({**entry.record(), "default": entry.is_called(default)})
    if talk.json:
        return
    rows: list[tuple[str, ...]] = [("", "NAME", "STATUS", "SIZE", "SECONDS", "KIND", "LICENCE")]
    rows += [_row(entry, default) for entry in entries]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        voice.print("  ".join(cells).rstrip())
    voice.note("Download one with `magnet models pull NAME`; details: `magnet models info NAME`.")


@app.command("info", epilog="Example:\n\n    magnet models info small")
@takes_flags
def info(name: Name, *, talk: TalkOptions) -> None:
    """Show a model's facts: size, licence, decoding defaults, location of its files."""
    voice = Talk(talk)
    plain, _, revision = name.partition("@")
    known = registry.find(plain)
    entry = inventory.entry_of(known, revision) if known else inventory.find_cached(name)
    if entry is None:
        entry = inventory.in_folder(name)
        known = entry.known
    voice.data({**entry.record(), "default": entry.is_called(_default())})
    if talk.json:
        return
    lines = [("Name", entry.name), ("Repository", entry.repo or "none"), ("Status", entry.status)]
    if known is not None:
        encoder = known.text_encoder
        here = encoder is None or inventory.text_encoder_here(encoder)
        lines += [
            ("Also called", ", ".join(known.aliases)),
            ("Licence", known.licence or "unknown"),
            (
                "Makes",
                f"{known.kind or 'sound'}, {known.segment_duration:g} s at {known.sample_rate} Hz",
            ),
            ("Decoding", known.modeling),
            ("Parameters", f"{known.parameters / 1e6:.0f} million"),
            ("Text encoder", f"{encoder or 'its own'}{'' if here else ' (not here)'}"),
            ("Defaults", ", ".join(f"{k} {v}" for k, v in known.decoding.given().items())),
        ]
    size = "Download" if entry.status == "not here" else "Size"
    lines += [(size, _megabytes(entry.size)), ("Revision", entry.revision or "")]
    lines.append(("Files", str(entry.directory or "")))
    for label, value in lines:
        if value:
            voice.print(f"{label:<14}{printable(value)}")


@app.command("pull", epilog="Example:\n\n    magnet models pull small")
@takes_flags
def pull(name: Name, *, talk: TalkOptions) -> None:
    """Download a model with its codec and text encoder, for offline use.

    Files that are already here are checked, and downloaded again if damaged.
    """
    voice = Talk(talk)
    resolved = _resolve(name, voice, offline=False, repair=True)
    if resolved.repo is not None:
        say_licence(resolved.repo, resolved.known.licence if resolved.known else None, voice)
    voice.note(f"{resolved.name} is here: {resolved.directory}")
    voice.data(
        {
            "name": resolved.name,
            "repo": resolved.repo,
            "revision": resolved.revision,
            "directory": str(resolved.directory),
        }
    )


@app.command("import", epilog="Example:\n\n    magnet models import small models/small")
@takes_flags
def import_model(
    name: Name,
    folder: Folder,
    force: Force = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Precision of the language model to write: float32, float16, bfloat16, or int8, which "
            "is a quarter of the size and cannot be turned back. Default: as stored.",
            show_default=False,
        ),
    ] = None,
    offline: Offline = False,
    *,
    talk: TalkOptions,
) -> None:
    """Convert a released model into magnet's own format: one folder with all its parts, no pickles."""
    from magnet_cli.checkpoints.load import import_checkpoint

    voice = Talk(talk)
    resolved = _resolve(name, voice, offline)
    _writing(folder, lambda: import_checkpoint(resolved, folder, force, dtype))
    voice.note(f"Imported into {folder}. Use it: magnet gen -m {_as_path(folder)} PROMPT")
    voice.data({"name": resolved.name, "directory": str(folder)})


@app.command(
    "merge", epilog="Example:\n\n    magnet models merge small --lora rain:0.7 models/rainy"
)
@takes_flags
def merge(
    name: Name,
    folder: Folder,
    force: Force = False,
    offline: Offline = False,
    *,
    merged: MergeOptions,
    talk: TalkOptions,
) -> None:
    """Write a model with LoRAs merged into it: one folder, which plays as any other.

    What `--lora` does each time that a model is loaded, done once.
    """
    from magnet_cli.checkpoints.load import merge_checkpoint
    from magnet_cli.checkpoints.loras import parse_lora

    voice = Talk(talk)
    if not merged.lora:
        raise UsageError("There is nothing to merge.", "Name a LoRA: --lora FILE[:SCALE].")
    loras = [parse_lora(text).check() for text in merged.lora]
    resolved = _resolve(name, voice, offline)
    _writing(folder, lambda: merge_checkpoint(resolved, loras, folder, overwrite=force))
    voice.note(f"Merged into {folder}. Use it: magnet gen -m {_as_path(folder)} PROMPT")
    voice.data({"name": resolved.name, "directory": str(folder), "lora": list(map(str, loras))})


@app.command("export", epilog="Example:\n\n    magnet models export models/mine released/mine")
@takes_flags
def export_model(
    name: Name, folder: Folder, offline: Offline = False, *, talk: TalkOptions
) -> None:
    """Convert a model into the released layout, which other MAGNeT programs can read."""
    from magnet_cli.checkpoints.load import export_checkpoint

    voice = Talk(talk)
    resolved = _resolve(name, voice, offline)
    _writing(folder, lambda: export_checkpoint(resolved, folder))
    voice.note(f"Exported into {folder}.")
    voice.data({"name": resolved.name, "directory": str(folder)})


@app.command(
    "use", epilog="Examples:\n\n    magnet models use small\n    magnet models use --reset"
)
@takes_flags
def use(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Name, hub id or folder.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the built-in model.")] = False,
    *,
    talk: TalkOptions,
) -> None:
    """Set the default model. --model and MAGNET_MODEL take precedence."""
    voice = Talk(talk)
    if (name is None) != reset:
        current = default_model()
        raise UsageError(
            "Give a model's name, or --reset.",
            f"The default is now {current!r}." if current else "No default is set.",
        )
    chosen = None if name is None else _checked(name)
    set_default_model(chosen)
    voice.note("The built-in model is the default." if chosen is None else f"Default: {chosen}")
    _say_missing(chosen, voice)
    voice.data({"model": chosen})


@app.command("remove", epilog="Example:\n\n    magnet models remove small --yes")
@takes_flags
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    *,
    talk: TalkOptions,
) -> None:
    """Delete a model from the hub's cache. Its text encoder stays: other models use it."""
    voice = Talk(talk)
    plain, _, revision = name.partition("@")
    known = registry.find(plain)
    if known is not None and known.repo is None:
        raise UsageError(f"{known.name} is built in.", "Only downloaded models can be removed.")
    entry = inventory.entry_of(known, revision) if known else inventory.find_cached(name)
    if entry is None or entry.repo is None or entry.directory is None:
        if known is None and "/" not in name:
            raise registry.unknown_name(name)
        raise ModelNotFoundError(f"{name} is not in the cache.", "See `magnet models list`.")
    chosen = f"{entry.repo}@{entry.revision}" if revision else entry.repo
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(
                f"Removing {chosen} needs a confirmation.",
                "Add --yes, as stdin is no terminal.",
            )
        typer.confirm(
            f"Delete {chosen} ({_megabytes(entry.size)}) from {entry.directory.parent.parent}?",
            abort=True,
            err=True,
        )
    freed = inventory.delete(entry.repo, entry.revision if revision else None)
    voice.note(f"Removed {chosen}: {_megabytes(freed)} freed.")
    voice.data({"repo": entry.repo, "freed": freed})


def _resolve(name: str, voice: Talk, offline: bool, repair: bool = False) -> Place:
    with loading(voice, name) as on_download:
        return find_place(name, offline=offline, progress=on_download, repair=repair)


def _default() -> str | None:
    """The default model, or None. Raises UsageError if the preferences cannot be read."""
    chosen = os.environ.get("MAGNET_MODEL") or default_model()
    return chosen or next((e.name for e in registry.known_checkpoints() if e.repo is None), None)


def _say_missing(name: str | None, voice: Talk) -> None:
    """Report what a chosen model still has to download, if anything."""
    plain, _, revision = (name or "").partition("@")
    known = registry.find(plain) if plain else None
    entry = None if known is None else inventory.entry_of(known, revision or "main")
    if known is not None and entry is not None and entry.status in ("not here", "incomplete"):
        missing = "Some of its files are" if entry.status == "incomplete" else "It is"
        voice.note(
            f"{missing} not downloaded yet: the next clip downloads "
            f"{inventory.download_size(known) / 1e9:.1f} GB. To do so now: magnet models pull {name}"
        )


def _checked(name: str) -> str:
    """A name to store: folders as absolute paths, other names unchanged.
    Raises ModelNotFoundError if it is no known name, no folder and no valid hub id."""
    plain = name.partition("@")[0]
    if registry.find(plain) is not None:
        return name
    folder = folder_of(name)
    if folder is not None:
        inventory.in_folder(str(folder.resolve()))
        return str(folder.resolve())
    if "/" in plain and hub.is_repo_id(plain):
        return name
    raise registry.unknown_name(name)


def _writing(folder: Path, write: Callable[[], None]) -> None:
    """Call `write`; an OSError is raised as `write_error` words it."""
    try:
        write()
    except OSError as error:
        raise write_error(folder, error) from error


def _row(entry: inventory.Entry, default: str | None) -> tuple[str, ...]:
    known = entry.known
    return (
        "*" if entry.is_called(default) else "",
        printable(entry.name),
        entry.status,
        _megabytes(entry.size),
        f"{known.segment_duration:g}" if known is not None else "",
        (known.kind or "") if known is not None else "",
        printable(known.licence or "") if known is not None else "",
    )


def _as_path(folder: Path) -> str:
    """A folder as a value of `--model`, with ./ where it could be taken for a name."""
    text = str(folder)
    return text if text.count("/") > 1 or text.startswith((".", "~", "/")) else f"./{text}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
