"""A piece from its codes to its file: decoded, finished and written as a stream, whatever its length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from magnet_cli import provenance
from magnet_cli.clips import Making, SavedClip, Target, save_clip
from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing.pieces import Piece
from magnet_cli.editing.transcoding import decode_stream
from magnet_cli.pipeline import Pipeline


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
    model: Pipeline,
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
    length = max(1, round(seconds * model.sample_rate))
    kept = piece_record(piece.settings, making, command)
    samples = decode_stream(model, piece.codes, length, on_step)
    saved = save_clip(
        target, samples, model.sample_rate, piece.codes[0], making.output, kept, stdout
    )
    if piece.settings["known_codes"]:
        # Its silences may be the input's own, which is no news to who gave it.
        heard = dataclasses.replace(saved.loudness, silences=())
        saved = dataclasses.replace(saved, loudness=heard)
    return saved
