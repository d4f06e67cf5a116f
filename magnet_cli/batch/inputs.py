"""The sounds that lines of a batch start from: each is looked at once, before a model is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.audio.finish import check_loopable
from magnet_cli.audio.formats import encoding_for
from magnet_cli.audio.sound import open_sound
from magnet_cli.checkpoints.registry import hashed
from magnet_cli.data.tasks import LineTask
from magnet_cli.editing.windows import Cue, check_cues, check_spans
from magnet_cli.errors import UsageError
from magnet_cli.fields import shown
from magnet_cli.settings import OutputConfig


@dataclass(frozen=True)
class Input:
    """What is known of a sound."""

    seconds: float
    id: str  # "sha256:..." of its file, so that another sound under its name is noticed
    suffix: str  # of a file like it, with its dot


class Inputs:
    """All sounds that were looked at so far."""

    def __init__(self) -> None:
        self._known: dict[str, Input] = {}
        self._copied: set[tuple[str, str]] = set()

    def of(self, name: str) -> Input:
        """A sound by the name that a line has for it.

        Raises:
            UsageError: there is none.
            AudioFileError: it cannot be read.
        """
        if name not in self._known:
            if not os.path.isfile(name):
                raise UsageError(
                    f"There is no sound {shown(name)}.",
                    "Its path is taken from the folder in which the command runs.",
                )
            path = Path(name)
            with open_sound(path) as sound:
                digest = f"sha256:{hashed(path).hex()}"
                suffix = path.suffix or f".{sound.kind.lower()}"
                self._known[name] = Input(sound.duration, digest, suffix)
        return self._known[name]

    def check_copy(self, name: str, file: Path) -> None:
        """Refuse a file that cannot hold a sound as it is.
        Raises AudioFileError: its suffix is unknown, or its format cannot."""
        if (name, file.suffix) not in self._copied:
            with open_sound(Path(name)) as sound:
                encoding_for(sound, file)
            self._copied.add((name, file.suffix))

    def check(
        self, task: LineTask, prompt: str, duration: float | None, output: OutputConfig
    ) -> None:
        """Refuse a task that no model could do.

        Args:
            task: of a line.
            prompt: its first.
            duration: in seconds, of all that is made; None: not said.
            output: of its file.

        Raises:
            MagnetError: its times do not fit the sound or each other, or the sound is none.
        """
        given = None if task.input is None else self.of(task.input)
        if task.task == "loop":
            check_loopable(output)
        if task.task == "extend" and given is not None:
            if duration is None:
                raise UsageError(
                    "Nothing says how long all of it is to be.", "Say duration, or --duration."
                )
            if duration <= given.seconds:
                raise UsageError(
                    f"{task.input} is {given.seconds:.2f} s long already.",
                    "Take a longer duration: it counts from the start of the input.",
                )
        if task.at:
            cues = [Cue(0.0, prompt), *(Cue(start, text) for start, text in task.at)]
            check_cues(cues, float("inf") if duration is None else duration)
        if task.region and given is not None:
            check_spans(task.region, given.seconds)
