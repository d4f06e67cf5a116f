"""Input sounds of a batch's lines; each is examined once, before a model is loaded."""

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
    """Facts about an input sound."""

    seconds: float
    id: str  # "sha256:..." of its file, to detect another sound under its name
    suffix: str  # for a file of the same format, with the dot


class Inputs:
    """The sounds examined so far."""

    def __init__(self) -> None:
        self._known: dict[str, Input] = {}
        self._copied: set[tuple[str, str]] = set()

    def of(self, name: str) -> Input:
        """Facts about the sound that a line names.
        Raises UsageError: there is no such file; AudioFileError: it cannot be read."""
        if name not in self._known:
            if not os.path.isfile(name):
                raise UsageError(
                    f"There is no sound {shown(name)}.",
                    "Paths are relative to the folder in which the command runs.",
                )
            path = Path(name)
            with open_sound(path) as sound:
                digest = f"sha256:{hashed(path).hex()}"
                suffix = path.suffix or f".{sound.kind.lower()}"
                self._known[name] = Input(sound.duration, digest, suffix)
        return self._known[name]

    def check_copy(self, name: str, file: Path) -> None:
        """Check that a file can hold an edited sound unchanged.
        Raises AudioFileError if its suffix is unknown, or its format cannot."""
        if (name, file.suffix) not in self._copied:
            with open_sound(Path(name)) as sound:
                encoding_for(sound, file)
            self._copied.add((name, file.suffix))

    def check(
        self, task: LineTask, prompt: str, duration: float | None, output: OutputConfig
    ) -> None:
        """Check a task as far as possible without a model.

        Args:
            task: the line's task.
            prompt: its first prompt.
            duration: total seconds of the result, or None.
            output: the settings of its file.

        Raises:
            MagnetError: its times do not fit the sound or each other, or the sound cannot be read.
        """
        given = None if task.input is None else self.of(task.input)
        if task.task == "loop":
            check_loopable(output)
        if task.task == "extend" and given is not None:
            if duration is None:
                raise UsageError(
                    "The total length is missing.", "Set duration in the line, or --duration."
                )
            if duration <= given.seconds:
                raise UsageError(
                    f"{task.input} is already {given.seconds:.2f} s long.",
                    "Use a longer duration, which counts from the start of the input.",
                )
        if task.at:
            cues = [Cue(0.0, prompt), *(Cue(start, text) for start, text in task.at)]
            check_cues(cues, float("inf") if duration is None else duration)
        if task.region and given is not None:
            check_spans(task.region, given.seconds)
