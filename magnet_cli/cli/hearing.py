"""`--play`: what was made is heard at once, a loop until Enter."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from magnet_cli.cli.talk import Talk


def hear(sounds: Iterable[tuple[Path | None, bool]], talk: Talk) -> None:
    """Play files one after the other, each with whether it is a loop; Ctrl-C ends it all.

    Where no sound comes out, that is said in a line, and nothing is wrong.
    """
    from magnet_cli.audio.playback import CannotPlayError, play

    try:
        for path, loop in sounds:
            if path is None:
                continue
            goes_round = loop and sys.stdin is not None and sys.stdin.isatty()
            talk.note(f"Playing {path}" + (", until you press Enter" if goes_round else ""))
            play(path, _until_enter if goes_round else None)
    except CannotPlayError as error:
        talk.note(f"It is made, but cannot be heard here: {error}.")
    except KeyboardInterrupt:
        talk.note("Stopped playing.")


def _until_enter() -> None:
    sys.stdin.readline()
