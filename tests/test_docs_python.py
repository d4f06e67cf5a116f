"""The code in docs/python.md runs, block by block, on a golden checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import soundfile

DOCS = Path(__file__).parent.parent / "docs" / "python.md"


@pytest.mark.usefixtures("hub_cache")
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), names)
    assert names["result"].audio.shape == (2, 1, 320_000)
    assert names["longer"].codes.shape[-1] == 150
    assert soundfile.info("longer.wav").duration == 4.0
    assert not names["away"].codes.equal(names["short"].codes)
    assert len(names["events"]) == 26
    assert soundfile.info("piano.flac").duration == 10.0
