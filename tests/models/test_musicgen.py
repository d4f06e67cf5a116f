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

from magnet_cli.checkpoints.adapters import marks_of, save_adapter
from magnet_cli.config import LMConfig
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.lora import adapters, add_adapters, updates_of
from magnet_cli.models.transformer import Attention

NAMES = [
    (r"model\.decoder\.embed_tokens\.(\d+)\.", r"emb.\1."),
    (r"model\.decoder\.layers\.", "transformer.layers."),
    (r"model\.decoder\.layer_norm\.", "out_norm."),
    (r"lm_heads\.", "linears."),
    (r"\.encoder_attn_layer_norm\.", ".norm_cross."),
    (r"\.encoder_attn\.", ".cross_attention."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.final_layer_norm\.", ".norm2."),
    (r"\.fc(\d)\.", r".linear\1."),
]


def ours_from(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for name, value in theirs.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    for name in [name for name in state if name.endswith(".q_proj.weight")]:
        stem = name.removesuffix("q_proj.weight")
        packed = [state.pop(f"{stem}{part}_proj.weight") for part in "qkv"]
        state[f"{stem}in_proj_weight"] = torch.cat(packed)
    return {name: value for name, value in state.items() if "embed_positions" not in name}


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
    add_adapters(lm, 3, 6.0, ("self", "cross", "feed"), seed=1)
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
        a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        theirs.get_submodule(name).weight += settings["lora_alpha"] / settings["r"] * (b @ a)

    sequence, text = torch.randint(0, 17, (2, 4, 21)), torch.randn(2, 5, 32)
    want = theirs.decoder(
        input_ids=sequence.flatten(0, 1), encoder_hidden_states=text, use_cache=False
    ).logits  # [B * K, S, card]
    hidden = lm(sequence, lm.cross_keys(list(text)), Attention.causal())
    got = torch.stack([lm.head(hidden, k) for k in range(4)], dim=1).flatten(0, 1)
    assert float((got - want).abs().max()) < 1e-4
