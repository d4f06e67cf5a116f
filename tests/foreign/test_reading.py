"""The reader of JSON, TOML and YAML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from magnet_cli.foreign import reading
from magnet_cli.foreign.reading import ReadError
from magnet_cli.foreign.yaml_text import yaml_of


def test_json_is_read() -> None:
    assert reading.json_of('{"a": [1, 2.5, "[[[[", true, null]}') == {
        "a": [1, 2.5, "[[[[", True, None]
    }
    assert reading.json_of(b'"\\"["') == '"['
    assert reading.json_of('"' + '\\\\[\\"[' * 100 + '"') == '\\["[' * 100
    assert reading.json_of(f"[{10**308 - 1}]") == [10**308 - 1]
    assert reading.json_of("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ("[" * 1_000_000, "nested more than 64 deep"),
        ('{"a": ' * 900 + "1" + "}" * 900, "nested"),
        ('{"a": 1, "a": 2}', "says 'a' twice"),
        ("NaN", "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not"),
        ("1e999", "1e999 is not"),
        ("1" * 5000, "hundreds of digits"),
        ("9" * 309, "hundreds of digits"),  # more than the largest float
        ("[1", "not JSON"),
        ("", "not JSON"),
        (b"\xff", "not UTF-8"),
        ('"' + "\\" * 100_001, "not JSON"),
        ('"' + '\\"' * 100_000 + "\\", "not JSON"),  # took minutes
        ('["\\"", ' + "[" * 64, "nested more than 64 deep"),
    ],
)
def test_json_that_is_not_read(text: str | bytes, why: str) -> None:
    with pytest.raises(ReadError, match=why):
        reading.json_of(text)


def test_what_is_no_number_is_nothing() -> None:
    assert reading.json_of('{"a": NaN, "b": 1e999}', invalid=True) == {"a": None, "b": None}


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert reading.read_object(path) == {"a": 1}
    with pytest.raises(ReadError, match="larger than"):
        reading.read_json(path, most=5)
    path.write_text("[1]")
    with pytest.raises(ReadError, match="a list, not values by name"):
        reading.read_object(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ReadError, match="byte 1 is not UTF-8"):
        reading.read_json(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ReadError, match="Git LFS"):
        reading.read_json(path)
    with pytest.raises(FileNotFoundError):
        reading.read_json(tmp_path / "none")
    with pytest.raises(ReadError, match="a folder"):
        reading.read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadError, match="a pipe"):
        reading.read_json(tmp_path / "pipe")
    with pytest.raises(ReadError, match="a pipe or a device"):
        reading.read_json(Path("/dev/zero"))
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ReadError, match="a link"):
        reading.open_regular(tmp_path / "link", follow=False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = " + "[" * 100_000, "nested more than 64 deep"),
        ("a = " + "[" * 70 + "]" * 70, "nested more than 64 deep"),
        (".".join("a" * 500) + " = 1", "nested more than 64 deep"),
        ("a = 1\na = 2", "not TOML"),
        ("a = 2001-99-99", "TOML|cannot be"),
        ("a = " + "1" * 5000, "TOML|cannot be"),
        ("#" * 2_000_000, "larger than 1 MB"),
    ],
)
def test_toml_that_is_not_read(text: str, why: str) -> None:
    with pytest.raises(ReadError, match=why):
        reading.toml_of(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a [1]\nb: *a", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("[" * 5000, "nested more than 64 deep"),
        ("{a: " * 70 + "1" + "}" * 70, "nested more than 64 deep"),
        ("a: 1\na: 2", "says 'a' twice"),
        ("a: [", "not YAML"),
        ("a: !!python/object:os.system []", "not YAML"),
        ("a: 2001-99-99", "not YAML"),
        ("a: !!bool x", "not YAML"),
        ('a: !!int ""', "not YAML"),
        ('a: !!float ""', "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("? [a]\n: 1", "not YAML"),
        ("#" * 400_000, "more than"),
    ],
)
def test_yaml_that_is_not_read(text: str, why: str) -> None:
    with pytest.raises(ReadError, match=why):
        yaml_of(text)


def test_yaml_is_read() -> None:
    assert yaml_of("a: [1, x]\nb: {c: 0.5}\nd:") == {"a": [1, "x"], "b": {"c": 0.5}, "d": None}


def test_reasons_are_words() -> None:
    assert reading.reason(FileNotFoundError(2, "No such file or directory")) == (
        "no such file or directory"
    )
    assert reading.reason(ValueError("NaN is\n  no number.")) == "NaN is no number"
    assert reading.reason(ValueError()) == "it is damaged"
