"""Compare our networks with others on one machine, with equal weights: whether codes are equal, and the time
of each.

    python -m benchmarks.peers                    # small's full shape: some minutes on two cores
    python -m benchmarks.peers --layers 2 --frames 50

There are two peers, each interleaved with ours in one process, so that the ratio is valid on a busy machine,
too:

autoregressive  MusicGen's network in `transformers` (pip install transformers), with its own cache, called by
                our loop, so that sampling is the same; guided, both halves in one batch on both sides
masked          a plain MAGNeT step: every head at every position, both halves in one batch, the text
                projected again in every step and layer, one dense mask for each head and item

Weights are random, of the small size (dim 1024, 24 layers, 16 heads). `magnet bench` measures our ways,
precisions and batches alone.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from magnet_cli.decoding import autoregressive
from magnet_cli.decoding.contracts import CausalLogits, Decoding
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.evaluation.shapes import SHAPES, TEXT_LENGTH, Shape, lm_config, random_lm
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.session import CausalSession, MaskedSession
from magnet_cli.models.transformer import Attention, sinusoids
from magnet_cli.settings import AUTOREGRESSIVE_DEFAULTS

CPU = torch.device("cpu")

# transformers' names -> ours; q, k and v are packed in ours.
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


def ours_from(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a `MusicgenForCausalLM`, which do not include the projection of texts."""
    state: dict[str, Tensor] = {}
    for name, value in theirs.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    for name in [name for name in state if name.endswith(".q_proj.weight")]:
        stem = name.removesuffix("q_proj.weight")
        packed = [state.pop(f"{stem}{part}_proj.weight") for part in "qkv"]
        state[f"{stem}in_proj_weight"] = torch.cat(packed)
    return {name: value for name, value in state.items() if "embed_positions" not in name}


class TheirSession:
    """transformers' MusicGen behind our loop's interface (`decoding.contracts.CausalLogits`)."""

    def __init__(self, network: Any, texts: Tensor) -> None:
        """`texts`: [B, L, dim]."""
        self.network, self.texts = network, texts
        self._cache: Any = None

    def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
        """Clear all state."""
        from transformers import DynamicCache, EncoderDecoderCache

        assert with_null
        assert not short_context
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Ids [B, K, n] -> logits [B, K, card] of the next step: conditional and null."""
        batch, streams, _ = tokens.shape
        said = self.network(
            input_ids=tokens.repeat(2, 1, 1).flatten(0, 1),
            # Over zeros, attention without biases is zero: the null condition.
            encoder_hidden_states=torch.cat([self.texts, torch.zeros_like(self.texts)]),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits = said.logits[:, -1].unflatten(0, (2 * batch, streams)).float()
        return logits[:batch], logits[batch:], None


def musicgens(shape: Shape, frames: int) -> tuple[Any, LanguageModel]:
    """transformers' MusicGen network and ours with the same random weights."""
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    config = lm_config(shape, "autoregressive", frames / 50)
    theirs = MusicgenForCausalLM(
        MusicgenDecoderConfig(
            vocab_size=config.card,
            hidden_size=config.dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            ffn_dim=config.hidden_scale * config.dim,
            num_codebooks=config.n_q,
            max_position_embeddings=frames + config.n_q + 1,
        )
    ).eval()
    ours = random_lm(config, "float32", CPU)
    state = ours_from(theirs.state_dict())
    ours.load_state_dict(state, strict=False)
    return theirs, ours


def write(session: CausalLogits, ours: LanguageModel, batch: int, frames: int) -> Tensor:
    """Decode codes [B, K, frames] with a network; all get the same draws."""
    shape = (batch, ours.config.n_q, frames)
    decoding = Decoding(
        AUTOREGRESSIVE_DEFAULTS, ours.config.mask_id, make_generators([*range(batch)])
    )
    known = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    return autoregressive.decode(session, *known, decoding, pattern=ours.pattern)


@torch.inference_mode()
def plain_step(lm: LanguageModel, codes: Tensor, stage: int, text: Tensor) -> Tensor:
    """Guided logits of every stream at every position, computed in the simplest way."""
    rows = codes.repeat(2, 1, 1)
    texts = torch.cat([text.expand(len(codes), -1, -1), torch.zeros(len(codes), *text.shape)])
    heads, length = lm.config.num_heads, codes.shape[-1]
    rule = Attention.band(lm.config.subcodes_context) if stage else Attention.full()
    mask = rule.mask(length).expand(len(rows), heads, length, length).clone()
    x = sum(table(rows[:, k]) for k, table in enumerate(lm.emb))
    x = x + sinusoids(0, length, lm.config.dim, x.device)

    def split(packed: Tensor, parts: int) -> list[Tensor]:
        return [p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in packed.chunk(parts, -1)]

    for block in lm.transformer.layers:
        own, cross = block.self_attn, block.cross_attention
        q, k, v = split(F.linear(block.norm1(x), own.in_proj_weight), 3)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + own.out_proj(seen.transpose(1, 2).flatten(2))
        dim = x.shape[-1]
        (q,) = split(F.linear(block.norm_cross(x), cross.in_proj_weight[:dim]), 1)
        k, v = split(F.linear(texts, cross.in_proj_weight[dim:]), 2)
        seen = F.scaled_dot_product_attention(q, k, v)
        x = x + cross.out_proj(seen.transpose(1, 2).flatten(2))
        x = x + block.linear2(F.gelu(block.linear1(block.norm2(x))))
    hidden = lm.out_norm(x)
    cond, null = torch.stack([lm.head(hidden, k) for k in range(len(lm.emb))], 1).chunk(2)
    return null + (cond - null) * 3.0


def our_step(session: MaskedSession, codes: Tensor, stage: int) -> Tensor:
    """The same for one stage, with our session: [B * T, card]."""
    everywhere = torch.ones(codes.shape[0], 1, codes.shape[-1], dtype=torch.bool)
    cond, null = session(codes, stage, everywhere, True, codes.shape[-1])
    assert null is not None
    return null + (cond - null) * 3.0


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def in_turns(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int
) -> tuple[float, float, float, bool]:
    """Median seconds of both, the median of their ratio, and whether all results are equal."""
    pairs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    equal = all(
        torch.equal(a, b) if a.dtype == torch.long else torch.allclose(a, b, rtol=1e-3, atol=1e-3)
        for (_, a), (_, b) in pairs
    )
    return (
        statistics.median(a for (a, _), _ in pairs),
        statistics.median(b for _, (b, _) in pairs),
        statistics.median(b / a for (a, _), (b, _) in pairs),
        equal,
    )


Figures = tuple[float, float, float, bool]
Rows = Iterator[tuple[str, Figures]]


def written(shape: Shape, frames: int, batches: list[int], repeats: int) -> Rows:
    """Measure autoregressive decoding."""
    theirs, lm = musicgens(shape, frames)
    text = torch.randn(TEXT_LENGTH, shape.dim, generator=torch.Generator().manual_seed(2))
    for batch in batches:
        own = CausalSession(lm, [text] * batch, [None] * batch)
        other = TheirSession(theirs, text.expand(batch, -1, -1))
        sessions: list[CausalLogits] = [own, other]
        mine, peers = (functools.partial(write, each, lm, batch, frames) for each in sessions)
        what = f"MusicGen, {frames} frames autoregressively, batch {batch}"
        yield what, in_turns(mine, peers, repeats)


def masked(shape: Shape, frames: int, repeats: int) -> Rows:
    """Measure masked steps."""
    lm = random_lm(lm_config(shape, "masked", frames / 50), "float32", CPU)
    text = torch.randn(TEXT_LENGTH, shape.dim, generator=torch.Generator().manual_seed(2))
    session = MaskedSession(lm, [text], [None])
    codes = torch.randint(0, 2049, (1, 4, frames), generator=torch.Generator().manual_seed(3))
    for stage in (0, 1):
        mine = functools.partial(our_step, session, codes, stage)
        plain = functools.partial(plain_step, lm, codes, stage, text)
        what = f"MAGNeT, a step of stream {stage} over {frames} frames, against a plain one"
        yield what, in_turns(mine, lambda k=stage, p=plain: p()[:, k].flatten(0, 1), repeats)  # type: ignore[misc]


HEAD = "| what | ours, s | theirs, s | theirs / ours | equal |\n|---|---|---|---|---|"


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[*SHAPES], default="small")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--frames", type=int, default=500, help="50 a second")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    shape = SHAPES[given.shape]
    if given.layers is not None:
        shape = Shape(shape.dim, shape.num_heads, given.layers)
    print(HEAD, flush=True)
    batches = [int(n) for n in given.batches.split(",")]
    rows = (
        written(shape, given.frames, batches, given.repeats),
        masked(shape, given.frames, given.repeats),
    )
    for what, (ours, theirs, ratio, equal) in itertools.chain(*rows):
        said = "yes" if equal else "NO"
        print(f"| {what} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} | {said} |", flush=True)


if __name__ == "__main__":
    main()
