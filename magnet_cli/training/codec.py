"""Training of the spectral codec: levels of all clips, the linear optimum, then gradient descent.

    OUT/levels.f16         band levels of every clip, so that sound is read and transformed once
    OUT/checkpoint.pt      everything that training goes on from, renamed into place
    OUT/log.jsonl          one record a report
    OUT/codec/             the finished codec, in magnet's own format

Random weights do not get there on a CPU (recipes/nano/README.md, Codec). So the basis starts as the
principal components and the codebooks as residual k-means, and the convolutions, which start at zero,
learn what the linear path leaves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.checkpoints import native
from magnet_cli.data.manifests import read_clips
from magnet_cli.errors import DataError, UsageError
from magnet_cli.files import atomic_path
from magnet_cli.models.spectral_codec import SpectralCodec
from magnet_cli.training.codebooks import Moments, nearest, power_left, residual_k_means
from magnet_cli.training.codec_config import CodecTrainConfig, check_codec_training
from magnet_cli.training.growing import grow
from magnet_cli.training.journal import Journal
from magnet_cli.training.levels import LevelFile, write_levels
from magnet_cli.training.sampling import keyed_generator

CHECKPOINT = "checkpoint.pt"
LOUDNESS_BANDS = 48  # of the loudness loss, equally wide on the mel scale


@dataclass(frozen=True)
class CodecTraining:
    """What a run came to."""

    directory: Path  # of the codec
    basis_share: float  # share of the power that the principal components hold
    start_left: tuple[float, ...]  # unseen power left after each stream, at the linear start
    loss_start: float  # mean squared error of unseen levels at the linear start
    loss: float  # and at the end


def train_codec(
    config: CodecTrainConfig, report: Callable[[dict[str, Any]], None] = lambda record: None
) -> CodecTraining:
    """Train a spectral codec, or go on with a run that was cut off; equal settings give equal codecs.

    Args:
        report: hears every record that goes into the log.

    Raises:
        DataError: there is no sound to train on.
        UsageError: a setting is senseless, or `out` holds a run with other settings.
    """
    check_codec_training(config)
    with _threads(config.threads):
        return _Run(config, report).train()


class _Run:
    """One run: its data, its codec, and where it stands."""

    def __init__(self, config: CodecTrainConfig, report: Callable[[dict[str, Any]], None]) -> None:
        self.config = config
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.report = report
        codec_config = config.codec
        self.smaller: SpectralCodec | None = None  # that this one is to grow from
        started: SpectralCodec | None = None
        if config.start_from is not None:
            loaded = native.load_codec(Path(config.start_from))
            if not isinstance(loaded, SpectralCodec):
                raise UsageError(f"{config.start_from} is no spectral codec.", "Name another one.")
            started = loaded
            codec_config = dataclasses.replace(
                started.config,
                latent_blocks=config.codec.latent_blocks,
                level_blocks=config.codec.level_blocks,
                block_width=config.codec.block_width,
                n_q=max(started.n_q, config.codec.n_q),
                dimension=max(started.config.dimension, config.codec.dimension),
            )
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.codec = SpectralCodec(codec_config)
        if started is not None:
            sizes = (started.n_q, started.config.dimension)
            if (codec_config.n_q, codec_config.dimension) == sizes:
                self._take_over(started)
            elif started.config.encoder_blocks:
                raise UsageError(
                    "A codec with convolutions before its quantizer cannot be given more streams.",
                    "Train a new one of that size.",
                )
            else:
                self.smaller = started
                self.codec.mean.copy_(started.mean)  # levels are centred by it from now on
        self.loudness_pool = self.codec.bands.wide(LOUDNESS_BANDS)
        self.train_levels = self._levels("train", config.data, config.max_clips)
        self.valid_levels = (
            self._levels("valid", config.valid, config.max_valid_clips)
            if config.valid is not None
            else self.train_levels
        )
        self.step = 0
        self.facts: dict[str, Any] = {"basis_share": math.nan, "start_left": [], "loss_start": 0.0}

    def _take_over(self, started: SpectralCodec) -> None:
        """All tensors that fit; blocks that the older codec lacks stay at their zero start."""
        mine = self.codec.state_dict()
        theirs = started.state_dict()
        self.codec.load_state_dict({**mine, **{k: v for k, v in theirs.items() if k in mine}})

    def _levels(self, name: str, source: str, limit: int) -> LevelFile:
        clips = [clip.path for clip in read_clips(source).clips]
        clips = clips[:limit] if limit else clips
        if not clips:
            raise DataError(f"{source} holds no sounds.", "Give a manifest or a folder of sounds.")
        frames = math.ceil(
            self.config.segment_duration * self.codec.sample_rate / self.codec.hop_length
        )
        return write_levels(self.out / f"levels-{name}.f16", clips, self.codec, frames)

    # ----------------------------------------------------------------------------------- the run

    def train(self) -> CodecTraining:
        trained = list(self._trained_parameters())
        self.optimizer = torch.optim.AdamW(
            trained, lr=self.config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        if not self._resume():
            if self.smaller is not None:
                self._grow(self.smaller)
            elif self.config.start_from is None:
                self._linear_start()
            self.facts["loss_start"] = self.validation_loss()
            self._save()
        journal = Journal(self.out, tensorboard=False, steps_done=self.step)
        running: list[float] = []
        while self.step < self.config.steps:
            running.append(self._train_step())
            if self.step % self.config.report_every == 0:
                record = {"step": self.step, "loss": sum(running) / len(running)}
                running = []
                if self.step % self.config.checkpoint_every == 0:
                    record["valid"] = self.validation_loss()
                journal.write(record)
                self.report(record)
            if self.step % self.config.checkpoint_every == 0:
                self._save()
        journal.close()
        return self._finish()

    def _trained_parameters(self) -> Iterator[torch.nn.Parameter]:
        yield from self.codec.latent_decoder.parameters()
        yield from self.codec.level_decoder.parameters()
        if self.config.trains == "all":
            yield from self.codec.encoder.parameters()

    def _train_step(self) -> float:
        config = self.config
        share = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        share *= 0.5 * (1 + math.cos(math.pi * self.step / max(1, config.steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        levels = self._batch(keyed_generator(config.seed, "batch", self.step))
        loss = self._loss(levels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self._trained_parameters()), 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _batch(self, generator: torch.Generator) -> Tensor:
        """Random crops as the codec's weighted, centred levels [B, crop * stack, bands]."""
        stack = self.codec.config.stack
        clip_frames = self.train_levels.frames // stack
        crop = min(self.config.crop_frames, clip_frames)
        size = (self.config.batch_size,)
        clips = torch.randint(self.train_levels.clips, size, generator=generator).tolist()
        starts = torch.randint(clip_frames - crop + 1, size, generator=generator).tolist()
        crops = [
            self.train_levels.read(clip, start * stack, crop * stack)
            for clip, start in zip(clips, starts, strict=True)
        ]
        return (torch.stack(crops) - self.codec.mean) * self.codec.weight

    def _loss(self, levels: Tensor) -> Tensor:
        codec = self.codec
        latents = codec.encoder(codec.project(levels))
        quantized = codec.quantizer.decode(codec.quantizer.encode(latents.detach()))
        if self.config.trains == "decoder":
            return self._distance(codec.restore(quantized.detach()), levels)
        self._move_codebooks(latents.detach())
        drawn = F.mse_loss(latents, quantized.detach())
        through = latents + (quantized - latents).detach()  # gradients pass the quantizer unchanged
        return self._distance(codec.restore(through), levels) + self.config.commitment * drawn

    def _distance(self, restored: Tensor, levels: Tensor) -> Tensor:
        """How far restored levels [B, N, bands] are from the true ones: by band, in motion, in loudness.

        Motion: jitter from frame to frame is heard as a buzz at the frame rate, and soft onsets as dull.
        Loudness: the mean of a logarithm lies below the logarithm of the mean, so levels that are right on
        average make noise too soft; wide bands, where its ups and downs cancel out, tell the difference.
        """
        config = self.config
        distance = F.mse_loss(restored, levels)
        if config.motion_weight:
            moved = F.mse_loss(restored.diff(dim=1), levels.diff(dim=1))
            distance = distance + config.motion_weight * moved
        if config.loudness_weight:
            heard = F.l1_loss(self._loudness(restored), self._loudness(levels))
            distance = distance + config.loudness_weight * heard
        return distance

    def _loudness(self, levels: Tensor) -> Tensor:
        """Levels [B, N, bands] -> log power in `LOUDNESS_BANDS` bands [B, N, LOUDNESS_BANDS]."""
        power = self.codec.amplitudes(levels).square() @ self.loudness_pool
        return torch.log1p(power / self.codec.config.floor**2)

    @torch.no_grad()
    def _move_codebooks(self, latents: Tensor) -> None:
        """Each code moves towards the mean of what it stands for (van den Oord et al., 2017, A.1)."""
        quantizer = self.codec.quantizer
        rest = list(latents.flatten(0, 1).split(quantizer.dimension, dim=-1))
        for stream, rows in enumerate(quantizer.codebooks):
            group = stream % quantizer.groups
            index, _ = nearest(rest[group], rows)
            count = torch.bincount(index, minlength=len(rows))[:, None]
            mean = torch.zeros_like(rows).index_add_(0, index, rest[group]) / count.clamp(min=1)
            rest[group] = rest[group] - F.embedding(index, rows)
            # A code that a batch saw more often moves further.
            rows.lerp_(mean, 1 - self.config.codebook_decay ** count.clamp(max=8).float())

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean squared error of unseen levels, in the codec's weighting."""
        total = 0.0
        for clip in range(self.valid_levels.clips):
            whole = self.valid_levels.read(clip, 0, self.valid_levels.frames)
            levels = ((whole - self.codec.mean) * self.codec.weight)[None]
            latents = self.codec.encoder(self.codec.project(levels))
            quantized = self.codec.quantizer.decode(self.codec.quantizer.encode(latents))
            total += float(self._distance(self.codec.restore(quantized), levels))
        return total / self.valid_levels.clips

    # ------------------------------------------------------------------------------ the linear start

    @torch.no_grad()
    def _linear_start(self) -> None:
        """Mean, principal components and residual k-means, rounded to what the file will hold."""
        codec, levels = self.codec, self.train_levels
        mean = torch.zeros(codec.bands.count, dtype=torch.float64)
        for clip in range(levels.clips):
            mean += levels.read(clip, 0, levels.frames).mean(0, dtype=torch.float64)
        codec.mean.copy_((mean / levels.clips).half())
        basis, self.facts["basis_share"] = self._moments().grouped_components(
            codec.config.stack, codec.config.groups, codec.config.dimension
        )
        codec.basis.copy_(basis.half())
        rows = self._start_rows(levels) @ codec.basis
        size = codec.config.dimension
        for group in range(codec.config.groups):
            part = slice(group * size, (group + 1) * size)
            generator = keyed_generator(self.config.seed, "k-means", group)
            streams = range(group, codec.n_q, codec.config.groups)
            codebooks = residual_k_means(
                rows[:, part], len(streams), codec.card, self.config.start_iterations, generator
            )
            for stream, found in zip(streams, codebooks, strict=True):
                codec.quantizer.codebooks[stream].copy_(found.half())
        self._report_start()

    @torch.no_grad()
    def _grow(self, smaller: SpectralCodec) -> None:
        """More components and streams for a codec that was trained already (growing.py)."""
        self.facts["basis_share"] = grow(
            smaller,
            self.codec,
            self._moments(),
            self._start_rows(self.train_levels),
            self.config.start_iterations,
            self.config.seed,
        )
        self._report_start()

    def _report_start(self) -> None:
        unseen = self._start_rows(self.valid_levels) @ self.codec.basis
        self.facts["start_left"] = power_left(unseen, self.codec.quantizer)
        self.report({"step": 0, **self.facts})

    def _moments(self) -> Moments:
        """Of all frames of the training data."""
        moments = Moments(len(self.codec.basis))
        for clip in range(self.train_levels.clips):
            moments.add(self._stacked(self.train_levels, clip))
        return moments

    def _stacked(self, levels: LevelFile, clip: int) -> Tensor:
        """A clip's frames [T, stack * bands], weighted and centred."""
        whole = levels.read(clip, 0, levels.frames)
        return ((whole - self.codec.mean) * self.codec.weight).reshape(-1, len(self.codec.basis))

    def _start_rows(self, levels: LevelFile) -> Tensor:
        """About `start_rows` frames [N, stack * bands], spread evenly over all clips."""
        each = max(1, self.config.start_rows // levels.clips)
        rows = []
        for clip in range(levels.clips):
            frames = self._stacked(levels, clip)
            generator = keyed_generator(self.config.seed, "rows", clip)
            rows.append(frames[torch.randperm(len(frames), generator=generator)[:each]])
        found = torch.cat(rows)
        if levels is self.train_levels and len(found) < self.codec.card:
            raise DataError(
                f"{len(found)} frames of sound are too few for codebooks of {self.codec.card} codes.",
                "Train on more sound, or with a smaller card.",
            )
        return found

    # -------------------------------------------------------------------------------- on the disk

    def _settings(self) -> dict[str, Any]:
        """What must be equal for a run to go on; where files lie and how often it reports need not."""
        free = {"data", "valid", "out", "start_from", "report_every", "checkpoint_every", "threads"}
        return {k: v for k, v in dataclasses.asdict(self.config).items() if k not in free}

    def _save(self) -> None:
        state = {
            "step": self.step,
            "settings": self._settings(),
            "facts": self.facts,
            "codec": self.codec.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(self.out / CHECKPOINT) as partial:
            torch.save(state, partial)

    def _resume(self) -> bool:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return False
        state = torch.load(path, weights_only=True)
        if state["settings"] != self._settings():
            raise UsageError(
                f"{self.out} holds a run with other settings.",
                "Repeat its settings to go on with it, or choose another folder.",
            )
        self.step, self.facts = state["step"], state["facts"]
        self.codec.load_state_dict(state["codec"])
        self.optimizer.load_state_dict(state["optimizer"])
        return True

    def _finish(self) -> CodecTraining:
        directory = self.out / "codec"
        if not directory.exists():
            native.save_part(directory, self.codec.half())
            self.codec.float()
        return CodecTraining(
            directory=directory,
            basis_share=self.facts["basis_share"],
            start_left=tuple(self.facts["start_left"]),
            loss_start=self.facts["loss_start"],
            loss=self.validation_loss(),
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
