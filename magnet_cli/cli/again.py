"""Builds the command line that makes a clip again, from the record in its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magnet_cli import resolving
from magnet_cli.audio.formats import CONTAINERS
from magnet_cli.checkpoints import registry
from magnet_cli.checkpoints.loras import Lora
from magnet_cli.checkpoints.registry import builtin_weights
from magnet_cli.cli import configuration
from magnet_cli.cli.recorded import HELPERS, protected, recorded, table_in
from magnet_cli.cli.settings import DecodingOptions, PartnerOptions, as_text, flags_of, spelled
from magnet_cli.config import LMConfig, Modeling
from magnet_cli.editing.windows import OVERLAP
from magnet_cli.errors import MagnetError
from magnet_cli.foreign import reading
from magnet_cli.settings import (
    LOSSY,
    OUTPUT_DEFAULTS,
    UNRECORDED_DECODING,
    UNRECORDED_OUTPUT,
    UNRECORDED_WEIGHTS,
    DecodingConfig,
    OutputConfig,
    steady,
)

_DECODING = frozenset(field.name for field in dataclasses.fields(DecodingConfig))


def command_for(made: Mapping[str, Any], name: str, suffix: str = "") -> list[str]:
    """The command line that makes a clip again, from the record in its file.

    It has all settings that were given, and used settings that differ from today's defaults. For what a
    record lacks, the defaults of that time apply (settings.UNRECORDED_*).

    Args:
        made: the record, perhaps from another version or tampered with: invalid values are ignored.
        name: the file to write.
        suffix: the suffix of the clip's format, such as wav, for a `name` without one.
    """
    made = recorded(made)
    edit = made.get("edit", {})
    arguments = ["magnet", *_called(edit)]
    model = model_of(made)
    if model is not None:
        arguments += ["-m", model]
    for lora in loras_of(made):
        arguments += ["--lora", str(lora)]
    for key in ("seed", "negative", "duration"):
        value = made.get(key)
        if isinstance(value, (int, float, str)):
            arguments += [f"--{key}", as_text(value)]
    helpers = {
        part: model_of(made[part]) for part in HELPERS if isinstance(made.get(part), Mapping)
    }
    told = _fitting(made, table_in(made, "given") | _sayable(made, _used_otherwise(made)))
    for group, values in (
        (PartnerOptions, {**helpers, **told}),
        (DecodingOptions, told),
        (OutputConfig, _output(made, _format_of(name, suffix))),
    ):
        arguments += spelled(group, values)
    if made.get("dtype") not in (None, _dtype_of_auto(made)):
        arguments += ["--dtype", as_text(made["dtype"])]
    if suffix and not _says_format(name):
        if edit.get("command") == "edit" and "--through-codec" not in _edit_flags(edit):
            name = f"{name}.{suffix}"  # such an edit has no output flags
        elif suffix in CONTAINERS:
            arguments += ["--format", suffix]
    if configuration.read().defaults.keys() - {"model"}:  # config.toml must not change the result
        arguments += ["--profile", configuration.NO_PROFILE]
    arguments += ["-o", name if not name.startswith("-") else f"./{name}"]
    arguments += [*_edit_flags(edit), *_overlap(made)]
    prompts = _timed(edit) or [as_text(made.get("prompt") or "")]
    return protected(arguments, prompts)


def _dtype_of_auto(made: Mapping[str, Any]) -> str | None:
    """The dtype that `--dtype auto` chooses on any machine; None if it depends on the CPU."""
    if made.get("device") == "cuda":
        return "float16"
    known = registry.find(str(made.get("model") or ""))
    is_builtin = known is not None and known.repo is None
    return "float32" if is_builtin or made.get("device") != "cpu" else None


def prompt_line(made: Mapping[str, Any], suffix: str) -> dict[str, Any] | None:
    """The line of a prompt file that makes a clip again, without its models; None if there is none.

    Args:
        made: as for `command_for`.
        suffix: the clip's suffix, without the dot.
    """
    made = recorded(made)
    edit = made.get("edit", {})
    task, *source = _called(edit)
    flags = {name: value for name, value in table_in(edit, "flags").items() if value}
    if not made.get("prompt") or source == ["-"]:
        return None
    kept = [name for name in ("prompt", "negative", "duration") if made.get(name)]
    own = {name: made[name] for name in (*kept, "seed") if name in made}
    if flags.pop("loop", False):
        task = "loop"
        flags |= _before_tries(edit)
    if task != "gen":
        own["task"] = task
    if source:
        own["input"] = edit["input"]
    if "to" in flags:
        own["duration"] = flags.pop("to")
    own |= {name: value for name, value in flags.items() if value}
    if _timed(edit):
        own["at"] = edit["cues"][1:]
    if suffix in CONTAINERS and suffix != "wav" and (task != "edit" or "through_codec" in own):
        own["format"] = suffix
    said = {**own, **_fitting(made, table_in(made, "given")), **_output(made, suffix)}
    return {name: value for name, value in said.items() if value is not None}


def models_of_line(made: Mapping[str, Any]) -> dict[str, Any] | None:
    """A prompt file's values for a clip's model and adapters; None if the model is unknown."""
    model, loras = model_of(made), [str(lora) for lora in loras_of(made)]
    if model is None:
        return None
    return {"model": model, "lora": loras} if loras else {"model": model}


def differences(made: Mapping[str, Any]) -> list[str]:
    """Reasons why a clip's command would not reproduce its samples, in words."""
    made = recorded(made)
    found = []
    for model in (made, *(table_in(made, part) for part in HELPERS)):
        name = model.get("model")
        if not isinstance(name, str) or model_of(model) != name or model.get("source"):
            continue
        then, now = model.get("weights", UNRECORDED_WEIGHTS.get(name)), builtin_weights(name)
        if now is not None and then is not None and then != now:
            found.append(f"the weights of {name} have changed since")
    for lora, told in zip(loras_of(made), made.get("lora", []), strict=True):
        try:
            changed = told.get("weights") not in (None, lora.id)
        except (OSError, ValueError):
            changed = False  # a missing file is an error of the command
        if changed:
            found.append(f"the LoRA {lora.file} has changed")
    found += [
        f"the {part.replace('_', ' ')} had a LoRA, for which there is no flag"
        for part in HELPERS
        if "lora" in table_in(made, part)
    ]
    used, given = _used_otherwise(made), table_in(made, "given")
    silent = used.keys() - _fitting(made, _sayable(made, used)).keys()
    silent |= given.keys() - _fitting(made, given).keys()
    silent |= table_in(made, "decoding").keys() - _DECODING
    silent |= {name for name, value in _output(made, "").items() if value is None}
    if silent:
        found.append(f"no flag sets {', '.join(sorted(silent))} as it was")
    return found


def _sayable(made: Mapping[str, Any], used: Mapping[str, Any]) -> dict[str, Any]:
    """The decoding settings in `used` that the clip's command has flags for."""
    takes = {each.name for each in flags_of(DecodingOptions)}
    edit = table_in(made, "edit")
    if _called(edit) == ["gen"]:
        takes |= {each.name for each in flags_of(PartnerOptions)}
        if edit and used.get("hybrid"):
            takes.remove("hybrid")  # a piece always uses the checkpoint's own, or none
    return {name: value for name, value in used.items() if name in takes}


def _fitting(made: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """`told` without steps for stages that an earlier built-in model had."""
    known, steps = _known(made), told.get("decoding_steps")
    own = known.decoding.decoding_steps if known is not None and known.repo is None else None
    fit = not own or not isinstance(steps, (list, tuple)) or len(steps) in (1, len(own))
    return {name: value for name, value in told.items() if fit or name != "decoding_steps"}


def _format_of(name: str, suffix: str) -> str:
    """The format of a file by its name, or else by `suffix`."""
    return Path(name).suffix.lower().removeprefix(".") if _says_format(name) else suffix


def _output(made: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The output settings of a clip that differ from today's defaults for its format (wav)."""
    edit = table_in(made, "edit")
    if edit.get("command") == "edit" and "--through-codec" not in _edit_flags(edit):
        return {}  # its output has the input's format
    today = dataclasses.asdict(OUTPUT_DEFAULTS)
    if today["true_peak"] is None:
        today["true_peak"] = kind in LOSSY
    recorded = UNRECORDED_OUTPUT | table_in(made, "output")
    fade = recorded["fade"]  # one time for both ends, or a list of two
    recorded["fade"] = tuple(fade)[:2] if isinstance(fade, (list, tuple)) else (fade,)
    return {name: value for name, value in recorded.items() if value != today.get(name)}


def _used_otherwise(made: Mapping[str, Any]) -> dict[str, Any]:
    """Decoding settings that were used by default and whose default is another today."""
    recorded = {name: _tupled(value) for name, value in table_in(made, "decoding").items()}
    asked = {name: _tupled(value) for name, value in table_in(made, "given").items()}
    found: dict[str, Any] = {}
    more = recorded
    while more:  # a given setting may change other defaults: one filter switches the other off
        try:
            now = _used_now(made, recorded, {**asked, **found})
        except (MagnetError, TypeError, ValueError):  # tampered with
            break
        then = UNRECORDED_DECODING | recorded
        more = {
            name: then[name]
            for name, value in now.items()
            if name in then and then[name] != value and name not in {*asked, *found}
        }
        found |= more
    return found


def _used_now(
    made: Mapping[str, Any], recorded: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The decoding settings that the clip would be made with today, given `asked`.
    Raises MagnetError, TypeError, ValueError: values in the record are not valid."""
    known = _known(made)
    steps, seconds = recorded.get("decoding_steps"), recorded.get("hybrid")
    modeling: Modeling = "autoregressive" if steps is None else "masked"
    if known is not None:
        modeling = known.modeling
    elif seconds and "hybrid_model" not in made:
        modeling = "hybrid"
    shape = LMConfig(
        dim=1, num_heads=1, num_layers=1, n_q=len(steps) if steps else 4, card=1, text_dim=1,
        modeling=modeling, frame_rate=1.0, segment_duration=1.0,
    )  # fmt: skip
    own = known.decoding if known is not None else DecodingConfig()
    given = DecodingConfig(**{"hybrid": own.hybrid, **asked})  # said, so that nothing is refused
    if table_in(made.get("edit", {}), "flags").get("exact") is False:  # a loop or bars with a beat
        given = steady(given, own)
    config = resolving.resolve(given, own, shape, "rescorer" in made)
    beginning = config.hybrid or 0.0
    if asked.get("hybrid") is None and beginning:
        # A checkpoint's default is limited by the clip's length; a piece uses it in its first window only.
        longest = made.get("duration") or (known.segment_duration if known is not None else 0.0)
        longest = 0.0 if "edit" in made else longest
        beginning = min(beginning, max(seconds or 0.0, longest))
    prefix = None
    if beginning and modeling != "autoregressive":
        writer = _known(table_in(made, "hybrid_model"))
        writes = writer is not None and writer.modeling == "autoregressive"
        prefix = resolving.for_prefix(
            config, writer.decoding if writer is not None and writes else DecodingConfig()
        )
    return resolving.used(
        config, modeling, rescored="rescorer" in made, hybrid=beginning, prefix=prefix
    )


def _known(made: Mapping[str, Any]) -> registry.KnownCheckpoint | None:
    """What is known of a clip's model without loading it, or None."""
    source = made.get("source")
    if not isinstance(source, str):
        name = made.get("repo") or made.get("model")
        return registry.find(name) if isinstance(name, str) else None
    try:
        folder = Path(source).expanduser()
        config = reading.read_object(folder / "config.json")
        return registry.described(config, str(made.get("model")), folder)
    except (OSError, ValueError, RuntimeError):
        return None


def _overlap(made: Mapping[str, Any]) -> list[str]:
    """The --overlap flag, if the windows' default overlap has changed since."""
    edit = table_in(made, "edit")
    flags, used, known = table_in(edit, "flags"), edit.get("overlap"), _known(made)
    if "overlap" not in flags or flags["overlap"] is not None or not isinstance(used, float):
        return []
    rounding = 0.02  # seconds: an overlap is rounded to frames
    if known is not None and abs(used - OVERLAP * known.segment_duration) <= rounding:
        return []
    return ["--overlap", as_text(used)]


def _says_format(name: str) -> bool:
    """Whether a file's suffix is a format that some command can write."""
    return Path(name).suffix.lower().removeprefix(".") in {*CONTAINERS, "aif", "aiff", "oga"}


def _called(edit: Mapping[str, Any]) -> list[str]:
    """The command of a clip, and its input if it has one."""
    command, source = edit.get("command"), edit.get("input")
    if command in ("extend", "edit", "vary") and isinstance(source, str):
        return [command, source if not source.startswith("-") or source == "-" else f"./{source}"]
    return ["gen"]


def _edit_flags(edit: Mapping[str, Any]) -> list[str]:
    """The command's own flags as arguments; lists are repeated flags."""
    arguments = []
    for name, value in {**_before_tries(edit), **table_in(edit, "flags")}.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            for one in value if isinstance(value, list) else [value]:
                arguments += [flag, as_text(one)]
    return arguments


def _before_tries(edit: Mapping[str, Any]) -> dict[str, Any]:
    """Flags that keep the behaviour of a loop made before these flags existed."""
    flags = table_in(edit, "flags")
    if flags.get("loop") is not True:
        return {}
    if "exact" not in flags:
        return {"exact": True}  # before loops followed their beat
    return {} if flags["exact"] or "tries" in flags else {"tries": 1}


def _timed(edit: Mapping[str, Any]) -> list[str]:
    """A piece's prompts with their times, if there are several: `A --at 6 B`."""
    cues = edit.get("cues")
    if not isinstance(cues, list) or len(cues) < 2:
        return []
    pairs = [(cue[0], as_text(cue[1])) for cue in cues if isinstance(cue, list) and len(cue) == 2]
    words = [word for start, prompt in pairs for word in ("--at", as_text(start), prompt)]
    return words[2:]


def model_of(made: Mapping[str, Any]) -> str | None:
    """A clip's model, as a value of `--model`."""
    repo, revision = made.get("repo"), made.get("revision")
    if isinstance(repo, str):
        return f"{repo}@{revision}" if isinstance(revision, str) else repo
    name = made.get("source") or made.get("model")
    return name if isinstance(name, str) else None


def loras_of(made: Mapping[str, Any]) -> list[Lora]:
    """The adapters of a clip's model, in order."""
    return [Lora(one["file"], float(one["scale"])) for one in recorded(made).get("lora", [])]


def _tupled(value: Any) -> Any:
    """Turn JSON's lists into tuples, as settings have them."""
    return tuple(value) if isinstance(value, list) else value
