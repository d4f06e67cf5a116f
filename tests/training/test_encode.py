"""Encoding: hostile sounds are reported and skipped; encoded clips are kept and not encoded again."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from magnet_cli.audio import sound as reader
from magnet_cli.audio.sound import open_sound
from magnet_cli.data.manifests import read_clips
from magnet_cli.data.tokens import TokenClip, TokenFolder, TokenWriter
from magnet_cli.errors import DataError, MagnetError, UsageError
from magnet_cli.training import encode as encoding
from magnet_cli.training.encode import (
    EncodeOptions,
    EncodeReport,
    check_clips,
    encode_clips,
    token_format,
)
from magnet_cli.training.mixing import mix, mixed_pairs
from tests.training.conftest import tiny_codec

RATE = 100


def tone(folder: Path, name: str, seconds: float, rate: int = RATE, channels: int = 1) -> Path:
    time = np.arange(round(seconds * rate)) / rate
    start = sum(name.encode()) % 97 / 15  # no two sounds are copies of each other
    waves = [0.5 * np.sin(2 * np.pi * (3 + c) * time + start) for c in range(channels)]
    samples = np.stack(waves, 1)
    soundfile.write(folder / name, samples, rate)
    (folder / name).with_suffix(".txt").write_text(f"tone {name}\n")
    return folder / name


def encode(sounds: Path, tokens: Path, **options: object) -> EncodeReport:
    codec = tiny_codec()
    chosen = EncodeOptions(clips_per_shard=2, **options)  # type: ignore[arg-type]
    return encode_clips(read_clips(sounds), codec, token_format(codec, "tiny"), tokens, chosen)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Five good sounds, and as many bad ones."""
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
    assert "NaN or infinite" in said["nan.wav"]


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
    assert (report.encoded, report.kept) == (1, 3)  # of b only the words are new
    clips = {Path(clip.id).name: clip for clip in TokenFolder(tokens).clips}
    assert set(clips) == {"a.wav", "b.wav", "c.wav", "d.wav"}
    assert clips["b.wav"].captions == ("another caption",)


def test_a_larger_shortest_length_leaves_out_what_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It applied only to new sounds; those in the folder stayed, and so did their pairs and copies."""
    sounds, tokens = tmp_path / "sounds", tmp_path / "tokens"
    sounds.mkdir()
    for name, seconds in {"a.wav": 1.0, "b.wav": 1.48, "c.wav": 1.52, "d.wav": 3.0}.items():
        tone(sounds, name, seconds)
    assert encode(sounds, tokens, mix_share=1.0).encoded == 8
    shutil.copy(sounds / "a.wav", sounds / "e.wav")
    (sounds / "e.txt").write_text("the same sound as a")
    opened: list[str] = []

    def noting(path: Path) -> Any:
        opened.append(path.name)
        return open_sound(path)

    monkeypatch.setattr(encoding, "open_sound", noting)
    report = encode(sounds, tokens, min_duration=1.5, workers=1)
    assert {clip.id for clip in TokenFolder(tokens).clips} == {"c.wav", "d.wav"}
    assert (report.encoded, report.kept, report.left_out) == (0, 2, 6)
    said = {Path(problem.where).name: problem.what for problem in report.problems}
    assert {"a.wav", "b.wav", "e.wav"} == said.keys()
    assert "too short: 1.48 s, of 1.5 s at least" in said["b.wav"]
    assert "d.wav" not in opened, "its frames tell that it is long enough"
    assert encode(sounds, tokens).kept == 5


def test_a_clips_weight_is_in_its_tokens(tmp_path: Path) -> None:
    """Weights in lists were ignored. If one is added later, the sound is not encoded again."""
    source, tokens = tmp_path / "list.jsonl", tmp_path / "tokens"
    lines = [{"path": tone(tmp_path, f"{n}.wav", 1.0).name, "caption": n} for n in "ab"]
    for weight, encoded in ((1, 2), (3, 0), (2, 0)):
        lines[1]["weight"] = weight  # type: ignore[assignment]
        source.write_text("\n".join(map(json.dumps, lines)))
        assert encode(source, tokens).encoded == encoded
        assert [clip.weight for clip in TokenFolder(tokens).clips] == [1, weight]


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """Six good sounds."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for n in range(6):
        tone(folder, f"{n}.wav", 1.0 + 0.1 * n)
    return folder


def in_use(tokens: Path) -> set[str]:
    """The clips that training on the folder would see."""
    return {clip.id for clip in TokenFolder(tokens).clips}


def test_every_line_of_a_path_is_a_caption_of_its_clip(tmp_path: Path) -> None:
    """Later lines replaced earlier ones, in every run again."""
    tone(tmp_path, "a.wav", 1.0)
    lines = [{"path": "a.wav", "caption": caption} for caption in ("rain", "a storm", "weather")]
    source = tmp_path / "clips.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert encode(source, tmp_path / "tokens").encoded == 1
    (clip,) = TokenFolder(tmp_path / "tokens").clips
    assert clip.captions == ("rain", "a storm", "weather")
    assert encode(source, tmp_path / "tokens").kept == 1
    assert check_clips(read_clips(source)) == ()


def test_what_the_source_no_longer_has_is_left_out(six: Path, tmp_path: Path) -> None:
    """Sounds that were deliberately removed, to be tested on, stayed in training."""
    tokens = tmp_path / "tokens"
    assert encode(six, tokens).left_out == 0
    away = tmp_path / "test"
    away.mkdir()
    for n in range(3):
        (six / f"{n}.wav").rename(away / f"{n}.wav")
    report = encode(six, tokens)
    assert (report.encoded, report.kept, report.left_out) == (0, 3, 3)
    assert in_use(tokens) == {"3.wav", "4.wav", "5.wav"}

    (away / "0.wav").rename(six / "0.wav")
    report = encode(six, tokens)
    assert (report.encoded, report.kept, report.left_out) == (0, 4, 2)
    assert in_use(tokens) == {"0.wav", "3.wav", "4.wav", "5.wav"}


def test_a_folder_spelled_otherwise_is_the_same_folder(
    six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every clip was in it twice."""
    tokens = tmp_path / "tokens"
    encode(six, tokens)
    monkeypatch.chdir(tmp_path)
    for spelled in (Path("sounds"), Path("./tokens/../sounds")):
        assert encode(spelled, tokens).kept == 6
    assert len(TokenFolder(tokens).clips) == 6


def test_a_folder_whose_ids_are_paths_as_spelled_is_taken_over(six: Path, tmp_path: Path) -> None:
    """As written by an earlier version: it loads, and the next run has each clip once."""
    tokens, codec = tmp_path / "tokens", tiny_codec()
    writer = TokenWriter(tokens, token_format(codec, "tiny"))
    for n in range(6):
        codes = torch.zeros(2, 5, dtype=torch.int64)
        writer.add(f"sounds/{n}.wav", "key", codes, ("x",), ())
    writer.flush()
    assert len(TokenFolder(tokens).clips) == 6
    report = encode(six, tokens)
    assert (report.encoded, report.left_out) == (6, 6)
    assert in_use(tokens) == {f"{n}.wav" for n in range(6)}


def test_a_clip_that_broke_is_left_out_until_it_is_mended(six: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    encode(six, tokens)
    (six / "2.wav").rename(tmp_path / "2.wav")
    (six / "2.wav").write_bytes(b"RIFF")
    report = encode(six, tokens)
    assert (report.kept, report.left_out, len(report.problems)) == (5, 1, 1)
    assert "2.wav" not in in_use(tokens)
    (tmp_path / "2.wav").replace(six / "2.wav")
    assert encode(six, tokens).kept == 6
    assert "2.wav" in in_use(tokens)


def test_a_source_without_one_good_sound_leaves_the_folder_as_it_was(
    six: Path, tmp_path: Path
) -> None:
    tokens, source = tmp_path / "tokens", tmp_path / "clips.jsonl"
    encode(six, tokens)
    source.write_text(json.dumps({"path": "not/mounted.wav", "caption": "x"}))
    report = encode(source, tokens)
    assert (report.encoded, report.kept, len(report.problems)) == (0, 0, 1)
    assert len(TokenFolder(tokens).clips) == 6


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
    assert "run the command again" in caught.value.hint
    monkeypatch.setattr(module, "save_file", save)
    report = encode(sounds, tokens)
    assert (report.encoded, report.kept) == (3, 2)


def test_an_interrupted_run_leaves_nothing_out_and_is_gone_on_with(
    six: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    encode(six, tokens)
    (six / "0.wav").unlink()
    for n in range(6, 9):
        tone(six, f"{n}.wav", 1.0)

    codec = tiny_codec()

    def stop(done: int, count: int) -> None:
        if done == 7:  # 1 to 5 are kept, 6 and 7 are a shard
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_clips(
            read_clips(six), codec, token_format(codec, "tiny"), tokens,
            EncodeOptions(clips_per_shard=2), stop,
        )  # fmt: skip
    assert in_use(tokens) == {f"{n}.wav" for n in range(8)}
    report = encode(six, tokens)
    assert (report.encoded, report.kept, report.left_out) == (1, 7, 1)
    assert in_use(tokens) == {f"{n}.wav" for n in range(1, 9)}


def test_workers_make_what_one_makes_in_the_same_order(hostile: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    alone = encode(hostile, one, mix_share=1.0, workers=1)
    together = encode(hostile, many, mix_share=1.0, workers=3)
    assert together == alone
    assert (one / "index.json").read_bytes() == (many / "index.json").read_bytes()
    a, b = TokenFolder(one), TokenFolder(many)
    assert a.clips == b.clips
    assert all(a.codes(clip).equal(b.codes(clip)) for clip in a.clips)
    assert encode(hostile, many, mix_share=1.0, workers=3).encoded == 0


def test_workers_work_at_the_same_time(
    six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting, whole = threading.Barrier(3), encoding._Encoding._audio

    def audio(*what: Any) -> Any:
        meeting.wait(timeout=20)
        return whole(*what)

    monkeypatch.setattr(encoding._Encoding, "_audio", audio)
    assert encode(six, tmp_path / "tokens", workers=3).encoded == 6


def test_workers_that_are_interrupted_leave_whole_shards(six: Path, tmp_path: Path) -> None:
    codec, tokens = tiny_codec(), tmp_path / "tokens"

    def stop(done: int, count: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    threads = torch.get_num_threads()
    options = EncodeOptions(clips_per_shard=2, workers=2)
    with pytest.raises(KeyboardInterrupt):
        encode_clips(read_clips(six), codec, token_format(codec, "tiny"), tokens, options, stop)
    assert torch.get_num_threads() == threads
    assert in_use(tokens) == {"0.wav", "1.wav"}
    assert encode(six, tokens, workers=2).kept == 2


def test_two_runs_on_one_folder_are_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    sounds, tokens = tmp_path / "sounds", tmp_path / "tokens"
    sounds.mkdir()
    tokens.mkdir()
    tone(sounds, "a.wav", 1.0)
    with FileLock(tokens / ".lock"), pytest.raises(UsageError, match="Another run"):
        encode(sounds, tokens)


def test_blocks_do_not_change_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tone(tmp_path, "a.wav", 3.0, rate=441, channels=3)
    with open_sound(path) as sound:
        whole = sound.read(RATE, 1)
        monkeypatch.setattr(reader, "BLOCK", 132)
        blocks = sound.read(RATE, 1)
        assert whole.shape == blocks.shape == (1, 300)
        np.testing.assert_allclose(whole, blocks, atol=1e-5)
        assert sound.read(RATE, 2).shape == (2, 300)
        assert sound.channels == 3


def test_codes_are_those_of_the_codec(tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    path = tone(sounds, "a.wav", 2.0)
    encode(sounds, tmp_path / "tokens")
    folder = TokenFolder(tmp_path / "tokens")
    with open_sound(path) as sound:
        samples = torch.from_numpy(sound.read(RATE, 1))
    assert torch.equal(folder.codes(folder.clips[0]), tiny_codec().encode(samples[None])[0])


def test_pairs_are_mixed_at_the_drawn_level_with_both_captions(tmp_path: Path) -> None:
    sounds, tokens = tmp_path / "sounds", tmp_path / "tokens"
    sounds.mkdir()
    for n in range(4):
        tone(sounds, f"{n}.wav", 1.0 + n)
    report = encode(sounds, tokens, mix_share=0.5, mix_duration=2.0)
    assert report.encoded == 4 + 2
    mixed = mixtures(tokens)
    assert len(mixed) == 2
    for clip in mixed:
        _, first, second = clip.id.split("//")
        assert clip.captions == (f"tone {first} and tone {second}",)
    assert all(clip.frames <= 20 and " and " in clip.captions[0] for clip in mixed)
    assert encode(sounds, tokens, mix_share=0.5, mix_duration=2.0).kept == 6

    pairs = list(mixed_pairs(4, 50.0, 5.0, seed=0))
    assert pairs == list(mixed_pairs(4, 50.0, 5.0, seed=0))
    assert all(a != b and abs(snr) <= 5 for a, b, snr in pairs)
    assert max(snr for *_, snr in pairs) > 4
    assert min(snr for *_, snr in pairs) < -4


def mixtures(tokens: Path) -> list[TokenClip]:
    return [clip for clip in TokenFolder(tokens).clips if clip.id.startswith("mix//")]


def test_mixed_pairs_of_earlier_runs_are_left_out(six: Path, tmp_path: Path) -> None:
    """Added sounds, or another seed, made other pairs, and the earlier ones stayed."""
    tokens = tmp_path / "tokens"
    encode(six, tokens, mix_share=0.5)
    first = {clip.id for clip in mixtures(tokens)}
    assert len(first) == 3
    tone(six, "6.wav", 1.0)
    tone(six, "7.wav", 1.0)
    encode(six, tokens, mix_share=0.5)
    assert len(mixtures(tokens)) == 4
    encode(six, tokens, mix_share=0.5, seed=1)
    other = {clip.id for clip in mixtures(tokens)}
    assert len(other) == 4
    assert other != first
    assert encode(six, tokens).kept == 8
    assert mixtures(tokens) == []


def test_a_mixed_pair_is_made_again_when_anything_about_it_changed(
    six: Path, tmp_path: Path
) -> None:
    """Only the first sound and the captions counted, so the second could be replaced unnoticed."""
    tokens, settings = tmp_path / "tokens", {"mix_share": 0.3, "mix_duration": 2.0}
    assert encode(six, tokens, **settings).encoded == 6 + 2
    assert encode(six, tokens, **settings).encoded == 0
    assert encode(six, tokens, **settings, mix_snr=1.0).encoded == 2
    settings["mix_duration"] = 1.0
    assert encode(six, tokens, **settings, mix_snr=1.0).encoded == 2
    assert all(clip.frames == 10 for clip in mixtures(tokens))

    before = mixtures(tokens)[0]
    second = before.id.split("//")[2]
    (six / second).unlink()
    tone(six, second, 3.0)
    encode(six, tokens, **settings, mix_snr=1.0)
    after = next(clip for clip in mixtures(tokens) if clip.id == before.id)
    assert after.shard != before.shard, "the mixture was made again"


def test_mixed_pairs_of_a_copied_folder_are_not_made_again(six: Path, tmp_path: Path) -> None:
    """Its sounds were known by their content, its mixtures, half of all items, by dates alone."""
    tokens = tmp_path / "tokens"
    assert encode(six, tokens, mix_share=1.0).encoded == 6 + 6
    shutil.copytree(six, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, (1, 1))
    report = encode(tmp_path / "copy", tokens, mix_share=1.0)
    assert (report.encoded, report.kept, report.left_out) == (0, 12, 0)
    assert encode(tmp_path / "copy", tokens, mix_share=1.0, mix_snr=1.0).encoded == 6


def test_few_sounds_meet_again_at_other_levels(six: Path, tmp_path: Path) -> None:
    """Pairs drawn twice were one clip, made again in every run."""
    for n in range(2, 6):
        (six / f"{n}.wav").unlink()
    tokens = tmp_path / "tokens"
    assert encode(six, tokens, mix_share=3.0).encoded == 2 + 6
    assert len(mixtures(tokens)) == 6
    assert encode(six, tokens, mix_share=3.0).kept == 8


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
