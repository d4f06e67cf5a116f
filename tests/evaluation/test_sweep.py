"""Rows of a sweep: what varies, which row is the baseline, and what cannot be varied."""

from __future__ import annotations

from pathlib import Path

import pytest

from magnet_cli.errors import UsageError
from magnet_cli.evaluation.plots import draw_comparison
from magnet_cli.evaluation.statistics import Estimate
from magnet_cli.evaluation.sweep import (
    BASELINE,
    notes_on,
    paper_axes,
    parse_axis,
    rows_of,
)
from magnet_cli.evaluation.table import Column, Comparison, Line
from magnet_cli.settings import AUTOREGRESSIVE_DEFAULTS, DECODING_DEFAULTS, DecodingConfig

KNOWN = DecodingConfig(span_len=3).over(DECODING_DEFAULTS)


def test_values_part_at_semicolons_and_keep_their_commas() -> None:
    axis = parse_axis("steps = 20,10,10,10; 60,10,10,10")
    assert [values for _, values in axis] == [
        {"decoding_steps": (20, 10, 10, 10)},
        {"decoding_steps": (60, 10, 10, 10)},
    ]
    rows = rows_of([axis], KNOWN)
    assert [row.name for row in rows] == [BASELINE, "decoding_steps=60,10,10,10"]
    assert rows[1].folder == "decoding-steps-60-10-10-10"


def test_settings_that_go_together_part_at_colons() -> None:
    rows = rows_of([parse_axis("max-cfg-coef:min_cfg_coef=10:1;10:10;3:3")], KNOWN)
    assert [dict(row.decoding) for row in rows] == [
        {},
        {"min_cfg_coef": 10.0},
        {"max_cfg_coef": 3.0, "min_cfg_coef": 3.0},
    ]


def test_one_axis_at_a_time_or_all_crossed() -> None:
    axes = [parse_axis("span_len=1;3;5"), parse_axis("temperature=1;3")]
    alone = rows_of(axes, KNOWN)
    assert [row.name for row in alone] == [BASELINE, "span_len=1", "span_len=5", "temperature=1"]
    crossed = rows_of(axes, KNOWN, cross=True)
    assert len(crossed) == 3 * 2  # the baseline is one of the six
    assert {row.folder for row in crossed} >= {"baseline", "span-len-1-temperature-1"}


def test_models_are_rows_and_folders_are_told_apart() -> None:
    rows = rows_of([parse_axis("frequency_penalty=1;1.0")], KNOWN, {"wide": "models/wide"})
    assert [(row.name, row.model) for row in rows] == [
        (BASELINE, None),
        ("frequency_penalty=1", None),
        ("wide", "models/wide"),
    ]
    same = rows_of([parse_axis("temperature=0.5;5")], KNOWN, {"temperature-5": "x"})
    assert len({row.folder for row in same}) == len(same)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("span_len", "--vary cannot be"),
        ("=3", "--vary cannot be"),
        ("span_lenn=3", "no field 'span_lenn'"),
        ("seed=3;4", "seed is not a decoding setting"),
        ("lufs=-20;-14", "lufs is not a decoding setting"),
        ("span_len=three", "span_len cannot be 'three'"),
        ("span_len=0", "span_len cannot be 0"),
        ("span_scoring=mean", "span_scoring cannot be 'mean'"),
        ("max_cfg_coef:min_cfg_coef=10", "has 2 settings, but '10' has 1 values"),
        ("span_len:span-len=1:3", "--vary span_len:span-len names a setting twice"),
        ("decoding_steps=20,,10", "--vary decoding_steps cannot be"),
        ("steps=0", "--vary steps cannot be 0"),
    ],
)
def test_what_cannot_vary_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_axis(text)


def test_sweeps_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="Nothing differs"):
        rows_of([parse_axis("span_len=3")], KNOWN)
    span = parse_axis("span_len=1;3")
    with pytest.raises(UsageError, match="Two axes vary span_len"):
        rows_of([span, span], KNOWN, cross=True)
    many = parse_axis("top_k=" + ";".join(map(str, range(1, 100))))
    with pytest.raises(UsageError, match="200 rows"):
        rows_of([many, parse_axis("span_len=1;2;3")], KNOWN, cross=True)
    with pytest.raises(UsageError, match="200 rows"):
        rows_of(
            [many, parse_axis("temperature=" + ";".join(map(str, range(1, 80))))], KNOWN, cross=True
        )
    for name in (BASELINE, "reference"):
        with pytest.raises(UsageError, match="already"):
            rows_of([], KNOWN, {name: "x"})


def test_the_papers_ablations_scale_with_the_model() -> None:
    defaults = DecodingConfig(decoding_steps=(60, 10, 10, 10)).over(KNOWN)
    rows = rows_of(paper_axes(defaults, "masked", rescorer=False), defaults)
    steps = [row.decoding["decoding_steps"] for row in rows if "decoding_steps" in row.decoding]
    assert (15, 10, 10, 10) in steps
    assert (60, 5, 5, 5) in steps
    assert not any("hybrid" in row.decoding or "rescorer_weight" in row.decoding for row in rows)
    assert {"span_scoring": "prod", "span_arrangement": "stride1"} in [r.decoding for r in rows]
    bare = defaults.altered({"rescorer_weight": 0.0})
    more = rows_of(paper_axes(defaults, "hybrid", rescorer=True), bare)
    assert len(more) == len(rows) + 4 + 3  # seconds but for none, and weights
    assert any("span_len changes in decoding only" in note for note in notes_on(rows))
    assert notes_on(rows_of([parse_axis("temperature=1")], KNOWN)) == []
    with pytest.raises(UsageError, match="is autoregressive"):
        paper_axes(
            DecodingConfig().over(AUTOREGRESSIVE_DEFAULTS).altered({"decoding_steps": None}),
            "autoregressive",
            False,
        )


def test_differences_are_drawn(tmp_path: Path) -> None:
    cells = {"kad:mel": Estimate(1.0, -0.5, 2.5)}
    found = Comparison(
        "real",
        {},
        (Column("kad:mel", "KAD (mel) ↓", "lower"),),
        (),
        BASELINE,
        (Line("span_len=1", "system", cells), Line("span_len=5", "system", {})),
        (),
        (),
    )
    draw_comparison(tmp_path / "plot.png", found, "nano", differences=True)
    assert (tmp_path / "plot.png").stat().st_size > 1000
