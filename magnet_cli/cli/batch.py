"""`magnet batch`: makes a folder of clips from a file or stream of prompts."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from magnet_cli.checkpoints.registry import BUILTIN_NAMES
from magnet_cli.cli.configuration import default_model
from magnet_cli.cli.inputs import cleaned, say_pipe
from magnet_cli.cli.settings import (
    ClipOptions,
    DecodingOptions,
    ModelOptions,
    PartnerOptions,
    TalkOptions,
    takes_flags,
)
from magnet_cli.cli.talk import Talk
from magnet_cli.data.prompt_files import STDIN, PromptFormat, format_of, open_prompts, read_prompts
from magnet_cli.errors import UsageError
from magnet_cli.fields import panel
from magnet_cli.settings import OutputConfig
from magnet_cli.targets import DEFAULT_NAME

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet batch prompts.txt -O clips
    magnet batch prompts.txt -O clips --gallery
    magnet batch prompts.csv -O clips --preset fast --dry-run
    magnet batch prompts.txt -O clips --wildcards -n 20
    generate-prompts | magnet batch - -O clips --print0 | xargs -0 -n 1 play
    magnet batch prompts.txt -O clips --seed 7 --shard auto
    magnet batch prompts.txt -O clips --engine ray --address auto
    magnet batch --status clips
"""

_batch = panel("Batch")


@dataclass(frozen=True)
class BatchOptions:
    """Flags for reading, naming and processing a batch."""

    source_format: PromptFormat | None = _batch(
        "Format of the prompts. Default: by the file's suffix, else txt.", flags="--from"
    )
    null: bool = _batch("Prompts are separated by NUL, not by lines.", False, flags="--null -0")
    name: str = _batch(
        "Template of file names; fields: index, line, slug, seed, variation.",
        DEFAULT_NAME,
        metavar="TEMPLATE",
    )
    batch_size: str = _batch(
        "Clips decoded together; auto: 8 on CUDA, 1 on a CPU or when reading a pipe.",
        "auto",
        metavar="N",
    )
    shard: str | None = _batch(
        "Make only part I of N, from 1/N; auto or auto/N: the part set by SLURM, RANK or Kubernetes. "
        "Needs --seed.",
        metavar="I/N",
    )
    workers: str | None = _batch(
        "Processes that make clips in parallel; auto: one per GPU, or one per core. A worker that dies is "
        "replaced. Default: make clips in this process.",
        metavar="N",
    )
    engine: Literal["local", "ray"] = _batch(
        "Where workers run: local processes, or actors of a Ray cluster (extra `ray`).", "local"
    )
    address: str | None = _batch(
        "Address of the Ray cluster, as `ray start` prints it, or auto. Default: RAY_ADDRESS, else a "
        "temporary local cluster.",
        metavar="HOST:PORT",
    )
    collect: bool = _batch(
        "Send files here, from a Ray cluster that shares no disk with this machine.", False
    )
    wildcards: bool = _batch(
        "Expand `{sad|happy}`, and `__mood__` to a line of mood.txt beside FILE, by each clip's seed.",
        False,
    )
    skip_bad: bool = _batch("Skip lines that cannot be used.", False)
    codes: bool = _batch("Save each clip's codes beside it, as .npz.", False)
    gallery: bool = _batch(
        "Write DIR/index.html at the end, a page for browsing and playing the clips.", False
    )
    dry_run: bool = _batch("Check the lines, list what would be made, and exit.", False)
    print_paths: bool = _batch("Write each finished file's path to stdout.", False, flags="--print")
    print0: bool = _batch("Like --print, with NUL after each path.", False)
    status: Path | None = _batch(
        "Show the progress of the batch in DIR, on this machine or others, and exit.", metavar="DIR"
    )


@app.command("batch", epilog=EXAMPLES)
@takes_flags
def batch(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Prompts: .txt (one per line, `#` comments), .csv, .tsv or .jsonl; `-` reads stdin.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-O",
            metavar="DIR",
            help="Folder for the clips and their manifest. Required except with --status.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", "-f", help="Remake clips whose settings changed; replace other files."
        ),
    ] = False,
    *,
    options: BatchOptions,
    clips: ClipOptions,
    model: ModelOptions,
    decoding: DecodingOptions,
    more: PartnerOptions,
    output: OutputConfig,
    talk: TalkOptions,
) -> None:
    """Generate a clip for each prompt of a file or stream.

    Running the same command again makes only what is missing or failed. A whole file is checked before
    the model is loaded; from a pipe, clips are made as lines arrive. Columns or keys set values for one
    line: prompt, out, seed, num, duration, negative, preset, model, lora, any decoding or output setting,
    and task: gen, loop, or extend, edit, vary with an input. Each clip equals what the task's own command
    makes with its seed (when batched, up to rounding).
    """
    from magnet_cli.batch.jobs import BatchSettings, Planner, parse_batch_size, parse_workers
    from magnet_cli.batch.manifest import Manifest
    from magnet_cli.batch.resume import as_begun
    from magnet_cli.batch.sharding import shard_of
    from magnet_cli.checkpoints.identity import with_identities
    from magnet_cli.cli.batch_crew import CrewOptions
    from magnet_cli.cli.batch_run import BatchRun
    from magnet_cli.cli.batch_status import say_status
    from magnet_cli.data.wildcards import Wildcards

    voice = Talk(talk)
    if options.status is not None:
        if source is not None or folder is not None:
            raise UsageError(
                "--status takes its own folder, without prompts or -O.", "Remove them."
            )
        say_status(options.status, voice)
        return
    if source is None or folder is None:
        missing = "FILE with prompts" if source is None else "folder for the clips (-O DIR)"
        raise UsageError(f"There is no {missing}.", "Give both: magnet batch prompts.txt -O clips")
    if sum((options.print_paths, options.print0, talk.json)) > 1:
        raise UsageError("--print, --print0 and --json all write to stdout.", "Choose one.")
    kind = "txt" if source == STDIN or options.null else format_of(source)
    kind = options.source_format or kind
    if options.null and kind != "txt":
        raise UsageError(f"-0 separates plain prompts, not {kind}.", "Remove one of them.")
    if options.wildcards and source == STDIN:
        raise UsageError(
            "--wildcards reads lists from the prompt file's folder, but stdin has none.",
            "Save the prompts in a file.",
        )
    shard, size = shard_of(options.shard, os.environ), parse_batch_size(options.batch_size)
    workers, crew = parse_workers(options.workers), None
    is_ray = options.engine == "ray"
    if workers is not None or is_ray or options.address is not None or options.collect:
        crew = CrewOptions(workers or "auto", is_ray, options.address, options.collect)
    if shard.count > 1 and clips.seed is None:
        raise UsageError("All shards need the same --seed.", "Add one, such as --seed 7.")
    base = clips.seed
    drawn = False
    before = Manifest.read(folder, shard)
    if base is None:
        begun = before.run.get("seed")
        drawn = not isinstance(begun, int)
        base = begun if isinstance(begun, int) else secrets.randbelow(2**32)
    settings = BatchSettings(
        folder=folder,
        seed=base,
        num=clips.num,
        duration=clips.duration,
        negative=cleaned(clips.negative),
        preset=decoding.preset,
        decoding=more.config.over(decoding.config),
        output=output if force else as_begun(output, before),
        name=options.name,
        codes=options.codes,
        models=with_identities(named_models(model, more)),
        wildcards=Wildcards(Path(source).parent) if options.wildcards else None,
    )
    run = BatchRun(
        settings,
        shard,
        size,
        model,
        more,
        voice,
        force=force,
        skip_bad=options.skip_bad,
        path_end=b"\0" if options.print0 else b"\n" if options.print_paths else None,
        gallery=options.gallery and not options.dry_run,
        workers=crew,
    )
    planner = Planner(settings)
    say_pipe(source, voice)
    with open_prompts(source) as prompts:
        if source == STDIN and sys.stdin.isatty():
            voice.note("Type one prompt per line, then press Ctrl-D.")
        planned = planner.plan(read_prompts(prompts.stream, kind, options.null))
        if options.dry_run:
            run.show(prompts.name, planned, drawn)
        elif prompts.whole:
            run.whole(prompts.name, planned)
        else:
            run.stream(prompts.name, planned)


def named_models(model: ModelOptions, more: PartnerOptions) -> dict[str, str]:
    """The named models by role, and the adapters of the main one.
    Raises ModelNotFoundError or UsageError if an adapter does not exist."""
    names = {
        "model": model.model or default_model() or BUILTIN_NAMES[0],
        "rescorer": more.rescorer,
        "hybrid_model": more.hybrid_model,
    }
    from magnet_cli.batch.jobs import lora_parts

    return {part: name for part, name in names.items() if name is not None} | lora_parts(model.lora)
