"""From what the user gave and what the checkpoint wants to settings with every field filled in."""

from __future__ import annotations

from typing import Any

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

# What has no part where spans are decided in an order that is spread over time.
_OF_SCORES = {"span_scoring", "score_noise"}


def resolve(
    given: DecodingConfig, checkpoint: DecodingConfig, lm: LMConfig, rescored: bool = False
) -> DecodingConfig:
    """Every field filled in: the user's, else the checkpoint's, else the paper's.

    Raises:
        UsageError: a field does not apply to this kind of model, or does not fit its streams or the
            others, or the rescorer that takes part (`rescored`).
    """
    _refuse_strangers(given, lm)
    base = AUTOREGRESSIVE_DEFAULTS if lm.modeling == "autoregressive" else DECODING_DEFAULTS
    config = given.over(checkpoint.over(base.altered({"span_len": lm.span_len})))
    # One filter at a time: choosing one switches the other's default off. Both given: both hold.
    for top_p, top_k in (("top_p", "top_k"), ("hybrid_top_p", "hybrid_top_k")):
        asked_p, asked_k = getattr(given, top_p), getattr(given, top_k)
        if asked_k and asked_p is None:
            config = config.altered({top_p: 0.0})
        if asked_p and asked_k is None:
            config = config.altered({top_k: 0})
    if config.span_order == "spread" and lm.modeling != "autoregressive":
        config = _by_scores(given, config, rescored)
    if lm.modeling == "hybrid":
        # It writes both parts itself, so what is asked of one is asked of the other.
        config = _both_parts(given, config)
    return config.altered(
        {
            "decoding_steps": _steps(given, config, lm),
            "rescore_streams": _streams(config, lm.n_q),
        }
    )


def _both_parts(given: DecodingConfig, config: DecodingConfig) -> DecodingConfig:
    """The first seconds' temperature, top-p and top-k follow the user's own, unless theirs are given."""
    top_p, top_k = given.top_p, given.top_k
    if given.hybrid_top_p is None and given.hybrid_top_k is None:
        # Whoever names one filter, if only to switch it off, has none but that.
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
    """How the autoregressive seconds of hybrid decoding are written: every field filled in.

    Temperature, top-k and top-p of masked decoding mean nothing there, so they are the writer's own;
    what is for such decoding alone, greedy decoding and what begins with `hybrid_` are as asked.

    Args:
        config: of the clip, every field given.
        writer: the writing model's own settings, where it is an autoregressive one.
    """
    top_p, top_k = config.hybrid_top_p, config.hybrid_top_k
    if top_p and top_k is None:
        top_k = 0  # one filter at a time
    if top_k and top_p is None:
        top_p = 0.0
    same = {name: getattr(config, name) for name in (*AUTOREGRESSIVE_ONLY, "use_sampling")}
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
    """The settings that had a part in a result, by name: asked for by all of them, it is made again.

    Args:
        config: every field given.
        modeling: of the model.
        rescored: a rescorer took part.
        hybrid: seconds that were written autoregressively before the masked stages. Not always those of
            `config`: a checkpoint's habit of them is shorter in a short clip, or left out.
        prefix: how they were written, where there are any.
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
    if config.span_order == "spread":
        unused |= _OF_SCORES
    if not rescored:
        unused |= RESCORER_ONLY
    return {name: value for name, value in config.given().items() if name not in unused}


def _refuse_strangers(given: DecodingConfig, lm: LMConfig) -> None:
    # In hybrid decoding a masked model has an autoregressive one beside it.
    no_masked = frozenset() if given.hybrid else AUTOREGRESSIVE_ONLY
    kinds = {"autoregressive": MASKED_ONLY, "masked": no_masked}
    strangers = sorted(kinds.get(lm.modeling, frozenset()) & given.given().keys())
    if strangers:
        raise UsageError(
            f"{', '.join(strangers)} cannot be used with this model: it decodes "
            f"{'step by step' if lm.modeling == 'autoregressive' else 'by filling masks'}.",
            "Leave it out, or choose another model.",
        )


def _by_scores(given: DecodingConfig, config: DecodingConfig, rescored: bool) -> DecodingConfig:
    """Who asks for something about spans' scores has spans decided by them, and not by their places."""
    asked = [name for name in sorted(_OF_SCORES) if getattr(given, name)]
    asked += ["rescorer"] * rescored
    if asked and given.span_order == "spread":
        raise UsageError(
            f"{' and '.join(asked)} cannot be used: spans are decided by their places, not by scores.",
            "Leave it out, or take --span-order certainty.",
        )
    return config.altered({"span_order": "certainty"}) if asked else config


def _streams(config: DecodingConfig, n_q: int) -> tuple[int, ...]:
    streams = config.rescore_streams or tuple(range(n_q))
    if max(streams) >= n_q:
        raise UsageError(
            f"rescore_streams has {max(streams)}, but the model has {n_q} streams.",
            f"Streams are 0 to {n_q - 1}.",
        )
    return streams


def _steps(given: DecodingConfig, config: DecodingConfig, lm: LMConfig) -> tuple[int, ...]:
    steps, stages = required(config.decoding_steps), len(lm.stage_streams)
    if len(steps) == stages:
        return steps
    if given.decoding_steps is None or len(steps) == 1:
        # Defaults for another number of stages, or one number for all: the last holds for the rest.
        return (*steps, *(steps[-1:] * stages))[:stages]
    what = "stages" if lm.stages else "streams"
    raise UsageError(
        f"decoding_steps has {len(steps)} numbers, but the model has {stages} {what}.",
        f"Give {stages} numbers, such as {','.join(['20', *['10'] * (stages - 1)])}, or one for all.",
    )
