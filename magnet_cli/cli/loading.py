"""Which model a command uses, and loading it: chosen, default or built in; its licence said once.

What is remembered between runs (the default model, which licences were said) is one small JSON file in
the user's configuration folder, which is read and written by commands alone.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli.checkpoints import registry
from magnet_cli.checkpoints.loras import parse_lora
from magnet_cli.checkpoints.place import check_name
from magnet_cli.cli.progress import shortened
from magnet_cli.cli.settings import ModelOptions, PartnerOptions
from magnet_cli.cli.talk import Talk, printable, stdout_is_terminal
from magnet_cli.errors import MagnetError, ModelNotFoundError, UsageError
from magnet_cli.files import atomic_path
from magnet_cli.foreign import reading
from magnet_cli.settings import DecodingConfig

if TYPE_CHECKING:
    from rich.progress import TaskID

    from magnet_cli.api import Model
    from magnet_cli.checkpoints.hub import Progress as Download

_LICENCES = {
    "CC-BY-NC-4.0": "CC-BY-NC 4.0: no commercial use "
    "(https://creativecommons.org/licenses/by-nc/4.0/)",
}
_PLAIN_SECONDS = 15.0  # between two plain lines of one download


def load(options: ModelOptions, talk: Talk) -> Model:
    """Load the model that the options, the environment or the preferences name, or the built-in one.

    Raises:
        MagnetError: whatever `load_model` raises, or that there is nothing to load.
    """
    name = choose(options, talk)
    check_name(name)  # before torch is imported to look for it
    loras = [parse_lora(text).check() for text in options.lora]
    _check_memory()
    with loading(talk, name) as on_download:
        import torch

        from magnet_cli.api import load_model

        if options.threads is not None:
            torch.set_num_threads(options.threads)
        model = load_model(
            name,
            device=options.device,
            dtype=options.dtype,
            offline=options.offline,
            progress=on_download,
            lora=loras,
        )
    if model.parts.repo is not None:
        say_licence(model.parts.repo, model.parts.licence, talk)
    return model


def choose(options: ModelOptions, talk: Talk) -> str:
    """The model's name: --model, MAGNET_MODEL (typer has read it), `models use`, built in.

    Raises:
        ModelNotFoundError: nothing was chosen, and nothing is built in.
    """
    chosen = options.model or default_model(talk)
    if chosen:
        return chosen
    builtin = [entry.name for entry in registry.known_checkpoints() if entry.repo is None]
    if not builtin:
        raise ModelNotFoundError(
            "No model was chosen, and none is built into this version.",
            "Choose one: `magnet gen -m small PROMPT` (downloads about 2 GB, once), or set it for "
            "good with `magnet models use small`. `magnet models list` shows all.",
        )
    talk.note(
        f"Using the built-in model {builtin[0]}. For a released one (about 2 GB): "
        "magnet gen -m small PROMPT"
    )
    return builtin[0]


def load_partners(
    options: PartnerOptions,
    place: ModelOptions,
    model: Model,
    config: DecodingConfig,
    frames: int | None,
    talk: Talk,
) -> dict[str, Model | None]:
    """Load the partners that were named, on the device of `model`, and say what they are for.

    Args:
        options: the names.
        place: how the asked model was loaded.
        model: the asked model.
        config: the settings that were given.
        frames: length of the clips; None: the segment.
        talk: where to say it.

    Returns:
        What `Model.generate` takes as `rescorer` and `hybrid_model`.

    Raises:
        MagnetError: one cannot be loaded, or does not fit.
    """
    from magnet_cli.models.parts import Parts
    from magnet_cli.partners import SELF, gather
    from magnet_cli.request import check_hybrid

    if config.hybrid is not None:
        check_hybrid(config.hybrid, frames, model.lm.config)
    loaded: dict[str, Model] = {SELF: model}

    def load_beside(name: str) -> Parts:
        if name not in loaded:
            there = dataclasses.replace(
                place, model=name, device=str(model.device), dtype=model.dtype, lora=()
            )
            loaded[name] = load(there, talk)
        return loaded[name].parts

    partners = gather(model.parts, config, options.rescorer, options.hybrid_model, load_beside)
    if partners.hybrid_model is not None and model.modeling == "masked":
        talk.note(
            f"{partners.hybrid_model.name} writes the start, {model.name} the rest: an "
            "approximation of hybrid decoding, as neither was trained for it."
        )
    names = {"rescorer": options.rescorer, "hybrid_model": options.hybrid_model}
    return {role: None if name is None else loaded[name] for role, name in names.items()}


def say_licence(repo: str, licence: str | None, talk: Talk) -> None:
    """Say the licence of a downloaded model's weights, the first time that it is met."""
    if licence is not None and note_licence(repo):
        talk.note(f"The weights of {repo} are licensed {_LICENCES.get(licence, licence)}.")


def preferences_path() -> Path:
    """Where the file is."""
    import platformdirs

    return Path(platformdirs.user_config_dir("magnet", appauthor=False)) / "settings.json"


def default_model(talk: Talk | None = None) -> str | None:
    """What `magnet models use` set; None, and a warning, where the file cannot be read: nothing of it
    is needed."""
    try:
        name = _read().get("model")
    except UsageError as error:
        if talk is not None:
            talk.warn(f"{error.message} Its default model is not used. {error.hint}")
        return None
    return name if isinstance(name, str) else None


def set_default_model(name: str | None) -> None:
    """Set the default model; None forgets it. Raises MagnetError: the file cannot be written."""
    settings = _read()
    settings.pop("model", None)
    _write(settings if name is None else {**settings, "model": name})


_LEAST_MEMORY = (
    600_000_000  # bytes of addresses that torch takes before any model; with less it aborts
)


def _check_memory() -> None:
    """Refuse a limit of memory (`ulimit -v`) under which torch would end the process without a word."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limits
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY and most < _LEAST_MEMORY:
        raise MagnetError(
            f"This process may use {most / 1e6:.0f} MB of memory, and torch alone takes more.",
            "Raise the limit: ulimit -v unlimited",
        )


def note_licence(repo: str) -> bool:
    """Note that the licence of `repo` is being said; whether this is the first time."""
    try:
        settings = _read()
        noted = settings.get("licences_said")
        said = (
            [entry for entry in noted if isinstance(entry, str)] if isinstance(noted, list) else []
        )
        if repo in said:
            return False
        _write({**settings, "licences_said": [*said, repo]})
    except MagnetError:
        pass  # it cannot be noted, so it is said again
    return True


def _read() -> dict[str, Any]:
    path = preferences_path()
    try:
        text = reading.read_text(path)
        settings = reading.json_of(text) if text.strip() else {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}.", "Check its permissions, or delete it."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} holds no JSON.", "Mend it, or delete it.") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} holds no settings.", "Delete it.")
    return settings


def _write(settings: dict[str, Any]) -> None:
    path = preferences_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise MagnetError(
            f"{path} cannot be written: {error.strerror}.", "Set MAGNET_MODEL instead."
        ) from error


@contextmanager
def loading(talk: Talk, name: str) -> Iterator[Callable[[Download], None]]:
    """Show that a model is being loaded, and each download that it takes: yields the hook for them."""
    name = shortened(name)
    if not talk.live:
        talk.note(f"Loading {name}")
        yield _plain_downloads(talk)
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    spinner = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), console=talk.console, transient=True
    )
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=talk.console,
        transient=True,
    )
    tasks: dict[tuple[str, str], TaskID] = {}

    def on_download(progress: Download) -> None:
        key = (progress.repo, progress.file)
        if key not in tasks:
            tasks[key] = bars.add_task(escape(printable(f"{progress.repo}: {progress.file}")))
        bars.update(tasks[key], completed=progress.done, total=progress.total)

    from rich.console import Group
    from rich.live import Live

    spinner.add_task(f"Loading {escape(printable(name))}")
    with Live(
        Group(spinner, bars),
        console=talk.console,
        transient=True,
        refresh_per_second=10,
        redirect_stdout=stdout_is_terminal(),
    ):
        yield on_download


def _plain_downloads(talk: Talk) -> Callable[[Download], None]:
    """A line when a download begins, now and then while it runs, and at its end."""
    said: dict[tuple[str, str], float] = {}

    def on_download(progress: Download) -> None:
        key, now = (progress.repo, progress.file), time.monotonic()
        complete = progress.total is not None and progress.done >= progress.total
        if key in said and not complete and now - said[key] < _PLAIN_SECONDS:
            return
        if said.get(key) == float("inf"):
            return
        said[key] = float("inf") if complete else now
        total = f" of {progress.total / 1e6:.0f}" if progress.total else ""
        talk.note(f"  {progress.repo}: {progress.file}: {progress.done / 1e6:.0f}{total} MB")

    return on_download
