"""Files in the hub's cache are checked against the checksums in their names."""

from __future__ import annotations

from pathlib import Path

from magnet_cli.checkpoints.integrity import damaged

GIT_BLOB = "ce013625030ba8dba906f756967f9e9ca394464a"  # `git hash-object` of "hello\n"
SHA256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # of the same
MD5 = "b1946ac92492d2347c6235b4d2611184"  # some mirrors have other names


def test_both_kinds_of_checksum_are_known(tmp_path: Path) -> None:
    for checksum in (GIT_BLOB, SHA256):
        blob = tmp_path / checksum
        blob.write_bytes(b"hello\n")
        (tmp_path / f"{len(checksum)}.json").symlink_to(blob.name)
    names = ["40.json", "64.json"]
    assert damaged(tmp_path, names) == []
    for checksum in (GIT_BLOB, SHA256):
        (tmp_path / checksum).write_bytes(b"jello\n")
    assert damaged(tmp_path, names) == names


def test_a_name_that_is_no_checksum_says_nothing(tmp_path: Path) -> None:
    (tmp_path / MD5).write_bytes(b"{}")
    (tmp_path / "config.json").symlink_to(MD5)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert damaged(tmp_path, ["config.json", "model.safetensors"]) == ["model.safetensors"]
    (tmp_path / MD5).write_bytes(b"{")
    assert damaged(tmp_path, ["config.json"]) == ["config.json"]
