"""A piece from its codes to its file: decoded, finished and written as a stream, whatever its length."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from magnet_cli import provenance
from magnet_cli.audio.stream_writer import Written, write_stream
from magnet_cli.clips import Making, SavedClip, Target, write_with_codes
from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing.pieces import Piece
from magnet_cli.editing.transcoding import decode_stream
from magnet_cli.pipeline import Model

_CHUNK = 1 << 20


def piece_record(
    settings: Mapping[str, Any], making: Making, command: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept in a piece's file.

    Args:
        settings: of the piece.
        making: how it was asked for.
        command: name, input and own flags of the command that makes it again.
    """
    return provenance.record(
        {**settings, "edit": {**settings["edit"], **command}},
        0,
        making.given,
        making.output,
        duration=making.duration,
        source=making.source,
    )


def save_piece(
    model: Model,
    piece: Piece,
    target: Target,
    making: Making,
    command: Mapping[str, Any],
    seconds: float,
    on_step: OnStep | None = None,
    stdout: Callable[[bytes], None] | None = None,
) -> SavedClip:
    """Write a piece, its codes too where they are wanted.

    Args:
        model: what made its codes.
        piece: what to write.
        target: where to.
        making: how it was asked for.
        command: as in `piece_record`.
        seconds: its length.
        on_step: told of the codec's parts.
        stdout: writes bytes where the target is stdout.

    Raises:
        MagnetError: it cannot be written.
    """
    rate, output = model.sample_rate, making.output
    length = max(1, round(seconds * rate))
    kept = piece_record(piece.settings, making, command)
    samples = decode_stream(model, piece.codes, length, on_step)
    written: Written | None = None

    def write() -> Path | None:
        nonlocal written
        name, force = target.format, target.force
        if target.path is not None:
            written = write_stream(target.path, samples, rate, name, output, kept, force)
        else:
            with tempfile.TemporaryFile() as file:
                written = write_stream(file, samples, rate, name, output, kept)
                file.seek(0)
                while stdout is not None and (data := file.read(_CHUNK)):
                    stdout(data)
        return written.path

    at = write_with_codes(target, piece.codes[0], kept, write)
    assert written is not None
    channels = output.channels or model.channels
    loudness = written.loudness
    if piece.settings["known_codes"]:
        # Its silences may be the input's own, which is no news to who gave it.
        loudness = dataclasses.replace(loudness, silences=())
    return SavedClip(at, written.duration, written.sample_rate, channels, loudness, kept, target)
