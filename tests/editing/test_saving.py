"""What is told of a piece that is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from magnet_cli.clips import Making, Target
from magnet_cli.editing import saving
from magnet_cli.editing.pieces import Direction, extend
from magnet_cli.settings import OutputConfig
from tests.editing.tiny import FAST, SAMPLE_RATE, codes_of, tiny_model


@pytest.mark.parametrize("begun", [False, True])
def test_silences_are_told_of_what_was_made_not_of_what_was_given(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    sound = np.full((1, 6 * SAMPLE_RATE), 0.1, np.float32)
    sound[:, SAMPLE_RATE : 4 * SAMPLE_RATE] = 0
    monkeypatch.setattr(saving, "decode_stream", lambda *_: iter([sound]))
    beginning = codes_of(10) if begun else None
    piece = extend(model, Direction.of("piano", 1, config=FAST), 300, beginning)
    target = Target("piano", 1, tmp_path / "out.wav", "wav", None)
    making = Making(FAST, OutputConfig(), 6.0)
    saved = saving.save_piece(model, piece, target, making, {"command": "gen"}, 6.0)
    assert saved.loudness.silences == (() if begun else ((1.0, 4.0),))
