"""Our language model equals `transformers`' MusicGen decoder on tiny random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    MusicgenForConditionalGeneration,
    T5Config,
)

from benchmarks import peers
from benchmarks.peers import ours_from
from magnet_cli.checkpoints.adapters import marks_of, save_adapter
from magnet_cli.config import LMConfig
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.lora import adapters, add_adapters, updates_of
from magnet_cli.models.transformer import Attention
from magnet_cli.training.config import LORA_TARGETS


@torch.inference_mode()
def test_logits_equal_transformers_musicgen() -> None:
    torch.manual_seed(0)
    theirs = MusicgenForCausalLM(
        MusicgenDecoderConfig(
            vocab_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128,
            num_codebooks=4, max_position_embeddings=64, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    config = LMConfig(
        dim=32, num_heads=4, num_layers=2, n_q=4, card=16, modeling="autoregressive", text_dim=8,
        frame_rate=50.0, segment_duration=1.0, delays=(0, 1, 2, 3),
    )  # fmt: skip
    lm = LanguageModel(config).eval()
    missing, unexpected = lm.load_state_dict(ours_from(theirs.state_dict()), strict=False)
    assert set(missing) == {"text_proj.weight", "text_proj.bias"}
    assert not unexpected

    sequence = torch.randint(0, 17, (2, 4, 21))
    text = torch.randn(2, 5, 32)
    want = theirs(
        input_ids=sequence.flatten(0, 1), encoder_hidden_states=text, use_cache=False
    ).logits  # [B * K, S, card]
    hidden = lm(sequence, lm.cross_keys(list(text)), Attention.causal())
    got = torch.stack([lm.head(hidden, k) for k in range(4)], dim=1).flatten(0, 1)
    assert float((got - want).abs().max()) < 1e-4
    assert float(want.std()) > 0.1


@torch.inference_mode()
def test_an_adapters_files_are_musicgens_own_under_pefts_names(tmp_path: Path) -> None:
    """What `peft` does with them, spelled out: W + alpha / r * B A of the modules that it names.

    With peft 0.21 itself, `PeftModel.from_pretrained` gave the same logits to 1e-6; it is not among the
    packages that tests need.
    """
    torch.manual_seed(0)
    decoder = MusicgenDecoderConfig(
        vocab_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128,
        num_codebooks=4, max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    theirs = MusicgenForConditionalGeneration(
        MusicgenConfig(
            text_encoder=T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1).to_dict(),
            audio_encoder=EncodecConfig(hidden_size=8, num_filters=2, upsampling_ratios=[2]).to_dict(),
            decoder=decoder.to_dict(),
        )
    ).eval()  # fmt: skip
    for parameter in theirs.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    config = LMConfig(
        dim=32, num_heads=4, num_layers=2, n_q=4, card=16, modeling="autoregressive", text_dim=8,
        frame_rate=50.0, segment_duration=1.0, delays=(0, 1, 2, 3),
    )  # fmt: skip
    lm = LanguageModel(config).eval()
    lm.load_state_dict(ours_from(theirs.decoder.state_dict()), strict=False)
    marks = marks_of(lm.state_dict())
    add_adapters(lm, 3, 6.0, LORA_TARGETS, seed=1)
    for _, low in adapters(lm):
        low.b.normal_(0, 0.1)
    save_adapter(tmp_path, updates_of(lm), config, "musicgen", marks)

    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    matched = {
        name for name, _ in theirs.named_modules() if re.fullmatch(settings["target_modules"], name)
    }
    named = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}
    assert named == matched, "peft would put its own layers elsewhere"
    for name in named:
        if "embed_tokens" in name:
            a, b = (tensors[f"base_model.model.{name}.lora_embedding_{half}"] for half in "AB")
            delta = (b @ a).T
        else:
            a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
            delta = b @ a
        theirs.get_submodule(name).weight += settings["lora_alpha"] / settings["r"] * delta

    sequence, text = torch.randint(0, 17, (2, 4, 21)), torch.randn(2, 5, 32)
    want = theirs.decoder(
        input_ids=sequence.flatten(0, 1), encoder_hidden_states=text, use_cache=False
    ).logits  # [B * K, S, card]
    hidden = lm(sequence, lm.cross_keys(list(text)), Attention.causal())
    got = torch.stack([lm.head(hidden, k) for k in range(4)], dim=1).flatten(0, 1)
    assert float((got - want).abs().max()) < 1e-4


def test_what_the_peers_benchmark_compares_is_equal() -> None:
    """Codes decoded autoregressively from the same draws, and logits of a masked step."""
    tiny = peers.Shape(32, 4, 2)
    said = [*peers.written(tiny, 12, [1, 2], 1), *peers.masked(tiny, 12, 1)]
    assert [what.split(",")[0] for what, _ in said] == ["MusicGen"] * 2 + ["MAGNeT"] * 2
    assert all(equal for _, (*_, equal) in said)
    # Other weights are detected.
    theirs, ours = peers.musicgens(tiny, 12)
    ours.linears[0].weight.data.neg_()
    text = torch.randn(1, 5, 32)
    sessions = peers.CausalSession(ours, [text[0]], [None]), peers.TheirSession(theirs, text)
    codes = [peers.write(session, ours, 1, 12) for session in sessions]
    assert not torch.equal(*codes)
