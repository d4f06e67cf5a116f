"""Leave music that stands still for more than a quarter of its time out of folders of tokens.

    python -m recipes.nano.moving tokens/train8 tokens/train9

Held notes of a solo have the same coarse codes for seconds (`recipes.nano.seeds`, still). A masked model
learns them first and then holds notes longer than they were in training. Sound effects and clips with drums
are kept. Nothing is removed: `magnet data encode` on the folder uses every clip again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from magnet_cli.data.tokens import TokenFolder, TokenWriter
from recipes.nano.seeds import HALF_SECOND, MOST, still


def leave_out_still(folder: Path) -> tuple[int, int]:
    """Leave them out of a folder of tokens; return how many clips were used before and are used now."""
    tokens = TokenFolder(folder)
    moving = [
        clip.id
        for clip in tokens.clips
        if "kind: effect" in clip.tags
        or "drums: False" not in clip.tags
        or still(tokens.codes(clip)) <= MOST * ((clip.frames - 1) // HALF_SECOND)
    ]
    TokenWriter(folder, tokens.format).use_only(moving)
    return len(tokens.clips), len(moving)


def main() -> None:
    """Print what is left of each folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokens", type=Path, nargs="+", help="folders of tokens")
    for folder in parser.parse_args().tokens:
        before, now = leave_out_still(folder)
        print(f"{folder}: {now} of {before} clips")


if __name__ == "__main__":
    main()
