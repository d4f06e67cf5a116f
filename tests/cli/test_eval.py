"""`magnet eval`, `magnet sweep` and `magnet listen` on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import magnet_cli
from magnet_cli.evaluation.listening import ANSWERS_FORMAT
from tests.cli.conftest import SMALL, Magnet
from tests.evaluation.judges import folder_of, save_ast, save_clap

PROMPTS = ["low tone", "high tone", "a middle tone", "no tone"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folders(home: Path) -> None:
    for i, name in enumerate(("ours", "theirs", "test")):
        folder_of(home / name, PROMPTS, shift=50 * i, seed=10 * i)


@pytest.mark.usefixtures("folders")
def test_eval_prints_a_table_and_draws_it(magnet: Magnet) -> None:
    found = magnet(
        "eval", "ours", "theirs", "--reference", "test", "--plot", "plot.png", "--offline"
    )
    assert found.status == 0, found.err
    assert "| theirs | 4 |" in found.out
    assert "| minus ours |" in found.out
    assert "does not judge perception" in found.out
    assert Path("plot.png").stat().st_size > 1000
    again = magnet("eval", "ours", "theirs", "--reference", "test", "--json", "-q")
    (record,) = again.records
    assert again.err == ""
    assert [row["name"] for row in record["rows"] if row["role"] == "system"] == ["ours", "theirs"]


@pytest.mark.usefixtures("folders")
def test_eval_by_learned_judges_from_folders(magnet: Magnet) -> None:
    clap, ast = str(save_clap(Path("clap"))), str(save_ast(Path("ast")))
    arguments = ("--embedder", clap, "--embedder", "mel", "--classifier", ast, "--bootstrap", "100")
    found = magnet("eval", "ours", "--reference", "test", *arguments, "--offline", "--json")
    assert found.status == 0, found.err
    keys = [column["key"] for column in found.records[0]["columns"]]
    assert keys == ["kad:clap", "clap:clap", "kad:mel", "kl:ast"]
    alone = magnet("eval", "ours", "--embedder", clap, "--metrics", "clap", "--offline")
    assert alone.status == 0, alone.err
    assert "| CLAP score (clap) ↑ |" in alone.out


@pytest.mark.usefixtures("folders")
def test_eval_names_what_it_leaves_out_and_says_so_in_its_status(magnet: Magnet) -> None:
    soundfile.write("ours/000.wav", np.zeros(8000, np.float32), 16_000)
    found = magnet("eval", "ours", "--reference", "test")
    assert found.status == 4
    assert "000.wav is silent" in found.err
    assert "| ours | 3 |" in found.out


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("ours",), 2, "Without a reference"),
        (("nowhere", "--reference", "test"), 2, "no folder 'nowhere'"),
        (("ours", "--reference", "test", "--metrics", "fad"), 2, "needs 500 windows"),
        (("ours", "--reference", "test", "--metrics", "kl"), 2, "kl needs a classifier"),
        (("ours", "--reference", "test", "--embedder", "laion/clap", "--offline"), 3, "laion/clap"),
        (("ours", "--reference", "test", "--embedder", "clap"), 2, "no embedder 'clap'"),
        (("ours", "--reference", "test", "--plot", "plot.jpg"), 2, "is not a .png file"),
        (("ours", "--reference", "test", "--device", "cuda:77"), 2, "no device"),
        (("ours", "ours", "--reference", "test"), 2, "given twice"),
    ],
)
def test_eval_refuses(magnet: Magnet, arguments: tuple[str, ...], status: int, said: str) -> None:
    found = magnet("eval", *arguments)
    assert found.status == status, found.err
    assert said in found.err


SWEEP = ("-m", SMALL, "--steps", "1", "-d", "0.4", "--seed", "5", "-q")


def test_a_sweep_makes_rows_resumes_and_compares_them(magnet: Magnet, home: Path) -> None:
    Path("prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS), "utf-8")
    folder_of(home / "test", PROMPTS)
    vary = ("--vary", "span_len=1;3", "--vary", "temperature=1", "--reference", "test")
    found = magnet("sweep", "prompts.txt", "-O", "rows", *SWEEP, *vary)
    assert found.status == 0, found.err
    assert "| span_len=1 |" in found.out
    assert "changes in decoding only" in found.out
    names = sorted(path.name for path in Path("rows").iterdir())
    assert names == [
        "baseline",
        "plot.png",
        "results.json",
        "span-len-1",
        "table.md",
        "temperature-1",
    ]
    made = {path: path.stat().st_mtime_ns for path in Path("rows").rglob("*.wav")}
    assert len(made) == 3 * len(PROMPTS)
    record = json.loads(Path("rows/results.json").read_text("utf-8"))
    assert [row["name"] for row in record["differences"]] == ["span_len=1", "temperature=1"]
    next(iter(made)).unlink()
    again = magnet("sweep", "prompts.txt", "-O", "rows", *SWEEP, *vary)
    assert again.status == 0, again.err
    assert again.out == found.out
    kept = [path for path, time in made.items() if path.stat().st_mtime_ns == time]
    assert len(kept) == len(made) - 1
    # A clip that the file no longer asks for stays, and is not measured.
    Path("prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS[:-1]), "utf-8")
    fewer = magnet("sweep", "prompts.txt", "-O", "rows", *SWEEP, *vary)
    assert fewer.status == 0, fewer.err
    assert len(list(Path("rows").rglob("*.wav"))) == len(made)
    assert "| baseline | 3 |" in fewer.out


def test_a_sweep_shows_its_rows_and_refuses_what_cannot_vary(magnet: Magnet) -> None:
    Path("prompts.txt").write_text("rain\n", "utf-8")
    shown = magnet(
        "sweep", "prompts.txt", "-O", "rows", "-m", SMALL, "--preset", "paper", "--dry-run", "-q"
    )
    assert shown.status == 0, shown.err
    assert "subcodes_context=-1  (rows/subcodes-context-minus-1)" in shown.out
    assert not Path("rows").exists()
    for arguments, said in (
        (("--vary", "span_lenn=1"), "Did you mean span_len"),
        (("--vary", "span_len"), "--vary cannot be"),
        ((), "Nothing differs"),
        (("--preset", "fast"), "no sweep preset 'fast'"),
        (("-m", "musicgen", "--vary", "span_len=1"), "one model"),
        (("--vary", "rescorer_weight=0.3"), "needs a rescorer"),
        (("--vary", "span_len=1", "-m", "x="), "'x=' is not a row"),
        (("--vary", "span_len=1", "-m", "x=a", "-m", "x=b"), "Two rows are named 'x'"),
    ):
        refused = magnet("sweep", "prompts.txt", "-O", "rows", *SWEEP, *arguments)
        assert refused.status == 2, refused.err
        assert said in refused.err
    vary = ("--rescorer", "self", "--vary", "rescorer_weight=0;0.5;1", "--dry-run", "-q")
    rescored = magnet("sweep", "prompts.txt", "-O", "rows", "-m", "nano", "--seed", "0", *vary)
    assert [row.split()[0] for row in rescored.out.splitlines()] == [
        "baseline",  # without the rescorer, so that its usual weight is a row
        "rescorer_weight=0.5",
        "rescorer_weight=1",
    ]
    unseeded = magnet("sweep", "prompts.txt", "-O", "rows", "-m", SMALL, "--vary", "span_len=1")
    assert "needs a seed" in unseeded.err


def test_what_a_sweep_cannot_make_is_said_before_it_makes_anything(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("prompts.txt").write_text("rain\n", "utf-8")
    vary = ("--vary", "temperature=1")
    for wrong, status, said in (
        (("--vary", "steps=3,2"), 2, "Row decoding_steps=3,2: There are 2 numbers of steps"),
        (("--vary", "hybrid=99"), 2, "Row hybrid=99: "),
        (("--steps", "3,2"), 2, "Row baseline: There are 2 numbers of steps"),
        (("-m", "other=nowhere", "--offline"), 3, "nowhere"),
    ):
        found = magnet("sweep", "prompts.txt", "-O", "rows", *SWEEP, *vary, *wrong)
        assert found.status == status, found.err
        assert said in found.err
        assert "Made" not in found.err
        assert not Path("rows").exists()
    shown = magnet(
        "sweep", "prompts.txt", "-O", "rows", *SWEEP, "-m", "x=dir", "--dry-run", "--json"
    )
    assert shown.records[-1] == {"row": "x", "folder": "x", "decoding": {}, "model": "dir"}

    # A file of prompts that cannot be used, even before the model is loaded.
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("magnet_cli.cli.loading.load", load)
    Path("empty.txt").touch()
    Path("bad.jsonl").write_text('{"prompt": 3}\n', "utf-8")
    for file, said in (
        ("nowhere.txt", "There is no file"),
        ("empty.txt", "has no prompts"),
        ("bad.jsonl", "Line 1: prompt cannot be 3"),
    ):
        found = magnet("sweep", file, "-O", "rows", *SWEEP, *vary)
        assert (found.status, said in found.err) == (2, True), found.err
        assert "--skip-bad" not in found.err  # `sweep` has no such flag


def test_a_row_that_fails_costs_no_other_row(magnet: Magnet, home: Path) -> None:
    """Its weights are NaN, so its clips fail; then they are cut short, which shows before the first clip."""
    Path("prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS), "utf-8")
    folder_of(home / "test", PROMPTS)
    other = shutil.copytree(Path(magnet_cli.__file__).parent / "assets" / "nano", home / "nan")
    weights = {
        name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(other / "lm.safetensors").items()
    }
    with safe_open(other / "lm.safetensors", "pt") as file:
        save_file(weights, other / "lm.safetensors", file.metadata())
    asked = ("sweep", "prompts.txt", "-O", "rows", *SWEEP, "--reference", "test")
    found = magnet(*asked, "-m", "broken=nan", "--vary", "temperature=1")
    assert found.status == 4, found.err
    assert "Clips of broken could not be made" in found.err
    assert "| temperature=1 |" in found.out
    assert "| broken |" not in found.out
    # Nothing but the baseline is left: the table has no differences.
    alone = magnet(*asked, "-m", "broken=nan")
    assert (alone.status, "| baseline | 4 |" in alone.out) == (4, True), alone.err
    # A clip that was cut short is not measured.
    clip = next(Path("rows/baseline").glob("*.wav"))
    clip.write_bytes(clip.read_bytes()[:-2000])
    cut = magnet(*asked, "--vary", "temperature=1")
    assert (cut.status, "| baseline | 3 |" in cut.out) == (4, True), cut.err
    assert "smaller than when written" in Path("rows/results.json").read_text("utf-8")
    with (other / "lm.safetensors").open("r+b") as file:
        file.truncate(500_000)
    Path("one.txt").write_text("rain\n", "utf-8")
    for wrong, status, said in (
        (("prompts.txt", "-m", "broken=nan"), 3, "lm.safetensors cannot be read"),
        (("one.txt", "--vary", "temperature=1"), 2, "need two clips or more"),
    ):
        found = magnet("sweep", *wrong, "-O", "new", *SWEEP, "--reference", "test")
        assert found.status == status, found.err
        assert said in found.err
        assert not Path("new").exists()


def test_a_rescorer_is_left_out_with_its_weight(magnet: Magnet) -> None:
    Path("prompts.txt").write_text("rain\n", "utf-8")
    nano = ("-m", "nano", "--seed", "1", "-d", "0.5", "--hybrid", "0", "--steps", "1", "-q")
    rescored = ("--rescorer", "self", "--rescorer-weight", "0.3", "--vary", "rescorer_weight=0.5")
    found = magnet("sweep", "prompts.txt", "-O", "rows", *nano, *rescored)
    assert found.status == 0, found.err
    for row, weight in (("baseline", None), ("rescorer-weight-0-5", 0.5)):
        lines = Path("rows", row, "manifest.jsonl").read_text("utf-8").splitlines()
        (clip,) = (record for record in map(json.loads, lines) if record.get("status") == "done")
        assert clip["settings"].get("rescorer_weight") == weight
    # Settings of a rescorer in a row without one are refused, also before anything is made.
    wrong = ("--vary", "rescore_streams=0", "--dry-run")
    refused = magnet("sweep", "prompts.txt", "-O", "new", *nano, *rescored, *wrong)
    assert (refused.status, "Row rescore_streams=0" in refused.err) == (2, True), refused.err


@pytest.mark.usefixtures("folders")
def test_a_study_is_made_and_its_answers_are_read(magnet: Magnet) -> None:
    made = magnet("listen", "make", "a=ours", "b=theirs", "-O", "study", "--test", "ab", "--json")
    assert made.status == 0, made.err
    assert made.records[0]["screens"] == 4
    key = json.loads(Path("study/key.json").read_text("utf-8"))
    best = {clip["prompt"]: token for token, clip in key["clips"].items() if clip["system"] == "b"}
    answers = [
        {"screen": id_, "quality": best[screen["prompt"]], "relevance": best[screen["prompt"]]}
        for id_, screen in key["screens"].items()
    ]
    record = {"format": ANSWERS_FORMAT, "study": key["study"], "rater": "r1", "answers": answers}
    Path("answers.json").write_text(json.dumps(record), "utf-8")
    Path("other.json").write_text("{}", "utf-8")
    found = magnet("listen", "results", "study", "answers.json", "--plot", "plot.png")
    assert found.status == 0, found.err
    assert "| b | 1.000 [" in found.out
    assert Path("plot.png").is_file()
    partly = magnet("listen", "results", "study", "answers.json", "other.json", "--json")
    assert partly.status == 4
    assert partly.records[0]["ratings"]["quality"]["b"]["value"] == 1
    assert "other.json" in partly.err


@pytest.mark.usefixtures("folders")
def test_a_study_is_not_replaced_and_systems_have_names(magnet: Magnet) -> None:
    assert magnet("listen", "make", "a=ours", "-O", "study").status == 0
    again = magnet("listen", "make", "a=ours", "-O", "study")
    assert (again.status, "already holds a study" in again.err) == (2, True)
    assert magnet("listen", "make", "a=ours", "-O", "study", "--force").status == 0
    for arguments, said in (
        (("ours",), "'ours' is not a system"),
        (("a=ours", "a=theirs"), "Two systems are named 'a'"),
        (("a=ours", "--test", "abx"), "no test 'abx'"),
        (("a=ours", "--test", "mushra"), "needs a reference"),
    ):
        refused = magnet("listen", "make", *arguments, "-O", "other")
        assert refused.status == 2
        assert said in refused.err
    nothing = magnet("listen", "results", "nowhere", "answers.json")
    assert (nothing.status, "not the key" in nothing.err) == (2, True)
