"""A prefix cached as keys and values, against one that is computed at every step."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from magnet_cli.config import Modeling
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.session import MaskedSession, compute_at_once
from tests.models.tiny import stage_hidden, tiny_lm

FRAMES, ROWS = 14, 9


def hybrid(context: int) -> LanguageModel:
    """The tiny hybrid model with this context for streams above the first."""
    lm = tiny_lm("hybrid")
    lm.config = dataclasses.replace(lm.config, subcodes_context=context)
    return lm


def codes_at(lm: LanguageModel, stage: int, seed: int = 3) -> Tensor:
    """Codes [2, K, T] as at the start of a stage: a prefix, complete streams below, some of it masked."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (2, 4, FRAMES), generator=generator)
    prefix = lm.pattern.rows_within(ROWS, FRAMES)
    open_ = torch.zeros(4, FRAMES, dtype=torch.bool)
    open_[stage] = torch.rand(FRAMES, generator=generator) < 0.6
    open_[stage + 1 :] = True
    return codes.masked_fill(open_ & ~prefix, lm.config.mask_id)


def texts() -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(3, 32, generator=generator), torch.randn(5, 32, generator=generator)]


@pytest.mark.parametrize("context", [3, 100])
@pytest.mark.parametrize("one_by_one", [True, False])
@torch.inference_mode()
def test_held_rows_change_nothing(context: int, one_by_one: bool) -> None:
    lm = hybrid(context)
    held = MaskedSession(lm, texts(), [None, None], prefix_rows=ROWS)
    if not one_by_one:  # as on a GPU
        held.one_by_one = False
        held.both = lm.cross_keys([*texts(), None, None])
        held.only_cond = lm.cross_keys(texts())
    for stage in (0, 1, 3, 1):
        codes = codes_at(lm, stage)
        # A span at the seam starts inside the prefix, and its score uses all of its frames. Those were zeros,
        # as if every code were equally likely.
        positions = codes[:, stage] == lm.config.mask_id
        positions |= F.max_pool1d(positions[:, None].float(), 5, 1, 2)[:, 0] > 0
        for with_null in (True, False):
            found = held(codes, stage, positions[:, None], with_null, FRAMES)
            for logits, conditions in zip(found, (texts(), [None, None]), strict=True):
                if logits is None:
                    assert not with_null
                    continue
                hidden = stage_hidden(lm, codes, stage, lm.cross_keys(conditions), ROWS)
                torch.testing.assert_close(logits, lm.head(hidden[positions], stage))


@pytest.mark.parametrize("modeling", ["masked", "hybrid"])
@torch.inference_mode()
def test_of_a_group_each_stream_is_asked_at_its_own_frames(modeling: Modeling) -> None:
    lm = tiny_lm(modeling)
    lm.config = dataclasses.replace(lm.config, stages=((0, 1, 2), (3,)))
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 17, (2, 4, FRAMES), generator=generator)
    positions = torch.rand(2, 3, FRAMES, generator=generator) < 0.5
    logits, _ = MaskedSession(lm, texts(), [None, None])(codes, 0, positions, False, FRAMES)
    rows = lm.rows_hidden(codes, 0, lm.cross_keys(texts()), 1)
    wanted = [
        lm.head(lm.stream_hidden(rows, stream, FRAMES)[item, frame], stream)
        for item, stream, frame in positions.nonzero().tolist()
    ]
    torch.testing.assert_close(logits, torch.stack(wanted))
    everyone = lm.stage_logits(rows, 0, positions)  # all items at once, as on a GPU
    torch.testing.assert_close(everyone, torch.stack(wanted))


@pytest.mark.parametrize("rows", [0, ROWS])
@pytest.mark.parametrize("one_by_one", [True, False])
@torch.inference_mode()
def test_frames_after_the_end_count_only_if_one_of_their_codes_is_known(
    rows: int, one_by_one: bool
) -> None:
    lm = hybrid(100)
    session = MaskedSession(lm, texts(), [None, None], prefix_rows=rows)
    if not one_by_one:  # as on a GPU
        session.one_by_one = False
        session.both = lm.cross_keys([*texts(), None, None])
        session.only_cond = lm.cross_keys(texts())
    end = FRAMES - 2
    codes = codes_at(lm, 0)
    codes[:, :, end:] = lm.config.mask_id
    codes[1, 2, FRAMES - 1] = 3  # of the second item something is known
    positions = (codes[:, :1] == lm.config.mask_id) & (torch.arange(FRAMES) < end)
    for with_null in (False, True):
        found = session(codes, 0, positions, with_null, end)
        for logits, conditions in zip(found, (texts(), [None, None]), strict=True):
            if logits is None:
                continue
            at = 0
            for item, (frames, text) in enumerate(zip((end, FRAMES), conditions, strict=True)):
                near = codes[item : item + 1, :, :frames]
                here = positions[item : item + 1, 0, :frames]
                hidden = stage_hidden(lm, near, 0, lm.cross_keys([text]), max(rows, 1))
                wanted = lm.head(hidden[here], 0)
                torch.testing.assert_close(logits[at : at + len(wanted)], wanted)
                at += len(wanted)
            assert at == len(logits) > 0


@torch.inference_mode()
def test_another_prefix_is_computed_again() -> None:
    lm = hybrid(100)
    session = MaskedSession(lm, texts(), [None, None], prefix_rows=ROWS)
    for seed in (3, 5, 3):
        codes = codes_at(lm, 1, seed)
        positions = codes[:, 1] == lm.config.mask_id
        logits, _ = session(codes, 1, positions[:, None], False, FRAMES)
        hidden = stage_hidden(lm, codes, 1, lm.cross_keys(texts()), ROWS)
        torch.testing.assert_close(logits, lm.head(hidden[positions], 1))


@torch.inference_mode()
def test_the_prefix_passes_through_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = hybrid(100)
    session = MaskedSession(lm, texts(), [None, None], prefix_rows=ROWS)
    lengths: list[int] = []
    whole = lm.transformer.forward

    def counted(x: Tensor, *rest: object) -> Tensor:
        lengths.append(x.shape[1])
        return whole(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(lm.transformer, "forward", counted)
    for _ in range(3):
        codes = codes_at(lm, 0)
        session(codes, 0, codes[:, :1] == lm.config.mask_id, False, FRAMES)
    rows = lm.pattern.steps(FRAMES)
    assert sorted(lengths) == sorted([ROWS] * 2 + [rows - ROWS] * 6)


@pytest.fixture
def three_at_once() -> Iterator[None]:
    compute_at_once(3)
    yield
    compute_at_once(1)


@pytest.mark.usefixtures("three_at_once")
@pytest.mark.parametrize("rows", [0, ROWS])
@pytest.mark.parametrize("with_null", [True, False])
@torch.inference_mode()
def test_passes_at_once_give_the_same_bits(
    rows: int, with_null: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = hybrid(100)
    session = MaskedSession(lm, texts(), [None, None], prefix_rows=rows)
    names: list[str] = []
    met = threading.Event()
    whole = lm.transformer.forward

    def noted(x: Tensor, *rest: object) -> Tensor:
        assert torch.is_inference_mode_enabled()  # a mode is a thread's own
        names.append(threading.current_thread().name)
        if len(names) > 1:
            met.set()
        assert met.wait(10)  # in vain if passes are not computed at once
        return whole(x, *rest)  # type: ignore[arg-type]

    codes = codes_at(lm, 1)
    positions = codes[:, 1:2] == lm.config.mask_id
    for asked in ([True, True], [False, True]):
        here = positions & torch.tensor(asked)[:, None, None]
        with monkeypatch.context() as patched:
            patched.setattr(lm.transformer, "forward", noted)
            at_once = session(codes, 1, here, with_null, FRAMES)
        compute_at_once(1)
        one_by_one = session(codes, 1, here, with_null, FRAMES)
        compute_at_once(3)
        assert torch.equal(at_once[0], one_by_one[0])
        if with_null:
            assert at_once[1] is not None
            assert torch.equal(at_once[1], one_by_one[1] if one_by_one[1] is not None else codes)
        else:
            assert at_once[1] is one_by_one[1] is None
    assert {name.partition("_")[0] for name in names} == {"pass"}
