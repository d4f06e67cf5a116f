"""Comparing folders of clips: the order of figures, what is skipped and reported, what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from magnet_cli.errors import AudioFileError, UsageError
from magnet_cli.evaluation.comparison import Judges, compare
from magnet_cli.evaluation.embedders import MelEmbedder, find_embedder
from magnet_cli.evaluation.figures import DistanceFigure, Rows, kernel_figure
from magnet_cli.evaluation.hearing import Cache, content_hash
from magnet_cli.evaluation.judges import load_classifier
from magnet_cli.evaluation.sets import name_apart, read_set
from magnet_cli.evaluation.statistics import Estimate
from magnet_cli.evaluation.table import Comparison, difference_in_words, in_words
from tests.evaluation.judges import RATE, folder_of, save_ast, save_clap

PROMPTS = [f"tone number {i}" for i in range(24)]


@pytest.fixture
def sounds(tmp_path: Path) -> dict[str, Path]:
    return {
        "real": folder_of(tmp_path / "real", PROMPTS),
        "near": folder_of(tmp_path / "near", PROMPTS, shift=3, seed=100),
        "far": folder_of(tmp_path / "far", PROMPTS, shift=400, noise=0.1, seed=200),
    }


def compared(sounds: dict[str, Path], *names: str, judges: Judges | None = None) -> Comparison:
    sets = [read_set(sounds[name]) for name in names]
    return compare(sets, read_set(sounds["real"]), judges or Judges([MelEmbedder()], resamples=200))


def figures(found: Comparison, key: str) -> dict[str, Estimate]:
    return {line.name: line.cells[key] for line in found.lines if key in line.cells}


def test_the_nearer_system_is_nearer_and_the_difference_says_so(sounds: dict[str, Path]) -> None:
    found = compared(sounds, "near", "far")
    kad = figures(found, "kad:mel")
    assert abs(kad["real, half against half"].value) < kad["far"].value / 3
    assert kad["near"].value < min(kad["far"].value, kad["white noise"].value) / 3
    assert kad["far"].low < kad["far"].value < kad["far"].high
    (difference,) = found.differences
    assert difference.name == "far"
    assert not difference.cells["kad:mel"].holds(0)
    assert any("does not judge perception" in note for note in found.notes)
    assert any("FAD (mel) needs 500 windows" in note for note in found.notes)
    assert not found.faults


def test_the_floor_compares_two_halves_of_the_reference(
    sounds: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = []

    def figure(one: Rows, two: Rows, *more: Any) -> DistanceFigure:
        pairs.append((set(one.units), set(two.units)))
        return kernel_figure(one, two, *more)

    monkeypatch.setattr("magnet_cli.evaluation.comparison.kernel_figure", figure)
    compared(sounds, "near")
    one, two = pairs[0]
    assert len(one) + len(two) == 24
    assert not one & two


def test_names_and_order_of_files_do_not_matter(sounds: dict[str, Path], tmp_path: Path) -> None:
    before = compared(sounds, "near", "far")
    for i, path in enumerate(sorted(sounds["near"].glob("*.wav"))):
        path.with_suffix(".txt").rename(sounds["near"] / f"x{(i * 7) % 24:02d}.txt")
        path.rename(sounds["near"] / f"x{(i * 7) % 24:02d}.wav")
    assert compared(sounds, "near", "far") == before


def test_every_metric_with_learned_judges_and_both_ends(
    sounds: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges = Judges(
        [find_embedder(str(save_clap(tmp_path / "clap-tiny")))],
        load_classifier(str(save_ast(tmp_path / "ast-tiny"))),
        resamples=200,
        cache=Cache(tmp_path / "cache"),
    )
    found = compared(sounds, "near", "far", judges=judges)
    assert [column.key for column in found.columns] == [
        "kad:clap-tiny",
        "clap:clap-tiny",
        "kl:ast-tiny",
    ]
    assert set(figures(found, "clap:clap-tiny")) == {
        "real",
        "near",
        "far",
        "near, captions shuffled",
        "far, captions shuffled",
        "white noise",
    }
    kl = figures(found, "kl:ast-tiny")
    assert 0 <= kl["near"].value < kl["far"].value
    assert kl["near"].value < kl["near, captions shuffled"].value
    kept = sorted((tmp_path / "cache").rglob("*.npy"))
    assert len(kept) == 2 * (3 * 24 + 1)

    # Measured again, nothing is embedded again.
    def deaf(windows: object) -> None:
        raise AssertionError("it was heard again")

    monkeypatch.setattr(judges.embedders[0], "embed", deaf)
    monkeypatch.setattr(judges.classifier, "classify", deaf)
    assert compared(sounds, "near", "far", judges=judges) == found
    text = found.markdown()
    assert "CLAP score (clap-tiny) ↑" in text
    assert json.loads(json.dumps(found.record(), allow_nan=False))["baseline"] == "near"


def test_what_cannot_be_measured_is_named_and_the_rest_is_measured(
    sounds: dict[str, Path],
) -> None:
    near = sounds["near"]
    soundfile.write(near / "000.wav", np.zeros(RATE, np.float32), RATE)
    (near / "001.wav").write_bytes(b"RIFF, but no sound")
    soundfile.write(near / "002.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    (near / "003.wav").unlink()
    found = compared(sounds, "near", "far")
    said = {
        fault.where.rpartition("/")[2]: fault.what for name, fault in found.faults if name == "near"
    }
    assert said["000.wav"].endswith("is silent.")
    assert "not a sound" in said["001.wav"]
    assert "NaN or infinite" in said["002.wav"]
    lonely = [fault for name, fault in found.faults if name == "far"]
    assert [fault.where for fault in lonely] != []
    assert all("no clip for this prompt in near" in fault.what for fault in lonely)
    assert len(lonely) == 4
    assert found.clips == {"near": 20, "far": 24, "real": 24}
    assert math.isfinite(figures(found, "kad:mel")["near"].value)


def test_a_sound_on_which_a_judge_fails_is_named(sounds: dict[str, Path]) -> None:
    loud = np.full(RATE, 1e30, np.float32)
    soundfile.write(sounds["near"] / "000.wav", loud, RATE, subtype="FLOAT")
    found = compared(sounds, "near")
    (fault,) = [fault for name, fault in found.faults if name == "near"]
    assert "mel returns NaN or infinite values for" in fault.what
    assert figures(found, "kad:mel")["near"].count == 23
    for path in sorted(sounds["near"].glob("*.wav"))[1:]:
        path.write_bytes(b"broken")
    with pytest.raises(UsageError, match=r"Fewer than two clips of near .* is not a sound"):
        compared(sounds, "near")


def test_differences_are_of_the_prompts_that_both_have(
    sounds: dict[str, Path], tmp_path: Path
) -> None:
    """A system with further clips, far from the reference, is no worse where the other has clips."""
    more = folder_of(sounds["near"] / "more", [f"other {i}" for i in range(9)], 900, 0.2, 300)
    apart = {**sounds, "more": sounds["near"].rename(tmp_path / "more")}
    apart["near"] = shutil.copytree(apart["more"], tmp_path / "near")
    shutil.rmtree(apart["near"] / more.name)
    found = compared(apart, "near", "more")
    kad = figures(found, "kad:mel")
    assert kad["more"].low > kad["near"].value
    (difference,) = found.differences
    assert difference.cells["kad:mel"] == Estimate(0.0, 0.0, 0.0, 24)


def test_every_judge_has_a_column_of_its_own(sounds: dict[str, Path], tmp_path: Path) -> None:
    folders = [save_clap(tmp_path / "clap"), save_clap(tmp_path / "other" / "clap", seconds=2)]
    claps = [find_embedder(str(folder)) for folder in (*folders, folders[0])]
    found = compared(sounds, "far", judges=Judges(claps, metrics=["kad", "clap"], resamples=100))
    keys = [column.key for column in found.columns]
    assert keys == ["kad:clap", "clap:clap", "kad:clap-2", "clap:clap-2"]
    alone = compared(sounds, "far", judges=Judges(claps[:1], metrics=["kad"], resamples=100))
    assert figures(found, "kad:clap") == figures(alone, "kad:clap")
    assert len(set(found.notes)) == len(found.notes)


def test_embedders_that_no_metric_needs_are_not_used(
    sounds: dict[str, Path], tmp_path: Path
) -> None:
    ast, clap = load_classifier(str(save_ast(tmp_path / "ast"))), save_clap(tmp_path / "clap")
    both = [MelEmbedder(), find_embedder(str(clap))]
    for metric, keys in (("kl", ["kl:ast"]), ("clap", ["clap:clap"])):
        judges = Judges(both, ast, [metric], 100)
        assert len(judges.listeners()) == 1
        assert [one.key for one in compared(sounds, "far", judges=judges).columns] == keys


def test_sounds_without_captions_serve_where_nothing_is_paired(
    sounds: dict[str, Path], tmp_path: Path
) -> None:
    for path in sounds["real"].glob("*.txt"):
        path.unlink()
    found = compared(sounds, "near")
    assert not found.faults
    assert math.isfinite(figures(found, "kad:mel")["near"].low)
    judges = Judges([], load_classifier(str(save_ast(tmp_path / "ast"))), ["kl"])
    with pytest.raises(UsageError, match="No prompt of near is a caption"):
        compared(sounds, "near", judges=judges)


def test_a_reference_with_several_captions_pairs_with_whichever_was_asked(
    sounds: dict[str, Path], tmp_path: Path
) -> None:
    for path in sounds["real"].glob("*.txt"):
        path.write_text(f"in other words {path.stem}\n{path.read_text('utf-8')}", "utf-8")
    judges = Judges([], load_classifier(str(save_ast(tmp_path / "ast"))), ["kl"], 200)
    found = compared(sounds, "near", judges=judges)
    assert not found.faults
    assert figures(found, "kl:ast")["near"].count == 24


class Pitch(MelEmbedder):
    """Pitches up to 1 kHz as points of a quarter circle, also for texts such as "200 Hz"; and as classes."""

    name = identity = "pitch"
    sample_rate = window = RATE

    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        # Of a tone of one second, the largest bin is its pitch.
        return self.of([float(torch.fft.rfft(one).abs().argmax()) for one in windows])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return self.of([float(text.split()[0]) for text in texts])

    def of(self, pitches: Sequence[float]) -> Tensor:
        turns = torch.tensor(pitches) * (math.pi / 2000)
        return torch.stack([turns.cos(), turns.sin()], 1)

    def classify(self, windows: Sequence[Tensor]) -> Tensor:
        return self.embed(windows).square()  # sums to 1


def test_a_clip_is_compared_with_its_own_caption_and_reference_though_others_share_a_caption(
    tmp_path: Path,
) -> None:
    real, made = tmp_path / "real", tmp_path / "made"
    for folder, shared in ((real, "900 Hz, of all\n"), (made, "")):
        folder_of(folder, ["200 Hz", "237 Hz", "274 Hz"], noise=0.0)
        for path in folder.glob("*.txt"):
            path.write_text(path.read_text("utf-8") + shared, "utf-8")
    classifier = Pitch()
    classifier.identity = "classes"
    judges = Judges([Pitch()], classifier, ["clap", "kl"], 200)
    found = compare([read_set(made)], read_set(real), judges)
    assert not found.faults
    assert figures(found, "clap:pitch")["made"].value == pytest.approx(1, abs=1e-5)
    assert figures(found, "clap:pitch")["real"].value == pytest.approx(1, abs=1e-5)
    assert figures(found, "kl:pitch")["made"].value == pytest.approx(0, abs=1e-5)
    assert figures(found, "kl:pitch")["made"].count == 1  # one unit, as they are not independent


def test_two_sets_of_one_name_are_refused(sounds: dict[str, Path]) -> None:
    near, far = (read_set(sounds[name], "ours") for name in ("near", "far"))
    real = read_set(sounds["real"])
    with pytest.raises(UsageError, match="Two sets are named 'ours'"):
        compare([near, far], real, Judges([MelEmbedder()]))
    with pytest.raises(UsageError, match="Two sets are named 'real'"):
        compare([read_set(sounds["far"], "real")], real, Judges([MelEmbedder()]))


def test_what_is_no_clip_is_no_clip_left_out_and_pipes_are_not_waited_for(
    sounds: dict[str, Path],
) -> None:
    real = sounds["real"]
    (real / "prompts.txt").write_text("a\nb\n", "utf-8")
    (real / "001.txt").write_text("a" * 5000, "utf-8")
    os.mkfifo(real / "pipe.wav")
    (real / "zero.wav").symlink_to("/dev/zero")
    found = compared(sounds, "near")
    left_out = {Path(fault.where).name for _, fault in found.faults if fault.left_out}
    assert left_out == {"pipe.wav", "zero.wav"}
    warned = {fault.where: fault.what for _, fault in found.faults if not fault.left_out}
    assert warned.keys() == {"prompts.txt", "001.wav"}
    for name in ("pipe.wav", "zero.wav"):
        with pytest.raises(AudioFileError, match="a pipe or a device"):
            content_hash(real / name)


def test_fad_of_too_few_clips_is_refused_with_the_number_and_kad_offered(
    sounds: dict[str, Path],
) -> None:
    with pytest.raises(
        UsageError, match=r"needs 500 windows per set, which is about 500 clips"
    ) as few:
        compared(sounds, "near", judges=Judges([MelEmbedder()], metrics=["fad"]))
    assert "--metrics kad" in few.value.hint


class Points:
    """A judge with random embeddings."""

    name, identity, sample_rate, window = "points", "points", RATE, RATE // 40

    def embed(self, windows):
        return torch.stack([w[:2] + w[-2:] for w in windows]) * 10


def test_fad_of_enough_windows_with_its_extrapolation(tmp_path: Path) -> None:
    # 30 clips of 40 windows: enough rows for the halves of the reference, and for two blocks.
    prompts = [f"noise {i}" for i in range(30)]
    real = folder_of(tmp_path / "real", prompts, noise=0.3)
    made = folder_of(tmp_path / "made", prompts, noise=0.1, seed=90)
    judges = Judges([Points()], metrics=["fad"])
    found = compared({"real": real, "made": made}, "made", judges=judges)
    fad, limit = figures(found, "fad:points"), figures(found, "fad-inf:points")
    assert fad["real, half against half"].value < fad["made"].value
    assert fad["made"].low < fad["made"].value < fad["made"].high
    assert "made" in limit
    assert "real, half against half" not in limit


class Scaled(MelEmbedder):
    """An embedder with text, whose embeddings of louder sounds are longer if it is told so."""

    def __init__(self, by_loudness: bool) -> None:
        self.by_loudness = by_loudness

    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        scales = [float(one.abs().max()) if self.by_loudness else 1.0 for one in windows]
        return super().embed(windows) * torch.tensor(scales)[:, None]

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.ones(len(texts), 192)


def test_embeddings_that_are_compared_by_cosine_are_normalised(sounds: dict[str, Path]) -> None:
    found = [
        compared(sounds, "far", judges=Judges([Scaled(way)], metrics=["kad"]))
        for way in (False, True)
    ]
    one, two = (figures(each, "kad:mel")["far"].value for each in found)
    assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.parametrize(
    ("metrics", "reference", "said"),
    [
        (["loudness"], True, "no metric 'loudness'"),
        ([], True, "no metric ''"),
        (["kl"], True, "kl needs a classifier"),
        (["clap"], True, "text as well as sound"),
        (["kad"], False, "compare with a reference"),
        (None, False, "nothing to compare with"),
    ],
)
def test_metrics_that_cannot_be_had_are_refused(
    sounds: dict[str, Path], metrics: list[str] | None, reference: bool, said: str
) -> None:
    sets = [read_set(sounds["near"])]
    with pytest.raises(UsageError, match=said):
        compare(
            sets,
            read_set(sounds["real"]) if reference else None,
            Judges([MelEmbedder()], metrics=metrics),
        )


def test_a_batch_is_read_by_its_manifest(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "batch", ["a", "b", "c"])
    for path in folder.glob("*.txt"):
        path.unlink()
    records = [
        {"file": "000.wav", "status": "done", "prompt": "a"},
        {"file": "001.wav", "status": "done", "prompt": "b\tb"},
        {"file": "002.wav", "status": "failed", "prompt": "c", "error": "no room"},
        {"file": "003.wav", "status": "done", "prompt": "d"},
        {"file": "../real/000.wav", "status": "done", "prompt": "e"},
    ]
    lines = [json.dumps(record) for record in ({"run": {}}, *records)]
    (folder / "manifest.jsonl").write_text("\n".join([*lines, "{cut"]), "utf-8")
    found = read_set(folder)
    assert [item.prompt for item in found.items] == ["a", "b b"]
    assert [fault.where for fault in found.faults][1:] == ["../real/000.wav", "002.wav", "003.wav"]
    assert "may lead out of the folder" in found.faults[1].what
    with pytest.raises(UsageError, match="no folder"):
        read_set(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no clip"):
        read_set(tmp_path / "empty")


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "one" / "clips", tmp_path / "two" / "clips", tmp_path / "other"]
    assert name_apart(folders) == ["one/clips", "two/clips", "other"]
    with pytest.raises(UsageError, match="twice"):
        name_apart([folders[0], folders[0]])


def test_a_cache_that_cannot_be_written_or_read_costs_nothing(
    sounds: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    plain = compared(sounds, "near")
    blocked = Judges([MelEmbedder()], resamples=200, cache=Cache(tmp_path / "file"))
    assert compared(sounds, "near", judges=blocked) == plain
    kept = Judges([MelEmbedder()], resamples=200, cache=Cache(tmp_path / "cache"))
    assert compared(sounds, "near", judges=kept) == plain
    rows = np.load(next((tmp_path / "cache").rglob("*.npy")))
    for damaged in (b"cut", b"PK\x03\x04 cut", rows * np.nan, rows[:0], rows[0], rows > 0):
        for path in (tmp_path / "cache").rglob("*.npy"):
            if isinstance(damaged, bytes):
                path.write_bytes(damaged)
            else:
                np.save(path, damaged)
        assert compared(sounds, "near", judges=kept) == plain
    shutil.rmtree(tmp_path / "cache")


def test_figures_in_words() -> None:
    assert in_words(Estimate(1.234, 1.1, 1.4)) == "1.23 [1.10, 1.40]"
    assert in_words(Estimate(1.234), 1) == "1.2"
    assert in_words(None) == in_words(Estimate(math.nan)) == "–"
    assert difference_in_words(Estimate(1.0, -0.5, 2.5), 1) == "+1.0 [-0.5, +2.5] ≈ 0"
    assert difference_in_words(Estimate(-1.0, -1.5, -0.5), 1) == "-1.0 [-1.5, -0.5]"
