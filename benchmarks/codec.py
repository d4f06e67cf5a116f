"""Measure the time of the spectral codec on one core, relative to real time.

    python benchmarks/codec.py [--codec FOLDER] [--seconds 10] [--repeats 5]

Without a folder, it uses a codec of the built-in size with random tables, which do not affect the time. Times
are CPU seconds in one thread, so that they are valid on a busy machine, too; each is the median of the
repeats. "phases" is the share of decoding for phase recovery.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from magnet_cli.checkpoints import native
from magnet_cli.config import SpectralCodecConfig
from magnet_cli.models.spectral_codec import SpectralCodec


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call, without the first call, which is warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def load(folder: Path | None) -> SpectralCodec:
    """The codec to measure."""
    if folder is None:
        codec = SpectralCodec(SpectralCodecConfig())
        for parameter in codec.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        return codec.eval()
    found = native.load_codec(folder)
    if not isinstance(found, SpectralCodec):
        raise SystemExit(f"{folder} holds no spectral codec")
    return found.eval()


@torch.inference_mode()
def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--codec", type=Path, help="a folder with a codec")
    parser.add_argument("--seconds", type=float, default=10.24, help="of sound in one call")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    codec = load(given.codec)
    generator = torch.Generator().manual_seed(0)
    frames = round(given.seconds * codec.frame_rate)
    seconds = frames / codec.frame_rate
    audio = 0.1 * torch.randn(1, 1, frames * codec.hop_length, generator=generator)
    codes = torch.randint(codec.card, (1, codec.n_q, frames), generator=generator)
    encode = cpu_seconds(lambda: codec.encode(audio), given.repeats)
    decode = cpu_seconds(lambda: codec.decode(codes), given.repeats)
    levels = cpu_seconds(lambda: codec.restore(codec.quantizer.decode(codes)), given.repeats)
    size = sum(tensor.numel() for tensor in codec.state_dict().values()) * 2 / 1e6
    print(f"{seconds:.2f} s of sound, one thread, {codec.config.phase_iterations} phase rounds")
    for name, cost in (("encode", encode), ("decode", decode)):
        print(
            f"{name:8} {1000 * cost / seconds:6.1f} ms a second of sound   {seconds / cost:5.0f} x real time"
        )
    print(f"phases   {100 * (1 - levels / decode):.0f} % of decoding")
    print(f"tables   {size:.1f} MB in half precision")


if __name__ == "__main__":
    main()
