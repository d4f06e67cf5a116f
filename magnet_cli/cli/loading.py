"""Which model a command uses, and loading it: chosen, default or built in; its licence said once."""

from __future__ import annotations

import dataclasses
import importlib
import threading
from typing import TYPE_CHECKING

from magnet_cli.checkpoints import registry
from magnet_cli.checkpoints.place import check_name
from magnet_cli.cli import preferences
from magnet_cli.cli.output import Talk
from magnet_cli.cli.progress import loading
from magnet_cli.cli.settings import ModelOptions, PartnerOptions
from magnet_cli.errors import ModelNotFoundError
from magnet_cli.settings import DecodingConfig

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
    check_name(name)  # before torch is imported to look for it
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
                place, model=name, device=str(model.device), dtype=model.dtype
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
    if licence is not None and preferences.note_licence(repo):
        talk.note(f"The weights of {repo} are licensed {_LICENCES.get(licence, licence)}.")
