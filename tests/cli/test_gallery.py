"""`magnet gallery` and `magnet batch --gallery`, on a golden checkpoint."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from tests.cli.conftest import QUICK, SMALL, Magnet

FAST = ("-m", SMALL, "--steps", "1", "-d", "0.2")


def clips(page: str) -> list[dict[str, Any]]:
    text = Path(page).read_text("utf-8")
    (inside,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    found: list[dict[str, Any]] = json.loads(inside)["clips"]
    return found


def test_a_batch_leaves_a_page(home: Path, magnet: Magnet) -> None:
    (home / "p.txt").write_text("rain\nwind\n")
    assert magnet("batch", "p.txt", "-O", "plain", *QUICK).status == 0
    assert not Path("plain/index.html").exists()
    outcome = magnet("batch", "p.txt", "-O", "clips", *QUICK, "--gallery", "--json")
    assert outcome.status == 0
    assert "Wrote clips/index.html: 2 clips" in outcome.err
    assert [record["event"] for record in outcome.records][-2:] == ["gallery", "end"]
    rain, wind = clips("clips/index.html")
    assert (rain["prompt"], rain["seed"], rain["model"]) == ("rain", 5, SMALL)
    assert -15 < rain["lufs"] < -13
    # Its command and its line make it again.
    assert magnet(*shlex.split(rain["command"])[1:]).status == 0
    assert Path(rain["file"]).read_bytes() == Path("clips", rain["file"]).read_bytes()
    (home / "again.jsonl").write_text("".join(json.dumps(c["again"]) + "\n" for c in (rain, wind)))
    assert magnet("batch", "again.jsonl", "-O", "again", "-m", SMALL, "--seed", "99").status == 0
    assert Path("again", "0000-rain-5.wav").read_bytes() == Path(rain["file"]).read_bytes()


def test_any_folder_of_sounds_has_a_page(home: Path, magnet: Magnet) -> None:
    (home / "own").mkdir()
    for name, more in (
        ("a.flac", ("--lufs", "-20", "--negative", "drums")),
        ("loop.wav", ("--loop", "-d", "1")),
    ):
        assert magnet("gen", "rain", *QUICK, *more, "-o", f"own/{name}").status == 0, name
    outcome = magnet("gallery", "own", "--title", "Mine")
    assert (outcome.status, outcome.stdout) == (0, b"")
    flac, loop = clips("own/index.html")
    assert flac["again"] == {
        "prompt": "rain", "negative": "drums", "seed": 5, "duration": 0.2, "format": "flac",
        "decoding_steps": [1], "lufs": -20.0,
    }  # fmt: skip
    assert (loop["again"]["task"], loop["again"]["duration"]) == ("loop", 1.0)
    assert "--loop" in loop["command"]
    Path("own/b.wav").write_text("no sound")
    outcome = magnet("gallery", "own", "--json")
    assert outcome.status == 4
    (record,) = outcome.records
    assert record["clips"] == 2
    assert [fault["file"] for fault in record["faults"]] == ["b.wav"]


def test_a_page_of_someone_else_stops_the_batch_before_it_begins(
    home: Path, magnet: Magnet
) -> None:
    (home / "p.txt").write_text("rain\n")
    (home / "clips").mkdir()
    (home / "clips" / "index.html").write_text("mine")
    outcome = magnet("batch", "p.txt", "-O", "clips", *FAST, "--gallery")
    assert outcome.status == 2
    assert [path.name for path in Path("clips").iterdir()] == ["index.html"]
    assert magnet("batch", "p.txt", "-O", "clips", *FAST, "--gallery", "--force").status == 0
    assert len(clips("clips/index.html")) == 1
