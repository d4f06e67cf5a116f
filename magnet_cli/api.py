"""What Python programs use: `load_model`, and a model that generates and edits.

model = load_model("small")
model.generate(["lofi piano"], seeds=[1])
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from magnet_cli.checkpoints.load import LoadedCheckpoint as Parts
from magnet_cli.checkpoints.load import load_checkpoint
from magnet_cli.checkpoints.resolve import resolve
from magnet_cli.decoding.contracts import OnStep
from magnet_cli.errors import UsageError
from magnet_cli.partners import gather
from magnet_cli.pipeline import GenerationResult, Pipeline
from magnet_cli.request import make_request
from magnet_cli.settings import DecodingConfig


class Model(Pipeline):
    """A loaded model: see `Pipeline` for what is known of it."""

    def generate(
        self,
        prompts: Sequence[str | None],
        config: DecodingConfig | None = None,
        seeds: Sequence[int] | None = None,
        negative_prompts: Sequence[str | None] | str | None = None,
        frames: int | None = None,
        prompt_codes: Tensor | None = None,
        known_codes: Tensor | None = None,
        known_mask: Tensor | None = None,
        on_step: OnStep | None = None,
        rescorer: Pipeline | Parts | str | None = None,
        rescorer_weight: float | None = None,
        hybrid: float | None = None,
        hybrid_model: Pipeline | Parts | str | None = None,
    ) -> GenerationResult:
        """Generate one clip for each prompt.

        Args:
            prompts: texts; None (or "") is the null condition.
            config: decoding settings; None in a field means the checkpoint's own default.
            seeds: one for each prompt, 0 or more; None draws fresh ones. The same seeds, model,
                settings, device and dtype give the same codes. An item's are those that it gets alone
                where masks are filled on a CPU; elsewhere, and where codes are written step by step,
                up to the rounding of a batch, which can flip a draw.
            negative_prompts: one for each prompt, or one for all: what to lead away from.
            frames: length of the clip in frames; the default and the most is the segment.
            prompt_codes: int64 [B or 1, K, T'], codes to continue from: known ones at the start.
            known_codes, known_mask: int64 and bool [B or 1, K, frames]: codes to keep, anywhere.
            on_step: called after every decoding step.
            rescorer: an autoregressive or hybrid model with the same codec, or its name, whose
                opinion goes into the span scores; `self`: a hybrid-trained model's own.
            rescorer_weight: this model's share in the scores, 0..1; sets `config.rescorer_weight`.
            hybrid: seconds to write autoregressively before the rest; sets `config.hybrid`.
            hybrid_model: what writes them, a model with the same codec or its name; a
                hybrid-trained model needs none.

        Raises:
            UsageError: an argument cannot be used, or does not fit the others.
            MagnetError: a model given by name cannot be loaded.
        """
        if rescorer_weight is not None or hybrid is not None:
            extra = DecodingConfig(rescorer_weight=rescorer_weight, hybrid=hybrid)
            config = extra.over(config or DecodingConfig())
        request = make_request(
            self.parts,
            prompts,
            config=config,
            seeds=seeds,
            negative_prompts=negative_prompts,
            frames=frames,
            prompt_codes=prompt_codes,
            known_codes=known_codes,
            known_mask=known_mask,
            partners=gather(
                self.parts,
                config or DecodingConfig(),
                _parts_of(rescorer),
                _parts_of(hybrid_model),
                self._load_beside,
            ),
        )
        return self.run(request, on_step)

    def _load_beside(self, name: str) -> Parts:
        """Another model, on the same device and in the same precision."""
        return load_checkpoint(resolve(name), str(self.device), self.dtype)


def _parts_of(given: Pipeline | Parts | str | None) -> Parts | str | None:
    return given.parts if isinstance(given, Pipeline) else given


def load_model(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    revision: str | None = None,
    progress: Any = None,
) -> Model:
    """Load a model by name, hub id or directory; None is the built-in one.

    Args:
        name: `small`, `facebook/magnet-small-10secs[@revision]`, a directory (a Path always is), ...
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: auto (float16 on CUDA, float32 elsewhere), float32, float16, bfloat16.
        offline: never use the network (as HF_HUB_OFFLINE=1 does).
        revision: a branch, tag or commit of the hub repository.
        progress: told of downloads, see `checkpoints.resolve.resolve`.

    Raises:
        ModelNotFoundError: it is not here and cannot be had.
        CheckpointError: its files are not a model.
        UsageError: no such device or dtype.
    """
    if isinstance(name, os.PathLike):
        name = os.path.join(".", os.fspath(name))
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{name!r} is no model.", "Give a name, a hub id or a directory.")
    resolved = resolve(name, offline=offline, revision=revision, progress=progress)
    return Model(load_checkpoint(resolved, device=device, dtype=dtype))
