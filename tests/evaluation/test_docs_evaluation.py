"""The commands of docs/evaluation.md work on nano, offline."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from magnet_cli.cli.app import run
from tests.evaluation.judges import folder_of

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")


def calls() -> list[str]:
    """The indented lines, with continuations joined, except those that need a hub or are abbreviated (…)."""
    lines = "\n".join(re.findall(r"^    (?! )((?:.*\\\n)*.*)", TEXT, re.MULTILINE))
    joined = re.sub(r"\\\n\s*", " ", lines).splitlines()
    return [line for line in joined if "…" not in line and "laion/" not in line]


def test_they_are_found() -> None:
    assert [line.split()[1] for line in calls() if line.startswith("magnet")] == [
        *("batch", "batch", "batch", "eval", "sweep", "sweep", "sweep", "listen"),
    ]


@pytest.mark.slow
def test_they_work_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MAGNET_MODEL", raising=False)
    for line in calls():
        if line.startswith("printf "):
            text = shlex.split(line)[1].replace("\\n", "\n")
            Path("prompts.txt").write_text(text, "utf-8")
            folder_of(tmp_path / "test", text.splitlines())
            continue
        words = shlex.split(line)[1:]
        short = ["-d", "1"] if words[0] in ("batch", "sweep") and "-d" not in words else []
        assert run([*words, *short]) == 0, line
    assert Path("spans/table.md").read_text("utf-8").count("| span_len=") == 6
    assert Path("study/page/index.html").is_file()
    (python,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(python, names)
    assert names["found"].baseline == "ours"
