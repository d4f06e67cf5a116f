"""`--play`: plays the results, and loops until Enter."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from magnet_cli.cli.talk import Talk


def hear(sounds: Iterable[tuple[Path | None, bool]], talk: Talk) -> None:
    """Play files, each with whether it is a loop, until the end or Ctrl-C.

    If playing is not possible, this prints a note and is no error.
    """
    from magnet_cli.audio.playback import CannotPlayError, play

    try:
        for path, loop in sounds:
            if path is None:
                continue
            goes_round = loop and sys.stdin is not None and sys.stdin.isatty()
            talk.note(f"Playing {path}" + (", until you press Enter" if goes_round else ""))
            play(path, sys.stdin.readline if goes_round else None)
    except CannotPlayError as error:
        talk.note(f"The sound is saved but cannot be played here: {error}.")
    except KeyboardInterrupt:
        talk.note("Stopped playing.")
