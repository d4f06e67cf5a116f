"""`magnet train`: models that `magnet gen` plays, from tokens; codecs, from sounds."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli.help import group
from magnet_cli.cli.loading import loading
from magnet_cli.cli.settings import Given, TalkOptions, takes_flags
from magnet_cli.cli.talk import Talk, stdout_is_terminal
from magnet_cli.config import SpectralCodecConfig
from magnet_cli.errors import UsageError
from magnet_cli.files import ENDINGS
from magnet_cli.naming import hours_of
from magnet_cli.training.config import CodecTrainConfig, TrainConfig, located, read_config, toml_in

if TYPE_CHECKING:
    from magnet_cli.training.loop import Progress, Trainer

app = group("train", "Train models.")


@app.command(
    "lm",
    epilog=(
        "Example:\n\n    magnet train lm models/mine --data tokens/train --init small --steps 200"
    ),
)
@takes_flags
def train_lm(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The model's folder.")],
    *,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings as TOML; flags override them.")
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="The same as --modeling hybrid.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the folder's last checkpoint.")
    ] = False,
    talk: TalkOptions,
    settings: Annotated[dict[str, Any], Given(TrainConfig)],
) -> None:
    """Train a language model on token shards, or fine-tune one with --init.

    The folder is a model that `magnet gen -m` plays from the first checkpoint on. Ctrl-C ends it with
    a checkpoint, and --resume continues. Several GPUs or machines: `accelerate launch -m magnet_cli train
    lm …`.
    """
    if hybrid:
        settings["modeling"] = "hybrid"
    given = set(settings)
    if config is not None:
        given |= toml_in(config).keys()
    if config is None and resume and (out / "train.toml").is_file():
        config = out / "train.toml"
    elif config is None and resume and not settings.get("data"):
        raise UsageError(f"{out} has no run to resume.", "Check the name of the folder.")
    chosen = read_config(config, settings)
    if resume and (out / "train.toml").is_file():
        chosen = located(chosen, out)
        _same_start(located(read_config(out / "train.toml", {}), out), chosen, out)
    voice = Talk(talk)
    try:
        import accelerate  # noqa: F401  (without it, nothing of the data need be read)

        from magnet_cli.training.loop import launched_alone
        from magnet_cli.training.setup import make_trainer
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        raise UsageError(
            "Training needs the package accelerate.",
            "Install it with `pip install accelerate`, or magnet with its `train` extra.",
        ) from error
    # Of several processes, only one talks; without a launcher's variable this is known later.
    voice.quiet |= os.environ.get("RANK", "0") != "0"
    with loading(voice, chosen.init or str(out)) as on_download:
        trainer = make_trainer(chosen, out, resume, on_download, given)
    voice.quiet |= not trainer.accelerator.is_main_process
    if launched_alone(trainer.accelerator.num_processes):
        voice.warn(
            "accelerate launch starts one process on a CPU, however many it is asked for. For two: "
            "torchrun --nproc_per_node 2 -m magnet_cli train lm …"
        )
    if trainer.step >= chosen.steps:
        done = f"{trainer.step} steps, and {chosen.steps} were asked for"
        voice.note(f"{out} has done {done}. Ask for more with --steps.")
    elif trainer.step:
        voice.note(f"Resuming after step {trainer.step} of {chosen.steps}")
        if trainer.changes:
            voice.warn(f"Changed since the last checkpoint: {'; '.join(trainer.changes)}.")
    elif resume:
        voice.note("There is no checkpoint yet: starting from step 0.")
    several = trainer.accelerator.num_processes > 1
    resume_by = f"Resume it with: magnet train lm {shlex.quote(str(out))} --resume"
    stopping = _stopping_well(trainer.stop, voice.note, resume_by, several)
    with stopping, _bar(trainer, voice, chosen.steps) as on_step:
        trainer.run(lambda progress: _say(voice, progress, chosen.steps), on_step)


# Settings that determine a run's weights: with other values they could not be loaded, or would not fit.
_BEGUN_WITH = ("init", "codec", "text_encoder", "lora_rank", "lora_targets", "optimizer")


def _same_start(began: TrainConfig, asked: TrainConfig, out: Path) -> None:
    """Refuse to resume with another model, LoRA or optimizer than the run started with."""
    for name in _BEGUN_WITH:
        was, now = getattr(began, name), getattr(asked, name)
        places = [os.path.realpath(os.path.expanduser(str(value))) for value in (was, now)]
        if now is None or places[0] == places[1]:
            continue
        before, after = (" ".join(v) if isinstance(v, tuple) else v or "none" for v in (was, now))
        flag = "--" + name.replace("_", "-")
        raise UsageError(
            f"{flag} cannot be {after}: the run of {out} began with {before}.",
            f"Leave {flag} out, or train into another folder without --resume.",
        )


@contextmanager
def _stopping_well(
    stop: Callable[[], None], note: Callable[[str], None], resume_by: str, several: bool = False
) -> Iterator[None]:
    """Within this context, the first Ctrl-C, SIGTERM or SIGHUP ends the run with a checkpoint, the second at
    once.

    Job queues, containers and spot machines send SIGTERM before they kill; one process of several suffices.
    """
    came: list[int] = []
    said: list[threading.Thread] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        came.append(number)
        # With several processes, the launcher passes Ctrl-C on to all of them, and then sends SIGTERM, too.
        if not several:
            restore()
        if number not in (signal.SIGINT, signal.SIGTERM):  # SIGHUP: the shell sends it again
            signal.signal(number, signal.SIG_IGN)
        stop()
        # In a thread: if a line is being printed here, it would be printed twice.
        more = "" if several else " Once more stops at once."
        text = f"Stopping after this step, with a checkpoint.{more}"
        said.append(threading.Thread(target=note, args=(text,)))
        said[-1].start()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    # An ignored signal (Ctrl-C in the background) stays ignored.
    heard = (signal.SIGINT, *ENDINGS)
    before = {n: signal.getsignal(n) for n in heard if signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    except KeyboardInterrupt:
        for each in said:
            each.join()
        note(resume_by)
        restore()
        for first in came[:1]:  # as without this handler: SIGTERM has its own exit status
            signal.raise_signal(first)
        raise
    finally:
        restore()


_SMOOTH = 0.98  # smoothing of the displayed loss, as each step draws another stream


@contextmanager
def _bar(trainer: Trainer, voice: Talk, steps: int) -> Iterator[Callable[[int, float], None]]:
    """A progress bar on a terminal, with the time left and the smoothed loss."""
    if not voice.live:
        yield lambda step, loss: None
        return
    from rich import progress as rich

    with rich.Progress(
        rich.BarColumn(bar_width=24),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(compact=True),
        rich.TextColumn("{task.description}", style="dim"),
        console=voice.console,
        transient=True,
        redirect_stdout=stdout_is_terminal(),
    ) as bar:
        task = bar.add_task("", total=steps, completed=trainer.step)
        total = weight = 0.0

        def on_step(step: int, loss: float) -> None:
            nonlocal total, weight
            total, weight = _SMOOTH * total + loss, _SMOOTH * weight + 1
            bar.update(task, completed=step, description=f"loss {total / weight:.3f}")

        yield on_step


def _say(voice: Talk, progress: Progress, steps: int) -> None:
    record = progress.record
    voice.data({"step": progress.step, "kind": progress.kind, **record})
    if progress.kind == "started":
        _say_run(voice, record)
    elif progress.kind == "step":
        left = (steps - progress.step) * record["seconds_per_step"]
        voice.note(
            f"step {progress.step}/{steps}  loss {record['loss']:.4f}{_by_stream(record)}  "
            f"{record['seconds_per_step']:.2f} s a step  {_minutes(left)} left"
        )
    elif progress.kind == "valid":
        best = "  (the best so far)" if record["best"] else ""
        voice.note(f"validation  {record['mean']:.4f}{_by_stream(record)}{best}")
    elif progress.kind == "enough":
        voice.note(
            f"Stopping early: no validation since step {record['best_step']} was better than its "
            f"{record['best_loss']:.4f}. To go on, resume with a larger --patience."
        )
    elif progress.kind in ("checkpoint", "samples"):
        voice.note(f"{progress.kind}  {record['path']}")
    elif progress.kind == "finished":
        path = shlex.quote(record["path"])
        model = f"{shlex.quote(record['base'])} --lora {path}" if "base" in record else path
        voice.note(f'Try it: magnet gen "a prompt" -m {model}')


def _by_stream(record: dict[str, Any]) -> str:
    """The losses by stream, which are comparable between lines although steps draw different streams."""
    said = ""
    for kind in ("masked", "following"):
        values = record[kind]
        if any(value is not None for value in values):
            each = "/".join("–" if value is None else f"{value:.3f}" for value in values)
            said += f"  {kind} {each}"
    return said


def _say_run(voice: Talk, run: dict[str, Any]) -> None:
    """Report what is trained, on which data and device, and the disk space it takes."""
    from magnet_cli.models.precision import multiplies_bfloat16

    of = f" of {run['parameters']:,}" if run["trained"] != run["parameters"] else ""
    in_ = "" if run["precision"] == "no" else f" ({run['precision']})"
    processes = "1 process" if run["processes"] == 1 else f"{run['processes']} processes"
    voice.note(
        f"{run['clips']} clips ({hours_of(run['hours'])}), seen {run['passes']:g} times; "
        f"training {run['trained']:,}{of} parameters on {run['device']}{in_} in {processes}"
    )
    if (run["device"], run["precision"]) == ("cpu", "bf16") and not multiplies_bfloat16():
        voice.warn("This CPU converts every product in bfloat16: --mixed-precision no is faster.")
    voice.note(
        f"A checkpoint takes {_bytes(run['checkpoint_bytes'])}, all files of the run up to "
        f"{_bytes(run['disk_bytes'])} ({_bytes(run['free_bytes'])} are free)"
    )
    if run["disk_bytes"] > run["free_bytes"]:
        voice.warn(
            "The disk has too little room for that: keep fewer with --keep-checkpoints, or make room."
        )


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _minutes(seconds: float) -> str:
    """Format a time: 45 s, 12 min, 5 h 20 min, 3 d 0 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


@app.command(
    "codec", epilog="Example:\n\n    magnet train codec codecs/mine --data sounds/train.jsonl"
)
@takes_flags
def train_codec(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the run and its codec.")],
    *,
    data: Annotated[
        str,
        typer.Option(
            help="Manifest or folder of sounds.",
            rich_help_panel="Data",
        ),
    ],
    talk: TalkOptions,
    settings: Annotated[dict[str, Any], Given(CodecTrainConfig, SpectralCodecConfig)],
) -> None:
    """Train the light spectral codec of the built-in model.

    It starts at the linear optimum (principal components and residual k-means) and continues by
    gradient descent. Ctrl-C ends it with a checkpoint, and the same command resumes.
    """
    sizes = {field.name for field in dataclasses.fields(SpectralCodecConfig)} & settings.keys()
    codec = SpectralCodecConfig(**{name: settings.pop(name) for name in sizes})
    config = CodecTrainConfig(
        data=data, out=str(out), codec=codec, asked=tuple(sorted(sizes)), **settings
    )
    voice = Talk(talk)
    from magnet_cli.training import codec as training

    def say(record: dict[str, Any]) -> None:
        voice.data(record)
        facts = "  ".join(f"{name} {_shown(value)}" for name, value in record.items())
        voice.note(facts)

    def around_steps(stop: Callable[[], None]) -> AbstractContextManager[None]:
        return _stopping_well(stop, voice.note, "Resume it with the same command.")

    made = training.train_codec(config, say, around_steps)
    voice.data({"kind": "finished", "path": str(made.directory), "loss": made.loss})
    path = shlex.quote(str(made.directory))
    voice.note(f"Use it: magnet data encode {shlex.quote(data)} tokens --codec {path}")


def _shown(value: Any) -> str:
    """Format a value with rounded fractions; streams are separated by slashes, as for language models."""
    if isinstance(value, (list, tuple)):
        return "/".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
