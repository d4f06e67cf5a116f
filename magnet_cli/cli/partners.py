"""More than one model on the command line: loading them, what is said of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from magnet_cli.cli.output import Talk
from magnet_cli.cli.settings import ModelOptions, PartnerOptions
from magnet_cli.settings import DecodingConfig

if TYPE_CHECKING:
    from magnet_cli.models.parts import Parts
    from magnet_cli.partners import Partners
    from magnet_cli.pipeline import Pipeline


def load_partners(
    options: PartnerOptions,
    place: ModelOptions,
    model: Pipeline,
    config: DecodingConfig,
    frames: int | None,
    talk: Talk,
) -> Partners:
    """Load the models that were named, on the device of `model`, and say what they are for.

    Args:
        options: the names.
        place: how the asked model was loaded.
        model: the asked model.
        config: the settings that were given.
        frames: length of the clips; None: the segment.
        talk: where to say it.

    Raises:
        MagnetError: one cannot be loaded, or does not fit.
    """
    from magnet_cli.cli.loading import load
    from magnet_cli.partners import gather
    from magnet_cli.request import check_hybrid

    if config.hybrid is not None:
        check_hybrid(config.hybrid, frames, model.lm.config)
    loaded: dict[str, Parts] = {}

    def load_beside(name: str) -> Parts:
        if name not in loaded:
            there = dataclasses.replace(
                place, model=name, device=str(model.device), dtype=model.dtype
            )
            loaded[name] = load(there, talk).parts
        return loaded[name]

    partners = gather(model.parts, config, options.rescorer, options.hybrid_model, load_beside)
    if partners.hybrid_model is not None and model.modeling == "masked":
        talk.note(
            f"{partners.hybrid_model.name} writes the start, {model.name} the rest: an "
            "approximation of hybrid decoding, as neither was trained for it."
        )
    return partners


def folders(options: PartnerOptions, place: ModelOptions) -> dict[str, str]:
    """The models that were named as folders, by their part in decoding."""
    from magnet_cli.cli.loading import source_of

    names = {"rescorer": options.rescorer, "hybrid_model": options.hybrid_model}
    found = {
        part: source_of(dataclasses.replace(place, model=name))
        for part, name in names.items()
        if name is not None
    }
    return {part: folder for part, folder in found.items() if folder is not None}
