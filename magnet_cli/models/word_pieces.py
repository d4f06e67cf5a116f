"""The small text encoder of small models: a frozen table of word-piece vectors.

The vectors are distilled from a sentence encoder (recipes/nano/text_table.py), so similar words have
similar vectors, and words unseen in training are near words they resemble; a small language model learns to
use them through its `text_proj`. The vocabulary is open: a word that is not a piece is split into several;
letters that are no piece become the unknown piece. Encoding costs a table look-up.

Cross-attention ignores order, so each piece also carries its context: "no drums" and "drums" differ in the
second half of the vector of "drums".

The table can be followed by a few attention layers, trained for a language model that stays frozen
(recipes/nano/teach_text.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from magnet_cli.models.text import TextEncoder

# How much of the context is kept from one piece to the next; two words back still matter.
_MEMORY = 0.5


@dataclass(frozen=True)
class WordPieceConfig:
    """Sizes of the encoder."""

    vocab_size: int
    dim: int  # of a piece's vector; the encoder's width is twice that
    max_pieces: int = 128  # the rest of a text is ignored
    layers: int = 0  # attention layers after the table


class WordPieceEncoder(TextEncoder):
    """Text -> a vector of the whole text, then for each piece its own vector and that of its context."""

    table: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, config: WordPieceConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.width = 2 * config.dim
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # int8 rows, each with a scale: 0.2 % error, a quarter of the size.
        self.register_buffer("table", torch.empty(config.vocab_size, config.dim, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(config.vocab_size))
        self.register_buffer("weight", torch.empty(config.vocab_size))  # of each piece in the whole
        self.reader = Reader(self.width, config.layers) if config.layers else None

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """Text -> float32 [1 + pieces, width]; L = 0 if there are no pieces."""
        rows = self.rows(text)
        return self.reader(rows) if self.reader is not None and len(rows) else rows

    @torch.no_grad()
    def rows(self, text: str) -> Tensor:
        """The rows for a text from the table, before the attention layers; otherwise as `encode`."""
        ids = self.piece_ids(text)
        if not ids:
            return self.scale.new_zeros(0, self.width, dtype=torch.float32)
        index = torch.tensor(ids, device=self.scale.device)
        own = self.vectors(index)
        context = torch.zeros_like(own)
        for place in range(1, len(ids)):
            context[place] = (1 - _MEMORY) * own[place - 1] + _MEMORY * context[place - 1]
        whole = self._pooled(own, index)
        pieces = torch.cat([own, context], dim=-1)
        return torch.cat([torch.cat([whole, torch.zeros_like(whole)])[None], pieces])

    def piece_ids(self, text: str) -> list[int]:
        """The ids of a text's pieces, without special tokens."""
        # The tokenizer fails on lone surrogates.
        readable = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self.tokenizer.encode(readable, add_special_tokens=False).ids
        return ids[: self.config.max_pieces]

    def knows(self, text: str) -> bool:
        """As `TextEncoder.knows`: whether any piece is longer than a letter. Unknown words in a known
        script are split into pieces; words in another script into single letters."""
        pieces = (self.tokenizer.id_to_token(number) or "" for number in self.piece_ids(text))
        return any(len(piece.removeprefix("##")) > 1 for piece in pieces if piece != "[UNK]")

    def vectors(self, ids: Tensor) -> Tensor:
        """Ids [L] -> float32 [L, dim]."""
        return self.table[ids].float() * self.scale[ids].float()[:, None]

    def sentence(self, text: str) -> Tensor:
        """Text -> float32 [dim]; close for texts of similar meaning."""
        index = torch.tensor(self.piece_ids(text), dtype=torch.int64, device=self.scale.device)
        return self._pooled(self.vectors(index), index)

    def _pooled(self, own: Tensor, ids: Tensor) -> Tensor:
        """Average vectors [L, dim] of pieces by weight -> [dim], scaled to a root mean square of 1."""
        mean = (own * self.weight[ids].float()[:, None]).sum(0)
        return mean / mean.square().mean().sqrt().clamp(min=1e-6)


class Reader(nn.Module):
    """Attention over a text's rows: adds to each what it means in context. The output layer is initialized
    to zero, so at first nothing changes."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                4,
                2 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [L, width] of one text, L > 0 -> [L, width]."""
        hidden = rows[None]
        for layer in self.layers:
            hidden = layer(hidden)
        added: Tensor = self.out(self.norm(hidden))[0]
        return rows + added
