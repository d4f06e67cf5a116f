"""The messages for a written piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from magnet_cli import clips
from magnet_cli.settings import OutputConfig
from magnet_cli.targets import Target
from tests.editing.tiny import FAST, SAMPLE_RATE, codes_of, tiny_model


@pytest.mark.parametrize("begun", [False, True])
def test_silences_are_told_of_what_was_made_not_of_what_was_given(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    sound = np.full((1, 6 * SAMPLE_RATE), 0.1, np.float32)
    sound[:, SAMPLE_RATE : 4 * SAMPLE_RATE] = 0
    monkeypatch.setattr(clips, "decode_stream", lambda *_: iter([sound]))
    clip = model.extend(codes_of(10) if begun else None, "piano", 6.0, seed=1, config=FAST)
    saved = clip.write(Target("piano", 1, tmp_path / "out.wav", "wav", None), OutputConfig())
    assert saved.loudness is not None
    assert saved.loudness.silences == (() if begun else ((1.0, 4.0),))
