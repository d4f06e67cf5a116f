"""Measure whether time is linear and memory constant in the length of a piece.

    python benchmarks/longform.py -m MODEL               # 15, 30, 60, 120 and 180 seconds
    python benchmarks/longform.py -m MODEL 60 600        # other lengths

Each length is made in its own process, as by `magnet gen --duration`: codes window by window, then codec,
loudness and file as a stream. Time is CPU time, so that other work on the machine does not count. Memory is
the peak of the process above that with a loaded model and one segment made, so weights and libraries do not
count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTHS = (15.0, 30.0, 60.0, 120.0, 180.0)


def make(model_name: str | None, seconds: float, steps: tuple[int, ...] | None) -> None:
    """Make one piece and print its figures as JSON."""
    from magnet_cli.api import load_model
    from magnet_cli.audio.finish import write_sound
    from magnet_cli.editing.pieces import Direction, extend
    from magnet_cli.editing.transcoding import decode_stream, frames_holding
    from magnet_cli.settings import DecodingConfig, OutputConfig

    model = load_model(model_name)
    direction = Direction.of("lofi piano", 1, config=DecodingConfig(decoding_steps=steps))

    def piece(length: float, target: Path) -> tuple[float, float, int]:
        began = time.process_time()
        windows = []
        made = extend(
            model,
            direction,
            frames_holding(model, length),
            on_window=lambda number, count: windows.append(number),
        )
        coded = time.process_time()
        samples = decode_stream(model, made.codes)
        write_sound(target, samples, model.sample_rate, "flac", OutputConfig())
        return coded - began, time.process_time() - coded, len(windows)

    with tempfile.TemporaryDirectory() as folder:
        piece(model.segment_duration, Path(folder) / "warm.flac")
        before = peak()
        codes, sound, windows = piece(seconds, Path(folder) / "piece.flac")
    print(
        json.dumps(
            {
                "model": model.name,
                "windows": windows,
                "codes": codes,
                "sound": sound,
                "memory": peak() - before,
            }
        )
    )


def peak() -> float:
    """The highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("seconds", nargs="*", type=float, default=LENGTHS)
    parser.add_argument("-m", "--model", help="as of `magnet gen`; default: the built-in one")
    parser.add_argument("--steps", help="decoding steps, such as 5,3,3,3; default: the model's")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        steps = tuple(map(int, given.steps.split(","))) if given.steps else None
        make(given.model, given.seconds[0], steps)
        return
    print(
        "| piece | windows | codes | codec, loudness, file | CPU time over its length | memory added |"
    )
    print("|---|---|---|---|---|---|")
    for seconds in given.seconds:
        words = [sys.executable, __file__, "--one", str(seconds)]
        words += ["-m", given.model] if given.model else []
        words += ["--steps", given.steps] if given.steps else []
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        figures = json.loads(said.splitlines()[-1])
        took = figures["codes"] + figures["sound"]
        print(
            f"| {seconds:g} s | {figures['windows']} | {figures['codes']:.1f} s | "
            f"{figures['sound']:.1f} s | {took / seconds:.3f} | {figures['memory']:.0f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
