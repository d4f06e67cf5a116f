"""`magnet vary`: a sound in, variations of it out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.clips import make_each
from magnet_cli.cli.inputs import Source, input_sound, named_after, say_channels
from magnet_cli.cli.output import Talk
from magnet_cli.cli.pieces import (
    PieceMaker,
    check_stdout,
    cleaned,
    cues_of,
    say_seed,
    seeds_of,
    told,
)
from magnet_cli.cli.prompts import texts_of
from magnet_cli.cli.settings import (
    CodesFileOptions,
    DecodingOptions,
    ModelOptions,
    SeedOptions,
    TalkOptions,
    WindowOptions,
    takes_flags,
)
from magnet_cli.errors import UsageError
from magnet_cli.provenance import of_input
from magnet_cli.settings import OutputConfig

if TYPE_CHECKING:
    from magnet_cli.clips import Target

HALF = 0.5  # the strength, if nothing is said

EXAMPLES = """
Examples:

    magnet vary riff.wav "lofi piano" -o other.wav
    magnet vary riff.wav "distorted guitar" --strength 0.8 -n 4 -o variations/
    magnet vary riff.wav "lofi piano" --keep-streams 1 -o cleaner.wav
"""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("vary", epilog=EXAMPLES)(vary)


@takes_flags
def vary(
    source: Source,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to hear.")],
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            metavar="0..1",
            help="0: the input through the codec; 1: nothing of it is kept. "
            f"Default: {HALF}, and 1 with --keep-streams.",
            show_default=False,
        ),
    ] = None,
    keep_streams: Annotated[
        int,
        typer.Option(
            "--keep-streams",
            metavar="N",
            help="Keep the N coarsest streams whole and decode only the finer ones anew.",
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
    talk: TalkOptions,
) -> None:
    """Make variations of a sound.

    The input becomes codes; a share of them is kept, in short spans, and the model fills in the
    rest. The more is kept, the more of its melody and rhythm stay.
    """
    from magnet_cli.cli.targets import plan
    from magnet_cli.clips import Making

    voice = Talk(talk)
    check_stdout(files.destination, talk)
    negative = cleaned(variations.negative)
    if strength is None:
        strength = 1.0 if keep_streams else HALF
    if not 0 <= strength <= 1:
        raise UsageError(f"--strength cannot be {strength:g}.", "It takes a number from 0 to 1.")
    with input_sound(source, [prompt]) as given:
        cues = cues_of(texts_of([prompt], voice), None)
        seeds = seeds_of(variations)
        targets = plan(
            [named_after(source, "varied")],
            seeds,
            files.destination,
            files.codes,
            output,
            files.force,
        )

        from magnet_cli.cli.loading import load, source_of
        from magnet_cli.cli.progress import ClipDisplay
        from magnet_cli.editing.transcoding import encode_sound
        from magnet_cli.editing.variation import check_variation
        from magnet_cli.editing.variation import vary as vary_codes

        loaded = load(model, voice)
        making = Making(decoding.over(loaded.defaults), output, None, source_of(model))
        flags = {"strength": strength, "keep_streams": keep_streams, "overlap": windows.overlap}
        command = {"command": "vary", "input": source, "flags": flags, **of_input(given.metadata)}
        maker = PieceMaker(loaded, making, negative, windows.overlap, voice, command)
        check_variation(loaded, strength, keep_streams)
        maker.check(cues, given.duration)
        say_channels(given, loaded, "the sound becomes the model's", voice)
        length = given.duration
        known = encode_sound(loaded, given)

    say_seed(variations, seeds, voice)
    with ClipDisplay(voice, len(targets)) as display:

        def make(target: Target) -> None:
            began = time.monotonic()
            on_step = display.begin(target.prompt, target.seed)
            piece = vary_codes(
                loaded,
                maker.direction(cues, target.seed),
                known,
                strength,
                keep_streams,
                on_step=on_step,
                on_window=display.window,
            )
            maker.save(target, piece, began, length, on_step)
            display.done()

        make_each(told(targets, cues), make, voice)
