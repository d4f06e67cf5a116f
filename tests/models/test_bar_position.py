"""The position in the bar as an input: which frame it tells what, in every way to run a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from magnet_cli.api import Model, load_model
from magnet_cli.checkpoints.native import load, save
from magnet_cli.config import Modeling
from magnet_cli.editing.looping import loops
from magnet_cli.editing.pieces import Direction, Filler
from magnet_cli.models.lm import BarGrid, BarPosition, LanguageModel
from magnet_cli.models.parts import Parts
from magnet_cli.models.session import RescorerSession, TextSessions
from magnet_cli.models.transformer import Attention, CrossKeys
from magnet_cli.settings import DecodingConfig
from tests.models.tiny import tiny_lm

FRAMES, BAR = 20, 8.0
MODELINGS: tuple[Modeling, ...] = ("masked", "autoregressive", "hybrid")


def with_bars(modeling: Modeling, scale: float = 0.5) -> LanguageModel:
    """The tiny model with the input, random up to `scale`."""
    old = tiny_lm(modeling)
    lm = LanguageModel(dataclasses.replace(old.config, bar_position=True)).eval()
    assert lm.bars is not None
    generator = torch.Generator().manual_seed(9)
    for parameter in lm.bars.parameters():
        torch.nn.init.normal_(parameter, std=scale, generator=generator)
    lm.load_state_dict(old.state_dict(), strict=False)
    return lm.requires_grad_(False)


def codes(items: int = 1) -> Tensor:
    return torch.randint(0, 16, (items, 4, FRAMES), generator=torch.Generator().manual_seed(1))


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(n, 32, generator=generator) for n in (2, 5)]


def said(lm: LanguageModel, bars: Sequence[BarGrid]) -> Tensor:
    """Hidden states of one item, as masked decoding computes them, or teacher-forced."""
    cross = lm.cross_keys([texts()[0]], bars)
    if lm.config.modeling == "autoregressive":
        return lm.teacher_forced(codes(), cross)
    return lm.rows_hidden(codes(), 0, cross)


def test_bars_repeat_and_may_start_before_the_clip() -> None:
    layer = BarPosition(6)
    at = layer(torch.tensor([[BAR, 0.0], [BAR, 3.0], [0.0, 0.0]]), torch.arange(-1, 30))
    torch.testing.assert_close(at[0, :8], at[0, 8:16])
    torch.testing.assert_close(at[1, :8], at[0, 3:11])
    assert not torch.allclose(at[0, 1], at[0, 2], atol=1e-4)
    assert not at[2].any()
    other = layer(torch.tensor([[10.0, 0.0]]), torch.arange(30))
    assert not torch.allclose(other[0, 0], at[0, 1], atol=1e-4)  # another tempo, at the same place


@pytest.mark.parametrize("modeling", MODELINGS)
def test_without_a_tempo_and_before_training_it_adds_nothing(modeling: Modeling) -> None:
    plain = said(tiny_lm(modeling), ())
    assert torch.equal(said(with_bars(modeling), ()), plain)
    assert torch.equal(said(with_bars(modeling), [(0.0, 0.0)]), plain)
    assert torch.equal(said(with_bars(modeling, scale=0.0), [(BAR, 0.0)]), plain)
    assert not torch.allclose(said(with_bars(modeling), [(BAR, 0.0)]), plain, atol=1e-3)
    assert torch.equal(said(tiny_lm(modeling), [(BAR, 0.0)]), plain)  # a model without the input


@pytest.mark.parametrize("modeling", MODELINGS)
def test_a_frame_is_told_its_own_position(modeling: Modeling) -> None:
    """In the delay layout at the row of the first stream's code, in all ways of decoding."""
    lm, told = with_bars(modeling), []
    assert lm.bars is not None
    lm.bars.register_forward_hook(lambda layer, given, out: told.append(given[1]))
    said(lm, [(BAR, 0.0)])
    first = 0 if modeling == "masked" else -1
    assert told[0][0] == first
    if modeling != "masked":
        sequence = lm.pattern.apply(codes(), lm.config.mask_id)
        assert sequence[0, 0, 1 + 5] == codes()[0, 0, 5]
        assert told[0][1 + 5] == 5


@pytest.mark.parametrize("modeling", ["autoregressive", "hybrid"])
def test_step_by_step_is_as_at_once(modeling: Modeling) -> None:
    lm, grids = with_bars(modeling), [(BAR, 3.0), (0.0, 0.0)]
    sequence = lm.pattern.apply(codes(2), lm.config.mask_id)
    session = TextSessions(lm, texts(), [None, None], [BAR, 0.0], 3).causal()
    session.reset(sequence.shape[-1], with_null=True)
    cond, null = (lm.cross_keys(each, grids) for each in (texts(), [None, None]))
    at_once = [lm(sequence, cross, Attention.causal()) for cross in (cond, null)]
    for row in range(12):
        got = session.step(sequence[..., row : row + 1])
        for hidden, logits in zip(at_once, got, strict=False):
            want = torch.stack([lm.head(hidden[:, row], k) for k in range(4)], 1)
            torch.testing.assert_close(logits, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [0, 9])
@torch.inference_mode()
def test_masked_sessions_have_each_items_bars(rows: int) -> None:
    """Alone, in a batch, one by one, all at once as on a GPU, and after a cached prefix."""
    lm, bars = with_bars("hybrid"), [BAR, 5.0]
    masked = codes(2).masked_fill(torch.arange(FRAMES) > 11, lm.config.mask_id)
    positions = torch.ones(2, 1, FRAMES, dtype=torch.bool)
    session = TextSessions(lm, texts(), [None, None], bars).masked(rows)
    cond, null = session(masked, 0, positions, True, FRAMES)
    assert null is not None
    for item in range(2):
        for got, text in ((cond, texts()[item]), (null, None)):
            cross = lm.cross_keys([text], [(bars[item], 0.0)])
            hidden = lm.rows_hidden(masked[item : item + 1], 0, cross, rows)
            want = lm.stage_logits(hidden, 0, positions[:1])
            torch.testing.assert_close(got.chunk(2)[item], want, atol=1e-4, rtol=1e-4)
    session.one_by_one = False
    grids = [(bar, 0.0) for bar in bars]
    session.both = lm.cross_keys([*texts(), None, None], [*grids, *grids])
    together = session(masked, 0, positions, True, FRAMES)
    torch.testing.assert_close(together[0], cond, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[1], null, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_rescorer_has_them_too() -> None:
    lm = with_bars("hybrid")
    got = RescorerSession(lm, texts(), [(BAR, 0.0), (0.0, 0.0)])(codes(2), [2])[:1]
    below = codes().clone()
    below[:, 3] = lm.config.mask_id
    cross = lm.cross_keys(texts()[:1], [(BAR, 0.0)])
    probs = lm.teacher_forced(below, cross, [2]).softmax(-1)
    want = probs.gather(-1, codes()[:, [2], :, None])[..., 0]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.fixture
def told(nano_bars: Model, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[float, float]]]:
    """The grids that a model's texts are given, in turn."""
    seen: list[list[tuple[float, float]]] = []
    whole = LanguageModel.cross_keys

    def cross_keys(
        lm: LanguageModel, conditions: Sequence[Tensor | None], bars: Sequence[BarGrid] = ()
    ) -> CrossKeys:
        if list(bars) not in seen:
            seen.append(list(bars))
        return whole(lm, conditions, bars)

    monkeypatch.setattr(LanguageModel, "cross_keys", cross_keys)
    return seen


FAST = DecodingConfig(decoding_steps=(1,), bar_repeat=0.0)


def test_clips_from_scratch_are_told_their_bars(nano_bars: Model, told: list[object]) -> None:
    """Without repeated bars, too; and not where codes are known, whose first bar may start anywhere."""
    nano_bars.generate(["techno, 125 bpm", "heavy rain"], FAST, [1, 2], frames=20)
    assert told == [[(48.0, 0.0)], [(0.0, 0.0)]]
    told.clear()
    known = torch.zeros(1, nano_bars.n_q, 10, dtype=torch.int64)
    nano_bars.generate(["techno, 125 bpm"], FAST, [1], frames=20, prompt_codes=known)
    assert told == [[(0.0, 0.0)]]


def test_windows_go_on_in_the_bar(nano_bars: Model, told: list[object]) -> None:
    frames = nano_bars.segment_frames + 30
    direction = Direction.of("techno, 125 bpm", 1, config=FAST)
    filler = Filler(nano_bars, direction, frames)
    filler._sessions(0, 250).masked()
    filler._sessions(175, 425).masked()
    assert told == [[(48.0, 0.0)], [(48.0, 175 % 48.0)]]
    told.clear()
    Filler(nano_bars, direction, frames, bars=[48.0])._sessions(175, 425).masked()
    assert told == [[]]  # an existing sound
    told.clear()
    Filler(nano_bars, direction, frames, bars=[48.0], since=7)._sessions(175, 425).masked()
    assert told == [[(48.0, (175 + 7) % 48.0)]]


def test_the_seam_of_whole_bars_is_told_where_they_start(
    nano_bars: Model, told: list[object]
) -> None:
    direction = Direction.of("techno, 125 bpm", 1, config=FAST)
    for frames, found, want in ((96, False, [(48.0, 0.0)]), (90, False, None), (96, True, None)):
        told.clear()
        codes = torch.zeros(1, nano_bars.n_q, frames, dtype=torch.int64)
        next(loops(nano_bars, direction, codes, found=found))
        assert told == ([want] if want else [[]])


def test_it_is_kept_in_files(nano_bars: Model, tmp_path: Path) -> None:
    save(tmp_path / "copy", nano_bars.parts, {})
    again = load(tmp_path / "copy").lm
    assert again.config.bar_position
    for name, value in nano_bars.lm.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


@pytest.fixture(scope="module")
def nano_bars() -> Model:
    """The built-in model with the input, random."""
    model = load_model(None, device="cpu", dtype="float32", offline=True)
    lm = LanguageModel(dataclasses.replace(model.lm.config, bar_position=True)).eval()
    lm.load_state_dict(model.lm.state_dict(), strict=False)
    parts: Parts = dataclasses.replace(model.parts, lm=lm.requires_grad_(False))
    return Model(parts)
