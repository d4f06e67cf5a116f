"""`magnet batch --engine ray` with its own cluster, and with one that loses a node."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests import processes
from tests.cli.conftest import QUICK, SMALL, Magnet
from tests.cli.test_batch_kill import killed_and_compared

PROMPTS = "".join(f"{word}\n" for word in ("rain", "wind", "fire", "sea", "birds", "steps"))
RAY = (*QUICK, "--threads", "1", "--engine", "ray")


def equal(one: str, other: str) -> bool:
    sounds = sorted(path.name for path in Path(one).glob("*.wav"))
    assert len(sounds) > 1
    assert sorted(path.name for path in Path(other).iterdir() if path.name[0] != ".") == [
        *sounds,
        "manifest.jsonl",
    ]
    return all((Path(one) / s).read_bytes() == (Path(other) / s).read_bytes() for s in sounds)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a cluster's processes, and a torch for each actor
def test_a_run_goes_from_one_process_to_a_cluster_and_back(magnet: Magnet, home: Path) -> None:
    """With a shared disk and with files that are sent; nothing is left of the cluster."""
    (home / "p.txt").write_text(PROMPTS)
    (home / "some.txt").write_text("rain\nwind\n")
    one = (*QUICK, "--threads", "1")
    assert magnet("batch", "p.txt", "-O", "one", *one).status == 0
    assert magnet("batch", "some.txt", "-O", "two", *one).status == 0
    before = set(Path("/tmp").glob("magnet-*"))
    command = [*processes.MAGNET, "batch", "p.txt", "-O", "two", *RAY]
    for more, lost in (
        (("--workers", "2"), "0003-sea-8.wav"),
        (("--collect",), "0004-birds-9.wav"),
    ):
        done = processes.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert " is ready, on cpu of " in done.stderr  # one may make all clips alone
        assert done.stdout == ""
        assert equal("one", "two")
        Path("two", lost).unlink()
    assert magnet("batch", "p.txt", "-O", "two", *one).status == 0
    assert equal("one", "two")
    assert set(Path("/tmp").glob("magnet-*")) <= before  # what killed runs had left may be gone
    manifest = [json.loads(line) for line in Path("two/manifest.jsonl").read_text().splitlines()]
    assert sum(record.get("worker") is not None for record in manifest) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)  # three clusters, each with a torch for each actor
def test_actors_and_their_driver_are_killed(home: Path) -> None:
    report = killed_and_compared("--engine", "ray", "--kills", "1", "--drivers", "1")
    assert report["workers_killed"] + report["drivers_killed"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_leaves_the_cluster(magnet: Magnet, home: Path) -> None:
    """Its actor's clip is made by the other node, and the run finishes normally."""
    from ray.cluster_utils import Cluster

    (home / "p.txt").write_text(PROMPTS * 20)  # enough that both are ready before the end
    assert magnet("batch", "p.txt", "-O", "one", *QUICK, "--threads", "1").status == 0
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        leaving = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        command = [*processes.MAGNET, "batch", "p.txt", "-O", "two", *RAY, "--json"]
        run = processes.start(
            [*command, "--address", nodes.address], stdout=-1, stderr=-1, text=True
        )
        assert run.stdout is not None
        seen: set[str] = set()
        while len(seen) < 2 and (line := run.stdout.readline()):
            seen |= {json.loads(line).get("worker")} - {None}
        assert len(seen) == 2
        nodes.remove_node(leaving, allow_graceful=False)
        out, said = run.communicate()
    finally:
        nodes.shutdown()
    assert run.returncode == 0, said
    assert "was lost" in said
    assert all(json.loads(line) for line in out.splitlines())  # Ray's own output came in between
    assert equal("one", "two")


def test_what_cannot_be_asked_for_is_refused_at_once(
    magnet: Magnet, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "p.txt").write_text(PROMPTS)
    command = ("batch", "p.txt", "-O", "clips", "-m", SMALL)
    for more in (("--collect",), ("--address", "auto"), ("--workers", "2", "--collect")):
        outcome = magnet(*command, *more)
        assert outcome.status == 2
        assert "--address and --collect need --engine ray" in " ".join(outcome.err.split())
    outcome = magnet(*command, "--engine", "ray", "--address", "ray://head:10001")
    assert outcome.status == 2
    assert "a batch must run on a node of the cluster" in outcome.err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = magnet(*command, "--engine", "ray")
    assert outcome.status == 2
    assert "Ray is not installed." in outcome.err
    assert "pip install 'magnet-cli[ray]'" in outcome.err
    assert not Path("clips").exists()
