"""The settings of decoding, of the sound file and of bars: tables, what holds where they are silent, presets.

A new setting is one field here and the code that uses it. No torch.
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
SpanOrder = Literal["certainty", "spread"]
AudioFormat = Literal["wav", "flac", "ogg", "opus", "mp3"]
BitDepth = Literal["16", "24", "float"]
LOSSY = ("ogg", "opus", "mp3")  # what comes out of them is not, sample by sample, what went in

MAX_SEED = 2**63 - 1
MOST_VARIATIONS = 10_000  # of one prompt

DECODING, PARTNERS, OUTPUT = "Decoding", "More than one model", "Sound file"
_decoding, _partners, _output, _bars = map(panel, (DECODING, PARTNERS, OUTPUT, "Beat"))
_NUMBER: dict[str, Any] = {"metavar": "X", "low": 0, "below": 1e4}
_PROBABILITY: dict[str, Any] = {"low": 0, "high": 1, "words": "a number from 0 (off) to 1"}
_COUNT: dict[str, Any] = {"low": 0, "words": "a whole number from 0 (off)"}


@dataclass(frozen=True)
class DecodingConfig:
    """How codes are decoded. None means the checkpoint's own default; 0 switches top_p and top_k off."""

    decoding_steps: tuple[int, ...] | None = _decoding(
        "Steps for each stream, or one number for all.",
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
        "Higher is more varied, lower safer.", usual=3.0, **_NUMBER
    )
    anneal_temperature: bool | None = _decoding(
        "Let the temperature fall over a stream's steps, or not. Default: fall.",  # to 0.01
        flags="--anneal/--no-anneal",
        usual=True,
        only="masked",
    )
    top_p: float | None = _decoding(
        "Draw from the likeliest codes up to this sum; 0: off.",
        metavar="X",
        usual=0.9,
        **_PROBABILITY,
    )
    top_k: int | None = _decoding(
        "Draw from this many of the likeliest codes; 0: off.", metavar="N", usual=0, **_COUNT
    )
    use_sampling: bool | None = _decoding(
        "Draw codes, or take the likeliest. Default: draw.", flags="--sample/--greedy", usual=True
    )
    max_cfg_coef: float | None = _decoding(
        "Guidance at a stream's first step.", usual=10.0, only="masked", **_NUMBER
    )
    min_cfg_coef: float | None = _decoding(
        "Guidance at a stream's last step.", usual=1.0, only="masked", **_NUMBER
    )
    cfg_coef: float | None = _decoding(
        "Guidance of autoregressive models.", usual=3.0, only="autoregressive", **_NUMBER
    )
    coherence_boost: float | None = _decoding(
        "Step by step: what all that was written so far makes likely counts for more than what its last 15 "
        "frames alone would, so that a beat goes on and no tone does for ever.",
        usual=0.0,
        before=0.0,
        only="autoregressive",
        **_NUMBER,
    )
    frequency_penalty: float | None = _decoding(
        "Step by step: a code that fills more than 30 of its stream's last 50 frames becomes less likely by "
        "X nats for each more, so that long notes and silences end.",
        usual=0.0,
        before=0.0,
        only="autoregressive",
        **_NUMBER,
    )
    bar_repeat: float | None = _decoding(
        "Nats by which a code becomes likelier for each time that it stands one or two bars away, so that a "
        "rhythm goes on. Counts where the prompt says a tempo (120 bpm), or the model draws one, as the "
        "built-in model does. Default: the checkpoint's own, usually 0.",
        usual=0.0,
        before=0.0,
        **_NUMBER,
    )
    span_len: int | None = _decoding(
        "Frames in a masked span. Default: the checkpoint's own, usually 3.",
        metavar="N",
        low=1,
        only="masked",
    )
    span_arrangement: SpanArrangement | None = _decoding(
        "Where spans lie: on a grid (nonoverlap) or anywhere (stride1). Default: {usual}.",
        flags="--spans --span-arrangement",
        usual="nonoverlap",
        only="masked",
    )
    span_order: SpanOrder | None = _decoding(
        "Which spans are decided first: those that the model is surest of (certainty), or such that lie "
        "evenly over time (spread), which keeps small models from droning. Default: the checkpoint's own, "
        "usually {usual}.",
        usual="certainty",
        before="certainty",
        only="masked",
    )
    span_scoring: SpanScoring | None = _decoding(  # of the grid: stride1 always sums -log p
        "How sure a span on the grid is: by its likeliest code (max) or all (prod). Default: {usual}.",
        usual="max",
        only="masked",
    )
    subcodes_context: int | None = _decoding(
        "Frames on each side that the streams after the first see; -1: all. Default: the checkpoint's own.",
        metavar="N",
        low=-1,
        words="a whole number from 0, or -1 for no restriction",
        only="masked",
    )
    score_noise: float | None = _decoding(  # Gumbel noise on the spans' scores at the first step
        "Chance in which spans are masked again: held notes are the surest guess, and where only the surest "
        "stays, everything drones.",
        usual=0.0,
        before=0.0,
        only="masked",
        **_NUMBER,
    )
    full_length: bool | None = _decoding(
        "All frames, or whole spans only, as the reference does. Default: all.",
        flags="--full-length/--trim",
        usual=True,
        only="masked",
    )
    rescorer_weight: float | None = _partners(
        "The model's own share in that, from 0 (the rescorer alone) to 1 (no rescorer). Default: {usual}.",
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
        words="numbers of streams, from 0",
        usual=(),
        example="0,1",
        only="rescorer",
    )
    hybrid: float | None = _partners(
        "Write the first seconds step by step, then fill in the rest.",
        metavar="SECONDS",
        low=0,
        below=1e6,
        words="seconds from 0 (off)",
        usual=0.0,
        only="masked",
    )
    # How those are written. None stays: the writing model's own.
    hybrid_temperature: float | None = _partners(
        "Temperature of those seconds. Default: --temperature for a hybrid-trained model; else the "
        "checkpoint's own or the writing model's, usually 1.",
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
        """These settings where they are given, `defaults` elsewhere."""
        return defaults.altered(self.given())

    def altered(self, values: Mapping[str, Any]) -> DecodingConfig:
        """These settings but for `values`, which are not checked: those of checked settings, or constants."""
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
    """How decoded audio becomes a file."""

    format: AudioFormat | None = _output("Default: the suffix of the name, else wav.")
    bit_depth: BitDepth | None = _output("Of wav (16, 24, float) and flac (16, 24). Default: 16.")
    sample_rate: int | None = _output(
        "Default: the model's (in opus: 48000).",  # or the nearest that the format can hold
        metavar="HZ",
        low=1000,
        high=384_000,
        words="Hz from 1000 to 384000",
    )
    channels: int | None = _output(
        "1 (mono) or 2 (stereo). Default: the model's.",
        metavar="N",
        low=1,
        high=2,
        words="1 (mono) or 2 (stereo)",
    )
    normalize: bool = _output(
        "Bring the clip to --lufs under --peak, or leave its level alone.", True, before=True
    )
    lufs: float = _output(
        "Loudness in LUFS (ITU-R BS.1770-4).",
        -14.0,
        metavar="X",
        low=-70,
        high=0,
        words="a loudness from -70 to 0 LUFS",
        before=-14.0,
    )
    peak: float = _output(
        "Ceiling in dBFS, held by a limiter.",
        -1.0,
        metavar="X",
        low=-60,
        high=0,
        words="a ceiling from -60 to 0 dBFS",
        before=-1.0,
    )
    max_limiting: float = _output(
        "The most that the limiter may take off the highest peak. Where that is not enough, the clip stays "
        "quieter than --lufs.",
        4.0,
        metavar="DB",
        low=0,
        high=24,
        words="dB from 0 to 24",
        before=24.0,
    )
    true_peak: bool | None = _output(
        "Hold what lies between the samples under --peak, too, as a player makes it (4x). "
        "Default: for ogg, opus and mp3.",
        flags="--true-peak/--no-true-peak",
        before=False,
    )
    fade: tuple[float, ...] = _output(
        "Fade in and out this long; two times: in, out.",
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
        """The settings that a file's silence would not say, JSON-able; its format it has itself.
        `true_peak` is among them once it is decided."""
        said = {name: value for name, value in vars(self).items() if value != _unrecorded(name)}
        if "fade" in said:  # as files had it when there was one for both ends
            said["fade"] = self.fade[0] if len(self.fade) == 1 else list(self.fade)
        if self.true_peak is None:
            del said["true_peak"]
        return said

    def decided(self, name: AudioFormat) -> OutputConfig:
        """These settings for a file of that format: whether true peaks are held is decided."""
        if self.true_peak is not None:
            return self
        return dataclasses.replace(self, true_peak=name in LOSSY)

    @property
    def fades(self) -> tuple[float, float]:
        """Seconds of the fade in, and of the fade out."""
        return self.fade[0], self.fade[-1]

    def __post_init__(self) -> None:
        fade = _plain(self.fade)
        fade = fade if isinstance(fade, tuple) else (fade,)
        if len(fade) == 2 and fade[0] == fade[1]:
            fade = fade[:1]
        object.__setattr__(self, "fade", fade)
        check(self)


MOST_BARS = 256
TRIES, LOOP_TRIES = 4, 3  # seeds, if nothing is said
MOST_STRETCH = 0.04  # of a tempo: a change by more is heard


@dataclass(frozen=True)
class BarsConfig:
    """How fast a sound is to be, and how long: bars of four beats. None: it is not asked for."""

    bpm: float | None = _bars(
        "Beats per minute, with --bars: a few seeds are tried, and the one whose beat is nearest is "
        f"stretched to it, by {100 * MOST_STRETCH:g} % at most. Needs the extra `tempo`.",
        metavar="X",
        low=40,
        high=240,
    )
    bars: int | None = _bars(
        "Length in bars of four beats, in place of --duration.",
        metavar="N",
        low=1,
        high=MOST_BARS,
    )
    tries: int | None = _bars(
        f"Seeds to try for --bpm, or for a loop while its beat is unsure. Default: {TRIES}, for a loop "
        f"{LOOP_TRIES}.",
        metavar="N",
        low=1,
        high=100,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.bpm is None and self.bars is not None:
            raise UsageError("bars are asked for, and not how fast.", "Say bpm, too, such as 120.")
        if self.bpm is not None and self.bars is None:
            raise UsageError("bpm is given, and not how many bars.", "Say bars, too, such as 4.")

    def check_tries(self, loop: bool) -> None:
        """Refuse tries where nothing is tried: of no loop by its beat. Raises UsageError: it is so."""
        if self.tries is not None and self.bpm is None and not loop:
            raise UsageError(
                "tries are for bpm, and for loops that go by their beat.",
                "Ask for one of them, or leave tries out.",
            )

    @property
    def beats(self) -> int:
        """So many there are; 0 where no bars are asked for."""
        return 4 * (self.bars or 0)

    @property
    def seconds(self) -> float | None:
        """How long that is; None: no bars are asked for."""
        return None if self.bpm is None else self.beats * 60 / self.bpm


def _plain(value: Any) -> Any:
    """A setting in Python's own types: lists as tuples, numpy's numbers as numbers, for JSON."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one) for one in value)
    return value.item() if getattr(value, "shape", None) == () else value


def required(value: T | None) -> T:
    """A setting that must have been resolved by now.
    Raises ValueError: it was not: a mistake of the caller's, not of the user's."""
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

# What holds where neither the user nor the checkpoint says otherwise (paper, section 5), and the same for
# models that write token by token (MusicGen, section 4.2).
DECODING_DEFAULTS = DecodingConfig(
    **{name: each.usual for name, each in settings_of(DecodingConfig).items()}
)
AUTOREGRESSIVE_DEFAULTS = dataclasses.replace(
    DECODING_DEFAULTS, temperature=1.0, top_p=0.0, top_k=250
)
OUTPUT_DEFAULTS = OutputConfig()

# What files that say nothing of a setting were made with: of decoding what was not always recorded, of the
# sound file everything, as a file keeps only what differs from these; and which weights a built-in model
# had (checkpoints/identity.py). What is here stays as it is, whatever the defaults become.
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


# What `--preset` multiplies the checkpoint's own decoding steps by.
PRESETS = {"fast": 0.5, "default": 1.0, "best": 2.0}


def check_preset(preset: str | None) -> None:
    """Refuse what is none of PRESETS. Raises UsageError: it is none."""
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"There is no preset {preset!r}.", f"Take one of {', '.join(PRESETS)}.")


def with_preset(
    config: DecodingConfig, preset: str | None, defaults: DecodingConfig
) -> DecodingConfig:
    """`config` with the steps of a preset, scaled from a checkpoint's own; None leaves it alone.

    There is at least one for each stream, and halves are rounded up. Raises UsageError: there is no
    such preset, or the checkpoint has no steps to scale.
    """
    if preset is None:
        return config
    if defaults.decoding_steps is None:
        raise UsageError("--preset scales steps, and this model has none.", "Leave it out.")
    check_preset(preset)
    steps = tuple(max(1, int(n * PRESETS[preset] + 0.5)) for n in defaults.decoding_steps)
    return dataclasses.replace(config, decoding_steps=steps)


def _unrecorded(name: str) -> Any:
    return getattr(OutputConfig, name) if name == "format" else UNRECORDED_OUTPUT[name]


def listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists: what JSON gives back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
