"""Which clips a resumed batch makes again, keeps or refuses."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from magnet_cli.batch.jobs import Job, Shard
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.report import InTheWayError
from magnet_cli.batch.resume import Standing, as_begun, check_run, differences
from magnet_cli.data.prompts import PromptLine
from magnet_cli.data.tasks import PLAIN, LineTask
from magnet_cli.editing.windows import derived_seed
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


def codes(path: Path, **metadata: object) -> None:
    settings = np.array(json.dumps(metadata))
    np.savez_compressed(path, codes=np.zeros((4, 9), np.int32), settings=settings)


def test_done_missing_failed(tmp_path: Path) -> None:
    made = jobs(batch(tmp_path), "a", "b", "c", "d")
    manifest = noted(tmp_path, made[:2])
    manifest.clips |= noted(tmp_path, made[2:3], "failed").clips
    sound(made[0])
    # A file that a failed clip left in an earlier run does not stop this one.
    sound(made[2], prompt="c", seed=made[2].target.seed)
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
    manifest = noted(tmp_path, [old])
    manifest.clips[old.file]["settings"]["model_id"] = 5  # by another hand
    with pytest.raises(UsageError, match=r"weights changed \(5, now sha256:0123456789ab\)"):
        Standing(manifest, force=False).review([old]).refuse()


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
    codes(coded.target.codes, prompt="b", seed=coded.target.seed)
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


def test_the_users_file_of_a_clip_that_failed_is_left_alone(tmp_path: Path) -> None:
    """Any record of the clip made the file the batch's own, so a sound put there since was replaced."""
    (job,) = jobs(batch(tmp_path), "a")
    sound(job, prompt="mine", seed=job.target.seed)
    standing = Standing(noted(tmp_path, [job], "failed"), force=False)
    with pytest.raises(UsageError, match=r"did not make: 0000-a-100\.wav"):
        standing.review([job]).refuse()
    with pytest.raises(InTheWayError, match=r"0000-a-100\.wav exists"):
        standing.refuse(job)
    # One that was there before the batch began is not its own either.
    sound(job, prompt="a", seed=job.target.seed)
    manifest = noted(tmp_path, [job], "failed")
    manifest.begun = time.time() + 60
    assert Standing(manifest, force=False).review([job]).foreign == [job]


def test_codes_of_others_are_left_alone(tmp_path: Path) -> None:
    """Only the sound was looked at, so an array beside it was replaced, even if the clip was done without
    codes."""
    plain = jobs(batch(tmp_path), "a", "b", "c", "d", "e")
    made = jobs(batch(tmp_path, codes=True), "a", "b", "c", "d", "e")
    folder, mine, theirs, array, noise = [
        job.target.codes for job in made if job.target.codes is not None
    ]
    folder.mkdir()
    codes(mine, prompt="b", seed=101, more="ü𝄞")
    codes(theirs, prompt="mine", seed=102)
    np.savez(array, np.zeros(3))
    noise.write_bytes(b"no archive")
    manifest = noted(tmp_path, plain)  # done, but their sounds are gone
    review = Standing(manifest, force=False).review(made)
    assert review.make == [made[1]]
    assert review.foreign == [made[0], *made[2:]]
    with pytest.raises(UsageError, match=r"did not make: 0000-a-100\.wav\.npz, 0002-c"):
        review.refuse()
    with pytest.raises(InTheWayError, match=r"0004-e-104\.wav\.npz exists"):
        Standing(manifest, force=False).refuse(made[4])
    assert Standing(manifest, force=True).review(made).make == made


def test_a_killed_runs_clip_of_another_try_is_its_own(tmp_path: Path) -> None:
    """Its file has the seed that was taken, and the tempo in its prompt, so it counted as somebody else's."""
    bars = LineTask(task="loop", bpm=120.0, bars=1, tries=2)
    lines = [
        PromptLine(number, "a", task=task)
        for number, task in enumerate([bars, LineTask(task="loop"), bars, PLAIN], start=1)
    ]
    made = jobs(batch(tmp_path), *lines)
    second = [derived_seed(job.target.seed, "try 1") for job in made]
    sound(made[0], prompt="a, 120 bpm", seed=second[0])
    sound(made[1], prompt="a", seed=second[1])
    sound(made[2], prompt="a, 120 bpm", seed=derived_seed(made[2].target.seed, "try 2"))
    sound(made[3], prompt="a", seed=second[3])
    review = Standing(noted(tmp_path, []), force=False).review(made)
    assert (review.make, review.foreign) == (made[:2], made[2:])


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
