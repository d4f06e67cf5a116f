"""`magnet edit`: replaces regions of a sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.audio.formats import encoding_for, suffix_of
from magnet_cli.cli import loading
from magnet_cli.cli.inputs import (
    Source,
    check_stdout,
    cleaned,
    input_sound,
    named_after,
    paths_for,
    plan,
    say_channels,
    say_seed,
    say_unknown,
    seeds_of,
    texts_of,
)
from magnet_cli.cli.progress import make_each
from magnet_cli.cli.settings import (
    DecodingOptions,
    FileOptions,
    ModelOptions,
    SeedOptions,
    StepTalkOptions,
    WindowOptions,
    takes_flags,
)
from magnet_cli.cli.talk import Talk
from magnet_cli.editing.windows import check_spans, regions_of
from magnet_cli.errors import UsageError
from magnet_cli.fields import parse_region
from magnet_cli.settings import OutputConfig
from magnet_cli.targets import Target, check_writable

if TYPE_CHECKING:
    from magnet_cli.api import Model
    from magnet_cli.audio.sound import Sound
    from magnet_cli.clips import Clip, Edit

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet edit song.wav "piano solo" --region 2.0-5.5 -o fixed.wav
    magnet edit walk.flac "birdsong" --region 0:58-1:03 --region 1:40-1:42.5 -o clean.flac
    magnet edit song.wav "piano solo" --region 2-5 --through-codec -o whole.wav
"""


@app.command("edit", epilog=EXAMPLES)
@takes_flags
def edit(
    source: Source,
    prompt: Annotated[
        str,
        typer.Argument(metavar="PROMPT", help="Describes the whole sound with its new regions."),
    ],
    region: Annotated[
        list[str],
        typer.Option(
            metavar="FROM-TO",
            help="Region to replace, in seconds (2.0-5.5) or minutes (1:02-1:05.5). Repeatable.",
        ),
    ],
    through_codec: Annotated[
        bool,
        typer.Option(
            "--through-codec",
            help="Also pass the rest through the codec, so that it sounds like the regions. The output has "
            "the model's sample rate and channels, and output flags apply.",
        ),
    ] = False,
    *,
    files: FileOptions,
    variations: SeedOptions,
    windows: WindowOptions,
    model: ModelOptions,
    decoding: DecodingOptions,
    output: OutputConfig,
    talk: StepTalkOptions,
) -> None:
    """Replace regions of a sound and leave the rest unchanged.

    Outside the regions and crossfades of 20 ms around them, the samples stay the input's, bit for bit,
    at its sample rate, channels and bit depth, and loudness is not changed. Regions grow to whole frames
    of the codec. A mono model gives all channels the same sound, each at its own level.
    """
    voice = Talk(talk)
    check_stdout(files.destination, talk, files.play)
    negative = cleaned(variations.negative)
    spans = [parse_region(text) for text in region]
    if not through_codec and output != OutputConfig():
        raise UsageError(
            "Output flags need --through-codec.", "Remove them: the output has the input's format."
        )
    with input_sound(source, [prompt], voice) as given:
        (text,) = texts_of([prompt], voice)
        check_spans(spans, given.duration)
        seeds = seeds_of(variations)
        sound_file = output if through_codec else None
        targets = _targets(source, text, given, seeds, files, sound_file)
        loaded = loading.load(model, voice)
        from magnet_cli.editing.pieces import need_masks
        from magnet_cli.editing.transcoding import frames_in

        how: dict[str, Any] = {
            "config": decoding.over(loaded.defaults),
            "negative_prompt": negative,
            "overlap": windows.overlap,
        }
        need_masks(loaded, "fill in a region")
        regions_of(spans, loaded.frame_rate, frames_in(loaded, given))
        loaded.check_piece(text, given.duration, **how)
        say_unknown([text, negative], loaded, voice)
        say_seed(variations, seeds, voice)
        _say_what_happens(given, loaded, through_codec, voice)
        start = loaded.hear(given) if through_codec else given

        def make(target: Target, told: dict[str, Any]) -> Clip | Edit:
            return loaded.inpaint(start, text, spans, through_codec=through_codec, **how, **told)

        make_each(targets, make, output, voice, play=files.play)


def _targets(
    source: str,
    prompt: str,
    given: Sound,
    seeds: Sequence[int],
    files: FileOptions,
    output: OutputConfig | None,
) -> list[Target]:
    """Targets for the edits; without `output` they have the input's format."""
    label = named_after(source, "edited")
    if output is not None:
        return plan([prompt], seeds, files.destination, None, output, files.force, label)
    clips = [(label, seed) for seed in seeds]
    suffix = Path(source).suffix.removeprefix(".") or suffix_of(given.kind, given.subtype)
    paths = paths_for(clips, files.destination, suffix)
    for path in paths:
        encoding_for(given, path)
        if path is not None:
            check_writable(path, files.force)
    return [
        Target(prompt, seed, path, "wav", None, files.force)
        for path, seed in zip(paths, seeds, strict=True)
    ]


def _say_what_happens(given: Sound, model: Model, through_codec: bool, talk: Talk) -> None:
    """Tell what happens to channels, and warn if the input's format is lossy."""
    becomes = "the output has the model's" if through_codec else "each keeps its own level"
    say_channels(given, model, becomes, talk)
    if not given.exact and not through_codec:
        talk.warn(
            f"{given.name} is {given.subtype.lower().replace('_', ' ')}, which loses quality each "
            "time it is written: name the output .wav to keep the rest unchanged."
        )
