"""Every flag that more than one command takes, declared once, in groups (see flags.py).

How to use them in a command: take the groups that fit as keywords under `@takes_flags`, then ask
them for settings of the library: `decoding.over(model.defaults)`, `output.config()`. All that can
be refused without a model is refused by `decoding.config()` and `output.config()`: call those first.

Defaults and choices are read from config.py. A field of DecodingOptions or OutputOptions bears the
name of the setting that it sets, so a new setting needs one new field here and nothing else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import typer

from magnet_cli.cli.completion import complete_model, complete_preset
from magnet_cli.config import (
    DECODING_DEFAULTS,
    OUTPUT_DEFAULTS,
    PRESETS,
    AudioFormat,
    BitDepth,
    DecodingConfig,
    OutputConfig,
    SpanArrangement,
    SpanScoring,
    preset_steps,
    with_preset,
)
from magnet_cli.errors import UsageError


def flag(panel: str, *names: str, help: str, **more: Any) -> Any:
    """A flag in a panel of the help, whose help text says the default itself."""
    more.setdefault("show_default", False)
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def _choice(kind: Any) -> str:
    """The values of a Literal, as a flag's placeholder."""
    return "|".join(get_args(kind))


def _usually(field: str) -> str:
    """The end of a help text: what holds where neither the user nor the checkpoint says more."""
    value = getattr(DECODING_DEFAULTS, field)
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
    return f"Default: the checkpoint's own, usually {shown}."


_MODEL, _CLIP, _DECODING = "Model", "Clips", "Decoding"
_OUTPUT, _TALK = "Sound file", "Conversation"

_WHICH_MODEL = (
    "Name (small), hub id (facebook/magnet-small-10secs[@revision]) or folder. "
    "Default: what `magnet models use` set, else the built-in model."
)
_SCALES = ", ".join(f"{name} (x{scale:g})" for name, scale in PRESETS.items())


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where it runs."""

    model: Annotated[
        str | None,
        flag(
            _MODEL,
            "--model",
            "-m",
            metavar="NAME",
            envvar="MAGNET_MODEL",
            help=_WHICH_MODEL,
            autocompletion=complete_model,
        ),
    ] = None
    device: Annotated[
        str, flag(_MODEL, "--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")
    ] = "auto"
    dtype: Annotated[
        str,
        flag(
            _MODEL,
            "--dtype",
            metavar="NAME",
            help="auto (float16 on CUDA, float32 elsewhere), float32, float16 or bfloat16.",
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        flag(
            _MODEL,
            "--threads",
            metavar="N",
            min=1,
            max=1024,
            help="CPU threads. Default: torch's choice.",
        ),
    ] = None
    offline: Annotated[
        bool, flag(_MODEL, "--offline", help="Never use the network (as HF_HUB_OFFLINE=1 does).")
    ] = False


@dataclass(frozen=True)
class SeedOptions:
    """Which variations to make, and what not to."""

    num: Annotated[
        int,
        flag(
            _CLIP,
            "--num",
            "-n",
            metavar="N",
            min=1,
            max=10_000,
            help="Variations: number i has seed + i, from 0. Default: 1.",
        ),
    ] = 1
    seed: Annotated[
        int | None,
        flag(
            _CLIP,
            "--seed",
            metavar="N",
            min=0,
            max=2**63 - 1,
            help="The same seed and settings make the same sound. Default: drawn, and printed.",
        ),
    ] = None
    negative: Annotated[
        str | None,
        flag(_CLIP, "--negative", metavar="TEXT", help="A text for guidance to lead away from."),
    ] = None


@dataclass(frozen=True)
class ClipOptions(SeedOptions):
    """Which clips to make of a prompt."""

    duration: Annotated[
        float | None,
        flag(
            _CLIP,
            "--duration",
            "-d",
            metavar="SECONDS",
            help="Length. Default: the model's segment; what is longer is made window by window.",
        ),
    ] = None


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
            metavar=_choice(SpanArrangement),
            help="Where spans lie: on a grid (nonoverlap) or anywhere (stride1). "
            f"Default: {DECODING_DEFAULTS.span_arrangement}.",
        ),
    ] = None
    span_scoring: Annotated[
        SpanScoring | None,
        flag(
            _DECODING,
            metavar=_choice(SpanScoring),
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


@dataclass(frozen=True)
class OutputOptions:
    """What the sound file is like: the fields of OutputConfig."""

    format: Annotated[
        AudioFormat | None,
        flag(
            _OUTPUT, metavar=_choice(AudioFormat), help="Default: the suffix of the name, else wav."
        ),
    ] = None
    bit_depth: Annotated[
        BitDepth | None,
        flag(
            _OUTPUT,
            metavar=_choice(BitDepth),
            help="Of wav (16, 24, float) and flac (16, 24). Default: 16.",
        ),
    ] = None
    sample_rate: Annotated[
        int | None,
        flag(_OUTPUT, metavar="HZ", help="Default: the model's (in opus: 48000)."),
    ] = None
    channels: Annotated[
        int | None, flag(_OUTPUT, metavar="N", help="1 (mono) or 2 (stereo). Default: the model's.")
    ] = None
    normalize: Annotated[
        bool,
        flag(
            _OUTPUT,
            "--normalize/--no-normalize",
            help="Bring the clip to --lufs under --peak, or leave its level alone.",
            show_default=True,
        ),
    ] = OUTPUT_DEFAULTS.normalize
    lufs: Annotated[
        float,
        flag(_OUTPUT, metavar="X", help="Loudness in LUFS (ITU-R BS.1770-4).", show_default=True),
    ] = OUTPUT_DEFAULTS.lufs
    peak: Annotated[
        float,
        flag(_OUTPUT, metavar="X", help="Ceiling in dBFS, held by a limiter.", show_default=True),
    ] = OUTPUT_DEFAULTS.peak
    fade: Annotated[
        float,
        flag(_OUTPUT, metavar="SECONDS", help="Fade in and out this long.", show_default=True),
    ] = OUTPUT_DEFAULTS.fade

    def config(self) -> OutputConfig:
        """The settings of the file.

        Raises:
            UsageError: a value cannot be used.
        """
        return OutputConfig(**dataclasses.asdict(self))


@dataclass(frozen=True)
class TalkOptions:
    """How much is said, and in which form; `Talk(options)` of output.py obeys."""

    json: Annotated[bool, flag(_TALK, "--json", help="One JSON object a line on stdout.")] = False
    quiet: Annotated[bool, flag(_TALK, "--quiet", "-q", help="Say nothing but errors.")] = False
    debug: Annotated[bool, flag(_TALK, "--debug", help="Show the traceback of an error.")] = False


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
