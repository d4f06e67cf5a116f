"""The flags of decoding, one group of those in options.py: each a field of DecodingConfig."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from magnet_cli.cli.completion import complete_preset
from magnet_cli.cli.options import choice, flag
from magnet_cli.errors import UsageError
from magnet_cli.settings import (
    DECODING_DEFAULTS,
    PRESETS,
    DecodingConfig,
    SpanArrangement,
    SpanScoring,
    preset_steps,
    with_preset,
)

_DECODING = "Decoding"
_SCALES = ", ".join(f"{name} (x{scale:g})" for name, scale in PRESETS.items())


def _usually(field: str) -> str:
    """The end of a help text: what holds where neither the user nor the checkpoint says more."""
    value = getattr(DECODING_DEFAULTS, field)
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
    return f"Default: the checkpoint's own, usually {shown}."


@dataclass(frozen=True)
class DecodingOptions:
    """How codes are decoded: the fields of DecodingConfig, and a preset over its steps."""

    preset: Annotated[
        str | None,
        flag(
            _DECODING,
            "--preset",
            metavar="NAME",
            help=f"Decoding steps, scaled from the checkpoint's own: {_SCALES}.",
            autocompletion=complete_preset,
        ),
    ] = None
    decoding_steps: Annotated[
        str | None,
        flag(
            _DECODING,
            "--steps",
            "--decoding-steps",
            metavar="N,N,...",
            help=f"Steps for each stream, or one number for all. {_usually('decoding_steps')}",
        ),
    ] = None
    temperature: Annotated[
        float | None,
        flag(
            _DECODING,
            metavar="X",
            help=f"Higher is more varied, lower safer. {_usually('temperature')}",
        ),
    ] = None
    anneal_temperature: Annotated[
        bool | None,
        flag(
            _DECODING,
            "--anneal/--no-anneal",
            help="Let the temperature fall over a stream's steps, or not. Default: fall.",
        ),
    ] = None
    top_p: Annotated[
        float | None,
        flag(
            _DECODING,
            metavar="X",
            help=f"Draw from the likeliest codes up to this sum; 0: off. {_usually('top_p')}",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        flag(
            _DECODING,
            metavar="N",
            help=f"Draw from this many of the likeliest codes; 0: off. {_usually('top_k')}",
        ),
    ] = None
    use_sampling: Annotated[
        bool | None,
        flag(
            _DECODING, "--sample/--greedy", help="Draw codes, or take the likeliest. Default: draw."
        ),
    ] = None
    max_cfg_coef: Annotated[
        float | None,
        flag(
            _DECODING,
            metavar="X",
            help=f"Guidance at a stream's first step. {_usually('max_cfg_coef')}",
        ),
    ] = None
    min_cfg_coef: Annotated[
        float | None,
        flag(
            _DECODING,
            metavar="X",
            help=f"Guidance at a stream's last step. {_usually('min_cfg_coef')}",
        ),
    ] = None
    cfg_coef: Annotated[
        float | None,
        flag(
            _DECODING,
            metavar="X",
            help=f"Guidance of autoregressive models. {_usually('cfg_coef')}",
        ),
    ] = None
    coherence_boost: Annotated[
        float | None,
        flag(
            _DECODING,
            metavar="X",
            help="Step by step: what all that was written so far makes likely counts for more than what its "
            "last 15 frames alone would, so that a beat goes on and no tone does for ever. "
            f"{_usually('coherence_boost')}",
        ),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        flag(
            _DECODING,
            metavar="X",
            help="Step by step: a code that fills more than 30 of its stream's last 50 frames becomes "
            "less likely by X nats for each more, so that long notes and silences end. "
            f"{_usually('frequency_penalty')}",
        ),
    ] = None
    span_len: Annotated[
        int | None,
        flag(
            _DECODING,
            metavar="N",
            help="Frames in a masked span. Default: the checkpoint's own, usually 3.",
        ),
    ] = None
    span_arrangement: Annotated[
        SpanArrangement | None,
        flag(
            _DECODING,
            "--spans",
            "--span-arrangement",
            metavar=choice(SpanArrangement),
            help="Where spans lie: on a grid (nonoverlap) or anywhere (stride1). "
            f"Default: {DECODING_DEFAULTS.span_arrangement}.",
        ),
    ] = None
    span_scoring: Annotated[
        SpanScoring | None,
        flag(
            _DECODING,
            metavar=choice(SpanScoring),
            help="How sure a span on the grid is: by its likeliest code (max) or all (prod). "
            f"Default: {DECODING_DEFAULTS.span_scoring}.",
        ),
    ] = None
    score_noise: Annotated[
        float | None,
        flag(
            _DECODING,
            metavar="X",
            help="Chance in which spans are masked again: held notes are the surest guess, and "
            f"where only the surest stays, everything drones. {_usually('score_noise')}",
        ),
    ] = None
    full_length: Annotated[
        bool | None,
        flag(
            _DECODING,
            "--full-length/--trim",
            help="All frames, or whole spans only, as the reference does. Default: all.",
        ),
    ] = None

    def config(self) -> DecodingConfig:
        """The settings that were given, without the preset, which needs a checkpoint.

        Raises:
            UsageError: a value cannot be used.
        """
        if self.preset is not None:
            preset_steps((), self.preset)
            if self.decoding_steps is not None:
                raise UsageError("--preset and --steps both set the steps.", "Leave one out.")
        values = {name: value for name, value in vars(self).items() if name != "preset"}
        steps = parse_numbers(self.decoding_steps, "--steps", "20,10,10,10")
        return DecodingConfig(**{**values, "decoding_steps": steps})

    def over(self, defaults: DecodingConfig) -> DecodingConfig:
        """The settings that were given, with the preset's steps scaled from a checkpoint's own.

        Raises:
            UsageError: a value cannot be used, or the checkpoint has no steps to scale.
        """
        return with_preset(self.config(), self.preset, defaults)


def parse_numbers(text: str | None, name: str, example: str) -> tuple[int, ...] | None:
    """ "20,10,10,10" -> (20, 10, 10, 10).

    Raises:
        UsageError: it is anything else, naming the flag.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{name} cannot be {text[:80]!r}.", f"It takes whole numbers, such as {example}."
        ) from error
