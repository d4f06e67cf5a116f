"""The manifest survives crashes, is locked by one process, and merges shards."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from magnet_cli.batch.jobs import WHOLE, Shard
from magnet_cli.batch.manifest import Manifest, mark_of, open_manifest
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.files import draft, marked


def clip(file: str, status: str = "done") -> dict[str, object]:
    return {"file": file, "status": status}


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    with open_manifest(tmp_path / "new" / "folder", WHOLE) as manifest:
        manifest.begin({"seed": 5})
        manifest.add(clip("ä.wav", "failed"))
        manifest.add(clip("b.wav"))
        manifest.add(clip("ä.wav"))
    read = Manifest.read(tmp_path / "new" / "folder", WHOLE)
    assert read.run["seed"] == 5
    assert {name: entry["status"] for name, entry in read.clips.items()} == {
        "ä.wav": "done",
        "b.wav": "done",
    }
    assert (read.damaged, read.anything_done) == (0, True)
    assert len(read.path.read_bytes().splitlines()) == 4


def test_a_line_is_on_the_disk_when_add_returns(tmp_path: Path) -> None:
    with open_manifest(tmp_path, WHOLE) as manifest:
        manifest.add(clip("a.wav"))
        assert json.loads(manifest.path.read_bytes()) == clip("a.wav")


@pytest.mark.parametrize("cut", range(1, 36))
def test_a_cut_at_any_byte_of_the_last_line_loses_that_line_alone(tmp_path: Path, cut: int) -> None:
    with open_manifest(tmp_path, WHOLE) as manifest:
        manifest.add(clip("a.wav"))
        manifest.add(clip("b.wav"))
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with open_manifest(tmp_path, WHOLE) as manifest:
        assert "a.wav" in manifest.clips
        whole = cut == 1  # only the line's end is missing
        assert ("b.wav" in manifest.clips, manifest.damaged) == (whole, int(not whole))
        manifest.add(clip("c.wav"))
    read = Manifest.read(tmp_path, WHOLE)
    assert {"a.wav", "c.wav"} <= read.clips.keys()
    assert read.damaged == 0


def test_lines_that_are_none_are_counted_and_left(tmp_path: Path) -> None:
    good = json.dumps(clip("a.wav"))
    (tmp_path / "manifest.jsonl").write_bytes(
        b"\0\0\0\n[]\n{}\n" + good.encode() + b'\n{"file": 3, "status": "done"}\n\xff\n'
    )
    manifest = Manifest.read(tmp_path, WHOLE)
    assert manifest.clips == {"a.wav": clip("a.wav")}
    assert manifest.damaged == 5


def test_shards_know_what_the_others_have_made_and_write_their_own(tmp_path: Path) -> None:
    with (
        open_manifest(tmp_path, Shard(1, 2)) as first,
        open_manifest(tmp_path, Shard(2, 2)) as second,
    ):
        first.begin({"seed": 5})
        first.add(clip("a.wav"))
        second.add(clip("b.wav"))
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "manifest.shard-1-of-2.jsonl",
        "manifest.shard-2-of-2.jsonl",
    ]
    assert Manifest.read(tmp_path, WHOLE).clips.keys() == {"a.wav", "b.wav"}
    assert Manifest.read(tmp_path, WHOLE).run["seed"] == 5


def test_between_shards_the_newest_line_holds(tmp_path: Path) -> None:
    """The whole run's manifest was used although a shard had made the clip since."""
    old, new = "2026-01-01T00:00:00.000+00:00", "2026-01-02T00:00:00.000+00:00"
    for ours, theirs, holds in ((old, new, "done"), (new, old, "failed"), (None, new, "failed")):
        mine = clip("a.wav", "failed") | ({"at": ours} if ours else {})
        other = clip("a.wav") | {"at": theirs}
        (tmp_path / "manifest.jsonl").write_text(
            json.dumps({"run": {"seed": 5, "at": ours}}) + "\n" + json.dumps(mine) + "\n"
        )
        (tmp_path / "manifest.shard-1-of-2.jsonl").write_text(
            json.dumps({"run": {"seed": 6, "at": theirs}}) + "\n" + json.dumps(other) + "\n"
        )
        read = Manifest.read(tmp_path, WHOLE)
        assert read.clips["a.wav"]["status"] == holds
        assert read.run["seed"] == (6 if holds == "done" else 5)


def test_a_file_of_the_manifests_name_that_is_none_is_left_as_it_is(tmp_path: Path) -> None:
    """The user's prompts were appended to, and the last line of a list without an end was removed."""
    path = tmp_path / "manifest.jsonl"
    prompts, rows = (
        b'{"prompt": "piano"}\n',
        b'{"path": "a.wav"}\n{"path": "b.wav", "caption": "rain"',
    )
    for theirs in (prompts, rows, b"lofi piano", b'{"file": "a.wav", "caption": "x'):
        path.write_bytes(theirs)
        with pytest.raises(UsageError, match=r"manifest\.jsonl is not the manifest of a batch"):
            open_manifest(tmp_path, WHOLE).__enter__()
        assert path.read_bytes() == theirs
    # What a run leaves that is killed at once is begun anew; the lines of another that an earlier version
    # appended to are kept, and the batch goes on.
    for cut in (b"{", b'{"run": {"se'):
        path.write_bytes(cut)
        with open_manifest(tmp_path, WHOLE) as manifest:
            manifest.begin({"seed": 1})
        assert path.read_bytes().startswith(b'{"run": {"seed": 1,')
    mixed = prompts + json.dumps(clip("a.wav")).encode() + b'\n{"path": "b.wav'
    path.write_bytes(mixed)
    with open_manifest(tmp_path, WHOLE) as manifest:
        manifest.add(clip("b.wav"))
    assert path.read_bytes().startswith(mixed + b"\n")
    assert Manifest.read(tmp_path, WHOLE).clips.keys() == {"a.wav", "b.wav"}


def test_a_lock_that_is_only_tried_by_another_shard_is_waited_for(tmp_path: Path) -> None:
    """Shards that start together take the lock that an earlier run has left, to see whether it is free."""
    with open_manifest(tmp_path, WHOLE):
        pass
    for name in (".manifest.jsonl.lock", ".manifest.shard-1-of-4.jsonl.lock"):
        held = FileLock(tmp_path / name, thread_local=False)  # released by a timer
        held.acquire()
        release = threading.Timer(0.3, held.release)
        release.start()
        with open_manifest(tmp_path, Shard(1, 4)) as manifest:
            assert not held.is_locked  # it was waited for
            assert manifest.path.name == "manifest.shard-1-of-4.jsonl"
        release.join()


def test_what_is_in_a_locks_place_is_named(tmp_path: Path) -> None:
    """A folder there was an unexpected error, if another shard's."""
    lock = tmp_path / ".manifest.shard-1-of-2.jsonl.lock"
    lock.mkdir()
    for shard in (WHOLE, Shard(1, 2)):
        with pytest.raises(UsageError, match=r"jsonl\.lock cannot be read: it is a folder"):
            open_manifest(tmp_path, shard).__enter__()
    lock.rmdir()
    lock.touch()

    def refuse(self: FileLock, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(lock))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileLock, "acquire", refuse)
        with pytest.raises(MagnetError, match=r"jsonl\.lock cannot be written: Permission denied"):
            open_manifest(tmp_path, Shard(1, 2)).__enter__()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a lock that will not be free."""
    monkeypatch.setattr("magnet_cli.batch.manifest._PATIENCE", 0.1)


@pytest.mark.usefixtures("impatient")
def test_two_runs_of_one_folder_exclude_each_other(tmp_path: Path) -> None:
    for one, other in (
        (WHOLE, WHOLE),
        (WHOLE, Shard(1, 2)),
        (Shard(1, 2), WHOLE),
        (Shard(1, 2), Shard(1, 2)),
        (Shard(1, 2), Shard(1, 3)),
    ):
        with open_manifest(tmp_path, one), pytest.raises(UsageError, match="Another batch"):
            open_manifest(tmp_path, other).__enter__()
    with open_manifest(tmp_path, WHOLE):
        pass


def _hold(folder: Path, ready: multiprocessing.Queue[int]) -> None:
    with open_manifest(folder, WHOLE):
        ready.put(os.getpid())
        time.sleep(60)


@pytest.mark.usefixtures("impatient")
def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    ready.get(timeout=30)
    with pytest.raises(UsageError, match="Another batch"), open_manifest(tmp_path, WHOLE):
        pass
    holder.kill()
    holder.join()
    with open_manifest(tmp_path, WHOLE):
        pass


def test_old_partial_files_of_this_folder_are_removed(tmp_path: Path) -> None:
    """Only those: any `.partial-*` below the folder was removed, whoever made it."""
    mark = mark_of(tmp_path / "manifest.jsonl")
    old, new = tmp_path / "a" / f".partial-{mark}-x.wav", tmp_path / f".partial-{mark}-y.wav"
    foreign = tmp_path / "a" / ".partial-z.wav"
    of_another = tmp_path / "a" / f".partial-{mark_of(tmp_path / 'a' / 'manifest.jsonl')}-z.wav"
    old.parent.mkdir()
    for path in (old, new, foreign, of_another):
        path.touch()
    for path in (old, foreign, of_another):
        os.utime(path, (0, 0))
    with open_manifest(tmp_path, WHOLE):
        assert not old.exists()
        assert new.exists()
        assert foreign.exists()
        assert of_another.exists()


def test_what_a_run_leaves_bears_its_mark(tmp_path: Path) -> None:
    mark = mark_of(tmp_path / "manifest.jsonl")
    with marked(mark), draft(tmp_path / "a.wav", replace=True) as made:
        assert made.path.name.startswith(f".partial-{mark}-")
    with open_manifest(tmp_path, WHOLE) as manifest:
        assert manifest.mark == mark


@pytest.mark.parametrize("name", ["manifest.jsonl", ".manifest.jsonl.lock"])
def test_a_link_is_no_manifest(tmp_path: Path, name: str) -> None:
    """The target of the link was written to, and its last line removed."""
    folder, precious = tmp_path / "clips", tmp_path / "precious.txt"
    folder.mkdir()
    precious.write_text("a letter without an end")
    (folder / name).symlink_to(precious)
    with pytest.raises(UsageError, match="it is a link"), open_manifest(folder, WHOLE) as manifest:
        manifest.begin({"seed": 1})
    assert precious.read_text() == "a letter without an end"


def test_a_pipe_is_no_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.shard-1-of-2.jsonl")
    with pytest.raises(UsageError, match="pipe"), open_manifest(tmp_path, WHOLE):
        pass


@pytest.mark.parametrize(
    "line",
    [
        '{"file": "a.wav", "status": "done", "settings": []}',
        '{"file": "a.wav", "status": ["done"]}',
        '{"file": 1, "status": "done"}',
        "[" * 100_000,
        '{"file": "a.wav", "status": "done", "file": "b.wav"}',
        '{"file": "a.wav", "status": "done", "bytes": NaN}',
    ],
)
def test_lines_that_cannot_be_of_a_clip_are_counted(tmp_path: Path, line: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(f"{line}\n")
    manifest = Manifest.read(tmp_path, WHOLE)
    assert (manifest.damaged, manifest.clips) == (1, {})


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MagnetError), open_manifest(tmp_path / "file", WHOLE):
        pass
