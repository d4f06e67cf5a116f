"""The engine, on the tiny golden checkpoints: groups, failures, memory, aborts."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from magnet_cli import clips
from magnet_cli.api import Model
from magnet_cli.batch import executors as writing
from magnet_cli.batch.executors import Engine, Writer
from magnet_cli.batch.fitting import Fitter, batch_size, grouped, mates_matter
from magnet_cli.batch.jobs import WHOLE, Job
from magnet_cli.batch.manifest import Manifest, open_manifest
from magnet_cli.batch.report import Outcome, Tally
from magnet_cli.batch.resume import Standing
from magnet_cli.data.prompts import PromptLine
from magnet_cli.errors import NoRoomError, UsageError
from magnet_cli.files import write_error
from magnet_cli.pipeline import GenerationResult
from magnet_cli.settings import DecodingConfig
from tests import sounds
from tests.batch.batches import QUICK, SMALL, batch, jobs
from tests.models.tiny import golden_model

MUSICGEN = "facebook/musicgen-small"


@pytest.fixture
def model(hub_cache: Path) -> Model:
    return golden_model(SMALL)


def run(
    model: Model,
    folder: Path,
    made: Sequence[Job],
    size: int = 1,
    wanted: Callable[[Job], bool] = lambda job: True,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> tuple[Manifest, list[int]]:
    """The manifest afterwards, and the batch sizes for which memory sufficed."""
    less: list[int] = []
    with (
        open_manifest(folder, WHOLE) as manifest,
        Writer(manifest, folder, on_outcome, depth=2) as writer,
    ):
        Engine(Fitter(model), writer, size, lambda jobs: None, less.append).run(made, wanted)
    return manifest, less


def statuses(manifest: Manifest) -> dict[str, str]:
    return {clip["prompt"]: clip["status"] for clip in manifest.clips.values()}


class Calls:
    """Replaces `model.generate`: records calls and raises errors."""

    def __init__(
        self, model: Model, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[list[str]], None]
    ) -> None:
        self.prompts: list[list[str]] = []
        generate = model.generate

        def watched(prompts: Sequence[str], *given: Any, **more: Any) -> GenerationResult:
            self.prompts.append(list(prompts))
            trouble(list(prompts))
            return generate(prompts, *given, **more)

        monkeypatch.setattr(model, "generate", watched)


def test_clips_equal_those_that_are_asked_for_alone(model: Model, tmp_path: Path) -> None:
    made = jobs(batch(tmp_path), "rain", "wind", "fire")
    manifest, _ = run(model, tmp_path, made, size=3)
    assert statuses(manifest) == dict.fromkeys(("rain", "wind", "fire"), "done")
    for job in made:
        alone = model.generate(
            [job.target.prompt], job.decoding, [job.target.seed], duration=job.duration
        )
        alone.save(tmp_path / "alone.wav", output=job.output, force=True)
        assert job.target.path is not None
        sound, other = sounds.read(job.target.path), sounds.read(tmp_path / "alone.wav")
        assert (sound.samples == other.samples).all()
        assert sound.samples.shape == (1, 6400)
        assert (sound.metadata or {})["prompt"] == job.target.prompt
        clip = manifest.clips[job.file]
        assert clip["loudness"] == pytest.approx(-14, abs=0.5)
        assert clip["seconds"] > 0
        assert clip["settings"] == job.settings()


def test_what_is_longer_than_the_segment_equals_gens(model: Model, tmp_path: Path) -> None:
    (job,) = jobs(batch(tmp_path), PromptLine(1, "rain", duration=10.5, negative="voices"))
    manifest, _ = run(model, tmp_path, [job])
    assert manifest.clips[job.file]["duration"] == 10.5
    how = {"seed": job.target.seed, "negative_prompt": "voices", "config": QUICK}
    piece = model.extend(None, "rain", 10.5, **how)
    piece.save(tmp_path / "alone.wav", output=job.output)
    assert (tmp_path / job.file).read_bytes() == (tmp_path / "alone.wav").read_bytes()


def test_groups_hold_what_fits_together_by_index(model: Model, tmp_path: Path) -> None:
    other = DecodingConfig(temperature=2.0)
    lines = [
        PromptLine(i + 1, "abcdefg"[i], decoding=other if i in (1, 4) else DecodingConfig())
        for i in range(7)
    ]
    long = PromptLine(8, "h", duration=10.5)
    groups = grouped(jobs(batch(tmp_path), *lines, long), Fitter(model), 2)
    assert [[job.target.prompt for job in group] for group in groups] == [
        ["a", "c"], ["b", "e"], ["d", "f"], ["h"], ["g"],
    ]  # fmt: skip


def test_a_resumed_group_is_computed_whole_where_mates_matter(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MusicGen reads its weights once for all rows, so a clip may differ by rounding with its mates."""
    causal = golden_model(MUSICGEN)
    assert mates_matter(causal)
    settings = batch(tmp_path, decoding=DecodingConfig())
    made = jobs(settings, "a", "b", "c", "d", "e")
    run(causal, tmp_path, made, size=2)
    before = {job.file: (tmp_path / job.file).read_bytes() for job in made}
    for job in (made[1], made[4]):
        (tmp_path / job.file).unlink()
    calls = Calls(causal, monkeypatch, lambda prompts: None)
    lost = {made[1].index, made[4].index}
    manifest, _ = run(causal, tmp_path, made, 2, lambda job: job.index in lost)
    assert calls.prompts == [["a", "b"], ["e"]]
    assert {job.file: (tmp_path / job.file).read_bytes() for job in made} == before
    assert len(manifest.path.read_bytes().splitlines()) == 7  # a was discarded, not recorded again


def test_on_a_cpu_only_what_is_missing_is_computed(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not mates_matter(model)
    calls = Calls(model, monkeypatch, lambda prompts: None)
    made = jobs(batch(tmp_path), "a", "b", "c", "d")
    run(model, tmp_path, made, 2, lambda job: job.index in (1, 3))
    assert calls.prompts == [["b"], ["d"]]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_too_little_memory_halves_the_batch(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def trouble(prompts: list[str]) -> None:
        if (len(prompts) > 1 and "c" in prompts) or "h" in prompts:
            raise error

    calls = Calls(model, monkeypatch, trouble)
    manifest, less = run(model, tmp_path, jobs(batch(tmp_path), *"abcdefgh"), size=4)
    assert calls.prompts == [
        list("abcd"), ["a", "b"], ["c", "d"], ["c"], ["d"], ["e"], ["f"], ["g"], ["h"],
    ]  # fmt: skip
    assert less == [2, 1]
    assert statuses(manifest) == {**dict.fromkeys("abcdefg", "done"), "h": "failed"}
    assert "memory" in manifest.clips["0007-h-107.wav"]["error"]


def test_only_the_bad_one_of_a_group_fails(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(prompts: list[str]) -> None:
        if "b" in prompts:
            raise ZeroDivisionError("by chance")

    Calls(model, monkeypatch, trouble)
    manifest, less = run(model, tmp_path, jobs(batch(tmp_path), *"abcd"), size=4)
    assert statuses(manifest) == {"a": "done", "b": "failed", "c": "done", "d": "done"}
    error = manifest.clips["0001-b-101.wav"]["error"]
    assert error.startswith("Unexpected ZeroDivisionError: by chance")
    assert less == []
    assert not (tmp_path / "0001-b-101.wav").exists()


def test_what_does_not_fit_the_model_fails_alone(model: Model, tmp_path: Path) -> None:
    steps = DecodingConfig(decoding_steps=(1, 2))
    hybrid = DecodingConfig(hybrid=1.0)
    lines = ["a", PromptLine(2, "b", decoding=hybrid), PromptLine(3, "c", decoding=steps), "d"]
    made = jobs(batch(tmp_path), *lines)
    manifest, _ = run(model, tmp_path, made)
    assert statuses(manifest) == {"a": "done", "b": "failed", "c": "failed", "d": "done"}
    misfits = Fitter(model).misfits(made)
    assert [line.number for line in misfits] == [2, 3]
    assert "cannot decode the first seconds itself" in misfits[0].message
    long = jobs(batch(tmp_path), PromptLine(1, "e", duration=11, decoding=hybrid))
    assert "use one model" in Fitter(model).misfits(long)[0].message


def test_values_that_are_no_numbers_fail_alone(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_audio = model.decode_audio

    def broken(codes: torch.Tensor, on_step: Any = None) -> torch.Tensor:
        audio = decode_audio(codes, on_step).clone()
        audio[1, :, 5] = float("nan")
        return audio

    monkeypatch.setattr(model, "decode_audio", broken)
    manifest, _ = run(model, tmp_path, jobs(batch(tmp_path), *"abc"), size=3)
    assert statuses(manifest) == {"a": "done", "b": "failed", "c": "done"}
    assert "NaN or infinite" in manifest.clips["0001-b-101.wav"]["error"]


def test_a_link_that_leads_out_by_the_time_of_writing(model: Model, tmp_path: Path) -> None:
    folder, outside = tmp_path / "clips", tmp_path / "outside"
    outside.mkdir()
    folder.mkdir()
    made = jobs(batch(folder), PromptLine(1, "a", out="x/a.wav"), PromptLine(2, "b", out="y/b.wav"))
    (folder / "x").symlink_to(outside)
    manifest, _ = run(model, folder, made)
    assert statuses(manifest) == {"a": "failed", "b": "done"}
    assert list(outside.iterdir()) == []


def test_a_full_disk_stops_the_run(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The following clips would fail, too, so computing them would be useless."""

    def full(path: Path, *_: object, **more: object) -> None:
        raise write_error(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(clips, "write_sound", full)
    calls = Calls(model, monkeypatch, lambda prompts: None)
    with pytest.raises(NoRoomError):
        run(model, tmp_path, jobs(batch(tmp_path), *map(str, range(50))))
    assert len(calls.prompts) < 10


def test_a_file_that_appears_during_the_run_is_not_replaced(model: Model, tmp_path: Path) -> None:
    """Hours may pass between a batch's plan and a clip, and only the plan checked existing files."""
    made = jobs(batch(tmp_path), "rain", "wind")
    path = made[1].target.path
    assert path is not None

    def someone_writes(outcome: Outcome) -> None:
        if outcome.job is made[0]:
            path.write_bytes(b"precious")

    manifest, _ = run(model, tmp_path, made, on_outcome=someone_writes)
    assert statuses(manifest) == {"rain": "done", "wind": "failed"}
    assert path.read_bytes() == b"precious"
    # It is not this batch's file the next time either, although the batch recorded its name.
    assert Standing(manifest, force=False).review(made).foreign == [made[1]]
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert Standing(manifest, force=False).review(made).foreign == [made[1]]


def test_what_the_listener_raises_comes_out_and_what_waited_is_dropped(
    model: Model, tmp_path: Path
) -> None:
    def gone(outcome: Outcome) -> None:
        raise UsageError("The reader has gone.")

    with pytest.raises(UsageError, match="The reader has gone"):
        run(model, tmp_path, jobs(batch(tmp_path), *"abcdefghi"), on_outcome=gone)


def test_an_error_in_the_very_last_clip_comes_out(model: Model, tmp_path: Path) -> None:
    def gone(outcome: Outcome) -> None:
        raise UsageError("The reader has gone.")

    with pytest.raises(UsageError):
        run(model, tmp_path, jobs(batch(tmp_path), "a"), on_outcome=gone)


def test_an_interrupted_run_writes_what_is_generated(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(prompts: list[str]) -> None:
        if prompts == ["c"]:
            raise KeyboardInterrupt

    Calls(model, monkeypatch, trouble)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path, jobs(batch(tmp_path), *"abcd"))
    assert statuses(Manifest.read(tmp_path, WHOLE)) == {"a": "done", "b": "done"}


def test_sizes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (batch_size("auto", model, whole=True), batch_size(5, model, whole=True)) == (1, 5)
    monkeypatch.setattr(Model, "device", torch.device("cuda"))
    assert batch_size("auto", model, whole=True) == 8
    assert batch_size("auto", model, whole=False) == 1
    assert mates_matter(model)


def test_memory_errors_are_known_by_what_they_say() -> None:
    assert writing.is_out_of_memory(RuntimeError("MPS backend out of memory (9 GB)"))
    assert not writing.is_out_of_memory(RuntimeError("shapes differ"))
    assert not writing.is_out_of_memory(ValueError("out of memory"))


def test_the_tally_knows_rate_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("magnet_cli.batch.report.time.monotonic", lambda: now)
    (job,) = jobs(batch(tmp_path), "a")
    tally = Tally(total=10)
    tally.start()
    assert tally.seconds_left is None
    now = 130.0
    for _ in range(2):
        tally.count(Outcome(job, 1.0, error=UsageError("x")))
    assert (tally.finished, tally.failed, tally.clips_per_minute) == (2, 2, 4.0)
    assert tally.seconds_left == pytest.approx(120.0)
    assert np.isclose(tally.seconds, 30.0)
