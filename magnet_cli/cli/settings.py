"""Makes flags from settings; the groups of flags that several commands share.

    @app.command()
    @takes_flags
    def gen(prompts: ..., *, model: ModelOptions, decoding: DecodingOptions) -> None: ...

A group is a frozen dataclass of settings (`fields.setting`), or a table such as OutputConfig. Its settings
become the command's flags, and the command gets an instance with their values. Setting names must differ
among a command's groups.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from magnet_cli.checkpoints import registry
from magnet_cli.cli import configuration
from magnet_cli.cli.help import METAVARS
from magnet_cli.errors import UsageError
from magnet_cli.fields import (
    SECONDS,
    NotOfTypeError,
    Setting,
    cannot_be,
    panel,
    parse_seconds,
    settings_of,
    typed,
)
from magnet_cli.resolving import check_rescorer
from magnet_cli.settings import (
    DECODING,
    MAX_SEED,
    MOST_VARIATIONS,
    PARTNERS,
    PRESETS,
    BarsConfig,
    DecodingConfig,
    OutputConfig,
    check_preset,
    with_preset,
)


class Given:
    """`Annotated[dict[str, Any], Given(TrainConfig)]`: flags of tables; the command gets the given ones.

    They override a file's values, so switches can be turned off, too: `--x/--no-x`.
    """

    def __init__(self, *tables: type) -> None:
        self.settings = [each for table in tables for each in settings_of(table).values()]


def part(table: type, panel: str) -> Any:
    """A field of a group that holds a table, whose settings of one panel become flags."""
    return dataclasses.field(default=table(), metadata={"part": (table, panel)})


def flags_of(group: type) -> list[Setting]:
    """The settings of a group, including its parts'."""
    return [each for _, settings in _by_field(group).values() for each in settings]


def spelled(group: type, values: Mapping[str, Any]) -> list[str]:
    """The arguments that set `values`, given by setting name, for a group."""
    words = []
    for each in flags_of(group):
        value = values.get(each.name)
        on, off = each.names
        if value is None:
            continue
        if each.kind is bool:
            words += [on] if value else [off] if off else []
        else:
            words += [on, as_text(value)]
    return words


def as_text(value: Any) -> str:
    """Format a value for a flag: 120, not 120.0."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(map(as_text, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add to a command the flags of each parameter whose type is a group or `Given`."""
    parameters: list[inspect.Parameter] = []
    builders: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        name, hint = parameter.name, parameter.annotation
        given = next((one for one in get_args(hint) if isinstance(one, Given)), None)
        if given is not None:
            builders[name] = functools.partial(_given, given)
            parameters += [_parameter(each, over_a_file=True) for each in given.settings]
        elif dataclasses.is_dataclass(hint):
            builders[name] = functools.partial(_built, hint)
            parameters += [_parameter(each) for each in flags_of(hint)]  # type: ignore[arg-type]
        else:
            for option in get_args(hint)[1:] if get_args(hint)[:1] == (bool,) else ():
                option.metavar = ""  # otherwise rich writes <bool> beside a switch
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    if any(parameter.name == "profile" for parameter in parameters):
        parameters.append(
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        )

    def with_flags(**values: Any) -> None:
        context = values.pop("context", None)
        if context is not None:
            _configured(context, values, values.get("quiet", False))
        built = {name: build(values) for name, build in builders.items()}
        command(**values, **built)

    # typer reads the signature through `inspect`, which uses these attributes.
    with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
    with_flags.__module__ = command.__module__
    with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
    vars(with_flags)["__signature__"] = inspect.Signature(parameters)
    return with_flags


def _by_field(group: Any) -> dict[str, tuple[Any, list[Setting]]]:
    """The settings for each field of a group, with the table if the field is a part."""
    own = settings_of(group)
    found: dict[str, tuple[Any, list[Setting]]] = {}
    for field in dataclasses.fields(group):
        if "part" in field.metadata:
            table, panel = field.metadata["part"]
            found[field.name] = table, [s for s in settings_of(table).values() if s.panel == panel]
        elif field.name in own:
            found[field.name] = None, [own[field.name]]
    return found


def _built(group: Any, values: dict[str, Any]) -> Any:
    """Build a group from its flags' values, which are removed from `values`."""
    made = {}
    for name, (table, settings) in _by_field(group).items():
        taken = {each.name: _value(each, values.pop(each.name)) for each in settings}
        made[name] = taken[name] if table is None else table(**taken)
    return group(**made)


def _given(given: Given, values: dict[str, Any]) -> dict[str, Any]:
    taken = [(each, values.pop(each.name)) for each in given.settings]
    return {
        each.name: value if each.is_joined else _fitting(each, value)
        for each, value in taken
        if value not in (None, [])
    }


def _value(each: Setting, value: Any) -> Any:
    """Convert a flag's value for its setting: joined by commas, or repeated."""
    if get_origin(each.kind) is not tuple:
        return value if value is None else _fitting(each, value)
    if not value and not isinstance(value, str):
        return each.default
    try:
        return _fitting(each, typed(each.kind, value, example=each.example))
    except NotOfTypeError as error:
        name = each.names[0]
        raise UsageError(f"{name} cannot be {value[:80]!r}.", f"It takes {error}.") from error


def _fitting(each: Setting, value: Any) -> Any:
    """Return a value after checking it. Raises UsageError, naming the flag, if it does not fit."""
    if not each.fits(value):
        raise cannot_be(each.names[0], value, each.takes)
    return value


def _parameter(each: Setting, over_a_file: bool = False) -> inspect.Parameter:
    """A setting as a parameter from which typer makes a flag."""
    kind, default, help = each.kind, each.default, each.help
    names, metavar = each.flags.split(), each.metavar
    on, off = each.names
    is_choice = get_origin(kind) is Literal
    if get_origin(kind) is tuple:
        kind = str if each.is_joined else list[get_args(kind)[0]]  # type: ignore[misc]
    says_default = default is None or default is False or "Default" in help
    option = {"show_default": not says_default}
    if over_a_file:
        # Choices stay strings, which the table checks; as choices they would make the help too wide.
        kind = str if is_choice else kind
        if get_origin(each.kind) is tuple:
            help += " May be given several times."
        if default not in (None, ()):
            said = str(default).lower() if kind is bool else as_text(default).replace(",", ", ")
            help += f" Default: {said}."
        default, option = None, {"show_default": False}
    elif is_choice:
        metavar = "|".join(get_args(kind))
    elif metavar is None:
        metavar = METAVARS.get(kind.__name__.lower())
    elif each.is_joined and default is not None:
        default = ",".join(f"{value:g}" for value in default)
    if not names:
        off = f"--no-{on[2:]}" if kind is bool and over_a_file else off
        names = [f"{on}/{off}" if off else on]
    flag = typer.Option(
        *names, metavar=metavar, help=help, rich_help_panel=each.panel, **{**option, **each.option}
    )
    if default in (None, ()):
        kind, default = kind | None, None
    return inspect.Parameter(
        each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, flag]
    )


def complete_model() -> list[tuple[str, str]]:
    """Names of known models with descriptions, for shell completion. Loads no model."""
    found = []
    for entry in registry.known_checkpoints():
        about = f"{entry.kind}, {entry.segment_duration:g} s, {entry.modeling}"
        found += [(name, about) for name in (entry.name, *entry.aliases)]
    return found


def complete_profile() -> list[str]:
    """Names of the profiles, for shell completion."""
    return sorted(
        {*configuration.read().profiles, *configuration.SHIPPED, configuration.NO_PROFILE}
    )


def _configure(context: typer.Context, profile: str | None) -> str | None:
    """Give the parser the defaults of config.toml and a profile.
    Raises UsageError if there is no such profile."""
    if context.resilient_parsing:  # shell completion
        return profile
    found = configuration.read()
    held = configuration.layered(found, profile)
    context.default_map = configuration.as_flags(held)
    return profile


def _configured(context: typer.Context, values: dict[str, Any], quiet: bool) -> None:
    """Reset configured values that this call cannot use, and warn about errors in config.toml."""
    from magnet_cli.cli.talk import Talk

    def is_soft(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "DEFAULT_MAP"

    if context.default_map:
        configuration.soften(values, is_soft)
    if values.get("profile") == configuration.NO_PROFILE:
        values["model"] = values["model"] or registry.BUILTIN_NAMES[0]
    elif values["model"]:  # without one, who chooses it reports problems
        for problem in configuration.read().problems:
            Talk(TalkOptions(quiet=quiet)).warn(problem)


_model, _clip, _files, _windows = map(panel, ("Model", "Clips", "Output", "Windows"))
_decoding, _partners, _talk = map(panel, (DECODING, PARTNERS, "Conversation"))


@dataclass(frozen=True)
class ModelOptions:
    """Flags for the model and its device."""

    model: str | None = _model(
        "Name (small), hub id (facebook/magnet-small-10secs[@revision]) or folder. "
        "Default: what `magnet models use` set, else the built-in model.",
        flags="--model -m",
        metavar="NAME",
        envvar="MAGNET_MODEL",
        autocompletion=complete_model,
    )
    device: str = _model(
        "auto, cpu, cuda, cuda:1 or mps.", "auto", metavar="NAME", show_default=False
    )
    dtype: str = _model(
        "auto, float32, float16, bfloat16 or int8 (CPU). auto: float16 on CUDA, bfloat16 for large models on "
        "CPUs that support it natively, float32 elsewhere.",
        "auto",
        metavar="NAME",
        show_default=False,
    )
    threads: int | None = _model(
        "CPU threads. Default: all; a small model has one for each pass.",
        low=1,
        high=1024,
    )
    offline: bool = _model("Never use the network (as HF_HUB_OFFLINE=1 does).", False)
    lora: tuple[str, ...] = _model(
        "A LoRA to merge into the model: its folder or file, and its scale, such as rain:0.7. May be "
        "given several times.",
        (),
        metavar="FILE[:SCALE]",
    )
    profile: str | None = _model(
        "Named set of flags from config.toml; game-loop and sfx are built in. none: ignore config.toml. "
        "`magnet config` shows all.",
        metavar="NAME",
        envvar="MAGNET_PROFILE",
        autocompletion=complete_profile,
        is_eager=True,  # it sets the defaults of other flags
        callback=_configure,
    )


@dataclass(frozen=True)
class SeedOptions:
    """Flags for variations, seed and negative prompt."""

    num: int = _clip(
        "Number of variations; number i, from 0, has seed + i. Default: 1.",
        1,
        flags="--num -n",
        low=1,
        high=MOST_VARIATIONS,
    )
    seed: int | None = _clip(
        "The same seed and settings make the same sound. Default: random, and printed.",
        low=0,
        high=MAX_SEED,
        words="a whole number from 0 to 2^63 - 1",
    )
    negative: str | None = _clip("Negative prompt: guidance steers away from it.")


def seconds_of(text: str | float) -> float:
    """Parse a flag's time. Raises NotOfTypeError if it is not valid."""
    try:
        return parse_seconds(str(text))
    except ValueError:
        raise NotOfTypeError("seconds or minutes: 90 or 1:30") from None


@dataclass(frozen=True)
class ClipOptions(SeedOptions):
    """Flags for clips."""

    duration: float | None = _clip(
        "Length, as 90 or 1:30. Default: the model's segment; longer clips are made window by window.",
        flags="--duration -d",
        metavar="SECONDS",
        parser=seconds_of,
        **SECONDS,
    )


@dataclass(frozen=True)
class DecodingOptions:
    """Flags for decoding: DecodingConfig's, and a preset for its steps."""

    preset: str | None = _decoding(
        "Decoding steps, scaled from the checkpoint's: "
        f"{', '.join(f'{name} (x{scale:g})' for name, scale in PRESETS.items())}.",
        metavar="NAME",
        autocompletion=lambda: list(PRESETS),
    )
    config: DecodingConfig = part(DecodingConfig, DECODING)  # without the preset

    def __post_init__(self) -> None:
        check_preset(self.preset)
        if self.preset is not None and self.config.decoding_steps is not None:
            raise UsageError("--preset and --steps both set the steps.", "Remove one of them.")

    def over(self, defaults: DecodingConfig) -> DecodingConfig:
        """The given settings, with the preset's steps scaled from a checkpoint's.
        Raises UsageError if the checkpoint has no steps to scale."""
        return with_preset(self.config, self.preset, defaults)


@dataclass(frozen=True)
class PartnerOptions:
    """Flags for partners: a rescorer, and a hybrid's autoregressive model."""

    rescorer: str | None = _partners(
        "An autoregressive or hybrid model with the same codec that helps decide which spans "
        "are masked again; `self`: a hybrid-trained model's own causal mode.",
        metavar="NAME",
        autocompletion=complete_model,
    )
    config: DecodingConfig = part(DecodingConfig, PARTNERS)
    hybrid_model: str | None = _partners(
        "The model for --hybrid: an autoregressive one with the same codec. "
        "A hybrid-trained model needs none.",
        metavar="NAME",
        autocompletion=complete_model,
    )

    def __post_init__(self) -> None:
        check_rescorer(self.config, self.rescorer)

    def refuse(self, what: str) -> None:
        """Raise UsageError if a partner or another --hybrid length was given, which `what` does not support.

        A hybrid-trained model's own beginning is supported: its sampling settings, and none (`--hybrid 0`).
        """
        if self.rescorer is not None or self.hybrid_model is not None or self.config.hybrid:
            raise UsageError(
                f"{what} use one model, without partners.",
                "Remove --rescorer, --hybrid-model and --hybrid (except --hybrid 0).",
            )


@dataclass(frozen=True)
class FileOptions:
    """Flags for output files."""

    destination: str | None = _files(
        "File, folder, or `-` for stdout. For several clips the name is numbered, or has `{seed}`, `{slug}` "
        "or `{index}`. Default: a name made from the input or the prompt, and the seed.",
        flags="--output -o",
        metavar="FILE",
    )
    force: bool = _files("Replace files that exist.", False, flags="--force -f")
    play: bool = _files("Play the results; loops play until Enter.", False)


@dataclass(frozen=True)
class CodesFileOptions(FileOptions):
    """Flags for output files of commands whose whole output is decoded from codes."""

    codes: Path | None = _files("Also save the codes, as .npz [streams, frames].")


@dataclass(frozen=True)
class WindowOptions:
    """Flags for sounds longer than the model's segment."""

    overlap: float | None = _windows(
        "Overlap of each window with the sound before it. Default: 0.3 of the segment.",
        metavar="SECONDS",
        **SECONDS,
    )


@dataclass(frozen=True)
class PieceOptions(WindowOptions):
    """Flags for long pieces."""

    at: tuple[float, ...] = _windows(
        "When the following prompt begins, as 90 or 1:30: --at 0 PROMPT --at 6 PROMPT. Prompts change over "
        "within a second.",
        (),
        metavar="SECONDS",
        parser=seconds_of,
        low=0,
        below=1e6,
        words="seconds from 0",
    )
    keep_partial: bool = _windows("On Ctrl-C, keep the finished part of the piece.", False)


def typed_flag(name: str, arguments: Sequence[str]) -> str:
    """The flag of a setting as it was typed; if it was not, its usual flag, or the name if it has none."""
    tables = (DecodingConfig, OutputConfig, BarsConfig, ClipOptions, PieceOptions, PartnerOptions)
    each = next((one for table in tables for one in flags_of(table) if one.name == name), None)
    kebab = name.replace("_", "-")
    flags = (
        [f"--{kebab}", f"--no-{kebab}"] if each is None else each.flags.replace("/", " ").split()
    )
    for flag in flags if each is None else [*flags, *filter(None, each.names)]:
        if any(word.partition("=")[0] == flag for word in arguments):
            return flag
    return name if each is None else each.names[0]


@dataclass(frozen=True)
class TalkOptions:
    """Flags for what is printed (see `Talk`)."""

    json: bool = _talk("Print one JSON object per line on stdout.", False)
    quiet: bool = _talk("Print errors only.", False, flags="--quiet -q")
    debug: bool = _talk("Show the traceback of an error.", False)


@dataclass(frozen=True)
class StepTalkOptions(TalkOptions):
    """Flags for what is printed, for commands that make clips one by one."""

    verbose: bool = _talk(
        "Without a progress bar: report what is loaded, and each finished stream.",
        False,
        flags="--verbose -v",
    )
