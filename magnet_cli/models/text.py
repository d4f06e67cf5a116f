"""Text encoders: the contract that all meet, T5's encoder in plain torch, and the tempo that a text says or
makes likely.

The T5 encoder follows "Exploring the Limits of Transfer Learning" (arXiv 1910.10683) and, where the
paper is silent, the released weights: relative position buckets shared by all layers, RMS norms
before each part, no biases, no scaling of attention scores, and a ReLU (v1.0) or gated GELU (v1.1,
Flan) feed-forward part.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from magnet_cli.config import LMConfig
from magnet_cli.errors import UsageError
from magnet_cli.settings import BEATS_IN_BAR

SLOWEST, FASTEST = 20.0, 400.0  # bpm; what is beyond is no tempo that can be meant
TEMPO = re.compile(r"\b(\d+(?:\.\d+)?)[ -]?bpm\b", re.IGNORECASE)


class TextEncoder(nn.Module):
    """Text to a sequence of vectors, one text at a time, so that it cannot depend on the rest of a batch.

    Attributes:
        width: of the vectors.
    """

    width: int

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """A text -> float32 [L, width]; the empty text has L = 0, which is the null condition."""

    def encode_all(self, texts: Sequence[str]) -> list[Tensor]:
        """Several texts, each as `encode` has it; on a GPU in one pass, maybe, which rounds otherwise."""
        return [self.encode(text) for text in texts]

    def knows(self, text: str) -> bool:
        """Whether the encoder knows any word of a text: none of a text in a script whose letters it lacks,
        which means nothing to a model."""
        return True


@dataclass(frozen=True)
class T5Config:
    """The sizes of a T5 encoder, as the released config.json has them."""

    vocab_size: int
    d_model: int  # width
    d_kv: int  # width of a head, which need not be d_model / num_heads
    d_ff: int  # width of the feed-forward part
    num_layers: int
    num_heads: int
    gated: bool = False  # feed-forward with a GELU gate (v1.1 and Flan), not a ReLU (v1.0)
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


# Of a text. The memory of attention grows with its square: 0.9 GB at this length in a T5 of 16 heads, and
# up to 45 GB for the longest prompt of 15,000 characters. Captions have less than 100.
MOST_TOKENS = 2048


class T5Encoder(TextEncoder):
    """T5's encoder with its tokenizer; texts of more than MOST_TOKENS are refused, never truncated."""

    def __init__(self, config: T5Config, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.width = config.d_model
        self.tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.layers = nn.ModuleList(T5Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """A text -> float32 [L, width], the end token included; "" -> L = 0, but " " -> L = 1.

        Raises:
            UsageError: it has more than MOST_TOKENS.
        """
        if not text:
            return self.embedding.weight.new_zeros(0, self.width, dtype=torch.float32)
        ids = torch.tensor([self._ids(text)], device=self.embedding.weight.device)
        return self(ids)[0].float()

    @torch.no_grad()
    def encode_all(self, texts: Sequence[str]) -> list[Tensor]:
        """As `TextEncoder.encode_all`. On a CPU one by one, so that no bit depends on the other texts."""
        device = self.embedding.weight.device
        if device.type == "cpu":
            return super().encode_all(texts)
        return self.encode_padded(texts)

    @torch.no_grad()
    def encode_padded(self, texts: Sequence[str]) -> list[Tensor]:
        """As `encode_all`, in one pass with padding, which is masked."""
        each = [self._ids(text) if text else [] for text in texts]
        longest = max(map(len, each), default=0)
        if not longest:
            return [self.encode("") for _ in texts]
        device = self.embedding.weight.device
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in each], device=device)
        lengths = torch.tensor([max(len(one), 1) for one in each], device=device)
        hidden = self(ids, torch.arange(longest, device=device) < lengths[:, None]).float()
        return [row[: len(one)] for row, one in zip(hidden, each, strict=True)]

    def _ids(self, text: str) -> list[int]:
        token_ids = self.token_ids(text)
        if len(token_ids) > MOST_TOKENS:
            raise UsageError(
                f"The prompt is too long for this model: {len(token_ids)} tokens.",
                f"It reads {MOST_TOKENS} at most; use a sentence or two.",
            )
        return token_ids

    def token_ids(self, text: str) -> list[int]:
        """The token ids of a text, including the end token."""
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def knows(self, text: str) -> bool:
        """As `TextEncoder.knows`: whether any token is more than a word-start mark, unknown or end token."""
        nothing = {self.tokenizer.token_to_id(piece) for piece in ("<unk>", "\u2581", "</s>")}
        return any(number not in nothing for number in self.token_ids(text))

    def forward(self, ids: Tensor, there: Tensor | None = None) -> Tensor:
        """Ids [B, L] -> hidden states [B, L, d_model]. `there`: bool [B, L], false for padding."""
        x = self.embedding(ids)
        bias = self.relative_bias(ids.shape[1])
        if there is not None:
            bias = bias.masked_fill(~there[:, None, None], -math.inf)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)

    def relative_bias(self, length: int) -> Tensor:
        """The bias that every layer adds to its attention scores: [1, heads, L, L]."""
        place = torch.arange(length, device=self.position_bias.weight.device)
        buckets = relative_buckets(
            place[None, :] - place[:, None],
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        return self.position_bias(buckets).permute(2, 0, 1)[None]


class T5Layer(nn.Module):
    """Self-attention and feed-forward, each after its RMS norm."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = T5Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = T5FeedForward(config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, L, d_model], bias [1 or B, heads, L, L] -> [B, L, d_model]."""
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.feed_forward(self.feed_forward_norm(x))


class T5Attention(nn.Module):
    """Multi-head attention with an additive bias and unscaled scores."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, L, d_model], bias [1 or B, heads, L, L] -> [B, L, d_model]."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        # T5's initialisation replaces the factor 1 / sqrt(d_kv).
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2))


class T5FeedForward(nn.Module):
    """wo(relu(wi(x))), or wo(gelu(gate(x)) * wi(x)) where gated."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False) if config.gated else None
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, d_model] -> [B, L, d_model]."""
        if self.gate is None:
            return self.wo(F.relu(self.wi(x)))
        return self.wo(F.gelu(self.gate(x), approximate="tanh") * self.wi(x))


class RMSNorm(nn.Module):
    """Scale to a root mean square of 1, then by a weight; no mean subtraction, no bias."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> [..., width]; the mean in float32, as half precision overflows."""
        mean = x.float().square().mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(mean + self.epsilon)).to(self.weight.dtype)


def relative_buckets(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance (key position - query position), both directions.

    Half of the buckets are for keys before the query, half for those after it. In each half the nearer ones
    hold one distance each, the farther ones logarithmically more, up to `max_distance`; larger distances
    share the last (arXiv 1910.10683, section 2.1; mesh-tensorflow's layout).

    Args:
        distance: whole numbers of any shape.
    """
    half = buckets // 2
    exact = half // 2
    ahead = (distance > 0).long() * half
    far = distance.abs()
    scale = torch.log(far.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    logarithmic = (exact + (scale * (half - exact)).long()).clamp(max=half - 1)
    return ahead + torch.where(far < exact, far, logarithmic)


def said_tempo(prompt: str | None) -> float | None:
    """The tempo in a prompt such as "techno, 120 bpm", in beats per minute; None if there is none."""
    found = TEMPO.search(prompt or "")
    bpm = float(found[1]) if found else 0.0
    return bpm if SLOWEST <= bpm <= FASTEST else None


def said_bars(
    prompts: Sequence[str | None], lm: LMConfig, otherwise: float | None = None
) -> tuple[float, ...]:
    """Frames per bar of each prompt; of those without a tempo as for `otherwise` bpm, or 0.

    A model with its own tempi uses the nearest, if within a tenth: only their beats fall on whole frames.
    """
    found = [said_tempo(prompt) or otherwise for prompt in prompts]
    return tuple(
        BEATS_IN_BAR * _beat(60 * lm.frame_rate / bpm, lm) if bpm else 0.0 for bpm in found
    )


def _beat(asked: float, lm: LMConfig) -> float:
    """Frames per beat: the model's own tempo that is within a tenth of `asked`, else `asked`."""
    nearest = min(lm.tempi, key=lambda own: abs(math.log(own / asked)), default=asked)
    return nearest if abs(math.log(nearest / asked)) <= math.log(1.1) else asked


class TempoHead(nn.Module):
    """Predicts the tempo, or none, from a text: a linear classifier on the mean of its vectors.

    It is fitted separately (recipes/nano/tempo_head.py) and not changed by training the language model, so
    its weights are buffers.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, text_dim: int, tempi: Sequence[float]) -> None:
        """`tempi`: frames per beat."""
        super().__init__()
        self.tempi = tuple(tempi)
        self.register_buffer("weight", torch.zeros(1 + len(tempi), text_dim))
        self.register_buffer("bias", torch.zeros(1 + len(tempi)))

    @torch.inference_mode()
    def draw(self, hidden: Tensor, seed: int) -> float:
        """Draw a tempo in frames per beat with a clip's seed; 0: none.

        Args:
            hidden: the text's vectors, float32 [L, text_dim].
        """
        if not len(hidden):
            return 0.0
        mean = hidden.to(self.weight).mean(0)
        chances = (self.weight @ mean + self.bias).float().softmax(-1).cpu()
        # A separate generator, so that codes are drawn as they would be without a tempo.
        generator = torch.Generator("cpu").manual_seed(seed ^ 0x74656D706F)
        return (0.0, *self.tempi)[int(torch.multinomial(chances, 1, generator=generator))]
