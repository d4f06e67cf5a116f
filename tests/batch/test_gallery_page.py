"""The gallery in a real browser: played, searched, starred, exported, at two widths, from a disk and a host.

Needs Debian's chromium and chromium-driver, and selenium; passed over where they are not.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from magnet_cli.batch.gallery import Told, write_gallery
from tests.batch.test_gallery import HOSTILE, clip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(200),
]

PROMPTS = [
    "lofi piano",
    "Regen auf dem Dach",
    HOSTILE[:-2],  # without halves of surrogate pairs, which the driver cannot send
    "a kick, " + "very " * 40 + "long",
    "ピアノ",
    "rain",
]


def filled(
    folder: Path, count: int = 6, seconds: float = 0.5, models: Sequence[str] = ("nano",)
) -> Path:
    """A folder of clips of increasing loudness, with a page."""
    names = {f"{i:04d}.wav": i for i in range(count)}
    clip(folder / "0000.wav", "x", 0.05, seconds)
    for name, i in names.items():
        if count <= 6:
            clip(folder / name, "x", 0.05 + 0.1 * i, seconds)
        elif i:
            os.link(folder / "0000.wav", folder / name)

    def tell(made: object, name: str, suffix: str) -> Told:
        i = names[name]
        prompt = PROMPTS[i % len(PROMPTS)] if count <= 6 else f"{PROMPTS[i % 2]} number {i}"
        again = None if i == 4 else {"prompt": prompt, "seed": i, "duration": 0.5}
        if again and len(models) > 1:
            again["task"] = "loop"
        command = f"magnet gen -m nano --seed {i} -o {name} '{prompt}'"
        model = models[i % len(models)]
        return Told(prompt, None, i, model, command, again, {"model": model})

    return write_gallery(folder, tell, title="Night & day <1>").page


class Visit:
    """A visitor of the page."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)

    def find(self, what: str) -> list[Any]:
        return self.browser.find_elements("css selector", what)

    def one(self, what: str) -> Any:
        (found,) = self.find(what)
        return found

    def script(self, text: str) -> Any:
        return self.browser.execute_script(text)

    def prompts(self) -> list[str]:
        return [found.text for found in self.find("article .prompt")]

    def keys(self, *keys: str) -> None:
        self.one("body").send_keys(*keys)

    def click(self, what: Any) -> None:
        """In the middle of the window, not covered by header or player, once the page has stopped
        scrolling."""
        from selenium.common.exceptions import ElementClickInterceptedException

        def clicked() -> bool:
            self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", what)
            try:
                what.click()
            except ElementClickInterceptedException:
                return False
            return True

        self.wait(clicked)

    def choose(self, select: str, value: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.one(select)).select_by_value(value)

    def wait(self, happened: Callable[[], Any], seconds: float = 30.0) -> Any:
        until = time.monotonic() + seconds
        while not (found := happened()):
            assert time.monotonic() < until
            time.sleep(0.05)
        return found

    def picture(self, name: str) -> None:
        """Saved in the folder MAGNET_PICTURES, for inspection."""
        if folder := os.environ.get("MAGNET_PICTURES"):
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A static web server for the test's folder."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    serve = functools.partial(Silent, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_night_is_looked_through(tmp_path: Path, browser: Any, downloads: Path) -> None:
    page = filled(tmp_path / "clips")
    visit = Visit(browser, page.as_uri())
    assert browser.title == "Night & day <1>"
    assert visit.one("#count").text == "6 clips"
    assert [text[:8] for text in visit.prompts()] == [text[:8] for text in PROMPTS]
    images = visit.find("article img")
    visit.wait(lambda: all(image.get_property("naturalWidth") > 300 for image in images))
    visit.picture("gallery-desktop")
    for tools in visit.find(".tools"):  # a card shows everything at any width
        assert tools.get_property("scrollWidth") <= tools.get_property("clientWidth")
    # Play to the end, then the next by key; a click on a picture seeks.
    first, second = visit.find("button.play")[:2]
    visit.click(first)
    visit.wait(lambda: visit.script("return audio.ended"))
    assert first.text == "▶"
    visit.keys("j")
    visit.wait(lambda: visit.script("return current === clips[1] && audio.currentTime > 0"))
    visit.click(visit.one("#loop"))
    visit.click(images[5])
    visit.wait(lambda: visit.script("return current === clips[5] && audio.currentTime > 0.1"))
    assert "on" in visit.find("article")[5].get_attribute("class")
    assert visit.find("button.play")[5].get_attribute("aria-label") == "Pause rain"
    visit.keys(" ")
    assert visit.script("return audio.paused")
    assert second.text == "▶"
    # Search and sort.
    search = visit.one("#search")
    search.send_keys("REGEN dach")
    visit.wait(lambda: visit.one("#count").text == "1 of 6 clips")
    search.clear()
    search.send_keys("-rain -piano")
    visit.wait(lambda: visit.one("#count").text == "4 of 6 clips")
    search.clear()
    search.send_keys(" ")
    visit.wait(lambda: visit.one("#count").text == "6 clips")
    visit.choose("#sort", "loudest first")
    assert (visit.prompts()[0], visit.prompts()[-1]) == ("rain", "lofi piano")
    # Star: kept over a reload, and saved for the next batch.
    for star in visit.find("button.star")[:3]:
        visit.click(star)
    browser.refresh()
    assert visit.one("#save").text == "Save starred (3)"
    visit.click(visit.one("#only"))
    assert visit.one("#count").text == "3 of 6 clips"
    for how, wanted in (
        ("same", [{"prompt": PROMPTS[i], "seed": i, "duration": 0.5} for i in (3, 5)]),
        ("new", [{"prompt": PROMPTS[i], "duration": 0.5} for i in (3, 5)]),
        (
            "vary",
            [
                {
                    "prompt": PROMPTS[i],
                    "task": "vary",
                    "input": f"{page.parent.as_posix()}/000{i}.wav",
                }
                for i in (3, 4, 5)
            ],
        ),
    ):
        visit.choose("#how", how)
        visit.click(visit.one("#save"))
        file = downloads / "prompts.jsonl"
        visit.wait(file.is_file)
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert lines == wanted
        file.unlink()
        assert ("1 cannot be a line" in visit.one("#said").text) == (how != "vary")
    visit.choose("#how", "files")
    visit.click(visit.one("#save"))
    visit.wait((downloads / "starred.txt").is_file)
    assert (downloads / "starred.txt").read_text() == "0003.wav\n0004.wav\n0005.wav\n"


def test_on_a_phone_from_a_host(tmp_path: Path, browser: Any, host: str, downloads: Path) -> None:
    filled(tmp_path / "a night's clips", models=("nano", "small"))
    browser.set_window_size(390, 844)
    visit = Visit(browser, f"{host}/a%20night's%20clips/")
    assert len(visit.prompts()) >= 2
    visit.click(visit.find("button.play")[0])
    visit.wait(lambda: visit.script("return audio.currentTime > 0"))
    more = visit.find(".tools button")[2]
    visit.click(more)
    assert more.get_attribute("aria-expanded") == "true"
    assert visit.find(".more code")[0].text.startswith("magnet gen -m nano --seed 0")
    visit.picture("gallery-phone")
    assert visit.script("return document.documentElement.scrollWidth <= innerWidth")
    assert visit.find(".facts")[1].text.endswith("LUFS · small · loop")
    # With several models, lines include theirs.
    for star in visit.find("button.star")[:2]:
        visit.click(star)
    for how in ("new", "vary"):
        visit.choose("#how", how)
        visit.click(visit.one("#save"))
        file = downloads / "prompts.jsonl"
        visit.wait(file.is_file)
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert [line["model"] for line in lines] == ["nano", "small"]
        file.unlink()
    # The clipboard, pasted into the search.
    from selenium.webdriver.common.keys import Keys

    visit.click(visit.find(".tools button")[1])
    visit.wait(lambda: visit.find(".tools button")[1].text == "Copied")
    visit.one("#search").send_keys(Keys.CONTROL, "v")
    assert visit.one("#search").get_property("value").startswith("magnet gen -m nano --seed 0")


def test_two_thousand_clips_are_there_at_once(
    tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is near the screen is fetched: of 2,000 clips one or two screens."""

    def drawn(sound: object, place: Path) -> dict[str, float | None]:
        place.parent.mkdir(exist_ok=True)
        Image.new("L", (440, 122)).save(place)
        return {"lufs": -20.0, "peak": -1.0}

    monkeypatch.setattr("magnet_cli.batch.gallery._drawn", drawn)  # minutes of pictures
    page = filled(tmp_path / "clips", count=2000, seconds=0.05)
    visit = Visit(browser, page.as_uri())
    assert visit.one("#count").text == "2,000 clips"
    took = visit.script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    print(f"2,000 clips: {took:.0f} ms to the load event")
    visit.wait(lambda: visit.find("article img"))
    assert len(visit.find("article img")) < 100
    assert visit.script("return performance.getEntriesByType('resource').length") < 100
    visit.script("scrollTo(0, document.body.scrollHeight)")
    visit.wait(lambda: "number 1999" in visit.find("article")[-1].text)
    assert len(visit.find("article img")) < 200
    visit.one("#search").send_keys("number 1234")
    visit.wait(lambda: visit.one("#count").text == "1 of 2,000 clips")
    assert len(visit.wait(visit.prompts)) == 1
