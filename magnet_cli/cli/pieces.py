"""Pieces on the command line: longer than the segment, prompts by time, loops, and made of sounds."""

from __future__ import annotations

import dataclasses
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from magnet_cli.cli.clips import say_moved, say_saved
from magnet_cli.cli.output import Talk, refuse_terminal, write_stdout
from magnet_cli.cli.settings import SeedOptions, TalkOptions
from magnet_cli.data.prompts import clean_prompt
from magnet_cli.errors import EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.api import Model
    from magnet_cli.cli.progress import ClipDisplay
    from magnet_cli.clips import Making, SavedClip, Target
    from magnet_cli.decoding.contracts import OnStep
    from magnet_cli.editing.pieces import Direction, Piece

# A prompt and the second that it begins at.
Cues = Sequence[tuple[float, str]]


def cues_of(prompts: Sequence[str], at: Sequence[float] | None) -> Cues:
    """When each prompt begins, paired with it. The first may go without a time: it begins at 0.

    Raises:
        UsageError: there are more prompts or more times than that, or a time is none.
    """
    times = list(at or [])
    if len(times) == len(prompts) - 1:
        times.insert(0, 0.0)
    if len(times) != len(prompts):
        raise UsageError(
            f"Prompts: {len(prompts)}; times (--at): {len(times)}.",
            "Give a time for each prompt but the first: PROMPT --at 6 PROMPT.",
        )
    for seconds in times:
        if not 0 <= seconds < 1e6:
            raise UsageError(f"--at cannot be {seconds:g}.", "It takes seconds from 0.")
    return list(zip(times, prompts, strict=True))


def check_cues(cues: Cues, seconds: float | None) -> None:
    """Refuse prompts whose times cannot be those of a piece, before a model is loaded for it.

    Args:
        cues: when each prompt begins.
        seconds: length of the piece; None: not known yet.

    Raises:
        UsageError: nothing is said of the start, two begin at once, or one lies behind the end.
    """
    from magnet_cli.editing import windows as timed

    times = [timed.Cue(start, prompt) for start, prompt in cues]
    timed.check_cues(times, math.inf if seconds is None else seconds)


def seeds_of(options: SeedOptions) -> range:
    """The seeds of the variations, from the one that was given or else a drawn one.

    Raises:
        UsageError: the last one would be too large.
    """
    first = secrets.randbelow(2**32) if options.seed is None else options.seed
    if first + options.num > 2**63:
        raise UsageError("The seeds would pass 2^63 - 1.", "Take a smaller --seed.")
    return range(first, first + options.num)


def say_seed(options: SeedOptions, seeds: range, talk: Talk) -> None:
    """Say the first seed where it was drawn."""
    if options.seed is None:
        talk.note(f"Seed {seeds[0]} (say --seed {seeds[0]} for the same again)")


def check_stdout(destination: str | None, talk: TalkOptions) -> None:
    """Refuse to send sound to stdout where it cannot go there.

    Raises:
        UsageError: stdout is a terminal, or JSON goes there.
    """
    if destination == "-":
        if talk.json:
            raise UsageError("--json and -o - both write to stdout.", "Leave one of them out.")
        refuse_terminal("The sound")


def cleaned(text: str | None) -> str | None:
    """A text as a prompt, where there is one.

    Raises:
        UsageError: it cannot be one.
    """
    return None if text is None else clean_prompt(text)


def told(targets: Sequence[Target], cues: Cues) -> list[Target]:
    """Targets that were named after their input, as clips of their first prompt."""
    return [dataclasses.replace(target, prompt=cues[0][1]) for target in targets]


@dataclass(frozen=True)
class PieceMaker:
    """Makes pieces with one model and one set of settings, writes them and tells of them."""

    model: Model
    making: Making
    negative: str | None
    overlap: float | None
    talk: Talk
    command: Mapping[str, Any]  # its name, input and own flags: how it is asked for again

    def direction(self, cues: Cues, seed: int) -> Direction:
        """The settings of one piece, as the library takes them."""
        from magnet_cli.editing.pieces import Direction
        from magnet_cli.editing.windows import Cue

        return Direction(
            cues=tuple(Cue(start, prompt) for start, prompt in cues),
            seed=seed,
            negative_prompt=self.negative,
            config=self.making.given,
            overlap=self.overlap,
        )

    def check(self, cues: Cues, seconds: float) -> None:
        """Refuse what the model cannot make at all, once and not for every clip.

        Raises:
            UsageError: the settings, the overlap or the prompts' times do not fit the model.
        """
        from magnet_cli.editing.pieces import Filler
        from magnet_cli.editing.transcoding import frames_holding

        Filler(self.model, self.direction(cues, 0), frames_holding(self.model, seconds))

    def check_loop(self, seconds: float) -> None:
        """Refuse a loop that the model cannot close, before anything of it is made.

        Raises:
            UsageError: the model is autoregressive, or the loop is too short.
        """
        from magnet_cli.editing.looping import check_loop
        from magnet_cli.editing.transcoding import frames_holding

        check_loop(self.model, frames_holding(self.model, seconds))

    def grow(
        self,
        target: Target,
        cues: Cues,
        seconds: float,
        display: ClipDisplay,
        beginning: Tensor | None = None,
        keep_partial: bool = False,
    ) -> None:
        """Make a piece of `seconds` and write it.

        Raises:
            MagnetError: it cannot be made or written.
            typer.Exit: it was interrupted, and what was finished is written.
        """
        from magnet_cli.editing.pieces import growing
        from magnet_cli.editing.transcoding import frames_holding

        began = time.monotonic()
        on_step = display.begin(target.prompt, target.seed)
        finished: Piece | None = None
        try:
            for piece in growing(
                self.model,
                self.direction(cues, target.seed),
                frames_holding(self.model, seconds),
                beginning,
                on_step=on_step,
                on_window=display.window,
            ):
                finished = piece
        except KeyboardInterrupt:
            if finished is None or not keep_partial:
                raise
            self._keep(target, finished, seconds, began)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        assert finished is not None
        self.save(target, finished, began, seconds, on_step)
        display.done()

    def loop(self, target: Target, cues: Cues, seconds: float, display: ClipDisplay) -> None:
        """Make a loop of `seconds`, to whole frames, and write it.

        Raises:
            MagnetError: it cannot be made or written.
        """
        from magnet_cli.clips import save_clip
        from magnet_cli.editing.looping import close_loop
        from magnet_cli.editing.pieces import extend
        from magnet_cli.editing.transcoding import frames_holding

        began = time.monotonic()
        direction = self.direction(cues, target.seed)
        on_step = display.begin(target.prompt, target.seed)
        frames = frames_holding(self.model, seconds)
        piece = extend(self.model, direction, frames, on_step=on_step, on_window=display.window)
        loop = close_loop(self.model, direction, piece.codes, on_step=on_step)
        output = self.making.output
        saved = save_clip(
            target,
            [loop.audio[0].numpy()],
            self.model.sample_rate,
            loop.codes[0],
            output,
            self.record(loop.settings),
            write_stdout,
            loop=True,
        )
        display.done()
        say_saved(saved, self.talk, output, time.monotonic() - began)
        if not loop.seamless:
            self.talk.warn(
                f"The seam can be told from the rest (flux {loop.seam_flux:.1f} against "
                f"{loop.body_flux:.1f}): another --seed may do better."
            )
        made = frames / self.model.frame_rate
        if abs(made - seconds) > 0.5 / self.model.sample_rate:
            self.talk.note(f"The loop is {made:g} s, not {seconds:g}: whole frames of the codec.")
        if target.format == "mp3":
            self.talk.warn("mp3 pads its ends, so players leave a gap: take wav or flac to loop.")
        if target.format == "opus":
            self.talk.warn(
                "opus blurs its first 20 ms, so a seam is heard: take wav or flac to loop."
            )

    def save(
        self,
        target: Target,
        piece: Piece,
        began: float,
        seconds: float,
        on_step: OnStep | None,
    ) -> None:
        """Decode a piece as a stream, finish and write it, and say so.

        Args:
            began: when making it began, by time.monotonic.
            seconds: its length.
            on_step: told of the codec's parts.

        Raises:
            MagnetError: it cannot be written.
        """
        saved = self._write(target, piece, seconds, on_step)
        say_saved(saved, self.talk, self.making.output, time.monotonic() - began)

    def record(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept in the file."""
        from magnet_cli.editing.saving import piece_record

        return piece_record(settings, self.making, self.command)

    def _keep(self, target: Target, piece: Piece, seconds: float, began: float) -> None:
        finished = piece.frames / self.model.frame_rate
        partial = {"partial": {"seconds": finished, "of": seconds}}
        self.talk.warn(f"Interrupted: keeping the first {finished:g} of {seconds:g} seconds.")
        kept = dataclasses.replace(piece, settings={**piece.settings, **partial})
        saved = self._write(target, kept, finished, None)
        self.talk.note(f"Saved {saved.target.where}: {saved.duration:g} s")
        say_moved(saved, self.talk)
        took = round(time.monotonic() - began, 3)
        self.talk.data({**saved.record(), "status": "partial", "seconds": took})

    def _write(
        self, target: Target, piece: Piece, seconds: float, on_step: OnStep | None
    ) -> SavedClip:
        from magnet_cli.editing.saving import save_piece

        return save_piece(
            self.model, piece, target, self.making, self.command, seconds, on_step, write_stdout
        )
