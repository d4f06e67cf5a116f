"""`magnet batch` with tasks, inputs, prompts by time and models per line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magnet_cli.api import Model
from magnet_cli.batch.jobs import WHOLE
from magnet_cli.batch.manifest import Manifest
from magnet_cli.settings import OutputConfig
from tests import sounds
from tests.batch.hands import hires
from tests.cli.conftest import SMALL, Magnet

FAST = ("-m", SMALL, "--steps", "1", "--seed", "5")


def write(path: str, *lines: dict[str, Any]) -> str:
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def riff(home: Path) -> str:
    """Half a second of noise."""
    noise = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    sounds.write(home / "riff.wav", noise[None], 32_000, "wav", OutputConfig())
    return "riff.wav"


def clips(folder: str = "clips") -> list[dict[str, Any]]:
    return list(Manifest.read(Path(folder), WHOLE).clips.values())


TASKS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "vary": ({"strength": 0.7}, ("vary", "riff.wav", "rain", "--strength", "0.7")),
    "vary streams": (
        {"task": "vary", "keep_streams": 1},
        ("vary", "riff.wav", "rain", "--keep-streams", "1"),
    ),
    "extend": (
        {"duration": 0.9, "at": "0.6 wind"},
        ("extend", "riff.wav", "rain", "--at", "0.6", "wind", "--to", "0.9"),
    ),
    "edit": (
        {"region": "0.1-0.2; 0.3-0.4"},
        ("edit", "riff.wav", "rain", "--region", "0.1-0.2", "--region", "0.3-0.4"),
    ),
    "edit all": (
        {"task": "edit", "region": [[0.1, 0.2]], "through_codec": True, "lufs": -20},
        ("edit", "riff.wav", "rain", "--region", "0.1-0.2", "--through-codec", "--lufs", "-20"),
    ),
    "loop": ({"duration": 0.8}, ("gen", "rain", "--loop", "-d", "0.8")),
    "loop, exact": (
        {"task": "loop", "duration": 0.7, "exact": True},
        ("gen", "rain", "--loop", "-d", "0.7", "--exact"),
    ),
    "bars": (
        {"task": "loop", "bpm": 240, "bars": 1, "tries": 1},
        ("gen", "rain", "--loop", "--bpm", "240", "--bars", "1", "--tries", "1"),
    ),
    "times": (
        {"task": "gen", "at": [[0.3, "wind"]], "duration": 0.6},
        ("gen", "rain", "--at", "0.3", "wind", "-d", "0.6"),
    ),
}  # fmt: skip


def test_a_line_makes_what_the_command_of_its_task_makes(magnet: Magnet, riff: str) -> None:
    lines = []
    for name, (line, _) in TASKS.items():
        task = line.get("task", name)
        given = {} if task in ("gen", "loop") else {"input": riff}
        lines.append({"prompt": "rain", "task": task, "seed": 9, "out": name, **given, **line})
    command = ("batch", write("p.jsonl", *lines), "-O", "clips", *FAST)
    assert magnet(*command).status == 0
    for name, (_, words) in TASKS.items():
        alone = magnet(*words, *FAST, "--seed", "9", "-o", "alone.wav", "--force")
        assert alone.status == 0, alone.err
        assert Path(f"clips/{name}.wav").read_bytes() == Path("alone.wav").read_bytes(), name
    assert f"{len(TASKS)} of {len(TASKS)} clips are done" in magnet(*command).err
    assert "magnet extend riff.wav" in magnet("show", "clips/extend.wav").out
    # The gallery's stars: the line of each makes it again.
    assert magnet("gallery", "clips").status == 0
    page = Path("clips/index.html").read_text("utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    starred = json.loads(data)["clips"]
    write("starred.jsonl", *({**each["again"], "out": each["file"]} for each in starred))
    assert magnet("batch", "starred.jsonl", "-O", "again", *FAST).status == 0
    for each in starred:
        made = Path("again", each["file"]).read_bytes()
        assert made == Path("clips", each["file"]).read_bytes(), each["again"]


def test_workers_make_the_same(magnet: Magnet, riff: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "magnet_cli.batch.processes.hire_processes", lambda setup, where: hires(setup)
    )
    lines = write(
        "p.csv.jsonl",
        {"prompt": "rain", "task": "vary", "input": riff},
        {"prompt": "wind", "duration": 0.2},
        {"prompt": "fire", "duration": 0.2, "model": "audio-small"},
        {"prompt": "ice", "duration": 0.2},
    )
    assert magnet("batch", lines, "-O", "one", *FAST).status == 0
    assert magnet("batch", lines, "-O", "two", *FAST, "--workers", "2").status == 0
    for clip in clips("one"):
        assert (Path("one") / clip["file"]).read_bytes() == (
            Path("two") / clip["file"]
        ).read_bytes()


def test_another_sound_under_the_inputs_name_is_noticed(magnet: Magnet, riff: str) -> None:
    line = {"prompt": "rain", "task": "vary", "input": riff}
    command = ("batch", write("p.jsonl", line), "-O", "clips", *FAST)
    assert magnet(*command).status == 0
    Path("other.wav").write_bytes(Path(riff).read_bytes())
    write("p.jsonl", {**line, "input": "other.wav"})
    assert "1 of 1 clips are done" in magnet(*command).err  # the same sound under another name
    silence = np.zeros((1, 16_000), np.float32)
    write("p.jsonl", line)
    Path(riff).unlink()
    sounds.write(Path(riff), silence, 32_000, "wav", OutputConfig())
    outcome = magnet(*command)
    assert outcome.status == 2
    assert "the input's sound changed (sha256:" in outcome.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"input": "riff.wav"}, "input does not apply to task gen"),
        ({"task": "vary"}, "task vary has no input"),
        ({"task": "vary", "input": "none.wav"}, "There is no sound 'none.wav'"),
        ({"task": "vary", "input": "p.jsonl"}, "p.jsonl"),
        ({"task": "vary", "input": "riff.wav", "strength": 2}, "strength cannot be 2"),
        ({"task": "vary", "input": "riff.wav", "duration": 2}, "task vary takes no duration"),
        ({"task": "loop", "strength": 0.5}, "strength does not apply to task loop"),
        ({"task": "loop", "fade": [0.1]}, "A loop cannot have a fade"),
        ({"bpm": 120}, "bpm needs bars, too"),
        ({"task": "loop", "exact": True, "tries": 2}, "tries applies only to bpm"),
        ({"bpm": 120, "bars": 2, "duration": 4}, "duration and bars both set"),
        ({"task": "loop", "bpm": 120, "bars": 2, "exact": True}, "exact and bpm both set"),
        ({"task": "vary", "input": "riff.wav", "bpm": 120, "bars": 2}, "bpm does not apply to"),
        ({"task": "edit", "input": "riff.wav"}, "task edit has no region"),
        ({"task": "edit", "input": "riff.wav", "region": "0.2-9"}, "not inside the sound"),
        ({"task": "edit", "input": "riff.wav", "region": "x"}, "A region cannot be 'x'"),
        ({"task": "edit", "input": "riff.wav", "region": [3]}, "region cannot be [3]"),
        ({"task": "edit", "input": "riff.wav", "region": "0-0.1", "lufs": -20}, "through_codec"),
        ({"task": "edit", "input": "riff.wav", "region": "0-0.1", "out": "x.mid"}, "mid"),
        ({"task": "extend", "input": "riff.wav"}, "total length is missing"),
        ({"task": "extend", "input": "riff.wav", "duration": 0.4}, "is already 0.50 s long"),
        ({"at": "drums"}, "at cannot be 'drums'"),
        ({"at": [[1, "drums"]], "duration": 0.5}, "begins at 1 s, but the piece is 0.5 s long"),
        ({"at": "0 drums"}, "Two prompts begin at 0 s"),
        ({"task": "sing"}, "task cannot be 'sing'"),
        ({"model": "smal"}, "smal"),
        ({"lora": "none"}, "There is no LoRA 'none'"),
    ],
)  # fmt: skip
def test_lines_that_ask_for_what_cannot_be(
    magnet: Magnet, riff: str, line: dict[str, Any], message: str
) -> None:
    """All of them are found before a model is loaded."""
    write("p.jsonl", {"prompt": "rain", **line})
    outcome = magnet("batch", "p.jsonl", "-O", "clips", *FAST, "--dry-run")
    assert outcome.status == 2
    assert "Line 1: " in outcome.err
    assert message in " ".join(outcome.err.split())


def test_a_table_says_the_same_in_text(magnet: Magnet, riff: str) -> None:
    Path("p.csv").write_text(
        "prompt,task,input,at,region,lora,duration\n"
        'rain,gen,,"0.1 wind; 0:00.2 fire",,,0.6\n'
        "rain,edit,riff.wav,,0.1-0.2; 0.3-0.4,,\n"
    )
    planned = magnet("batch", "p.csv", "-O", "clips", *FAST, "--dry-run", "--json").records
    assert planned[0]["settings"]["at"] == [[0.1, "wind"], [0.2, "fire"]]
    assert planned[1]["settings"]["region"] == [[0.1, 0.2], [0.3, 0.4]]


def test_wildcards_are_drawn_in_prompts_by_time_too(magnet: Magnet, home: Path) -> None:
    write("p.jsonl", {"prompt": "{a|b}", "at": [[0.1, "{c|d} then {e|f}"]], "duration": 0.3})
    planned = magnet("batch", "p.jsonl", "-O", "x", *FAST, "--wildcards", "--dry-run", "--json")
    ((at, text),) = planned.records[0]["settings"]["at"]
    assert (at, text[0] in "cd", text[1:7], text[7] in "ef") == (0.1, True, " then ", True)


def test_each_model_is_loaded_once_in_the_order_of_first_need(
    magnet: Magnet, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = Model.__init__

    def watched(self: Model, *given: Any, **more: Any) -> None:
        load(self, *given, **more)
        loaded.append(self.name)

    monkeypatch.setattr(Model, "__init__", watched)
    other, small = "audio-magnet-small", "magnet-small-10secs"
    lines = [
        {"prompt": "a", "model": "audio-small"},
        {"prompt": "b"},
        {"prompt": "c", "model": "audio-small"},
        {"prompt": "d"},
    ]
    command = ("batch", write("p.jsonl", *lines), "-O", "clips", *FAST, "-d", "0.2")
    outcome = magnet(*command)
    assert outcome.status == 0, outcome.err
    assert loaded == [other, small]
    assert "[4/4]" in outcome.err
    for clip in clips():
        path = Path("clips") / clip["file"]
        made = sounds.read(path).metadata
        assert made is not None
        expected = f"facebook/{other if clip['prompt'] in 'ac' else small}"
        assert (made["repo"], clip["settings"]["model_id"].split("@")[0]) == (expected, expected)
        assert magnet("gen", clip["prompt"], "-m", expected, "--steps", "1", "-d", "0.2", "--seed",
                      str(clip["seed"]), "-o", "alone.wav", "-f").status == 0  # fmt: skip
        assert path.read_bytes() == Path("alone.wav").read_bytes()
    loaded.clear()
    next(Path("clips").glob("*-d-*")).unlink()
    assert magnet(*command).status == 0
    assert loaded == [small]  # models that are not needed are not loaded
    loaded.clear()
    text = Path("p.jsonl").read_bytes()
    piped = ("batch", "-", "--from", "jsonl", "-O", "piped", *FAST, "-d", "0.2")
    assert magnet(*piped, stdin=text).status == 0
    assert loaded == [small, other]
    for clip in clips():
        one = Path("clips") / clip["file"]
        assert one.read_bytes() == (Path("piped") / clip["file"]).read_bytes()
