"""`magnet gen`: prompts in, sound files out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.clips import make_each, say_saved
from magnet_cli.cli.output import Talk, write_stdout
from magnet_cli.cli.partners import folders, load_partners
from magnet_cli.cli.pieces import PieceMaker, check_cues, check_stdout, cues_of, say_seed, seeds_of
from magnet_cli.cli.prompts import texts_of
from magnet_cli.cli.settings import (
    ClipOptions,
    DecodingOptions,
    ModelOptions,
    PartnerOptions,
    PieceOptions,
    TalkOptions,
    takes_flags,
)
from magnet_cli.data.prompts import clean_prompt
from magnet_cli.settings import OutputConfig, check_seconds

if TYPE_CHECKING:
    from magnet_cli.api import Model
    from magnet_cli.cli.progress import ClipDisplay
    from magnet_cli.clips import Making, Target
    from magnet_cli.partners import Partners

EXAMPLES = """
Examples:

    magnet gen "lofi piano" -o piano.wav
    magnet gen "rain on a tin roof" "a door creaks" -n 4 -o clips/
    magnet gen "punk rock, fast drums" --seed 7 --preset best -o punk.flac
    magnet gen "string quartet" -m small --rescorer musicgen -o quartet.wav
    magnet gen "slow strings" --at 20 "drums enter" -d 60 -o long.wav
    magnet gen "techno loop, 120 bpm" -d 8 --loop -o loop.wav
    echo "warm synth pad" | magnet gen - -o - | ffplay -nodisp -
"""

_BY_ONE_MODEL = "--loop, --at and what is longer than the model's segment"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("gen", epilog=EXAMPLES)(gen)


@takes_flags
def gen(
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT",
            help="What to hear. Several make several files; `-` reads one prompt from stdin.",
            show_default=False,
        ),
    ],
    destination: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File, folder, or `-` for stdout. Several clips number the file. "
            "Default: a name made from prompt and seed.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")] = False,
    codes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the codes, too, as .npz [streams, frames].",
            show_default=False,
        ),
    ] = None,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop", help="End so that it goes on into its beginning: a loop without a seam."
        ),
    ] = False,
    *,
    clips: ClipOptions,
    pieces: PieceOptions,
    model: ModelOptions,
    decoding: DecodingOptions,
    more: PartnerOptions,
    output: OutputConfig,
    talk: TalkOptions,
) -> None:
    """Generate sound from text.

    The same seed, settings and model make the same sound. Clips are made one by one, so each is the
    same as if it were asked for alone. Every file keeps how it was made: see `magnet show`.
    """
    from magnet_cli.audio.finish import check_loopable
    from magnet_cli.cli.targets import plan
    from magnet_cli.clips import Making

    voice = Talk(talk)
    if loop:
        check_loopable(output)
    check_stdout(destination, talk)
    negative = clean_prompt(clips.negative) if clips.negative is not None else None
    check_seconds("duration", clips.duration)
    texts = texts_of(prompts, voice)
    # With times, the prompts are those of one piece, which is named after the first.
    cues = cues_of(texts, pieces.at) if pieces.at else None
    if cues:
        check_cues(cues, clips.duration)
    if loop or cues:
        more.refuse(_BY_ONE_MODEL)
    seeds = seeds_of(clips)
    targets = plan(texts[:1] if cues else texts, seeds, destination, codes, output, force)

    from magnet_cli.cli.loading import load, source_of
    from magnet_cli.cli.progress import ClipDisplay

    # Before this nothing imports torch, which takes seconds: `load` shows that something happens.
    loaded = load(model, voice)
    config = more.config.over(decoding.over(loaded.defaults))
    making = Making(config, output, clips.duration, source_of(model), folders(more, model))
    seconds = loaded.segment_duration if clips.duration is None else clips.duration
    if loop or cues or seconds > loaded.segment_duration:
        more.refuse(_BY_ONE_MODEL)
        command = {"command": "gen", "flags": {"loop": loop, "overlap": pieces.overlap}}
        maker = PieceMaker(loaded, making, negative, pieces.overlap, voice, command)
        maker.check(cues or cues_of(texts[:1], None), seconds)
        if loop:
            maker.check_loop(seconds)

        def make(target: Target, display: ClipDisplay) -> None:
            told = cues or cues_of([target.prompt], None)
            if loop:
                maker.loop(target, told, seconds, display)
            else:
                maker.grow(target, told, seconds, display, keep_partial=pieces.keep_partial)
    else:
        from magnet_cli.request import frames_for, make_request

        frames = frames_for(clips.duration, loaded.lm.config, loaded.name)
        # What does not fit the model is refused here, once and not for every clip.
        make_request(loaded.parts, texts[:1], config=config, frames=frames)
        partners = load_partners(more, model, loaded, config, frames, voice)
        make = _Maker(loaded, partners, making, negative, frames, voice).make

    say_seed(clips, seeds, voice)
    with ClipDisplay(voice, len(targets)) as display:
        make_each(targets, lambda target: make(target, display), voice)


class _Maker:
    """Makes clips one by one with one model and one set of settings."""

    def __init__(
        self,
        model: Model,
        partners: Partners,
        making: Making,
        negative: str | None,
        frames: int | None,
        talk: Talk,
    ) -> None:
        self.model, self.partners, self.making = model, partners, making
        self.negative, self.frames, self.talk = negative, frames, talk

    def make(self, target: Target, display: ClipDisplay) -> None:
        """Generate, finish and write one clip, and say so."""
        from magnet_cli.clips import save_item

        began = time.monotonic()
        result = self.model.generate(
            [target.prompt],
            config=self.making.given,
            seeds=[target.seed],
            negative_prompts=[self.negative],
            frames=self.frames,
            on_step=display.begin(target.prompt, target.seed),
            rescorer=self.partners.rescorer,
            hybrid_model=self.partners.hybrid_model,
        )
        saved = save_item(result, 0, target, self.making, write_stdout)
        display.done()
        say_saved(saved, self.talk, self.making.output, time.monotonic() - began)
