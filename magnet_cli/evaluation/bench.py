"""Speed of models by decoding method, precision and batch size (`magnet bench`).

Timed is the time from texts to codes, without loading and warming up. The codec is timed separately, as
it is the same for all. Each combination of method ("way"), precision and batch size is a row.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from magnet_cli.errors import MagnetError, UsageError, is_out_of_memory
from magnet_cli.evaluation.stopwatch import Run, codec_seconds, measure
from magnet_cli.evaluation.timings import Bench, Row
from magnet_cli.models.parts import Parts
from magnet_cli.pipeline import Pipeline
from magnet_cli.request import GenerationRequest, frames_for, make_request
from magnet_cli.resolving import Partners, gather
from magnet_cli.settings import DecodingConfig, required

Kind = Literal["masked", "autoregressive", "hybrid", "rescorer"]
Role = Literal["asked", "partner"]
PROMPT = "80s pop track with bassy drums and synth"


@dataclass(frozen=True)
class Way:
    """A decoding method."""

    kind: Kind
    seconds: float = 0.0  # of a hybrid's autoregressive beginning

    @property
    def name(self) -> str:
        """The name that `parse_way` reads."""
        return f"hybrid:{self.seconds:g}" if self.kind == "hybrid" else self.kind


def parse_way(text: str) -> Way:
    """Parse `masked`, `autoregressive`, `rescorer` or `hybrid:SECONDS`. Raises UsageError for others."""
    kind, _, seconds = text.strip().partition(":")
    try:
        if kind in get_args(Kind) and (kind == "hybrid") == bool(seconds):
            way = Way(kind, float(seconds or 0))  # type: ignore[arg-type]
            if 0 <= way.seconds < 1e6 and (way.seconds > 0 or not seconds):
                return way
    except ValueError:
        pass
    raise UsageError(
        f"There is no decoding method {text.strip()!r}.",
        "--ways takes masked, autoregressive, rescorer and hybrid:SECONDS, such as hybrid:2.",
    )


@dataclass(frozen=True)
class Supply:
    """Functions that load models in a given precision.

    Attributes:
        asked: loads the model to measure.
        partner: loads an autoregressive model of the same codec, if there is one.
    """

    asked: Callable[[str], Parts]
    partner: Callable[[str], Parts] | None = None


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        ways: decoding methods; None: all that the given models allow.
        batches: batch sizes, in clips.
        duration: seconds of a clip; None: the model's segment.
        steps: decoding steps of each stream, or one number for all; None: the model's.
        repeats: runs of each row, alternating with the other rows of its method.
        sample: steps of each kind to time, from which the others are estimated; None: time all.
    """

    ways: tuple[Way, ...] | None
    dtypes: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    duration: float | None = None
    steps: tuple[int, ...] | None = None
    repeats: int = 3
    sample: int | None = None


def bench(
    name: str, supply: Supply, plan: Plan, on_run: Callable[[int, int], None] | None = None
) -> Bench:
    """Measure a model.

    Args:
        name: the model's or shape's name, for the report.
        on_run: called after each run with the runs done and the total.

    Returns:
        The measurements; after Ctrl-C or an error, those made until then, if any.

    Raises:
        UsageError: the model cannot decode by a requested method.
        MagnetError: loading a model failed.
    """
    found = Bench(name, "", torch.get_num_threads(), plan.sample)
    try:
        _measure_rows(found, supply, plan, on_run)
    except (KeyboardInterrupt, MagnetError, RuntimeError, MemoryError) as error:
        expected = isinstance(error, (KeyboardInterrupt, MagnetError)) or is_out_of_memory(error)
        if not (found.rows and expected):
            raise
        found.interrupted = error
    return found


def _measure_rows(
    found: Bench, supply: Supply, plan: Plan, on_run: Callable[[int, int], None] | None
) -> None:
    done, total = 0, 0
    for dtype in plan.dtypes:
        stock = pipeline = request_of = None  # free the last precision's models first
        gc.collect()
        stock = _Stock(supply, dtype)
        ways = plan.ways or stock.ways()
        for way in ways:
            stock.check(way)  # all of them, before time is spent on the first
        total = total or len(plan.dtypes) * len(ways) * len(plan.batches) * (plan.repeats + 1)
        for way in ways:
            pipeline = request_of = None
            pipeline, request_of = stock.prepare(way, plan)
            if not found.device:
                found.device = str(pipeline.device)
                found.codec = codec_seconds(pipeline, request_of(1), plan.repeats)
            rows: list[Row] = []
            try:
                for turn in range(plan.repeats + 1):
                    for place, batch in enumerate(plan.batches):
                        request = request_of(batch)
                        # The first run warms up: one step of each kind.
                        run = measure(pipeline, request, plan.sample if turn else 1)
                        if not turn:
                            clip, passes = request.frames / pipeline.frame_rate, run.passes / batch
                            rows.append(Row(way.name, pipeline.dtype, batch, clip, passes))
                        else:
                            rows[place] = _with_run(rows[place], run)
                        done += 1
                        if on_run is not None:
                            on_run(done, total)
            finally:
                found.rows += [row for row in rows if row.seconds]


def _with_run(row: Row, run: Run) -> Row:
    memory = max(row.memory or 0, run.memory) if run.memory is not None else None
    return replace(row, seconds=(*row.seconds, run.seconds), memory=memory)


class _Stock:
    """The models of one precision; only those that the current method needs are kept in memory."""

    def __init__(self, supply: Supply, dtype: str) -> None:
        self._supply, self._dtype = supply, dtype
        self._held: dict[Role, Parts] = {}
        # Read now, as the model itself may be freed.
        asked = self._get("asked").lm.config
        self.modeling, self.segment = asked.modeling, asked.segment_duration

    def _get(self, role: Role) -> Parts:
        if role not in self._held:
            load = self._supply.asked if role == "asked" else self._supply.partner
            assert load is not None
            self._held[role] = load(self._dtype)
        return self._held[role]

    def ways(self) -> tuple[Way, ...]:
        """The methods that the given models allow, without hybrid and rescorer."""
        if self.modeling == "autoregressive":
            return (Way("autoregressive"),)
        if self.modeling == "hybrid" or self._supply.partner is not None:
            return Way("masked"), Way("autoregressive")
        return (Way("masked"),)

    def check(self, way: Way) -> None:
        """Raise UsageError if the given models cannot decode by a method, or one of them is not used."""
        if self.modeling == "autoregressive" and self._supply.partner is not None:
            raise UsageError(
                "This model is autoregressive and has no partner.", "Remove --partner."
            )
        if self.modeling == "autoregressive" and way.kind != "autoregressive":
            raise UsageError(
                f"This model is autoregressive, not {way.name}.", "Use --ways autoregressive."
            )
        if self.modeling == "masked" and way.kind != "masked" and self._supply.partner is None:
            raise UsageError(
                f"{way.name} needs an autoregressive model beside this one.",
                "Name one with the same codec: --partner facebook/musicgen-small.",
            )

    def prepare(self, way: Way, plan: Plan) -> tuple[Pipeline, Callable[[int], GenerationRequest]]:
        """The pipeline for a method, and a function from batch size to request."""
        alone = self._supply.partner is None  # a hybrid model is its own partner
        roles: set[Role] = {"asked"} if alone or way.kind == "masked" else {"asked", "partner"}
        if way.kind == "autoregressive" and not alone:
            roles = {"partner"}
        for role in {*self._held} - roles:
            del self._held[role]
        gc.collect()
        parts = self._get("asked" if "asked" in roles else "partner")
        config = DecodingConfig()
        if parts.lm.config.modeling != "autoregressive":
            config = replace(config, decoding_steps=plan.steps)
        frames = frames_for(plan.duration or self.segment, parts.lm.config, parts.name)
        seconds = required(frames) / parts.lm.config.frame_rate
        if "hybrid" in (parts.lm.config.modeling, way.kind):
            written = {"hybrid": way.seconds, "autoregressive": seconds}
            config = replace(config, hybrid=written.get(way.kind, 0.0))
        partners = Partners()
        if way.kind in ("hybrid", "rescorer"):
            other = parts if alone else self._get("partner")
            rescorer, writer = (None, other) if way.kind == "hybrid" else (other, None)
            partners = gather(parts, config, rescorer, writer, lambda name: other)

        def request_of(batch: int) -> GenerationRequest:
            return make_request(
                parts,
                [PROMPT] * batch,
                config=config,
                seeds=[*range(batch)],
                frames=frames,
                partners=partners,
            )

        return Pipeline(parts), request_of
