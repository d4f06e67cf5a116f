"""Which clips are left out because they stand still."""

from pathlib import Path

import pytest
import torch

from magnet_cli.data.tokens import TokenFolder, TokenFormat, TokenWriter
from recipes.nano.moving import leave_out_still

FORMAT = TokenFormat("any", "0" * 16, 24000, 25.0, 6, 1024)
SOLO = ("kind: solo", "drums: False")


def _clip(still_seconds: int) -> torch.Tensor:
    """Codes [6, 241] of about ten seconds whose first seconds stand still."""
    codes = torch.arange(6 * 241).view(6, 241) % 1000
    frames = 24 * still_seconds + 1
    codes[:4, :frames] = codes[:4, :1]
    return codes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = TokenWriter(tmp_path, FORMAT)
    for name, seconds, tags in [
        ("moving", 2, SOLO),
        ("still", 3, SOLO),
        ("rain", 10, ("kind: effect", "drums: False")),
        ("drums", 10, ("kind: arrangement", "drums: True")),
    ]:
        writer.add(name, name, _clip(seconds), ("a caption",), tags)
    writer.flush()
    return tmp_path


def test_only_music_without_drums_that_stands_still_is_left_out(folder: Path) -> None:
    assert leave_out_still(folder) == (4, 3)
    assert {clip.id for clip in TokenFolder(folder).clips} == {"moving", "rain", "drums"}
    assert leave_out_still(folder) == (3, 3)


def test_the_codes_stay_on_disk(folder: Path) -> None:
    leave_out_still(folder)
    TokenWriter(folder, FORMAT).use_only(["moving", "still", "rain", "drums"])
    assert len(TokenFolder(folder).clips) == 4
