"""`magnet vary`: makes variations of a sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli import loading
from magnet_cli.cli.inputs import (
    Source,
    check_stdout,
    cleaned,
    input_sound,
    named_after,
    plan,
    say_channels,
    say_seed,
    say_unknown,
    seeds_of,
    texts_of,
)
from magnet_cli.cli.progress import make_each
from magnet_cli.cli.settings import (
    CodesFileOptions,
    DecodingOptions,
    ModelOptions,
    SeedOptions,
    StepTalkOptions,
    WindowOptions,
    takes_flags,
)
from magnet_cli.cli.talk import Talk
from magnet_cli.data.tasks import HALF
from magnet_cli.errors import UsageError
from magnet_cli.settings import OutputConfig

if TYPE_CHECKING:
    from magnet_cli.clips import Clip
    from magnet_cli.targets import Target

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet vary riff.wav "lofi piano" -o other.wav
    magnet vary riff.wav "distorted guitar" --strength 0.8 -n 4 -o variations/
    magnet vary riff.wav "lofi piano" --keep-streams 1 -o cleaner.wav
"""


@app.command("vary", epilog=EXAMPLES)
@takes_flags
def vary(
    source: Source,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Describes the sound.")],
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="0..1",
            help="0: the input through the codec; 1: keep nothing of it. "
            f"Default: {HALF}, and 1 with --keep-streams.",
        ),
    ] = None,
    keep_streams: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Keep the N coarsest streams whole and decode only the finer ones.",
            min=0,
        ),
    ] = 0,
    *,
    files: CodesFileOptions,
    variations: SeedOptions,
    windows: WindowOptions,
    model: ModelOptions,
    decoding: DecodingOptions,
    output: OutputConfig,
    talk: StepTalkOptions,
) -> None:
    """Make variations of a sound.

    The input is encoded, a share of its codes is kept in short spans, and the model fills in the rest.
    The more is kept, the more of the melody and rhythm remain.
    """
    voice = Talk(talk)
    check_stdout(files.destination, talk, files.play)
    negative = cleaned(variations.negative)
    if strength is None:
        strength = 1.0 if keep_streams else HALF
    if not 0 <= strength <= 1:
        raise UsageError(f"--strength cannot be {strength:g}.", "It takes a number from 0 to 1.")
    with input_sound(source, [prompt], voice) as given:
        (text,) = texts_of([prompt], voice)
        seeds = seeds_of(variations)
        label = named_after(source, "varied")
        targets = plan([text], seeds, files.destination, files.codes, output, files.force, label)
        loaded = loading.load(model, voice)
        from magnet_cli.editing.variation import check_variation

        how: dict[str, Any] = {
            "config": decoding.over(loaded.defaults),
            "negative_prompt": negative,
            "overlap": windows.overlap,
        }
        check_variation(loaded, strength, keep_streams)
        loaded.check_piece(text, given.duration, **how)
        say_channels(given, loaded, "the output has the model's", voice)
        known = loaded.hear(given)

    say_unknown([text, negative], loaded, voice)
    say_seed(variations, seeds, voice)

    def make(target: Target, told: dict[str, Any]) -> Clip:
        return loaded.vary(known, text, strength, keep_streams=keep_streams, **how, **told)

    make_each(targets, make, output, voice, play=files.play)
