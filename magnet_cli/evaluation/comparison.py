"""Comparison of systems: every judge compares each set of clips with a reference.

Two rows put the figures in context. The floor compares one half of the reference with the other. The
ceiling is worse than any usable system: captions shuffled among the clips, and white noise. The first
system is the baseline, with which the others are compared prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

from magnet_cli.errors import UsageError
from magnet_cli.evaluation.embedders import MEL, Classifier, Embedder, Judge, TextEmbedder
from magnet_cli.evaluation.figures import (
    Figure,
    MeanFigure,
    Rows,
    fewest_rows,
    frechet_figures,
    kernel_figure,
    noise,
    parts_of,
)
from magnet_cli.evaluation.hearing import (
    Cache,
    HeardSet,
    Hearing,
    Listen,
    OnClip,
    hear_sets,
    heard_rows,
)
from magnet_cli.evaluation.metrics import cosines, divergences, median_distance
from magnet_cli.evaluation.sets import ClipSet, Fault
from magnet_cli.evaluation.table import Column, Comparison, Line
from magnet_cli.naming import Names

METRICS = ("kad", "fad", "kl", "clap")
_FEW = 100  # clips; with fewer KAD is unreliable
_NOISES = 600  # maximum windows of white noise


@dataclass(frozen=True)
class Judges:
    """The judges, and the metrics to compute.

    Attributes:
        metrics: from METRICS; None: all that the judges and clips allow.
        resamples: number of bootstrap draws.
    """

    embedders: Sequence[Embedder]
    classifier: Classifier | None = None
    metrics: Sequence[str] | None = None
    resamples: int = 2000
    cache: Cache = field(default_factory=lambda: Cache(None))

    def check(self, with_reference: bool) -> None:
        """Check that the metrics can be computed.
        Raises UsageError: one is unknown, or needs a judge or a reference that is missing."""
        for metric in () if self.metrics is None else self.metrics or ("",):
            if metric not in METRICS:
                raise UsageError(
                    f"There is no metric {metric[:40]!r}.", f"Choose from {', '.join(METRICS)}."
                )
        wanted = set(self.metrics or ())
        if wanted & {"kad", "fad", "kl"} and not with_reference:
            raise UsageError(
                "kad, fad and kl compare with a reference.",
                "Add --reference DIR, or use --metrics clap.",
            )
        if "kl" in wanted and self.classifier is None:
            raise UsageError(
                "kl needs a classifier.",
                "Add --classifier MIT/ast-finetuned-audioset-10-10-0.4593, or a folder.",
            )
        if "clap" in wanted and not self._readers:
            raise UsageError(
                "clap needs an embedder for text as well as sound.",
                "Add --embedder laion/larger_clap_music, or a folder.",
            )
        if self.metrics is None and not with_reference and not self._readers:
            raise UsageError(
                "Without a reference there is nothing to compare with.", "Add --reference DIR."
            )

    def wants(self, *metrics: str) -> bool:
        """Whether one of the metrics was asked for, by name or by default."""
        return self.metrics is None or not {*metrics}.isdisjoint(self.metrics)

    @property
    def _readers(self) -> list[TextEmbedder]:
        return [one for one in self.embedders if isinstance(one, TextEmbedder)]

    def listeners(self) -> list[tuple[Judge, Listen]]:
        """The judges that are needed, each with its method to call."""
        found: list[tuple[Judge, Listen]] = []
        for one in self.embedders:
            if self.wants("kad", "fad") or (self.wants("clap") and one in self._readers):
                found.append((one, one.embed))
        if self.classifier is not None and self.wants("kl"):
            found.append((self.classifier, self.classifier.classify))
        return found


def compare(
    systems: Sequence[ClipSet],
    reference: ClipSet | None,
    judges: Judges,
    on_clip: OnClip | None = None,
) -> Comparison:
    """Measure systems against a reference.

    Clips that cannot be read, are silent or lack a counterpart in another set are listed in `faults` and
    left out where they cannot be used.

    Raises:
        UsageError: a metric cannot be computed, two sets have one name, or no clips are left to measure.
    """
    judges.check(reference is not None)
    names = [one.name for one in (*systems, *([reference] if reference is not None else []))]
    for name in {name for name in names if names.count(name) > 1}:
        raise UsageError(f"Two sets are named {name!r}.", "Give each set a name of its own.")
    hearing = hear_sets(systems, reference, judges.listeners(), judges.cache, on_clip)
    return _Measuring(hearing, judges).result()


class _Measuring:
    def __init__(self, hearing: Hearing, judges: Judges) -> None:
        self.judges, self.notes = judges, list[str]()
        self.sets, self.reference = hearing.systems, hearing.reference
        self.captions = hearing.captions
        self.units, self.faults = len(hearing.captions), list(hearing.faults)
        # Each embedder once, with a name of its own: several folders may be called `clap`.
        self.embedders, names = {one.identity: one for one in judges.embedders}, Names()
        self.headings = {key: names.unused(one.name) for key, one in self.embedders.items()}
        self._check_prompts()

    def _check_prompts(self) -> None:
        """Record prompts that a set lacks; paired metrics leave them out."""
        paired = self.judges.classifier is not None and self.judges.wants("kl")
        sets = [*self.sets, *([self.reference] if self.reference is not None and paired else [])]
        known = [{unit for unit in one.units if self.captions[unit]} for one in sets]
        everywhere = set.intersection(*known)
        for one, units in zip(sets, known, strict=True):
            for unit in sorted(units - everywhere):
                lacking = [o.name for o, k in zip(sets, known, strict=True) if unit not in k]
                what = f"no clip for this prompt in {', '.join(lacking)}"
                self.faults.append((one.name, Fault(f"{self.captions[unit]!r}", what)))

    def result(self) -> Comparison:
        columns: list[Column] = []
        table: dict[tuple[str, str], dict[str, Figure]] = {}  # by name and role
        for one in self.sets:
            table[one.name, "system"] = {}

        def add(column: Column, figures: Sequence[tuple[str, str, Figure]]) -> None:
            columns.append(column)
            for name, role, figure in figures:
                table.setdefault((name, role), {})[column.key] = figure

        for embedder in self.embedders.values():
            name = self.headings[embedder.identity]
            if self.reference is not None and self.judges.wants("kad", "fad"):
                if embedder.name == MEL:
                    self.notes.append(
                        "mel does not judge perception: it compares spectra and ignores melody and rhythm."
                    )
                for column, figures in self._distances(embedder, self.reference):
                    add(column, figures)
            if isinstance(embedder, TextEmbedder) and self.judges.wants("clap"):
                column = Column(f"clap:{name}", f"CLAP score ({name}) ↑", "higher")
                add(column, self._fits(embedder))
        classifier = self.judges.classifier
        if classifier is not None and self.reference is not None and self.judges.wants("kl"):
            column = Column(f"kl:{classifier.name}", f"KL ({classifier.name}) ↓", "lower")
            add(column, self._divergences(classifier, self.reference))
        ranks = {"floor": 0, "system": 1, "ceiling": 2}
        lines = [
            Line(name, role, {key: figure.estimate() for key, figure in cells.items()})
            for (name, role), cells in sorted(table.items(), key=lambda of: ranks[of[0][1]])
        ]
        first, *others = (table[one.name, "system"] for one in self.sets)
        differences = [
            Line(
                one.name,
                "system",
                {key: cells[key].minus(first[key]) for key in cells if key in first},  # type: ignore[arg-type]
            )
            for one, cells in zip(self.sets[1:], others, strict=True)
        ]
        sets = [*self.sets, *([self.reference] if self.reference is not None else [])]
        return Comparison(
            self.reference.name if self.reference is not None else None,
            {one.name: len(one.units) for one in sets},
            tuple(columns),
            tuple(lines),
            self.sets[0].name,
            tuple(differences),
            tuple(self.faults),
            tuple(dict.fromkeys(self.notes)),
        )

    def _distances(
        self, embedder: Embedder, reference: HeardSet
    ) -> Iterator[tuple[Column, list[tuple[str, str, Figure]]]]:
        """KAD and FAD of every system, of the reference's halves, and of white noise."""
        heading = self.headings[embedder.identity]
        points = _points(reference, embedder)
        halves = [points.where(lambda unit, half=half: unit % 2 == half) for half in (0, 1)]  # type: ignore[misc]
        count = min(len(points.rows), _NOISES)
        rows = self._noise_rows(embedder, embedder.embed, count)
        if isinstance(embedder, TextEmbedder):
            rows = torch.nn.functional.normalize(rows, dim=-1)
        # Each window of noise is a unit of its own, numbered after all others.
        white = Rows(rows, tuple(range(self.units, self.units + count)), count)
        sets = [(one.name, "system", points, _points(one, embedder)) for one in self.sets]
        pairs = [
            (f"{reference.name}, half against half", "floor", halves[0], halves[1]),
            *sets,
            ("white noise", "ceiling", points, white),
        ]
        units = self.units + count
        if self.judges.wants("kad"):
            fewest = min([points.clips, *(one.clips for *_, one in sets)])
            if fewest < _FEW:
                self.notes.append(
                    f"KAD needs about {_FEW} clips per set; one here has {fewest}: see the intervals."
                )
            bandwidth = median_distance(points.rows)
            if bandwidth == 0:
                self.notes.append(f"No KAD: to {heading}, half of the reference sounds identical.")
            yield (
                Column(f"kad:{heading}", f"KAD ({heading}) ↓", "lower"),
                [
                    (name, role, kernel_figure(one, two, bandwidth, units))
                    for name, role, one, two in pairs
                    if min(len(set(one.units)), len(set(two.units))) > 1 and bandwidth > 0
                ],
            )
        if self.judges.wants("fad"):
            yield from self._frechet(heading, pairs, units)

    def _frechet(
        self, heading: str, pairs: Sequence[tuple[str, str, Rows, Rows]], units: int
    ) -> Iterator[tuple[Column, list[tuple[str, str, Figure]]]]:
        fewest = fewest_rows(pairs[0][2].rows.shape[1])
        for name, role, *sets in pairs:
            short = min(sets, key=lambda rows: len(rows.rows))
            if role != "system" or len(short.rows) >= fewest:
                continue
            clips = -(-fewest * short.clips // len(short.rows))
            problem = (
                f"FAD ({heading}) needs {fewest} windows per set, which is about {clips} clips"
            )
            if self.judges.metrics is not None:
                raise UsageError(
                    f"{problem}; {name} or its reference has {short.clips}.",
                    "Make more clips, or use --metrics kad, which needs about a hundred.",
                )
            self.notes.append(f"{problem}: left out.")
            return
        parts = parts_of(units, [rows.units for _, _, *sets in pairs for rows in sets])
        plain, limit = list[tuple[str, str, Figure]](), list[tuple[str, str, Figure]]()
        for name, role, one, two in pairs:
            if min(len(one.rows), len(two.rows)) < fewest:
                continue  # a half of the reference
            figures = frechet_figures(one, two, parts, fewest)
            plain.append((name, role, figures[0]))
            if figures[1] is not None:
                limit.append((name, role, figures[1]))
        yield Column(f"fad:{heading}", f"FAD ({heading}) ↓", "lower"), plain
        if any(role == "system" for _, role, _ in limit):
            yield Column(f"fad-inf:{heading}", f"FAD∞ ({heading}) ↓", "lower"), limit

    def _fits(self, embedder: TextEmbedder) -> list[tuple[str, str, Figure]]:
        """CLAP scores of the reference, the systems, shuffled captions, and white noise."""
        sets = [*self.sets, *([self.reference] if self.reference is not None else [])]
        texts = sorted({said[0] for one in sets for said in one.captions if said})
        if not texts:
            raise UsageError(
                "clap compares sound with captions, and no clip has one.",
                "Put a .txt caption beside each sound, or choose other --metrics.",
            )
        read = [embedder.embed_texts(texts[i : i + 32]) for i in range(0, len(texts), 32)]
        points = dict(zip(texts, torch.cat(read), strict=True))

        def fit(clips: Iterable[tuple[int, Tensor, str]]) -> MeanFigure:
            return self._mean((unit, cosines(row, points[text])) for unit, row, text in clips)

        found: list[tuple[str, str, Figure]] = []
        for one in sets:
            own = [(unit, row, said[0]) for unit, row, said in one.pooled(embedder) if said]
            asked = {unit: text for unit, _, text in own}
            role = "floor" if one is self.reference else "system"
            if own:
                found.append((one.name, role, fit(own)))
            if role == "system" and len(asked) > 1:
                other = _shuffled(sorted(asked))
                mixed = ((unit, row, asked[other[unit]]) for unit, row, _ in own)
                found.append((f"{one.name}, captions shuffled", "ceiling", fit(mixed)))
        texts = texts[:_NOISES]
        rows = self._noise_rows(embedder, embedder.embed, len(texts))
        white = zip(range(len(texts)), rows, texts, strict=True)
        found.append(("white noise", "ceiling", fit(white)))
        return found

    def _divergences(
        self, classifier: Classifier, reference: HeardSet
    ) -> list[tuple[str, str, Figure]]:
        """KL between the classifier's probabilities for the reference and for each system."""
        asked: dict[int, list[tuple[Tensor, tuple[str, ...]]]] = {}
        for unit, row, said in reference.pooled(classifier):
            asked.setdefault(unit, []).append((row, said))

        def apart(pairs: Iterable[tuple[int, Tensor, Tensor]]) -> MeanFigure:
            return self._mean((unit, divergences(one, two)) for unit, one, two in pairs)

        found: list[tuple[str, str, Figure]] = []
        for one in self.sets:
            clips = one.pooled(classifier)
            # A caption that two references share makes one unit of them, but a clip has its own reference.
            pairs = [
                (unit, target, row)
                for unit, row, said in clips
                for target, captions in asked.get(unit, ())
                if {*said} & {*captions}
            ]
            if not pairs:
                raise UsageError(
                    f"No prompt of {one.name} is a caption of the reference, so kl has no pairs.",
                    "Make the batch from the reference's captions, or choose other --metrics.",
                )
            found.append((one.name, "system", apart(pairs)))
            other = _shuffled(sorted({unit for unit, _, _ in pairs}))
            if len(other) > 1:
                mixed = (
                    (unit, target, row)
                    for unit, row, _ in clips
                    if unit in other
                    for target, _ in asked[other[unit]]
                )
                found.append((f"{one.name}, captions shuffled", "ceiling", apart(mixed)))
        units = sorted(asked)[:_NOISES]
        rows = self._noise_rows(classifier, classifier.classify, len(units))
        white = zip(units, rows, strict=True)
        noises = ((unit, target, row) for unit, row in white for target, _ in asked[unit])
        found.append(("white noise", "ceiling", apart(noises)))
        return found

    def _mean(self, values: Iterable[tuple[int, Tensor]]) -> MeanFigure:
        """The figure of values with their units; those of a unit are averaged."""
        found: dict[int, list[float]] = {}
        for unit, value in values:
            found.setdefault(unit, []).append(float(value))
        return MeanFigure({u: sum(v) / len(v) for u, v in found.items()}, self.judges.resamples)

    def _noise_rows(self, judge: Judge, listen: Listen, count: int) -> Tensor:
        content = sha256(f"white noise, {count}".encode()).hexdigest()
        rows = self.judges.cache.get(judge, content)
        if rows is None:
            rows = heard_rows(noise(judge.sample_rate, judge.window, count), listen)
            self.judges.cache.put(judge, content, rows)
        return rows


def _points(one: HeardSet, embedder: Embedder) -> Rows:
    """All windows of a set; embeddings compared by cosine (CLAP's) are normalised."""
    rows, units = one.windows(embedder)
    if isinstance(embedder, TextEmbedder):
        rows = torch.nn.functional.normalize(rows, dim=-1)
    prompts = frozenset(u for u, said in zip(one.units, one.captions, strict=True) if said)
    return Rows(rows, units, len(one.units), prompts)


def _shuffled(units: list[int]) -> dict[int, int]:
    """Pair each unit with the next one; units are already in random order."""
    return dict(zip(units, [*units[1:], units[0]], strict=True))
