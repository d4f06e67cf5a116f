"""Which model a command uses, and loading it: chosen, default or built in; its licence said once."""

from __future__ import annotations

import importlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.checkpoints import registry
from magnet_cli.cli import preferences
from magnet_cli.cli.output import Talk
from magnet_cli.cli.progress import loading
from magnet_cli.cli.settings import ModelOptions
from magnet_cli.errors import ModelNotFoundError

if TYPE_CHECKING:
    from magnet_cli.api import Model

_LICENCES = {
    "CC-BY-NC-4.0": "CC-BY-NC 4.0: no commercial use "
    "(https://creativecommons.org/licenses/by-nc/4.0/)",
}


def load(options: ModelOptions, talk: Talk) -> Model:
    """Load the model that the options, the environment or the preferences name, or the built-in one.

    Raises:
        MagnetError: whatever `load_model` raises, or that there is nothing to load.
    """
    name = choose(options, talk)
    refuse_unknown(name)
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
        )
    if model.parts.repo is not None:
        say_licence(model.parts.repo, model.parts.licence, talk)
    # The loudness meter takes a second to import (scipy.signal does): while the model decodes,
    # which leaves Python idle, that costs nothing.
    threading.Thread(target=importlib.import_module, args=("pyloudnorm",), daemon=True).start()
    return model


def choose(options: ModelOptions, talk: Talk) -> str:
    """The model's name: --model, MAGNET_MODEL (typer has read it), `models use`, built in.

    Raises:
        ModelNotFoundError: nothing was chosen, and nothing is built in.
    """
    chosen = options.model or preferences.default_model()
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


def refuse_unknown(name: str) -> None:
    """Refuse a name that cannot be a model's before torch is imported to look for it.

    Raises:
        ModelNotFoundError: it is neither a known name, nor written as a hub id or a path.
    """
    plain = name.partition("@")[0]
    if "/" in plain or os.sep in plain or registry.find(plain) is not None:
        return
    try:
        if Path(name).expanduser().is_dir():
            return
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, no such user
        raise registry.unknown_name(name) from error
    raise registry.unknown_name(name)


def source_of(options: ModelOptions) -> str | None:
    """The folder that the model is in, as the user named it; None for names and hub ids."""
    name = options.model or preferences.default_model()
    if name is None or registry.find(name.partition("@")[0]) is not None:
        return None
    return name if Path(name).expanduser().is_dir() else None


def say_licence(repo: str, licence: str | None, talk: Talk) -> None:
    """Say the licence of a downloaded model's weights, the first time that it is met."""
    if licence is not None and preferences.note_licence(repo):
        talk.note(f"The weights of {repo} are licensed {_LICENCES.get(licence, licence)}.")
