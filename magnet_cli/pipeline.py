"""From text to audio: the one way there is. Every command is a thin shell over `Model.generate`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from magnet_cli import ensemble
from magnet_cli.checkpoints.load import LoadedCheckpoint, load_checkpoint
from magnet_cli.checkpoints.resolve import resolve
from magnet_cli.config import Modeling
from magnet_cli.decoding import autoregressive, resolving
from magnet_cli.decoding.contracts import Decoding, OnStep, Sessions, StepEvent
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.ensemble import ALONE, Ensemble
from magnet_cli.errors import UsageError
from magnet_cli.models.session import TextSessions
from magnet_cli.request import GenerationRequest, make_request
from magnet_cli.settings import DecodingConfig
from magnet_cli.version import __version__


@dataclass(frozen=True)
class GenerationResult:
    """What was generated, and all that is needed to generate it again."""

    codes: Tensor  # int64 [B, K, T]
    audio: Tensor  # float32 [B, C, samples], as decoded, not normalised
    sample_rate: int  # Hz
    seeds: tuple[int, ...]
    settings: dict[str, Any]  # JSON-able


class Model:
    """A language model, its codec and its text encoder, ready to generate.

    Attributes:
        name: the name it was loaded by.
        checkpoint: what was loaded: `.repo`, `.revision`, `.licence`, `.lm_config`, `.defaults`.
        lm, codec, text_encoder: the networks.
    """

    def __init__(self, checkpoint: LoadedCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.lm, self.codec = checkpoint.lm, checkpoint.codec
        self.text_encoder = checkpoint.text_encoder
        self.defaults = checkpoint.defaults

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.codec.sample_rate

    @property
    def channels(self) -> int:
        """Channels of the audio."""
        return self.codec.channels

    @property
    def frame_rate(self) -> float:
        """Frames of codes per second."""
        return self.codec.frame_rate

    @property
    def segment_duration(self) -> float:
        """Seconds that the model was trained on: the default and the longest it makes at once."""
        return self.lm.config.segment_duration

    @property
    def segment_frames(self) -> int:
        """Frames of a segment."""
        return self.lm.config.segment_frames

    @property
    def n_q(self) -> int:
        """Streams of codes."""
        return self.lm.config.n_q

    @property
    def card(self) -> int:
        """Codes in each stream."""
        return self.lm.config.card

    @property
    def modeling(self) -> Modeling:
        """masked (MAGNeT), autoregressive (MusicGen, AudioGen) or hybrid (both)."""
        return self.lm.config.modeling

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.lm.out_norm.weight.device

    @property
    def dtype(self) -> str:
        """Precision of the language model: float32, float16 or bfloat16."""
        return str(self.lm.out_norm.weight.dtype).removeprefix("torch.")

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
        rescorer: Model | str | None = None,
        rescorer_weight: float | None = None,
        hybrid: float | None = None,
        hybrid_model: Model | str | None = None,
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
        extra = DecodingConfig(rescorer_weight=rescorer_weight, hybrid=hybrid)
        config = extra.over(config or DecodingConfig())
        helpers = ensemble.gather(self, config, rescorer, hybrid_model, self._load_beside)
        request = make_request(
            prompts,
            lm=self.lm.config,
            defaults=self.defaults,
            config=config,
            seeds=seeds,
            negative_prompts=negative_prompts,
            frames=frames,
            prompt_codes=prompt_codes,
            known_codes=known_codes,
            known_mask=known_mask,
        )
        return self.run(request, on_step, helpers)

    def run(
        self,
        request: GenerationRequest,
        on_step: OnStep | None = None,
        helpers: Ensemble = ALONE,
    ) -> GenerationResult:
        """Decode a request to codes, and the codes to audio."""
        codes = self.decode(request, on_step, helpers=helpers)
        return GenerationResult(
            codes=codes.cpu(),
            audio=self.decode_audio(codes, on_step),
            sample_rate=self.sample_rate,
            seeds=request.seeds,
            settings=self.describe(request, helpers),
        )

    def decode(
        self,
        request: GenerationRequest,
        on_step: OnStep | None = None,
        sessions: Sessions | None = None,
        helpers: Ensemble = ALONE,
    ) -> Tensor:
        """Codes int64 [B, K, T] for a request.

        `sessions` are asked for logits in place of this model with the request's own texts, which
        is what `self.sessions` makes. They do not go with helpers, which read the request's own.

        Raises:
            UsageError: sessions were given, and helpers too.
        """
        if sessions is None:
            sessions = self.sessions(request.prompts, request.negative_prompts)
        elif helpers:
            raise UsageError(
                "A rescorer and a hybrid model are for clips of one prompt and one segment.",
                "Leave them out here.",
            )
        if self.modeling != "autoregressive":
            return ensemble.decode(self, helpers, request, sessions, on_step)
        return autoregressive.decode(
            sessions.causal(),
            request.known_codes.to(self.device),
            request.known_mask.to(self.device),
            Decoding(
                request.config,
                self.lm.config.mask_id,
                make_generators(request.seeds),
                on_step=on_step,
            ),
            pattern=self.lm.pattern,
        )

    def sessions(
        self, prompts: Sequence[str | None], negative_prompts: Sequence[str | None]
    ) -> TextSessions:
        """This model with its texts, as the decoding loops ask it: each text is encoded here, once."""
        return TextSessions(self.lm, *self.conditions(prompts, negative_prompts))

    @torch.inference_mode()
    def conditions(
        self, prompts: Sequence[str | None], negatives: Sequence[str | None]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """What the texts are to the networks: for each [L, dim], or None for the null condition.

        Every distinct text is encoded once, by itself, so that batch-mates cannot matter.
        """
        encoded = {text: self._condition(text) for text in {*prompts, *negatives}}
        return [encoded[text] for text in prompts], [encoded[text] for text in negatives]

    @torch.inference_mode()
    def decode_audio(self, codes: Tensor, on_step: OnStep | None = None) -> Tensor:
        """Codes [B, K, T] -> audio float32 [B, C, samples] on the CPU, item by item."""
        clips = []
        for item in range(len(codes)):
            clips.append(self.codec.decode(codes[item : item + 1]).float().cpu())
            if on_step is not None:
                left = len(codes) - item - 1
                on_step(StepEvent("codec", 0, 1, item + 1, len(codes), 0.0, 1.0, 0.0, left))
        return torch.cat(clips).clone()

    def describe(self, request: GenerationRequest, helpers: Ensemble = ALONE) -> dict[str, Any]:
        """What makes a request again, as JSON-able values."""
        prefix = None
        if request.hybrid_frames:
            prefix = ensemble.prefix_config(self, helpers, request.config)
        decoding = resolving.used(
            request.config,
            self.modeling,
            rescored=helpers.rescorer is not None,
            hybrid=request.hybrid_frames / self.lm.config.frame_rate,
            prefix=prefix,
        )
        return {
            "model": self.name,
            "repo": self.checkpoint.repo,
            "revision": self.checkpoint.revision,
            "prompts": list(request.prompts),
            "negative_prompts": list(request.negative_prompts),
            "seeds": list(request.seeds),
            "frames": request.frames,
            "known_codes": int(request.known_mask.sum()),
            "decoding": {k: list(v) if isinstance(v, tuple) else v for k, v in decoding.items()},
            **helpers.describe(self),
            "device": self.device.type,
            "dtype": self.dtype,
            "versions": {"magnet": __version__, "torch": torch.__version__},
        }

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Conditions float [B, L, dim] behind the projection, zero where mask bool [B, L] is false."""
        conditions = [self._condition(prompt) for prompt in prompts]
        dim = self.lm.config.dim
        rows = [torch.zeros(0, dim, device=self.device) if c is None else c for c in conditions]
        padded = torch.nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=padded.device)
        mask = torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None]
        return padded.clone(), mask.clone()

    @torch.inference_mode()
    def logits(
        self, codes: Tensor, prompts: Sequence[str | None], stage: int | None = None
    ) -> Tensor:
        """One pass of the language model, without guidance.

        Args:
            codes: int64 [B, K, T]; masked ones at `card`.
            prompts: one for each item; None is the null condition.
            stage: the stage to predict (a stream, where they are not masked in groups), for masked
                and hybrid models; None asks a model that decodes autoregressively for the
                teacher-forced logits of every code.

        Returns:
            float32 [B, T, card] for a stage of one stream, [B, T, G, card] for one of several;
            float32 [B, K, T, card] without one.

        Raises:
            UsageError: the model does not predict this way, there is no such stage, or the codes are
                not one item of `n_q` streams for each prompt.
        """
        if stage is None and self.modeling == "masked":
            raise UsageError("A masked model predicts one stream at a time.", "Give a stage.")
        if stage is not None and self.modeling == "autoregressive":
            raise UsageError("An autoregressive model has no stages.", "Leave stage out.")
        stages = len(self.lm.config.stage_streams)
        if stage is not None and not 0 <= stage < stages:
            raise UsageError(f"There is no stage {stage}.", f"Stages are 0 to {stages - 1}.")
        if codes.dim() != 3 or codes.shape[:2] != (len(prompts), self.n_q):
            raise UsageError(
                f"The codes are {list(codes.shape)}, and there are {len(prompts)} prompts.",
                f"Codes are [prompts, {self.n_q}, frames].",
            )
        codes = codes.to(self.device)
        conditions, _ = self.conditions(prompts, [None] * len(prompts))
        results = []
        for item, condition in enumerate(conditions):
            cross = self.lm.cross_keys([condition])
            one = codes[item : item + 1]
            if stage is None:
                results.append(self.lm.teacher_forced(one, cross))
            else:
                rows = self.lm.rows_hidden(one, stage, cross)
                everywhere = torch.ones(1, one.shape[-1], dtype=torch.bool, device=self.device)
                said = self.lm.stage_logits(rows, stage, everywhere)
                groups = len(self.lm.config.stage_streams[stage])
                results.append(said[None] if groups == 1 else said.unflatten(0, (-1, groups))[None])
        return torch.cat(results).clone()

    def _condition(self, prompt: str | None) -> Tensor | None:
        """[L, dim], or None for the null condition."""
        hidden = self.text_encoder.encode(prompt) if prompt else None
        return None if hidden is None or len(hidden) == 0 else self.lm.project_text(hidden)

    def _load_beside(self, name: str) -> Model:
        """Another model, on the same device and in the same precision."""
        return load_model(name, device=str(self.device), dtype=self.dtype)


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
