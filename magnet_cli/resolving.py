"""Resolves decoding settings and partners.

A setting is the user's, else the checkpoint's, else the paper's. Partners are further models that take part
in decoding a clip: a rescorer, and an autoregressive model that decodes the first seconds. Both must fit the
model, which is checked here. Resolving settings needs no torch, because `magnet show` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magnet_cli.config import LMConfig, Modeling
from magnet_cli.errors import UsageError
from magnet_cli.settings import (
    AUTOREGRESSIVE_DEFAULTS,
    AUTOREGRESSIVE_ONLY,
    DECODING_DEFAULTS,
    MASKED_ONLY,
    PREFIX_ONLY,
    RESCORER_ONLY,
    DecodingConfig,
    required,
)

if TYPE_CHECKING:
    from magnet_cli.models.parts import Parts

# Settings without effect unless the span order is `certainty`.
_OF_SCORES = {"span_scoring", "score_noise"}
# The value of `rescorer` for a hybrid-trained model's own causal mode.
SELF = "self"


def resolve(
    given: DecodingConfig, checkpoint: DecodingConfig, lm: LMConfig, rescored: bool = False
) -> DecodingConfig:
    """Resolve every setting: the user's, else the checkpoint's, else the paper's.
    Raises UsageError: a setting does not apply to this kind of model, or does not fit its streams, the
    other settings or the use of a rescorer (`rescored`)."""
    _refuse_strangers(given, lm, bool(checkpoint.hybrid))
    base = AUTOREGRESSIVE_DEFAULTS if lm.modeling == "autoregressive" else DECODING_DEFAULTS
    config = given.over(checkpoint.over(base.altered({"span_len": lm.span_len})))
    # One filter at a time: choosing one turns the other's default off. Both apply if both are given.
    for top_p, top_k in (("top_p", "top_k"), ("hybrid_top_p", "hybrid_top_k")):
        asked_p, asked_k = getattr(given, top_p), getattr(given, top_k)
        if asked_k and asked_p is None:
            config = config.altered({top_p: 0.0})
        if asked_p and asked_k is None:
            config = config.altered({top_k: 0})
    if config.span_order != "certainty" and lm.modeling != "autoregressive":
        config = _by_scores(given, config, rescored)
    if given.final_temperature and not config.anneal_temperature:
        raise UsageError(
            "final_temperature has no effect: the temperature does not fall.",
            "Leave it out, or let the temperature fall.",
            settings=["final_temperature"],
        )
    falling = (given.temperature, given.anneal_temperature)
    if given.sound_temperature is None and falling != (None, None):
        config = config.altered({"sound_temperature": 0.0})
    if lm.modeling == "hybrid":
        # It decodes both parts itself, so settings of one apply to the other.
        config = _both_parts(given, config)
    return config.altered(
        {"decoding_steps": _steps(given, config, lm), "rescore_streams": _streams(config, lm.n_q)}
    )


def _both_parts(given: DecodingConfig, config: DecodingConfig) -> DecodingConfig:
    """Set the first seconds' temperature, top-p and top-k to the user's, unless given separately."""
    top_p, top_k = given.top_p, given.top_k
    if given.hybrid_top_p is None and given.hybrid_top_k is None:
        # If one filter is given, even as off, the other has no default.
        if top_p is None and top_k:
            top_p = 0.0
        if top_k is None and top_p is not None:
            top_k = 0
    elif given.hybrid_top_p:
        top_k = None
    elif given.hybrid_top_k:
        top_p = None
    following = {
        "hybrid_temperature": given.temperature,
        "hybrid_top_p": top_p,
        "hybrid_top_k": top_k,
    }
    return given.over(config.altered({k: v for k, v in following.items() if v is not None}))


def for_prefix(config: DecodingConfig, writer: DecodingConfig) -> DecodingConfig:
    """Resolve the settings for the autoregressive seconds of hybrid decoding.

    Temperature, top-k and top-p of masked decoding do not carry over, so they are the writer's own or the
    `hybrid_` settings. Autoregressive settings, `use_sampling` and repeats are the clip's.

    Args:
        config: settings of the clip, resolved.
        writer: the defaults of the model that decodes these seconds, if it is autoregressive.
    """
    top_p, top_k = config.hybrid_top_p, config.hybrid_top_k
    if top_p and top_k is None:
        top_k = 0  # one filter at a time
    if top_k and top_p is None:
        top_p = 0.0
    kept = (*AUTOREGRESSIVE_ONLY, "use_sampling", "bar_repeat", "half_bar_repeat")
    same = {name: getattr(config, name) for name in kept}
    own = {"temperature": config.hybrid_temperature, "top_p": top_p, "top_k": top_k}
    asked = {name: value for name, value in {**same, **own}.items() if value is not None}
    return writer.over(AUTOREGRESSIVE_DEFAULTS).altered(asked)


def used(
    config: DecodingConfig,
    modeling: Modeling,
    *,
    rescored: bool,
    hybrid: float = 0.0,
    prefix: DecodingConfig | None = None,
) -> dict[str, Any]:
    """The settings that took effect, by name; a request with all of them gives the same result.

    Args:
        config: resolved settings.
        modeling: the model's.
        rescored: a rescorer took part.
        hybrid: seconds decoded autoregressively. May differ from `config`: a checkpoint's default is
            shortened or left out for some clips.
        prefix: settings of these seconds, if there are any.
    """
    unused: set[str] = set()
    if modeling == "autoregressive":
        unused |= MASKED_ONLY
    elif prefix is not None:
        written = {
            f"hybrid_{name}": getattr(prefix, name) for name in ("temperature", "top_p", "top_k")
        }
        config = config.altered({"hybrid": hybrid, **written})
    else:
        unused |= AUTOREGRESSIVE_ONLY | PREFIX_ONLY
        config = config.altered({"hybrid": 0.0})
        if modeling == "masked":
            unused.add("hybrid")
    if config.span_order != "certainty":
        unused |= _OF_SCORES
    if not config.anneal_temperature:
        unused.add("final_temperature")
    if not rescored:
        unused |= RESCORER_ONLY
    return {name: value for name, value in config.given().items() if name not in unused}


def _refuse_strangers(given: DecodingConfig, lm: LMConfig, by_default: bool) -> None:
    # In hybrid decoding a masked model is combined with an autoregressive one.
    no_masked = frozenset() if given.hybrid else AUTOREGRESSIVE_ONLY
    alone = frozenset() if by_default or given.hybrid is not None else no_masked | PREFIX_ONLY
    kinds = {"autoregressive": MASKED_ONLY, "masked": no_masked, "hybrid": alone}
    strangers = sorted(kinds.get(lm.modeling, frozenset()) & given.given().keys())
    if strangers:
        raise UsageError(
            f"{', '.join(strangers)} cannot be used with this model: it decodes "
            f"{'autoregressively' if lm.modeling == 'autoregressive' else 'by masked generation'}.",
            f"Leave it out, or {'use hybrid' if lm.modeling == 'hybrid' else 'choose another model'}.",
            settings=strangers,
        )


def _by_scores(given: DecodingConfig, config: DecodingConfig, rescored: bool) -> DecodingConfig:
    """Settings of span scores, and a rescorer, imply the span order `certainty`."""
    asked = [name for name in sorted(_OF_SCORES) if getattr(given, name)]
    asked += ["rescorer"] * rescored
    if asked and given.span_order not in (None, "certainty"):
        raise UsageError(
            f"{' and '.join(asked)} cannot be used: span_order {given.span_order} ignores span scores.",
            "Leave it out, or use span_order certainty.",
            settings=[*asked, "span_order"],
        )
    return config.altered({"span_order": "certainty"}) if asked else config


def _streams(config: DecodingConfig, n_q: int) -> tuple[int, ...]:
    streams = config.rescore_streams or tuple(range(n_q))
    if max(streams) >= n_q:
        raise UsageError(
            f"rescore_streams has {max(streams)}, but the model has {n_q} streams.",
            f"Streams are 0 to {n_q - 1}.",
            settings=["rescore_streams"],
        )
    return streams


def _steps(given: DecodingConfig, config: DecodingConfig, lm: LMConfig) -> tuple[int, ...]:
    steps, stages = required(config.decoding_steps), len(lm.stage_streams)
    if len(steps) == stages:
        return steps
    if given.decoding_steps is None or len(steps) == 1:
        # Defaults for another number of stages, or one number for all: repeat the last.
        return (*steps, *(steps[-1:] * stages))[:stages]
    what = "stages" if lm.stages else "streams"
    raise UsageError(
        f"There are {len(steps)} numbers of steps, but the model has {stages} {what}.",
        f"Give {stages} numbers, such as {','.join(['20', *['10'] * (stages - 1)])}, or one for all.",
        settings=["decoding_steps"],
    )


# ------------------------------------------------------------------------------------- partners


@dataclass(frozen=True)
class Partners:
    """Further models that take part in decoding."""

    rescorer: Parts | None = None  # scores the sampled codes; may be the model itself
    hybrid_model: Parts | None = None  # decodes the first seconds; None: the model itself

    def __bool__(self) -> bool:
        return self.rescorer is not None or self.hybrid_model is not None

    def describe(self, asked: Parts) -> dict[str, Any]:
        """JSON-able record of the partners."""
        parts = {"rescorer": self.rescorer, "hybrid_model": self.hybrid_model}
        return {
            part: {"model": SELF} if other is asked else _identity(other)
            for part, other in parts.items()
            if other is not None
        }

    def prefix_config(self, config: DecodingConfig) -> DecodingConfig:
        """Resolve the settings for the first seconds of a clip with `config`, which is resolved."""
        own = DecodingConfig()
        writer = self.hybrid_model
        if writer is not None and writer.lm.config.modeling == "autoregressive":
            own = writer.defaults
        return for_prefix(config, own)


NONE = Partners()


def gather(
    asked: Parts,
    config: DecodingConfig,
    rescorer: Parts | str | None,
    hybrid_model: Parts | str | None,
    load: Callable[[str], Parts],
) -> Partners:
    """Load partners that are given by name, and check that they fit the model.

    Args:
        asked: the model that decodes.
        config: the settings as given.
        rescorer: a model, its name, or `self`.
        hybrid_model: a model or its name.
        load: loads a model by name.

    Raises:
        UsageError: a partner is missing, of the wrong kind, or has another codec.
        MagnetError: raised by `load`.
    """
    modeling = asked.lm.config.modeling
    if modeling != "autoregressive":
        check_rescorer(config, rescorer)
    for flag, other in (("rescorer", rescorer), ("hybrid_model", hybrid_model)):
        if other is not None and modeling == "autoregressive":
            raise UsageError(
                f"{flag} cannot be used with {asked.name}: it decodes autoregressively.",
                "Leave it out, or choose another model.",
                settings=[flag],
            )
    if hybrid_model is asked:
        hybrid_model = None  # a hybrid-trained model is the default; a masked one is refused below
    seconds = asked.defaults.hybrid if config.hybrid is None else config.hybrid
    if hybrid_model is not None and not seconds:
        raise UsageError(
            "A hybrid model needs --hybrid, too.",
            "Give the seconds it decodes, such as --hybrid 2.",
        )
    if hybrid_model is None and seconds and modeling == "masked":
        raise UsageError(
            f"{asked.name} cannot decode the first seconds itself: it is not autoregressive.",
            "Name an autoregressive model with the same codec, such as "
            "--hybrid-model facebook/musicgen-small.",
        )
    if rescorer == SELF:
        if modeling == "masked":
            raise UsageError(
                f"{asked.name} cannot be its own rescorer: it is not autoregressive.",
                "Name another model with the same codec, such as --rescorer facebook/musicgen-small.",
            )
        rescorer = asked
    return Partners(
        _fitting(asked, rescorer, "rescorer", load),
        _fitting(asked, hybrid_model, "hybrid model", load),
    )


def check_rescorer(config: DecodingConfig, rescorer: Parts | str | None) -> None:
    """Raise UsageError if settings for a rescorer are given without one."""
    stranded = sorted(RESCORER_ONLY & config.given().keys())
    if rescorer is None and stranded:
        raise UsageError(
            f"{' and '.join(stranded)} needs a rescorer, but none is named.",
            "Name one with --rescorer MODEL; a hybrid-trained model can be its own: --rescorer self.",
            settings=stranded,
        )


def check_length(partner: Parts, frames: int) -> None:
    """Check that a clip of `frames` frames is no longer than a partner's segment.
    Raises UsageError: it is longer."""
    trained_on = partner.lm.config
    if frames > trained_on.segment_frames:
        raise UsageError(
            f"{partner.name} was trained on {trained_on.segment_duration:g} s, too short for "
            f"{frames / trained_on.frame_rate:g} s.",
            "Make the clip shorter, or use a model trained on longer ones.",
        )


def loras_of(parts: Parts) -> dict[str, Any]:
    """{"lora": the adapters merged into a model}; empty if there are none."""
    return {"lora": [dict(lora) for lora in parts.loras]} if parts.loras else {}


def _fitting(
    asked: Parts, given: Parts | str | None, role: str, load: Callable[[str], Parts]
) -> Parts | None:
    """Load a partner if given by name, and check that it fits."""
    from magnet_cli.models.codec import same_codec

    if given is None:
        return None
    other = load(given) if isinstance(given, str) else given
    if other.lm.config.modeling == "masked":
        raise UsageError(
            f"{other.name} cannot be the {role}: it is not autoregressive.",
            "Use an autoregressive or hybrid model, such as facebook/musicgen-small.",
        )
    if other is asked:
        return other
    comparison = same_codec(asked.codec, other.codec)
    if not comparison:
        raise UsageError(
            f"{other.name} cannot be the {role} of {asked.name}: they have different codecs. "
            f"{comparison.differences[0]}",
            "Use a model with the same codec.",
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
