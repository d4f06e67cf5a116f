"""The composed data set: the same clip for the same seed, honest splits, music that fits its caption.

Nothing here needs FluidSynth or a soundfont.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.nano.compose import any_lead, dataset
from recipes.nano.compose.captions import CAPTIONS_PER_CLIP, captions
from recipes.nano.compose.composer import compose
from recipes.nano.compose.effects import EFFECTS, SCENES, synthesise
from recipes.nano.compose.harmony import KEYS, PROGRESSIONS, Key, parse_chord, progression, voicing
from recipes.nano.compose.instruments import INSTRUMENTS, LEADS
from recipes.nano.compose.kits import ONE_SHOT_KITS, SOUNDFONT_KITS
from recipes.nano.compose.plan import ANY_LEAD_SHARE, Plan, draw_plan
from recipes.nano.compose.render import PEAK, levelled
from recipes.nano.compose.rhythm import BASS_LINES, BEATS_BY_FEEL
from recipes.nano.compose.score import (
    CLIP_SAMPLES,
    CLIP_SECONDS,
    FRAME_SECONDS,
    SAMPLE_RATE,
    Note,
    Part,
    Score,
)
from recipes.nano.compose.soundfont import LEAD_IN, SLOT, batch_midi
from recipes.nano.compose.split import (
    HELD_OUT_ARRANGEMENTS,
    HELD_OUT_DRUMS,
    HELD_OUT_SCENES,
    HELD_OUT_SOLOS,
    is_held_out,
    split_of,
)
from recipes.nano.compose.styles import MOODS, STYLES, TEMPI, bpm
from recipes.nano.compose.textures import TEXTURES

SEED = 1
PINNED = "a7ffde0302ae95d6a4dc3fcec60caa13bceda35584a257bed2fc153cc1e8e7e3"
PINNED_SPLITS = (
    "---c-----------ct----------c----t----ct-"  # of the first clips: - is train, c test_combo
)


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [draw_plan(SEED, index) for index in range(800)]


def test_a_clip_of_a_seed_is_always_the_same() -> None:
    """Plan, score, captions and split of the first clips are pinned: a change here makes another data set."""
    described = [dataset.manifest_line(draw_plan(SEED, index)) for index in range(40)]
    letters = {"train": "-", "test": "t", "test_combo": "c"}
    assert "".join(letters[str(line.pop("split"))] for line in described) == PINNED_SPLITS
    scores = [
        compose(plan).as_json() for i in range(40) if (plan := draw_plan(SEED, i)).kind != "effect"
    ]
    text = json.dumps([described, scores], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED


@given(seed=st.integers(0, 2**31), index=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_every_score_fits_its_clip(seed: int, index: int) -> None:
    plan = draw_plan(seed, index)
    if plan.kind == "effect":
        with pytest.raises(ValueError, match="sound effect"):
            compose(plan)
        return
    score = compose(plan)
    assert score == compose(plan)
    assert score.notes or score.hits
    for note in score.notes:
        assert 0 <= note.start < note.end <= CLIP_SECONDS
        assert 12 <= note.pitch <= 115
        assert 1 <= note.velocity <= 127
        assert 0 <= note.part < len(score.parts)
    assert all(0 <= hit.start < CLIP_SECONDS for hit in score.hits)
    assert min([n.start for n in score.notes] + [h.start for h in score.hits]) < 1.0
    assert bool(score.hits) == (plan.drums is not None)


def test_no_pitch_is_struck_while_it_still_sounds(plans: list[Plan]) -> None:
    for plan in plans[:200]:
        if plan.kind == "effect":
            continue
        sounding: dict[tuple[int, int], float] = {}
        for note in compose(plan).notes:
            assert note.start >= sounding.get((note.part, note.pitch), 0.0) - 1e-9
            sounding[note.part, note.pitch] = note.end


def test_onsets_lie_on_codec_frames(plans: list[Plan]) -> None:
    """Straight music starts on frames of 20 ms; only strummed strings are closer."""
    for plan in plans[:200]:
        if plan.kind == "effect" or "strum" in (plan.texture, plan.backing and plan.backing[1]):
            continue
        score = compose(plan)
        for start in [n.start for n in score.notes] + [h.start for h in score.hits]:
            frames = start / FRAME_SECONDS
            assert abs(frames - round(frames)) < 1e-6


def test_every_tempo_puts_eighths_on_frames() -> None:
    assert all(frames % 4 == 0 for tempi in TEMPI.values() for frames in tempi)
    assert bpm(40) == pytest.approx(75.0)


def test_the_mix_holds_from_the_first_clips_on(plans: list[Plan]) -> None:
    kinds = [plan.kind for plan in plans[:40]]
    counts = {kind: kinds.count(kind) for kind in ("solo", "arrangement", "drums", "effect")}
    assert counts == {"solo": 16, "arrangement": 15, "drums": 4, "effect": 5}
    leads = {plan.lead for plan in plans[:600] if plan.lead}
    assert leads == {instrument.name for instrument in LEADS}
    assert {plan.style for plan in plans[:600] if plan.style} == set(STYLES)
    assert {effect for plan in plans for effect, _ in plan.effects} == set(EFFECTS)
    assert {split_of(plan) for plan in plans[:600]} == {"train", "valid", "test", "test_combo"}


def test_a_held_out_combination_is_never_trained_on(plans: list[Plan]) -> None:
    held_out = [plan for plan in plans if is_held_out(plan)]
    assert {split_of(plan) for plan in held_out} == {"test_combo"}
    assert 0.03 < len(held_out) / len(plans) < 0.12
    assert not any(is_held_out(p) for p in plans if p.style == "lofi" and p.lead == "piano")
    assert any(p.style == "lofi" and p.lead == "piano" and split_of(p) == "train" for p in plans)


def test_the_parts_of_a_held_out_combination_are_trained_on(plans: list[Plan]) -> None:
    """Otherwise the split would ask for words that training never sees."""
    train = [plan for plan in plans if split_of(plan) == "train"]
    styles, leads = {p.style for p in train}, {p.lead for p in train}
    moods = {p.mood for p in train}
    effects = {effect for p in train for effect, _ in p.effects}
    for style, lead, _ in HELD_OUT_ARRANGEMENTS:
        assert style in styles
        assert lead in leads
        assert lead in STYLES[style].leads
    for mood, lead in HELD_OUT_SOLOS:
        assert mood in moods
        assert lead in leads
    for style, frames in HELD_OUT_DRUMS:
        assert frames in STYLES[style].tempi
    for scene in HELD_OUT_SCENES:
        assert scene in SCENES
        assert set(scene) <= effects


def test_a_style_is_trained_with_leads_that_are_not_its_own() -> None:
    """Otherwise a style's words imply its few leads, and a combination that is held out is not believed."""
    arrangements = [p for i in range(8000) if (p := draw_plan(SEED, i)).kind == "arrangement"]
    foreign = [p for p in arrangements if p.lead not in STYLES[str(p.style)].leads]
    assert 0.15 < len(foreign) / len(arrangements) < ANY_LEAD_SHARE
    for style in STYLES:
        leads = {p.lead for p in foreign if p.style == style}
        assert len(leads) > 0.7 * (len(LEADS) - len(STYLES[style].leads))
    assert not any(is_held_out(p) for p in foreign)


def test_quotas_of_leads_that_are_not_a_styles_own_are_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(any_lead, "QUOTAS", dict.fromkeys(STYLES, (2, 1)))
    plans = any_lead.any_lead_plans(SEED)
    assert [p.index for p in plans] == sorted(p.index for p in plans)
    for style in STYLES:
        own = [p.lead in STYLES[style].leads for p in plans if p.style == style]
        assert sorted(own) == [False, False, True]
    assert {split_of(p) for p in plans} == {"train"}
    kept = [p.drums is not None for p in plans if STYLES[str(p.style)].drums]
    assert sum(kept) > 0.8 * len(kept)


def test_the_same_composition_never_falls_on_both_sides() -> None:
    """Drum patterns repeat between clips; they must not leak from training into the test.

    They did: the number of a kit's set of samples, 0 to 11, was a part of what was hashed. A kit has six
    sets at most, so the very same sound could fall on both sides, and the same pattern nearly always did.
    """
    sides: dict[str, set[str]] = {}
    clips = 0
    for plan in (draw_plan(SEED, index) for index in range(3000)):
        if plan.kind == "drums" and not is_held_out(plan):
            clips += 1
            score = compose(plan).as_json()
            heard = json.dumps([score["hits"], score["kit"]])
            sides.setdefault(heard, set()).add(split_of(plan))
    assert len(sides) < 0.7 * clips  # otherwise nothing would be distinguished
    assert set().union(*sides.values()) == {"train", "valid", "test"}
    assert all(len(side) == 1 for side in sides.values())


def test_captions_are_varied_and_say_what_is_there(plans: list[Plan]) -> None:
    for plan in plans[:400]:
        wordings = captions(plan)
        assert wordings == captions(plan)
        assert len(set(wordings)) == len(wordings)
        assert 3 <= len(wordings) <= CAPTIONS_PER_CLIP
        text = " | ".join(wordings)
        assert "  " not in text
        assert " ," not in text
        assert "None" not in text
        if plan.lead:
            words = INSTRUMENTS[plan.lead].words
            assert any(word in wordings[0] for word in words)
        if plan.drums is None:
            assert not any(f"{w} beat" in text for s in STYLES.values() for w in s.words)
        else:
            assert "no drums" not in text
            assert "without drums" not in text


def test_the_newcomers_words_are_in_the_captions(plans: list[Plan]) -> None:
    text = " | ".join(caption for plan in plans for caption in captions(plan)).lower()
    for phrase in (
        "lofi piano",
        "solo violin",
        "techno",
        "rain",
        "slow",
        "sad",
        "no drums",
        "choir",
    ):
        assert phrase in text


@pytest.mark.parametrize("mode", ["major", "minor"])
def test_every_progression_reads_in_every_key(mode: str) -> None:
    for tonic in KEYS[mode]:
        key = Key(tonic, mode)
        for modes in PROGRESSIONS.values():
            for text in modes[mode]:
                chords = progression(text, key)
                assert len(chords) == 4
                for chord in chords:
                    pitches = voicing(chord, 62)
                    assert list(pitches) == sorted(set(pitches))
                    assert abs(np.mean(pitches) - 62) < 6


def test_roman_numerals_are_what_they_say() -> None:
    assert parse_chord("V7", Key("C", "major")).pitch_classes == (7, 11, 2, 5)
    assert parse_chord("i", Key("A", "minor")).pitch_classes == (9, 0, 4)
    assert parse_chord("VI", Key("A", "minor")).pitch_classes == (5, 9, 0)
    with pytest.raises(ValueError, match="roman numeral"):
        parse_chord("H7", Key("C", "major"))


def test_the_tables_only_name_what_exists() -> None:
    kits = set(SOUNDFONT_KITS) | set(ONE_SHOT_KITS)
    for instrument in LEADS:
        assert set(instrument.textures) <= set(TEXTURES)
    for style in STYLES.values():
        assert set(style.leads) <= set(INSTRUMENTS)
        assert set(style.moods) <= set(MOODS)
        assert {t for textures in style.textures.values() for t in textures} <= set(TEXTURES)
        assert style.bass is None or style.bass[1] in BASS_LINES
        if style.drums is not None:
            kit, feel = style.drums
            assert kit in kits
            sounds = {sound for beat in BEATS_BY_FEEL[feel] for sound in beat.steps}
            assert sounds <= set(ONE_SHOT_KITS.get(kit) or SOUNDFONT_KITS[kit][0].keys)
    for beats in BEATS_BY_FEEL.values():
        assert {len(steps) for beat in beats for steps in beat.steps.values()} == {16}


def test_moods_change_the_music() -> None:
    energetic, calm = MOODS["energetic"], MOODS["calm"]
    assert energetic.velocity > calm.velocity + 30
    assert energetic.density > calm.density
    assert "slow" in calm.tempi
    assert "slow" not in energetic.tempi
    assert MOODS["happy"].modes == ("major",)
    assert MOODS["sad"].modes == ("minor",)


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_every_effect_fills_its_clip_and_follows_its_seed(name: str) -> None:
    variant = next(iter(EFFECTS[name].variants))
    sound = synthesise(SEED, 3, ((name, variant),))
    assert sound.shape == (CLIP_SAMPLES,)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() > 0
    last_seconds = sound[-3 * SAMPLE_RATE :]
    assert np.abs(last_seconds).max() > 0.01 * np.abs(sound).max()
    assert np.array_equal(sound, synthesise(SEED, 3, ((name, variant),)))
    assert not np.array_equal(sound, synthesise(SEED, 4, ((name, variant),)))


def test_levelling_reaches_the_loudness_and_spares_the_peak() -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal(CLIP_SAMPLES)
    rms = np.sqrt(np.mean(levelled(noise, -18.0) ** 2))
    assert -24 < 20 * math.log10(rms) < -16
    click = np.zeros(CLIP_SAMPLES)
    click[::16000] = 1.0
    assert np.abs(levelled(click, -18.0)).max() <= PEAK + 1e-9
    assert not np.any(levelled(np.zeros(CLIP_SAMPLES), -18.0))


def test_each_score_of_a_batch_has_a_slot_of_its_own() -> None:
    """Notes end, everything is silenced and controllers are reset before the next clip begins."""
    held = Score(parts=(Part("choir"),), notes=(Note(0.0, CLIP_SECONDS, 60, 90),))
    midi = batch_midi([held, held])
    seconds, events = 0.0, []
    for message in midi:
        seconds += message.time
        events.append((round(seconds, 3), message))
    strikes = [when for when, m in events if m.type == "note_on"]
    silences = [when for when, m in events if m.type == "control_change" and m.control == 120]
    resets = [when for when, m in events if m.type == "control_change" and m.control == 121]
    assert strikes == pytest.approx([LEAD_IN, LEAD_IN + SLOT], abs=0.002)
    assert LEAD_IN + CLIP_SECONDS < silences[0] < resets[1] < strikes[1]
    assert SLOT - CLIP_SECONDS - LEAD_IN > 2.5


def shaping(score: Score) -> list[tuple[float, float, float]]:
    """Seconds in the clip, level in dB and bend in cents of channel 0, after each event of the score."""
    now, level, cents, states = -LEAD_IN, 0.0, 0.0, []
    for message in batch_midi([score]):
        now += message.time
        if getattr(message, "channel", None) != 0:
            continue
        if message.type == "pitchwheel":
            cents = message.pitch / 8191 * 200
        elif message.type == "control_change" and message.control == 11:
            level = 40 * math.log10(message.value / 127)
        states.append((round(now, 3), level, cents))
    return states


def test_long_notes_swell_and_vibrate_and_leave_the_next_at_rest() -> None:
    notes = (Note(0.0, 2.0, 50, 90), Note(2.0, 2.3, 52, 90), Note(4.0, 6.0, 50, 90))
    states = shaping(Score(parts=(Part("cello"),), notes=notes))
    held = [state for state in states if 0.0 <= state[0] < 1.99]
    assert held[1][1] == pytest.approx(-4.0, abs=0.3)
    assert max(level for _, level, _ in held[2:]) == pytest.approx(0.0, abs=0.3)
    assert held[-3][1] == pytest.approx(-8.0, abs=0.5)
    bends = [cents for _, _, cents in held]
    assert max(bends) == pytest.approx(30.0, rel=0.06)
    assert min(bends) == pytest.approx(-max(bends))
    assert not any(cents for when, _, cents in held if when <= 0.2)
    rest = [state[1:] for state in states if 2.0 <= state[0] < 4.0]
    assert rest
    assert set(rest) == {(0.0, 0.0)}

    def again(first: float) -> list[tuple[float, float]]:
        return [state[1:] for state in states if first <= state[0] < first + 1.9]

    assert again(4.0)[1:] == again(0.0)[1:]  # equal notes have equal shapes


def test_a_held_chord_is_shaped_anew_where_a_voice_moves() -> None:
    notes = (Note(0.0, 4.0, 48, 90), Note(0.0, 2.0, 60, 90), Note(2.0, 4.0, 62, 90))
    states = shaping(Score(parts=(Part("strings"),), notes=notes))
    swells = [when for when, level, _ in states if level < -3.5]  # where one begins or ends
    assert min(when for when in swells if when >= 1.9999) < 2.05
    levels = [level for when, level, _ in states if 0.02 < when < 1.98]
    falls = [b < a for a, b in itertools.pairwise(levels) if b != a]
    assert falls == sorted(falls)  # one swell at a time: it grows, then fades
    assert {False, True} == set(falls)


def test_struck_and_plucked_notes_stay_as_struck() -> None:
    for name in ("piano", "harp", "vibraphone", "upright bass"):
        states = shaping(Score(parts=(Part(name),), notes=(Note(0.0, 4.0, 50, 90),)))
        assert {state[1:] for state in states} == {(0.0, 0.0)}
    organ = shaping(Score(parts=(Part("organ"),), notes=(Note(0.0, 4.0, 50, 90),)))
    assert {cents for *_, cents in organ} == {0.0}
    assert min(level for _, level, _ in organ) < -7


def test_a_killed_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only batches with a missing clip are rendered again; manifests list existing clips once."""
    rendered: list[int] = []

    def silence(plans: list[Plan]) -> list[tuple[np.ndarray, Score | None]]:
        rendered.extend(plan.index for plan in plans)
        return [(np.zeros(CLIP_SAMPLES), Score()) for _ in plans]

    monkeypatch.setattr(dataset, "render_batch", silence)
    monkeypatch.setattr(dataset, "BATCH", 4)
    done: list[int] = []
    plans = [draw_plan(SEED, index) for index in range(8)]
    dataset.render_dataset(tmp_path, plans, done.append)
    assert done == [4, 8]
    assert rendered == list(range(8))
    (tmp_path / dataset.ClipFiles(5).audio).unlink()
    assert sum(dataset.write_manifests(tmp_path, plans).values()) == 7
    rendered.clear()
    dataset.render_dataset(tmp_path, plans, done.append)
    assert rendered == [4, 5, 6, 7]
    assert not list(tmp_path.rglob("*.partial"))
    lines = [json.loads(t) for f in tmp_path.glob("*.jsonl") for t in f.read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == [dataset.ClipFiles(i).audio for i in range(8)]
    assert all((tmp_path / line["path"]).exists() for line in lines)
