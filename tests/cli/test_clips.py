"""What is said of clips that are made one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from magnet_cli.cli.clips import make_each
from magnet_cli.cli.output import Talk
from magnet_cli.cli.settings import TalkOptions
from magnet_cli.clips import Target
from magnet_cli.errors import MagnetError, PartialFailureError


def test_one_reason_is_said_once_and_the_end_says_for_which(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`edit -n 3` of what is too short said the same sentence for each clip, and once more."""
    talk = Talk(TalkOptions())
    targets = [Target("rain", seed, tmp_path / f"{seed}.wav", "wav", None) for seed in range(4)]

    def make(target: Target) -> None:
        if target.seed != 2:
            raise MagnetError("The other." if target.seed == 3 else "Too short.", "Take more.")

    with pytest.raises(PartialFailureError, match=r"3 of 4 .*: \S*0\.wav, \S*1\.wav, \S*3\.wav\."):
        make_each(targets, make, talk)
    said = capfd.readouterr().err
    assert (said.count("Too short."), said.count("The other.")) == (1, 1)
    with pytest.raises(MagnetError, match="Too short"):
        make_each(targets[:2], make, talk)
    assert capfd.readouterr().err.count("Too short.") == 1
