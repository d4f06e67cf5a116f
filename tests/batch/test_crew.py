"""Several workers make the same clips as one process, even if some of them die."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from magnet_cli import clips
from magnet_cli.batch import processes, worker
from magnet_cli.batch.crew import Crew
from magnet_cli.batch.executors import Engine, Writer
from magnet_cli.batch.fitting import Fitter
from magnet_cli.batch.hands import Told
from magnet_cli.batch.jobs import WHOLE, Job, parse_workers
from magnet_cli.batch.manifest import Manifest, open_manifest
from magnet_cli.batch.worker import Setup, Task
from magnet_cli.data.prompts import PromptLine
from magnet_cli.errors import MagnetError, NoRoomError, UsageError
from magnet_cli.files import PARTIAL, write_error
from magnet_cli.settings import DecodingConfig
from tests.batch.batches import SMALL, batch, jobs
from tests.batch.hands import Heard, Killed, hires, setup_of
from tests.models.tiny import golden_model


def crewed(
    folder: Path,
    made: list[Job],
    count: int = 2,
    trouble: Callable[[int, str], None] = lambda number, prompt: None,
    wanted: Callable[[Job], bool] = lambda job: True,
    **more: Any,
) -> tuple[Manifest, Heard]:
    heard = Heard()
    hire = hires(setup_of(folder), trouble, **more)
    with open_manifest(folder, WHOLE) as manifest, Crew(hire, count, heard) as crew:
        crew.run(made, wanted, 1, manifest, heard.outcomes.append)
    return manifest, heard


def statuses(manifest: Manifest) -> dict[str, str]:
    return {clip["prompt"]: clip["status"] for clip in manifest.clips.values()}


def test_files_equal_those_of_one_process(hub_cache: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    lines = [*"abcde", PromptLine(6, "f", duration=10.5)]
    with open_manifest(one, WHOLE) as manifest, Writer(manifest, one, lambda _: None) as writer:
        engine = Engine(Fitter(golden_model(SMALL)), writer, 1, lambda _: None, lambda _: None)
        engine.run(jobs(batch(one), *lines), lambda job: True)
    made = jobs(batch(two), *lines)
    noted, heard = crewed(two, made, wanted=lambda job: job.target.prompt != "c")
    assert statuses(noted) == dict.fromkeys("abdef", "done")
    assert {clip["worker"] for clip in noted.clips.values()} <= {"1", "2"}
    assert [outcome.job for outcome in heard.outcomes if outcome.job not in made] == []
    for job in made:
        if job.target.prompt != "c":
            assert (two / job.file).read_bytes() == (one / job.file).read_bytes()
    for file, clip in noted.clips.items():
        told = {"seconds", "at", "worker"}
        assert {k: v for k, v in clip.items() if k not in told} == {
            k: v for k, v in manifest.clips[file].items() if k not in told
        }


def test_a_worker_that_ends_is_replaced_and_its_group_made_again(
    hub_cache: Path, tmp_path: Path
) -> None:
    left = tmp_path / f"{PARTIAL}{Manifest(tmp_path / 'manifest.jsonl').mark}-2-x.wav"

    def trouble(number: int, prompt: str) -> None:
        if number == 2 and prompt != "load":
            left.write_bytes(b"half a clip")
            raise Killed

    manifest, heard = crewed(tmp_path, jobs(batch(tmp_path), *"abcdef"), trouble=trouble)
    assert statuses(manifest) == dict.fromkeys("abcdef", "done")
    assert heard.ends in ([], [(2, "was killed", 1)])  # worker 1 may have been faster
    assert not left.exists()
    assert len(manifest.path.read_text().splitlines()) == 6


def test_what_ends_every_worker_fails_alone(hub_cache: Path, tmp_path: Path) -> None:
    def trouble(number: int, prompt: str) -> None:
        if prompt == "b":
            raise Killed

    manifest, heard = crewed(tmp_path, jobs(batch(tmp_path), *"abcd"), trouble=trouble)
    assert statuses(manifest) == {"a": "done", "b": "failed", "c": "done", "d": "done"}
    assert len(heard.ends) == 3
    error = manifest.clips["0001-b-101.wav"]["error"]
    assert error.startswith("3 workers ended while making its group, the last one was killed.")


def test_a_worker_with_other_weights_is_left_out(hub_cache: Path, tmp_path: Path) -> None:
    """Its clips would be recorded with the id of the first worker's model."""
    ready = threading.Event()

    def trouble(number: int, prompt: str) -> None:
        if prompt == "a":
            ready.wait(60)  # until the other has come and gone

    class Waiting(Heard):
        def ended(self, number: int, why: str, groups: int) -> None:
            super().ended(number, why, groups)
            ready.set()

    heard = Waiting()
    hire = hires(setup_of(tmp_path), trouble, frozenset({2}))
    with open_manifest(tmp_path, WHOLE) as manifest, Crew(hire, 2, heard) as crew:
        crew.run(jobs(batch(tmp_path), *"abc"), lambda job: True, 1, manifest, lambda _: None)
    assert heard.ends == [(2, "refused", 0)]
    assert {clip["worker"] for clip in manifest.clips.values()} == {"1"}
    assert statuses(manifest) == dict.fromkeys("abc", "done")


def test_a_full_disk_of_a_worker_stops_the_run(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **more: object) -> None:
        raise write_error(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(clips, "write_sound", full)
    with pytest.raises(NoRoomError):
        crewed(tmp_path, jobs(batch(tmp_path), *"ab"))
    assert Manifest.read(tmp_path, WHOLE).clips == {}


def test_workers_that_never_begin_end_the_run(hub_cache: Path, tmp_path: Path) -> None:
    def trouble(number: int, prompt: str) -> None:
        raise Killed

    with pytest.raises(MagnetError, match="before they have loaded the model, the last one was"):
        crewed(tmp_path, jobs(batch(tmp_path), "a"), trouble=trouble)


def test_a_worker_answers_for_a_driver_without_a_model(hub_cache: Path, tmp_path: Path) -> None:
    lines = ["a", PromptLine(2, "b", decoding=DecodingConfig(hybrid=1.0))]
    made = jobs(batch(tmp_path), *lines)
    with Crew(hires(setup_of(tmp_path)), 1, Heard()) as crew:
        facts = crew.facts()
        assert (facts.repo, facts.device.type, facts.modeling) == (SMALL, "cpu", "masked")
        assert facts.models["model_id"].startswith(f"{SMALL}@")
        (bad,) = crew.misfits(made)
        assert (bad.number, "cannot decode the first seconds itself" in bad.message) == (2, True)
        assert crew.fit(made[0]) == Fitter(golden_model(SMALL)).fit(made[0])


def test_what_listens_may_end_the_run(hub_cache: Path, tmp_path: Path) -> None:
    def gone(outcome: object) -> None:
        raise UsageError("The reader has gone.")

    with (
        pytest.raises(UsageError, match="The reader has gone"),
        open_manifest(tmp_path, WHOLE) as manifest,
        Crew(hires(setup_of(tmp_path)), 2, Heard()) as crew,
    ):
        crew.run(jobs(batch(tmp_path), *"abcdefghi"), lambda job: True, 1, manifest, gone)


def test_an_interrupted_crew_writes_what_it_has(hub_cache: Path, tmp_path: Path) -> None:
    def interrupted(job: Job) -> bool:
        if job.target.prompt == "d":
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        crewed(tmp_path, jobs(batch(tmp_path), *"abcd"), wanted=interrupted)
    for file, clip in Manifest.read(tmp_path, WHOLE).clips.items():
        assert clip["status"] == "done"
        assert (tmp_path / file).is_file()
    assert not list(tmp_path.glob(f"{PARTIAL}*"))


def test_a_process_serves_what_comes_by_a_pipe(hub_cache: Path, tmp_path: Path) -> None:
    (job,) = jobs(batch(tmp_path), "rain")
    pipes = os.pipe(), os.pipe()
    there, here = (os.fdopen(pipe[0], "rb") for pipe in pipes)
    to, sink = (os.fdopen(pipe[1], "wb") for pipe in pipes)
    ended = threading.Event()
    processes._write(to, (7, setup_of(tmp_path)))
    served = (lambda: processes._read(there), lambda told: processes._write(sink, told), ended.set)
    server = threading.Thread(target=processes.serve, args=served, daemon=True)
    server.start()
    assert processes._read(here)[0] == "ready"
    processes._write(to, (3, ("fits", [job])))
    assert processes._read(here)[1][0] == 3
    processes._write(to, Task(0, [job], frozenset({job.index})))
    told = [processes._read(here) for _ in range(3)]
    assert {kind for kind, _ in told} == {"begin", "outcome", "free"}
    processes._write(to, None)
    server.join(30)
    assert not server.is_alive()
    assert (tmp_path / job.file).is_file()
    to.close()
    assert ended.wait(30)


def test_a_model_that_cannot_be_loaded_is_told(hub_cache: Path, tmp_path: Path) -> None:
    pipes = os.pipe(), os.pipe()
    processes._write(
        os.fdopen(pipes[0][1], "wb"), (1, setup_of(tmp_path, models={"model": "none"}))
    )
    there, sink = os.fdopen(pipes[0][0], "rb"), os.fdopen(pipes[1][1], "wb")
    processes.serve(lambda: processes._read(there), lambda told: processes._write(sink, told))
    kind, error = processes._read(os.fdopen(pipes[1][0], "rb"))
    assert (kind, type(error).__name__) == ("stuck", "ModelNotFoundError")
    assert error.hint


def test_a_worker_loads_all_that_takes_part(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including partners and adapters, which a worker could silently omit."""
    asked: list[tuple[str, object]] = []

    def load(name: str, *, lora: object = None, **more: object) -> object:
        asked.append((name, lora))
        return golden_model(SMALL)

    monkeypatch.setattr(worker, "load_model", load)
    models = {"model": "m", "lora": "a:1", "lora_2": "b:0.5", "rescorer": "r", "hybrid_model": "r"}
    worker.Worker("1", setup_of(tmp_path, models=models), lambda outcome: None)
    assert asked == [("m", ["a:1", "b:0.5"]), ("r", None)]


@pytest.mark.process
def test_a_worker_runs_no_file_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random.py there was run in place of Python's own, as `python -m` looks there first."""
    stub = tmp_path / "lib" / "magnet_cli" / "batch" / "processes.py"
    stub.parent.mkdir(parents=True)
    for package in (stub.parent, stub.parent.parent):
        (package / "__init__.py").touch()
    stub.write_text("import random\ndef main(): raise SystemExit(random.Random(1).randint(3, 3))\n")
    (tmp_path / "random.py").write_text("raise SystemExit('of the working folder')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    told: queue.Queue[Told] = queue.Queue()
    processes.Process(1, setup_of(tmp_path), {}, told.put)
    assert told.get(timeout=60) == Told(1, "ended", "ended with status 3")


def test_places_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "available_cores", lambda: 8)
    monkeypatch.setattr(processes, "visible_gpus", lambda: ())
    where = processes.places("auto", "auto", None)
    assert (where.count, where.threads, where.of(3)) == (8, 1, {"OMP_NUM_THREADS": "1"})
    assert processes.places(3, "cpu", None).threads == 2
    assert processes.places("auto", "cpu", 4).count == 2
    assert processes.places("auto", "mps", None).count == 1
    monkeypatch.setattr(processes, "visible_gpus", lambda: ("2", "GPU-x"))
    where = processes.places("auto", "auto", None)
    assert (where.count, where.threads) == (2, 4)
    seen = [processes.places(3, "cuda", None).of(n)["CUDA_VISIBLE_DEVICES"] for n in (1, 2, 3)]
    assert seen == ["2", "GPU-x", "2"]
    assert "CUDA_VISIBLE_DEVICES" not in processes.places(2, "cuda:1", None).of(1)


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "257", ""])
def test_numbers_of_workers(text: str) -> None:
    assert (parse_workers(None), parse_workers("auto"), parse_workers("3")) == (None, "auto", 3)
    with pytest.raises(UsageError, match="--workers cannot be"):
        parse_workers(text)


def test_told_and_setup_can_be_sent(tmp_path: Path) -> None:
    import pickle

    made = setup_of(tmp_path)
    assert isinstance(made, Setup)
    assert pickle.loads(pickle.dumps(made)) == made
    error = NoRoomError("There is no room.", "Make some.")
    told = pickle.loads(pickle.dumps(Told(1, "stuck", error)))
    assert (type(told.value), told.value.hint) == (NoRoomError, "Make some.")
