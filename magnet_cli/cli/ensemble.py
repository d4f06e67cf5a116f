"""More than one model on the command line: the flags, loading them, what is said of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from magnet_cli.cli.completion import complete_model
from magnet_cli.cli.decoding_options import parse_numbers
from magnet_cli.cli.options import ModelOptions, flag
from magnet_cli.cli.output import Talk
from magnet_cli.errors import UsageError
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig

if TYPE_CHECKING:
    from magnet_cli.ensemble import Ensemble
    from magnet_cli.pipeline import Model

_PANEL = "More than one model"


@dataclass(frozen=True)
class EnsembleOptions:
    """Models that take part beside the one that is asked."""

    rescorer: Annotated[
        str | None,
        flag(
            _PANEL,
            "--rescorer",
            metavar="NAME",
            help="An autoregressive or hybrid model with the same codec that helps decide which spans "
            "are masked again; `self`: a hybrid-trained model's own causal mode.",
            autocompletion=complete_model,
        ),
    ] = None
    rescorer_weight: Annotated[
        float | None,
        flag(
            _PANEL,
            metavar="W",
            help="The model's own share in that, from 0 (the rescorer alone) to 1 (no rescorer). "
            f"Default: {DECODING_DEFAULTS.rescorer_weight:g}.",
        ),
    ] = None
    rescore_streams: Annotated[
        str | None,
        flag(
            _PANEL,
            metavar="N,N,...",
            help="Streams to rescore, from 0. Default: all.",
        ),
    ] = None
    hybrid: Annotated[
        float | None,
        flag(
            _PANEL,
            metavar="SECONDS",
            help="Write the first seconds step by step, then fill in the rest. "
            "Default: the checkpoint's own, usually 0.",
        ),
    ] = None
    hybrid_temperature: Annotated[
        float | None,
        flag(
            _PANEL,
            metavar="X",
            help="Temperature of those seconds. Default: --temperature for a hybrid-trained model; "
            "else the checkpoint's own or the writing model's, usually 1.",
        ),
    ] = None
    hybrid_top_p: Annotated[
        float | None,
        flag(
            _PANEL,
            "--hybrid-top-p",
            metavar="P",
            help="Top-p of those seconds. Default: as for --hybrid-temperature, with --top-p.",
        ),
    ] = None
    hybrid_top_k: Annotated[
        int | None,
        flag(
            _PANEL,
            "--hybrid-top-k",
            metavar="K",
            help="Top-k of those seconds. Default: as for --hybrid-temperature, with --top-k.",
        ),
    ] = None
    hybrid_model: Annotated[
        str | None,
        flag(
            _PANEL,
            "--hybrid-model",
            metavar="NAME",
            help="What writes them: an autoregressive model with the same codec. "
            "A hybrid-trained model needs none.",
            autocompletion=complete_model,
        ),
    ] = None

    def over(self, config: DecodingConfig) -> DecodingConfig:
        """`config` with the settings that were given here.

        Raises:
            UsageError: a value cannot be used.
        """
        given = DecodingConfig(
            rescorer_weight=self.rescorer_weight,
            rescore_streams=parse_numbers(self.rescore_streams, "--rescore-streams", "0,1"),
            hybrid=self.hybrid,
            hybrid_temperature=self.hybrid_temperature,
            hybrid_top_p=self.hybrid_top_p,
            hybrid_top_k=self.hybrid_top_k,
        )
        if self.rescorer is None and (given.rescorer_weight is not None or given.rescore_streams):
            raise UsageError(
                "--rescorer-weight and --rescore-streams are for a rescorer, and none is named.",
                "Name one with --rescorer MODEL.",
            )
        return given.over(config)

    def refuse(self, what: str) -> None:
        """Refuse what cannot take part in `what`: a second model, and a beginning of another length.

        A hybrid-trained model's own beginning can: how it draws, and that there is none (`--hybrid 0`).

        Raises:
            UsageError: one was given.
        """
        own = dataclasses.replace(
            self,
            hybrid=self.hybrid or None,
            hybrid_temperature=None,
            hybrid_top_p=None,
            hybrid_top_k=None,
        )
        if dataclasses.asdict(own) != dataclasses.asdict(EnsembleOptions()):
            raise UsageError(
                f"{what} are made by one model, with its own way to begin or with none.",
                "Leave --rescorer, --hybrid-model and --hybrid (but for --hybrid 0) out here.",
            )


def load_ensemble(
    options: EnsembleOptions,
    place: ModelOptions,
    model: Model,
    config: DecodingConfig,
    frames: int | None,
    talk: Talk,
) -> Ensemble:
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
    from magnet_cli.ensemble import gather
    from magnet_cli.request import check_hybrid

    if config.hybrid is not None:
        check_hybrid(config.hybrid, frames, model.lm.config)
    loaded: dict[str, Model] = {}

    def load_beside(name: str) -> Model:
        if name not in loaded:
            there = dataclasses.replace(
                place, model=name, device=str(model.device), dtype=model.dtype
            )
            loaded[name] = load(there, talk)
        return loaded[name]

    ensemble = gather(model, config, options.rescorer, options.hybrid_model, load_beside)
    if ensemble.hybrid_model is not None and model.modeling == "masked":
        talk.note(
            f"{ensemble.hybrid_model.name} writes the start, {model.name} the rest: an "
            "approximation of hybrid decoding, as neither was trained for it."
        )
    return ensemble


def folders(options: EnsembleOptions, place: ModelOptions) -> dict[str, str]:
    """The models that were named as folders, by their part in decoding."""
    from magnet_cli.cli.loading import source_of

    names = {"rescorer": options.rescorer, "hybrid_model": options.hybrid_model}
    found = {
        part: source_of(dataclasses.replace(place, model=name))
        for part, name in names.items()
        if name is not None
    }
    return {part: folder for part, folder in found.items() if folder is not None}
