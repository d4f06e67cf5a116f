"""Measures a run: seconds, passes and peak memory, in full or estimated from a sample of steps."""

from __future__ import annotations

import ctypes
import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.transformer import Attention, CrossKeys, KVCache, Transformer
from magnet_cli.pipeline import Pipeline
from magnet_cli.request import GenerationRequest

_WARM_FRAMES = 10  # decoded to warm up a codec


@dataclass(frozen=True)
class Run:
    """Measurements of one run: seconds, passes summed over clips, peak memory in bytes."""

    seconds: float
    passes: int
    memory: int | None


def measure(pipeline: Pipeline, request: GenerationRequest, sample: int | None = None) -> Run:
    """Measure the decoding of a request to codes.

    Args:
        sample: steps of each kind to compute and time; the others are skipped and estimated, so that
            the codes are meaningless. None: compute all.
    """
    partners = request.partners
    models = [pipeline.lm, *(p.lm for p in (partners.rescorer, partners.hybrid_model) if p)]
    with ExitStack() as stack:
        watch = Watch(sample, pipeline.device)
        for lm in {id(lm): lm for lm in models}.values():
            stack.enter_context(watch.over(lm))
        with _Peak(pipeline.device) as peak:
            _wait(pipeline.device)
            began = time.perf_counter()
            pipeline.decode(request)
            _wait(pipeline.device)
            took = time.perf_counter() - began
    return Run(took - watch.spent + watch.estimated, watch.passes, peak.bytes)


def codec_seconds(pipeline: Pipeline, request: GenerationRequest, repeats: int) -> float:
    """Median seconds to decode a clip's codes to sound."""
    codes = torch.zeros_like(request.known_codes).to(pipeline.device)
    pipeline.decode_audio(codes[..., :_WARM_FRAMES])
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        pipeline.decode_audio(codes)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


@dataclass
class _Kind:
    """Passes of equal cost."""

    count: int = 0
    timed: int = 0
    seconds: float = 0.0


class Watch:
    """Wraps the transformers of models: counts passes, and skips all but a sample of them.

    Attributes:
        passes: items that went through a network; a guided step of two clips counts four.
        spent: seconds of all passes, including skipped ones; 0 if all are computed.
    """

    def __init__(self, sample: int | None, device: torch.device) -> None:
        self.passes, self._lock = 0, threading.Lock()  # as passes may be computed at once
        self._sample, self._device = sample, device
        self._kinds: dict[tuple[Any, ...], _Kind] = {}
        self.spent = 0.0

    @property
    def estimated(self) -> float:
        """Estimated seconds of all passes; 0 if all are computed."""
        return sum(kind.count * kind.seconds / kind.timed for kind in self._kinds.values())

    @contextmanager
    def over(self, lm: LanguageModel) -> Iterator[None]:
        """Watch a model within a `with` block."""
        network: Any = lm.transformer
        network.forward = functools.partial(self._pass, network, network.forward)
        try:
            yield
        finally:
            del network.forward

    def _pass(
        self,
        network: Transformer,
        forward: Callable[..., Tensor],
        x: Tensor,
        attention: Attention,
        cross: CrossKeys | None,
        cache: KVCache | None = None,
    ) -> Tensor:
        with self._lock:
            self.passes += len(x)
        if self._sample is None:
            return forward(x, attention, cross, cache)
        texts = 0 if cross is None else len(cross.rows)
        kind = self._kinds.setdefault(
            (id(network), *x.shape[:2], attention, texts, cache is None), _Kind()
        )
        _wait(self._device)
        began = time.perf_counter()
        if self._is_timed(kind, x.shape[1], cache):
            x = forward(x, attention, cross, cache)
            _wait(self._device)
            kind.timed += 1
            kind.seconds += time.perf_counter() - began
        elif cache is not None:
            end = cache.length + x.shape[1]
            for rows in (*cache.keys, *cache.values):
                rows[:, :, cache.length : end] = 0  # uninitialised memory may hold NaN
            cache.length = end
        kind.count += 1
        self.spent += time.perf_counter() - began
        return x

    def _is_timed(self, kind: _Kind, rows: int, cache: KVCache | None) -> bool:
        assert self._sample is not None
        if kind.count == 0:
            return True
        if cache is not None and rows == 1:  # later steps attend to more: spread the sample
            steps = cache.keys[0].shape[2]
            before, here = (
                place * self._sample // steps for place in (cache.length - 1, cache.length)
            )
            return here > before
        return kind.timed < self._sample


class _Peak:
    """Peak memory in a block, in `bytes`: torch's on a GPU, the process's on Linux, otherwise None."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> _Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "cpu":
            # Return freed memory (such as weights before quantisation) to the system, as glibc may not.
            with suppress(AttributeError, OSError, TypeError):  # not glibc
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets the peak
                self.bytes = 0
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        elif self.bytes is not None:
            status = Path("/proc/self/status").read_text()
            said = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
            self.bytes = int(said[0][1]) * 1024 if said else None


def _wait(device: torch.device) -> None:
    """Wait until a GPU has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
