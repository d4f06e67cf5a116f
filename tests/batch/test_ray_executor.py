"""Actors of a fake cluster of threads; for Ray itself see tests/cli/test_batch_ray."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from magnet_cli.batch import ray_cluster, ray_executor
from magnet_cli.batch.crew import Crew, differing
from magnet_cli.batch.hands import Told
from magnet_cli.batch.jobs import WHOLE
from magnet_cli.batch.manifest import Manifest, open_manifest
from magnet_cli.batch.ray_cluster import Share
from magnet_cli.batch.ray_executor import Actor, Place
from magnet_cli.errors import MagnetError, NoRoomError
from magnet_cli.files import PARTIAL
from tests.batch.batches import batch, jobs
from tests.batch.hands import Heard, hires, setup_of


class LostError(Exception):
    """As RayError."""


class SlowError(LostError):
    """As GetTimeoutError."""


class Threads:
    """The part of Ray's module that is used; actors are local, and each of their calls is a thread."""

    exceptions = SimpleNamespace(RayError=LostError, GetTimeoutError=SlowError)

    def __init__(
        self, trouble: Callable[[str], None] = lambda name: None, **resources: float
    ) -> None:
        self.resources, self.trouble = resources, trouble
        self.asked: list[dict[str, Any]] = []
        self.killed: list[Any] = []
        self.pool = concurrent.futures.ThreadPoolExecutor(16)

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, kind: type) -> Any:
        def options(**asked: Any) -> Any:
            self.asked.append(asked)
            return SimpleNamespace(remote=lambda *given: Handle(self, kind(*given)))

        return SimpleNamespace(options=options)

    def get(self, event: concurrent.futures.Future[Any], timeout: float) -> Any:
        try:
            return event.result(timeout)
        except concurrent.futures.TimeoutError as error:
            raise SlowError from error

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)
        actor._actor.put(
            None
        )  # a thread cannot be killed, and one that waits would outlive the tests


class Handle:
    """The driver's handle of an actor."""

    def __init__(self, ray: Threads, actor: Actor) -> None:
        self._ray, self._actor = ray, actor

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> Any:
            self._ray.trouble(name)
            return getattr(self._actor, name)(*given)

        return SimpleNamespace(remote=lambda *given: self._ray.pool.submit(call, *given))


@pytest.fixture
def folder(hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # an actor goes there
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "clips"


def crewed(
    folder: Path, ray: Threads, prompts: str, collect: bool, force: bool = False
) -> tuple[Manifest, Heard]:
    heard = Heard()
    with open_manifest(folder, WHOLE) as manifest:
        setup = setup_of(folder, force=force)
        share = ray_cluster.share_of(ray, "auto", None)
        count = ray_cluster.counted(ray, share, "auto", len(prompts))
        with (
            ray_executor.hire_actors(ray, setup, share, collect) as hire,
            Crew(hire, count, heard) as crew,
        ):
            made = jobs(batch(folder), *prompts)
            crew.run(made, lambda job: True, 1, manifest, heard.outcomes.append)
    return manifest, heard


def test_files_are_the_same_by_a_disk_and_by_bytes(folder: Path) -> None:
    ray = Threads(CPU=2.0)
    shared, _ = crewed(folder, ray, "abcd", collect=False)
    sent, heard = crewed(folder.with_name("sent"), ray, "abcd", collect=True)
    for manifest in (shared, sent):
        assert [clip["status"] for clip in manifest.clips.values()] == ["done"] * 4
        assert {clip["worker"] for clip in manifest.clips.values()} <= {"1", "2"}
    for file, clip in shared.clips.items():
        assert (folder / file).read_bytes() == (folder.with_name("sent") / file).read_bytes()
        assert sent.clips[file]["bytes"] == clip["bytes"]
    targets = {outcome.saved.target.path for outcome in heard.outcomes if outcome.saved}
    assert targets == {folder.with_name("sent") / file for file in sent.clips}
    assert not list(folder.parent.rglob(f"{PARTIAL}*"))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["clips", "sent"]
    assert ray.asked[0] == {"num_cpus": 1, "num_gpus": 0, "max_concurrency": 4, "max_restarts": 0}
    assert len(ray.killed) == 4  # an actor's resources in the cluster are released


def test_a_file_that_came_meanwhile_is_not_replaced_by_one_that_is_sent(folder: Path) -> None:
    folder.mkdir()
    (folder / "0001-b-101.wav").write_text("mine")
    manifest, _ = crewed(folder, Threads(CPU=1.0), "ab", collect=True)
    clip = manifest.clips["0001-b-101.wav"]
    assert (clip["status"], clip["in_the_way"]) == ("failed", True)
    assert (folder / "0001-b-101.wav").read_text() == "mine"
    crewed(folder, Threads(CPU=1.0), "ab", collect=True, force=True)
    assert (folder / "0001-b-101.wav").stat().st_size > 1000


def test_a_full_disk_here_ends_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited a minute for actors that had ended."""

    def full(path: Path, replace: bool) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ray_executor, "draft", full)
    began = time.monotonic()
    with pytest.raises(NoRoomError, match="There is no room"):
        crewed(folder, Threads(CPU=1.0), "ab", collect=True)
    assert time.monotonic() - began < 30


def test_a_node_that_sees_another_folder_is_told_of(folder: Path) -> None:
    """Its clips would be marked as done, but be nowhere that the driver can see."""
    folder.mkdir()
    actor = Actor(1, setup_of(folder), Place(str(folder), folder / "token"))
    kind, error = actor.take()
    assert (kind, actor.take()[0]) == ("stuck", "ended")
    assert "does not see the folder" in error.message
    assert "--collect" in error.hint


def test_an_actor_that_is_lost_is_replaced(folder: Path) -> None:
    calls = iter(range(100))

    def trouble(name: str) -> None:
        if name == "take" and next(calls) == 2:
            raise LostError(
                "The actor died unexpectedly before finishing this task.\n\tclass_name: Actor"
            )

    manifest, heard = crewed(folder, Threads(trouble, CPU=1.0), "ab", collect=True)
    assert [clip["status"] for clip in manifest.clips.values()] == ["done"] * 2
    why = "was lost (The actor died unexpectedly before finishing this task)"
    assert [end[:2] for end in heard.ends] == [(1, why)]


def test_an_actor_without_room_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "_PATIENCE", 0.0)
    told: list[Told] = []
    actor = SimpleNamespace(take=SimpleNamespace(remote=concurrent.futures.Future))
    made = setup_of(folder)
    hand = ray_executor.RayHand(Threads(), 1, actor, told.append, made, str(Share(2, 1)))
    deadline = time.monotonic() + 30
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told[0] == Told(1, "waits", "2 CPUs and a GPU")
    hand.kill()


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    """Ray retries for minutes and prints lines of its own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            ray_cluster._reach(f"127.0.0.1:{taken.getsockname()[1]}")
    ray_cluster._reach("auto")


def test_shares() -> None:
    assert ray_cluster.share_of(Threads(CPU=8.0), "auto", None) == Share(1, 0)
    assert ray_cluster.share_of(Threads(CPU=8.0, GPU=2.0), "auto", 4) == Share(4, 1)
    assert ray_cluster.share_of(Threads(CPU=8.0, GPU=2.0), "cpu", None) == Share(1, 0)
    # There is none yet; if requested, a growing cluster adds one.
    assert ray_cluster.share_of(Threads(CPU=8.0), "cuda", None) == Share(1, 1)
    growing = Threads(CPU=8.0)
    count = ray_cluster.counted(growing, Share(4, 0), "auto", 5)
    assert callable(count)
    assert count() == 2
    growing.resources["CPU"] = 40.0
    assert count() == 5
    assert ray_cluster.counted(growing, Share(1, 1), 3, 2) == 2
    assert ray_cluster.counted(growing, Share(1, 1), 3, None) == 3
    with pytest.raises(MagnetError, match="The Ray cluster is gone"):
        Share(1, 0).count(SimpleNamespace())
    assert ray_cluster.local_cpus(500, 2) == 1000


def test_another_version_is_another_worker(folder: Path) -> None:
    with Crew(hires(setup_of(folder)), 1, Heard()) as crew:
        facts = crew.facts()
    assert differing(facts, facts) is None
    problem = differing(facts, dataclasses.replace(facts, magnet="0.0.1"))
    assert problem is not None
    assert "runs magnet 0.0.1" in problem.message


def test_a_folder_that_a_killed_run_left_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster.os, "access", lambda *_: False)
    left, live = folder.parent / "magnet-ray-1", folder.parent / "magnet-ray-2"
    for one in (left, live):
        one.mkdir()
        os.utime(one, (1, 1))
    with ray_cluster.FileLock(live / ".lock"):
        os.utime(live, (1, 1))
        with ray_cluster._own_folder() as own:
            assert sorted(folder.parent.iterdir()) == sorted([live, Path(own)])
    assert sorted(folder.parent.iterdir()) == [live]
