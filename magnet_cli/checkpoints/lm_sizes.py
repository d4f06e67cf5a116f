"""Sizes of a language model that a file says: can they be built, and do they mean anything?"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

from magnet_cli.config import LMConfig, Modeling
from magnet_cli.errors import CheckpointError

_COUNTS = ("dim", "num_heads", "num_layers", "n_q", "card", "text_dim", "hidden_scale", "span_len")


def check_lm(config: LMConfig, source: str) -> LMConfig:
    """`config`, whose fields may hold anything, refused where it is no language model's.

    Args:
        source: the file that says so, for messages.

    Raises:
        CheckpointError: naming the field.
    """

    def need(holds: bool, field: str, takes: str) -> None:
        if not holds:
            raise CheckpointError(
                f"{source} is damaged: the language model's {field} is {getattr(config, field)!r}.",
                f"It must be {takes}.",
            )

    for field in _COUNTS:
        need(_is_whole(getattr(config, field), least=1), field, "a whole number from 1")
    need(_is_whole(config.subcodes_context, least=0), "subcodes_context", "a whole number from 0")
    for field in ("frame_rate", "segment_duration"):
        value = getattr(config, field)
        good = _is_number(value) and math.isfinite(value) and value > 0
        need(good, field, "a number above 0")
    modelings = get_args(Modeling)
    known = isinstance(config.modeling, str) and config.modeling in modelings
    need(known, "modeling", f"one of {', '.join(modelings)}")
    need(config.dim % config.num_heads == 0, "num_heads", f"a divisor of dim, {config.dim}")
    delays = config.delays
    whole = isinstance(delays, tuple) and all(_is_whole(delay, least=0) for delay in delays)
    fitting = whole and len(delays) in (0, config.n_q)
    need(fitting, "delays", f"whole numbers from 0, one for each of {config.n_q} streams")
    stages = config.stages
    listed = isinstance(stages, tuple) and all(isinstance(stage, tuple) for stage in stages)
    streams = [stream for stage in stages for stream in stage] if listed else []
    in_order = listed and all(stages) and streams in ([], list(range(config.n_q)))
    need(in_order, "stages", f"lists of streams that together are 0 to {config.n_q - 1}, in order")
    return dataclasses.replace(
        config,
        frame_rate=float(config.frame_rate),
        segment_duration=float(config.segment_duration),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
