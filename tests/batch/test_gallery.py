"""The page of a folder of clips: its contents, and the files that it does not touch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from magnet_cli.batch.gallery import PAGE, PICTURES, Gallery, Told, write_gallery
from magnet_cli.errors import UsageError
from magnet_cli.settings import OutputConfig
from tests import sounds

RATE = 8000
PLAIN = OutputConfig()
HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> \u2028 \ud800"


def clip(path: Path, prompt: str = "", level: float = 0.3, seconds: float = 0.6) -> None:
    """A tone, with a record if there is a prompt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(np.arange(int(RATE * seconds)) * 0.3)[None].astype(np.float32) * level
    sounds.write(path, tone, RATE, "wav", PLAIN, {"prompt": prompt} if prompt else None)


def tell(made: Mapping[str, Any], name: str, suffix: str) -> Told:
    assert suffix == "wav"
    return Told(prompt=made["prompt"], command=f"magnet gen -o {name}", again={"prompt": "x"})


def note(folder: Path, *clips: Mapping[str, Any]) -> None:
    lines = [json.dumps({"status": "done", **each}) for each in clips]
    (folder / "manifest.jsonl").write_text("".join(f"{line}\n" for line in lines))


def shown(gallery: Gallery) -> Any:
    """A page's data as its script reads it."""
    text = gallery.page.read_text("utf-8")
    (inside,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(inside)


def test_clips_stand_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    clip(tmp_path / "b" / "late one.wav", "rain")
    clip(tmp_path / "z.wav", "wind")
    clip(tmp_path / "a.wav")  # by another program
    note(
        tmp_path,
        {"file": "z.wav", "index": 0},
        {"file": "b/late one.wav", "index": 1},
        {"file": "gone.wav", "index": 2},
        {"file": "no.wav", "index": 3, "status": "failed", "error": "no memory"},
    )
    told: list[tuple[int, int]] = []
    gallery = write_gallery(tmp_path, tell, on_clip=lambda done, count: told.append((done, count)))
    assert (gallery.page, gallery.clips) == (tmp_path / PAGE, 3)
    assert (gallery.failed, gallery.missing, gallery.faults) == (1, 1, ())
    assert told == [(1, 3), (2, 3), (3, 3)]
    data = shown(gallery)
    assert [each["file"] for each in data["clips"]] == ["z.wav", "b/late one.wav", "a.wav"]
    assert [each["prompt"] for each in data["clips"]] == ["wind", "rain", ""]
    assert data["clips"][1]["src"] == "b/late%20one.wav"
    assert data["clips"][1]["command"] == "magnet gen -o late one.wav"
    assert data["clips"][2]["command"] is None
    assert data["failed"] == [{"file": "no.wav", "problem": "no memory"}]


def test_lines_of_several_models_say_theirs(tmp_path: Path) -> None:
    """All were made by the model of the next command."""
    for name in "ab":
        clip(tmp_path / f"{name}.wav", name)

    def by(*models: str) -> list[object]:
        named = dict(zip(("a", "b"), models, strict=True))

        def tell(made: Mapping[str, Any], name: str, suffix: str) -> Told:
            return Told(prompt=made["prompt"], by={"model": named[made["prompt"]]})

        return [each.get("by") for each in shown(write_gallery(tmp_path, tell))["clips"]]

    assert by("nano", "small") == [{"model": "nano"}, {"model": "small"}]
    assert by("nano", "nano") == [None, None]


def test_loudness_is_the_files_own(tmp_path: Path) -> None:
    """A sine at -3 dB a channel and 997 Hz is -3.01 LUFS; half of that 6 dB less."""
    for name, level in (("loud", 1.0), ("half", 0.5), ("none", 0.0)):
        wave = np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000) * level
        soundfile.write(tmp_path / f"{name}.wav", wave, 48_000, "FLOAT")
    soundfile.write(tmp_path / "short.wav", np.sin(np.arange(900) * 0.5) / 2, 48_000)
    soundfile.write(tmp_path / "wide.wav", np.full((9600, 2), 0.25), 48_000)
    found = {each["file"]: each for each in shown(write_gallery(tmp_path, tell))["clips"]}
    assert found["loud.wav"]["lufs"] == pytest.approx(-3.01, abs=0.05)
    assert found["half.wav"]["lufs"] == pytest.approx(-9.03, abs=0.05)
    assert (found["none.wav"]["lufs"], found["none.wav"]["peak"]) == (None, None)
    assert found["short.wav"]["peak"] == pytest.approx(-6.02, abs=0.05)
    assert (found["wide.wav"]["channels"], found["wide.wav"]["seconds"]) == (2, 0.2)


def test_pictures_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        clip(tmp_path / f"{name}.wav", name)
    first = write_gallery(tmp_path, tell)
    pictures = sorted((tmp_path / PICTURES).iterdir())
    assert len(pictures) == 2
    with Image.open(pictures[0]) as picture:
        assert picture.size[0] > 300
    from magnet_cli.batch import gallery

    data = shown(first)
    monkeypatch.setattr(gallery, "thumbnail", None)  # drawing fails
    assert shown(write_gallery(tmp_path, tell)) == data
    monkeypatch.undo()
    clip(tmp_path / "a.wav", "a", level=0.1)
    pictures[1].write_bytes(b"no picture")
    again = shown(write_gallery(tmp_path, tell))
    assert again["clips"][0]["lufs"] < data["clips"][0]["lufs"] - 9
    assert again["clips"][1] == data["clips"][1]


def test_pictures_of_clips_that_are_gone_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        clip(tmp_path / f"{name}.wav")
    write_gallery(tmp_path, tell)
    (tmp_path / PICTURES / "mine.png").write_bytes(b"")
    (tmp_path / "a.wav").unlink()
    write_gallery(tmp_path, tell)
    assert len(list((tmp_path / PICTURES).iterdir())) == 3  # it may belong to another process
    monkeypatch.setattr("magnet_cli.batch.gallery._STALE_SECONDS", -1.0)
    write_gallery(tmp_path, tell)
    left = [path.name for path in (tmp_path / PICTURES).iterdir()]
    assert "mine.png" in left
    assert len(left) == 2


def test_stars_stay_when_it_is_written_again(tmp_path: Path) -> None:
    """Browsers keep them by the gallery's id."""
    clip(tmp_path / "a.wav")
    first = shown(write_gallery(tmp_path, tell))["id"]
    clip(tmp_path / "b.wav")
    assert shown(write_gallery(tmp_path, tell, title="Night 2"))["id"] == first
    other = tmp_path / "other"
    clip(other / "a.wav")
    assert shown(write_gallery(other, tell))["id"] != first


def test_what_stands_in_files_is_data(tmp_path: Path) -> None:
    clip(tmp_path / "a.wav", "prompt")
    said = Told(prompt=HOSTILE, negative=HOSTILE, command=HOSTILE, again={"prompt": HOSTILE})
    note(tmp_path, {"file": HOSTILE, "status": "failed", "error": HOSTILE})
    gallery = write_gallery(tmp_path, lambda *_: said, title=HOSTILE)
    data = shown(gallery)
    assert data["title"] == data["clips"][0]["prompt"] == HOSTILE
    text = gallery.page.read_text("utf-8")
    assert text.count("<script") == 2
    assert "<img" not in text
    assert "unsafe-inline" not in text
    assert re.search(r"script-src 'sha256-[\w+/]{43}='; style-src 'sha256-[\w+/]{43}='", text)


def test_somebody_elses_page_stays(tmp_path: Path) -> None:
    clip(tmp_path / "a.wav")
    (tmp_path / PAGE).write_text("<h1>Mine</h1>")
    with pytest.raises(UsageError, match="is not a gallery"):
        write_gallery(tmp_path, tell)
    assert (tmp_path / PAGE).read_text() == "<h1>Mine</h1>"
    assert write_gallery(tmp_path, tell, force=True).clips == 1
    assert write_gallery(tmp_path, tell).clips == 1


def test_sounds_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    clip(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("no sound")
    (tmp_path / "c.wav").mkdir()
    gallery = write_gallery(tmp_path, tell)
    assert gallery.clips == 1
    assert [file for file, _ in gallery.faults] == ["b.wav"]
    assert [each["file"] for each in shown(gallery)["failed"]] == ["b.wav"]
    assert not list(tmp_path.rglob(".partial-*"))


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        write_gallery(tmp_path / "nowhere", tell)
    with pytest.raises(UsageError, match="no sound"):
        write_gallery(tmp_path, tell)
    assert not (tmp_path / PAGE).exists()
