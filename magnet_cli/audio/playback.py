"""Plays a sound file with sounddevice if installed, else with a program.

A failure to play is no error of the command, as the clip is already saved.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from magnet_cli.audio.sound import open_sound

# Programs that play a file, in order of preference, with arguments and suffixes (empty: any).
_PROGRAMS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "ffplay": (["-nodisp", "-autoexit", "-loglevel", "quiet"], ()),
    "afplay": ([], (".wav", ".mp3", ".flac", ".aiff", ".m4a")),
    "aplay": (["-q"], (".wav",)),
}

HOW = "install sounddevice (pip install sounddevice), or one of ffplay, afplay, aplay"


class CannotPlayError(Exception):
    """This machine cannot play a sound; the message is a reason, to follow a colon."""


def play(path: Path, until: Callable[[], object] | None = None) -> None:
    """Play a sound file once or repeatedly.

    Args:
        path: the file.
        until: play repeatedly until this function returns; None: once.

    Raises:
        CannotPlayError: it cannot be played here.
        AudioFileError: the file cannot be read.
    """
    problem = ""
    try:
        import sounddevice
    except (ImportError, OSError):  # OSError: PortAudio is missing
        pass
    else:
        try:
            _by_device(sounddevice, path, until)
            return
        except sounddevice.PortAudioError as error:
            problem = " ".join(str(error).split())[:200]
    for name, (arguments, suffixes) in _PROGRAMS.items():
        if shutil.which(name) and (not suffixes or path.suffix.lower() in suffixes):
            try:
                _by_program([name, *arguments, str(path.absolute())], until)
                return
            except CannotPlayError as error:
                problem = problem or f"{name} failed: {error}"
    raise CannotPlayError(problem or f"no player is installed: {HOW}")


def _by_device(sounddevice: object, path: Path, until: Callable[[], object] | None) -> None:
    device: object = sounddevice
    with open_sound(path) as sound:
        samples, rate = sound.read().T, sound.sample_rate
    try:
        device.play(samples, rate, loop=until is not None)  # type: ignore[attr-defined]
        if until is None:
            device.wait()  # type: ignore[attr-defined]
        else:
            until()
    finally:
        device.stop()  # type: ignore[attr-defined]


def _by_program(command: list[str], until: Callable[[], object] | None) -> None:
    """Run a program once, or repeatedly. Raises CannotPlayError if it fails the first time."""
    over = threading.Event()
    running = _started(command)
    if until is None:
        try:
            status = running.wait()
        finally:
            running.kill()
        if status:
            raise CannotPlayError(f"it ended with status {status}")
        return

    def rounds() -> None:
        nonlocal running
        while running.wait() == 0 and not over.is_set():
            running = _started(command)

    thread = threading.Thread(target=rounds, daemon=True)
    thread.start()
    try:
        until()
    finally:
        over.set()
        running.kill()
        thread.join(1.0)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise CannotPlayError(error.strerror or str(error)) from error
