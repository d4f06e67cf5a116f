"""`magnet gen`: prompts in, sound files out."""

from __future__ import annotations

import math
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli import provenance
from magnet_cli.cli.clips import save_clip
from magnet_cli.cli.ensemble import EnsembleOptions, folders, load_ensemble
from magnet_cli.cli.flags import takes_flags
from magnet_cli.cli.options import (
    ClipOptions,
    DecodingOptions,
    ModelOptions,
    OutputOptions,
    TalkOptions,
)
from magnet_cli.cli.output import Talk, complain, read_stdin, refuse_terminal
from magnet_cli.config import DecodingConfig, OutputConfig
from magnet_cli.data.prompts import clean_prompt
from magnet_cli.errors import MagnetError, PartialFailureError, UsageError

if TYPE_CHECKING:
    from magnet_cli.cli.progress import ClipDisplay
    from magnet_cli.cli.targets import Target
    from magnet_cli.ensemble import Ensemble
    from magnet_cli.pipeline import Model

EXAMPLES = """
Examples:

    magnet gen "lofi piano" -o piano.wav
    magnet gen "rain on a tin roof" "a door creaks" -n 4 -o clips/
    magnet gen "punk rock, fast drums" --seed 7 --preset best -o punk.flac
    magnet gen "string quartet" -m small --rescorer musicgen -o quartet.wav
    echo "warm synth pad" | magnet gen - -o - | ffplay -nodisp -
"""


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
    *,
    clips: ClipOptions,
    model: ModelOptions,
    decoding: DecodingOptions,
    more: EnsembleOptions,
    output: OutputOptions,
    talk: TalkOptions,
) -> None:
    """Generate sound from text.

    The same seed, settings and model make the same sound. Clips are made one by one, so each is the
    same as if it were asked for alone. Every file keeps how it was made: see `magnet show`.
    """
    from magnet_cli.cli.targets import STDOUT, plan

    voice = Talk(talk)
    more.over(decoding.config())
    sound = output.config()
    if destination == STDOUT:
        if talk.json:
            raise UsageError("--json and -o - both write to stdout.", "Leave one of them out.")
        refuse_terminal("The sound")
    negative = clean_prompt(clips.negative) if clips.negative is not None else None
    check_duration(clips.duration)
    drawn = clips.seed is None
    first = secrets.randbelow(2**32) if clips.seed is None else clips.seed
    if first + clips.num > 2**63:
        raise UsageError("The seeds would pass 2^63 - 1.", "Take a smaller --seed.")
    seeds = range(first, first + clips.num)
    targets = plan(_texts(prompts, voice), seeds, destination, codes, sound, force)

    from magnet_cli.cli.loading import load, source_of
    from magnet_cli.cli.progress import ClipDisplay

    loaded = load(model, voice)
    config = more.over(decoding.over(loaded.defaults))
    frames = frames_of(loaded, clips.duration)
    helpers = load_ensemble(more, model, loaded, config, frames, voice)
    if drawn:
        voice.note(f"Seed {first} (say --seed {first} for the same again)")
    maker = _Maker(
        loaded,
        helpers,
        config,
        sound,
        negative,
        frames,
        clips.duration,
        source_of(model),
        folders(more, model),
        voice,
    )
    with ClipDisplay(voice, len(targets)) as display:
        maker.make_all(targets, display)


def check_duration(duration: float | None) -> None:
    """Refuse what is no length.

    Raises:
        UsageError: it is not above zero, or no number.
    """
    if duration is not None and not 0 < duration < 1e6:
        raise UsageError(f"--duration cannot be {duration:g}.", "It takes seconds above 0.")


def frames_of(model: Model, duration: float | None) -> int | None:
    """Frames that hold `duration` seconds; None for the segment.

    Raises:
        UsageError: it is longer than the model makes at once.
    """
    if duration is None:
        return None
    # The smallest number that holds it: 0.06 s at 50 frames per second are 3 in spite of rounding.
    frames = max(1, math.ceil(duration * model.frame_rate - 1e-6))
    if frames > model.segment_frames:
        raise UsageError(
            f"{model.name} makes {model.segment_duration:g} seconds at most, not {duration:g}.",
            f"Take --duration {model.segment_duration:g} or less.",
        )
    return frames


class _Maker:
    """Makes clips one by one with one model and one set of settings."""

    def __init__(
        self,
        model: Model,
        helpers: Ensemble,
        config: DecodingConfig,
        output: OutputConfig,
        negative: str | None,
        frames: int | None,
        duration: float | None,
        source: str | None,
        helper_sources: dict[str, str],
        talk: Talk,
    ) -> None:
        self.model, self.helpers, self.config, self.output = model, helpers, config, output
        self.negative, self.frames, self.duration = negative, frames, duration
        self.source, self.helper_sources, self.talk = source, helper_sources, talk

    def make_all(self, targets: list[Target], display: ClipDisplay) -> None:
        """Make every clip; one that fails does not stop the others.

        Raises:
            PartialFailureError: some failed.
            MagnetError: all failed: the first one's error.
        """
        failures: list[MagnetError] = []
        for target in targets:
            try:
                self.make(target, display)
            except MagnetError as error:
                failures.append(error)
                if len(targets) > 1:
                    where = f" ({target.path})" if target.path is not None else ""
                    complain(f"{error.message}{where}", error.hint)
                    self.talk.data(_failure(target, error))
        if failures and len(failures) == len(targets):
            raise failures[0]
        if failures:
            raise PartialFailureError(
                f"{len(failures)} of {len(targets)} clips could not be made.",
                "The reasons are above; the others are done.",
            )

    def make(self, target: Target, display: ClipDisplay) -> None:
        """Generate, finish and write one clip, and say so."""
        began = time.monotonic()
        result = self.model.generate(
            [target.prompt],
            config=self.config,
            seeds=[target.seed],
            negative_prompts=[self.negative],
            frames=self.frames,
            on_step=display.begin(target.prompt, target.seed),
            rescorer=self.helpers.rescorer,
            hybrid_model=self.helpers.hybrid_model,
        )
        samples = result.audio[0].numpy()
        if self.duration is not None:
            samples = samples[:, : max(1, round(self.duration * result.sample_rate))]
        kept = provenance.record(
            result.settings,
            0,
            self.config,
            self.output,
            duration=self.duration,
            source=self.source,
            helper_sources=self.helper_sources,
        )
        saved = save_clip(target, samples, result.sample_rate, result.codes[0], self.output, kept)
        display.done()
        saved.say(self.talk, self.output, time.monotonic() - began)


def _texts(prompts: list[str], talk: Talk) -> list[str]:
    """The prompts, with `-` read from stdin: all of it is one prompt."""
    if prompts.count("-") > 1:
        raise UsageError("stdin can be read only once.", "Give `-` once.")
    texts = []
    for prompt in prompts:
        if prompt == "-":
            if sys.stdin.isatty():
                talk.note("Type a prompt, then press Ctrl-D.")
            try:
                prompt = read_stdin().decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UsageError("stdin is not UTF-8 text.", "Pipe a text in.") from error
        texts.append(clean_prompt(prompt))
    return texts


def _failure(target: Target, error: MagnetError) -> dict[str, Any]:
    return {
        "status": "failed",
        "file": target.where,
        "prompt": target.prompt,
        "seed": target.seed,
        "error": str(error),
    }
