"""Encoding: hostile sounds are reported and skipped; what is encoded stays, and is not done twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from magnet_cli.audio import streaming
from magnet_cli.data.manifests import read_clips
from magnet_cli.data.tokens import TokenFolder, TokenWriter
from magnet_cli.errors import DataError, MagnetError
from magnet_cli.training.encode import (
    EncodeOptions,
    EncodeReport,
    check_clips,
    encode_clips,
    mix,
    mixed_pairs,
)
from magnet_cli.training.parts import token_format
from tests.training.conftest import tiny_codec

RATE = 100


def tone(folder: Path, name: str, seconds: float, rate: int = RATE, channels: int = 1) -> Path:
    time = np.arange(round(seconds * rate)) / rate
    samples = np.stack([0.5 * np.sin(2 * np.pi * (3 + c) * time) for c in range(channels)], 1)
    soundfile.write(folder / name, samples, rate)
    (folder / name).with_suffix(".txt").write_text(f"tone {name}\n")
    return folder / name


def encode(sounds: Path, tokens: Path, **options: object) -> EncodeReport:
    codec = tiny_codec()
    chosen = EncodeOptions(clips_per_shard=2, **options)  # type: ignore[arg-type]
    return encode_clips(read_clips(sounds), codec, token_format(codec, "tiny"), tokens, chosen)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Five good sounds, and as many that are not."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    tone(folder, "a.wav", 3.0)
    tone(folder, "b.flac", 2.0)
    tone(folder, "eight_channels.wav", 1.0, rate=192_000, channels=8)
    tone(folder, "stereo.wav", 1.5, channels=2)
    tone(folder, "z.wav", 1.0)
    tone(folder, "empty.wav", 0.0)
    tone(folder, "short.wav", 0.1)
    whole = tone(folder, "cut.flac", 60.0, rate=8000).read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    tone(folder, "garbage.wav", 1.0).write_bytes(b"RIFF" + b"\0" * 50)
    tone(folder, "nothing.wav", 1.0).write_bytes(b"")
    soundfile.write(folder / "nan.wav", np.full(200, np.nan), RATE, subtype="FLOAT")
    (folder / "nan.txt").write_text("not a number")
    (folder / "no_caption.wav").write_bytes((folder / "a.wav").read_bytes())
    return folder


def test_hostile_sounds_are_skipped_and_named(hostile: Path, tmp_path: Path) -> None:
    report = encode(hostile, tmp_path / "tokens")
    good = {"a.wav", "b.flac", "eight_channels.wav", "stereo.wav", "z.wav"}
    clips = TokenFolder(tmp_path / "tokens").clips
    assert {Path(clip.id).name for clip in clips} == good
    assert report.encoded == 5
    frames = {Path(clip.id).name: clip.frames for clip in clips}
    assert frames == {
        "a.wav": 30,
        "b.flac": 20,
        "eight_channels.wav": 10,
        "stereo.wav": 15,
        "z.wav": 10,
    }
    said = {Path(problem.where).name: problem.what for problem in report.problems}
    assert set(said) == {
        "empty.wav", "short.wav", "cut.flac", "garbage.wav", "nothing.wav", "nan.wav", "no_caption.wav",
    }  # fmt: skip
    assert "too short: 0.10 s" in said["short.wav"]
    assert "not numbers" in said["nan.wav"]


def test_check_says_beforehand_what_encoding_would_skip(hostile: Path) -> None:
    counted: list[tuple[int, int]] = []
    problems = check_clips(
        read_clips(hostile), on_clip=lambda done, count: counted.append((done, count))
    )
    said = {Path(problem.where).name for problem in problems if problem.skipped}
    assert {"empty.wav", "short.wav", "garbage.wav", "nothing.wav", "no_caption.wav"} <= said
    assert "a.wav" not in said
    assert counted[-1] == (11, 11)


def test_what_is_encoded_is_not_encoded_again(tmp_path: Path) -> None:
    sounds, tokens = tmp_path / "sounds", tmp_path / "tokens"
    sounds.mkdir()
    for name in ("a.wav", "b.wav", "c.wav"):
        tone(sounds, name, 1.0)
    assert encode(sounds, tokens).encoded == 3
    (sounds / "b.txt").write_text("another caption")
    tone(sounds, "d.wav", 1.0)
    report = encode(sounds, tokens)
    assert (report.encoded, report.kept) == (2, 2)
    clips = {Path(clip.id).name: clip for clip in TokenFolder(tokens).clips}
    assert set(clips) == {"a.wav", "b.wav", "c.wav", "d.wav"}
    assert clips["b.wav"].captions == ("another caption",)


def test_a_full_disk_stops_with_what_is_encoded_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds, tokens = tmp_path / "sounds", tmp_path / "tokens"
    sounds.mkdir()
    for n in range(5):
        tone(sounds, f"{n}.wav", 1.0)
    from magnet_cli.data import tokens as module

    save, written = module.save_file, []

    def filling(*args: object) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(args)
        save(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "save_file", filling)
    with pytest.raises(MagnetError, match="No space left") as caught:
        encode(sounds, tokens)
    assert "run the same command again" in caught.value.hint
    monkeypatch.setattr(module, "save_file", save)
    report = encode(sounds, tokens)
    assert (report.encoded, report.kept) == (3, 2)


def test_two_runs_on_one_folder_are_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    sounds, tokens = tmp_path / "sounds", tmp_path / "tokens"
    sounds.mkdir()
    tokens.mkdir()
    tone(sounds, "a.wav", 1.0)
    with FileLock(tokens / ".lock"), pytest.raises(DataError, match="Another run"):
        encode(sounds, tokens)


def test_blocks_do_not_change_what_is_read(tmp_path: Path) -> None:
    path = tone(tmp_path, "a.wav", 3.0, rate=441, channels=3)
    whole = streaming.read_as(path, RATE, 1, block_seconds=60)
    blocks = streaming.read_as(path, RATE, 1, block_seconds=0.3)
    assert whole.shape == blocks.shape == (1, 300)
    np.testing.assert_allclose(whole, blocks, atol=1e-5)
    assert streaming.read_as(path, RATE, 2).shape == (2, 300)
    assert streaming.info(path).channels == 3


def test_codes_are_those_of_the_codec(tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    path = tone(sounds, "a.wav", 2.0)
    encode(sounds, tmp_path / "tokens")
    folder = TokenFolder(tmp_path / "tokens")
    samples = torch.from_numpy(streaming.read_as(path, RATE, 1))
    assert torch.equal(folder.codes(folder.clips[0]), tiny_codec().encode(samples[None])[0])


def test_pairs_are_mixed_at_the_drawn_level_with_both_captions(tmp_path: Path) -> None:
    sounds, tokens = tmp_path / "sounds", tmp_path / "tokens"
    sounds.mkdir()
    for n in range(4):
        tone(sounds, f"{n}.wav", 1.0 + n)
    report = encode(sounds, tokens, mix_share=0.5, mix_duration=2.0)
    assert report.encoded == 4 + 2
    mixed = [clip for clip in TokenFolder(tokens).clips if clip.id.startswith("mix-")]
    assert len(mixed) == 2
    assert all(clip.frames <= 20 and " and " in clip.captions[0] for clip in mixed)
    assert encode(sounds, tokens, mix_share=0.5, mix_duration=2.0).kept == 6

    options = EncodeOptions(mix_share=50.0, mix_snr=5.0)
    pairs = list(mixed_pairs(4, options))
    assert pairs == list(mixed_pairs(4, options))
    assert all(a != b and abs(snr) <= 5 for a, b, snr in pairs)
    assert max(snr for *_, snr in pairs) > 4
    assert min(snr for *_, snr in pairs) < -4


def test_mixing_keeps_level_and_ratio() -> None:
    time = torch.arange(1000) / 1000
    a = 0.3 * torch.sin(2 * torch.pi * 10 * time)[None]
    b = 0.9 * torch.sin(2 * torch.pi * 26 * time)[None, :500]
    both = mix(a, b, snr=5.0)
    assert both.shape == (1, 1000)
    assert float(both.std()) == pytest.approx(float(a.std()), rel=1e-2)
    spectrum = torch.fft.rfft(both[0, :500]).abs()
    # b fills half of the length, so its level over the whole is 3 dB lower than over its own.
    ratio = 20 * torch.log10(spectrum[5] / spectrum[13])
    assert float(ratio) == pytest.approx(5 - 3, abs=1.0)


def test_a_writer_of_another_codec_is_refused(tmp_path: Path) -> None:
    codec = tiny_codec()
    writer = TokenWriter(tmp_path, token_format(codec, "tiny"))
    writer.add("a", "k", torch.zeros(2, 5, dtype=torch.int64), ("x",), ())
    writer.flush()
    with torch.no_grad():
        codec.quantizer.codebooks[0].add_(1.0)
    with pytest.raises(DataError, match="another folder"):
        TokenWriter(tmp_path, token_format(codec, "tiny2"))
