"""`magnet sweep`: ablations. Makes a batch for each row and measures them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.checkpoints.identity import with_identities
from magnet_cli.checkpoints.place import find_place
from magnet_cli.cli.batch import named_models
from magnet_cli.cli.evaluate import (
    JudgeOptions,
    PlaceOptions,
    judges_of,
    measured,
    pairs_of,
    say_faults,
)
from magnet_cli.cli.inputs import cleaned
from magnet_cli.cli.loading import load, loading
from magnet_cli.cli.settings import (
    ClipOptions,
    ModelOptions,
    PartnerOptions,
    TalkOptions,
    complete_model,
    part,
    takes_flags,
)
from magnet_cli.cli.talk import Talk
from magnet_cli.data.prompt_files import format_of, open_prompts, read_prompts
from magnet_cli.data.prompts import BadLine, PromptLine
from magnet_cli.errors import MagnetError, NoRoomError, PartialFailureError, UsageError
from magnet_cli.evaluation import sweep as ablations
from magnet_cli.evaluation.sweep import SweepRow
from magnet_cli.fields import panel
from magnet_cli.files import written
from magnet_cli.resolving import SELF, check_rescorer
from magnet_cli.settings import DECODING, RESCORER_ONLY, DecodingConfig, OutputConfig

if TYPE_CHECKING:
    from magnet_cli.api import Model
    from magnet_cli.batch.jobs import Job, Planner
    from magnet_cli.cli.batch_run import BatchRun
    from magnet_cli.evaluation.sets import ClipSet
    from magnet_cli.evaluation.table import Comparison

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet sweep prompts.txt -O spans --seed 7 --vary "span_len=1;2;3;5" --reference test
    magnet sweep prompts.txt -O sweep --seed 7 --vary "max_cfg_coef:min_cfg_coef=10:1;10:10;3:3"
    magnet sweep prompts.txt -O crossed --seed 7 --vary "temperature=1;3" --vary "top_p=0.8;0.9" --cross
    magnet sweep prompts.txt -O paper --seed 7 --preset paper --reference test
    magnet sweep prompts.txt -O trained --seed 7 -m small -m wide=models/wide --reference test
"""

_sweep, _model, _decoding = panel("Sweep"), panel("Model"), panel(DECODING)


@dataclass(frozen=True)
class SweepOptions:
    """Flags for what varies."""

    vary: tuple[str, ...] = _sweep(
        "A decoding setting and its values, separated by `;`: span_len=1;3;5. Settings that vary together "
        "are separated by `:`, and so are their values. May be given several times.",
        (),
        metavar="SETTING=VALUE;VALUE",
    )
    preset: str | None = _sweep(
        "paper: the paper's ablations that need no training.", metavar="NAME"
    )
    cross: bool = _sweep("Combine all axes instead of varying one at a time.", False)
    dry_run: bool = _sweep("List the rows and exit.", False)


@dataclass(frozen=True)
class SweepModelOptions(PlaceOptions):
    """Flags for models, and for the device of models and judges."""

    model: tuple[str, ...] = _model(
        "The baseline's model, as in `magnet gen`; NAME=DIR adds a row for another model. May be given "
        "several times.",
        (),
        flags="--model -m",
        metavar="NAME",
        autocompletion=complete_model,
    )
    dtype: str = _model(
        "auto, float32, float16, bfloat16 or int8 (CPU). auto: float16 on CUDA, bfloat16 for large models on "
        "processors that multiply it themselves, float32 elsewhere.",
        "auto",
        metavar="NAME",
        show_default=False,
    )
    lora: tuple[str, ...] = _model(
        "A LoRA to merge into the baseline's model, as in `magnet gen`. May be given several times.",
        (),
        metavar="FILE[:SCALE]",
    )


@dataclass(frozen=True)
class SweepDecodingOptions:
    """Flags for decoding the baseline."""

    config: DecodingConfig = part(DecodingConfig, DECODING)


@app.command("sweep", epilog=EXAMPLES)
@takes_flags
def sweep(
    source: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Prompts, as for `magnet batch`."),
    ],
    folder: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            "-O",
            metavar="DIR",
            help="Folder for rows and tables.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Remake clips whose settings changed.")
    ] = False,
    *,
    options: SweepOptions,
    clips: ClipOptions,
    models: SweepModelOptions,
    decoding: SweepDecodingOptions,
    more: PartnerOptions,
    judges: JudgeOptions,
    output: OutputConfig,
    talk: TalkOptions,
) -> None:
    """Make a batch for each of several settings, and measure them.

    The flags describe the baseline, and each row differs from it in what varies. All rows use the same
    prompts and seeds and are compared prompt by prompt; table.md, results.json and plot.png in DIR hold
    the figures and the differences from the baseline, with intervals. Rows are batches: the same command
    again makes what is missing. A rescorer is used in the rows that vary its weight, or else in all.
    """
    from magnet_cli.checkpoints.integrity import check_weights
    from magnet_cli.evaluation.sets import read_set

    voice = Talk(talk)
    axes = [ablations.parse_axis(text) for text in options.vary]
    for _, point in (point for axis in axes for point in axis):
        check_rescorer(DecodingConfig(**point), more.rescorer)
    if options.preset not in (None, *ablations.SWEEP_PRESETS):
        raise UsageError(
            f"There is no sweep preset {options.preset!r}.",
            f"Use {', '.join(ablations.SWEEP_PRESETS)}.",
        )
    if clips.seed is None and not options.dry_run:
        raise UsageError(
            "A sweep needs a seed, so that rows can be compared and made again.",
            "Add one, such as --seed 7.",
        )
    place, others = _models_of(models)
    baseline = _Baseline(folder, force, clips, place, decoding.config, more, output, voice)
    prompts, lines = _read(source)
    run, planner = baseline.batch(SweepRow(ablations.BASELINE, ablations.BASELINE), True, None)
    jobs, _ = run.check(prompts, planner.plan(lines))
    reference = read_set(Path(judges.reference), ablations.REFERENCE) if judges.reference else None
    asked = None  # without any of these flags, rows are made and not measured
    if reference is not None or judges.embedder or judges.metrics is not None:
        if min(len(jobs), 2 if reference is None else len(reference.items)) < 2:
            raise UsageError(
                "Rows and the reference need two clips or more to be measured.",
                "Give more prompts or recordings, or leave --reference and the judges out.",
            )
        asked = judges_of(judges, models, reference is not None, voice)
    model = load(place, voice)
    known = baseline.decoding.over(model.defaults)
    if options.preset is not None:
        axes += ablations.paper_axes(known, model.modeling, more.rescorer is not None)
    varied = {name for axis in axes for _, point in axis for name in point}
    if more.rescorer is not None and "rescorer_weight" in varied:
        known = dataclasses.replace(known, rescorer_weight=0.0)  # then the baseline has no rescorer
    rows = ablations.rows_of(axes, known, others, options.cross)
    runs = []
    for row in rows:
        with _naming(row):
            rescored = "rescorer_weight" not in varied or "rescorer_weight" in row.decoding
            runs.append(baseline.batch(row, rescored, model))
    if options.dry_run:
        _list(rows, folder, voice)
        return
    for name in (*others.values(), more.hybrid_model, more.rescorer):
        if name not in (None, SELF):  # so that a failure shows now and not in hours
            with loading(voice, name) as on_download:
                check_weights(find_place(name, offline=models.offline, progress=on_download))
    planned = [list(planner.plan(lines)) for _, planner in runs]
    sets, failed = _make(rows, [run for run, _ in runs], planned, prompts, voice, folder)
    if asked is not None:
        found = measured(sets, reference, asked, voice)
        found = dataclasses.replace(found, notes=(*found.notes, *ablations.notes_on(rows)))
        _write(found, folder, Path(source).name, voice)
        if not failed:
            say_faults(found.faults, voice)
    if failed:
        raise PartialFailureError(
            f"Clips of {', '.join(failed)} could not be made.",
            "Run the same command to try them again.",
        )


def _models_of(models: SweepModelOptions) -> tuple[ModelOptions, dict[str, str]]:
    """The baseline's model and the models of further rows, by name.
    Raises UsageError: several baselines, or one name twice."""
    plain = [name for name in models.model if "=" not in name or Path(name).is_dir()]
    if len(plain) > 1:
        raise UsageError("The baseline has one model.", "Add others as rows: --model NAME=DIR.")
    others = pairs_of([name for name in models.model if name not in plain], "row")
    kept = (models.device, models.dtype, models.threads, models.offline, models.lora)
    return ModelOptions(plain[0] if plain else None, *kept), others


def _read(source: str) -> tuple[str, list[PromptLine | BadLine]]:
    """A prompt file's name for messages, and its lines. Raises UsageError: it is a stream."""
    no_file = UsageError("A sweep reads its prompts to their end first.", "Give it a file.")
    if Path(source).is_fifo():  # opening it would wait
        raise no_file
    with open_prompts(source) as prompts:
        if not prompts.whole:
            raise no_file
        return prompts.name, list(read_prompts(prompts.stream, format_of(source)))


@dataclass(frozen=True)
class _Baseline:
    """What the rows have in common."""

    folder: Path
    force: bool
    clips: ClipOptions
    place: ModelOptions
    given: DecodingConfig
    more: PartnerOptions
    output: OutputConfig
    voice: Talk

    @property
    def decoding(self) -> DecodingConfig:
        """The baseline's decoding settings."""
        return self.more.config.over(self.given)

    def batch(
        self, row: SweepRow, rescored: bool, loaded: Model | None
    ) -> tuple[BatchRun, Planner]:
        """A row's batch. Raises UsageError: its settings exclude each other."""
        from magnet_cli.batch.jobs import WHOLE, BatchSettings, Planner
        from magnet_cli.batch.manifest import Manifest
        from magnet_cli.batch.resume import as_begun
        from magnet_cli.cli.batch_run import BatchRun
        from magnet_cli.request import make_request

        replace, place, more = dataclasses.replace, self.place, self.more
        more = more if rescored else replace(more, rescorer=None, config=DecodingConfig())
        place = place if row.model is None else replace(place, model=row.model, lora=())
        loaded = loaded if row.model is None else None
        config = self.decoding if rescored else self.decoding.altered(dict.fromkeys(RESCORER_ONLY))
        config = replace(config, **row.decoding)
        check_rescorer(config, more.rescorer)
        if loaded is not None:
            make_request(loaded.parts, [None], config=config)  # checks it
        folder, output = self.folder / row.folder, self.output
        settings = BatchSettings(
            folder=folder,
            seed=self.clips.seed or 0,  # with --dry-run there may be none
            num=self.clips.num,
            duration=self.clips.duration,
            negative=cleaned(self.clips.negative),
            decoding=config,
            output=output if self.force else as_begun(output, Manifest.read(folder, WHOLE)),
            models=with_identities(named_models(place, more)),
        )
        run = BatchRun(
            *(settings, WHOLE, "auto", place, more, self.voice),
            force=self.force,
            skip_bad=None,
            path_end=None,
            loaded=loaded,
        )
        return run, Planner(settings)


def _list(rows: Sequence[SweepRow], folder: Path, voice: Talk) -> None:
    """Print the rows that would be made."""
    for row in rows:
        record = {"row": row.name, "folder": row.folder, "decoding": dict(row.decoding)}
        voice.data(record if row.model is None else record | {"model": row.model})
        if not voice.json:
            voice.print(f"{row.name}  ({folder / row.folder})")


def _make(
    rows: Sequence[SweepRow],
    runs: Sequence[BatchRun],
    planned: Sequence[list[Job | BadLine]],
    prompts: str,
    voice: Talk,
    folder: Path,
) -> tuple[list[ClipSet], list[str]]:
    """Make the rows' clips; returns them, and the names of rows in which some could not be made.
    Raises MagnetError: the baseline has none, with which the rows are compared, or the disk is full."""
    from magnet_cli.evaluation.sets import read_set

    sets: list[ClipSet] = []
    failed: list[str] = []
    for number, (row, run, jobs) in enumerate(zip(rows, runs, planned, strict=True), 1):
        voice.note(f"Row {number} of {len(rows)}: {row.name}")
        problem: MagnetError | None = None
        try:
            with _naming(row):
                run.whole(prompts, jobs)
        except NoRoomError:
            raise
        except MagnetError as error:
            problem = error
        if problem is None or isinstance(problem, PartialFailureError):
            files = [job.file for job in jobs if not isinstance(job, BadLine)]
            with contextlib.suppress(UsageError):  # all of them failed
                sets.append(read_set(folder / row.folder, row.name, files))
        if problem is not None:
            if not sets:
                raise problem
            voice.warn(str(problem))
            failed.append(row.name)
    return sets, failed


def _write(found: Comparison, folder: Path, prompts: str, voice: Talk) -> None:
    """Write a comparison as table.md, results.json and plot.png, and print it."""
    from magnet_cli.evaluation.plots import draw_comparison

    table, record = found.markdown(), found.record()
    for name, text in (("table.md", table), ("results.json", json.dumps(record, indent=1))):
        with written(folder / name) as partial:
            partial.write_text(f"{text}\n", "utf-8")
    title = f"{prompts}: differences from the baseline"
    draw_comparison(folder / "plot.png", found, title, differences=True)
    if voice.json:
        voice.data({"event": "table", **record})
    else:
        voice.print(table)
    voice.note(f"Wrote {folder / 'table.md'}, results.json and plot.png")


@contextlib.contextmanager
def _naming(row: SweepRow) -> Iterator[None]:
    """Usage errors name the row."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"Row {row.name}: {error.message}", error.hint) from error
