"""Tiny random judges on disk, and folders of sounds for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

RATE = 16_000


def save_clap(folder: Path, fusion: bool = False, seconds: int = 1) -> Path:
    """A CLAP with one layer per stage and random weights, with its extractor and a tokenizer of letters."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = transformers.ClapConfig(
        audio_config={
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [1, 2],
            "projection_dim": 16,
            "enable_fusion": fusion,
        },
        text_config={
            "vocab_size": 40,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 80,
            "projection_dim": 16,
        },
        projection_dim=16,
    )
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        max_length_s=seconds, truncation="fusion" if fusion else "rand_trunc"
    ).save_pretrained(folder)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {text: i for i, text in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz "])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=64
    ).save_pretrained(folder)
    return folder


def save_ast(folder: Path, frames: int = 100) -> Path:
    """An AST with one layer and random weights, for so many frames of 10 ms."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_length=frames,
        num_labels=5,
    )
    transformers.ASTForAudioClassification(config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(max_length=frames).save_pretrained(folder)
    return folder


def tone(pitch: float, seconds: float = 1.0, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """A tone with a little noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    sound = 0.3 * np.sin(2 * np.pi * pitch * time)
    sound += noise * np.random.default_rng(seed).normal(size=len(time))
    return sound.astype(np.float32)


def folder_of(
    folder: Path,
    prompts: Sequence[str],
    shift: float = 0.0,
    noise: float = 0.01,
    seed: int = 0,
    seconds: float = 1.0,
) -> Path:
    """A sound and its caption for each prompt; the pitch depends on the prompt, raised by `shift`."""
    folder.mkdir(parents=True)
    for i, prompt in enumerate(prompts):
        pitch = 200 + 37 * (i % 20) + shift
        path = folder / f"{i:03d}.wav"
        soundfile.write(path, tone(pitch, seconds, noise, seed + i), RATE)
        path.with_suffix(".txt").write_text(f"{prompt}\n", "utf-8")
    return folder
