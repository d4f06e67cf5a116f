"""Training on a remote GPU: packing is lossless, and a run in parts equals one run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from magnet_cli.checkpoints import native
from magnet_cli.data.tokens import TokenFolder
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.parts import Parts
from magnet_cli.settings import DecodingConfig
from magnet_cli.training.batches import BatchDrawer, Source
from magnet_cli.training.config import TrainConfig
from magnet_cli.training.encode import token_format
from magnet_cli.training.initial import initialise
from magnet_cli.training.loop import Trainer
from magnet_cli.training.output import OutputModel
from magnet_cli.training.setup import new_lm_config
from recipes.nano import on_gpu
from tests import processes
from tests.training.conftest import tiny_codec, tiny_text_encoder, write_tokens

CONFIG = TrainConfig(
    modeling="hybrid",
    dim=16,
    num_heads=2,
    num_layers=1,
    segment_duration=2.4,
    steps=5,
    batch_size=4,
    micro_batch=2,
    warmup_steps=1,
    learning_rate=1e-2,
    optimizer="muon" if hasattr(torch.optim, "Muon") else "adamw",
    log_every=1,
    valid_items=2,
    ema_every=1,
)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(2)
    codec = tiny_codec()
    codes = {
        f"clip {number}": torch.randint(0, codec.card, (codec.n_q, 20), generator=generator)
        for number in range(6)
    }
    write_tokens(tmp_path / "tokens", codes, token_format(codec, "tiny"))
    return tmp_path / "tokens"


@pytest.fixture
def model(tmp_path: Path, tokens: Path) -> Path:
    encoder = tiny_text_encoder()
    lm = LanguageModel(new_lm_config(CONFIG, TokenFolder(tokens).format, encoder.width))
    initialise(lm, 0)
    defaults = DecodingConfig(temperature=2.0)
    parts = Parts("start", lm, tiny_codec(), encoder, defaults, kind="music")
    native.save(tmp_path / "start", parts, {})
    return tmp_path / "start"


def test_what_is_packed_comes_out_again(tmp_path: Path, tokens: Path) -> None:
    packed = tmp_path / "packed" / "train.tokens"
    assert on_gpu.pack([tokens], packed, 1.0) == 6
    on_gpu.unpack(packed, tmp_path / "again")
    before, after = TokenFolder(tokens), TokenFolder(tmp_path / "again")
    assert after.format == before.format
    found = {clip.id: (after.codes(clip), clip.captions, clip.tags) for clip in after.clips}
    assert len(found) == 6
    for clip in before.clips:
        codes, captions, tags = found[f"tokens/{clip.id}"]
        assert torch.equal(codes, before.codes(clip))
        assert (captions, tags) == (clip.captions, clip.tags)


def test_it_packs_no_more_than_it_may(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_gpu, "_GROUP", 1)
    whole = tmp_path / "whole"
    on_gpu.pack([tokens], whole, 1.0)
    most = 0.6 * whole.stat().st_size
    assert 0 < on_gpu.pack([tokens], tmp_path / "less", most / on_gpu.MIB) < 6
    assert (tmp_path / "less").stat().st_size <= most


def trained(tmp_path: Path, model: Path, name: str, pieces: list[float]) -> Path:
    for minutes in pieces:
        on_gpu.train(
            tmp_path / "packed", model, CONFIG, tmp_path / name, minutes=minutes,
            send=tmp_path / f"{name}-sent", device="cpu", workers=0,
        )  # fmt: skip
    on_gpu.collect(tmp_path / f"{name}-sent", tmp_path / f"{name}-model", model)
    return tmp_path / f"{name}-model"


def test_pieces_make_the_same_model_as_one_and_as_the_usual_trainer(
    tmp_path: Path, tokens: Path, model: Path
) -> None:
    on_gpu.pack([tokens], tmp_path / "packed" / on_gpu.TRAIN, 1.0)
    on_gpu.pack([tokens], tmp_path / "packed" / on_gpu.VALID, 1.0)
    # No time at all: each part stops after the first step that it reports.
    pieces = trained(tmp_path, model, "pieces", [0.0] * CONFIG.steps)
    one = trained(tmp_path, model, "one", [10.0])
    here, there = native.load(pieces), native.load(one)
    assert here.defaults == DecodingConfig(temperature=2.0)
    for (name, a), (_, b) in zip(
        here.lm.state_dict().items(), there.lm.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    begun = native.load(model)
    assert not torch.allclose(here.lm.out_norm.weight, begun.lm.out_norm.weight)

    source = Source((TokenFolder(tmp_path / "one-train"),))
    drawer = BatchDrawer(source, begun.lm.config, CONFIG, begun.text_encoder.encode_all)
    output = OutputModel(tmp_path / "usual", begun, {})
    output.create(CONFIG)
    Trainer(CONFIG, output, drawer, None).run()
    usual = native.load(tmp_path / "usual").lm.state_dict()
    for name, tensor in there.lm.state_dict().items():
        assert torch.allclose(tensor, usual[name].half().float(), atol=2e-3), name


def test_batches_made_ahead_are_the_drawers_own(tokens: Path, model: Path) -> None:
    loaded = native.load(model)
    source = Source((TokenFolder(tokens),))
    drawer = BatchDrawer(source, loaded.lm.config, CONFIG, loaded.text_encoder.encode_all)
    ahead = on_gpu.Ahead(drawer, 3, workers=2)
    assert len(ahead) == 4
    for micro in (0, 1):
        made, wanted = ahead.batch(3, micro), drawer.batch(3, micro)
        assert torch.equal(made.inputs, wanted.inputs)
        assert made.names == wanted.names
    with pytest.raises(ValueError, match="asked for"):
        ahead.batch(4, 1)


@pytest.mark.process
def test_it_needs_nothing_that_a_lent_machine_may_lack() -> None:
    missing = ["accelerate", "soundfile", "soxr", "typer", "rich", "platformdirs"]
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); import recipes.nano.on_gpu"
    done = processes.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
