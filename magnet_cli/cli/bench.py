"""`magnet bench`: measures the speed of a model on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.evaluate import PlaceOptions, check_plot
from magnet_cli.cli.loading import choose, import_torch, loading
from magnet_cli.cli.progress import counting
from magnet_cli.cli.settings import (
    ModelOptions,
    TalkOptions,
    complete_model,
    seconds_of,
    takes_flags,
)
from magnet_cli.cli.talk import Talk
from magnet_cli.config import PRECISIONS, no_dtype
from magnet_cli.errors import UsageError
from magnet_cli.fields import SECONDS, check, panel

if TYPE_CHECKING:
    from magnet_cli.evaluation.bench import Supply
    from magnet_cli.models.parts import Parts

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet bench
    magnet bench --shape small --dtype float32,int8 --sample 3
    magnet bench -m small --partner facebook/musicgen-small --ways masked,hybrid:2 --plot speed.png
"""

_what, _model = panel("Measurements"), panel("Model")


@dataclass(frozen=True)
class BenchOptions:
    """Flags for what to measure."""

    ways: str | None = _what(
        "Decoding methods, separated by commas: masked, autoregressive, rescorer or hybrid:SECONDS. "
        "Default: masked and autoregressive, if the model can.",
        metavar="WAYS",
    )
    dtype: str = _what(
        "Precisions, separated by commas: auto, float32, float16, bfloat16 or int8.",
        "auto",
        metavar="NAMES",
        show_default=False,
    )
    batch: tuple[int, ...] = _what(
        "Batch sizes, in clips.", (1,), metavar="N,N,...", low=1, high=1024
    )
    duration: float | None = _what(
        "Length of a clip. Default: the model's segment, or 10 with --shape.",
        flags="--duration -d",
        metavar="SECONDS",
        parser=seconds_of,
        **SECONDS,
    )
    steps: tuple[int, ...] | None = _what(
        "Decoding steps of each stream, or one number for all.",
        metavar="N,N,...",
        low=1,
        high=10_000,
    )
    repeats: int = _what("Runs per row.", 3, low=1, high=1000)
    sample: int | None = _what(
        "Time only N steps of each kind and estimate the rest, for large models on slow machines.",
        low=1,
        high=10_000,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class BenchModelOptions(PlaceOptions):
    """Flags for the model and its device."""

    model: str | None = _model(
        "As in `magnet gen`.",
        flags="--model -m",
        metavar="NAME",
        envvar="MAGNET_MODEL",
        autocompletion=complete_model,
    )
    shape: str | None = _model(
        "Use random weights of a released size, small or medium, so that nothing is downloaded.",
        metavar="NAME",
    )
    partner: str | None = _model(
        "An autoregressive model with the same codec, for the methods that need one. "
        "Default: a hybrid model itself.",
        metavar="NAME",
        autocompletion=complete_model,
    )
    lora: tuple[str, ...] = _model(
        "A LoRA to merge into the model. May be given several times.", (), metavar="FILE[:SCALE]"
    )


@app.command("bench", epilog=EXAMPLES)
@takes_flags
def bench(
    ctx: typer.Context,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also draw throughput over latency."),
    ] = None,
    *,
    what: BenchOptions,
    models: BenchModelOptions,
    talk: TalkOptions,
) -> None:
    """Measure how long a model takes on this machine.

    Times decoding from texts to codes, without loading and warming up: seconds (median and quartiles),
    clips a minute, times real time, passes through the network, peak memory, and the batch size from which
    autoregressive decoding is faster. Writes a table to stdout, after Ctrl-C or an error with what was
    measured until then. Run nothing else meanwhile.
    """
    voice = Talk(talk)
    check_plot(plot)
    dtypes = _words("--dtype", what.dtype)
    for name in dtypes:
        if name not in ("auto", *PRECISIONS):
            raise no_dtype(name)
    # --shape takes precedence over a model from the environment or config.toml.
    source = ctx.get_parameter_source("model")
    asked = models.lora or models.partner or (source is not None and source.name == "COMMANDLINE")
    if models.shape is not None and asked:
        raise UsageError(
            "--shape has random weights and its own partner.",
            "Remove --model, --lora and --partner.",
        )
    name = models.shape or choose(ModelOptions(models.model), voice)
    import_torch(name, models.threads, what.sample is None)  # a sample is timed pass by pass
    from magnet_cli.evaluation.bench import Plan, parse_way
    from magnet_cli.evaluation.bench import bench as measured

    ways = None if what.ways is None else tuple(map(parse_way, _words("--ways", what.ways)))
    if models.partner and ways and all(way.kind == "masked" for way in ways):
        raise UsageError("--ways masked does not use --partner.", "Remove it, or add another way.")
    plan = Plan(ways, dtypes, what.batch, what.duration, what.steps, what.repeats, what.sample)
    supply = _shapes(models, what) if models.shape is not None else _loaded(name, models, voice)
    with counting(voice, "Measuring") as on_run:
        found = measured(name, supply, plan, on_run)
    if voice.json:
        voice.data(found.record())
    else:
        voice.print(found.markdown())
    if plot is not None:
        from magnet_cli.evaluation.plots import draw_tradeoff

        draw_tradeoff(plot, found.points(), found.place)
        voice.note(f"Drew {plot}")
    if found.interrupted:
        raise found.interrupted


def _words(flag: str, text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise UsageError(f"{flag} is empty.", "Give one name, or several with commas between them.")
    return words


def _loaded(name: str, models: BenchModelOptions, voice: Talk) -> Supply:
    """Loaders of the named model and its partner."""
    from magnet_cli.api import load_model
    from magnet_cli.evaluation.bench import Supply

    def loader(of: str, loras: tuple[str, ...]) -> Callable[[str], Parts]:
        def load(dtype: str) -> Parts:
            with loading(voice, of) as hook:
                return load_model(
                    of,
                    device=models.device,
                    dtype=dtype,
                    offline=models.offline,
                    progress=hook,
                    lora=list(loras),
                ).parts

        return load

    return Supply(loader(name, models.lora), loader(models.partner, ()) if models.partner else None)


def _shapes(models: BenchModelOptions, what: BenchOptions) -> Supply:
    """Makers of random weights, masked and autoregressive."""
    from magnet_cli.checkpoints.load import pick_device
    from magnet_cli.config import Modeling
    from magnet_cli.evaluation.bench import Supply
    from magnet_cli.evaluation.shapes import find_shape, lm_config, random_codec, random_parts

    assert models.shape is not None
    shape, device = find_shape(models.shape), pick_device(models.device)
    codec = random_codec(device)
    seconds = what.duration or 10.0

    def maker(modeling: Modeling) -> Callable[[str], Parts]:
        name, config = f"{models.shape} ({modeling})", lm_config(shape, modeling, seconds)
        return lambda dtype: random_parts(name, config, dtype, device, codec)

    return Supply(maker("masked"), maker("autoregressive"))
