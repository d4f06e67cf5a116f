"""The messages for clips that are made one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from magnet_cli.audio.loudness import Loudness
from magnet_cli.cli.progress import make_each
from magnet_cli.cli.settings import TalkOptions
from magnet_cli.cli.talk import Talk
from magnet_cli.clips import SavedClip
from magnet_cli.errors import MagnetError, PartialFailureError
from magnet_cli.settings import OutputConfig
from magnet_cli.targets import Target


def test_one_reason_is_said_once_and_the_end_says_for_which(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`edit -n 3` of a sound that is too short printed the same sentence for each clip, and once more."""
    talk = Talk(TalkOptions())
    targets = [Target("rain", seed, tmp_path / f"{seed}.wav", "wav", None) for seed in range(4)]

    class Done(NamedTuple):
        settings: dict[str, object] = {}  # noqa: RUF012 (nothing changes it)

        def write(self, target: Target, *_: object) -> SavedClip:
            return SavedClip(target, 1.0, 8000, 1, Loudness(-14, -14, 0, 0, -1), {})

    def make(target: Target, told: object) -> Done:
        if target.seed != 2:
            raise MagnetError("The other." if target.seed == 3 else "Too short.", "Take more.")
        return Done()

    def make_them(targets: list[Target]) -> None:
        make_each(targets, make, OutputConfig(), talk)  # type: ignore[arg-type]

    with pytest.raises(PartialFailureError, match=r"3 of 4 .*: \S*0\.wav, \S*1\.wav, \S*3\.wav\."):
        make_them(targets)
    said = capfd.readouterr().err
    assert (said.count("Too short."), said.count("The other.")) == (1, 1)
    with pytest.raises(MagnetError, match="Too short"):
        make_them(targets[:2])
    assert capfd.readouterr().err.count("Too short.") == 1
