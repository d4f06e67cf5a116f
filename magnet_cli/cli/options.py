"""Every flag that more than one command takes, declared once, in groups (see flags.py).

How to use them in a command: take the groups that fit as keywords under `@takes_flags`, then ask
them for settings of the library: `decoding.over(model.defaults)`, `output.config()`. All that can
be refused without a model is refused by `decoding.config()` and `output.config()`: call those first.

Defaults and choices are read from settings.py. A field of OutputOptions, and of DecodingOptions (in
decoding_options.py), bears the name of the setting that it sets, so a new setting needs one new
field and nothing else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import typer

from magnet_cli.cli.completion import complete_model
from magnet_cli.settings import OUTPUT_DEFAULTS, AudioFormat, BitDepth, OutputConfig


def flag(panel: str, *names: str, help: str, **more: Any) -> Any:
    """A flag in a panel of the help, whose help text says the default itself."""
    more.setdefault("show_default", False)
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def choice(kind: Any) -> str:
    """The values of a Literal, as a flag's placeholder."""
    return "|".join(get_args(kind))


_MODEL, _CLIP = "Model", "Clips"
_OUTPUT, _TALK = "Sound file", "Conversation"

_WHICH_MODEL = (
    "Name (small), hub id (facebook/magnet-small-10secs[@revision]) or folder. "
    "Default: what `magnet models use` set, else the built-in model."
)


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
class OutputOptions:
    """What the sound file is like: the fields of OutputConfig."""

    format: Annotated[
        AudioFormat | None,
        flag(
            _OUTPUT, metavar=choice(AudioFormat), help="Default: the suffix of the name, else wav."
        ),
    ] = None
    bit_depth: Annotated[
        BitDepth | None,
        flag(
            _OUTPUT,
            metavar=choice(BitDepth),
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
