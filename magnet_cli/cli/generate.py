"""`magnet gen`: makes sound files from prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli import loading
from magnet_cli.cli.help import ALL_FLAGS, EverydayCommand
from magnet_cli.cli.inputs import (
    check_cues,
    check_stdout,
    cleaned,
    cues_of,
    plan,
    say_seed,
    say_split,
    say_unknown,
    seeds_of,
    texts_of,
)
from magnet_cli.cli.progress import grown, make_each
from magnet_cli.cli.settings import (
    ClipOptions,
    CodesFileOptions,
    DecodingOptions,
    ModelOptions,
    PartnerOptions,
    PieceOptions,
    StepTalkOptions,
    takes_flags,
)
from magnet_cli.cli.talk import Talk
from magnet_cli.errors import UsageError
from magnet_cli.naming import count_of
from magnet_cli.settings import MOST_STRETCH, BarsConfig, OutputConfig, required

if TYPE_CHECKING:
    from magnet_cli.clips import Clip, Edit, SavedClip
    from magnet_cli.editing.looping import Beat
    from magnet_cli.targets import Target

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet gen "lofi piano" -o piano.wav
    magnet gen "rain on a tin roof" "a door creaks" -n 4 -o clips/
    magnet gen "punk rock, fast drums" --seed 7 --preset best -o punk.flac
    magnet gen "string quartet" -m small --rescorer musicgen -o quartet.wav
    magnet gen "slow strings" --at 20 "drums enter" -d 60 -o long.wav
    magnet gen "techno loop, 120 bpm" -d 8 --loop -o loop.wav
    magnet gen "house beat with claps" --bpm 125 --bars 4 --loop -o bars.wav
    echo "warm synth pad" | magnet gen - -o - | ffplay -nodisp -
"""

_BY_ONE_MODEL = "--loop, --at, --bpm and clips longer than the model's segment"


def help_all(ctx: typer.Context, wanted: bool) -> None:
    """Print the help with all flags and exit (`--help-all`)."""
    if wanted:
        ctx.meta[ALL_FLAGS] = True
        typer.echo(ctx.get_help())
        raise typer.Exit()


@app.command("gen", cls=EverydayCommand, epilog=EXAMPLES)
@takes_flags
def gen(
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT",
            help="Describes the sound. Each makes its own file; `-` reads one prompt from stdin.",
        ),
    ],
    loop: Annotated[
        bool,
        typer.Option(
            "--loop/--no-loop",
            help="Make a seamless loop. If the sound has a beat, the loop is a whole number of beats long, "
            "close to -d.",
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Make the loop exactly as long as -d, whatever the beat."),
    ] = False,
    help_all: Annotated[
        bool, typer.Option("--help-all", callback=help_all, is_eager=True, help="Show every flag.")
    ] = False,
    *,
    files: CodesFileOptions,
    clips: ClipOptions,
    bars: BarsConfig,
    pieces: PieceOptions,
    model: ModelOptions,
    decoding: DecodingOptions,
    more: PartnerOptions,
    output: OutputConfig,
    talk: StepTalkOptions,
) -> None:
    """Generate sound from text.

    The same seed, settings and model make the same sound. Clips are made one by one, so each is the
    same as when made alone. Every file records how it was made: see `magnet show`.
    """
    from magnet_cli.audio.finish import check_loopable

    voice = Talk(talk)
    if loop:
        check_loopable(output)
    elif exact:
        raise UsageError("--exact is for loops.", "Add --loop, or remove --exact.")
    check_stdout(files.destination, talk, files.play)
    bars.check_tries(loop and not exact)
    if bars.bpm is not None:
        _check_bars(clips.duration, exact)
    negative = cleaned(clips.negative)
    texts = texts_of(prompts, voice)
    say_split(texts, pieces.at, voice)
    # With times, all prompts are of one piece, which is named after the first.
    cues = cues_of(texts, pieces.at) if pieces.at else None
    if cues:
        check_cues(cues, clips.duration or bars.seconds)
    if loop or cues or bars.bpm is not None:
        more.refuse(_BY_ONE_MODEL)
    seeds = seeds_of(clips)
    texts_of_clips = texts[:1] if cues else texts
    targets = plan(texts_of_clips, seeds, files.destination, files.codes, output, files.force)

    # torch, which takes seconds to import, is imported from here on, under `load`'s progress display.
    loaded = loading.load(model, voice)
    from magnet_cli.request import frames_for, make_request

    config = more.config.over(decoding.over(loaded.defaults))
    seconds = clips.duration or bars.seconds or loaded.segment_duration
    how: dict[str, Any] = {"config": config, "negative_prompt": negative, "overlap": pieces.overlap}
    is_piece = loop or cues or bars.bpm is not None or seconds > loaded.segment_duration
    partners: dict[str, Any] = {}
    # Check once that the settings fit the model, not for every clip.
    if is_piece:
        more.refuse(_BY_ONE_MODEL)
        loaded.check_piece(cues or texts[0], seconds, loop, **how)
    else:
        frames = frames_for(clips.duration, loaded.lm.config, loaded.name)
        make_request(loaded.parts, texts[:1], config=config, frames=frames)
        partners = loading.load_partners(more, model, loaded, config, frames, voice)

    say_unknown([*texts, negative], loaded, voice)
    say_seed(clips, seeds, voice)

    def make(target: Target, told: dict[str, Any]) -> Clip:
        if not is_piece:
            result = loaded.generate(
                [target.prompt],
                config,
                [target.seed],
                negative,
                on_step=told["on_step"],
                duration=clips.duration,
                **partners,
            )
            return result.clip()
        told = how | told
        if bars.bpm is not None:
            return loaded.bars(cues or target.prompt, bars, loop, **told)
        if loop:
            told |= {"exact": exact, "tries": bars.tries}
            return loaded.loop(cues or target.prompt, seconds, **told)
        grows = loaded.growing(None, cues or target.prompt, seconds, **told)
        return grown(grows, pieces.keep_partial)

    def also(clip: Clip | Edit, saved: SavedClip) -> None:
        if loop:
            _say_loop(clip, saved, voice)
        if bars.bpm is not None:
            _say_bars(clip, saved, bars, loop, voice)
        elif loop:
            _say_length(clip, saved, seconds, None if exact else loaded.frame_rate, voice)

    make_each(targets, make, output, voice, play=files.play, loop=loop, also=also)


def _check_bars(duration: float | None, exact: bool) -> None:
    """Raise UsageError if a length was given with --bpm, or if time stretching is not available."""
    from magnet_cli.audio.stretch import check_stretch

    if duration is not None or exact:
        flag = "--exact" if duration is None else "-d"
        raise UsageError(f"--bars and {flag} both set the length.", "Remove one of them.")
    check_stretch()


def _say_loop(clip: Clip | Edit, saved: SavedClip, talk: Talk) -> None:
    """Warn if a loop's seam is audible or its format leaves a gap."""
    made = getattr(clip, "loop", None)
    assert made is not None
    if not made.seamless:
        talk.warn(
            f"The seam is audible (flux {made.seam_flux:.1f}, elsewhere {made.body_flux:.1f}): try another "
            "--seed."
        )
    if saved.target.format == "mp3":
        talk.warn("mp3 pads its ends, so that players leave a gap: use wav or flac for loops.")
    if saved.target.format == "opus":
        talk.warn(
            "opus blurs its first 20 ms, so that the seam is audible: use wav or flac for loops."
        )


def _say_length(
    clip: Clip | Edit, saved: SavedClip, seconds: float, frame_rate: float | None, talk: Talk
) -> None:
    """Report a loop's length; without a frame rate, only a difference from the requested seconds."""
    beat, off = getattr(clip, "beat", None), abs(saved.duration - seconds)
    seed = _taken(clip)
    if beat is not None:
        talk.note(f"{beat.bpm:.0f} bpm, {_length(beat, saved)}{seed}; {_seam(beat)}.")
    elif frame_rate is not None and off >= 1 / frame_rate:
        talk.note(f"No steady beat: {saved.duration:g} s{seed}, a multiple of its strongest pulse.")
    elif off > 0.5 / saved.sample_rate:
        talk.note(f"The loop is {saved.duration:g} s, not {seconds:g}: whole frames of the codec.")


def _say_bars(
    clip: Clip | Edit, saved: SavedClip, bars: BarsConfig, loop: bool, talk: Talk
) -> None:
    """Report the tempo, or warn if it is not the requested one."""
    beat, bpm, tried = getattr(clip, "beat", None), required(bars.bpm), getattr(clip, "tried", 1)
    more = "Try another --seed or more --tries."
    if beat is None:
        seeds = "this seed" if tried == 1 else f"any of {tried} seeds"
        length = (
            f"{saved.duration:.2f} s, the length of {count_of(bars.beats, 'beat')} at {bpm:g} bpm"
        )
        talk.warn(f"There is no steady beat with {seeds}: the clip is {length}. {more}")
    elif abs(beat.bpm / bpm - 1) > 1e-4:
        length = f"more than {100 * MOST_STRETCH:g} % from {bpm:g}: {_length(beat, saved)}, not stretched"
        talk.warn(f"Its beat is {beat.bpm:.1f} bpm, {length}. {more}")
    else:
        was = f"made at {beat.bpm * beat.stretch:.1f}{_taken(clip)}"
        seam = f"; {_seam(beat)}" if loop else ""
        talk.note(f"{bpm:g} bpm, {_length(beat, saved)}, {was}{seam}.")


def _taken(clip: Clip | Edit) -> str:
    tried = getattr(clip, "tried", 1)
    return f" with seed {clip.settings['seeds'][0]} of {tried} tried" if tried > 1 else ""


def _length(beat: Beat, saved: SavedClip) -> str:
    return f"{count_of(beat.beats, 'beat')}, {saved.duration:.2f} s"


def _seam(beat: Beat) -> str:
    return f"the seam is {'on the beat' if beat.off <= 0.05 else f'{beat.off:.0%} of a beat off'}"
