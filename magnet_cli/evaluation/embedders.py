"""Judges: models that turn sound into embeddings or class probabilities; finding them, and the built-in one.

A judge takes windows of fixed length at one sample rate. `mel` is built in and needs no weights; CLAP and
AST are loaded with transformers (judges.py) from the hub or a folder; other packages add entry points:

    [project.entry-points."magnet_cli.embedders"]
    mine = "my_package:load"        # load(argument: str | None, device: str) -> Embedder

used as `--embedder mine` or `--embedder mine=ARGUMENT`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from magnet_cli.errors import CheckpointError, MagnetError, UsageError
from magnet_cli.foreign.reading import reason

ENTRY_POINTS = "magnet_cli.embedders"
MEL = "mel"


class Judge(Protocol):
    """What embedders and classifiers have in common.

    Attributes:
        name: shown in column headings.
        identity: differs for everything that changes the output: weights, version.
        sample_rate: Hz.
        window: samples per window.
    """

    name: str
    identity: str
    sample_rate: int
    window: int


@runtime_checkable
class Embedder(Judge, Protocol):
    """Maps sound to embeddings, close together for similar sounds."""

    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        """Mono sounds [samples], none longer than `window` -> float32 [B, D]."""
        ...


@runtime_checkable
class TextEmbedder(Embedder, Protocol):
    """An embedder that also maps text into the same space."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> float32 [B, D]."""
        ...


@runtime_checkable
class Classifier(Judge, Protocol):
    """Maps sound to class probabilities."""

    def classify(self, windows: Sequence[Tensor]) -> Tensor:
        """Mono sounds [samples], none longer than `window` -> float32 [B, classes], each summing to 1."""
        ...


Load = Callable[[str | None, str], Embedder]


def windows_of(sound: Tensor, window: int) -> list[Tensor]:
    """Cut a sound [samples] into consecutive windows.

    The remainder is kept if it is at least half a window long, or the only window.
    """
    pieces = list(sound.split(window))
    return pieces[:-1] if len(pieces) > 1 and 2 * len(pieces[-1]) < window else pieces


def find_embedder(
    spec: str, *, device: str = "cpu", offline: bool = False, progress: Callable | None = None
) -> Embedder:
    """Find an embedder by the value of `--embedder`: built in, a plugin, a folder, or a model on the hub.

    Raises:
        UsageError: there is no embedder of that name.
        ModelNotFoundError, CheckpointError: it could not be fetched, or is not an embedder.
    """
    name, said, argument = spec.partition("=")
    if name == MEL and not said:
        return MelEmbedder()
    plugin = _plugins().get(name)
    if plugin is not None:
        return _loaded(name, plugin, argument if said else None, device)
    if "/" not in spec and not Path(spec).is_dir():
        known = ", ".join([MEL, *sorted(_plugins())])
        raise UsageError(
            f"There is no embedder {spec[:100]!r}.",
            f"Use {known}, a model on the hub (laion/larger_clap_music) or its folder.",
        )
    from magnet_cli.evaluation.judges import load_clap

    return load_clap(spec, device=device, offline=offline, progress=progress)


class MelEmbedder:
    """Mean, standard deviation and mean change of 64 mel bands. It is no measure of perception.

    It ignores melody and rhythm, so clearly different sounds may be close. Use it to try a comparison
    out, and to find gross faults (noise, silence, a wrong spectrum) without weights.
    """

    name = MEL
    identity = "mel 1"
    sample_rate = 16_000
    window = 160_000

    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        """See Embedder; D = 192."""
        return torch.stack([self._one(window.float()) for window in windows])

    def _one(self, sound: Tensor) -> Tensor:
        sound = torch.nn.functional.pad(sound, (0, max(0, 2 * _FFT - len(sound))))
        shape = torch.hann_window(_FFT, dtype=torch.float32, device="cpu")
        spectrum = torch.stft(sound, _FFT, _FFT // 2, window=shape, return_complex=True)
        levels = (_mel_filters() @ spectrum.abs().square() + 1e-5).log()  # [bands, frames]
        moves = levels.diff(dim=1).abs().mean(1)
        return torch.cat([levels.mean(1), levels.std(1), moves])


_FFT, _BANDS = 512, 64


@functools.lru_cache(maxsize=1)
def _mel_filters() -> Tensor:
    """Triangular filters [bands, bins] on the mel scale of O'Shaughnessy (1987), from 0 to 8 kHz."""
    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    top = 2595 * torch.log10(torch.tensor(1 + MelEmbedder.sample_rate / 2 / 700, **plain))
    edges = 700 * (10 ** (torch.linspace(0, float(top), _BANDS + 2, **plain) / 2595) - 1)
    bins = torch.linspace(0, MelEmbedder.sample_rate / 2, _FFT // 2 + 1, **plain)
    rising = (bins - edges[:-2, None]) / edges.diff()[:-1, None]
    falling = (edges[2:, None] - bins) / edges.diff()[1:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def _plugins() -> dict[str, Callable[[], Load]]:
    """Entry points of other packages: the function that imports each, by name."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {entry.name: entry.load for entry in found}


def _loaded(name: str, plugin: Callable[[], Load], argument: str | None, device: str) -> Embedder:
    """Load a plugin's embedder; errors name the plugin.
    Raises CheckpointError: it does not load, or returns something else."""
    try:
        embedder = plugin()(argument, device)
    except MagnetError:
        raise
    except Exception as error:  # third-party code may raise anything
        raise CheckpointError(
            f"The embedder {name} could not be loaded: {reason(error)}.",
            "It comes from another package; see that package's documentation.",
        ) from error
    if not isinstance(embedder, Embedder):
        raise CheckpointError(
            f"The plugin {name} did not return an embedder.",
            "It needs name, identity, sample_rate, window and embed (docs/evaluation.md).",
        )
    return embedder


def short_name(spec: str) -> str:
    """A model's name in column headings: the last part of its name or path."""
    return os.path.basename(spec.rstrip("/\\").partition("@")[0]) or spec
