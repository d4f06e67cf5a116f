"""Write the held-out set of the ablations: a prompt file, and a folder of the clips rendered for it.

    python -m recipes.nano.ablation_set music --sounds DIR [--also-trained-on MANIFEST ...] -O ablation

writes ablation/music.txt, one prompt per line, and ablation/music/, each clip with its prompt, for `magnet
sweep` and `magnet eval`. Clips with the notes, drum hits and kit of a training clip are skipped. `effects`
are sound effects, which no judge here was trained to recognize.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path

from recipes.nano.cases import Case, add_trained_option, composed_cases, compositions

KINDS = ("music", "effects")


def write_set(cases: Iterable[Case], kind: str, folder: Path, most: int) -> int:
    """Write the prompts and clips of a kind, each prompt once; returns their number.

    Raises:
        FileExistsError: the set exists already.
    """
    sounds = folder / kind
    sounds.mkdir(parents=True)
    prompts: dict[str, Case] = {}
    for case in cases:
        if (case.drums is None) == (kind == "effects") and case.sound is not None:
            prompts.setdefault(case.prompt, case)
    prompts = dict(itertools.islice(prompts.items(), most))
    for number, (prompt, case) in enumerate(prompts.items()):
        assert case.sound is not None
        clip = sounds / f"{number:04d}{case.sound.suffix}"
        shutil.copyfile(case.sound, clip)
        clip.with_suffix(".txt").write_text(f"{prompt}\n", "utf-8")
    (folder / f"{kind}.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), "utf-8")
    return len(prompts)


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--sounds", type=Path, required=True, help="what recipes.nano.compose made")
    add_trained_option(parser)
    parser.add_argument("--splits", nargs="+", default=["test"], help="of test, test_combo, valid")
    parser.add_argument("--clips", type=int, default=170, help="at most")
    parser.add_argument("-O", "--output-dir", type=Path, required=True)
    given = parser.parse_args()
    trained = compositions([given.sounds / "train.jsonl", *given.also_trained_on])
    cases = (
        case
        for split in given.splits
        for case in composed_cases(given.sounds, split, trained=trained)
    )
    print(f"{write_set(cases, given.kind, given.output_dir, given.clips)} prompts")


if __name__ == "__main__":
    main()
