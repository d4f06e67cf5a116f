"""Our language model equals `transformers`' MusicGen decoder on tiny random weights."""

from __future__ import annotations

import re

import torch
from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

from magnet_cli.config import LMConfig
from magnet_cli.models.lm import LanguageModel
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
