"""More than one model for one clip: a rescorer beside it, an autoregressive model before it.

Partners are loaded models that lend a decoding loop their logits. This module checks that they fit
the model that was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magnet_cli.decoding import resolving
from magnet_cli.errors import UsageError
from magnet_cli.models.codec import same_codec
from magnet_cli.models.parts import Parts
from magnet_cli.settings import RESCORER_ONLY, DecodingConfig

# What `rescorer` takes for a hybrid-trained model's own causal mode.
SELF = "self"


@dataclass(frozen=True)
class Partners:
    """The models that take part in decoding beside the one that was asked."""

    rescorer: Parts | None = None  # scores the sampled codes; may be the asked one itself
    hybrid_model: Parts | None = None  # writes the first seconds; None: the asked one does

    def __bool__(self) -> bool:
        return self.rescorer is not None or self.hybrid_model is not None

    def describe(self, asked: Parts) -> dict[str, Any]:
        """Who took part, as JSON-able values."""
        parts = {"rescorer": self.rescorer, "hybrid_model": self.hybrid_model}
        return {
            part: {"model": SELF} if other is asked else _identity(other)
            for part, other in parts.items()
            if other is not None
        }

    def prefix_config(self, config: DecodingConfig) -> DecodingConfig:
        """How the first seconds of a clip with `config`, every field given, are written."""
        own = DecodingConfig()
        writer = self.hybrid_model
        if writer is not None and writer.lm.config.modeling == "autoregressive":
            own = writer.defaults
        return resolving.for_prefix(config, own)


NONE = Partners()


def gather(
    asked: Parts,
    config: DecodingConfig,
    rescorer: Parts | str | None,
    hybrid_model: Parts | str | None,
    load: Callable[[str], Parts],
) -> Partners:
    """Check the partners of a model, and load what was given by name.

    Args:
        asked: the model that was asked.
        config: the settings as given.
        rescorer: a model, its name, or `self`.
        hybrid_model: a model or its name.
        load: from a name to a model.

    Raises:
        UsageError: a partner is missing, of the wrong kind, or of another codec.
        MagnetError: whatever `load` raises.
    """
    modeling = asked.lm.config.modeling
    stranded = sorted(RESCORER_ONLY & config.given().keys())
    if rescorer is None and stranded and modeling != "autoregressive":
        raise UsageError(
            f"{' and '.join(stranded)} asks for a rescorer, but none is named.",
            "Name one with --rescorer MODEL"
            + (", or --rescorer self." if modeling == "hybrid" else "."),
        )
    for flag, other in (("rescorer", rescorer), ("hybrid_model", hybrid_model)):
        if other is not None and modeling == "autoregressive":
            raise UsageError(
                f"{flag} cannot be used with {asked.name}: it decodes step by step.",
                "Leave it out, or choose another model.",
            )
    if hybrid_model is asked:
        hybrid_model = None  # a hybrid-trained model writes itself; a masked one is refused below
    seconds = asked.defaults.hybrid if config.hybrid is None else config.hybrid
    if hybrid_model is not None and not seconds:
        raise UsageError(
            "A hybrid model is named, but no seconds for it to write.", "Say how many: --hybrid 2."
        )
    if hybrid_model is None and seconds and modeling == "masked":
        raise UsageError(
            f"{asked.name} cannot write the first seconds itself: it was not trained to.",
            "Name an autoregressive model with the same codec, such as "
            "--hybrid-model facebook/musicgen-small.",
        )
    if rescorer == SELF:
        if modeling == "masked":
            raise UsageError(
                f"{asked.name} cannot be its own rescorer: it was not trained to write step by step.",
                "Name another model with the same codec, such as --rescorer facebook/musicgen-small.",
            )
        rescorer = asked
    return Partners(
        _fitting(asked, rescorer, "rescorer", load),
        _fitting(asked, hybrid_model, "hybrid model", load),
    )


def check_length(partner: Parts, frames: int) -> None:
    """Refuse to have a partner read more than it was trained on.

    Raises:
        UsageError: the clip of `frames` frames is longer.
    """
    trained_on = partner.lm.config
    if frames > trained_on.segment_frames:
        raise UsageError(
            f"{partner.name} was trained on {trained_on.segment_duration:g} s, and is asked to read "
            f"{frames / trained_on.frame_rate:g} s.",
            "Make the clip shorter, or take a model that was trained on longer ones.",
        )


def loras_of(parts: Parts) -> dict[str, Any]:
    """What a record says of the adapters in a model; nothing where there are none."""
    return {"lora": [dict(lora) for lora in parts.loras]} if parts.loras else {}


def _fitting(
    asked: Parts, given: Parts | str | None, role: str, load: Callable[[str], Parts]
) -> Parts | None:
    """The model behind a name, which must fit."""
    if given is None:
        return None
    other = load(given) if isinstance(given, str) else given
    if other.lm.config.modeling == "masked":
        raise UsageError(
            f"{other.name} cannot be the {role}: it fills masks, and does not write step by step.",
            "Take an autoregressive or hybrid model, such as facebook/musicgen-small.",
        )
    if other is asked:
        return other
    comparison = same_codec(asked.codec, other.codec)
    if not comparison:
        raise UsageError(
            f"{other.name} cannot be the {role} of {asked.name}: they have different codecs. "
            f"{comparison.differences[0]}",
            "Their codes do not mean the same. Take a model that was made with the same codec.",
        )
    if other.lm.device != asked.lm.device:
        raise UsageError(
            f"{other.name} is on {other.lm.device}, {asked.name} on {asked.lm.device}.",
            "Load both on one device.",
        )
    return other


def _identity(parts: Parts) -> dict[str, Any]:
    told = {"model": parts.name, "repo": parts.repo, "revision": parts.revision}
    return {**told, **loras_of(parts)}
