"""`magnet bench`: table, JSON, picture, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from magnet_cli.errors import UsageError
from magnet_cli.evaluation import bench, plots
from tests.cli.conftest import SMALL, Magnet


def test_the_command_prints_a_table_or_json_and_draws(magnet: Magnet) -> None:
    asked = ("bench", "-m", SMALL, "-d", "0.1", "--steps", "1", "--repeats", "2", "--dtype")
    outcome = magnet(*asked, "float32,int8", "--plot", "speed.png")
    assert outcome.status == 0
    assert "| masked | float32 | 1 | " in outcome.out
    assert "| masked | int8 | 1 | " in outcome.out
    assert "Measuring 6/6" in outcome.err
    assert Image.open("speed.png").size == (plots._WIDTH, plots._HEIGHT)
    (record,) = magnet(*asked, "float32", "--json", "--sample", "1").records
    (only,) = record["rows"]
    assert (only["passes"], only["clip_seconds"], len(only["repeats"])) == (8, 0.1, 2)
    assert record["sampled_steps"] == 1


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (UsageError("No room.", "Make some."), 2)]
)
def test_ctrl_c_or_an_error_keeps_what_was_measured(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    calls, whole = [], bench.measure

    def measure(*arguments: Any) -> bench.Run:
        calls.append(1)
        if len(calls) == 4:
            raise error
        return whole(*arguments)

    monkeypatch.setattr(bench, "measure", measure)
    asked = ("-m", SMALL, "-d", "0.1", "--steps", "1", "--repeats", "1")
    outcome = magnet("bench", *asked, "--dtype", "float32,bfloat16,int8")
    assert outcome.status == status
    assert "| masked | float32 | 1 | " in outcome.out
    assert "bfloat16" not in outcome.out


def test_the_command_refuses_what_does_not_fit(magnet: Magnet) -> None:
    for wrong, said in (
        (("--ways", "backwards"), "no decoding method"),
        (("--dtype", "int3"), "no dtype"),
        (("--dtype", ","), "--dtype is empty"),
        (("--ways", ","), "--ways is empty"),
        (("--ways", "masked", "--partner", SMALL), "does not use --partner"),
        (("--batch", "0"), "batch"),
        (("-d", "-1"), "--duration cannot be -1"),  # a frame was measured
        (("--shape", "small"), "Remove --model, --lora and --partner"),
        (("--plot", "x.jpg"), ".png"),
    ):
        outcome = magnet("bench", "-m", SMALL, *wrong)
        assert outcome.status == 2, wrong
        assert said in outcome.err
    outcome = magnet("bench", "--shape", "huge")
    assert outcome.status == 2
    assert "no shape" in outcome.err
