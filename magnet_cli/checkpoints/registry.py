"""Tables of the known checkpoints and of file layouts. Imports no torch.

The figures are from the model cards and docs/reference.md, Released checkpoints; they are for lists only, as
a checkpoint's sizes are read from its `xp.cfg`. The decoding defaults are those its authors published. Only
the files that a layout needs are fetched from a repository.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from magnet_cli.config import Modeling
from magnet_cli.errors import CheckpointError, ModelNotFoundError, UsageError
from magnet_cli.foreign import reading
from magnet_cli.foreign.bounds import BOUNDS
from magnet_cli.foreign.reading import ReadError
from magnet_cli.settings import DecodingConfig

Kind = Literal["music", "sound"]

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUILTIN_NAMES = ("nano",)

META_LICENCE = "CC-BY-NC-4.0"

_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint that can be named without its repository."""

    name: str
    aliases: tuple[str, ...]  # shorter names
    repo: str | None  # on the hub; None: built in
    licence: str | None  # of the weights, as an SPDX id; None: unknown
    kind: Kind | None  # None: unknown
    modeling: Modeling
    sample_rate: int  # Hz
    segment_duration: float  # seconds of a training segment, and the default length
    parameters: int  # of the language model
    download_mb: int  # MB to fetch, rounded: language model and codec
    text_encoder: str | None  # a key of TEXT_ENCODER_MB; None: comes with the checkpoint
    decoding: DecodingConfig  # the authors' settings
    directory: Path | None = None  # of its files, if built in


# MB of the text encoders' files; one encoder serves all checkpoints that name it.
TEXT_ENCODER_MB = {"t5-base": 893, "t5-large": 2952}

_MASKED = DecodingConfig(
    decoding_steps=(20, 10, 10, 10),
    temperature=3.0,
    anneal_temperature=True,
    top_p=0.9,
    top_k=0,
    use_sampling=True,
    max_cfg_coef=10.0,
    min_cfg_coef=1.0,
    span_arrangement="nonoverlap",
    span_scoring="max",
)
_MASKED_30_SECONDS = dataclasses.replace(_MASKED, decoding_steps=(60, 10, 10, 10))
_MASKED_SOUND = dataclasses.replace(_MASKED, temperature=3.5, top_p=0.8, max_cfg_coef=20.0)
_AUTOREGRESSIVE = DecodingConfig(
    temperature=1.0, top_k=250, top_p=0.0, use_sampling=True, cfg_coef=3.0
)


def _music(
    name: str, aliases: tuple[str, ...], seconds: float, parameters: int, mb: int
) -> KnownCheckpoint:
    decoding = _MASKED if seconds < 30 else _MASKED_30_SECONDS
    return KnownCheckpoint(
        name, aliases, f"facebook/{name}", META_LICENCE, "music", "masked", 32_000, seconds,
        parameters, mb, "t5-base", decoding,
    )  # fmt: skip


def _sound(name: str, aliases: tuple[str, ...], parameters: int, mb: int) -> KnownCheckpoint:
    return KnownCheckpoint(
        name, aliases, f"facebook/{name}", META_LICENCE, "sound", "masked", 16_000, 10.0,
        parameters, mb, "t5-large", _MASKED_SOUND,
    )  # fmt: skip


def _musicgen(name: str, parameters: int, mb: int) -> KnownCheckpoint:
    aliases = ("musicgen",) if name == "musicgen-small" else ()
    return KnownCheckpoint(
        name, aliases, f"facebook/{name}", META_LICENCE, "music", "autoregressive", 32_000, 30.0,
        parameters, mb, "t5-base", _AUTOREGRESSIVE,
    )  # fmt: skip


RELEASED = (
    _music("magnet-small-10secs", ("small", "small-10"), 10.0, 420_000_000, 1080),
    _music("magnet-medium-10secs", ("medium", "medium-10"), 10.0, 1_840_000_000, 3920),
    _music("magnet-small-30secs", ("small-30",), 30.0, 420_000_000, 1080),
    _music("magnet-medium-30secs", ("medium-30",), 30.0, 1_840_000_000, 3920),
    _sound("audio-magnet-small", ("audio-small",), 420_000_000, 1080),
    _sound("audio-magnet-medium", ("audio-medium",), 1_840_000_000, 3920),
    _musicgen("musicgen-small", 420_000_000, 1080),
    _musicgen("musicgen-medium", 1_840_000_000, 3920),
    _musicgen("musicgen-large", 3_250_000_000, 6740),
    KnownCheckpoint(
        "audiogen-medium", ("audiogen",), "facebook/audiogen-medium", META_LICENCE, "sound",
        "autoregressive", 16_000, 10.0, 1_840_000_000, 3920, "t5-large", _AUTOREGRESSIVE,
    ),
)  # fmt: skip


def known_checkpoints() -> tuple[KnownCheckpoint, ...]:
    """All known checkpoints, the built-in ones first if this installation has them."""
    builtin = (_builtin(name) for name in BUILTIN_NAMES)
    return (*(entry for entry in builtin if entry is not None), *RELEASED)


def find(spec: str) -> KnownCheckpoint | None:
    """The known checkpoint with this name, alias or repository, or None."""
    for entry in known_checkpoints():
        if spec == entry.repo or spec in (entry.name, *entry.aliases):
            return entry
    return None


def names() -> tuple[str, ...]:
    """Every name and alias, for completion and for messages."""
    return tuple(name for entry in known_checkpoints() for name in (entry.name, *entry.aliases))


def near_names(spec: str) -> list[str]:
    """Up to three known names similar to `spec`, the nearest first."""
    wanted = spec[:100].rpartition("/")[2].lower()
    return difflib.get_close_matches(wanted, names(), n=3, cutoff=0.5)


def unknown_name(spec: str) -> ModelNotFoundError:
    """The error for an unknown name: it lists similar names, or all of them if none is similar."""
    near = near_names(spec)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    else:
        all_names = ", ".join(entry.name for entry in known_checkpoints())
        hint = f"Known models: {all_names}. A hub id (owner/name) or a folder works, too."
    shown = spec if len(spec) <= 80 else spec[:77] + "..."
    return ModelNotFoundError(f"There is no model called {shown!r}.", hint)


def builtin_name() -> str:
    """The name of the default model.
    Raises ModelNotFoundError: this installation has none."""
    for name in BUILTIN_NAMES:
        if _builtin(name) is not None:
            return name
    raise ModelNotFoundError(
        "No model was named, and none is built into this installation.",
        "Name one, for instance `magnet gen -m small ...`, or choose a default: "
        "`magnet models use small`.",
    )


def _builtin(name: str) -> KnownCheckpoint | None:
    """The entry of a built-in checkpoint, read from its config.json (checkpoints/native.py)."""
    directory = ASSETS / name
    try:
        said = described(reading.read_object(directory / "config.json"), name, directory)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise CheckpointError(
            f"magnet runs from inside the file {ASSETS.parent.parent}, where its model cannot be read.",
            "Unpack it, or install it with pip: a zipped installation is not supported.",
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The built-in model {name} is damaged: {reading.reason(error)}.",
            "Install magnet again.",
        ) from error
    return dataclasses.replace(said, licence=said.licence or "MIT", kind=said.kind or "music")


def described(config: dict[str, Any], name: str, directory: Path) -> KnownCheckpoint:
    """Build an entry from the config.json of a model in magnet's own format (checkpoints/native.py).
    Raises ReadError: something is missing, of another type, or out of its bounds."""

    def said(path: str, kinds: tuple[type, ...]) -> Any:
        value: Any = config
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kinds):
            raise ReadError(f"its {path} is {reading.kind_of(value)}")
        return value

    def number(path: str) -> Any:
        name = path.rpartition(".")[2]
        value = said(path, (int, float))
        if not BOUNDS[name].holds(value):
            raise ReadError(f"its {path} is not {BOUNDS[name].takes}")
        return value

    nothing = type(None)
    kind, modeling = said("kind", (str, nothing)), said("lm.modeling", (str,))
    if kind not in (None, *get_args(Kind)) or modeling not in get_args(Modeling):
        raise ReadError("its kind is unknown")
    try:
        decoding = DecodingConfig(**said("defaults", (dict,)))
    except (TypeError, UsageError) as error:
        raise ReadError("its defaults are not decoding settings") from error
    return KnownCheckpoint(
        name=name,
        aliases=(),
        repo=None,
        licence=said("licence", (str, nothing)),
        kind=kind,
        modeling=modeling,
        sample_rate=number("codec.config.sample_rate"),
        segment_duration=number("lm.segment_duration"),
        parameters=number("parameters"),
        download_mb=0,
        text_encoder=None,
        decoding=decoding,
        directory=directory,
    )


@dataclass(frozen=True)
class Layout:
    """The files that a layout needs: for each, the possible names, the preferred first."""

    name: str
    needs: tuple[tuple[str, ...], ...]

    def chosen(self, names: Sequence[str]) -> dict[str, str]:
        """The file that meets each need, by the need's first name; missing ones are left out."""
        found = {}
        for need in self.needs:
            name = next((name for name in need if name in names), None)
            if name is not None:
                found[need[0]] = name
        return found

    def missing(self, names: Sequence[str]) -> list[str]:
        """The needs that no name in `names` meets."""
        return [" or ".join(need) for need in self.needs if not set(need) & set(names)]


_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

AUDIOCRAFT = Layout("audiocraft", (("state_dict.bin",), ("compression_state_dict.bin",)))
NATIVE = Layout(
    "native",
    (
        ("config.json",),
        ("lm.safetensors",),
        ("codec.safetensors",),
        ("text.safetensors",),
        ("tokenizer.json",),
    ),
)
NATIVE_CODEC = Layout("native codec", (("config.json",), ("codec.safetensors",)))
NATIVE_TEXT = Layout("native text encoder", (("config.json",), ("text.safetensors",)))
ENCODEC = Layout("transformers", (("config.json",), _WEIGHTS))
T5 = Layout("t5", (("config.json",), ("tokenizer.json",), _WEIGHTS))


def model_layout(names: Sequence[str]) -> Layout | None:
    """The model layout of a directory or repository with these files; None: not a known one.

    One file that is unique to a layout suffices; `Layout.missing` lists missing files.
    """
    if "state_dict.bin" in names:
        return AUDIOCRAFT
    if "lm.safetensors" in names:
        return NATIVE
    return None


def needed(layout: Layout, names: Sequence[str], source: str) -> list[str]:
    """The names of the files to fetch or read. Raises CheckpointError: some are missing."""
    missing = layout.missing(names)
    if missing:
        hint = f"It needs {', '.join(' or '.join(need) for need in layout.needs)}."
        if missing == ["tokenizer.json"] and "spiece.model" in names:
            hint = (
                "Its spiece.model alone is not read: take the repository's tokenizer.json too, "
                "or make one with `T5TokenizerFast.from_pretrained(...).save_pretrained(...)`."
            )
        raise CheckpointError(f"{source} has no {', '.join(missing)}.", hint)
    return list(layout.chosen(names).values())


def file_names(directory: Path) -> list[str]:
    """The names of the files in a directory; broken links are left out.
    Raises ModelNotFoundError: it cannot be read."""
    try:
        return sorted(path.name for path in directory.iterdir() if path.is_file())
    except OSError as error:
        raise unreadable(directory, error) from error


def unreadable(directory: Path, error: OSError) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{directory} cannot be read: {error.strerror or error}.", "Check its permissions."
    )


def builtin_weights(name: str) -> str | None:
    """The id of a built-in model's weights, independent of its decoding defaults, or None."""
    known = find(name)
    if known is None or known.directory is None:
        return None
    return _weights(known.directory)


@functools.cache  # installed models do not change
def _weights(folder: Path) -> str:
    config = reading.read_json(folder / "config.json")
    digest = hashlib.sha256()
    for part in ("lm", "codec", "text"):
        digest.update(json.dumps(config[part], sort_keys=True).encode())
    for name in sorted({*NATIVE.chosen(file_names(folder)).values()} - {"config.json"}):
        digest.update(f"{name}\0".encode() + hashed(folder / name))
    return f"sha256:{digest.hexdigest()}"


def hashed(path: Path) -> bytes:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with reading.open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()
