"""`magnet data`: captioned audio, checked and encoded into token shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli.help import group
from magnet_cli.cli.loading import loading
from magnet_cli.cli.progress import counting
from magnet_cli.cli.settings import TalkOptions, complete_model, takes_flags
from magnet_cli.cli.talk import Talk
from magnet_cli.errors import DataError, PartialFailureError
from magnet_cli.naming import count_of, hours_of

if TYPE_CHECKING:
    from magnet_cli.data.manifests import ClipList, Problem
    from magnet_cli.training.encode import Heard

app = group("data", "Check and encode training data.")

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="A list of sounds (.jsonl, .csv), or a folder of captioned sounds."
    ),
]
Shortest = Annotated[
    float, typer.Option("--min-duration", min=0, help="Seconds; shorter clips are skipped.")
]

_SHOWN = 20  # problems to list; --json lists all


@app.command("check", epilog="Example:\n\n    magnet data check sounds/")
@takes_flags
def check(source: Source, *, min_duration: Shortest = 0.5, talk: TalkOptions) -> None:
    """Report what is broken: unreadable, cut off, too short, without a caption. Exit status 4 if
    anything is."""
    from magnet_cli.training.encode import check_clips

    voice = Talk(talk)
    found = _clips_of(source)
    with counting(voice, "Checking") as on_clip:
        heard: list[Heard] = []
        problems = check_clips(found, min_duration, on_clip, heard.append)
    _tell(voice, problems)
    broken = sum(problem.skipped for problem in problems)
    readable = len(found.clips) - broken + sum(problem.skipped for problem in found.problems)
    incomplete = _incomplete(problems)
    good = readable - incomplete
    summary = {"kind": "summary", "good": good, "incomplete": incomplete, "broken": broken}
    voice.data({**summary, "merged": found.merged, "sounds": _statistics(heard)})
    voice.note(f"Clips: {good} good, {incomplete} incomplete, {broken} broken.")
    _say_statistics(voice, _statistics(heard))
    if found.merged:
        more = count_of(found.merged, "line")
        voice.note(f"{more} with more captions of clips that earlier lines had named.")
    if broken or incomplete:
        raise PartialFailureError(
            f"Of {count_of(readable + broken, 'clip')}, {broken} broken and {incomplete} incomplete.",
            "Encoding skips what is broken, and takes what there is of what is incomplete.",
        )


@app.command("encode", epilog="Example:\n\n    magnet data encode sounds/ tokens/ --codec small")
@takes_flags
def encode(
    source: Source,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the shards go.")],
    *,
    codec: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The model (name, hub id or folder) whose codec is used, or a codec's folder.",
            autocompletion=complete_model,
        ),
    ],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    min_duration: Shortest = 0.5,
    mix: Annotated[
        float,
        typer.Option(
            min=0,
            help="Mixed pairs to add, as a share of the clips. With 1 half of all items are mixed, "
            "as AudioGen was trained.",
        ),
    ] = 0.0,
    mix_snr: Annotated[
        float, typer.Option(min=0, help="The pair's levels differ by up to this, in dB.")
    ] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs that are mixed.")] = 0,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            help="Clips that are read and encoded at the same time; 0: one a core, at most 4.",
        ),
    ] = 0,
    talk: TalkOptions,
) -> None:
    """Encode audio into token shards for training. Run again, it resumes.

    The folder is for one source: clips that it no longer lists are left out of training.

    Sounds may have any rate and number of channels; broken ones are skipped and reported.
    """
    from magnet_cli.checkpoints.load import load_codec
    from magnet_cli.checkpoints.place import find_codec
    from magnet_cli.training.encode import EncodeOptions, encode_clips, token_format

    voice = Talk(talk)
    found = _clips_of(source)
    with loading(voice, codec) as on_download:
        built = load_codec(find_codec(codec, progress=on_download), device)
    options = EncodeOptions(
        min_duration=min_duration, mix_share=mix, mix_snr=mix_snr, seed=seed, workers=workers
    )
    try:
        with counting(voice, "Encoding") as on_clip:
            format_ = token_format(built, codec)
            report = encode_clips(found, built, format_, folder, options, on_clip)
    except KeyboardInterrupt:
        voice.note("Run the same command again to continue.")
        raise
    _tell(voice, report.problems)
    incomplete, skipped = _incomplete(report.problems), sum(p.skipped for p in report.problems)
    said = {**asdict(report), "seconds": round(report.seconds, 3)}
    del said["problems"]
    voice.data({"kind": "summary", **said, "broken": skipped, "incomplete": incomplete})
    of_them = f" ({incomplete} of them incomplete)" if incomplete else ""
    voice.note(
        f"{count_of(report.encoded, 'clip')} ({hours_of(report.seconds / 3600)}) encoded{of_them}, "
        f"{report.kept} there already."
    )
    if not report.encoded and not report.kept:
        raise DataError("No clip could be encoded.", f"See `magnet data check {source}`.")
    if report.left_out:
        voice.warn(
            f"Left out: {count_of(report.left_out, 'clip')} of earlier runs, no longer listed or broken "
            "now. Clips of several sources go into a folder each: training takes several."
        )
    if skipped:
        raise PartialFailureError(
            f"Skipped: {count_of(skipped, 'clip')}.", "The others are encoded."
        )


def _incomplete(problems: Sequence[Problem]) -> int:
    """The number of incomplete sounds: cut off, or continuing at another sample rate."""
    return len({problem.where for problem in problems if problem.incomplete})


def _statistics(heard: Sequence[Heard]) -> dict[str, Any]:
    """Statistics of the readable sounds: counts by sample rate; minimum, median and maximum of length in
    seconds and loudness in LUFS."""
    if not heard:
        return {}
    rates = Counter(f"{each.sample_rate} Hz, {each.channels} ch" for each in heard)

    def spread(values: Iterable[float]) -> list[float]:
        ranked = sorted(values)
        return [round(value, 2) for value in (ranked[0], ranked[len(ranked) // 2], ranked[-1])]

    return {
        "rates": dict(rates.most_common()),
        "hours": round(sum(each.seconds for each in heard) / 3600, 4),
        "seconds": spread(each.seconds for each in heard),
        "loudness": spread(each.loudness for each in heard),
    }


def _say_statistics(voice: Talk, said: dict[str, Any]) -> None:
    if not said:
        return
    rates = "; ".join(f"{count} at {rate}" for rate, count in said["rates"].items())
    (least, middle, most), (soft, usual, loud) = said["seconds"], said["loudness"]
    voice.note(
        f"{hours_of(said['hours'])} of sound: {rates}. Lengths from {least:g} to {most:g} s, half "
        f"of them up to {middle:g} s; loudness from {soft:g} to {loud:g} LUFS, half of them up to {usual:g}."
    )


def _clips_of(source: Path) -> ClipList:
    """The clips of a source, good or broken; refuses a source without any."""
    from magnet_cli.data.manifests import ClipList, read_clips

    is_packed = source.suffix.lower() in _PACKED
    found = ClipList((), ()) if is_packed else read_clips(source)
    if not found.clips and not found.problems:
        hint = "Give a .jsonl or .csv list with a line for each sound, or a folder that has sounds in it."
        if is_packed or any(each.suffix.lower() in _PACKED for each in source.rglob("*")):
            hint = (
                "Parquet files and archives are not read: write their sounds out as files, with a "
                "metadata.jsonl that gives each file_name its text."
            )
        raise DataError(f"{source} holds no sounds that can be read.", hint)
    return found


_PACKED = (".parquet", ".arrow", ".tar", ".zip")


def _tell(voice: Talk, problems: Sequence[Problem]) -> None:
    for problem in problems:
        voice.data({"kind": "problem", **asdict(problem)})
    for problem in problems[:_SHOWN]:
        voice.warn(f"{problem.where}: {problem.what}")
    if len(problems) > _SHOWN:
        voice.warn(f"… and {len(problems) - _SHOWN} more (--json lists them all).")
