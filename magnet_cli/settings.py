"""Tables of the settings for decoding, the sound file and bars, with their defaults and presets.

A new setting is one field here and the code that uses it. Imports no torch.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from magnet_cli.errors import UsageError
from magnet_cli.fields import Only, check, panel, settings_of

T = TypeVar("T")

SpanArrangement = Literal["nonoverlap", "stride1"]
SpanScoring = Literal["max", "prod"]
SpanOrder = Literal["certainty", "spread", "blocks"]
LaterCodes = Literal["sampled", "mean"]
AudioFormat = Literal["wav", "flac", "ogg", "opus", "mp3"]
BitDepth = Literal["16", "24", "float"]
LOSSY = ("ogg", "opus", "mp3")  # decoded samples differ from those encoded

MAX_SEED = 2**63 - 1
MOST_VARIATIONS = 10_000  # per prompt

DECODING, PARTNERS, OUTPUT = "Decoding", "More than one model", "Sound file"
_decoding, _partners, _output, _bars = map(panel, (DECODING, PARTNERS, OUTPUT, "Beat"))
_NUMBER: dict[str, Any] = {"low": 0, "below": 1e4}
_PROBABILITY: dict[str, Any] = {"low": 0, "high": 1, "words": "a number from 0 (off) to 1"}
_COUNT: dict[str, Any] = {"low": 0, "words": "a whole number from 0 (off)"}


@dataclass(frozen=True)
class DecodingConfig:
    """Decoding settings. None means the checkpoint's default; 0 turns top_p and top_k off."""

    decoding_steps: tuple[int, ...] | None = _decoding(
        "Decoding steps for each stream, or one number for all.",
        flags="--steps --decoding-steps",
        metavar="N,N,...",
        low=1,
        high=10_000,
        words="whole numbers from 1 to 10000, one for each stream",
        usual=(20, 10, 10, 10),
        example="20,10,10,10",
        only="masked",
    )
    temperature: float | None = _decoding(
        "Sampling temperature: higher is more varied, lower is safer.", usual=3.0, **_NUMBER
    )
    anneal_temperature: bool | None = _decoding(
        "Lower the temperature over a stream's steps, or keep it constant. Default: lower.",
        flags="--anneal/--no-anneal",
        usual=True,
        only="masked",
    )
    final_temperature: float | None = _decoding(
        "Temperature at a stream's last step, if it falls; at most --temperature. Above 0, what is decided "
        "last varies, too. Default: the checkpoint's own, usually 0.",
        usual=0.0,
        before=0.0,
        only="masked",
        **_NUMBER,
    )
    sound_temperature: float | None = _decoding(
        "Temperature, at every step, of clips without a tempo in the prompt (120 bpm) or drawn by the model: "
        "sounds that come and go, such as footsteps, stay silent if it falls. 0: as of other clips. Default: "
        "with --temperature or --anneal as of other clips, else the checkpoint's own, usually 0.",
        usual=0.0,
        before=0.0,
        only="masked",
        **_NUMBER,
    )
    top_p: float | None = _decoding(
        "Sample from the likeliest codes whose probabilities sum to X; 0: off.",
        usual=0.9,
        **_PROBABILITY,
    )
    top_k: int | None = _decoding("Sample from the N likeliest codes; 0: off.", usual=0, **_COUNT)
    use_sampling: bool | None = _decoding(
        "Sample codes, or take the likeliest. Default: sample.",
        flags="--sample/--greedy",
        usual=True,
    )
    later_codes: LaterCodes | None = _decoding(
        "Codes of streams after the first, which add detail: sampled, or those nearest to the mean of what "
        "the model expects (mean), without guidance and temperature, which suits models too small to guess "
        "details. The built-in model's clips without a tempo stay sampled, and with --sound-temperature any "
        "model's: details of noise are random. Default: the checkpoint's own, usually {usual}.",
        usual="sampled",
        before="sampled",
        only="masked",
    )
    max_cfg_coef: float | None = _decoding(
        "Guidance coefficient at a stream's first step.", usual=10.0, only="masked", **_NUMBER
    )
    min_cfg_coef: float | None = _decoding(
        "Guidance coefficient at a stream's last step.", usual=1.0, only="masked", **_NUMBER
    )
    cfg_coef: float | None = _decoding(
        "Guidance coefficient of autoregressive models.",
        usual=3.0,
        only="autoregressive",
        **_NUMBER,
    )
    coherence_boost: float | None = _decoding(
        "Autoregressive decoding: strengthens the influence of codes more than 15 frames back, so that "
        "beats continue and tones end.",
        usual=0.0,
        before=0.0,
        only="autoregressive",
        **_NUMBER,
    )
    frequency_penalty: float | None = _decoding(
        "Autoregressive decoding: lowers a code's logit by X for each occurrence beyond 30 in its stream's "
        "last 50 frames, so that long notes and silences end.",
        usual=0.0,
        before=0.0,
        only="autoregressive",
        **_NUMBER,
    )
    bar_repeat: float | None = _decoding(
        "Raises a code's logit by X for each occurrence one or two bars away, so that a rhythm continues. "
        "Needs a tempo in the prompt (120 bpm), or a model that draws one, as the built-in model does. "
        "Default: the checkpoint's own, usually 0.",
        usual=0.0,
        before=0.0,
        **_NUMBER,
    )
    half_bar_repeat: float | None = _decoding(
        "As --bar-repeat, for occurrences half a bar away: steadies the beat within the bar. Default: the "
        "checkpoint's own, usually 0.",
        usual=0.0,
        before=0.0,
        **_NUMBER,
    )
    span_len: int | None = _decoding(
        "Frames in a masked span. Default: the checkpoint's own, usually 3.",
        low=1,
        only="masked",
    )
    span_arrangement: SpanArrangement | None = _decoding(
        "Where spans start: on a grid (nonoverlap) or at any frame (stride1). Default: {usual}.",
        flags="--spans --span-arrangement",
        usual="nonoverlap",
        only="masked",
    )
    span_order: SpanOrder | None = _decoding(
        "Which spans are unmasked first: the most certain (certainty), spans spread evenly over time "
        "(spread), which keeps small models from droning, or two seconds after two seconds (blocks), spread "
        "within each and with a share of the steps for each, which continues what has begun. Default: the "
        "checkpoint's own, usually {usual}.",
        usual="certainty",
        before="certainty",
        only="masked",
    )
    span_scoring: SpanScoring | None = _decoding(  # on the grid only: stride1 always sums -log p
        "Certainty of a span on the grid: by its likeliest code (max) or all (prod). Default: {usual}.",
        usual="max",
        only="masked",
    )
    subcodes_context: int | None = _decoding(
        "Frames on each side that streams after the first attend to; -1: all. Default: the checkpoint's.",
        low=-1,
        words="a whole number from 0, or -1 for no restriction",
        only="masked",
    )
    score_noise: float | None = _decoding(  # the scale at the first step
        "Gumbel noise added to the span scores: the surest guesses are held notes, and keeping only the "
        "surest makes everything drone.",
        usual=0.0,
        before=0.0,
        only="masked",
        **_NUMBER,
    )
    full_length: bool | None = _decoding(
        "Decode all frames, or whole spans only, as the reference does. Default: all.",
        flags="--full-length/--trim",
        usual=True,
        only="masked",
    )
    rescorer_weight: float | None = _partners(
        "The model's weight in rescoring, from 0 (the rescorer alone) to 1 (no rescorer). Default: {usual}.",
        metavar="W",
        low=0,
        high=1,
        words="a number from 0 (the rescorer alone) to 1 (no rescorer)",
        usual=0.5,
        only="rescorer",
    )
    rescore_streams: tuple[int, ...] | None = _partners(
        "Streams to rescore, from 0. Default: all.",
        metavar="N,N,...",
        low=0,
        words="stream numbers, from 0",
        usual=(),
        example="0,1",
        only="rescorer",
    )
    hybrid: float | None = _partners(
        "Decode the first seconds autoregressively, then fill in the rest.",
        metavar="SECONDS",
        low=0,
        below=1e6,
        words="seconds from 0 (off)",
        usual=0.0,
        only="masked",
    )
    # For those seconds. None is not resolved here: it means the autoregressive model's own.
    hybrid_temperature: float | None = _partners(
        "Temperature of those seconds. Default: --temperature for a hybrid-trained model, else the "
        "checkpoint's or the hybrid model's, usually 1.",
        only="prefix",
        **_NUMBER,
    )
    hybrid_top_p: float | None = _partners(
        "Top-p of those seconds. Default: as for --hybrid-temperature, with --top-p.",
        metavar="P",
        only="prefix",
        **_PROBABILITY,
    )
    hybrid_top_k: int | None = _partners(
        "Top-k of those seconds. Default: as for --hybrid-temperature, with --top-k.",
        metavar="K",
        only="prefix",
        **_COUNT,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        check(self)

    def over(self, defaults: DecodingConfig) -> DecodingConfig:
        """These settings, with `defaults` for those that are None."""
        return defaults.altered(self.given())

    def altered(self, values: Mapping[str, Any]) -> DecodingConfig:
        """Copy with `values` replaced, unchecked: they come from checked settings, or are constants."""
        other = copy.copy(self)
        vars(other).update(values)
        return other

    def given(self) -> dict[str, Any]:
        """The fields that are set, by name."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }


@dataclass(frozen=True)
class OutputConfig:
    """Settings of the sound file."""

    format: AudioFormat | None = _output("File format. Default: by the name's suffix, else wav.")
    bit_depth: BitDepth | None = _output("Of wav (16, 24, float) or flac (16, 24). Default: 16.")
    sample_rate: int | None = _output(
        "Sample rate. Default: the model's (opus: 48000).",  # or the nearest that the format allows
        metavar="HZ",
        low=1000,
        high=384_000,
        words="Hz from 1000 to 384000",
    )
    channels: int | None = _output(
        "1 (mono) or 2 (stereo). Default: the model's.",
        low=1,
        high=2,
        words="1 (mono) or 2 (stereo)",
    )
    normalize: bool = _output(
        "Normalise the clip to --lufs with peaks under --peak, or leave its level alone.",
        True,
        before=True,
    )
    lufs: float = _output(
        "Loudness in LUFS (ITU-R BS.1770-4).",
        -14.0,
        low=-70,
        high=0,
        words="a loudness from -70 to 0 LUFS",
        before=-14.0,
    )
    peak: float = _output(
        "Limiter ceiling in dBFS.",
        -1.0,
        low=-60,
        high=0,
        words="a ceiling from -60 to 0 dBFS",
        before=-1.0,
    )
    max_limiting: float = _output(
        "Maximum gain reduction of the limiter. A clip that would need more stays quieter than --lufs.",
        4.0,
        metavar="DB",
        low=0,
        high=24,
        words="dB from 0 to 24",
        before=24.0,
    )
    true_peak: bool | None = _output(
        "Limit peaks between samples, too (4x oversampled). Default: for ogg, opus and mp3.",
        flags="--true-peak/--no-true-peak",
        before=False,
    )
    fade: tuple[float, ...] = _output(
        "Length of the fade in and out, or two lengths: in, out.",
        (0.0,),
        metavar="IN,OUT",
        low=0,
        high=60,
        most=2,
        words="seconds from 0 to 60, or two of them: in, out",
        example="0.1,2",
        before=(0.0,),
    )

    def given(self) -> dict[str, Any]:
        """JSON-able settings that differ from `UNRECORDED_OUTPUT`, without the format.
        `true_peak` is included once it is decided."""
        said = {
            name: value
            for name, value in vars(self).items()
            if value != UNRECORDED_OUTPUT.get(name)
        }
        if "fade" in said:  # a number, as in files from when one fade applied to both ends
            said["fade"] = self.fade[0] if len(self.fade) == 1 else list(self.fade)
        if self.true_peak is None:
            del said["true_peak"]
        return said

    def decided(self, name: AudioFormat) -> OutputConfig:
        """These settings with `true_peak` decided for a format."""
        if self.true_peak is not None:
            return self
        return dataclasses.replace(self, true_peak=name in LOSSY)

    @property
    def fades(self) -> tuple[float, float]:
        """Length of the fade in and of the fade out, in seconds."""
        return self.fade[0], self.fade[-1]

    def __post_init__(self) -> None:
        fade = _plain(self.fade)
        fade = fade if isinstance(fade, tuple) else (fade,)
        if len(fade) == 2 and fade[0] == fade[1]:
            fade = fade[:1]
        object.__setattr__(self, "fade", fade)
        check(self)


MOST_BARS = 256
_BEAT = ("bpm", "bars")
BEATS_IN_BAR = 4
BLOCK_SECONDS = 2.0  # a block of the span order "blocks"
TRIES, LOOP_TRIES = 4, 3  # default number of seeds
MOST_STRETCH = 0.04  # relative change of tempo; more would be audible


@dataclass(frozen=True)
class BarsConfig:
    """Tempo and length in bars of four beats. None: not requested."""

    bpm: float | None = _bars(
        "Beats per minute, with --bars: tries a few seeds and stretches the one with the nearest beat, by "
        f"{100 * MOST_STRETCH:g} % at most. Needs the extra `tempo`.",
        low=40,
        high=240,
    )
    bars: int | None = _bars(
        "Length in bars of four beats, instead of --duration.", low=1, high=MOST_BARS
    )
    tries: int | None = _bars(
        f"Seeds to try for --bpm, or for a loop while its beat is uncertain. Default: {TRIES} for --bpm, "
        f"{LOOP_TRIES} for a loop.",
        low=1,
        high=100,
    )

    def __post_init__(self) -> None:
        check(self)
        if (self.bpm is None) != (self.bars is None):
            here, other = _BEAT if self.bars is None else _BEAT[::-1]
            raise UsageError(
                f"{here} needs {other}, too.", "Give both: bpm 120 bars 4.", settings=_BEAT
            )

    def check_tries(self, loop: bool) -> None:
        """Check `tries`. Raises UsageError: it is set without bpm or a `loop` that follows its beat."""
        if self.tries is not None and self.bpm is None and not loop:
            raise UsageError(
                "tries applies only to bpm, and to loops that follow their beat.",
                "Use one of them, or leave tries out.",
                settings=("tries", "bpm"),
            )

    @property
    def beats(self) -> int:
        """Number of beats; 0 if no bars are requested."""
        return BEATS_IN_BAR * (self.bars or 0)

    @property
    def seconds(self) -> float | None:
        """Length in seconds; None if no bars are requested."""
        return None if self.bpm is None else self.beats * 60 / self.bpm


def _plain(value: Any) -> Any:
    """Convert a setting to Python's own types for JSON: lists to tuples, numpy scalars to numbers."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one) for one in value)
    return value.item() if getattr(value, "shape", None) == () else value


def required(value: T | None) -> T:
    """Return a setting that must be resolved by now. Raises ValueError: it is None, a bug of the caller's."""
    if value is None:
        raise ValueError("a decoding setting was left open: complete it with DecodingConfig.over")
    return value


def _only(*who: Only) -> frozenset[str]:
    settings = settings_of(DecodingConfig)
    return frozenset(name for name, each in settings.items() if each.only in who)


MASKED_ONLY = _only("masked", "prefix", "rescorer")
PREFIX_ONLY = _only("prefix")
AUTOREGRESSIVE_ONLY = _only("autoregressive")
RESCORER_ONLY = _only("rescorer")

# Defaults where neither the user nor the checkpoint sets a value (paper, section 5); then those of
# autoregressive models (MusicGen, section 4.2).
DECODING_DEFAULTS = DecodingConfig(
    **{name: each.usual for name, each in settings_of(DecodingConfig).items()}
)
AUTOREGRESSIVE_DEFAULTS = dataclasses.replace(
    DECODING_DEFAULTS, temperature=1.0, top_p=0.0, top_k=250
)
OUTPUT_DEFAULTS = OutputConfig()
# Of loops and bars at a tempo: where every bar strays a little, the seam is off the beat (docs/loops.md).
STEADY_DEFAULTS = DecodingConfig(bar_repeat=8.0, half_bar_repeat=4.0)

# What a setting was if a file's record lacks it: decoding settings that were not always recorded, all output
# settings (only differences from these are recorded), and a built-in model's weights
# (checkpoints/identity.py). These never change, even if the defaults do.
UNRECORDED_DECODING = {
    name: each.before
    for name, each in settings_of(DecodingConfig).items()
    if each.before is not None
}
UNRECORDED_OUTPUT = {
    name: each.before for name, each in settings_of(OutputConfig).items() if name != "format"
}
UNRECORDED_WEIGHTS = {
    "nano": "sha256:c8c1e1125eaf6307a7c9cfdd6f62b2454a5476c371fbc39abf07572fc1443fc6"
}


def steady(given: DecodingConfig | None, own: DecodingConfig) -> DecodingConfig:
    """Settings for a loop or for bars at a tempo: bars are repeated more strictly than in other music, if
    the model repeats them by default (`own`) and nothing else is `given`."""
    given = given or DecodingConfig()
    if not own.bar_repeat or (given.bar_repeat, given.half_bar_repeat) != (None, None):
        return given
    return given.over(STEADY_DEFAULTS)


# Factors by which `--preset` multiplies the checkpoint's decoding steps.
PRESETS = {"fast": 0.5, "default": 1.0, "best": 2.0}


def check_preset(preset: str | None) -> None:
    """Raise UsageError unless `preset` is None or in PRESETS."""
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"There is no preset {preset!r}.", f"Choose from {', '.join(PRESETS)}.")


def with_preset(
    config: DecodingConfig, preset: str | None, defaults: DecodingConfig
) -> DecodingConfig:
    """Set the decoding steps of `config` to the checkpoint's, scaled by a preset; None changes nothing.

    Halves are rounded up, to at least one step per stream. Raises UsageError: there is no such preset, or
    the checkpoint has no steps to scale.
    """
    if preset is None:
        return config
    if defaults.decoding_steps is None:
        raise UsageError(
            "--preset scales decoding steps, and this model has none.", "Leave --preset out."
        )
    check_preset(preset)
    steps = tuple(max(1, int(n * PRESETS[preset] + 0.5)) for n in defaults.decoding_steps)
    return dataclasses.replace(config, decoding_steps=steps)


def listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert tuples to lists, as JSON returns them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
