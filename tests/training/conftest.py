"""A tiny codec, a tiny text encoder and tiny tokens, made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from magnet_cli.checkpoints import native
from magnet_cli.config import CodecConfig
from magnet_cli.data.tokens import TokenFormat, TokenWriter
from magnet_cli.models.encodec import EnCodec
from magnet_cli.models.word_pieces import WordPieceConfig, WordPieceEncoder
from magnet_cli.training.encode import token_format

# The lowest torch that pyproject.toml allows lacks it, and `--optimizer muon` reports that.
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 brought Muon")

WORDS = ["[UNK]", "rain", "piano", "slow", "fast", "on", "a", "roof", *"defghijklmnopqrstuvwxyz"]


def tiny_codec() -> EnCodec:
    """100 Hz, 10 frames a second, two streams of 16 codes."""
    config = CodecConfig(
        sample_rate=100,
        channels=1,
        ratios=(5, 2),
        n_filters=2,
        dimension=4,
        n_q=2,
        card=16,
        lstm_layers=0,
    )
    codec = EnCodec(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return codec.eval()


def tiny_text_encoder() -> WordPieceEncoder:
    """A random table of a few words and all letters."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        vocabulary[f"##{letter}"] = len(vocabulary)
    tokenizer = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": {
                    "type": "BertNormalizer",
                    "clean_text": True,
                    "handle_chinese_chars": True,
                    "strip_accents": None,
                    "lowercase": True,
                },
                "pre_tokenizer": {"type": "BertPreTokenizer"},
                "post_processor": None,
                "decoder": None,
                "truncation": None,
                "padding": None,
                "model": {
                    "type": "WordPiece",
                    "unk_token": "[UNK]",
                    "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100,
                    "vocab": vocabulary,
                },
            }
        )
    )
    encoder = WordPieceEncoder(WordPieceConfig(len(vocabulary), 8), tokenizer)
    generator = torch.Generator().manual_seed(1)
    shape = encoder.table.shape
    encoder.table.copy_(torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8))
    encoder.scale.fill_(1 / 64)
    encoder.weight.fill_(1.0)
    return encoder.eval()


def write_tokens(
    folder: Path, codes: dict[str, Tensor], format_: TokenFormat, shard: int = 3
) -> Path:
    """A folder of token shards: caption -> codes [K, T]."""
    writer = TokenWriter(folder, format_, clips_per_shard=shard)
    for number, (caption, clip) in enumerate(codes.items()):
        writer.add(f"clip-{number}", "key", clip, (caption,), ())
    writer.flush()
    return folder


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder with `codec`, `text` and `tokens`: eight clips of 20 to 34 frames."""
    codec = tiny_codec()
    native.save_part(tmp_path / "codec", codec)
    native.save_part(tmp_path / "text", tiny_text_encoder())
    generator = torch.Generator().manual_seed(2)
    codes = {
        f"{WORDS[1 + n % 3]} {WORDS[1 + (n + n // 3) % 7]}" + " x" * n: torch.randint(
            0, codec.card, (codec.n_q, 20 + 2 * n), generator=generator
        )
        for n in range(8)
    }
    write_tokens(tmp_path / "tokens", codes, token_format(codec, "tiny"))
    return tmp_path
