"""The training loop, on accelerate, whose launcher chooses between one process, DDP and FSDP.

A step is `micro_batches` passes, divided among the processes. Their losses are sums, divided by counts that
are summed over all passes beforehand, from the draws alone. So the gradient is that of one large batch with
the same draws, however it is divided.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.training import state
from magnet_cli.training.batches import Ahead, BatchDrawer, own_defaults
from magnet_cli.training.config import Precision, TrainConfig
from magnet_cli.training.lock import locked
from magnet_cli.training.losses import ValidationLoss, Window, validate
from magnet_cli.training.objective import Batch, TrainingModule, exact, mean_loss
from magnet_cli.training.optimizers import make_optimizers, set_rates
from magnet_cli.training.output import BEST, TRACKS, Best, Journal, OutputModel, numbers_of

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Progress:
    """An event of a run."""

    kind: str  # started, step, valid, checkpoint, samples or finished
    step: int  # steps done
    record: dict[str, Any]  # its record in the log


OnProgress = Callable[[Progress], None]


class NotANumberError(MagnetError):
    """A loss, a gradient or a weight is not finite."""


def make_accelerator(config: TrainConfig, out: Path | None = None) -> Accelerator:
    """Create accelerate's object for this process, in the environment set up by its launcher, if any.

    Args:
        out: the run's folder, for trackers that write files.

    Raises UsageError: fp16 was requested without a GPU, where it would have no effect.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import parse_flag_from_env

    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    # Anew, as accelerate keeps the first precision of a process, and joins processes on CPUs only if told to.
    AcceleratorState._reset_state(reset_partial_state=True)
    # Each step uses only the heads of one stage.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    precision = config.mixed_precision
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=fitting_precision(device) if precision == "auto" else precision,
        kwargs_handlers=[unused],
        log_with=list(config.track) or None,
        project_dir=None if out is None else out / TRACKS,
    )
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError(
            "--mixed-precision fp16 needs a GPU, and this run is on a CPU.",
            "Choose --mixed-precision bf16 or no.",
        )
    return accelerator


def launched_alone(processes: int) -> bool:
    """Whether `accelerate launch` was told to start several processes but started only this one, as on a CPU:
    it then sets the address of the main process, but not the number of processes."""
    launched = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    return processes == 1 and launched and "WORLD_SIZE" not in os.environ


def fitting_precision(device: torch.device) -> Precision:
    """The meaning of `auto` on a device. On a CPU it is float32, as not every CPU is faster in bfloat16."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"


@contextlib.contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """Within this context, a GPU multiplies float32 matrices in TF32: much faster, with 10 bits of
    precision."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def shared_out(config: TrainConfig, processes: int) -> TrainConfig:
    """The settings with one pass per process, unless `micro_batch` is set.
    Raises UsageError: the items or passes cannot be divided evenly among the processes."""
    if not config.micro_batch and config.batch_size % processes:
        raise UsageError(
            f"{config.batch_size} items cannot be divided among {processes} processes.",
            f"Choose a --batch-size that is a multiple of {processes}.",
        )
    if not config.micro_batch and processes > 1:
        config = dataclasses.replace(config, micro_batch=config.batch_size // processes)
    if config.micro_batches % processes:
        raise UsageError(
            f"{config.micro_batches} micro-batches cannot be divided among {processes} processes.",
            "Choose --batch-size and --micro-batch so that their ratio is a multiple of that.",
        )
    return config


class Trainer:
    """A run: model, optimizers, averages and counters."""

    def __init__(
        self,
        config: TrainConfig,
        output: OutputModel,
        train: BatchDrawer,
        valid: BatchDrawer | None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepare a run that starts at step 0.
        Raises UsageError: the micro-batches cannot be divided evenly among the processes."""
        self.config, self.output, self.train, self.valid = config, output, train, valid
        self.accelerator = accelerator or make_accelerator(config)
        processes = self.accelerator.num_processes
        self.share = shared_out(config, processes).micro_batches // processes
        self.following_weights = config.following_weights(output.lm.config.n_q)
        module = TrainingModule(output.lm, self.following_weights, config.gradient_checkpointing)
        # Together, because FSDP replaces the parameters that the optimizers refer to.
        self.model, *self.optimizers = self.accelerator.prepare(
            module.train(), *make_optimizers(module, config)
        )
        if any(not p.requires_grad for p in self.model.parameters()):
            state.keep_only_trained(self.accelerator)
        self.ema = state.Ema(self.model, config.ema_decay)
        self.step = 0  # steps done
        self.best: Best | None = None  # by validation
        self.changes: list[str] = []  # settings and data that changed since the last checkpoint
        self._stopping = False

    def stop(self) -> None:
        """Ask `run` to stop after the current step, with a checkpoint. May be called from a signal handler.

        All processes stop after the same step, even if only one of them is asked.
        """
        self._stopping = True

    def resume(self) -> bool:
        """Resume from the newest complete checkpoint; false if there is none.
        Raises CheckpointError: it is damaged, or does not fit the model."""
        checkpoint = state.latest_checkpoint(self.output.directory)
        if checkpoint is None:
            return False
        self.step = state.load_checkpoint(self.accelerator, self.ema, checkpoint)
        self.best = self.output.best()
        then = state.checkpoint_record(checkpoint)
        data = self._data
        now = {**_plain(self.config), "clips": data["clips"]}
        was = {**then["config"], "clips": then.get("clips", now["clips"])}
        if was["clips"] == now["clips"] and {**data, **then}["clips_hash"] != data["clips_hash"]:
            self.changes = ["as many clips, but others"]
        key = self._valid_key
        if self.best is not None and key and self.best.valid not in ("", key):
            self.best = None  # losses on other clips cannot be compared
            self.changes.append("the validation set, so its best starts anew")
        self.changes += [
            f"{name} was {was[name]}, is {value}"
            for name, value in now.items()
            if name in was
            and was[name] != value
            # The same folders, if the run is resumed from another working directory.
            and _places(was[name], str(then.get("folder", ""))) != _places(value, "")
        ]
        return True

    @functools.cached_property  # it reads every caption, and each checkpoint records it
    def _data(self) -> dict[str, Any]:
        """The number of training clips, and their hash."""
        source = self.train.source
        return {"clips": len(source.entries), "clips_hash": source.hash()}

    @functools.cached_property
    def _valid_key(self) -> str:
        """Identifies the validation set and how many of its clips are used; empty without one."""
        if self.valid is None:
            return ""
        source = self.valid.source
        return f"{source.hash()}-{min(self.config.valid_items, len(source.entries))}"

    @own_defaults()
    def run(
        self,
        on_progress: OnProgress = lambda progress: None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
    ) -> None:
        """Train until `config.steps`.

        Args:
            on_progress: called with every record of the log, in the main process.
            on_step: called after every step with the steps done and its loss (nats), in the main process.

        Raises:
            NotANumberError: naming the step, the batch and the last good checkpoint.
            UsageError: another run is writing to this folder.
            KeyboardInterrupt: after `stop`, once the checkpoint is written.
        """
        device = self.accelerator.device
        with (
            locked(self.output.directory, self.accelerator.is_main_process),
            tf32(device),
            Ahead(self._draw, self.config.steps) as ahead,
        ):
            self._run(on_progress, on_step, ahead)

    def _run(
        self, on_progress: OnProgress, on_step: Callable[[int, float], None], ahead: Ahead
    ) -> None:
        main = self.accelerator.is_main_process
        out = self.output.directory
        journal = Journal(out, self.config.tensorboard, self.step) if main else None
        if self.config.track:
            plain = {name: str(value) for name, value in _plain(self.config).items()}
            self.accelerator.init_trackers(out.resolve().name, config=plain)

        def tell(kind: str, record: dict[str, Any]) -> None:
            if journal is not None:
                journal.write({"step": self.step, "kind": kind, **record})
                on_progress(Progress(kind, self.step, record))
            if self.config.track and (numbers := numbers_of(kind, record)):
                self.accelerator.log(numbers, step=self.step)

        try:
            if self.step:  # a kill between checkpoint and model left an older model
                self._keep_model()
            enough = self._has_waited_enough()
            if self.step < self.config.steps and not enough:
                tell("started", self.summary())
            window = Window(self.train.lm.n_q)
            while self.step < self.config.steps and not enough:
                began = time.monotonic()
                loss, norm, sums = self.take_step(ahead.take(self.step))
                stopping = self._asked_to_stop()
                window.add(loss, norm, sums, time.monotonic() - began)
                if main:
                    on_step(self.step, loss)
                if self._due(self.config.log_every):
                    tell("step", window.record(self._rate))
                    window = Window(self.train.lm.n_q)
                if self.valid is not None and self._due(self.config.valid_every):
                    losses = self._validate()
                    best = self.best is not None and self.best.step == self.step
                    said = {**dataclasses.asdict(losses), "mean": losses.mean, "best": best}
                    tell("valid", said)
                sampling = self.config.sample_every and self._due(self.config.sample_every)
                # Samples are made by the saved model, and a saved model needs a checkpoint: a run resumed
                # without one starts from the model's file.
                enough = self._has_waited_enough()
                if sampling or stopping or enough or self._due(self.config.checkpoint_every):
                    tell("checkpoint", {"path": str(self.checkpoint())})
                if stopping and self.step < self.config.steps:
                    raise KeyboardInterrupt
                if sampling:
                    tell("samples", {"path": str(self._sample())})
            if enough:
                assert self.best is not None
                tell("enough", {"best_step": self.best.step, "best_loss": self.best.loss})
            path = str(out / BEST if self.best is not None else out)
            base = {"base": self.config.init} if self.config.lora_rank else {}
            tell("finished", {"path": path, **base})
        finally:
            if journal is not None:
                journal.close()
            if self.config.track:
                for tracker in self.accelerator.trackers:
                    tracker.finish()

    def _validate(self) -> ValidationLoss:
        """Compute the loss on the validation set; keep the averaged weights if it is the lowest so far."""
        assert self.valid is not None
        with self.ema.swapped():
            losses = validate(self.accelerator, self.model, self.valid)
            if losses.mean < (math.inf if self.best is None else self.best.loss):
                self.best = Best(self.step, losses.mean, self._valid_key)
                weights = self.accelerator.get_state_dict(self.model)
                if self.accelerator.is_main_process:
                    with self._writing("The best model"):
                        self.output.keep_best(weights, self.best)
        self.accelerator.wait_for_everyone()
        return losses

    def _sample(self) -> Path:
        """Generate the sample prompts in the main process, with the saved model on its device.

        The other processes wait after each clip: waiting for all clips at once could exceed the time-out of
        the processes' connection, which ends the run.
        """
        model = None
        if self.accelerator.is_main_process:
            model = self.output.kept_model(str(self.accelerator.device))
        for number, prompt in enumerate(self.config.sample_prompts or ("",)):
            if model is not None:
                self.output.sample(model, self.step, number, prompt, self.config.seed)
            self.accelerator.wait_for_everyone()
        return self.output.samples_of(self.step)

    def _has_waited_enough(self) -> bool:
        """Whether the best validation is `patience` validations old."""
        if self.best is None or not self.config.patience:
            return False
        every = self.config.valid_every
        return self.step // every - self.best.step // every >= self.config.patience

    def summary(self) -> dict[str, Any]:
        """Data, sizes, device and disk space of the run, JSON-able: lengths in hours, files in bytes."""
        clips = [clip for _, clip in self.train.source.entries]
        numbers = [(p.numel(), p.requires_grad) for p in self.model.parameters()]
        trained = sum(number for number, is_trained in numbers if is_trained)
        parameters = sum(number for number, _ in numbers)
        # The model's own file, another while it is replaced, and the best one.
        models = 4 * parameters * (1 if self.valid is None else 2)
        return {
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "precision": self.accelerator.mixed_precision,
            "clips": len(clips),
            "hours": round(sum(c.frames for c in clips) / self.train.lm.frame_rate / 3600, 4),
            "passes": round(self.config.steps * self.config.batch_size / len(clips), 2),
            "parameters": parameters,
            "trained": trained,
            # Weights, averages and the optimizer's two moments, in float32; one more during writing.
            "checkpoint_bytes": 16 * trained,
            "disk_bytes": 16 * trained * (self.config.keep_checkpoints + 1) + models,
            "free_bytes": shutil.disk_usage(self.output.directory).free,
        }

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop: they must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return self._stopping
        asked = torch.tensor(float(self._stopping), device=self.accelerator.device)
        return float(self._sum(asked)) > 0

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _draw(self, step: int) -> list[Batch]:
        """This process's batches of a step."""
        first = self.accelerator.process_index * self.share
        return [self.train.batch(step, first + micro) for micro in range(self.share)]

    def take_step(self, batches: list[Batch] | None = None) -> tuple[float, float, Tensor]:
        """Take one optimizer step; returns the loss, the gradient norm, and sums and counts by stream [4,
        K].

        Args:
            batches: those of the step, if already drawn.
        """
        device = self.accelerator.device
        if batches is None:
            batches = self._draw(self.step)
        here = sum(batch.counts(self.following_weights) for batch in batches)
        counts = self._sum(torch.as_tensor(here).to(device, exact(device)))
        sums = torch.zeros(4, self.train.lm.n_q, dtype=exact(device), device=device)
        total = torch.zeros((), dtype=exact(device), device=device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                both, by_stream = self.model(batch.to(device))
                loss = mean_loss(both, counts, self.config.prefix_weight)
                # DDP and FSDP average gradients over processes, but the sum is needed.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
            sums += by_stream
        loss_here = float(self._sum(total))
        if not math.isfinite(loss_here):
            raise self._not_a_number("The loss is NaN or infinite", batches)
        norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), self.config.clip_norm or math.inf
        )
        # With fp16 the scaler skips such a step and lowers the scale.
        if self.config.mixed_precision != "fp16" and not math.isfinite(float(norm)):
            raise self._not_a_number("The gradients are not numbers", batches)
        self._rate = set_rates(self.optimizers, self.step, self.config)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        if self.step % self.config.averaging == 0:
            self.ema.update()
        return loss_here, float(norm), self._sum(sums)

    def _sum(self, tensor: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(tensor, "sum")
        return summed

    def _not_a_number(self, what: str, batches: list[Batch]) -> NotANumberError:
        clips = ", ".join(name for batch in batches for name in batch.names)
        return self._lost(f"{what} at step {self.step + 1}, in the batch of {clips}.")

    def _lost(self, what: str) -> NotANumberError:
        newest = state.latest_checkpoint(self.output.directory)
        # A checkpoint of this step has the weights that led here; resuming from it would give the same.
        good = state.latest_checkpoint(self.output.directory, before=self.step)
        lower = "a lower --learning-rate, or --mixed-precision no."
        if good is None:
            none = "There is no good checkpoint yet."
            return NotANumberError(f"{what} {none}", f"Start again with {lower}")
        away = "Go on from it with" if newest == good else f"Remove {newest}, and go on with"
        return NotANumberError(
            f"{what} The last good checkpoint is {good}.", f"{away} --resume and {lower}"
        )

    def checkpoint(self) -> Path:
        """Save the run's state, and the averaged weights as the model for generation.

        Raises:
            NotANumberError: some weights are not numbers; nothing is written.
            MagnetError: the disk is full, or cannot be written to.
        """
        here = sum(not bool(state.local(p).isfinite().all()) for p in self.model.parameters())
        if float(self._sum(torch.tensor(float(here), device=self.accelerator.device))):
            raise self._lost(f"Weights are not numbers after step {self.step}: they are not saved.")
        with self._writing(f"The checkpoint after step {self.step}"):
            saved = state.save_checkpoint(
                self.accelerator,
                self.ema,
                self.output.directory,
                self.step,
                {"config": _plain(self.config), **self._data, "folder": os.getcwd()},
                self.config.keep_checkpoints,
            )
        self._keep_model()
        return saved

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            last = state.latest_checkpoint(self.output.directory) or "none"
            raise MagnetError(
                f"{what} could not be written: {error.strerror or error}.",
                f"Free some space and continue with --resume; the last checkpoint is {last}.",
            ) from error

    def _keep_model(self) -> None:
        with self.ema.swapped():
            # Write within the context: without FSDP these are the parameters themselves, which swap back.
            weights = self.accelerator.get_state_dict(self.model)
            if self.accelerator.is_main_process:
                with self._writing("The model"):
                    self.output.update(weights)
        self.accelerator.wait_for_everyone()


def _plain(config: TrainConfig) -> dict[str, Any]:
    """The settings as JSON values, for comparison with those of a checkpoint."""
    said = {**dataclasses.asdict(config), "learning_rate": config.rate}
    plain: dict[str, Any] = json.loads(json.dumps(said))
    return plain


def _places(value: Any, folder: str) -> Any:
    """A setting with its texts, which may be paths, made relative to `folder` ("": the current one)."""
    if isinstance(value, list):
        return [_places(each, folder) for each in value]
    return os.path.realpath(Path(folder, value)) if isinstance(value, str) else value
