"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from safetensors import SafetensorError

from magnet_cli.errors import AudioFileError
from magnet_cli.files import atomic_path, draft, muted, plain_errors
from magnet_cli.targets import check_writable


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_path(target) as partial:
        partial.write_text("new")
        assert not target.exists()
        assert partial.suffix == ".txt"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: File too large (os error 27)",
        # Version 0.4.5:
        'Error while serializing: IoError(Os { code: 27, kind: FileTooLarge, message: "File too large" })',
    ],
)
def test_a_full_disk_is_an_os_error_in_the_words_of_every_safetensors(said: str) -> None:
    with pytest.raises(OSError, match="File too large") as caught, plain_errors():
        raise SafetensorError(said)
    assert caught.value.errno == 27


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="these are Linux's")
def test_devices_are_never_replaced(tmp_path: Path) -> None:
    """With --force and as root, the link /dev/stdout was replaced by a sound if it led to a file."""
    os.mkfifo(tmp_path / "pipe")
    for target in (Path("/dev/null"), Path("/proc/self/fd/1"), tmp_path / "pipe"):
        with pytest.raises(AudioFileError, match="not a regular file"), atomic_path(target):
            pass
    with (tmp_path / "file").open("w") as file:
        through = Path(f"/dev/fd/{file.fileno()}")
        assert through.is_file()
        with pytest.raises(AudioFileError, match="not a regular file"):
            check_writable(through, force=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def write(target: Path, text: str, replace: bool = False) -> Path:
    with draft(target, replace) as made:
        made.path.write_text(text)
    return made.final


def test_a_name_that_is_taken_meanwhile_stays_whose_it_is(tmp_path: Path) -> None:
    """The name was checked once, before minutes of work, and then replaced whatever had appeared."""
    target = tmp_path / "a.txt"
    with draft(target, replace=False) as made:
        made.path.write_text("ours")
        target.write_text("precious")
    assert made.final == tmp_path / "a-2.txt"
    assert write(target, "third") == tmp_path / "a-3.txt"
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"a.txt": "precious", "a-2.txt": "ours", "a-3.txt": "third"}
    assert write(target, "forced", replace=True) == target
    assert target.read_text() == "forced"


def test_two_writers_of_one_name_both_keep_their_work(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with draft(target, replace=False) as one, draft(target, replace=False) as other:
        one.path.write_text("one")
        other.path.write_text("other")
    assert {one.final.name, other.final.name} == {"a.txt", "a-2.txt"}
    assert one.final.read_text() == "one"
    assert other.final.read_text() == "other"
    assert len(os.listdir(tmp_path)) == 2


def test_a_link_to_nothing_is_a_name_that_is_taken(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.symlink_to(tmp_path / "not-mounted" / "a.txt")
    assert write(target, "ours").name == "a-2.txt"
    assert target.is_symlink()


def test_disks_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    target = tmp_path / "a.txt"
    assert write(target, "first") == target
    assert write(target, "second").name == "a-2.txt"
    assert target.read_text() == "first"
    assert len(os.listdir(tmp_path)) == 2


def test_others_may_read_it_even_where_the_writer_replaced_the_private_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with atomic_path(target) as partial:
        partial.unlink()
        partial.write_bytes(b"x")
        partial.chmod(0o600)
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    assert target.stat().st_mode == plain.stat().st_mode


def test_threads_that_mute_at_the_same_time_give_stderr_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each saved the current stderr, which for the second was already muted, permanently."""
    inside = [threading.Event(), threading.Event()]
    leave = [threading.Event(), threading.Event()]

    def mute(number: int) -> None:
        with muted():
            inside[number].set()
            leave[number].wait(10)

    threads = [threading.Thread(target=mute, args=(number,)) for number in (0, 1)]
    for number, thread in enumerate(threads):
        thread.start()
        assert inside[number].wait(10)
    leave[0].set()
    threads[0].join()
    os.write(2, b"lost")
    leave[1].set()
    threads[1].join()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
