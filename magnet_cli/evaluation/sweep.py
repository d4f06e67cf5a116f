"""Ablations: each row is a batch whose settings differ from the baseline in one axis.

    span_len=1;2;3;5                            one setting; `;` separates values
    max_cfg_coef:min_cfg_coef=10:1;10:10;3:3    `:` separates settings that vary together

Axes vary one at a time or are crossed. All rows use the same prompts and seeds in a folder each, so that
they resume as batches do and are compared prompt by prompt.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from magnet_cli.config import Modeling
from magnet_cli.data.prompts import field_of
from magnet_cli.errors import UsageError
from magnet_cli.fields import NotOfTypeError, cannot_be, settings_of, typed
from magnet_cli.naming import Names, slug
from magnet_cli.settings import DecodingConfig

BASELINE, REFERENCE = "baseline", "reference"
SWEEP_PRESETS = ("paper",)
_MOST_ROWS = 200
_MOST_COMBINATIONS = 5000

# Settings that the paper varied in training, too: a change in decoding alone is another experiment.
_TRAINED_ANEW = ("span_len", "subcodes_context")
# Settings that vary together: the label and the settings of each row.
Axis = tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class SweepRow:
    """A row: the baseline with other settings, or another model."""

    name: str  # in the table
    folder: str  # in the sweep's
    decoding: Mapping[str, Any] = field(default_factory=dict)  # what differs from the baseline
    model: str | None = None  # if it is not the baseline's


def parse_axis(text: str) -> Axis:
    """Parse the value of `--vary`.
    Raises UsageError: a setting does not exist, or a value is not valid for it."""
    head, said, tail = text.partition("=")
    if not said or not head.strip() or not tail.strip():
        raise UsageError(
            f"--vary cannot be {text[:80]!r}.",
            'It takes SETTING=VALUE;VALUE, such as "span_len=1;3;5".',
        )
    typed_names = {_setting(name): f"--vary {name.strip()}" for name in head.split(":")}
    names = [*typed_names]
    if len(names) <= head.count(":"):
        raise UsageError(f"--vary {head} names a setting twice.", "Name each once.")
    points = []
    for words in (part.strip() for part in tail.split(";")):
        values = words.split(":")
        if len(values) != len(names):
            raise UsageError(
                f"--vary {head} has {len(names)} settings, but {words[:40]!r} has {len(values)} values.",
                "Separate values with `:` as the settings are: max_cfg_coef:min_cfg_coef=10:1;3:3.",
            )
        try:
            point = {name: _value(name, value) for name, value in zip(names, values, strict=True)}
            DecodingConfig(**point)  # checks it
        except UsageError as error:
            error.rename(lambda name: typed_names[name])
            error.settings = ()
            raise
        points.append((f"{':'.join(names)}={words}", point))
    return tuple(points)


def rows_of(
    axes: Sequence[Axis],
    baseline: DecodingConfig,
    models: Mapping[str, str] | None = None,
    cross: bool = False,
) -> list[SweepRow]:
    """The baseline, and a row for each point that differs from it.

    Args:
        axes: what varies.
        baseline: its settings, including the model's defaults; points equal to it give no row.
        models: other models, by row name.
        cross: combine all axes instead of varying one at a time.

    Raises:
        UsageError: nothing varies, there are too many rows, or crossed axes share a setting.
    """
    rows, folders = [SweepRow(BASELINE, BASELINE)], Names([BASELINE])

    def add(name: str, settings: Mapping[str, Any], model: str | None = None) -> None:
        folder = folders.unused(slug(name.replace("=-", " minus ")))
        rows.append(SweepRow(name, folder, settings, model))

    combinations: Iterable[Axis]
    if cross:
        combinations = itertools.product(*axes) if axes else ()
    else:
        combinations = [(point,) for axis in axes for point in axis]
    seen = [dict[str, Any]()]
    count = math.prod(len(axis) for axis in axes) if cross else 0
    for points in combinations if count <= _MOST_COMBINATIONS else ():
        settings: dict[str, Any] = {}
        for _, values in points:
            if settings.keys() & values.keys():
                twice = ", ".join(sorted(settings.keys() & values.keys()))
                raise UsageError(f"Two axes vary {twice}.", "Vary it once, or remove --cross.")
            settings |= values
        settings = {k: v for k, v in settings.items() if v != getattr(baseline, k)}
        if settings in seen:
            continue
        seen.append(settings)
        add(" ".join(name for name, _ in points), settings)
    if count > _MOST_COMBINATIONS or len(rows) > _MOST_ROWS:
        raise UsageError(f"A sweep has at most {_MOST_ROWS} rows.", "Vary fewer values.")
    for name, model in (models or {}).items():
        if name in (REFERENCE, *(row.name for row in rows)):
            raise UsageError(f"There is already a row {name!r}.", "Give the model another name.")
        add(name, {}, model)
    if len(rows) == 1:
        raise UsageError(
            "Nothing differs from the baseline.", 'Say what varies: --vary "span_len=1;2;5".'
        )
    return rows


def paper_axes(defaults: DecodingConfig, modeling: Modeling, rescorer: bool) -> list[Axis]:
    """The axes of the paper's ablations that need no training.

    Args:
        defaults: the model's settings; numbers of steps are scaled from these.
        modeling: the model's; hybrid models get an axis of their own.
        rescorer: whether a rescorer is given.

    Raises:
        UsageError: the model does not use masked decoding.
    """
    if defaults.decoding_steps is None:
        raise UsageError(
            "The paper's ablations are for masked decoding, but this model is autoregressive.",
            "Use a masked or hybrid model, or choose what to --vary.",
        )
    first, *others = defaults.decoding_steps

    def steps(of_first: float, of_others: float) -> str:
        scaled = [of_first * first, *(of_others * count for count in others)]
        return ",".join(str(max(1, int(count + 0.5))) for count in scaled)

    texts = [
        "span_len=1;2;3;5;10",
        "span_arrangement:span_scoring=nonoverlap:max;nonoverlap:prod;stride1:prod",
        "max_cfg_coef:min_cfg_coef=10:1;10:10;3:3;1:1",
        f"decoding_steps={';'.join(steps(scale, 1) for scale in (0.25, 0.5, 1, 2, 3))}",
        "subcodes_context=5;-1",
    ]
    if others:
        texts.append(f"decoding_steps={';'.join(steps(1, scale) for scale in (0.1, 0.5, 2))}")
    if rescorer:
        texts.append("rescorer_weight=0.25;0.5;0.75")
    if modeling == "hybrid":
        texts.append("hybrid=0;1;2;3;5")
    return [parse_axis(text) for text in texts]


def notes_on(rows: Sequence[SweepRow]) -> list[str]:
    """Caveats for comparing rows with the paper's."""
    varied = {name for row in rows for name in row.decoding}
    return [
        f"{name} changes in decoding only, while the paper trained a model for each row: add trained "
        "variants with --model NAME=DIR."
        for name in _TRAINED_ANEW
        if name in varied
    ]


def _setting(name: str) -> str:
    known = field_of(name)
    if known not in settings_of(DecodingConfig):
        raise UsageError(
            f"{known} is not a decoding setting.",
            "Vary one of the decoding settings in docs/cli.md.",
        )
    return known


def _value(name: str, words: str) -> Any:
    each = settings_of(DecodingConfig)[name]
    try:
        return typed(each.kind, words, text=True, example=each.example)
    except NotOfTypeError as error:
        raise cannot_be(name, words[:80], str(error)) from error
