"""Which clips a resumed batch makes again, keeps or refuses."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from magnet_cli.batch.jobs import Job, Shard
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.resume import Standing, as_begun, check_run, differences
from magnet_cli.data.prompts import PromptLine
from magnet_cli.errors import UsageError
from magnet_cli.settings import DecodingConfig, OutputConfig
from tests import sounds
from tests.batch.batches import batch, jobs


def noted(folder: Path, made: list[Job], status: str = "done") -> Manifest:
    manifest = Manifest(folder / "manifest.jsonl", run={"seed": 100, "name": "n"})
    for job in made:
        manifest.clips[job.file] = {
            "file": job.file,
            "status": status,
            "settings": job.settings(),
        }
    return manifest


def sound(job: Job, **metadata: object) -> None:
    assert job.target.path is not None
    samples = np.zeros((1, 800), np.float32)
    sounds.write(job.target.path, samples, 8000, "wav", OutputConfig(), metadata)


def test_done_missing_failed(tmp_path: Path) -> None:
    made = jobs(batch(tmp_path), "a", "b", "c", "d")
    manifest = noted(tmp_path, made[:2])
    manifest.clips |= noted(tmp_path, made[2:3], "failed").clips
    sound(made[0])
    sound(made[2])  # a file that a failed clip left in an earlier run does not stop this one
    review = Standing(manifest, force=False).review(made)
    assert review.done == made[:1]
    assert review.make == made[1:]
    review.refuse()


def test_an_empty_file_is_no_clip_and_nobody_elses(tmp_path: Path) -> None:
    """An interrupted copy or a quota leaves one; it counted as done."""
    made = jobs(batch(tmp_path), "a", "b")
    sound(made[0])
    assert made[1].target.path is not None
    made[1].target.path.touch()
    review = Standing(noted(tmp_path, made), force=False).review(made)
    assert (review.done, review.make, review.foreign) == (made[:1], made[1:], [])


def test_a_file_that_was_cut_is_told_of_and_made_again_by_force(tmp_path: Path) -> None:
    (job,) = jobs(batch(tmp_path), "a")
    sound(job)
    assert job.target.path is not None
    manifest = noted(tmp_path, [job])
    written = job.target.path.stat().st_size
    manifest.clips[job.file]["bytes"] = written
    assert Standing(manifest, force=False).review([job]).smaller == []
    job.target.path.write_bytes(job.target.path.read_bytes()[:-1])
    review = Standing(manifest, force=False).review([job])
    assert (review.done, review.smaller, review.make) == ([job], [job], [])
    review.refuse()  # it may be the user's edit
    assert Standing(manifest, force=True).review([job]).make == [job]
    del manifest.clips[job.file]["bytes"]  # as recorded by earlier versions
    assert Standing(manifest, force=False).review([job]).smaller == []


def test_clips_that_no_line_asks_for(tmp_path: Path) -> None:
    before = jobs(batch(tmp_path), "a", "b")
    for job in before:
        sound(job)
    standing = Standing(noted(tmp_path, before), force=False)
    assert standing.unasked(before) == []
    assert standing.unasked(jobs(batch(tmp_path), "new", "a", "b")) == [job.file for job in before]
    assert before[0].target.path is not None
    before[0].target.path.unlink()
    assert standing.unasked([]) == [before[1].file]


def test_codes_belong_to_what_is_done(tmp_path: Path) -> None:
    (plain,), (kept,) = jobs(batch(tmp_path), "a"), jobs(batch(tmp_path, codes=True), "a")
    sound(plain)
    standing = Standing(noted(tmp_path, [plain]), force=False)
    assert standing.review([plain]).done == [plain]
    assert standing.review([kept]).make == [kept]


def test_changed_settings_are_named(tmp_path: Path) -> None:
    made = jobs(batch(tmp_path), "a", "b")
    for job in made:
        sound(job)
    manifest = noted(tmp_path, made)
    other = jobs(batch(tmp_path, duration=0.4, decoding=DecodingConfig(temperature=2.0)), "a", "b")
    with pytest.raises(UsageError) as caught:
        Standing(manifest, force=False).review(other).refuse()
    message = str(caught.value)
    assert "2 clips of this batch are done with other settings" in message
    for words in (
        "duration was 0.2, is 0.4",
        "temperature was not given, is 2.0",
        "decoding_steps was 1, is not given",
        "0000-a-100.wav",
        "--force",
    ):
        assert words in message
    review = Standing(manifest, force=True).review(other)
    assert review.make == other
    review.refuse()


def test_the_weights_decide_and_not_how_they_are_named(tmp_path: Path) -> None:
    """A model replaced under its name was not noticed, but another spelling of a name was."""

    def made_by(model: str, identity: str | None) -> Job:
        models = {"model": model} | ({"model_id": identity} if identity is not None else {})
        (job,) = jobs(batch(tmp_path, models=models), "a")
        return job

    old = made_by("m1", "sha256:0123456789abcdef")
    sound(old)
    standing = Standing(noted(tmp_path, [old]), force=False)
    for same in (made_by("./m1", "sha256:0123456789abcdef"), made_by("m1", None)):
        assert standing.review([same]).done == [same]
    with pytest.raises(UsageError) as caught:
        standing.review([made_by("m1", "sha256:fedcba9876543210")]).refuse()
    change = "the model's weights changed (sha256:0123456789ab, now sha256:fedcba987654)"
    assert change in str(caught.value)
    with pytest.raises(UsageError, match="model was m1, is m2"):
        standing.review([made_by("m2", "sha256:fedcba9876543210")]).refuse()
    with pytest.raises(UsageError, match="model was m1, is m2"):
        standing.review([made_by("m2", None)]).refuse()


def test_clips_of_an_earlier_version_stay_done_and_are_counted(tmp_path: Path) -> None:
    """It recorded no ids, so the clips may be of any weights with the model's name."""
    (old,) = jobs(batch(tmp_path, models={"model": "m"}), "a")
    (now,) = jobs(batch(tmp_path, models={"model": "m", "model_id": "sha256:01"}), "a")
    sound(old)
    manifest = noted(tmp_path, [old])
    review = Standing(manifest, force=False).review([now])
    assert (review.done, review.unsaid) == ([now], [now])
    assert Standing(manifest, force=True).review([now]).make == [now]
    assert Standing(noted(tmp_path, [now]), force=True).review([now]).unsaid == []


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    mine, theirs, folder, noise = jobs(batch(tmp_path), "a", "b", "c", "d")
    # A run killed between writing and recording leaves a file whose owner can be identified.
    sound(mine, prompt="a", seed=mine.target.seed)
    sound(theirs, prompt="b", seed=1)
    assert folder.target.path is not None
    assert noise.target.path is not None
    folder.target.path.mkdir()
    noise.target.path.write_text("no sound")
    manifest = noted(tmp_path, [])
    review = Standing(manifest, force=False).review([mine, theirs, folder, noise])
    assert review.make == [mine]
    assert review.foreign == [theirs, folder, noise]
    with pytest.raises(UsageError, match="did not make: 0001-b-101"):
        review.refuse()
    assert Standing(manifest, force=True).review([theirs]).make == [theirs]


def test_without_a_manifest_no_file_is_the_batchs_own(tmp_path: Path) -> None:
    """Clips of a batch whose manifest was deleted were replaced if prompt and seed were the same."""
    mine, coded = jobs(batch(tmp_path, codes=True), "a", "b")
    sound(mine, prompt="a", seed=mine.target.seed)
    assert coded.target.codes is not None
    coded.target.codes.write_bytes(b"codes")
    manifest = Manifest.read(tmp_path, Shard())
    assert Standing(manifest, force=False).review([mine, coded]).foreign == [mine, coded]
    assert Standing(manifest, force=True).review([mine, coded]).make == [mine, coded]
    # Nor once a run has begun that was refused them; what came since then is a killed run's.
    manifest.begin({"seed": 100})
    manifest.close()
    manifest = Manifest.read(tmp_path, Shard())
    for before in (True, False):
        for path in (mine.target.path, coded.target.codes):
            assert path is not None
            os.utime(path, (time.time() + (-60 if before else 60),) * 2)
        review = Standing(manifest, force=False).review([mine, coded])
        assert (review.foreign if before else review.make) == [mine, coded]


def test_a_batch_goes_on_as_it_began(tmp_path: Path) -> None:
    (job,) = jobs(batch(tmp_path), "a")
    manifest = noted(tmp_path, [job])
    assert check_run(manifest, {"seed": 100, "name": "n"}, force=False)
    with pytest.raises(UsageError, match="seed was 100, is 5; name was n, is m"):
        check_run(manifest, {"seed": 5, "name": "m"}, force=False)
    assert not check_run(manifest, {"seed": 5}, force=True)
    assert check_run(noted(tmp_path, []), {"seed": 5}, force=False)


def test_differences() -> None:
    assert differences({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 2]}) == []
    assert differences({"a": 1, "x": "y" * 99}, {"b": [1, 2]}) == [
        "b was not given, is 1,2",
        "a was 1, is not given",
        f"x was {'y' * 59}…, is not given",
    ]


def test_a_batch_that_was_begun_with_another_default_goes_on_so(tmp_path: Path) -> None:
    """A new default of the limiter would have refused every batch started before."""
    older = OutputConfig(max_limiting=24.0, true_peak=False)
    made = jobs(batch(tmp_path, output=older), "a", PromptLine(2, "b", out="b.ogg"))
    assert all("max_limiting" not in job.settings() for job in made)
    assert as_begun(OutputConfig(), noted(tmp_path, made)) == older
    assert as_begun(OutputConfig(), noted(tmp_path, made[:1])) == OutputConfig(max_limiting=24.0)
    assert as_begun(OutputConfig(), noted(tmp_path, made, "failed")) == OutputConfig()
    asked = OutputConfig(max_limiting=12.0, true_peak=True)
    assert as_begun(asked, noted(tmp_path, made)) == asked
    today = jobs(batch(tmp_path), "a", PromptLine(2, "b", out="b.ogg"))
    assert as_begun(OutputConfig(), noted(tmp_path, today)) == OutputConfig()
