"""Unusual sound files: wrong lengths in headers, other programs' tags, odd encodings."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from magnet_cli.audio import formats, metadata, whole
from magnet_cli.audio.finish import large_kind, write_patched
from magnet_cli.audio.formats import encoding_for, lost_chunks
from magnet_cli.audio.metadata import finish_wav, read_wav_comment
from magnet_cli.audio.sound import cancels, heard_with, open_sound
from magnet_cli.errors import AudioFileError

RATE = 44_100


def tone(seconds: float = 6.03, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """[samples, channels]: noise of increasing level over a tone, so that the bit rate varies."""
    rng, count = np.random.default_rng(0), round(seconds * rate)
    ramp = np.linspace(0, 0.3, count) ** 2
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(count) / rate) + ramp * rng.standard_normal(
        count
    )
    return np.repeat(wave[:, None].astype(np.float32), channels, 1)


def mp3(path: Path, seconds: float = 6.03, rate: int = RATE) -> bytes:
    soundfile.write(path, tone(seconds, rate=rate), rate, format="MP3", subtype="MPEG_LAYER_III")
    return path.read_bytes()


def without_xing(data: bytes) -> bytes:
    """Only the frames, without the one that gives their number."""
    frames = list(whole.frames_of(data))
    first = frames[0]
    assert data[first.at + first.tag : first.at + first.tag + 4] in (b"Xing", b"Info")
    return data[frames[1].at :]


def duration_of(path: Path) -> float:
    with open_sound(path) as sound:
        assert sound.read().shape[1] == sound.length
        assert sound.read(start=sound.length - 700).shape[1] == 700
        return sound.duration


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_an_mp3_without_a_count_of_its_frames_is_read_to_its_end(tmp_path, rate) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(without_xing(mp3(path, rate=rate)))
    assert duration_of(path) == pytest.approx(6.03, abs=0.2 if rate < 16_000 else 0.1)


def test_joined_mp3s_are_as_long_as_both(tmp_path) -> None:
    path = tmp_path / "a.mp3"
    data = mp3(path, 2.0)
    path.write_bytes(data + metadata.id3_tag({"title": "two"}, None) + data)
    assert duration_of(path) == pytest.approx(4.0, abs=0.15)
    with open_sound(path) as sound:
        assert sound.remarks == ()
        late = sound.read(start=round(3.0 * RATE), stop=round(3.5 * RATE))
    assert np.abs(late).max() > 0.2


def test_an_mp3_that_ends_early_says_so(tmp_path) -> None:
    path = tmp_path / "a.mp3"
    data = mp3(path)
    path.write_bytes(data[: len(data) // 2])
    with open_sound(path) as sound:
        assert 2 < sound.duration < 4
        (said,) = sound.remarks
        assert "ends early: at" in said


@pytest.mark.parametrize(
    ("name", "codec", "what"),
    [
        ("a.ogg", "VORBIS", "in the middle of a page"),
        ("a.opus", "OPUS", "in the middle of a page"),
        ("a.aiff", "PCM_16", " bytes are there"),
        ("a.aifc", "FLOAT", " bytes are there"),
        ("a.au", "PCM_16", " bytes are there"),
    ],
)
def test_what_ends_early_says_so_in_other_containers(tmp_path, name, codec, what) -> None:
    path = tmp_path / name
    form = {".ogg": "OGG", ".opus": "OGG", ".au": "AU"}.get(path.suffix, "AIFF")
    soundfile.write(path, tone(3.0), 24_000, format=form, subtype=codec)
    with open_sound(path) as sound:
        assert sound.remarks == ()
        whole_length = sound.duration
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with open_sound(path) as sound:
        (said,) = sound.remarks
        assert sound.duration < whole_length
    assert said.startswith(f"{path} ends early: ")
    assert what in said


def test_an_mp3_that_is_right_is_read_as_it_is(tmp_path) -> None:
    path = tmp_path / "a.mp3"
    mp3(path)
    with whole.true_length(path) as (file, frames, said):
        assert (file, frames, said) == (path, None, ())


def test_a_wav_that_ends_early_says_so_and_one_from_a_pipe_does_not(tmp_path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0), RATE, subtype="PCM_16")
    data = path.read_bytes()
    path.write_bytes(data[: 44 + RATE])
    with open_sound(path) as sound:
        assert sound.duration == pytest.approx(0.5)
        assert sound.remarks == (f"{path} ends early: at 0.50 s of 1.00 s.",)
    path.write_bytes(data[:40] + b"\xff" * 4 + data[44:])
    with open_sound(path) as sound:
        assert (sound.duration, sound.remarks) == (1.0, ())


def test_a_flac_from_a_pipe_has_the_length_that_it_has(tmp_path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert duration_of(path) == pytest.approx(6.03, abs=1e-3)
    with open_sound(path) as sound:
        assert np.abs(sound.read()[0] - tone()[:, 0]).max() < 1e-4


def test_chained_ogg_is_read_link_after_link(tmp_path) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, tone(1.5), RATE, format="OGG", subtype="VORBIS")
    one = path.read_bytes()
    path.write_bytes(one * 3)
    assert duration_of(path) == pytest.approx(4.5, abs=0.01)


def test_mp3_in_wav_is_read_to_its_end(tmp_path) -> None:
    frames = without_xing(mp3(tmp_path / "a.mp3", 3.0))
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 16_000, 1, 0, 12, 1, 2, 417, 1, 1393)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(frames)) + frames
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert duration_of(path) == pytest.approx(3.0, abs=0.1)


@pytest.mark.slow  # ffmpeg
@pytest.mark.parametrize("suffix", ["m4a", "aac", "webm", "wma", "caf"])
def test_what_ffmpeg_reads_is_read_through_it_and_named_where_it_is_not(
    tmp_path, suffix, monkeypatch
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    path = tmp_path / f"a.{suffix}"
    more = ("-c:a", "alac") if suffix == "caf" else ()
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.wav"), *more, str(path)], check=True
    )
    assert duration_of(path) == pytest.approx(6.03, abs=0.1)
    with open_sound(path) as sound:
        assert not sound.exact
        assert encoding_for(sound, Path("b.flac")) == ("FLAC", "PCM_24")
        assert encoding_for(sound, None) == ("WAV", "FLOAT")
    monkeypatch.setattr(formats.shutil, "which", lambda name: None)
    with pytest.raises(AudioFileError, match="Install ffmpeg"):  # noqa: SIM117
        with open_sound(path):
            pass


def test_tags_of_an_mp3_stay_as_they_are_edit_after_edit(tmp_path) -> None:
    path = tmp_path / "a.mp3"
    picture = b"\0image/png\0\x03\0\x89PNG" + bytes(range(256))
    tags = {"title": "Tïtle ピアノ", "artist": "Ü", "date": "2026"}
    path.write_bytes(metadata.id3_tag(tags, None, [picture]) + mp3(path, 0.5))
    for number in range(3):
        copy = tmp_path / f"{number}.mp3"
        with open_sound(path) as sound:
            assert {name: sound.tags[name] for name in tags} == tags
            encoding = encoding_for(sound, copy)
            assert lost_chunks(sound, encoding) == ""
            write_patched(sound, [], copy, encoding, {"number": number})
        path = copy
    with open_sound(path) as sound:
        assert sound.tags["title"] == tags["title"]
        assert sound.pictures == (picture,)
        assert sound.metadata == {"number": 2}
        for name in ("b.wav", "b.flac", "b.ogg"):
            encoding = encoding_for(sound, Path(name))
            assert lost_chunks(sound, encoding) == "picture"
            write_patched(sound, [], tmp_path / name, encoding, {"number": 3})
            with open_sound(tmp_path / name) as written:
                assert written.tags["title"] == tags["title"]


@pytest.mark.slow  # ffmpeg
def test_settings_that_ffmpeg_moved_are_found(tmp_path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5), RATE)
    with open_sound(path) as sound:
        made = {"prompt": "lofi", "seed": 7}
        write_patched(sound, [], tmp_path / "m.wav", encoding_for(sound, path), made)
    for name in ("m.flac", "m.mp3", "m.ogg"):
        command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "m.wav"), str(tmp_path / name)]
        subprocess.run(command, check=True)
        with open_sound(tmp_path / name) as sound:
            assert sound.metadata == made, name


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_adpcm_is_written_as_pcm_of_the_same_samples(tmp_path, subtype) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, rate=8000), 8000, subtype=subtype)
    with open_sound(path) as sound:
        before = sound.numbers(0, sound.length)
        assert np.abs(before).max() > 0.2 * 2**15
        for name, kind in (("b.wav", "WAV"), ("b.flac", "FLAC")):
            encoding = encoding_for(sound, tmp_path / name)
            assert encoding == (kind, "PCM_16")
            write_patched(sound, [], tmp_path / name, encoding)
            with open_sound(tmp_path / name) as copy:
                assert copy.sample_rate == 8000
                assert np.array_equal(copy.numbers(0, copy.length), before)


def test_alac_is_exact(tmp_path) -> None:
    path = tmp_path / "a.caf"
    soundfile.write(path, tone(1.0), RATE, format="CAF", subtype="ALAC_16")
    with open_sound(path) as sound:
        assert sound.exact
        before = sound.numbers(0, sound.length)
        for name in ("b.caf", "b.wav", "b.flac"):
            write_patched(sound, [], tmp_path / name, encoding_for(sound, tmp_path / name))
            with open_sound(tmp_path / name) as copy:
                assert np.array_equal(copy.numbers(0, copy.length), before)


@pytest.mark.process  # ffmpeg, if libsndfile does not open it
def test_what_libsndfile_prints_of_a_damaged_file_is_not_on_stdout(tmp_path, capfd) -> None:
    """It prints problems of ALAC's packet table there, which in a pipe became part of the data."""
    path = tmp_path / "a.caf"
    soundfile.write(path, tone(1.0), RATE, format="CAF", subtype="ALAC_16")
    data = bytearray(path.read_bytes())
    table = data.index(b"pakt") + 36
    data[table : table + 4] = b"\xff" * 4
    path.write_bytes(data)
    with contextlib.suppress(AudioFileError), open_sound(path) as sound:
        sound.read()
    ctypes.CDLL(None).fflush(None)  # C buffers what is written to a pipe
    assert capfd.readouterr() == ("", "")
    os.write(1, b"ours")
    ctypes.CDLL(None).puts(b"")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "ours\n"  # and C's stdout is restored


def test_channels_that_cancel_each_other_are_noticed(tmp_path) -> None:
    path, wave = tmp_path / "a.wav", tone(1.0)
    soundfile.write(path, np.concatenate([wave, -wave], 1), RATE, subtype="FLOAT")
    with open_sound(path) as sound:
        heard, cancelled = heard_with(sound, RATE, 1)
        assert cancelled
        assert cancels(sound)
        assert np.allclose(heard[0], wave[:, 0])
    soundfile.write(path, np.concatenate([wave, wave / 2], 1), RATE, subtype="FLOAT")
    with open_sound(path) as sound:
        heard, cancelled = heard_with(sound, RATE, 1)
        assert not cancelled
        assert not cancels(sound)
        assert np.allclose(heard[0], wave[:, 0] * 0.75, atol=1e-6)


def test_what_a_wav_header_cannot_say_is_rf64(tmp_path) -> None:
    assert large_kind("WAV", "PCM_16", 2**31) == "RF64"
    assert large_kind("WAV", "PCM_16", 2**30) == "WAV"
    assert large_kind("WAV", "FLOAT", 2**30) == "RF64"
    assert large_kind("FLAC", "PCM_16", 2**40) == "FLAC"
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5), RATE, format="RF64", subtype="PCM_16")
    with path.open("r+b") as file:
        finish_wav(file, "é".encode().hex())
    assert read_wav_comment(path) == "é".encode().hex()
    with open_sound(path) as sound:
        assert (sound.kind, sound.length) == ("RF64", RATE // 2)
        assert sound.remarks == ()


def test_a_mask_of_channels_stays(tmp_path) -> None:
    """Four channels are front, centre and back here (4.0), which libsndfile reads as quad."""
    path, mask = tmp_path / "a.wav", struct.pack("<I", 0x107)
    soundfile.write(path, tone(0.2, channels=4), RATE, format="WAVEX", subtype="PCM_16")
    data = path.read_bytes()
    at = data.index(b"fmt ") + 28
    path.write_bytes(data[:at] + mask + data[at + 4 :])
    with open_sound(path) as sound:
        assert sound.channel_mask == mask
        for name in ("b.wav", "c.flac"):
            write_patched(sound, [], tmp_path / name, encoding_for(sound, tmp_path / name), {})
    assert (tmp_path / "b.wav").read_bytes()[at : at + 4] == mask
    with open_sound(tmp_path / "b.wav") as copy:
        assert (copy.channel_mask, copy.channels) == (mask, 4)


def test_a_damaged_mp3_is_read_without_words_of_the_library(tmp_path, capfd) -> None:
    """mpg123 prints notes and errors with its own source lines directly to stderr, past Python."""
    path, damage = tmp_path / "a.mp3", np.random.default_rng(1)
    data = bytearray(mp3(path, 3.0))
    for place in damage.integers(400, len(data), 60):
        data[place] = damage.integers(256)
    path.write_bytes(data[: len(data) // 2] + bytes(5000) + data[len(data) // 2 :])
    with open_sound(path) as sound:
        sound.read(checked=False)
        sound.read(start=30_000, checked=False)
    assert capfd.readouterr().err == ""
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_what_lies_between_the_frames_of_an_mp3_is_passed_over(tmp_path) -> None:
    """Players continue after it; here nothing could be read, and the damage was reported at 0 s."""
    path = tmp_path / "a.mp3"
    data = mp3(path, 3.0)
    path.write_bytes(data[: len(data) // 2] + bytes(5000) + data[len(data) // 2 :])
    assert duration_of(path) == pytest.approx(3.0, abs=0.1)
