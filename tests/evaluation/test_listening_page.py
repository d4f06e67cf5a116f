"""The listening page in a real browser: whole sessions, clicked through and read back.

Needs Debian's chromium and chromium-driver, and selenium; passed over where they are not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from magnet_cli.evaluation.listening import make_study
from magnet_cli.evaluation.listening_results import read_results
from magnet_cli.evaluation.sets import read_set
from tests.evaluation.judges import folder_of

pytestmark = pytest.mark.slow  # Chromium

PROMPTS = [
    f"lofi piano number {i}, with soft drums & a long name that a phone has to fold"
    for i in range(10)
]


class Session:
    """A listener's session on the page."""

    def __init__(self, browser: Any, page: Path) -> None:
        self.browser, self.page = browser, page

    def open(self, listener: int) -> None:
        self.browser.get(f"{self.page.as_uri()}?listener={listener}")

    def find(self, what: str) -> list[Any]:
        return self.browser.find_elements("css selector", what)

    def text(self) -> str:
        return self.find("body")[0].text

    def begin(self, name: str) -> None:
        self.find("#name")[0].send_keys(name)
        self.find("#begin")[0].click()

    def hear_all(self) -> None:
        for button in self.find("button.play"):
            # The driver scrolls no farther than to the edge, which is under the bar below.
            self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
            button.click()
            deadline = time.monotonic() + 20
            while "heard" not in button.text:
                assert time.monotonic() < deadline, self.text()
                time.sleep(0.02)

    def rate(self, values: dict[str, int]) -> None:
        """Set every slider, by the token of its clip."""
        for i, slider in enumerate(self.find("input[type=range]")):
            token = slider.get_attribute("id").split("/")[1]
            value = values[token] - i % 2
            self.browser.execute_script(
                "arguments[0].value = arguments[1];arguments[0].dispatchEvent(new Event('input'));",
                slider,
                value,
            )

    @property
    def may_go_on(self) -> bool:
        return bool(self.find("#next")[0].is_enabled())

    def go_on(self) -> None:
        self.find("#next")[0].click()

    def download(self, downloads: Path) -> Path:
        before = set(downloads.iterdir())
        self.find("#download")[0].click()
        deadline = time.monotonic() + 20
        while True:
            for path in set(downloads.iterdir()) - before:
                # Chromium holds the name with an empty file until all is written.
                if path.suffix == ".json" and _is_json(path):
                    return path
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def picture(self, name: str) -> None:
        """Saved in the folder MAGNET_PICTURES, for inspection."""
        if folder := os.environ.get("MAGNET_PICTURES"):
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True


def study_of(
    tmp_path: Path, test: Any, seconds: float = 0.4, prompts: int = 10
) -> tuple[Path, dict[str, Any]]:
    names = ("one", "two", "truth")
    folders = [
        folder_of(tmp_path / n, PROMPTS[:prompts], shift=30 * i, seconds=seconds)
        for i, n in enumerate(names)
    ]
    systems = {n: read_set(folder) for n, folder in zip(names[:2], folders, strict=False)}
    truth = None if test == "ab" else read_set(folders[2])
    study = make_study(systems, truth, test, tmp_path / "study", seed=1)
    return study.page, json.loads(study.key.read_text("utf-8"))


@pytest.mark.timeout(280)
def test_three_listeners_rate_ten_clips_a_system(
    tmp_path: Path, browser: Any, downloads: Path
) -> None:
    page, key = study_of(tmp_path, "mos", seconds=0.12)
    levels = {"one": 40, "two": 60, "hidden reference": 90}
    values = {token: levels[clip["system"]] for token, clip in key["clips"].items()}
    session = Session(browser, page)
    for listener in (1, 2, 3):
        session.open(listener)
        if listener > 1:
            session.find("#again")[0].click()
            browser.switch_to.alert.accept()
        session.begin(f"rater {listener}")
        for screen in range(30):
            assert f"{screen + 1} of 30" in session.text()
            assert not session.may_go_on
            session.rate(values)
            assert not session.may_go_on  # nothing was heard yet
            session.hear_all()
            assert session.may_go_on
            session.go_on()
        assert "Thank you" in session.text()
        session.download(downloads)
    found = read_results(tmp_path / "study", [downloads])
    assert not found.faults
    assert found.listeners == ("rater 1", "rater 2", "rater 3")
    assert not found.dropped
    assert found.ratings["quality"]["two"].value == 60
    assert found.ratings["relevance"]["one"].value == 39
    assert found.ratings["quality"]["one"].count == 10


@pytest.mark.timeout(120)
def test_a_mushra_session_by_hand_with_a_reload_in_its_middle(
    tmp_path: Path, browser: Any, downloads: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    # A clip is looked at while it plays, also on a busy machine.
    page, key = study_of(tmp_path, "mushra", seconds=1.0, prompts=2)
    levels = {"one": 40, "two": 60, "hidden reference": 100, "low anchor": 20}
    values = {token: levels[clip["system"]] for token, clip in key["clips"].items()}
    session = Session(browser, page)
    session.open(1)
    session.picture("begin-desktop")
    session.begin("Ada")
    session.hear_all()
    assert "Rate clip 1" in session.text()
    session.picture("mushra-desktop")
    # By keys alone: an arrow sets a slider, digits play, Ctrl+Enter goes on.
    sliders = session.find("input[type=range]")
    sliders[0].send_keys(Keys.ARROW_RIGHT)
    assert session.find("output")[0].text == "51"
    session.find("h1")[0].send_keys("2")
    assert "❚❚ Clip 2" in session.text()
    browser.refresh()
    assert "1 of 2" in session.text()
    assert session.find("output")[0].text == "51"  # what was rated and heard is kept
    assert session.text().count("✓ heard") == 5
    session.rate({token: value + (i % 2) for i, (token, value) in enumerate(values.items())})
    assert session.may_go_on
    session.find("h1")[0].send_keys(Keys.CONTROL, Keys.ENTER)
    assert "2 of 2" in session.text()
    browser.set_window_size(390, 800)
    session.picture("mushra-phone")
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    session.rate(values)
    assert "Hear the reference to its end." in session.text()
    assert not session.may_go_on
    session.hear_all()
    assert session.may_go_on
    session.go_on()
    session.picture("end-phone")
    answers = json.loads(session.download(downloads).read_text("utf-8"))
    assert answers["complete"]
    assert answers["name"] == "Ada"
    assert len(answers["answers"]) == 2 * 4
    found = read_results(tmp_path / "study", [downloads])
    assert found.ratings["quality"]["two"].count == 2
    browser.refresh()
    assert "Thank you" in session.text()  # nothing is lost by closing the page too soon


@pytest.mark.timeout(120)
def test_an_ab_session_on_a_phone(tmp_path: Path, browser: Any, downloads: Path) -> None:
    page, key = study_of(tmp_path, "ab", prompts=2)
    browser.set_window_size(390, 800)
    session = Session(browser, page)
    session.open(4)
    session.picture("begin-phone")
    session.begin("")

    def choose() -> None:
        for radio in session.find("input[type=radio]"):
            if key["clips"][radio.get_attribute("value")]["system"] == "two":
                radio.click()

    for screen in range(2):
        assert not session.may_go_on
        if screen == 0:  # whoever chooses before hearing has to hear nevertheless
            choose()
            assert not session.may_go_on
            assert "Hear A to its end" in session.text()
        session.hear_all()
        if screen == 1:
            assert "Choose" in session.text()
            choose()
        session.picture(f"ab-phone-{screen}")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert session.may_go_on
        session.go_on()
    session.download(downloads)
    found = read_results(tmp_path / "study", [downloads])
    assert found.ratings["quality"]["two"].value == 1
    assert found.ratings["relevance"]["one"].value == 0


def wait_for(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    """Sounds notify the page when they stop and end, which takes an unknown time."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.timeout(120)
def test_a_sound_that_is_left_in_its_middle_was_not_heard(tmp_path: Path, browser: Any) -> None:
    page, _ = study_of(tmp_path, "ab", seconds=1.5, prompts=2)
    session = Session(browser, page)
    session.open(1)
    session.begin("")
    first, second = session.find("button.play")
    first.click()
    time.sleep(0.5)
    second.click()  # one sound at a time
    wait_for(lambda: "❚❚" not in first.text)
    wait_for(lambda: "heard" in second.text)
    assert "heard" not in first.text
    assert "Hear A to its end" in session.text() or "Hear B to its end" in session.text()
