"""Which clips the judges are asked about, and what: no clip of training, nothing that no word asks for.

Nothing here needs the tagger's wheel, librosa or onnxruntime.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.nano import judge_codec
from recipes.nano.cases import composed_cases, compositions, human_cases, wanted_of
from recipes.nano.compose.composer import compose
from recipes.nano.compose.plan import draw_plan
from recipes.nano.compose.split import composition
from recipes.nano.evaluate import table
from recipes.nano.judges.hearing import Verdict, Wanted, judged, percent_of, rates

TAGS = {"kind": "arrangement", "instrument": "piano", "drums": True, "tempo_class": "slow"}


def write(sounds: Path, split: str, scores: list[dict[str, Any] | None]) -> Path:
    """A manifest of clips with these scores (None: sound effects), and their notes."""
    (sounds / "notes").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, score in enumerate(scores):
        notes = None if score is None else f"notes/{split}{number}.json"
        if notes is not None:
            (sounds / notes).write_text(json.dumps(score, separators=(",", ":")))
        tags = {**TAGS, "kind": "effect" if score is None else "arrangement"}
        captions = [f"{split} {number}, wording {way}" for way in range(6)]
        line = {"path": f"clips/{split}{number}.flac", "captions": captions, "caption": captions[0]}
        lines.append(json.dumps({**line, "tags": tags, "notes": notes}))
    manifest = sounds / f"{split}.jsonl"
    manifest.write_text("".join(f"{line}\n" for line in lines))
    return manifest


def beat(number: int, variant: int = 0) -> dict[str, Any]:
    """A drum pattern by number, as composed."""
    hits = [[0.1 * number, "kick"], [0.5, "snare"]]
    score = {"duration": 10.24, "notes": [], "hits": hits, "kit": "lofi"}
    return {**score, "kit_variant": variant}


def test_a_prompt_is_judged_by_its_words_and_not_by_all_that_is_known_of_its_clip() -> None:
    """Every clip of music was judged for tempo and drums, whether or not its caption named them."""
    assert wanted_of("sad piano", TAGS) == Wanted("piano", None, None)
    assert wanted_of("slow piano with a mellow beat", TAGS) == Wanted("piano", True, "slow")
    assert wanted_of("strings, lofi, piano", TAGS) == Wanted("piano", None, None)
    assert wanted_of("light rain", {"kind": "effect", "instrument": None}) == Wanted(
        None, None, None
    )


def test_what_training_has_played_is_passed_over(tmp_path: Path) -> None:
    """Of 39 clips of drums alone in `test`, 33 had hits and kit of a training clip, 6 of them its exact
    samples."""
    train = write(tmp_path, "train", [beat(1, variant=3), beat(2), None])
    write(tmp_path, "test", [beat(number, variant=7) for number in range(5)] + [None])
    more = write(tmp_path / "sounds2", "train", [beat(4)])
    everything = composed_cases(tmp_path, "test")
    assert len(everything) == 6
    trained = compositions([train, more])
    unseen = composed_cases(tmp_path, "test", trained=trained)
    assert {case.sound.name for case in unseen if case.sound} == {
        "test0.flac", "test3.flac", "test5.flac",
    }  # fmt: skip
    # The remaining clips keep their captions, so figures with and without the others are comparable.
    assert set(unseen) < set(everything)
    assert unseen == [case for case in everything if case in unseen]
    assert composed_cases(tmp_path, "test", 2, trained=trained) == unseen[:2]


def test_a_clips_notes_on_disk_say_the_same_as_its_score(tmp_path: Path) -> None:
    """Compositions are read back from JSON: if that changed the rounding, no clip would be skipped."""
    plans = [plan for index in range(40) if (plan := draw_plan(1, index)).kind != "effect"]
    scores = [compose(plan).as_json() for plan in plans]
    manifest = write(tmp_path, "train", [json.loads(json.dumps(score)) for score in scores])
    assert compositions([manifest]) == {composition(score) for score in scores}


def test_missing_notes_of_training_are_no_reason_to_judge_its_clips(tmp_path: Path) -> None:
    train = write(tmp_path, "train", [beat(1)])
    (tmp_path / "notes/train0.json").unlink()
    with pytest.raises(FileNotFoundError, match="train0"):
        compositions([train])


def test_drums_of_the_clip_itself_are_kept_for_the_threshold(tmp_path: Path) -> None:
    write(tmp_path, "valid", [beat(1), None])
    assert {case.sound.name: case.drums for case in composed_cases(tmp_path, "valid") if case.sound} == {
        "valid0.flac": True, "valid1.flac": None,
    }  # fmt: skip


def test_shares_come_with_the_number_of_clips_that_they_are_of() -> None:
    verdicts = [Verdict(True, True, None), Verdict(True, False, False), Verdict(False, None, None)]
    figures = rates(verdicts)
    counts = judged(verdicts)
    assert counts == {"instrument": 3, "drums": 2, "tempo": 1}
    assert percent_of(figures["drums"], counts["drums"]) == "50 % of 2"
    row = {**figures, **{f"{question} of": count for question, count in counts.items()}}
    nothing = {"tempo": float("nan"), "tempo of": 0}
    lines = table({"generated": {**row, "frechet": 20.84}, "solo": {**row, **nothing}}, 3)
    assert lines.splitlines()[2] == "| generated | 67 % of 3 | 50 % of 2 | 0 % of 1 | 20.8 |"
    assert lines.splitlines()[3] == "| solo | 67 % of 3 | 50 % of 2 | – | – |"


def test_people_s_prompts_are_all_judged() -> None:
    cases = human_cases()
    assert len(cases) == 40
    assert all(case.sound is None for case in cases)


def test_a_codecs_settings_can_be_chosen_without_the_test_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three splits were always used, so the shipped codec's settings were chosen on test clips, too."""
    for split in judge_codec.SPLITS:
        write(tmp_path, split, [beat(number) for number in range(3)])
    heard: list[str] = []

    class Judge:
        def __init__(self, *parts: object) -> None:
            self.missed: list[str] = []

        def hear(self, clip: dict[str, Any], sounds: Path) -> None:
            heard.append(Path(clip["path"]).stem)

        def figures(self) -> dict[str, float]:
            return {}

    monkeypatch.setattr(judge_codec, "CodecJudge", Judge)
    monkeypatch.setattr(judge_codec, "Tagger", str)
    monkeypatch.setattr(judge_codec, "find_codec", str)
    monkeypatch.setattr(judge_codec, "load_codec", lambda place, device: place)
    monkeypatch.setattr(judge_codec.torch, "set_num_threads", int)
    command = ["judge_codec", "--sounds", str(tmp_path), "--codec", "c", "--tagger", "t"]
    monkeypatch.setattr(sys, "argv", [*command, "--clips", "4"])
    judge_codec.main()
    assert heard == ["valid0", "test0", "test_combo0", "valid1"]
    heard.clear()
    monkeypatch.setattr(sys, "argv", [*command, "--splits", "valid"])
    judge_codec.main()
    assert heard == ["valid0", "valid1", "valid2"]
