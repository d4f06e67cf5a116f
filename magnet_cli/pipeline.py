"""The only path from text to audio: request -> codes -> audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from magnet_cli import resolving
from magnet_cli.decoding import autoregressive, iterative
from magnet_cli.decoding.contracts import Decoding, OnStep, Rescore, Sessions, StepEvent
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.errors import UsageError
from magnet_cli.models.parts import Parts
from magnet_cli.models.session import (
    RescorerSession,
    TextSessions,
    conditions_of,
    each,
    text_sessions,
)
from magnet_cli.request import GenerationRequest
from magnet_cli.settings import BEATS_IN_BAR, BLOCK_SECONDS, DecodingConfig, listed, required
from magnet_cli.version import __version__


@dataclass(frozen=True)
class GenerationResult:
    """Generated codes and audio, with all that is needed to generate them again."""

    codes: Tensor  # int64 [B, K, T]
    audio: Tensor  # float32 [B, C, samples], as decoded, not normalised
    sample_rate: int  # Hz
    seeds: tuple[int, ...]
    settings: dict[str, Any]  # JSON-able


class Pipeline:
    """A language model, its codec and its text encoder, ready to generate.

    Attributes:
        parts: the loaded checkpoint: `.repo`, `.revision`, `.licence`, ...
        name: the name it was loaded by.
        lm, codec, text_encoder: the networks.
        sample_rate: Hz.
        channels: of the audio.
        frame_rate: frames of codes per second.
        segment_duration: seconds of a training segment, the default and maximum length.
        segment_frames: frames of a segment.
        n_q: streams of codes.
        card: codes in each stream.
        modeling: masked (MAGNeT), autoregressive (MusicGen, AudioGen) or hybrid (both).
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self.name = parts, parts.name
        self.lm, self.codec, self.text_encoder = parts.lm, parts.codec, parts.text_encoder
        self.sample_rate, self.channels = self.codec.sample_rate, self.codec.channels
        self.frame_rate = self.codec.frame_rate
        shape = self.lm.config
        self.segment_duration, self.segment_frames = shape.segment_duration, shape.segment_frames
        self.n_q, self.card, self.modeling = shape.n_q, shape.card, shape.modeling

    @property
    def defaults(self) -> DecodingConfig:
        """The checkpoint's decoding settings, resolved."""
        return self.parts.defaults

    @property
    def device(self) -> torch.device:
        """Device of the language model."""
        return self.lm.device

    @property
    def dtype(self) -> str:
        """Precision of the language model: float32, float16, bfloat16 or int8."""
        return self.lm.precision

    def run(self, request: GenerationRequest, on_step: OnStep | None = None) -> GenerationResult:
        """Decode a request to codes, and the codes to audio."""
        codes = self.decode(request, on_step)
        return GenerationResult(
            codes=codes.cpu(),
            audio=self.decode_audio(codes, on_step),
            sample_rate=self.sample_rate,
            seeds=request.seeds,
            settings=self.describe(request),
        )

    def decode(
        self,
        request: GenerationRequest,
        on_step: OnStep | None = None,
        sessions: Sessions | None = None,
    ) -> Tensor:
        """Decode a request to codes int64 [B, K, T].

        `sessions` provide the logits; the default is `self.sessions` with the request's texts. They cannot
        be combined with partners, which use the request's texts.

        Raises:
            UsageError: sessions and partners are both given, or the clip is longer than a partner's
                segment.
        """
        if sessions is None:
            sessions = self.sessions(request.prompts, request.negative_prompts, request.grid)
        elif request.partners:
            raise UsageError(
                "A rescorer or hybrid model works only for clips of one prompt and one segment.",
                "Leave it out.",
            )
        known = request.known_codes.to(self.device), request.known_mask.to(self.device)
        decoding = Decoding(
            request.config,
            self.lm.config.mask_id,
            make_generators(request.seeds),
            _rescore(request),
            on_step,
            self.lm.config.stage_streams,
            round(BLOCK_SECONDS * self.lm.config.frame_rate),
            request.bars,
            request.tempoless,
            self.codec.codebooks() if request.config.later_codes == "mean" else None,
            None if request.sections is None else request.sections.to(self.device),
        )
        if self.modeling == "autoregressive":
            causal = sessions.causal()
            return autoregressive.decode(causal, *known, decoding, pattern=self.lm.pattern)
        context = request.config.subcodes_context
        if not request.hybrid_frames:
            return iterative.decode(sessions.masked(0, context), *known, decoding)
        writer, writing = self.parts, sessions
        if request.partners.hybrid_model is not None:
            writer = request.partners.hybrid_model
            resolving.check_length(writer, request.hybrid_frames)
            writing = text_sessions(
                writer.lm,
                writer.text_encoder,
                request.prompts,
                request.negative_prompts,
                request.grid,
            )
        # A hybrid-trained model reads its prefix as in training, whichever model wrote it.
        own_rows = self.modeling == "hybrid" and writer.lm.pattern == self.lm.pattern
        prefix = autoregressive.Prefix(writer.lm.pattern, request.hybrid_frames, diagonal=own_rows)
        return autoregressive.decode_hybrid(
            writing.causal(),
            sessions.masked(prefix.rows if own_rows else 0, context),
            *known,
            decoding,
            prefix=prefix,
            prefix_config=required(request.prefix_config),
        )

    def sessions(
        self,
        prompts: Sequence[str | None],
        negative_prompts: Sequence[str | None],
        bars: Sequence[float] = (),
    ) -> TextSessions:
        """Encode the texts, each once, and return this model's sessions for the decoding loops; `bars` as for
        `session.text_sessions`."""
        return text_sessions(self.lm, self.text_encoder, prompts, negative_prompts, bars)

    @torch.inference_mode()
    def decode_audio(self, codes: Tensor, on_step: OnStep | None = None) -> Tensor:
        """Decode codes [B, K, T] to audio float32 [B, C, samples] on the CPU, item by item."""
        clips = []
        for item, sound in enumerate(each(codes.device, self.codec.decode, codes.split(1))):
            clips.append(sound.float().cpu())
            if on_step is not None:
                left = len(codes) - item - 1
                on_step(StepEvent("codec", 0, 1, item + 1, len(codes), 0.0, 1.0, 0.0, left))
        return torch.cat(clips).clone()

    def describe(self, request: GenerationRequest) -> dict[str, Any]:
        """JSON-able record of a request, enough to make it again."""
        decoding = resolving.used(
            request.config,
            self.modeling,
            rescored=request.partners.rescorer is not None,
            hybrid=request.hybrid_frames / self.lm.config.frame_rate,
            prefix=request.prefix_config if request.hybrid_frames else None,
        )
        return {
            "model": self.name,
            "repo": self.parts.repo,
            "revision": self.parts.revision,
            **resolving.loras_of(self.parts),
            "prompts": list(request.prompts),
            "negative_prompts": list(request.negative_prompts),
            "seeds": list(request.seeds),
            "frames": request.frames,
            "known_codes": int(request.known_mask.sum()),
            "decoding": listed(decoding),
            **self._tempi(request),
            **request.partners.describe(self.parts),
            "device": self.device.type,
            "dtype": self.dtype,
            "versions": {"magnet": __version__, "torch": torch.__version__},
        }

    def _tempi(self, request: GenerationRequest) -> dict[str, Any]:
        """{"bpm": the tempo of each item, or None}; empty if no item has one."""
        if not any(request.bars):
            return {}
        minute = 60 * BEATS_IN_BAR * self.frame_rate
        return {"bpm": [round(minute / bar, 2) if bar else None for bar in request.bars]}

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Projected conditions float [B, L, dim], zero where the mask bool [B, L] is false."""
        found = conditions_of(self.lm, self.text_encoder, prompts)
        nothing = torch.zeros(0, self.lm.config.dim, dtype=torch.float32, device=self.device)
        conditions = [found[prompt] for prompt in prompts]
        rows = [nothing if condition is None else condition for condition in conditions]
        padded = torch.nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=padded.device)
        mask = torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None]
        return padded.clone(), mask.clone()

    @torch.inference_mode()
    def logits(
        self, codes: Tensor, prompts: Sequence[str | None], stage: int | None = None
    ) -> Tensor:
        """Run one forward pass of the language model, without guidance.

        Args:
            codes: int64 [B, K, T]; masked ones are `card`.
            prompts: one for each item; None is the null condition.
            stage: the stage to predict (a stream, unless streams are masked in groups), for masked and
                hybrid models; None: teacher-forced logits of every code, for autoregressive and hybrid
                models.

        Returns:
            float32 [B, T, card] for a stage of one stream, [B, T, G, card] for one of several;
            float32 [B, K, T, card] without one.

        Raises:
            UsageError: the model does not support this mode, there is no such stage, or the codes are
                not [prompts, n_q, T].
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
        found = conditions_of(self.lm, self.text_encoder, prompts)
        results = []
        for item, prompt in enumerate(prompts):
            cross = self.lm.cross_keys([found[prompt]])
            one = codes[item : item + 1]
            if stage is None:
                results.append(self.lm.teacher_forced(one, cross))
            else:
                rows = self.lm.rows_hidden(one, stage, cross)
                everywhere = one[:, list(self.lm.config.stage_streams[stage])] >= 0
                said = self.lm.stage_logits(rows, stage, everywhere).view(*everywhere.shape, -1)
                results.append(said[:, 0] if said.shape[1] == 1 else said.transpose(1, 2))
        return torch.cat(results).clone()


def _rescore(request: GenerationRequest) -> Rescore | None:
    """The rescoring function of a request; None if no rescorer takes part."""
    rescorer, config = request.partners.rescorer, request.config
    if rescorer is None or required(config.rescorer_weight) == 1:
        return None
    resolving.check_length(rescorer, request.frames)
    found = conditions_of(rescorer.lm, rescorer.text_encoder, request.prompts)
    grid = [(bar, 0.0) for bar in request.grid]
    session = RescorerSession(rescorer.lm, [found[p] for p in request.prompts], grid)
    weight, streams = required(config.rescorer_weight), required(config.rescore_streams)
    return iterative.rescoring(session, weight, streams)
