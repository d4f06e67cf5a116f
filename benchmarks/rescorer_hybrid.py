"""Measure whether a rescorer and autoregressive first seconds help, on a hybrid-trained model.

    python -m benchmarks.rescorer_hybrid --sounds DIR --tagger WHEEL --results DIR [--model NAME]

Every held-out caption is decoded with the same seed in all ways of ROWS, one after the other, so that seconds
per clip are comparable on a busy machine, too; the judges of recipes/nano/evaluate.py judge every clip. Each
clip is one file under --results, written atomically: an interrupted run continues with the same command, and
`--part 1/2` and `--part 2/2` divide the work between two processes. When all clips exist, the table of
docs/rescorer-hybrid.md is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import magnet_cli
from magnet_cli.api import Model
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.files import atomic_path
from magnet_cli.settings import DecodingConfig
from recipes.nano.evaluate import Case, Evaluation, composed_cases
from recipes.nano.judges.hearing import Heard, listen
from recipes.nano.judges.tagger import Tagger

PLAIN = "plain"
CERTAINTY = "by certainty"
SPLITS = ("test", "test_combo")  # held-out compositions, then held-out combinations
QUESTIONS = ("instrument", "drums", "tempo")


def rows(model: Model) -> dict[str, dict[str, Any]]:
    """The rows: a name, and arguments of `generate` that override the checkpoint's defaults."""
    off = {"hybrid": 0.0}
    order = DecodingConfig(span_order="certainty")  # what a rescorer implies
    by_certainty = {CERTAINTY: {**off, "config": order}}
    return {
        PLAIN: off,
        **(by_certainty if model.defaults.span_order not in (None, "certainty") else {}),
        **{
            f"rescorer, W = {weight:g}": {**off, "rescorer": "self", "rescorer_weight": weight}
            for weight in (0.2, 0.5, 0.8)
        },
        **{f"hybrid, {seconds:g} s": {"hybrid": seconds} for seconds in (1.0, 2.0, 5.0)},
        "autoregressive": {"hybrid": model.segment_duration},
    }


def held_out(sounds: Path, count: int) -> list[Case]:
    """`count` cases, as many as possible from the first split."""
    cases = [case for split in SPLITS for case in composed_cases(sounds, split, count)]
    if len(cases) < count:
        raise UsageError(
            f"{sounds} holds {len(cases)} held-out clips.", f"Take --clips {len(cases)}."
        )
    return cases[:count]


def fingerprint(model: Model, cases: list[Case]) -> dict[str, Any]:
    """What identifies a run: its model and captions."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.lm.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    captions = hashlib.sha256(json.dumps([case.prompt for case in cases]).encode())
    return {
        "weights": weights.hexdigest(),
        "captions": captions.hexdigest(),
        "decoding": json.dumps(model.defaults.given()),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
    }


def claim(results: Path, identity: dict[str, Any]) -> None:
    """Record a run's identity in its results, or refuse to mix them with another run's."""
    results.mkdir(parents=True, exist_ok=True)
    note = results / "run.json"
    if note.exists():
        found = json.loads(note.read_text("utf-8"))
        if found != identity:
            raise UsageError(f"{results} holds another run: {found}.", "Name another --results.")
        return
    with atomic_path(note) as partial:
        partial.write_text(json.dumps(identity), "utf-8")


def part_of(text: str) -> tuple[int, int]:
    """Parse "2/3" as (1, 3): the index of a process, and their number."""
    number, _, count = text.partition("/")
    part, parts = int(number) - 1, int(count)
    if not 0 <= part < parts:
        raise ValueError(text)
    return part, parts


def make(
    model: Model, case: Case, seed: int, how: dict[str, Any], tagger: Tagger, to: Path
) -> None:
    """Generate and judge one clip, and save its codes, verdict and time."""
    began = time.perf_counter()
    result = model.generate([case.prompt], seeds=[seed], **how)
    seconds = time.perf_counter() - began
    heard = listen(result.audio[0], model.sample_rate, tagger)
    tensors = {
        "codes": result.codes[0].to(torch.int16),
        "tags": heard.tags.contiguous(),
        "embeddings": heard.embeddings.contiguous(),
    }
    figures = {"seconds": seconds, "drum_score": heard.drum_score, "tempo": heard.tempo}
    to.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(to) as partial:
        save_file(tensors, partial, {name: repr(value) for name, value in figures.items()})


def recall(file: Path) -> tuple[Heard, float]:
    """The verdict on a clip, and the seconds that it took."""
    with safe_open(file, framework="pt") as clip:
        said = clip.metadata()
        heard = Heard(
            clip.get_tensor("tags"),
            clip.get_tensor("embeddings"),
            float(said["drum_score"]),
            float(said["tempo"]),
        )
    return heard, float(said["seconds"])


def place(results: Path, row: str, index: int) -> Path:
    """The file of a clip."""
    slug = "".join(c if c.isalnum() or c == "." else "-" for c in row)
    return results / slug / f"{index:04d}.safetensors"


def report(results: Path, evaluation: Evaluation, cases: list[Case], names: list[str]) -> str:
    """The table as Markdown; a row's seconds are its median."""
    reference = torch.cat(
        [h.embeddings for h in evaluation.listen([evaluation.rendered(c) for c in cases])]
    )
    lines = [
        f"| {len(cases)} clips a row | seconds per clip | instrument | drums | tempo | Fréchet |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        clips = [recall(place(results, name, index)) for index in range(len(cases))]
        figures = evaluation.row([heard for heard, _ in clips], cases, reference)
        shares = " | ".join(f"{100 * figures[question]:.1f} %" for question in QUESTIONS)
        seconds = statistics.median(seconds for _, seconds in clips)
        distance = f"{figures['frechet']:.2f}" if "frechet" in figures else "–"
        lines.append(f"| {name} | {seconds:.2f} | {shares} | {distance} |")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sounds", type=Path, required=True, help="what recipes.nano.compose made")
    parser.add_argument("--tagger", type=Path, required=True, help="the musicnn wheel")
    parser.add_argument("--results", type=Path, required=True, help="where clips are kept")
    parser.add_argument("--model", default=None, help="hybrid-trained; default: the built-in one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--clips", type=int, default=180, help="of each row; fewer than 170: no Fréchet"
    )
    parser.add_argument(
        "--part", type=part_of, default=(0, 1), metavar="I/N", help="this process's share"
    )
    given = parser.parse_args()

    if given.threads is not None:
        torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    try:
        model = magnet_cli.load_model(given.model, device=given.device, offline=True)
        cases = held_out(given.sounds, given.clips)
        claim(given.results, fingerprint(model, cases))
    except MagnetError as error:
        parser.error(str(error))
    if model.modeling != "hybrid":
        parser.error(f"{model.name} was not trained to decode both ways")
    tagger = Tagger(given.tagger)
    ways = rows(model)
    part, parts = given.part
    for index in range(part, len(cases), parts):
        case = cases[index]
        for name, how in ways.items():
            file = place(given.results, name, index)
            if not file.exists():
                make(model, case, index, how, tagger, file)
        print(f"{index + 1} of {len(cases)}", flush=True)
    missing = sum(
        not place(given.results, name, index).exists()
        for name in ways
        for index in range(len(cases))
    )
    if missing:
        print(f"{missing} clips are another part's: run this again when they are there")
        return
    evaluation = Evaluation(given.sounds, tagger, model.sample_rate, model.segment_duration)
    print("\n" + report(given.results, evaluation, cases, list(ways)))


if __name__ == "__main__":
    main()
