"""Edits of files: outside the crossfades the input is unchanged, bit for bit."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from magnet_cli.audio.finish import write_patched
from magnet_cli.audio.formats import encoding_for
from magnet_cli.audio.sound import open_sound
from magnet_cli.editing.pieces import Direction
from magnet_cli.editing.transcoding import (
    CROSSFADE,
    crossfade,
    edit_regions,
    encode_sound,
    frames_in,
    level_match,
)
from magnet_cli.editing.windows import Cue
from magnet_cli.errors import AudioFileError, UsageError
from tests import sounds
from tests.editing.sounds import noise, numbers, write
from tests.editing.tiny import FAST, tiny_model

PIANO = Direction.of("piano", seed=4, config=FAST)


def edit(path: Path, spans, out: Path, direction: Direction = PIANO):
    with open_sound(path) as sound:
        result = edit_regions(tiny_model(), direction, sound, spans)
        write_patched(sound, result.patches, out, encoding_for(sound, out), result.settings)
    return result


@pytest.mark.parametrize(
    ("suffix", "subtype", "dtype", "rate", "channels"),
    [
        ("wav", "PCM_16", "int16", 8000, 1),
        ("wav", "PCM_16", "int16", 44_100, 2),
        ("wav", "PCM_24", "int32", 48_000, 2),
        ("wav", "PCM_32", "int32", 11_025, 1),
        ("wav", "PCM_U8", "int16", 8000, 1),
        ("wav", "FLOAT", "float32", 22_050, 3),
        ("wav", "DOUBLE", "float64", 8000, 1),
        ("wav", "ULAW", "int16", 8000, 1),
        ("flac", "PCM_16", "int16", 44_100, 1),
        ("flac", "PCM_24", "int32", 32_000, 2),
        ("aiff", "PCM_16", "int16", 16_000, 1),
        ("w64", "PCM_24", "int32", 16_000, 1),
    ],
)
def test_edits_are_confined(tmp_path, suffix, subtype, dtype, rate, channels) -> None:
    given = write(tmp_path / f"in.{suffix}", noise(2.5, rate, channels), rate, subtype)
    out = tmp_path / f"out.{suffix}"
    result = edit(given, [(1.013, 1.21)], out)
    assert result.regions == ((1.0, 1.22),)

    before, after = numbers(given, dtype), numbers(out, dtype)
    assert before.shape == after.shape
    info, old = soundfile.info(out), soundfile.info(given)
    assert (info.samplerate, info.channels, info.subtype, info.format) == (
        (old.samplerate, old.channels, old.subtype, old.format)
    )
    fade = round(CROSSFADE * rate)
    first, last = round(1.0 * rate) - fade, round(1.22 * rate) + fade
    assert np.array_equal(before[:first], after[:first])
    assert np.array_equal(before[last:], after[last:])
    inside = slice(round(1.0 * rate), round(1.22 * rate))
    assert (before[inside] != after[inside]).mean() > 0.5
    # Levels match what is around, and nothing else was made louder.
    scale = np.abs(before.astype(float)).max()
    level = np.sqrt(np.square(after[inside] / scale).mean(0))
    assert (level > 0.02).all()
    assert (level < 0.8).all()


def test_regions_at_the_ends_and_next_to_each_other(tmp_path) -> None:
    given = write(tmp_path / "in.wav", noise(2.0, 16_000), 16_000)
    out = tmp_path / "out.wav"
    result = edit(given, [(1.9, 2.0), (0.0, 0.1), (0.12, 0.2)], out)
    assert result.regions == ((0.0, 0.1), (0.12, 0.2), (1.9, 2.0))
    before, after = numbers(given, "int16"), numbers(out, "int16")
    same = (before == after)[:, 0]
    assert same[round(0.22 * 16_000) : round(1.88 * 16_000)].all()
    # The 20 ms between two regions are shared by their crossfades.
    assert not same[: round(0.2 * 16_000)].all()
    assert len(result.patches) == 3
    assert result.patches[0].start == 0


def test_far_regions_of_a_long_file_are_windowed(tmp_path) -> None:
    given = write(tmp_path / "in.flac", noise(12.0, 16_000), 16_000)
    out = tmp_path / "out.flac"
    edit(given, [(2.0, 2.2), (9.0, 11.5)], out)  # the second is longer than the segment
    before, after = numbers(given, "int16"), numbers(out, "int16")
    changed = np.flatnonzero((before != after)[:, 0]) / 16_000
    inside = ((changed > 1.975) & (changed < 2.225)) | ((changed > 8.975) & (changed < 11.525))
    assert inside.all()
    assert (before != after)[9 * 16_000 : round(11.5 * 16_000)].mean() > 0.9


def test_only_what_the_model_sees_is_read(tmp_path, monkeypatch) -> None:
    given = write(tmp_path / "in.wav", noise(30.0, 8000), 8000)
    with open_sound(given) as sound:
        read: list[tuple[int, int]] = []
        whole = type(sound).samples
        monkeypatch.setattr(
            type(sound),
            "samples",
            lambda self, a, b: (read.append((a, b)), whole(self, a, b))[1],
        )
        edit_regions(tiny_model(), PIANO, sound, [(15.0, 15.2)])
    assert min(a for a, _ in read) >= 13 * 8000
    assert max(b for _, b in read) <= 17.5 * 8000


def test_mono_models_make_all_channels_each_at_its_level(tmp_path) -> None:
    mono = noise(2.0, 16_000)
    given = write(
        tmp_path / "in.wav", np.concatenate([mono, mono * 0.25, mono * 0], axis=1), 16_000, "FLOAT"
    )
    out = tmp_path / "out.wav"
    edit(given, [(1.0, 1.2)], out)
    made = numbers(out, "float32")[16_000 : round(1.2 * 16_000)]
    assert np.abs(made[:, 0]).max() > 0.01
    assert np.allclose(made[:, 1], made[:, 0] * 0.25, atol=1e-5)
    assert not made[:, 2].any()


def test_a_stereo_model_edits_mono_and_stereo(tmp_path) -> None:
    model = tiny_model("masked", 2)
    for channels in (1, 2, 4):
        given = write(tmp_path / f"{channels}.wav", noise(1.5, 8000, channels), 8000)
        with open_sound(given) as sound:
            assert encode_sound(model, sound).shape == (1, 4, 75)
            (patch,) = edit_regions(model, PIANO, sound, [(0.5, 0.7)]).patches
        assert patch.numbers.shape[1] == channels


def test_the_same_seed_makes_the_same_edit(tmp_path) -> None:
    given = write(tmp_path / "in.wav", noise(1.5, 16_000), 16_000)
    for name in ("a.wav", "b.wav"):
        edit(given, [(0.5, 0.7)], tmp_path / name)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_settings_say_what_was_made(tmp_path) -> None:
    given = write(tmp_path / "in.wav", noise(1.5, 16_000), 16_000)
    edit(given, [(0.5, 0.7)], tmp_path / "out.wav")
    kept = sounds.read(tmp_path / "out.wav").metadata
    assert kept is not None
    assert kept["edit"]["regions"] == [[0.5, 0.7]]
    assert kept["frames"] == 75


def test_lossy_sounds_are_kept_as_decoded_where_the_output_can(tmp_path) -> None:
    given = tmp_path / "in.ogg"
    soundfile.write(given, noise(1.5, 16_000), 16_000, format="OGG", subtype="VORBIS")
    out = tmp_path / "out.wav"
    edit(given, [(0.5, 0.7)], out)
    assert soundfile.info(out).subtype == "FLOAT"
    before, after = numbers(given, "float32"), numbers(out, "float32")
    assert np.array_equal(before[:7500], after[:7500])
    edit(given, [(0.5, 0.7)], tmp_path / "out.ogg")
    assert soundfile.info(tmp_path / "out.ogg").subtype == "VORBIS"


def test_a_stream_is_edited_as_its_file(tmp_path) -> None:
    given = write(tmp_path / "in.wav", noise(1.5, 16_000), 16_000)
    with open_sound(given) as sound:
        of_file = edit_regions(tiny_model(), PIANO, sound, [(0.5, 0.7)])
    with open_sound(io.BytesIO(given.read_bytes())) as sound:
        of_stream = edit_regions(tiny_model(), PIANO, sound, [(0.5, 0.7)])
        parts: list[bytes] = []
        write_patched(sound, of_stream.patches, parts.append, encoding_for(sound, None))
    assert np.array_equal(of_file.patches[0].numbers, of_stream.patches[0].numbers)
    assert parts[0][:4] == b"RIFF"


def test_sounds_that_cannot_be_edited(tmp_path) -> None:
    model = tiny_model()
    short = write(tmp_path / "short.wav", noise(0.05, 8000), 8000)
    silent = write(tmp_path / "silent.wav", noise(1.0, 8000) * 0, 8000)
    broken = write(tmp_path / "broken.wav", noise(1.0, 8000), 8000, "FLOAT")
    data = np.array(noise(1.0, 8000), np.float32)
    data[4000] = np.nan
    write(broken, data, 8000, "FLOAT")
    for path, message in (
        (short, "too short"),
        (silent, "silent"),
        (broken, "NaN or infinite"),
    ):
        with open_sound(path) as sound, pytest.raises(AudioFileError, match=message):
            edit_regions(model, PIANO, sound, [(0.0, 0.02)])
    with open_sound(silent) as sound, pytest.raises(UsageError, match="not inside"):
        edit_regions(model, PIANO, sound, [(0.5, 2.0)])
    two = Direction((Cue(0, "a"), Cue(0.5, "b")), 1, config=FAST)
    with open_sound(silent) as sound, pytest.raises(UsageError, match="one prompt"):
        edit_regions(model, two, sound, [(0.5, 0.6)])


def test_an_hour_and_more_is_not_encoded_at_once(tmp_path) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 1000, 1, subtype="PCM_16") as file:
        for _ in range(37):
            file.write(np.zeros(100_000, np.int16))
    with open_sound(path) as sound, pytest.raises(AudioFileError, match="too long"):
        encode_sound(tiny_model(), sound)


def test_encoding_counts_whole_frames(tmp_path) -> None:
    model = tiny_model()
    for samples, rate, frames in ((44_100, 44_100, 50), (44_101, 44_100, 51), (8000, 8000, 50)):
        path = write(tmp_path / f"{samples}.wav", noise(samples / rate, rate), rate)
        with open_sound(path) as sound:
            assert frames_in(model, sound) == frames
            assert encode_sound(model, sound).shape == (1, 4, frames)


def test_levels_are_matched_within_bounds() -> None:
    ones = np.ones((1, 100), np.float32)
    assert level_match(ones * 0.5, ones).tolist() == [0.5]
    assert level_match(ones * 100, ones).tolist() == [4.0]
    assert level_match(ones * 0, ones).tolist() == [1.0]
    assert level_match(ones[:, :0], ones[:, :0]).tolist() == [1.0]


def test_a_crossfade_keeps_the_level_of_like_and_unlike_sounds() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 1, 20_000)).astype(np.float32)
    assert np.allclose(crossfade(one, one), one, atol=1e-5)
    mixed = crossfade(one, other)
    assert abs(float(np.square(mixed[:, 8000:12_000]).mean()) - 1) < 0.1
    assert crossfade(one[:, :0], other[:, :0]).shape == (1, 0)
