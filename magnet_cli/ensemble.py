"""More than one model for one clip: a rescorer beside it, an autoregressive model before it.

`Model.generate` takes both as arguments. This module checks that the models fit together, and
hands their sessions to the decoding loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from magnet_cli.checkpoints.compat import same_codec
from magnet_cli.decoding import hybrid, iterative, resolving
from magnet_cli.decoding.contracts import Decoding, OnStep, Rescore, Sessions
from magnet_cli.decoding.iterative import rescoring
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.errors import UsageError
from magnet_cli.models.session import RescorerSession
from magnet_cli.request import GenerationRequest
from magnet_cli.settings import RESCORER_ONLY, DecodingConfig, required

if TYPE_CHECKING:
    from magnet_cli.pipeline import Model

# What `rescorer` takes for a hybrid-trained model's own causal mode.
SELF = "self"


@dataclass(frozen=True)
class Ensemble:
    """The models that take part in decoding beside the one that was asked."""

    rescorer: Model | None = None  # scores the sampled codes; may be the asked one itself
    hybrid_model: Model | None = None  # writes the first seconds; None: the asked one does

    def __bool__(self) -> bool:
        return self.rescorer is not None or self.hybrid_model is not None

    def describe(self, model: Model) -> dict[str, Any]:
        """Who took part, as JSON-able values."""
        parts = {"rescorer": self.rescorer, "hybrid_model": self.hybrid_model}
        return {
            part: {"model": SELF} if other is model else _identity(other)
            for part, other in parts.items()
            if other is not None
        }


ALONE = Ensemble()


def gather(
    model: Model,
    config: DecodingConfig,
    rescorer: Model | str | None,
    hybrid_model: Model | str | None,
    load: Callable[[str], Model],
) -> Ensemble:
    """Check what was asked for, and load what was given by name.

    Args:
        model: the model that was asked.
        config: the settings as given.
        rescorer: a model, its name, or `self`.
        hybrid_model: a model or its name.
        load: from a name to a model.

    Raises:
        UsageError: a model is missing, of the wrong kind, or of another codec.
        MagnetError: whatever `load` raises.
    """
    stranded = sorted(RESCORER_ONLY & config.given().keys())
    if rescorer is None and stranded and model.modeling != "autoregressive":
        raise UsageError(
            f"{' and '.join(stranded)} asks for a rescorer, but none is named.",
            "Name one with --rescorer MODEL"
            + (", or --rescorer self." if model.modeling == "hybrid" else "."),
        )
    for flag, other in (("rescorer", rescorer), ("hybrid_model", hybrid_model)):
        if other is not None and model.modeling == "autoregressive":
            raise UsageError(
                f"{flag} cannot be used with {model.name}: it decodes step by step.",
                "Leave it out, or choose another model.",
            )
    if hybrid_model is model:
        hybrid_model = None  # a hybrid-trained model writes itself; a masked one is refused below
    _check_hybrid(model, config.over(model.defaults).hybrid, hybrid_model)
    if rescorer is not None and config.over(model.defaults).span_order == "spread":
        raise UsageError(
            "A rescorer helps to decide which spans are masked again, and their places decide here.",
            "Add --span-order certainty, or leave the rescorer out.",
        )
    if rescorer == SELF:
        if model.modeling == "masked":
            raise UsageError(
                f"{model.name} cannot be its own rescorer: it was not trained to write step by step.",
                "Name another model with the same codec, such as --rescorer facebook/musicgen-small.",
            )
        rescorer = model
    return Ensemble(
        _partner(model, rescorer, "rescorer", load),
        _partner(model, hybrid_model, "hybrid model", load),
    )


def _check_hybrid(model: Model, seconds: float | None, hybrid_model: Model | str | None) -> None:
    if hybrid_model is not None and not seconds:
        raise UsageError(
            "A hybrid model is named, but no seconds for it to write.", "Say how many: --hybrid 2."
        )
    if hybrid_model is None and seconds and model.modeling == "masked":
        raise UsageError(
            f"{model.name} cannot write the first seconds itself: it was not trained to.",
            "Name an autoregressive model with the same codec, such as "
            "--hybrid-model facebook/musicgen-small.",
        )


def _partner(
    model: Model, given: Model | str | None, role: str, load: Callable[[str], Model]
) -> Model | None:
    """The model behind a name, which must fit."""
    if given is None:
        return None
    other = load(given) if isinstance(given, str) else given
    if other.modeling == "masked":
        raise UsageError(
            f"{other.name} cannot be the {role}: it fills masks, and does not write step by step.",
            "Take an autoregressive or hybrid model, such as facebook/musicgen-small.",
        )
    if other is model:
        return other
    comparison = same_codec(model.codec, other.codec)
    if not comparison:
        raise UsageError(
            f"{other.name} cannot be the {role} of {model.name}: they have different codecs. "
            f"{comparison.differences[0]}",
            "Their codes do not mean the same. Take a model that was made with the same codec.",
        )
    if other.device != model.device:
        raise UsageError(
            f"{other.name} is on {other.device}, {model.name} on {model.device}.",
            "Load both on one device.",
        )
    return other


def decode(
    model: Model,
    ensemble: Ensemble,
    request: GenerationRequest,
    sessions: Sessions,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Codes int64 [B, K, T] of a request to a masked or hybrid model, with what helps it.

    `sessions` are the model's own; a helper reads the texts of the request.

    Raises:
        UsageError: a helper was trained on shorter clips than it is asked to read.
    """
    config, lm = request.config, model.lm
    known = request.known_codes.to(model.device), request.known_mask.to(model.device)
    decoding = Decoding(
        config,
        lm.config.mask_id,
        make_generators(request.seeds),
        _rescore(ensemble.rescorer, request),
        on_step,
        lm.config.stage_streams,
    )
    if not request.hybrid_frames:
        return iterative.decode(sessions.masked(), *known, decoding)
    writer, writing = model, sessions
    if ensemble.hybrid_model is not None:
        writer = ensemble.hybrid_model
        _check_length(writer, request.hybrid_frames)
        writing = writer.sessions(request.prompts, request.negative_prompts)
    # A hybrid-trained model reads its prefix as it was trained to, whoever wrote it.
    own_rows = model.modeling == "hybrid" and writer.lm.pattern == lm.pattern
    prefix = hybrid.Prefix(writer.lm.pattern, request.hybrid_frames, diagonal=own_rows)
    return hybrid.decode(
        writing.causal(),
        sessions.masked(prefix.rows if own_rows else 0),
        *known,
        decoding,
        prefix=prefix,
        prefix_config=prefix_config(model, ensemble, config),
    )


def prefix_config(model: Model, ensemble: Ensemble, config: DecodingConfig) -> DecodingConfig:
    """How the first seconds of a clip with `config`, every field given, are written."""
    writer = model if ensemble.hybrid_model is None else ensemble.hybrid_model
    own = writer.defaults if writer.modeling == "autoregressive" else DecodingConfig()
    return resolving.for_prefix(config, own)


def _rescore(rescorer: Model | None, request: GenerationRequest) -> Rescore | None:
    weight = required(request.config.rescorer_weight)
    if rescorer is None or weight == 1:
        return None
    _check_length(rescorer, request.frames)
    conditions, _ = rescorer.conditions(request.prompts, (None,) * len(request.prompts))
    session = RescorerSession(rescorer.lm, conditions)
    return rescoring(session, weight, required(request.config.rescore_streams))


def _check_length(model: Model, frames: int) -> None:
    if frames > model.segment_frames:
        raise UsageError(
            f"{model.name} was trained on {model.segment_duration:g} s, and is asked to read "
            f"{frames / model.frame_rate:g} s.",
            "Make the clip shorter, or take a model that was trained on longer ones.",
        )


def _identity(model: Model) -> dict[str, Any]:
    checkpoint = model.checkpoint
    return {
        "model": model.name,
        "repo": checkpoint.repo,
        "revision": checkpoint.revision,
    }
