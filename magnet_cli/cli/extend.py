"""`magnet extend`: continues a sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli import loading
from magnet_cli.cli.inputs import (
    Source,
    check_cues,
    check_stdout,
    cleaned,
    cues_of,
    input_sound,
    named_after,
    plan,
    say_channels,
    say_seed,
    say_unknown,
    seeds_of,
    texts_of,
)
from magnet_cli.cli.progress import grown, make_each
from magnet_cli.cli.settings import (
    CodesFileOptions,
    DecodingOptions,
    ModelOptions,
    PieceOptions,
    SeedOptions,
    StepTalkOptions,
    seconds_of,
    takes_flags,
)
from magnet_cli.cli.talk import Talk
from magnet_cli.errors import UsageError
from magnet_cli.fields import check_seconds
from magnet_cli.settings import OutputConfig

if TYPE_CHECKING:
    from magnet_cli.clips import Clip
    from magnet_cli.targets import Target

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet extend riff.wav "lofi piano" --to 30 -o song.wav
    magnet extend riff.wav "lofi piano" --at 20 "drums enter" --to 40 -o song.flac
    cat riff.wav | magnet extend - "lofi piano" --to 30 -o - | ffplay -nodisp -
"""


@app.command("extend", epilog=EXAMPLES)
@takes_flags
def extend(
    source: Source,
    prompts: Annotated[
        list[str],
        typer.Argument(metavar="PROMPT", help="Describes the sound. Several need `--at`."),
    ],
    to: Annotated[
        float,
        typer.Option(
            "--to",
            metavar="SECONDS",
            help="Total length including the input, as 90 or 1:30.",
            parser=seconds_of,
        ),
    ],
    *,
    files: CodesFileOptions,
    variations: SeedOptions,
    pieces: PieceOptions,
    model: ModelOptions,
    decoding: DecodingOptions,
    output: OutputConfig,
    talk: StepTalkOptions,
) -> None:
    """Continue a sound, to any length.

    The input is encoded, the model continues its codes window by window, and all codes are decoded as
    one sound, so there is no audible joint. The input's part of the output has passed through the codec, at
    the model's sample rate and channels. Works with MAGNeT, MusicGen and AudioGen.
    """
    voice = Talk(talk)
    check_stdout(files.destination, talk, files.play)
    negative = cleaned(variations.negative)
    check_seconds("to", to)
    with input_sound(source, prompts, voice) as given:
        cues = cues_of(texts_of(prompts, voice), pieces.at)
        if to <= given.duration:
            raise UsageError(
                f"{given.name} is already {given.duration:.2f} s long.",
                "Use a larger --to, which counts from the start of the input.",
            )
        check_cues(cues, to)
        seeds = seeds_of(variations)
        label = named_after(source, "extended")
        targets = plan(
            [cues[0][1]], seeds, files.destination, files.codes, output, files.force, label
        )
        loaded = loading.load(model, voice)
        how: dict[str, Any] = {
            "config": decoding.over(loaded.defaults),
            "negative_prompt": negative,
            "overlap": pieces.overlap,
        }
        loaded.check_piece(cues, to, **how)
        say_channels(given, loaded, "the output has the model's", voice)
        beginning = loaded.hear(given, whole=True)

    say_unknown([*(text for _, text in cues), negative], loaded, voice)
    say_seed(variations, seeds, voice)

    def make(target: Target, told: dict[str, Any]) -> Clip:
        return grown(loaded.growing(beginning, cues, to, **how, **told), pieces.keep_partial)

    make_each(targets, make, output, voice, play=files.play)
