"""`python -m recipes.nano.compose --out DIR --count N --seed S`: make the data set, or its manifests."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from recipes.nano.compose.dataset import render_dataset, write_manifests


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m recipes.nano.compose", description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="folder of the data set")
    options.add_argument("--count", type=int, default=6000, help="number of clips (default: 6000)")
    options.add_argument("--seed", type=int, default=1, help="the data set's seed (default: 1)")
    options.add_argument(
        "--resume", action="store_true", help="go on with a folder that already holds clips"
    )
    options.add_argument(
        "--manifest-only",
        action="store_true",
        help="only write the manifests of the clips that exist",
    )
    return options


def main() -> int:
    """Run the command; the exit status."""
    options = parser().parse_args()
    if options.manifest_only:
        counts = write_manifests(options.out, options.count, options.seed)
        print(", ".join(f"{split} {count}" for split, count in counts.items()))
        return 0
    if any((options.out / "clips").glob("*.flac")) and not options.resume:
        print(
            f"{options.out} already holds clips: add --resume, or choose another folder",
            file=sys.stderr,
        )
        return 2
    begun = time.monotonic()

    def report(done: int) -> None:
        minutes = (time.monotonic() - begun) / 60
        print(
            f"{time.strftime('%H:%M:%S')} {done} of {options.count} clips, {minutes:.1f} min",
            flush=True,
        )

    render_dataset(options.out, options.count, options.seed, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
