"""The light text encoder of small models: a frozen table of word-piece vectors.

The vectors are distilled from a sentence encoder (recipes/nano/text_table.py), so that similar words have
similar vectors, and an unseen word is near those that it resembles; how a small language model uses them is
learned in its `text_proj`. The vocabulary is open: any word is a piece or breaks into several; a word whose
letters are not pieces either is the unknown piece. Cost: a table look-up.

Attention over text ignores order, so each piece also carries its context: "no drums" and "drums" differ in
the second half of the vector of "drums".

A table can be followed by a few layers of attention over the text, learned for a language model that
stays as it is (recipes/nano/teach_text.py).
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
    """The sizes of the table."""

    vocab_size: int
    dim: int  # of a piece's vector; the encoder's width is twice that
    max_pieces: int = 128  # what follows them in a text is not read
    layers: int = 0  # of attention after the table


class WordPieceEncoder(TextEncoder):
    """Text -> the vector of the whole, then one vector a piece: its own, and its context's."""

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
        # Rows in int8 with a scale each: a fifth of a percent off, a quarter of the bytes.
        self.register_buffer("table", torch.empty(config.vocab_size, config.dim, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(config.vocab_size))
        self.register_buffer("weight", torch.empty(config.vocab_size))  # of a piece in the whole
        self.reader = Reader(self.width, config.layers) if config.layers else None

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """A text -> float32 [1 + pieces, width]; L = 0 where it has none."""
        rows = self.rows(text)
        return self.reader(rows) if self.reader is not None and len(rows) else rows

    @torch.no_grad()
    def rows(self, text: str) -> Tensor:
        """The rows of a text in the table, before any layer; otherwise as `encode`."""
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
        # A lone surrogate is no character: it would fail in the tokenizer.
        readable = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self.tokenizer.encode(readable, add_special_tokens=False).ids
        return ids[: self.config.max_pieces]

    def knows(self, text: str) -> bool:
        """As `TextEncoder.knows`: any piece is more than a letter. Words that are not in the vocabulary
        break into pieces, and what is none into single letters."""
        pieces = (self.tokenizer.id_to_token(number) or "" for number in self.piece_ids(text))
        return any(len(piece.removeprefix("##")) > 1 for piece in pieces if piece != "[UNK]")

    def vectors(self, ids: Tensor) -> Tensor:
        """Ids [L] -> float32 [L, dim]."""
        return self.table[ids].float() * self.scale[ids].float()[:, None]

    def sentence(self, text: str) -> Tensor:
        """A text -> float32 [dim]: near for texts that mean alike."""
        index = torch.tensor(self.piece_ids(text), dtype=torch.int64, device=self.scale.device)
        return self._pooled(self.vectors(index), index)

    def _pooled(self, own: Tensor, ids: Tensor) -> Tensor:
        """Vectors [L, dim] of pieces -> [dim], of the mean square that a piece has on average."""
        mean = (own * self.weight[ids].float()[:, None]).sum(0)
        return mean / mean.square().mean().sqrt().clamp(min=1e-6)


class Reader(nn.Module):
    """Attention over a text's rows: adds to each what it means beside the others. Its last matrix starts at
    zero, so that at first it changes nothing.
    """

    def __init__(self, width: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
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
