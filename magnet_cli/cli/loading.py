"""Chooses and loads a command's model, with progress, and shows its licence once."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from magnet_cli.checkpoints import registry
from magnet_cli.checkpoints.loras import parse_lora
from magnet_cli.checkpoints.place import check_name, folder_of
from magnet_cli.cli.configuration import default_model, note_once
from magnet_cli.cli.progress import escaped, shortened
from magnet_cli.cli.settings import ModelOptions, PartnerOptions
from magnet_cli.cli.talk import Talk, printable, stdout_is_terminal
from magnet_cli.errors import MagnetError, ModelNotFoundError
from magnet_cli.foreign import reading
from magnet_cli.settings import DecodingConfig

if TYPE_CHECKING:
    from rich.progress import TaskID

    from magnet_cli.api import Model
    from magnet_cli.checkpoints.hub import Progress as Download

_LICENCES = {
    "CC-BY-NC-4.0": "CC-BY-NC 4.0: no commercial use "
    "(https://creativecommons.org/licenses/by-nc/4.0/)"
}
_PLAIN_SECONDS = 15.0  # between lines about one download without a terminal


def load(options: ModelOptions, talk: Talk) -> Model:
    """Load the model named by the options, the environment or config.toml, or the built-in one.
    Raises MagnetError: there is no model, or `load_model` failed."""
    name = choose(options, talk)
    check_name(name)  # before torch is imported to look for it
    loras = [parse_lora(text).check() for text in options.lora]
    _check_memory()
    with loading(talk, name) as on_download:
        import_torch(name, options.threads)
        from magnet_cli.api import load_model

        model = load_model(
            name,
            device=options.device,
            dtype=options.dtype,
            offline=options.offline,
            progress=on_download,
            lora=loras,
        )
    if (model.device.type, model.dtype) == ("cpu", "bfloat16"):
        from magnet_cli.models.precision import multiplies_bfloat16

        if options.dtype == "auto":
            talk.note(
                f"{shortened(model.name)} runs in bfloat16, which this CPU supports natively "
                "(--dtype float32 is slower and slightly more accurate)."
            )
        elif model.modeling != "autoregressive" and not multiplies_bfloat16():
            talk.warn(
                "This CPU converts every product in bfloat16, which takes twice to eight times as long: "
                "--dtype float32 and int8 are faster."
            )
    if model.parts.repo is not None:
        say_licence(model.parts.repo, model.parts.licence, talk)
    return model


_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which users set the number of threads
_FEW_PARAMETERS = 30e6  # below this, a second thread of a pass waits more than it works


def suit_threads(name: str) -> bool:
    """Give each pass of a small model one thread, unless torch is loaded or the user set their number.
    Returns whether it did, so that a pass may be computed on each core."""
    if "torch" in sys.modules or any(os.environ.get(variable) for variable in _COUNTS):
        return False
    if little := _is_little(name):
        os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded
    return little


def import_torch(name: str, threads: int | None, at_once: bool = True) -> None:
    """Import torch with threads that suit a model; `at_once`: whether passes may be computed at once."""
    at_once = threads is None and suit_threads(name) and at_once
    gc.disable()  # torch's objects stay: looking for garbage among them takes half a second until the exit
    import torch

    gc.freeze()
    gc.enable()
    if threads is not None:
        torch.set_num_threads(threads)
    if at_once:
        from magnet_cli.models.precision import available_cores
        from magnet_cli.models.session import compute_at_once

        compute_at_once(available_cores())


def _is_little(name: str) -> bool:
    """Whether a model is known to have few parameters: built in, or a folder that says so."""
    known = registry.find(name)
    folder = known.directory if known is not None and known.repo is None else folder_of(name)
    try:
        said = reading.read_object(folder / "config.json") if folder is not None else {}
        return 0 < float(said["parameters"]) < _FEW_PARAMETERS
    except (OSError, ValueError, TypeError, KeyError):
        return False  # loading reports what is wrong


def choose(options: ModelOptions, talk: Talk) -> str:
    """The model's name: from --model, MAGNET_MODEL, a profile or config.toml (all read by the parser), from
    an earlier version's settings.json, or the built-in one.
    Raises ModelNotFoundError: none was chosen and none is built in."""
    chosen = options.model or default_model(talk.warn)
    if chosen:
        return chosen
    builtin = [entry.name for entry in registry.known_checkpoints() if entry.repo is None]
    if not builtin:
        raise ModelNotFoundError(
            "No model was chosen, and none is built into this version.",
            "Choose one: `magnet gen -m small PROMPT` (downloads about 2 GB, once), or make it the "
            "default with `magnet models use small`. `magnet models list` shows all.",
        )
    if note_once("builtin_said", builtin[0]):
        talk.note(
            f"Using the built-in model {builtin[0]} (shown once). For a released model, which is about 2 GB, "
            f"use -m small; `magnet models use NAME` sets the default."
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
    """Load the named partners on the device of `model`, by the options `place`, and report their roles.

    Returns the arguments `rescorer` and `hybrid_model` of `Model.generate` for clips of `frames` frames.
    Raises MagnetError: one cannot be loaded, or does not fit."""
    from magnet_cli.models.parts import Parts
    from magnet_cli.request import check_hybrid
    from magnet_cli.resolving import SELF, gather

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
            f"{partners.hybrid_model.name} decodes the start, {model.name} the rest: an "
            "approximation of hybrid decoding, for which neither was trained."
        )
    names = {"rescorer": options.rescorer, "hybrid_model": options.hybrid_model}
    return {role: None if name is None else loaded[name] for role, name in names.items()}


def say_licence(repo: str, licence: str | None, talk: Talk) -> None:
    """Show the licence of a downloaded model's weights, once per model."""
    if licence is not None and note_once("licences_said", repo):
        talk.note(f"The weights of {repo} are licensed {_LICENCES.get(licence, licence)}.")


_LEAST_MEMORY = 600_000_000  # bytes of address space; torch alone aborts with less


def _check_memory() -> None:
    """Raise MagnetError if a memory limit (`ulimit -v`) would make torch abort without a message."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limits
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY and most < _LEAST_MEMORY:
        raise MagnetError(
            f"This process is limited to {most / 1e6:.0f} MB of memory, but torch alone needs more.",
            "Raise the limit: ulimit -v unlimited",
        )


@contextmanager
def loading(talk: Talk, name: str) -> Iterator[Callable[[Download], None]]:
    """Show that a model is being loaded; yields the callback for its downloads."""
    name = shortened(name)
    if not talk.live:
        talk.detail(f"Loading {name}")
        yield _plain_downloads(talk)
        return
    from rich.console import Group
    from rich.live import Live
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
            tasks[key] = bars.add_task(escaped(printable(f"{progress.repo}: {progress.file}")))
        bars.update(tasks[key], completed=progress.done, total=progress.total)

    spinner.add_task(f"Loading {escaped(printable(name))}")
    with Live(
        Group(spinner, bars),
        console=talk.console,
        transient=True,
        refresh_per_second=10,
        redirect_stdout=stdout_is_terminal(),
    ):
        yield on_download


def _plain_downloads(talk: Talk) -> Callable[[Download], None]:
    """Print a line when a download begins, at intervals, and at its end."""
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
