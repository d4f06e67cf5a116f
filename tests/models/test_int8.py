"""int8: its results, independence of tokens, saving, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import precision
from magnet_cli.api import load_model
from magnet_cli.checkpoints.load import export_checkpoint, import_checkpoint, load_parts
from magnet_cli.checkpoints.loras import Lora
from magnet_cli.checkpoints.place import find_place
from magnet_cli.errors import UsageError
from magnet_cli.models import precision as int8
from magnet_cli.models.precision import Int8Linear, quantize
from magnet_cli.settings import DecodingConfig
from tests.models.tiny import stage_hidden

SMALL = "facebook/magnet-small-10secs"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(weight: Tensor, cut: int | None = None) -> Int8Linear:
    made = Int8Linear(*weight.shape, cut)
    made.weight, made.scale = quantize(weight)
    made.pack()
    return made


def slow(x: Tensor, weight: Tensor, reach: int) -> Tensor:
    """The same with integers and float64, token by token."""
    whole, scale = quantize(weight)
    out = []
    for token in x.reshape(-1, x.shape[-1]):
        step = token.abs().max().clamp(min=1e-12) / reach
        out.append((token / step).round().double() @ whole.double().t() * scale.double() * step)
    return torch.stack(out).reshape(*x.shape[:-1], -1)


# Full bytes, if the processor adds them exactly; fewer bits; another operator, which saturates without VNNI.
WAYS = [way for way in ((127, True), (63, True), (127, False)) if int8._is_exact(*way)]


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_slow_form_and_near_the_layer(
    monkeypatch: pytest.MonkeyPatch, way: tuple[int, bool]
) -> None:
    reach, _ = way
    monkeypatch.setattr(int8, "_way", lambda: way)
    x, weight = drawn(3, 11, 96), drawn(40, 96, seed=1) * torch.linspace(0.01, 9, 40)[:, None]
    made = layer(weight)(x)
    torch.testing.assert_close(made.double(), slow(x, weight, reach), rtol=1e-5, atol=1e-5)
    exact = x @ weight.t()
    # Per channel: a single scale would lose the small ones.
    error = (made - exact).norm(dim=(0, 1)) / exact.norm(dim=(0, 1))
    assert error.max() < (0.04 if reach == 63 else 0.02)


@pytest.mark.parametrize("way", WAYS)
def test_a_loud_mate_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, way: tuple[int, bool]
) -> None:
    """One scale for all tokens, as in torch's dynamic int8, would leave three bits for quiet ones."""
    monkeypatch.setattr(int8, "_way", lambda: way)
    one = layer(drawn(24, 64))
    x = drawn(2, 7, 64, seed=1)
    loud = x.clone()
    loud[1] *= 1000
    assert torch.equal(one(loud)[0], one(x)[0])
    assert torch.equal(one(x[:1])[0], one(x)[0])


def test_extremes_are_exact() -> None:
    """Processors without VNNI saturate sums of full bytes at 16 bits, so fewer bits are used there."""
    for sign in (1, -1):
        made = layer(sign * torch.ones(64, 256))(torch.ones(4, 256))
        torch.testing.assert_close(made, torch.full((4, 64), sign * 256.0))
    assert layer(torch.zeros(3, 5))(torch.zeros(2, 5)).abs().max() == 0
    assert int8._way() == WAYS[0]
    assert layer(drawn(3, 5))(torch.zeros(0, 5)).shape == (0, 3)


def test_sums_that_are_cut_off_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch._int_mm`, which was used without a check, saturates them without VNNI."""
    monkeypatch.setattr(
        torch, "_int_mm", lambda a, b: (a.int() @ b.int()).clamp(-(2**15), 2**15 - 1)
    )
    assert not int8._is_exact(127, False)
    monkeypatch.setattr(int8, "_is_exact", lambda reach, onednn: False)
    with pytest.raises(UsageError, match="not multiply int8 exactly"):
        int8._way.__wrapped__()


def test_a_cut_layer_is_two() -> None:
    weight, x = drawn(30, 16), drawn(4, 16, seed=1)
    both = layer(weight, cut=10)
    assert torch.equal(both(x, 0), layer(weight[:10])(x))
    assert torch.equal(both(x, 1), layer(weight[10:])(x))


def test_a_model_in_int8_is_near_itself_and_makes_the_same_alone(hub_cache: Path) -> None:
    whole, small = load_parts(find_place(SMALL), "cpu", "float32"), load_model(SMALL, dtype="int8")
    assert small.dtype == "int8"
    assert not any("in_proj_weight" in name for name, _ in small.lm.named_parameters())
    codes = torch.randint(0, whole.lm.config.card, (1, whole.lm.config.n_q, 40))
    text = [whole.lm.project_text(whole.text_encoder.encode("rain"))]
    said = [
        lm.head(stage_hidden(lm, codes, 0, lm.cross_keys(text)), 0) for lm in (whole.lm, small.lm)
    ]
    assert (said[1] - said[0]).norm() / said[0].norm() < 0.05
    config = DecodingConfig(decoding_steps=(2, 1, 1, 1))
    alone = small.generate(["rain"], config, [3], frames=30).codes
    mate = small.generate(["rain", "LOUD " * 30], config, [3, 4], frames=30).codes
    assert torch.equal(mate[:1], alone)


def test_it_is_saved_and_loaded_as_it_is(hub_cache: Path, tmp_path: Path) -> None:
    import_checkpoint(find_place(SMALL), tmp_path / "half", dtype="float32")
    import_checkpoint(find_place(SMALL), tmp_path / "small", dtype="int8")
    sizes = [(tmp_path / name / "lm.safetensors").stat().st_size for name in ("half", "small")]
    assert sizes[1] < 0.6 * sizes[0]
    config = DecodingConfig(decoding_steps=(2, 1, 1, 1))
    made = [
        load_model(name, dtype=dtype).generate(["rain"], config, [3], frames=30)
        for name, dtype in ((SMALL, "int8"), (tmp_path / "small", "auto"))
    ]
    assert torch.equal(made[0].codes, made[1].codes)
    assert made[1].settings["dtype"] == "int8"
    import_checkpoint(find_place(str(tmp_path / "small")), tmp_path / "again")
    for file in ("lm.safetensors", "text.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "small" / file).read_bytes()


def test_what_int8_cannot_do_is_refused(hub_cache: Path, tmp_path: Path) -> None:
    import_checkpoint(find_place(SMALL), tmp_path / "small", dtype="int8")
    place = find_place(str(tmp_path / "small"))
    with pytest.raises(UsageError, match="holds int8 weights and cannot be loaded in float32"):
        load_parts(place, "cpu", "float32")
    with pytest.raises(UsageError, match="holds int8 weights and cannot be loaded in float32"):
        export_checkpoint(place, tmp_path / "out")
    with pytest.raises(UsageError, match="No adapter can be merged"):
        load_parts(place, "cpu", "auto", [Lora("rain.safetensors")])


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.02), ("int8", 0.05)])
@pytest.mark.parametrize("name", [SMALL, "facebook/musicgen-small"])
def test_a_precision_says_nearly_what_float32_does(
    hub_cache: Path, name: str, dtype: str, most: float
) -> None:
    exact = load_model(name, device="cpu", dtype="float32", offline=True)
    other = load_model(name, device="cpu", dtype=dtype, offline=True)
    codes = torch.randint(0, exact.card, (1, 4, 40), generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        precision.said(exact, "rain", codes, 0),
        precision.said(other, "rain", codes, 0),
        strict=True,
    ):
        bits = 1.5 if dtype == "int8" and int8._way()[0] == 63 else 1  # seven without VNNI
        assert 0 < float((ours.logits - theirs.logits).norm() / ours.logits.norm()) < bits * most
        assert len(ours.codes) == len(ours.logits)
