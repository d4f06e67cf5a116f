"""The settings of decoding and of the sound file. No torch here.

A flag of the command line is a field's name in kebab-case, and takes its default from here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from magnet_cli.errors import UsageError

T = TypeVar("T")

SpanArrangement = Literal["nonoverlap", "stride1"]
SpanScoring = Literal["max", "prod"]
AudioFormat = Literal["wav", "flac", "ogg", "opus", "mp3"]
BitDepth = Literal["16", "24", "float"]


@dataclass(frozen=True)
class DecodingConfig:
    """How codes are decoded. None means the checkpoint's own default; 0 switches top_p and top_k off."""

    decoding_steps: tuple[int, ...] | None = None  # steps for each stream
    temperature: float | None = None
    anneal_temperature: bool | None = None  # temperature falls to 0.01 over a stream's steps
    top_p: float | None = None  # keep the most likely tokens up to this sum
    top_k: int | None = None  # keep this many of the most likely tokens
    use_sampling: bool | None = None  # False: greedy
    max_cfg_coef: float | None = None  # guidance at a stream's first step
    min_cfg_coef: float | None = None  # guidance at a stream's last step
    cfg_coef: float | None = None  # guidance of autoregressive decoding
    coherence_boost: float | None = None  # of the long context over a short one; 0: none
    frequency_penalty: float | None = None  # nats for each time too often; 0: none
    span_len: int | None = None  # frames in a masked span
    span_arrangement: SpanArrangement | None = None
    span_scoring: SpanScoring | None = None  # nonoverlap only: stride1 always sums -log p
    score_noise: float | None = None  # Gumbel noise on the spans' scores at the first step; 0: none
    full_length: bool | None = None  # False: trim to a multiple of span_len, as the reference does
    rescorer_weight: float | None = None  # the model's share in span scores; 1: no rescorer
    rescore_streams: tuple[int, ...] | None = None  # streams whose spans a rescorer scores; (): all
    hybrid: float | None = None  # seconds written autoregressively before the rest; 0: none
    hybrid_temperature: float | None = None  # of those seconds; None stays: the writing model's own
    hybrid_top_p: float | None = None  # likewise
    hybrid_top_k: int | None = None  # likewise

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        check_decoding(self)

    def over(self, defaults: DecodingConfig) -> DecodingConfig:
        """These settings where they are given, `defaults` elsewhere."""
        return dataclasses.replace(defaults, **self.given())

    def given(self) -> dict[str, Any]:
        """The fields that are set, by name."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }


def _plain(value: Any) -> Any:
    """A setting in Python's own types: lists as tuples, numpy's numbers as numbers, for JSON."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one) for one in value)
    return value.item() if getattr(value, "shape", None) == () else value


def required(value: T | None) -> T:
    """A setting that must have been resolved by now.

    Raises:
        ValueError: it was not: a mistake of the caller's, not of the user's.
    """
    if value is None:
        raise ValueError("a decoding setting was left open: complete it with DecodingConfig.over")
    return value


def check_decoding(config: DecodingConfig) -> None:
    """Refuse values that cannot mean anything.

    Raises:
        UsageError: naming the field and the values it takes.
    """

    def need(holds: Callable[[Any], bool], field: str, takes: str) -> None:
        value = getattr(config, field)
        try:
            fits = value is None or holds(value)
        except (
            TypeError
        ):  # a text where a number is to be, one number where there are to be several
            fits = False
        if not fits:
            flag = field.replace("_", "-")
            raise UsageError(f"{field} cannot be {value!r}.", f"--{flag} takes {takes}.")

    def wholes(values: Any, low: int, high: float) -> bool:
        return all(isinstance(value, int) and low <= value <= high for value in values)

    takes = "whole numbers from 1 to 10000, one for each stream"
    need(lambda steps: len(steps) > 0 and wholes(steps, 1, 10_000), "decoding_steps", takes)
    for field in (
        "temperature",
        "max_cfg_coef",
        "min_cfg_coef",
        "cfg_coef",
        "coherence_boost",
        "frequency_penalty",
        "score_noise",
        "hybrid_temperature",
    ):
        need(lambda value: 0 <= value < 1e4, field, "a number from 0 up to 10000")
    for field in ("top_p", "hybrid_top_p"):
        need(lambda value: 0 <= value <= 1, field, "a number from 0 (off) to 1")
    for field in ("top_k", "hybrid_top_k"):
        need(lambda value: wholes([value], 0, math.inf), field, "a whole number from 0 (off)")
    need(lambda value: wholes([value], 1, math.inf), "span_len", "a whole number from 1")
    arrangements, scorings = get_args(SpanArrangement), get_args(SpanScoring)
    need(lambda value: value in arrangements, "span_arrangement", " or ".join(arrangements))
    need(lambda value: value in scorings, "span_scoring", " or ".join(scorings))
    takes = "a number from 0 (the rescorer alone) to 1 (no rescorer)"
    need(lambda value: 0 <= value <= 1, "rescorer_weight", takes)
    need(
        lambda streams: wholes(streams, 0, math.inf),
        "rescore_streams",
        "numbers of streams, from 0",
    )
    need(lambda value: 0 <= value < 1e6, "hybrid", "seconds from 0 (off)")


# What holds where neither the user nor the checkpoint says otherwise (paper, section 5; reference.md).
DECODING_DEFAULTS = DecodingConfig(
    decoding_steps=(20, 10, 10, 10),
    temperature=3.0,
    anneal_temperature=True,
    top_p=0.9,
    top_k=0,
    use_sampling=True,
    max_cfg_coef=10.0,
    min_cfg_coef=1.0,
    cfg_coef=3.0,
    coherence_boost=0.0,
    frequency_penalty=0.0,
    span_arrangement="nonoverlap",
    span_scoring="max",
    score_noise=0.0,
    full_length=True,
    rescorer_weight=0.5,
    rescore_streams=(),
    hybrid=0.0,
)


# What `--preset` multiplies the checkpoint's own decoding steps by.
PRESETS = {"fast": 0.5, "default": 1.0, "best": 2.0}


def preset_steps(steps: tuple[int, ...], preset: str) -> tuple[int, ...]:
    """`steps` scaled by a preset: at least one for each stream, halves rounded up.

    Raises:
        UsageError: the preset is not one of PRESETS.
    """
    if preset not in PRESETS:
        raise UsageError(f"There is no preset {preset!r}.", f"Take one of {', '.join(PRESETS)}.")
    return tuple(max(1, int(count * PRESETS[preset] + 0.5)) for count in steps)


def with_preset(
    config: DecodingConfig, preset: str | None, defaults: DecodingConfig
) -> DecodingConfig:
    """`config` with the steps of a preset, scaled from a checkpoint's own; None leaves it alone.

    Raises:
        UsageError: there is no such preset, or the checkpoint has no steps to scale.
    """
    if preset is None:
        return config
    if defaults.decoding_steps is None:
        raise UsageError("--preset scales steps, and this model has none.", "Leave it out.")
    steps = preset_steps(defaults.decoding_steps, preset)
    return dataclasses.replace(config, decoding_steps=steps)


def check_duration(duration: float | None) -> None:
    """Refuse what is no length of a clip.

    Raises:
        UsageError: it is not above zero, or no number.
    """
    if duration is not None and not 0 < duration < 1e6:
        raise UsageError(f"--duration cannot be {duration:g}.", "It takes seconds above 0.")


@dataclass(frozen=True)
class OutputConfig:
    """How decoded audio becomes a file."""

    format: AudioFormat | None = None  # None: by the file's suffix
    bit_depth: BitDepth | None = None  # wav and flac; None: 16
    sample_rate: int | None = None  # Hz; None: the model's, or the nearest that the format can hold
    channels: int | None = None  # 1 or 2; None: the model's
    normalize: bool = True  # False: neither loudness nor peak is touched
    lufs: float = -14.0  # integrated loudness, ITU-R BS.1770-4
    peak: float = -1.0  # ceiling of the samples, dBFS
    fade: float = 0.0  # seconds faded in at the start and out at the end

    def __post_init__(self) -> None:
        check_output(self)


def check_output(config: OutputConfig) -> None:
    """Refuse values that cannot mean anything.

    Raises:
        UsageError: naming the flag and the values it takes.
    """

    def need(holds: bool, flag: str, value: object, takes: str) -> None:
        if not holds:
            raise UsageError(f"--{flag} cannot be {value!r}.", f"It takes {takes}.")

    formats, depths = get_args(AudioFormat), get_args(BitDepth)
    need(config.format in (None, *formats), "format", config.format, f"one of {', '.join(formats)}")
    need(
        config.bit_depth in (None, *depths),
        "bit-depth",
        config.bit_depth,
        f"one of {', '.join(depths)}",
    )
    rate, channels = config.sample_rate, config.channels
    need(rate is None or 1000 <= rate <= 384_000, "sample-rate", rate, "Hz from 1000 to 384000")
    need(channels in (None, 1, 2), "channels", channels, "1 (mono) or 2 (stereo)")
    need(-70 <= config.lufs <= 0, "lufs", config.lufs, "a loudness from -70 to 0 LUFS")
    need(-60 <= config.peak <= 0, "peak", config.peak, "a ceiling from -60 to 0 dBFS")
    need(0 <= config.fade <= 60, "fade", config.fade, "seconds from 0 to 60")


OUTPUT_DEFAULTS = OutputConfig()

# The same for models that write token by token (MusicGen, section 4.2).
AUTOREGRESSIVE_DEFAULTS = dataclasses.replace(
    DECODING_DEFAULTS, temperature=1.0, top_p=0.0, top_k=250
)
