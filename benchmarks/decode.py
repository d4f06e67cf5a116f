"""What the shipped decoding path saves, and MAGNeT against MusicGen of the same size.

    python benchmarks/decode.py steps     # seconds per step, shipped against plain, for each stage
    python benchmarks/decode.py memory    # peak memory of one step at 30 s, shipped against plain
    python benchmarks/decode.py clips     # whole 10 s clips, MAGNeT against MusicGen, batch 1 to 8

Random weights of the small size (dim 1024, 24 layers, 16 heads, T = 500, guidance on). Both sides
run in turns in one process, so that their ratio holds on a busy machine, too. "Plain" is the same
network without the savings: every head at every position, both halves in one batch, the text
projected anew in every step and layer, one dense mask a head and item.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from magnet_cli.config import LMConfig, Modeling
from magnet_cli.masking import mask_rates
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.session import CausalSession, MaskedSession
from magnet_cli.models.transformer import Attention, sinusoids

STEPS = (20, 10, 10, 10)
TEXT_LENGTH = 16


def build(modeling: Modeling, layers: int, frames: int) -> LanguageModel:
    """Random weights of the small size."""
    config = LMConfig(
        dim=1024,
        num_heads=16,
        num_layers=layers,
        n_q=4,
        card=2048,
        modeling=modeling,
        text_dim=768,
        frame_rate=50.0,
        segment_duration=frames / 50,
        delays=() if modeling == "masked" else (0, 1, 2, 3),
    )
    lm = LanguageModel(config).eval().requires_grad_(False)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return lm


@torch.inference_mode()
def plain_step(lm: LanguageModel, codes: Tensor, stage: int, text: Tensor) -> Tensor:
    """Guided logits of every stream at every position, as the simplest code would compute them."""
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


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def shipped_stage(session: MaskedSession, codes: Tensor, stage: int, steps: int) -> float:
    """Mean seconds of a step over the mask rates of a stage (the last one is unguided)."""
    rates = mask_rates(steps)
    # The first, the middle and the last step stand for all: only the share of positions differs.
    chosen = {0: 1, steps // 2: max(steps - 2, 0), steps - 1: 1}
    total = 0.0
    for step, weight in chosen.items():
        positions = torch.rand(codes.shape[0], codes.shape[-1]) <= float(rates[step])
        positions[:, 0] = True
        seconds = timed(lambda p=positions, s=step: session(codes, stage, p, s + 1 < steps))  # type: ignore[misc]
        total += weight * seconds
    return total / steps


def steps(layers: int, repeats: int) -> None:
    """Seconds per step for each stage."""
    lm = build("masked", layers, 500)
    codes = torch.randint(0, 2049, (1, 4, 500))
    text = torch.randn(TEXT_LENGTH, 1024)
    session = MaskedSession(lm, [text], [None])
    plain_step(lm, codes, 0, text)  # warm up
    print("| stage | shipped, s a step | plain, s a step | plain / shipped |\n|---|---|---|---|")
    for stage in range(4):
        pairs = [
            (
                shipped_stage(session, codes, stage, STEPS[stage]),
                timed(lambda k=stage: plain_step(lm, codes, k, text)),  # type: ignore[misc]
            )
            for _ in range(repeats)
        ]
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"| {stage} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} |", flush=True)


def memory(layers: int) -> None:
    """Peak memory of one guided step of stage 1 at 30 s, each in a process of its own."""
    print("| T = 1500, one step | peak above the weights, MB |\n|---|---|")
    for which in ("shipped", "plain"):
        command = [sys.executable, __file__, "peak", "--which", which, "--layers", str(layers)]
        print(f"| {which} | {subprocess.check_output(command, text=True).strip()} |", flush=True)


def peak(layers: int, which: str) -> None:
    """Print by how many MB one step raises the peak memory of this process."""
    lm = build("masked", layers, 1500)
    codes = torch.randint(0, 2049, (1, 4, 1500))
    text = torch.randn(TEXT_LENGTH, 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if which == "shipped":
        positions = torch.ones(1, 1500, dtype=torch.bool)
        MaskedSession(lm, [text], [None])(codes, 1, positions, True)
    else:
        plain_step(lm, codes, 1, text)
    print(round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def clips(layers: int, batches: list[int]) -> None:
    """Seconds of language model for whole 10 s clips.

    Steps of a kind cost the same, so a clip is summed up from measured ones: three mask rates of
    each stage for MAGNeT, a step at five places of the sequence for MusicGen.
    """
    print(
        "| batch | MAGNeT, s a clip | MusicGen, s a clip | MusicGen / MAGNeT |\n|---|---|---|---|"
    )
    text = torch.randn(TEXT_LENGTH, 1024)
    for batch in batches:
        texts, nulls = [text] * batch, [None] * batch
        codes = torch.randint(0, 2049, (batch, 4, 500))
        masked = MaskedSession(build("masked", layers, 500), texts, nulls)
        magnet = sum(n * shipped_stage(masked, codes, k, n) for k, n in enumerate(STEPS))
        causal = CausalSession(build("autoregressive", layers, 500), texts, nulls)
        causal.reset(504, True)
        places, token = (1, 125, 250, 375, 500), torch.zeros(batch, 4, 1, dtype=torch.long)
        seconds, read = [], 0
        for place in places:
            causal.step(token.expand(-1, -1, place - read))  # read up to here in one go
            seconds.append(timed(lambda s=causal, t=token: s.step(t)))  # type: ignore[misc]
            read = place + 1
        musicgen = 503 * statistics.mean(seconds)
        row = f"| {batch} | {magnet / batch:.1f} | {musicgen / batch:.1f} |"
        print(f"{row} {musicgen / magnet:.2f} |", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["steps", "memory", "clips", "peak"])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", default="1,2,4,8")
    parser.add_argument("--which", choices=["shipped", "plain"], default="shipped")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    if given.what == "steps":
        steps(given.layers, given.repeats)
    elif given.what == "memory":
        memory(given.layers)
    elif given.what == "peak":
        peak(given.layers, given.which)
    else:
        clips(given.layers, [int(n) for n in given.batches.split(",")])


if __name__ == "__main__":
    main()
