"""Adapters: what they compute, what is saved, and resuming."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from magnet_cli.checkpoints.adapters import check_base, load_adapter, marks_of
from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.place import find_place
from magnet_cli.config import LMConfig
from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.lora import (
    LowRank,
    PackedUpdates,
    adapters,
    add_adapters,
    frozen_in_bfloat16,
    merged,
    plain_state,
    updates_of,
)
from magnet_cli.models.transformer import Attention
from magnet_cli.models.word_pieces import WordPieceEncoder
from magnet_cli.training import setup
from magnet_cli.training.config import LORA_TARGETS, TrainConfig
from magnet_cli.training.loop import Trainer, make_accelerator
from magnet_cli.training.setup import make_trainer
from tests.training.conftest import needs_muon, tiny_codec, tiny_text_encoder
from tests.training.test_loop import losses, run, settings


def lora(workshop: Path, out: str, **more: Any) -> Trainer:
    if not (workshop / "base").exists():
        run(workshop, "base", steps=2)
    asked = {"init": str(workshop / "base"), "lora_rank": 2, **more}
    return make_trainer(settings(workshop, **asked), workshop / out)


def test_a_new_adapter_changes_nothing_and_a_trained_one_merges(workshop: Path) -> None:
    """Merged weights have the same outputs as the unmerged adapter, in all of its places."""
    trainer = lora(workshop, "out")
    lm = trainer.output.lm
    base = LanguageModel(lm.config).eval()
    base.load_state_dict(plain_state(lm))
    lm.eval()
    ids = torch.randint(0, 16, (2, 2, 9), generator=torch.Generator().manual_seed(0))
    text = [torch.randn(3, lm.config.dim), torch.randn(2, lm.config.dim)]

    def said(model: LanguageModel) -> torch.Tensor:
        with torch.no_grad():
            return model(ids, model.cross_keys(text), Attention.full())

    torch.testing.assert_close(said(lm), said(base), rtol=0, atol=1e-6)
    with torch.no_grad():
        for _, low in adapters(lm):
            low.b.normal_(generator=torch.Generator().manual_seed(1))
    updates = updates_of(lm)
    assert len(updates) == 10 * lm.config.num_layers + 2 * lm.config.n_q
    assert (said(lm) - said(base)).abs().max() > 0.01
    base.load_state_dict(merged(plain_state(lm), updates))
    torch.testing.assert_close(said(lm), said(base), rtol=1e-4, atol=1e-4)


def test_only_what_is_trained_is_saved_and_a_run_goes_on(workshop: Path) -> None:
    whole = lora(workshop, "whole")
    frozen = {name: tensor.clone() for name, tensor in plain_state(whole.output.lm).items()}
    whole.run()
    for name, tensor in plain_state(whole.output.lm).items():
        assert torch.equal(tensor, frozen[name]), name

    class Killed(BaseException):
        pass

    def kill(progress: Any) -> None:
        if progress.kind == "step" and progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        lora(workshop, "killed").run(kill)
    saved = load_file(workshop / "killed/checkpoints/step-00000004/model.safetensors")
    trained = sum(p.numel() for p in whole.output.lm.parameters() if p.requires_grad)
    assert sum(tensor.numel() for tensor in saved.values()) == trained
    again = settings(workshop, init=str(workshop / "base"), lora_rank=2)
    resumed = make_trainer(again, workshop / "killed", resume=True)
    assert resumed.step == 4
    resumed.run()
    assert losses(workshop / "killed") == losses(workshop / "whole")
    for place, update in updates_of(whole.output.lm).items():
        assert torch.equal(update.b, updates_of(resumed.output.lm)[place].b), place


def test_the_folder_plays_and_holds_the_adapter_in_pefts_layout(workshop: Path) -> None:
    trainer = lora(workshop, "out", steps=2, lora_alpha=4.0)
    trainer.run()
    out = workshop / "out"
    kept = load_parts(find_place(str(out)), "cpu", "float32").lm.state_dict()
    base = load_parts(find_place(str(workshop / "base")), "cpu", "float32").lm
    adapter = load_adapter(out)
    again = merged(base.state_dict(), adapter.updates)
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, again[name], rtol=0, atol=1e-6, msg=name)
    assert any(not torch.equal(kept[name], base.state_dict()[name]) for name in kept)
    names = load_file(out / "adapter_model.safetensors")
    stem = "base_model.model.decoder.model.decoder.layers.0."
    assert names[f"{stem}encoder_attn.k_proj.lora_A.weight"].shape == (2, 16)
    assert names[f"{stem}fc1.lora_B.weight"].shape == (64, 2)
    written = json.loads((out / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["peft_type"]) == (2, 4.0, "LORA")


def test_a_base_in_bfloat16_changes_no_bit_of_a_run_in_it(workshop: Path) -> None:
    """As on a GPU: the frozen matrices take half the memory, and the merged model uses the base as loaded."""
    plain = lora(workshop, "plain", mixed_precision="bf16", steps=2)
    halved = lora(workshop, "halved", mixed_precision="bf16", steps=2)
    base = {name: tensor.clone() for name, tensor in plain_state(halved.output.lm).items()}
    frozen_in_bfloat16(halved.output.lm)
    layer = halved.output.lm.transformer.layers[0]
    assert layer.self_attn.in_proj_weight.dtype == layer.linear1.weight.dtype == torch.bfloat16
    assert halved.output.lm.emb[0].weight.dtype == layer.norm1.weight.dtype == torch.float32
    plain.run()
    halved.run()
    assert losses(workshop / "halved") == losses(workshop / "plain")
    kept = [load_file(workshop / out / "lm.safetensors") for out in ("plain", "halved")]
    for name, tensor in kept[0].items():
        assert torch.equal(tensor, kept[1][name]), name
    again = merged(base, load_adapter(workshop / "halved").updates)
    assert all(torch.equal(tensor, again[name]) for name, tensor in kept[1].items())


def test_updates_by_hand_are_the_plain_sum() -> None:
    """The fused update, forward and backward, compared with the plain sums."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    weight, x = drawn(12, 6), drawn(2, 5, 6).requires_grad_()
    packed = PackedUpdates({part: LowRank(drawn(4, 6), 2, 0.5, generator) for part in "qv"})
    lows = [packed["q"], packed["v"]]
    for low in lows:
        low.b.data = drawn(4, 2)
    factors, of = drawn(2, 5, 12), [x, *(each for low in lows for each in (low.a, low.b))]
    of_q, of_v = (low.scale * (x @ low.a.T) @ low.b.T for low in lows)
    plain = x @ weight.T + torch.cat([of_q, torch.zeros(2, 5, 4), of_v], dim=-1)
    by_hand = packed(x, weight, "qkv")
    torch.testing.assert_close(by_hand, plain)
    wanted = torch.autograd.grad((plain * factors).sum(), of)
    found = torch.autograd.grad((by_hand * factors).sum(), of)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(packed(x, weight[4:8], "k"), x @ weight[4:8].T), "nothing is added to k"
    with torch.autocast("cpu", torch.bfloat16):
        half = packed(x, weight, "qkv")
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain, rtol=0.05, atol=0.1)


def flops(rank: int) -> int:
    """Of a forward and a backward pass over a model of small's proportions."""
    config = LMConfig(
        modeling="masked", dim=256, num_heads=4, num_layers=2, n_q=4, card=512, text_dim=192,
        frame_rate=50.0, segment_duration=2.5,
    )  # fmt: skip
    lm = LanguageModel(config)
    if rank:
        add_adapters(lm, rank, float(rank), LORA_TARGETS, seed=1)
    ids = torch.randint(0, config.card, (1, config.n_q, 125))
    with FlopCounterMode(display=False) as counter:
        text = lm.project_text(torch.randn(12, config.text_dim))
        lm(ids, lm.cross_keys([text]), Attention.full()).sum().backward()
    return counter.get_total_flops()


def test_no_gradient_of_a_whole_matrix_is_computed() -> None:
    """They are a third of what training computes; at small's width time is docs/training.md's."""
    assert flops(4) < 0.7 * flops(0)


def test_the_optimizer_remembers_what_is_trained_alone(workshop: Path) -> None:
    trainer = lora(workshop, "out")
    trainer.take_step()
    (optimizer,) = trainer.optimizers
    moments = [t for s in optimizer.state.values() for t in s.values() if t.ndim]
    trained = sum(p.numel() for p in trainer.output.lm.parameters() if p.requires_grad)
    whole = sum(tensor.numel() for tensor in plain_state(trainer.output.lm).values())
    assert sum(moment.numel() for moment in moments) == 2 * trained
    assert trained < whole / 2


def test_a_gpu_has_the_base_in_bfloat16(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where autocast multiplies in it; what is kept is the base as it was read."""
    run(workshop, "base", steps=2)

    class OnGpu:
        device, mixed_precision = torch.device("cuda"), "bf16"

        def __init__(self, config: TrainConfig, out: Path) -> None:
            self.real = make_accelerator(config, out)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    monkeypatch.setattr(setup, "make_accelerator", OnGpu)
    monkeypatch.setattr(WordPieceEncoder, "to", lambda self, place: None)
    for precision, dtype in (("bf16", torch.bfloat16), ("no", torch.float32)):
        monkeypatch.setattr(OnGpu, "mixed_precision", precision)
        trainer = lora(workshop, precision)
        layer = trainer.output.lm.transformer.layers[0]
        assert layer.self_attn.in_proj_weight.dtype == layer.linear1.weight.dtype == dtype
        kept = load_file(workshop / precision / "lm.safetensors")
        base = load_file(workshop / "base" / "lm.safetensors")
        assert all(torch.equal(kept[name], tensor) for name, tensor in base.items())


def test_targets_are_what_is_updated(workshop: Path) -> None:
    trainer = lora(workshop, "out", lora_targets=("cross",))
    assert {place.partition(".")[0] for _, place in updates_of(trainer.output.lm)} == {
        "encoder_attn"
    }


def test_a_pass_without_any_text_trains_no_cross_attention(workshop: Path) -> None:
    """Torch had no graph for its gradients, which ended the run at whichever step dropped all texts."""
    trainer = lora(workshop, "out", lora_targets=("cross",), condition_dropout=1.0, steps=2)
    trainer.run()
    assert trainer.step == 2
    assert all(not low.b.any() for _, low in adapters(trainer.output.lm))
    assert losses(workshop / "out")[2] > 0


@needs_muon
def test_muon_leaves_a_lora_of_codes_to_adamw(workshop: Path) -> None:
    """It has no matrices in blocks, and torch refused an empty list of them."""
    trainer = lora(workshop, "out", lora_targets=("codes",), optimizer="muon", steps=1)
    trainer.run()
    assert trainer.step == 1


@pytest.mark.parametrize("more", [{"lora_alpha": 4.0}, {"lora_targets": ("self",)}])
def test_settings_of_a_lora_need_its_rank(workshop: Path, more: dict[str, Any]) -> None:
    """Without it they were ignored, and all weights were trained."""
    lora(workshop, "whole", lora_rank=0, steps=1).run()
    match = f"--{next(iter(more)).replace('_', '-')} is for a LoRA"
    with pytest.raises(UsageError, match=match):
        lora(workshop, "out", lora_rank=0, **more)
    asked = settings(workshop, init=str(workshop / "base"), steps=1, **more)
    with pytest.raises(UsageError, match=match):
        make_trainer(asked, workshop / "whole", resume=True, given=more)
    # In the train.toml of an earlier version.
    assert make_trainer(asked, workshop / "whole", resume=True).step == 1


def test_a_wrong_base_is_refused_with_what_differs(workshop: Path) -> None:
    lora(workshop, "out", steps=2).run()
    adapter = load_adapter(workshop / "out")
    run(workshop, "wide", steps=2, dim=32)
    other = load_parts(find_place(str(workshop / "wide")), "cpu", "float32")
    with pytest.raises(CheckpointError, match="dim 16 there and 32 here"):
        check_base(adapter, other.lm.config, other.lm.state_dict(), "wide")
    with pytest.raises(CheckpointError, match="wide is not an adapter"):
        load_adapter(workshop / "wide")


def test_a_base_of_equal_sizes_is_told_by_its_weights(workshop: Path) -> None:
    lora(workshop, "out", steps=2).run()
    adapter = load_adapter(workshop / "out")
    base = load_parts(find_place(str(workshop / "base")), "cpu", "float32").lm
    for dtype in (torch.float16, torch.bfloat16):
        state = {name: tensor.to(dtype) for name, tensor in base.state_dict().items()}
        check_base(adapter, base.config, state, "base")
    # The trained model is another one, although it started as this one.
    other = load_parts(find_place(str(workshop / "out")), "cpu", "float32").lm
    with pytest.raises(CheckpointError, match="sizes are the same, the weights are others"):
        check_base(adapter, other.config, other.state_dict(), "out")
    # And a run does not resume with another base.
    (workshop / "base" / "lm.safetensors").write_bytes(
        (workshop / "out" / "lm.safetensors").read_bytes()
    )
    with pytest.raises(CheckpointError, match="weights are others"):
        make_trainer(
            settings(workshop, init=str(workshop / "base"), lora_rank=2, steps=3),
            workshop / "out",
            resume=True,
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"r": 0}, "r 0"),
        ({"r": 3}, "not a pair of A and B of rank 3"),
        ({"lora_alpha": "4"}, "lora_alpha '4'"),
        ({"rank_pattern": {"fc1": 4}}, "rank_pattern"),
    ],
)
def test_adapters_of_other_kinds_are_refused(
    workshop: Path, change: dict[str, Any], said: str
) -> None:
    lora(workshop, "out", steps=1).run()
    config = workshop / "out" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said):
        load_adapter(workshop / "out")


def test_a_damaged_adapter_is_refused(workshop: Path) -> None:
    lora(workshop, "out", steps=1).run()
    file = workshop / "out" / "adapter_model.safetensors"
    whole = {
        name: t.clone() for name, t in load_file(file).items()
    }  # not mapped: its file is overwritten
    save_file({name: t for name, t in whole.items() if "fc1.lora_B" not in name}, file)
    with pytest.raises(CheckpointError, match="fc1 of layer 0 is not a pair"):
        load_adapter(workshop / "out")
    save_file({name: t * float("nan") for name, t in whole.items()}, file)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_adapter(workshop / "out")
    save_file({"text_model.q.lora_A.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(CheckpointError, match=r"updates text_model\.q"):
        load_adapter(workshop / "out")
    file.write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapter(workshop / "out")


def test_a_lora_adds_no_streams(workshop: Path) -> None:
    from magnet_cli.checkpoints import native
    from magnet_cli.config import CodecConfig
    from magnet_cli.models.encodec import EnCodec

    run(workshop, "base", steps=1)
    config = dataclasses.replace(tiny_codec().config, n_q=3)
    assert isinstance(config, CodecConfig)
    native.save_part(workshop / "more", EnCodec(config).eval())
    with pytest.raises(UsageError, match="cannot add streams"):
        lora(workshop, "out", codec=str(workshop / "more"))


def test_another_text_encoder_is_refused(workshop: Path) -> None:
    """It was silently ignored."""
    from magnet_cli.checkpoints import native

    run(workshop, "base", steps=1)
    other = tiny_text_encoder()
    other.weight.fill_(2.0)
    native.save_part(workshop / "other", other)
    more = {"init": str(workshop / "base"), "text_encoder": str(workshop / "other")}
    with pytest.raises(UsageError, match="it has its own"):
        make_trainer(settings(workshop, **more), workshop / "out")
    with pytest.raises(UsageError, match="it has its own"):  # it was fetched to be compared
        make_trainer(settings(workshop, **{**more, "text_encoder": "t5-large"}), workshop / "out")
    assert not (workshop / "out").exists()


def test_a_lora_needs_a_model_to_begin_from(workshop: Path) -> None:
    with pytest.raises(UsageError, match="without --init"):
        settings(workshop, lora_rank=2)


def test_what_draws_a_tempo_is_kept_and_is_no_mark_of_a_base(workshop: Path) -> None:
    """It is a buffer: a LoRA of the built-in model could not be started, because its base was loaded without
    it."""
    from magnet_cli.checkpoints import native

    lora(workshop, "first")
    parts = load_parts(find_place(str(workshop / "base")), "cpu", "float32")
    lm = LanguageModel(dataclasses.replace(parts.lm.config, tempi=(8.0, 10.0)))
    head = {"tempo.weight": torch.ones(3, lm.config.text_dim), "tempo.bias": torch.ones(3)}
    lm.load_state_dict({**parts.lm.state_dict(), **head})
    native.save(workshop / "told", dataclasses.replace(parts, lm=lm), {})
    assert marks_of(lm.state_dict()) == marks_of(parts.lm.state_dict())

    trainer = lora(workshop, "out", init=str(workshop / "told"))
    trainer.run(lambda _: None)
    played = native.load(workshop / "out").lm
    assert played.tempo is not None
    assert torch.equal(played.tempo.weight, head["tempo.weight"])
