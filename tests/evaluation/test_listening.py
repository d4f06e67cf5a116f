"""Listening tests: contents of the page, orders of listeners, and the analysis of answers."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from magnet_cli.audio.loudness import measure
from magnet_cli.errors import DataError, MagnetError, UsageError
from magnet_cli.evaluation.listening import (
    ANCHOR,
    ANSWERS_FORMAT,
    REFERENCE,
    make_study,
    orders,
    williams,
)
from magnet_cli.evaluation.listening_results import read_results
from magnet_cli.evaluation.plots import Panel, draw_intervals
from magnet_cli.evaluation.sets import read_set
from magnet_cli.evaluation.statistics import Estimate, holm
from tests.evaluation.judges import folder_of

PROMPTS = [f"tone <b>number</b> {i}" for i in range(6)]


def study_in(page: Path) -> dict[str, Any]:
    text = page.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="study">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {
        name: folder_of(tmp_path / name, PROMPTS, shift=30 * i, noise=0.002 * 10**i, seed=50 * i)
        for i, name in enumerate(("nonoverlap", "strideone", "truth"))
    }


def made(folders: dict[str, Path], tmp_path: Path, test: str, **more: Any) -> dict[str, Any]:
    systems = {name: read_set(folders[name]) for name in ("nonoverlap", "strideone")}
    reference = None if test == "ab" else read_set(folders["truth"])
    study = make_study(systems, reference, test, tmp_path / "study", seed=3, secret="s", **more)
    return study_in(study.page)


@pytest.mark.parametrize("test", ["mos", "mushra", "ab"])
def test_the_page_is_whole_and_names_no_system(
    folders: dict[str, Path], tmp_path: Path, test: str
) -> None:
    study = made(folders, tmp_path, test, clips=4)
    page = (tmp_path / "study" / "page" / "index.html").read_text("utf-8")
    for hidden in ("nonoverlap", "strideone", "truth", str(tmp_path), REFERENCE, ANCHOR, ".wav"):
        assert hidden not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<b>number" not in page  # a prompt cannot end the script, or speak HTML
    key = json.loads((tmp_path / "study" / "key.json").read_text("utf-8"))
    sounds = set(study["sounds"]) - {"check", *(s["reference"] for s in study["screens"])}
    assert set(key["clips"]) == sounds
    assert len(study["screens"]) == 4
    per_prompt = {"mos": 3, "mushra": 4, "ab": 2}[test]
    assert len(sounds) == 4 * per_prompt
    assert sorted(path.name for path in (tmp_path / "study" / "page").iterdir()) == ["index.html"]


def test_clips_are_equally_loud_and_the_anchor_is_dull(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for path in folders["truth"].glob("*.wav"):  # with much above the anchor's low-pass
        noise = np.random.default_rng(1).normal(size=16_000) * 0.05
        soundfile.write(path, noise, 16_000)
    study = made(folders, tmp_path, "mushra", clips=2)
    key = json.loads((tmp_path / "study" / "key.json").read_text("utf-8"))
    high = {}
    for token, clip in key["clips"].items():
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(study["sounds"][token])))
        assert measure(samples[None], rate) == pytest.approx(-23, abs=0.2)
        power = np.abs(np.fft.rfft(samples)) ** 2
        high[clip["system"]] = power[len(power) // 2 :].sum() / power.sum()
    assert high[ANCHOR] < 1e-3 < high[REFERENCE]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_system_stands_everywhere_and_behind_every_other_equally_often(count: int) -> None:
    rows = williams(count)
    for place in range(count):
        assert len(set(Counter(row[place] for row in rows).values())) == 1
    follows = Counter(pair for row in rows for pair in itertools.pairwise(row))
    assert len(follows) == count * (count - 1)
    assert len(set(follows.values())) == 1


@pytest.mark.parametrize("test", ["mos", "mushra"])
def test_orders_are_balanced_over_listeners(test: Any) -> None:
    screens = [(f"s{i}", [f"{i}a", f"{i}b", f"{i}c"]) for i in range(6)]
    found = orders(screens, test, random.Random(1))
    assert len(found) == 24
    for order in found:
        heard = [token for _, tokens in order for token in tokens]
        assert sorted(heard) == sorted(token for _, tokens in screens for token in tokens)
        first = [screen for screen, _ in order][:6]
        assert len(set(first)) == 6  # a mos test hears every prompt once before any again
    firsts = Counter(order[0][1][0][-1] for order in found)
    assert set(firsts.values()) == {8}


def test_why_no_prompt_can_be_asked_is_said(folders: dict[str, Path], tmp_path: Path) -> None:
    for path in folders["strideone"].glob("*.wav"):
        path.write_bytes(b"broken")
    with pytest.raises(UsageError, match="No prompt has a playable clip") as none:
        made(folders, tmp_path, "ab")
    assert len(none.value.details) == 5
    assert "is not a sound" in none.value.details[0]


def test_names_that_are_not_utf8_are_in_the_key_and_a_page_is_not_replaced_without_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    if os.fsencode("\udcff") == b"\xff":
        for end in ("wav", "txt"):
            (folders["strideone"] / f"000.{end}").rename(folders["strideone"] / f"\udcff.{end}")
    made(folders, tmp_path, "ab")
    page, key = tmp_path / "study" / "page" / "index.html", tmp_path / "study" / "key.json"
    clips = json.loads(key.read_text("ascii"))["clips"].values()
    assert any(os.path.exists(clip["file"]) and "\udcff" in clip["file"] for clip in clips)
    before = page.read_bytes()
    key.unlink()
    (key / "in the way").mkdir(parents=True)
    with pytest.raises(MagnetError, match=r"key\.json"):
        made(folders, tmp_path, "ab", title="Another")
    assert page.read_bytes() == before
    assert not [*tmp_path.rglob(".partial-*")]


def test_clips_are_of_one_caption_though_references_share_another(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for path in folders["truth"].glob("*.txt"):
        path.write_text(f"{path.read_text('utf-8')}a tone\n", "utf-8")
    (folders["nonoverlap"] / "000.wav").unlink()
    (folders["strideone"] / "001.wav").unlink()
    made(folders, tmp_path, "mos")
    key = json.loads((tmp_path / "study" / "key.json").read_text("utf-8"))
    assert {Path(clip["file"]).name for clip in key["clips"].values()} == {"002.wav"}


def test_prompts_that_a_system_lacks_are_not_asked_and_the_draw_is_the_seeds(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (folders["strideone"] / "002.wav").unlink()
    (folders["nonoverlap"] / "003.wav").write_bytes(b"broken")
    study = made(folders, tmp_path, "ab")
    asked = {screen["prompt"] for screen in study["screens"]}
    assert asked == {PROMPTS[i] for i in (0, 1, 4, 5)}
    assert made(folders, tmp_path, "ab") == study


@pytest.mark.parametrize(
    ("test", "names", "reference", "said"),
    [
        ("ab", ["nonoverlap"], False, "two systems"),
        ("ab", ["nonoverlap", "strideone"], True, "no reference"),
        ("mushra", ["nonoverlap"], False, "needs a reference"),
        ("abx", ["nonoverlap"], False, "no test 'abx'"),
    ],
)
def test_what_does_not_fit_a_test_is_refused(
    folders: dict[str, Path],
    tmp_path: Path,
    test: Any,
    names: list[str],
    reference: bool,
    said: str,
) -> None:
    systems = {name: read_set(folders[name]) for name in names}
    truth = read_set(folders["truth"]) if reference else None
    with pytest.raises(UsageError, match=said):
        make_study(systems, truth, test, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def answered(
    tmp_path: Path, file: str, give: Callable[[str, str], Any], name: str = "", **more: Any
) -> Path:
    """A file as saved by the page, for a listener with the given rating of each system and question."""
    study = study_in(tmp_path / "study" / "page" / "index.html")
    key = json.loads((tmp_path / "study" / "key.json").read_text("utf-8"))
    questions = [question["id"] for question in study["questions"]]
    answers = []
    for screen, tokens in study["orders"][0]:
        if study["test"] == "ab":
            by_system = {key["clips"][token]["system"]: token for token in tokens}
            answers.append({"screen": screen} | {q: by_system[give("", q)] for q in questions})
            continue
        for token in tokens:
            system = key["clips"][token]["system"]
            answers.append(
                {"screen": screen, "clip": token} | {q: give(system, q) for q in questions}
            )
    record = {
        "format": ANSWERS_FORMAT,
        "study": study["study"],
        "rater": file,
        "name": name,
        "complete": True,
        "answers": answers,
    }
    path = tmp_path / f"{file}.json"
    path.write_text(json.dumps(record | more), "utf-8")
    return path


def test_mean_opinions_with_intervals_differences_and_an_odd_listener_left_out(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    made(folders, tmp_path, "mos")
    rng = np.random.default_rng(0)
    levels = {"nonoverlap": 40, "strideone": 60, REFERENCE: 85}

    def honest(system: str, question: str) -> int:
        return int(levels[system] + rng.integers(-8, 9))

    files = [answered(tmp_path, f"r{i}", honest, name="Ada" if i < 2 else "") for i in range(6)]
    files.append(answered(tmp_path, "contrary", lambda s, q: 100 - honest(s, q), name="Zed"))
    found = read_results(tmp_path / "study", files)
    assert [one.where for one in found.dropped] == ["Zed"]
    assert "Ada" in found.listeners
    assert "Ada (r1)" in found.listeners
    quality = found.ratings["quality"]
    assert quality["strideone"].holds(60)
    assert quality["nonoverlap"].high < quality["strideone"].low
    (difference, _) = found.differences
    assert difference.estimate.holds(-20)
    assert difference.p < 0.05
    text = found.markdown()
    assert "Excluded: Zed" in text
    assert json.loads(json.dumps(found.record(), allow_nan=False))["prompts"] == 6


def test_mushra_leaves_out_who_misses_the_reference_or_praises_the_anchor(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    made(folders, tmp_path, "mushra")
    good = {"nonoverlap": 50, "strideone": 70, REFERENCE: 97, ANCHOR: 20}
    files = [
        answered(tmp_path, "good", lambda s, q: good[s], name="good"),
        answered(tmp_path, "low", lambda s, q: {**good, REFERENCE: 80}[s], name="low"),
        answered(tmp_path, "high", lambda s, q: {**good, ANCHOR: 90}[s], name="high"),
    ]
    found = read_results(tmp_path / "study" / "key.json", files)
    assert found.listeners == ("good",)
    assert {one.where: one.what.partition(" in ")[0] for one in found.dropped} == {
        "low": "the hidden reference is under 90",
        "high": "the low anchor is over 80",
    }
    assert list(found.ratings) == ["quality"]
    assert list(found.ratings["quality"]) == ["nonoverlap", "strideone", REFERENCE, ANCHOR]
    with pytest.raises(UsageError, match="leaves no listener"):
        read_results(tmp_path / "study", files[1:])


def test_the_rules_of_mushra_count_cases(folders: dict[str, Path], tmp_path: Path) -> None:
    """Two missed references of six are more than a fifth, one is not; three anchors are no more than half."""
    made(folders, tmp_path, "mushra")
    good = {"nonoverlap": 50, "strideone": 70, REFERENCE: 97, ANCHOR: 20}

    def careless(system: str, cases: int, rating: int) -> Callable[[str, str], int]:
        seen = itertools.count()
        return lambda s, q: rating if s == system and next(seen) < cases else good[s]

    files = [
        answered(
            tmp_path, f"{system}-{cases}", careless(system, cases, rating), f"{system} {cases}"
        )
        for system, cases, rating in (
            (REFERENCE, 1, 89),
            (REFERENCE, 2, 89),
            (ANCHOR, 3, 81),
            (ANCHOR, 4, 81),
        )
    ]
    found = read_results(tmp_path / "study", files)
    assert set(found.listeners) == {f"{REFERENCE} 1", f"{ANCHOR} 3"}
    assert {one.where for one in found.dropped} == {f"{REFERENCE} 2", f"{ANCHOR} 4"}


def test_p_values_are_corrected_for_all_pairs_of_a_question(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = {name: read_set(folder) for name, folder in folders.items()}
    make_study(systems, None, "mos", tmp_path / "study", seed=3)
    rng = np.random.default_rng(0)
    levels = {"nonoverlap": 50, "strideone": 54, "truth": 60}
    files = [
        answered(tmp_path, f"r{i}", lambda s, q: int(levels[s] + rng.integers(-9, 10)))
        for i in range(2)
    ]
    corrected = [one.p for one in read_results(tmp_path / "study", files).differences]
    monkeypatch.setattr("magnet_cli.evaluation.listening_results.holm", list)
    plain = [one.p for one in read_results(tmp_path / "study", files).differences]
    assert len(plain) == 6
    assert corrected == [*holm(plain[:3]), *holm(plain[3:])] != plain


def test_choices_are_shares_with_wilsons_interval(folders: dict[str, Path], tmp_path: Path) -> None:
    made(folders, tmp_path, "ab")
    folder = tmp_path / "answers"
    folder.mkdir()
    for i in range(5):
        better = "strideone" if i < 4 else "nonoverlap"
        answered(tmp_path, f"r{i}", lambda s, q, b=better: b).rename(folder / f"r{i}.json")
    found = read_results(tmp_path / "study", [folder])
    share = found.ratings["quality"]["strideone"]
    assert (share.value, share.count) == (0.8, 30)
    assert share.low == pytest.approx(0.627, abs=0.001)
    assert found.differences == ()
    assert "share of choices" in found.markdown()


def test_files_that_cannot_be_used_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    made(folders, tmp_path, "mos")
    good = answered(tmp_path, "good", lambda s, q: 50)
    strange = answered(tmp_path, "strange", lambda s, q: 50, name="\x1b[2JEve\n" * 99)
    answered(tmp_path, "more", lambda s, q: 60, rater="good")
    answered(tmp_path, "other", lambda s, q: 50, study="000000000000")
    answered(tmp_path, "much", lambda s, q: 101)
    for i, screen in enumerate(([], {}, None, "s")):
        answered(tmp_path, f"wrong{i}", lambda s, q: 50, answers=[{"screen": screen, "quality": 5}])
    (tmp_path / "cut.json").write_text("{", "utf-8")
    (tmp_path / "list.json").write_text("[]", "utf-8")
    screen, (clip, *_) = next(
        (id_, one["clips"])
        for id_, one in json.loads((tmp_path / "study" / "key.json").read_text("utf-8"))[
            "screens"
        ].items()
    )
    both = [{"screen": screen, "clip": clip, "quality": rating} for rating in (5, 90)]
    answered(tmp_path, "both", lambda s, q: 50, answers=both)
    bad = ["more", "other", "much", "both", "cut", "list", "gone", *(f"wrong{i}" for i in range(4))]
    files = [good, strange, *(tmp_path / f"{name}.json" for name in bad)]
    found = read_results(tmp_path / "study", files)
    said = {Path(one.where).stem: one.what for one in found.faults}
    assert list(said) == bad
    assert "twice" in said["more"]
    assert "another study" in said["other"]
    assert "rating of 101" in said["much"]
    assert "answers a question twice" in said["both"]
    assert "\x1b" not in found.markdown()
    assert any(name.startswith("[2JEve [2JEve") and len(name) <= 60 for name in found.listeners)
    with pytest.raises(UsageError, match="No file holds answers") as none:
        read_results(tmp_path / "study", [tmp_path / "other.json"])
    assert none.value.details[0].endswith("other.json: it cannot be used: it answers another study")
    with pytest.raises(DataError, match="not the key"):
        read_results(tmp_path / "cut.json", [good])


@pytest.mark.parametrize(
    ("part", "value"), [("clips", {}), ("screens", {}), ("screens", []), ("title", 3)]
)
def test_a_damaged_key_is_no_key(
    folders: dict[str, Path], tmp_path: Path, part: str, value: Any
) -> None:
    made(folders, tmp_path, "mos")
    good = answered(tmp_path, "good", lambda s, q: 50)
    path = tmp_path / "study" / "key.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {part: value}), "utf-8")
    with pytest.raises(DataError, match="not the key"):
        read_results(tmp_path / "study", [good])


def test_intervals_are_drawn(tmp_path: Path) -> None:
    from PIL import Image

    cells = {
        "base": Estimate(1.0, 0.5, 1.5),
        "a very long name " * 5: Estimate(-2.0),
        "gone": Estimate(float("nan")),
    }
    draw_intervals(
        tmp_path / "plot.png", list(cells), [Panel("KAD ↓", cells, 0.0)] * 2, "Title", "base"
    )
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size[0] > 900
