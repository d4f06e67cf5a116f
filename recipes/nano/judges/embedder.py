"""The tagger as an embedder for `magnet eval` and `magnet sweep`: a plugin, as any package can provide.

    pip install -e recipes                          # registers it (recipes/pyproject.toml)
    magnet eval clips --reference test --embedder musicnn=musicnn-0.1.0-py3-none-any.whl

It recognizes music: MagnaTagATune's instruments, styles and moods. It does not know sound effects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from magnet_cli.errors import UsageError
from recipes.nano.judges.tagger import HOP, PATCH_FRAMES, SAMPLE_RATE, Tagger, patches


class TaggerEmbedder:
    """Three seconds of music -> 200 numbers."""

    name = "musicnn"
    sample_rate = SAMPLE_RATE
    window = PATCH_FRAMES * HOP  # one patch

    def __init__(self, wheel: Path) -> None:
        self._tagger = Tagger(wheel)
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tagger.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        self.identity = f"musicnn 1 {digest.hexdigest()}"

    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        """See magnet_cli.evaluation.embedders.Embedder; D = 200. Audio shorter than a patch is repeated."""
        whole = []
        for window in windows:
            times = -(-self.window // len(window))
            whole.append(patches(window.repeat(times)[: self.window].float())[:1])
        return self._tagger.judge(torch.cat(whole))[1]


def load(argument: str | None, device: str) -> TaggerEmbedder:
    """The entry point; `argument` is the wheel.

    Raises:
        UsageError: there is none.
    """
    if argument is None or not Path(argument).is_file():
        raise UsageError(
            "The embedder musicnn needs its wheel, for its weights.",
            "Fetch it (pip download musicnn --no-deps), then say --embedder musicnn=FILE.",
        )
    return TaggerEmbedder(Path(argument))
