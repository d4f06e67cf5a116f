"""Trains the spectral codec: extract band levels of all clips, fit a linear optimum, then gradient descent.

    OUT/levels-train.f16   band levels of every clip, so that each file is read and transformed once
    OUT/checkpoint.pt      everything needed to resume, written atomically
    OUT/log.jsonl          a record for each report
    OUT/codec/             the finished codec, in magnet's own format

Training from random weights takes too long on a CPU (recipes/nano/README.md, Codec). So the basis starts as
the principal components and the codebooks as residual k-means; the convolutions start at zero and learn the
residual of the linear path.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.building import read_pickle
from magnet_cli.data.manifests import read_clips
from magnet_cli.errors import CheckpointError, DataError, UsageError
from magnet_cli.fields import cannot_be
from magnet_cli.files import atomic_path
from magnet_cli.foreign.bounds import check_codec
from magnet_cli.foreign.reading import reason
from magnet_cli.models.spectral_codec import SpectralCodec
from magnet_cli.training.batches import keyed_generator, own_defaults
from magnet_cli.training.codec_start import (
    codec_key,
    grow,
    grown_config,
    nearest,
    power_left,
    residual_k_means,
    take_over,
)
from magnet_cli.training.config import CodecTrainConfig, check_codec_training, warmup_of
from magnet_cli.training.levels import (
    LevelFile,
    draw_crops,
    draw_rows,
    mean_level,
    moments,
    sounds_key,
    weighted,
    write_levels,
)
from magnet_cli.training.lock import locked
from magnet_cli.training.loop import NotANumberError
from magnet_cli.training.output import Journal

CHECKPOINT = "checkpoint.pt"
_RUN = {"settings", "step", "facts", "codec", "optimizer"}  # keys of the checkpoint
AroundSteps = Callable[[Callable[[], None]], AbstractContextManager[None]]
LOUDNESS_BANDS = 48  # for the loudness loss, of equal width on the mel scale


@dataclass(frozen=True)
class CodecTraining:
    """The result of a run."""

    directory: Path  # of the codec
    basis_share: float  # share of the power in the principal components
    start_left: tuple[float, ...]  # validation power left by each stream, linear
    loss_start: float  # on validation levels, with motion and loudness, at the start
    loss: float  # the same at the end


@own_defaults()
def train_codec(
    config: CodecTrainConfig,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    around_steps: AroundSteps = lambda stop: nullcontext(),
) -> CodecTraining:
    """Train a spectral codec, or resume an interrupted run; equal settings give equal codecs.

    Args:
        report: called with every record of the log.
        around_steps: a context around the steps. It gets a function that asks the run to stop: the run is
            then saved after the current step, and KeyboardInterrupt is raised.

    Raises:
        DataError: there is no audio to train on.
        AudioFileError: a file cannot be read.
        UsageError: a setting is invalid, `start_from` has other sizes than requested, `out` holds a run
            with other settings or data, or another run is writing to it.
        NotANumberError: the loss is not a number; the last checkpoint is kept.
        KeyboardInterrupt: the run was asked to stop, and is saved.
    """
    check_codec_training(config)
    with _threads(config.threads):
        run = _Run(config, report)
        run.out.mkdir(parents=True, exist_ok=True)
        with locked(run.out):
            return run.train(around_steps)


class _Run:
    """One run: its data, codec and progress."""

    def __init__(self, config: CodecTrainConfig, report: Callable[[dict[str, Any]], None]) -> None:
        self.config = config
        self.out = Path(config.out)
        self.report = report
        started = _started(config)
        sizes = grown_config(started, config) if started else config.codec
        check_codec(dataclasses.asdict(sizes), "The codec")  # or its file would be refused
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.codec = SpectralCodec(sizes)
        if sizes.groups > self.codec.bands.count:
            raise cannot_be("groups", sizes.groups, f"at most {self.codec.bands.count}, the bands")
        pulls = config.trains == "all" and sizes.encoder_blocks > 0
        asked = config.commitment != CodecTrainConfig.commitment
        # A run that an earlier version began with it may finish.
        if asked and not pulls and not (self.out / CHECKPOINT).is_file():
            raise UsageError(
                "--commitment has no effect: nothing before the quantizer is trained.",
                "Leave it out, or train all of a codec with convolutions before its quantizer.",
            )
        self.smaller: SpectralCodec | None = None  # the codec that this one is extended from
        if started is not None:
            more_components = self.codec.config.dimension > started.config.dimension
            if more_components or self.codec.n_q > started.n_q:
                if started.config.encoder_blocks:
                    raise UsageError(
                        "A codec with convolutions before its quantizer cannot be given more streams.",
                        "Train a new one of that size.",
                    )
                self.smaller = started
            if more_components:
                self.codec.mean.copy_(started.mean)  # from now on, levels are centred by it
            else:
                take_over(started, self.codec)
        self.loudness_pool = self.codec.bands.wide(LOUDNESS_BANDS)
        # A run is identified by its data, not by their path.
        self.origin = {"started": codec_key(started) if started else None}
        self._list_sounds(captioned=False)
        self.step = 0
        self._stopping = False
        self.facts: dict[str, Any] = {"basis_share": math.nan, "start_left": [], "loss_start": 0.0}

    def _list_sounds(self, captioned: bool) -> None:
        data, valid = self.config.data, self.config.valid
        self.train_clips = _clips(data, self.config.max_clips, captioned)
        self.valid_clips = _clips(valid, self.config.max_valid_clips, captioned) if valid else []
        self.origin["sounds"] = sounds_key(self.train_clips, Path(data))
        self.origin["valid_sounds"] = valid and sounds_key(self.valid_clips, Path(valid))

    def _levels(self, name: str, clips: list[Path], sounds: str | None) -> LevelFile:
        codec, seconds = self.codec, self.config.segment_duration
        frames = math.ceil(seconds * codec.sample_rate / codec.hop_length)
        path = self.out / f"levels-{name}.f16"
        return write_levels(path, clips, str(sounds), codec, frames)

    # ----------------------------------------------------------------------------------- the run

    def train(self, around_steps: AroundSteps) -> CodecTraining:
        checkpoint = self._checkpoint()  # refuses other settings before it touches the levels
        self.train_levels = self._levels("train", self.train_clips, self.origin["sounds"])
        self.valid_levels = self.train_levels
        if self.valid_clips:
            self.valid_levels = self._levels("valid", self.valid_clips, self.origin["valid_sounds"])
        trained = list(self._trained_parameters())
        self.optimizer = torch.optim.AdamW(
            trained, lr=self.config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        if checkpoint is not None:
            self._resume(checkpoint)
        else:
            if self.smaller is not None:
                self._grow(self.smaller)
            elif self.config.start_from is None:
                self._linear_start()
            self.facts["loss_start"] = self.validation_loss()
            fitted = ("basis_share", "start_left") if self.facts["start_left"] else ()
            self.report({"step": 0, **{name: self.facts[name] for name in (*fitted, "loss_start")}})
            self._save()
        with around_steps(self._stop):
            self._train_steps()
        return self._finish()

    def _stop(self) -> None:
        self._stopping = True

    def _train_steps(self) -> None:
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
            stopping = self._stopping and self.step < self.config.steps
            if stopping or self.step % self.config.checkpoint_every == 0:
                self._save()
            if stopping:
                raise KeyboardInterrupt
        journal.close()

    def _trained_parameters(self) -> Iterator[torch.nn.Parameter]:
        yield from self.codec.latent_decoder.parameters()
        yield from self.codec.level_decoder.parameters()
        if self.config.trains == "all":
            yield from self.codec.encoder.parameters()

    def _train_step(self) -> float:
        config = self.config
        warmup = warmup_of(config.warmup_steps, config.steps)
        share = min(1.0, (self.step + 1) / max(1, warmup))
        share *= 0.5 * (1 + math.cos(math.pi * self.step / max(1, config.steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        generator = keyed_generator(config.seed, "batch", self.step)
        batch = draw_crops(
            self.train_levels, self.codec, config.batch_size, config.crop_frames, generator
        )
        # Clips of one length at a time, with equal weight per frame, so that no padding is learned.
        frames = sum(levels[..., 0].numel() for levels in batch)
        loss = torch.stack(
            [self._loss(levels) * (levels[..., 0].numel() / frames) for levels in batch]
        ).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(self._trained_parameters()), 1.0)
        found = float(loss.detach())
        if not math.isfinite(found + float(norm)):
            raise NotANumberError(
                f"The loss or its gradient is NaN or infinite at step {self.step + 1}.",
                "Train into another folder with a lower --learning-rate.",
            )
        self.optimizer.step()
        self.step += 1
        return found

    def _loss(self, levels: Tensor) -> Tensor:
        codec = self.codec
        latents = codec.encoder(codec.project(levels))
        quantized = codec.quantizer.decode(codec.quantizer.encode(latents.detach()))
        if self.config.trains == "decoder":
            return self._distance(codec.restore(quantized.detach()), levels)
        self._move_codebooks(latents.detach())
        through = latents + (quantized - latents).detach()  # straight-through gradient
        distance = self._distance(codec.restore(through), levels)
        if not latents.requires_grad:  # without convolutions before the quantizer
            return distance
        return distance + self.config.commitment * F.mse_loss(latents, quantized.detach())

    def _distance(self, restored: Tensor, levels: Tensor) -> Tensor:
        """Distance of decoded levels [B, N, bands] from the true ones: per band, in motion and in loudness.

        Motion: jitter from frame to frame is heard as a buzz at the frame rate, and soft onsets sound dull.
        Loudness: the mean of a logarithm is below the logarithm of the mean, so levels that are right on
        average make noise too soft; wide bands, in which fluctuations average out, show this.
        """
        config = self.config
        distance = F.mse_loss(restored, levels)
        if config.motion_weight and levels.shape[1] > 1:
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
        """Move each code towards the mean of the latents assigned to it (van den Oord et al., 2017, A.1)."""
        quantizer = self.codec.quantizer
        rest = list(latents.flatten(0, 1).split(quantizer.dimension, dim=-1))
        for stream, rows in enumerate(quantizer.codebooks):
            group = stream % quantizer.groups
            index, _ = nearest(rest[group], rows)
            count = torch.bincount(index, minlength=len(rows))[:, None]
            mean = torch.zeros_like(rows).index_add_(0, index, rest[group]) / count.clamp(min=1)
            rest[group] = rest[group] - F.embedding(index, rows)
            # A code that occurs more often in the batch moves further.
            rows.lerp_(mean, 1 - self.config.codebook_decay ** count.clamp(max=8).float())

    @torch.no_grad()
    def validation_loss(self) -> float:
        """The mean distance, as in training, between validation levels and those decoded from their codes."""
        total = shares = 0.0
        for clip in range(self.valid_levels.clips):
            levels = weighted(self.valid_levels.whole(clip), self.codec)[None]
            latents = self.codec.encoder(self.codec.project(levels))
            quantized = self.codec.quantizer.decode(self.codec.quantizer.encode(latents))
            share = self.valid_levels.share(clip)
            total += share * float(self._distance(self.codec.restore(quantized), levels))
            shares += share
        return total / shares

    # ------------------------------------------------------------------------------ the linear start

    @torch.no_grad()
    def _linear_start(self) -> None:
        """Mean, principal components and residual k-means, rounded to the precision of the file."""
        codec, levels = self.codec, self.train_levels
        codec.mean.copy_(mean_level(levels).half())
        basis, self.facts["basis_share"] = moments(levels, codec).grouped_components(
            codec.config.stack, codec.config.groups, codec.config.dimension
        )
        codec.basis.copy_(basis.half())
        rows = self._start_rows() @ codec.basis
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
        self._measure_streams()

    @torch.no_grad()
    def _grow(self, smaller: SpectralCodec) -> None:
        """Extend a trained codec by streams and perhaps components (codec_start.py)."""
        self.facts["basis_share"] = grow(
            smaller,
            self.codec,
            moments(self.train_levels, self.codec),
            self._start_rows(),
            self.config.start_iterations,
            self.config.seed,
        )
        self._measure_streams()

    def _measure_streams(self) -> None:
        rows = draw_rows(self.valid_levels, self.codec, self.config.start_rows, self.config.seed)
        self.facts["start_left"] = power_left(rows @ self.codec.basis, self.codec.quantizer)

    def _start_rows(self) -> Tensor:
        """Frames [N, stack * bands] of the training data, enough for the codebooks."""
        found = draw_rows(self.train_levels, self.codec, self.config.start_rows, self.config.seed)
        if len(found) < self.codec.card:
            raise DataError(
                f"{len(found)} frames of sound are too few for codebooks of {self.codec.card} codes.",
                "Train on more sound, or with a smaller card.",
            )
        return found

    # -------------------------------------------------------------------------------- on the disk

    def _settings(self) -> dict[str, Any]:
        """The settings that must be equal to resume; paths and the reporting interval may change."""
        free = {"data", "valid", "out", "start_from", "asked"}
        free |= {"report_every", "checkpoint_every", "threads"}
        settings = dataclasses.asdict(self.config)
        settings["warmup_steps"] = warmup_of(self.config.warmup_steps, self.config.steps)
        return {k: v for k, v in settings.items() if k not in free} | self.origin

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

    def _checkpoint(self) -> dict[str, Any] | None:
        """The state of a run with these settings in `out`, if there is one."""
        path = self.out / CHECKPOINT
        if not path.is_file():
            if (self.out / "codec").exists():
                raise UsageError(
                    f"{self.out} holds a codec, but not the run that made it.",
                    "Choose another folder.",
                )
            return None
        state = read_pickle(path)
        if not isinstance(state.get("settings"), dict) or not state.keys() >= _RUN:
            raise CheckpointError(
                f"{path} is not the state of a run.", "Choose another folder, or remove this one."
            )
        # Older versions did not record the origin of a run, or left out sounds without a caption.
        unknown = self.origin.keys() - state["settings"].keys()
        for captioned in (False, True):
            self._list_sounds(captioned)
            settings = {k: v for k, v in self._settings().items() if k not in unknown}
            if state["settings"] == settings:
                return state
        raise UsageError(
            f"{self.out} holds a run with other settings.",
            "Use its settings to resume it, or choose another folder.",
        )

    def _resume(self, state: dict[str, Any]) -> None:
        try:
            self.step, self.facts = state["step"], state["facts"]
            self.codec.load_state_dict(state["codec"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # torch raises any exception for a damaged state
            raise CheckpointError(
                f"{self.out / CHECKPOINT} cannot be resumed: {reason(error)}.",
                "Choose another folder, or remove this one to start again.",
            ) from error

    def _finish(self) -> CodecTraining:
        directory = self.out / "codec"
        self.codec.half()  # as saved, so that the loss is that of the file
        if not directory.exists():
            native.save_part(directory, self.codec)
        self.codec.float()
        return CodecTraining(
            directory=directory,
            basis_share=self.facts["basis_share"],
            start_left=tuple(self.facts["start_left"]),
            loss_start=self.facts["loss_start"],
            loss=self.validation_loss(),
        )


def _started(config: CodecTrainConfig) -> SpectralCodec | None:
    """The codec that a run starts from, or None."""
    if config.start_from is None:
        return None
    loaded = native.load_codec(Path(config.start_from))
    if not isinstance(loaded, SpectralCodec):
        raise UsageError(f"{config.start_from} is not a spectral codec.", "Name another one.")
    return loaded


def _clips(source: str, limit: int, captioned: bool) -> list[Path]:
    clips = [clip.path for clip in read_clips(source, captioned).clips]
    if not clips and not captioned:
        raise DataError(f"{source} holds no sounds.", "Give a manifest or a folder of sounds.")
    return clips[:limit] if limit else clips


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
