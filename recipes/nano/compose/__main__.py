"""`python -m recipes.nano.compose --out DIR --count N --seed S`: make the data set, or its manifests."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from recipes.nano.compose.any_lead import any_lead_plans
from recipes.nano.compose.dataset import render_dataset, write_manifests
from recipes.nano.compose.plan import draw_plan


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m recipes.nano.compose", description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="folder of the data set")
    which = options.add_mutually_exclusive_group()
    which.add_argument("--count", type=int, default=6000, help="number of clips (default: 6000)")
    which.add_argument(
        "--any-lead",
        action="store_true",
        help="3,390 arrangements, most led by an instrument that is not their style's (any_lead.py)",
    )
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
    if options.any_lead:
        plans = any_lead_plans(options.seed)
    else:
        plans = [draw_plan(options.seed, index) for index in range(options.count)]
    if options.manifest_only:
        counts = write_manifests(options.out, plans)
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
            f"{time.strftime('%H:%M:%S')} {done} of {len(plans)} clips, {minutes:.1f} min",
            flush=True,
        )

    render_dataset(options.out, plans, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
