"""Differences between rows are paired by caption, in standard errors."""

from __future__ import annotations

import math

import pytest
import torch

from recipes.nano.compare_decoding import Row, paired
from recipes.nano.judges.hearing import Heard, Verdict


def test_pairs_count_only_what_both_were_judged_for() -> None:
    now = [True, True, None, False, True]
    first = [False, True, True, False, False]
    # Differences 1, 0, 0, 1: their mean is .5, the standard error sqrt(1/3) / 2.
    assert paired(now, first) == f" ({0.5 / (math.sqrt(1 / 3) / 2):+.1f})"
    assert paired(first, first) == paired([None], [None]) == " (0)"


def test_a_row_is_compared_with_the_first() -> None:
    draw = torch.Generator().manual_seed(0)

    def row(shift: float, right: bool) -> Row:
        heard = [
            Heard(torch.zeros(50), torch.randn(60, 4, generator=draw) + shift, 0.0, 120.0)
            for _ in range(12)
        ]
        codes = [torch.arange(48).view(4, 12) for _ in heard]
        clips = [torch.ones(1, 100) for _ in heard]
        verdicts = [Verdict(right or place % 2 == 0, None, None) for place in range(12)]
        reference = torch.randn(500, 4, generator=draw)
        return Row(codes, clips, heard, verdicts, [0.5] * 12, reference)

    near, far = row(0.0, True), row(3.0, False)
    cells = far.as_markdown("far", near).split(" | ")
    assert cells[0] == "| far"
    assert cells[3].startswith("50 % of 12 (-3")
    assert cells[4].startswith("–")
    distance, further = cells[6].split(" (")
    assert float(distance) == pytest.approx(far.distance(), abs=0.1)
    assert float(further.rstrip(")")) > 10
    assert cells[8] == "0.50 (0) |"
    assert "(" not in near.as_markdown("near", None)
