"""`magnet train`: language models, from tokens to a model that `magnet gen` plays."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli.flags import takes_flags
from magnet_cli.cli.options import TalkOptions, flag
from magnet_cli.cli.output import Talk
from magnet_cli.cli.train_codec import train_codec_command
from magnet_cli.errors import UsageError
from magnet_cli.training.config import TrainConfig, read_config

if TYPE_CHECKING:
    from magnet_cli.training.loop import Progress

app = typer.Typer(no_args_is_help=True, help="Train models.", rich_markup_mode="markdown")


def register(program: typer.Typer) -> None:
    """Add the group to the program."""
    app.command(
        "codec", epilog="Example:\n\n    magnet train codec codecs/mine --data sounds/train.jsonl"
    )(train_codec_command)
    program.add_typer(app, name="train")


def _option(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """The flag of a setting: None where it is not given, so that the file's value stays."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    name = "--" + field.name.replace("_", "-")
    about, type_ = field.metadata["about"], hint
    if origin is tuple:
        type_, about = list[inner[0]], about + " May be given several times."  # type: ignore[valid-type]
    elif origin is not None:  # a choice; a text, or nothing
        type_ = str
    if field.default not in (None, ()):
        shown = str(field.default).lower() if hint is bool else field.default
        about += f" Default: {shown}."
    names = (f"{name}/--no-{name[2:]}",) if hint is bool else (name,)
    option = flag(field.metadata["panel"], *names, help=about)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[type_ | None, option],
    )


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every training setting; it takes them all as `settings`."""
    hints = typing.get_type_hints(TrainConfig)
    fields = dataclasses.fields(TrainConfig)
    parameters = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "settings"
    ]
    parameters += [_option(field, hints[field.name]) for field in fields]

    def with_settings(**values: Any) -> None:
        given = {field.name: values.pop(field.name) for field in fields}
        command(**values, settings={k: v for k, v in given.items() if v not in (None, [])})

    with_settings.__name__, with_settings.__doc__ = command.__name__, command.__doc__
    with_settings.__module__ = command.__module__
    with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
    vars(with_settings)["__signature__"] = inspect.Signature(parameters)
    return with_settings


@app.command(
    "lm",
    epilog=(
        "Example:\n\n    magnet train lm models/mine --data tokens/train --init small --steps 200"
    ),
)
@takes_settings
@takes_flags
def train_lm(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The model's folder.")],
    *,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings as TOML; flags go over them.")
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="The same as --modeling hybrid.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")
    ] = False,
    talk: TalkOptions,
    settings: dict[str, Any],
) -> None:
    """Train a language model on token shards, or fine-tune one with --init.

    The folder is a model that `magnet gen -m` plays from the first checkpoint on. Interrupted, it
    goes on with --resume. Several GPUs or machines: `accelerate launch -m magnet_cli train lm …`.
    """
    if hybrid:
        settings["modeling"] = "hybrid"
    if config is None and resume and (out / "train.toml").is_file():
        config = out / "train.toml"
    chosen = read_config(config, settings)
    voice = Talk(talk)
    try:
        from magnet_cli.training.setup import make_trainer
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        raise UsageError(
            "Training needs the package accelerate.",
            "Install it with `pip install 'magnet-cli[train]'`.",
        ) from error
    trainer = make_trainer(chosen, out, resume)
    if trainer.step:
        voice.note(f"Going on after step {trainer.step} of {chosen.steps}")
    trainer.run(lambda progress: _say(voice, progress, chosen.steps))


def _say(voice: Talk, progress: Progress, steps: int) -> None:
    record = progress.record
    voice.data({"step": progress.step, "kind": progress.kind, **record})
    if progress.kind == "step":
        left = (steps - progress.step) * record["seconds_per_step"]
        voice.note(
            f"step {progress.step}/{steps}  loss {record['loss']:.4f}  "
            f"{record['seconds_per_step']:.2f} s a step  {_minutes(left)} left"
        )
    elif progress.kind == "valid":
        masked = "/".join("–" if x is None else f"{x:.3f}" for x in record["masked"])
        following = "/".join("–" if x is None else f"{x:.3f}" for x in record["following"])
        voice.note(f"validation  {record['mean']:.4f}  masked {masked}  following {following}")
    elif progress.kind in ("checkpoint", "samples"):
        voice.note(f"{progress.kind}  {record['path']}")
    elif progress.kind == "finished":
        voice.note(f'Try it: magnet gen -m {record["path"]} "a prompt"')


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
