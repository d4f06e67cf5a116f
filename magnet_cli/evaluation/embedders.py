"""Judges: what turns sound into numbers that distances are taken of. How to name one, and the one built in.

A judge hears windows of one length at one rate. `mel` needs no weights and is at hand everywhere; CLAP and
AST come through transformers (judges.py), from the hub or a folder; others through entry points:

    [project.entry-points."magnet_cli.embedders"]
    mine = "my_package:load"        # load(argument: str | None, device: str) -> Embedder

are used as `--embedder mine`, or as `--embedder mine=ARGUMENT`.
"""

from __future__ import annotations

import functools
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
    """What hears.

    Attributes:
        name: what a column's heading calls it.
        identity: another one for everything that changes its numbers: weights, version.
        sample_rate: Hz.
        window: samples that it hears at once.
    """

    name: str
    identity: str
    sample_rate: int
    window: int


@runtime_checkable
class Embedder(Judge, Protocol):
    """Sound -> points in a space where near means alike, to this judge."""

    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        """Mono sounds [samples], none longer than `window` -> float32 [B, D]."""
        ...


@runtime_checkable
class TextEmbedder(Embedder, Protocol):
    """One that puts texts into the same space."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> float32 [B, D]."""
        ...


@runtime_checkable
class Classifier(Judge, Protocol):
    """Sound -> how likely each of its classes is."""

    def classify(self, windows: Sequence[Tensor]) -> Tensor:
        """Mono sounds [samples], none longer than `window` -> float32 [B, classes], each summing to 1."""
        ...


Load = Callable[[str | None, str], Embedder]


def windows_of(sound: Tensor, window: int) -> list[Tensor]:
    """A sound [samples] cut into windows, one after the other; each sample is heard once at most.

    What is left over counts where it is half a window or more, or all there is.
    """
    pieces = list(sound.split(window))
    return pieces[:-1] if len(pieces) > 1 and 2 * len(pieces[-1]) < window else pieces


def find_embedder(
    spec: str, *, device: str = "cpu", offline: bool = False, progress: Callable | None = None
) -> Embedder:
    """The embedder that `--embedder` names: built in, a plugin, a folder, or a model on the hub.

    Raises:
        UsageError: nothing has that name.
        ModelNotFoundError, CheckpointError: it could not be had, or is no model that embeds.
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
            f"Take one of {known}, a model on the hub (laion/larger_clap_music) or its folder.",
        )
    from magnet_cli.evaluation.judges import load_clap

    return load_clap(spec, device=device, offline=offline, progress=progress)


class MelEmbedder:
    """Mean, spread and movement of 64 mel bands: what an equaliser shows. It is no judge of perception.

    It hears neither melody nor rhythm, so two sounds that nobody would confuse may be close. It serves to
    try a comparison out, and to find gross faults (noise, silence, a wrong spectrum) without any weights.
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
    """Triangles [bands, bins] on the mel scale of O'Shaughnessy (1987), from 0 to 8 kHz."""
    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    top = 2595 * torch.log10(torch.tensor(1 + MelEmbedder.sample_rate / 2 / 700, **plain))
    edges = 700 * (10 ** (torch.linspace(0, float(top), _BANDS + 2, **plain) / 2595) - 1)
    bins = torch.linspace(0, MelEmbedder.sample_rate / 2, _FFT // 2 + 1, **plain)
    rising = (bins - edges[:-2, None]) / edges.diff()[:-1, None]
    falling = (edges[2:, None] - bins) / edges.diff()[1:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def _plugins() -> dict[str, Callable[[], Load]]:
    """What other packages offer, by name: how to import each."""
    from importlib.metadata import entry_points

    return {entry.name: entry.load for entry in entry_points(group=ENTRY_POINTS)}


def _loaded(name: str, plugin: Callable[[], Load], argument: str | None, device: str) -> Embedder:
    """A plugin's embedder; its mistakes are its own, and said to be.

    Raises:
        CheckpointError: it does not load, or is none.
    """
    try:
        embedder = plugin()(argument, device)
    except MagnetError:
        raise
    except Exception as error:  # anything may go wrong in code that is not ours
        raise CheckpointError(
            f"The embedder {name} could not be loaded: {reason(error)}.",
            "It comes from another package; see what that one needs.",
        ) from error
    if not isinstance(embedder, Embedder):
        raise CheckpointError(
            f"What the plugin {name} gives is not an embedder.",
            "It needs name, identity, sample_rate, window and embed (docs/evaluation.md).",
        )
    return embedder


def short_name(spec: str) -> str:
    """What to call a model in a column: the last part of its name or path."""
    return os.path.basename(spec.rstrip("/\\").partition("@")[0]) or spec
