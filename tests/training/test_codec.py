"""Training the spectral codec: the linear start, gradient descent, and resuming after a kill."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from magnet_cli.checkpoints import native
from magnet_cli.cli.app import run
from magnet_cli.cli.train import _stopping_well
from magnet_cli.data.manifests import read_clips
from magnet_cli.errors import CheckpointError, DataError, UsageError
from magnet_cli.models.spectral_codec import GroupQuantizer, SpectralCodec
from magnet_cli.training import codec as codec_training
from magnet_cli.training import levels as level_files
from magnet_cli.training.codec import train_codec
from magnet_cli.training.codec_start import Moments, k_means, nearest, power_left, residual_k_means
from magnet_cli.training.config import CodecTrainConfig
from magnet_cli.training.levels import draw_crops, draw_rows, sounds_key, write_levels
from magnet_cli.training.lock import locked
from magnet_cli.training.loop import NotANumberError
from tests.models.tiny import TINY_SPECTRAL
from tests.training.test_survival import signals_noted


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight second-long tones with beats, at another rate than the codec's."""
    folder = tmp_path_factory.mktemp("sounds")
    time = np.arange(3200) / 3200
    for index in range(8):
        tone = 0.4 * np.sin(2 * np.pi * 110 * 2 ** (index / 8) * time)
        tone *= np.exp(-4 * (time * (2 + index % 3) % 1))
        soundfile.write(folder / f"{index}.wav", tone, 3200)
        (folder / f"{index}.txt").write_text("a tone")
    return folder


def settings(sounds: Path, out: Path, **changes: Any) -> CodecTrainConfig:
    base = CodecTrainConfig(
        data=str(sounds),
        out=str(out),
        codec=TINY_SPECTRAL,
        segment_duration=1.0,
        start_rows=300,
        start_iterations=4,
        steps=12,
        batch_size=4,
        crop_frames=16,
        warmup_steps=2,
        report_every=2,
        checkpoint_every=4,
        seed=3,
    )
    return dataclasses.replace(base, **changes)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return native.load_codec(directory).state_dict()


def assert_equal(one: Path, two: Path) -> None:
    first, second = tensors(one), tensors(two)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


class KilledError(Exception):
    """Replaces kill -9: nothing is written after it."""


@pytest.mark.parametrize("trains", ["decoder", "all"])
def test_a_killed_run_goes_on_to_the_same_codec(sounds: Path, tmp_path: Path, trains: str) -> None:
    codec = dataclasses.replace(TINY_SPECTRAL, encoder_blocks=1)
    changes = {"trains": trains, "codec": codec}
    whole = train_codec(settings(sounds, tmp_path / "whole", **changes))

    def die(record: dict[str, Any]) -> None:
        if record["step"] == 6:  # after the checkpoint of step 4
            raise KilledError

    with pytest.raises(KilledError):
        train_codec(settings(sounds, tmp_path / "cut", **changes), die)
    assert not (tmp_path / "cut" / "codec").exists()
    cut = train_codec(settings(sounds, tmp_path / "cut", **changes))
    assert_equal(whole.directory, cut.directory)
    assert whole.loss == cut.loss
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert logs[0][-1] == logs[1][-1]
    assert [record["step"] for record in logs[1]] == [2, 4, 6, 8, 10, 12]


def test_a_short_run_of_a_codec_reaches_its_rate(sounds: Path, tmp_path: Path) -> None:
    """A warm-up of 100 steps was longer than it, as language models' was."""
    own, asked = (
        train_codec(settings(sounds, tmp_path / f"warm-{steps}", warmup_steps=steps))
        for steps in (None, 1)
    )
    assert_equal(own.directory, asked.directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_a_run_with_what_it_has(
    sounds: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Only the last checkpoint was kept, up to 500 steps earlier."""
    whole = train_codec(settings(sounds, tmp_path / "whole"))
    heard: list[int] = []
    said: list[str] = []

    def after_six(record: dict[str, Any]) -> None:
        if record["step"] == 6:
            os.kill(os.getpid(), number)

    def around_steps(stop: Callable[[], None]) -> AbstractContextManager[None]:
        return _stopping_well(stop, said.append, "Resume it with the same command.")

    with signals_noted(heard), pytest.raises(KeyboardInterrupt):
        train_codec(settings(sounds, tmp_path / "cut"), after_six, around_steps)
    assert heard == [number]
    assert said[0].startswith("Stopping after this step, with a checkpoint.")
    assert said[1:] == ["Resume it with the same command."]
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 6
    assert_equal(whole.directory, train_codec(settings(sounds, tmp_path / "cut")).directory)


def test_a_folder_takes_one_run_at_a_time(sounds: Path, tmp_path: Path) -> None:
    """Only folders of language models had a lock."""
    (out := tmp_path / "run").mkdir()
    with locked(out), pytest.raises(UsageError, match="Another run is writing"):
        train_codec(settings(sounds, out))
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_loss_that_is_not_a_number_ends_the_run_and_is_not_saved(
    sounds: Path, tmp_path: Path
) -> None:
    """It continued to the end, and saved a codec of NaN."""
    with pytest.raises(NotANumberError, match="NaN or infinite at step"):
        train_codec(settings(sounds, tmp_path / "run", learning_rate=1e30, checkpoint_every=2))
    assert not (tmp_path / "run" / "codec").exists()


def test_training_starts_at_the_linear_optimum_and_gets_better(
    sounds: Path, tmp_path: Path
) -> None:
    records: list[dict[str, Any]] = []
    config = settings(sounds, tmp_path / "run", steps=60, learning_rate=3e-3)
    made = train_codec(config, records.append)
    assert records[0]["step"] == 0
    assert records[0]["loss_start"] == made.loss_start  # it was reported as 0
    assert made.basis_share > 0.8
    assert made.start_left == tuple(sorted(made.start_left, reverse=True))
    assert made.start_left[-1] < 0.3
    assert made.loss < made.loss_start
    codec = native.load_codec(made.directory)
    assert isinstance(codec, SpectralCodec)
    gram = codec.basis.T @ codec.basis
    assert torch.allclose(gram, torch.eye(len(gram)), atol=2e-3)  # halves


def test_training_the_decoder_leaves_the_codes_what_they_are(sounds: Path, tmp_path: Path) -> None:
    start = train_codec(settings(sounds, tmp_path / "start", steps=0))
    better = train_codec(
        settings(
            sounds,
            tmp_path / "better",
            steps=8,
            start_from=str(start.directory),
            learning_rate=1e-2,
        )
    )
    audio = 0.3 * torch.sin(2 * math.pi * 150 * torch.arange(1600) / 1600)[None, None]
    before, after = (native.load_codec(run.directory) for run in (start, better))
    assert torch.equal(before.encode(audio), after.encode(audio))
    assert not torch.equal(before.decode(before.encode(audio)), after.decode(after.encode(audio)))


def test_a_run_with_other_settings_is_not_gone_on_with(sounds: Path, tmp_path: Path) -> None:
    train_codec(settings(sounds, tmp_path / "run", steps=2))
    with pytest.raises(UsageError, match="other settings"):
        train_codec(settings(sounds, tmp_path / "run", steps=2, seed=4))


# ------------------------------------------------------------------------------- clips of all lengths


def test_silence_behind_short_clips_is_not_learned(sounds: Path, tmp_path: Path) -> None:
    """Clips were padded to the segment and the padding was trained on: nine tenths of some."""
    unseen = str(shutil.copytree(sounds, tmp_path / "unseen"))
    fitting = train_codec(settings(sounds, tmp_path / "fitting", valid=unseen))
    # Four times, so that each clip's weight in the means is a power of two, and nothing is rounded.
    short = settings(sounds, tmp_path / "short", valid=unseen, segment_duration=4.0)
    padded = train_codec(short)
    assert_equal(fitting.directory, padded.directory)
    assert dataclasses.replace(fitting, directory=padded.directory) == padded
    changes = {"codec": dataclasses.replace(TINY_SPECTRAL, card=51), "max_clips": 1}
    with pytest.raises(DataError, match="50 frames of sound are too few"):
        train_codec(settings(sounds, tmp_path / "few", segment_duration=10.0, **changes))


def noises(folder: Path, *seconds: float) -> list[Path]:
    """Noise without a silent moment, each with a caption."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index, length in enumerate(seconds):
        noise = 0.3 * generator.uniform(-1, 1, round(1600 * length))
        soundfile.write(folder / f"{index}.wav", noise, 1600)
        (folder / f"{index}.txt").write_text("noise")
    return sorted(folder.glob("*.wav"))


def test_crops_and_rows_of_clips_of_different_lengths_are_sound(tmp_path: Path) -> None:
    clips = noises(tmp_path / "noises", 2.0, 1.0, 0.5, 0.01)
    codec = SpectralCodec(TINY_SPECTRAL)
    levels = write_levels(tmp_path / "levels.f16", clips, "noises", codec, frames=75)
    assert levels.lengths == (150, 100, 50, 2)
    crops = draw_crops(levels, codec, 40, 30, torch.Generator().manual_seed(0))
    assert sum(len(crop) for crop in crops) == 40
    assert {crop.shape[1] for crop in crops} == {60, 50, 2}
    rows = draw_rows(levels, codec, 100, seed=0)
    assert len(rows) == 49 + 33 + 16 + 1  # of 75, 50, 25 and 1 frames, in proportion
    for drawn in (*crops, rows.reshape(len(rows), 2, -1)):
        assert (drawn.mean(-1) > 0.5).all()  # the mean of silence is 0


def test_a_clip_of_a_single_spectral_frame_has_no_motion(tmp_path: Path) -> None:
    noises(tmp_path / "noises", 1.0, 0.005)
    codec = dataclasses.replace(TINY_SPECTRAL, stack=1)
    made = train_codec(settings(tmp_path / "noises", tmp_path / "run", codec=codec))
    assert math.isfinite(made.loss)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(made.directory).values())


# ---------------------------------------------------------------------------------- other data


def test_a_run_of_other_sounds_is_not_gone_on_with(sounds: Path, tmp_path: Path) -> None:
    """It claimed to have trained, but kept the old codec, with a loss on the new sounds."""
    unseen = str(shutil.copytree(sounds, tmp_path / "unseen"))
    train_codec(settings(sounds, tmp_path / "run", steps=2, valid=unseen))
    levels = (tmp_path / "run" / "levels-train.f16").stat()
    noises(tmp_path / "noises", 1.0, 1.0)
    other = str(tmp_path / "noises")
    start = train_codec(settings(sounds, tmp_path / "start", steps=0))
    more = {"data": other}, {"valid": other}, {"valid": None}, {"start_from": str(start.directory)}
    for change in more:
        changes = {"steps": 2, "valid": unseen, **change}
        with pytest.raises(UsageError, match="other settings"):
            train_codec(settings(sounds, tmp_path / "run", **changes))
    assert (tmp_path / "run" / "levels-train.f16").stat() == levels  # nor were they touched
    train_codec(settings(sounds, tmp_path / "run", steps=2, valid=unseen))


def test_another_starting_codec_of_the_same_name_is_another_run(
    sounds: Path, tmp_path: Path
) -> None:
    start = train_codec(settings(sounds, tmp_path / "start", steps=0))
    changes = {"steps": 2, "start_from": str(start.directory)}
    train_codec(settings(sounds, tmp_path / "run", **changes))
    other = train_codec(settings(sounds, tmp_path / "other", steps=0, seed=4))
    shutil.rmtree(start.directory)
    other.directory.rename(start.directory)
    with pytest.raises(UsageError, match="other settings"):
        train_codec(settings(sounds, tmp_path / "run", **changes))


def test_levels_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were put into a mapped file of holes: where the disk was full, that ended the process (SIGBUS)."""
    clips, sizes = noises(tmp_path / "noises", 1.0, 1.0), []
    whole = level_files.clip_levels

    def clip_levels(*what: Any) -> torch.Tensor:
        sizes.append(sum(path.stat().st_size for path in tmp_path.glob(".partial-*")))
        return whole(*what)

    monkeypatch.setattr(level_files, "clip_levels", clip_levels)
    written = write_levels(
        tmp_path / "l.f16", clips, "noises", SpectralCodec(TINY_SPECTRAL), frames=50
    )
    assert len(sizes) == 2
    assert max(sizes) < written.values.nbytes


def test_sounds_replaced_under_their_names_are_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "noises"
    clips = noises(folder, 1.0, 1.0)
    codec = SpectralCodec(TINY_SPECTRAL)

    def levels() -> Any:
        return write_levels(tmp_path / "l.f16", clips, sounds_key(clips, folder), codec, 50)

    before = levels()
    kept = (tmp_path / "l.f16").stat()
    assert levels().lengths == before.lengths == (100, 100)
    assert (tmp_path / "l.f16").stat() == kept
    train_codec(settings(folder, tmp_path / "run", steps=2))
    soundfile.write(clips[0], np.zeros(1600), 1600)  # as long, and later
    os.utime(clips[0], ns=(0, clips[1].stat().st_mtime_ns + 1_000_000_000))
    assert not levels().whole(0).any()
    with pytest.raises(UsageError, match="other settings"):
        train_codec(settings(folder, tmp_path / "run", steps=2))


def test_a_run_goes_on_after_its_sounds_have_moved(tmp_path: Path) -> None:
    noises(tmp_path / "noises", 1.0, 1.0)
    made = train_codec(settings(tmp_path / "noises", tmp_path / "run", steps=2))
    (tmp_path / "noises").rename(tmp_path / "moved")
    again = train_codec(settings(tmp_path / "moved", tmp_path / "run", steps=2))
    assert (again.directory, again.loss) == (made.directory, made.loss)


def test_a_run_that_did_not_note_its_sounds_goes_on(sounds: Path, tmp_path: Path) -> None:
    made = train_codec(settings(sounds, tmp_path / "run", steps=2))
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    for name in ("sounds", "valid_sounds", "started"):
        del state["settings"][name]
    torch.save(state, path)
    assert train_codec(settings(sounds, tmp_path / "run", steps=2)).loss == made.loss
    with pytest.raises(UsageError, match="other settings"):
        train_codec(settings(sounds, tmp_path / "run", steps=2, seed=4))


def test_a_codec_without_its_run_is_not_taken_for_a_new_one(sounds: Path, tmp_path: Path) -> None:
    train_codec(settings(sounds, tmp_path / "run", steps=2))
    (tmp_path / "run" / "checkpoint.pt").unlink()
    with pytest.raises(UsageError, match="not the run that made it"):
        train_codec(settings(sounds, tmp_path / "run", steps=2, seed=4))


def test_what_cannot_be_trained_is_said(sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sounds"):
        train_codec(settings(tmp_path / "empty", tmp_path / "run"))
    with pytest.raises(DataError, match="too few"):
        train_codec(settings(sounds, tmp_path / "few", start_rows=1, max_clips=1))
    with pytest.raises(UsageError, match="batch_size"):
        train_codec(settings(sounds, tmp_path / "run", batch_size=0))
    with pytest.raises(UsageError, match="decoder or all"):
        train_codec(settings(sounds, tmp_path / "run", trains="some"))
    with pytest.raises(UsageError, match="checkpoint_every"):
        train_codec(settings(sounds, tmp_path / "run", report_every=3))
    with pytest.raises(UsageError, match="is training data"):
        train_codec(settings(sounds, tmp_path / "run", valid=f"{sounds}/../{sounds.name}"))


def test_values_that_no_training_can_have_are_refused(sounds: Path, tmp_path: Path) -> None:
    """They ended in torch's errors, or in a codec that is none."""
    for name, values in {
        "segment_duration": (0.0, -1.0, math.nan),
        "codebook_decay": (-0.1, 2.0),
        "seed": (-1, 2**63),
        **dict.fromkeys(("learning_rate",), (0.0, -1.0)),
        **dict.fromkeys(("steps", "start_iterations", "threads"), (-1,)),
        **dict.fromkeys(("max_clips", "max_valid_clips"), (-1,)),
        **dict.fromkeys(("loudness_weight", "motion_weight", "commitment"), (-1.0,)),
    }.items():
        for value in values:
            with pytest.raises(UsageError, match=f"{name} cannot be"):
                train_codec(settings(sounds, tmp_path / "run", **{name: value}))
    many = dataclasses.replace(TINY_SPECTRAL, groups=200, n_q=200)
    with pytest.raises(UsageError, match="groups cannot be 200"):
        train_codec(settings(sounds, tmp_path / "run", codec=many))
    more = dataclasses.replace(TINY_SPECTRAL, groups=500, n_q=500)
    with pytest.raises(CheckpointError, match="groups = 500"):
        train_codec(settings(sounds, tmp_path / "run", codec=more))


def test_a_codec_needs_no_captions(sounds: Path, tmp_path: Path) -> None:
    """A folder of sounds without captions was said to hold no sounds."""
    bare = tmp_path / "bare"
    shutil.copytree(sounds, bare, ignore=shutil.ignore_patterns("*.txt"))
    listed = tmp_path / "list.jsonl"
    listed.write_text("".join(f'{{"path": "bare/{n}.wav"}}\n' for n in range(8)))
    captioned = train_codec(settings(sounds, tmp_path / "run", steps=0))
    for source in (bare, listed):
        plain = train_codec(settings(source, tmp_path / f"run-{source.name}", steps=0))
        assert_equal(captioned.directory, plain.directory)


def test_a_run_that_left_out_sounds_without_a_caption_goes_on(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = shutil.copytree(sounds, tmp_path / "mixed")
    for number in (1, 4):
        (mixed / f"{number}.txt").unlink()
    with monkeypatch.context() as earlier:
        earlier.setattr(codec_training, "read_clips", lambda source, captioned: read_clips(source))
        begun = train_codec(settings(mixed, tmp_path / "run", steps=2))
    assert train_codec(settings(mixed, tmp_path / "run", steps=2)).loss == begun.loss
    with pytest.raises(UsageError, match="other settings"):
        train_codec(settings(mixed, tmp_path / "run", steps=4))


def test_commitment_is_for_codecs_whose_latents_are_trained(sounds: Path, tmp_path: Path) -> None:
    """Without convolutions before the quantizer, codecs of any value were equal, bit for bit."""
    for trains in ("decoder", "all"):
        with pytest.raises(UsageError, match="--commitment has no effect"):
            train_codec(settings(sounds, tmp_path / "run", trains=trains, commitment=100.0))
    train_codec(settings(sounds, tmp_path / "run", trains="all", steps=2))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    state["settings"]["commitment"] = 100.0  # begun by an earlier version
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    train_codec(settings(sounds, tmp_path / "run", trains="all", steps=2, commitment=100.0))
    blocks = {"codec": dataclasses.replace(TINY_SPECTRAL, encoder_blocks=1), "trains": "all"}
    plain = train_codec(settings(sounds, tmp_path / "plain", **blocks))
    pulled = train_codec(settings(sounds, tmp_path / "pulled", commitment=100.0, **blocks))
    assert plain.loss != pulled.loss


def test_k_means_finds_clusters_and_revives_dead_centres() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    rows = (corners[:, None] + 0.1 * torch.randn(4, 50, 2, generator=generator)).reshape(-1, 2)
    centres = k_means(rows, 8, 10, torch.Generator().manual_seed(1))
    index, distance = nearest(rows, centres)
    assert len(set(index.tolist())) == 8
    assert float(distance.max()) < 1
    # Fewer different rows than centres: the spare centres do no harm.
    few = k_means(torch.zeros(9, 2), 8, 3, torch.Generator().manual_seed(1))
    assert torch.isfinite(few).all()


def test_residual_codebooks_leave_less_with_every_stream() -> None:
    rows = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    quantizer = GroupQuantizer(groups=2, n_q=4, card=16, dimension=2)
    for group in range(2):
        part = rows[:, 2 * group : 2 * group + 2]
        books = residual_k_means(part, 2, 16, 8, torch.Generator().manual_seed(1))
        for level, book in enumerate(books):
            quantizer.codebooks[group + 2 * level].data.copy_(book)
    left = power_left(rows, quantizer)
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.02
    error = rows - quantizer.decode(quantizer.encode(rows[None]))[0]
    assert left[-1] == pytest.approx(float(error.square().sum() / rows.square().sum()), rel=1e-3)


def test_grouped_components_are_each_groups_own_and_share_the_power() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 2.0]).repeat(2)  # two frames of six bands
    rows = torch.randn(2000, 12, generator=generator) * scale
    moments = Moments(12)
    for part in rows.split(300):
        moments.add(part)
    basis, share = moments.grouped_components(stack=2, groups=2, count=2)
    used = basis.reshape(2, 6, 2, 2).square().sum((0, 3)) > 1e-9  # [bands, groups]
    assert not (used[:, 0] & used[:, 1]).any()  # no band is in two groups
    assert torch.allclose(basis.T @ basis, torch.eye(4), atol=1e-5)
    kept = (rows @ basis).square().sum() / rows.square().sum()
    assert share == pytest.approx(float(kept), rel=1e-4)


def test_a_codec_grows_and_keeps_what_it_had(sounds: Path, tmp_path: Path) -> None:
    small = train_codec(settings(sounds, tmp_path / "small", steps=0))
    larger = dataclasses.replace(TINY_SPECTRAL, n_q=6, dimension=9)
    changes = {"start_from": str(small.directory), "codec": larger}
    grown = train_codec(settings(sounds, tmp_path / "grown", steps=0, **changes))
    old, new = native.load_codec(small.directory), native.load_codec(grown.directory)
    assert isinstance(old, SpectralCodec)
    assert isinstance(new, SpectralCodec)
    assert (new.n_q, new.config.dimension) == (6, 9)
    for group in range(2):
        mine, theirs = old.basis[:, group * 6 :][:, :6], new.basis[:, group * 9 :][:, :9]
        torch.testing.assert_close(theirs[:, :6], mine)
        columns = theirs[:, theirs.abs().sum(0) > 0]
        eye = torch.eye(columns.shape[1])
        torch.testing.assert_close(columns.T @ columns, eye, atol=5e-3, rtol=0)
    assert grown.basis_share > small.basis_share
    # Powers are relative to each codec's components; what matters is what is left of the levels.
    assert grown.loss < 0.9 * small.loss
    assert len(grown.start_left) == 6
    sound = torch.randn(1, 1, 3200, generator=torch.Generator().manual_seed(0)) * 0.1
    same = (old.encode(sound) == new.encode(sound)[:, :4]).float().mean()
    assert same > 0.5  # 8 codes each; by chance an eighth would be equal


def test_growing_is_deterministic_and_resumes(sounds: Path, tmp_path: Path) -> None:
    small = train_codec(settings(sounds, tmp_path / "small", steps=0))
    changes = {
        "start_from": str(small.directory),
        "codec": dataclasses.replace(TINY_SPECTRAL, n_q=6),
    }
    whole = train_codec(settings(sounds, tmp_path / "whole", **changes))

    def die(record: dict[str, Any]) -> None:
        if record["step"] == 6:
            raise KilledError

    with pytest.raises(KilledError):
        train_codec(settings(sounds, tmp_path / "cut", **changes), die)
    cut = train_codec(settings(sounds, tmp_path / "cut", **changes))
    assert_equal(whole.directory, cut.directory)


def test_convolutions_before_the_quantizer_do_not_grow(sounds: Path, tmp_path: Path) -> None:
    codec = dataclasses.replace(TINY_SPECTRAL, encoder_blocks=1)
    small = train_codec(settings(sounds, tmp_path / "small", steps=0, codec=codec))
    changes = {
        "start_from": str(small.directory),
        "codec": dataclasses.replace(TINY_SPECTRAL, n_q=6),
    }
    with pytest.raises(UsageError, match="more streams"):
        train_codec(settings(sounds, tmp_path / "grown", **changes))


def test_new_streams_leave_a_trained_codec_as_it_is(sounds: Path, tmp_path: Path) -> None:
    """Old codes were changed by k-means, and the trained convolutions dropped."""
    small = train_codec(settings(sounds, tmp_path / "small", learning_rate=1e-2))
    changes = {
        "start_from": str(small.directory),
        "codec": dataclasses.replace(TINY_SPECTRAL, n_q=6),
    }
    grown = train_codec(settings(sounds, tmp_path / "grown", steps=0, **changes))
    old, new = tensors(small.directory), tensors(grown.directory)
    assert new.keys() - old.keys() == {"quantizer.codebooks.4", "quantizer.codebooks.5"}
    for name, tensor in old.items():
        assert torch.equal(tensor, new[name]), name
    assert any(old[f"{part}.0.down.weight"].any() for part in ("latent_decoder", "level_decoder"))
    sound = torch.randn(1, 1, 3200, generator=torch.Generator().manual_seed(0)) * 0.1
    before, after = (native.load_codec(made.directory) for made in (small, grown))
    assert torch.equal(before.encode(sound), after.encode(sound)[:, :4])
    assert grown.start_left[-1] < 0.9 * small.start_left[-1]
    assert grown.start_left[:4] == pytest.approx(small.start_left)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"card": 16}, "--card cannot be 16: the codec at .* has 8"),
        ({"groups": 1}, "--groups cannot be 1"),
        ({"n_q": 2}, "--n-q cannot be 2: .* has 4 and can only grow"),
        ({"dimension": 5, "n_q": 6}, "--dimension cannot be 5"),
    ],
)
def test_a_codec_does_not_start_from_one_of_other_sizes(
    sounds: Path, tmp_path: Path, changes: dict[str, int], says: str
) -> None:
    """The requested sizes were silently ignored."""
    small = train_codec(settings(sounds, tmp_path / "small", steps=0))
    codec = dataclasses.replace(TINY_SPECTRAL, **changes)
    with pytest.raises(UsageError, match=says):
        train_codec(
            settings(sounds, tmp_path / "run", start_from=str(small.directory), codec=codec)
        )
    assert not (tmp_path / "run").exists()


def test_flags_at_their_defaults_ask_for_no_size(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = train_codec(settings(sounds, tmp_path / "small", steps=0)).directory

    def train(out: str, *flags: str) -> int:
        given = ("--data", str(sounds), "--start-from", str(small), "--steps", "0")
        return run(["train", "codec", str(tmp_path / out), *given, *flags])

    assert train("same") == 0
    same = native.load_codec(tmp_path / "same" / "codec")
    assert isinstance(same, SpectralCodec)
    assert (same.n_q, same.card, same.config.dimension, same.config.groups) == (4, 8, 6, 2)
    capsys.readouterr()
    assert train("card", "--card", "1024") == 2  # the default, given explicitly
    assert "--card cannot be 1024" in capsys.readouterr().err
    assert train("more", "--n-q", "8") == 0
    more = native.load_codec(tmp_path / "more" / "codec")
    assert isinstance(more, SpectralCodec)
    assert (more.n_q, more.config.dimension) == (8, 6)
