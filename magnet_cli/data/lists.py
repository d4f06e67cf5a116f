"""Files that list sounds, one row of fields each: .jsonl, .jsonl.gz, .csv, .tsv.

`manifests.py` interprets the fields.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magnet_cli.data.prompt_files import table_of
from magnet_cli.data.prompts import BadLine
from magnet_cli.foreign import reading
from magnet_cli.foreign.reading import ReadError

_MOST_BYTES = 2_000_000_000  # bytes; a row has a few hundred
_MOST_UNPACKED = 500_000_000  # bytes after decompression, which a compressed file can exceed easily

PATHS = ("path", "file_name")  # names of the field with a row's sound

Fields = dict[str, Any]


def rows_of(path: Path) -> Iterator[tuple[int, Fields | ReadError]]:
    """The rows of a list, each with the number of its first line; the reason for a broken row.

    Columns of a table are matched ignoring case, and empty values are dropped.

    Raises:
        ReadError, OSError: the file cannot be read at all.
    """
    name = path.name.lower()
    if name.endswith((".csv", ".tsv", ".tab")):
        return _from_table(_read(path), "," if name.endswith(".csv") else "\t")
    return _from_lines(_read(path))


def parse(line: bytes) -> Fields:
    """Parse the fields of a JSON object. Raises ReadError: it is not one."""
    # Numbers that are not finite become None: the fields read here are texts.
    fields = reading.json_of(line.removeprefix(b"\xef\xbb\xbf"), invalid=True)
    if not isinstance(fields, dict):
        raise ReadError(f"it is not a JSON object but {reading.kind_of(fields)}")
    return fields


def _read(path: Path) -> bytes:
    if path.suffix.lower() != ".gz":
        return reading.read_bytes(path, _MOST_BYTES)
    with reading.open_regular(path) as file:
        try:
            data = gzip.GzipFile(fileobj=file).read(_MOST_UNPACKED + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ReadError("it is truncated, or not a gzip file") from error
    if len(data) > _MOST_UNPACKED:
        raise ReadError(f"unpacked it is larger than {_MOST_UNPACKED / 1e6:g} MB")
    return data


def _from_lines(data: bytes) -> Iterator[tuple[int, Fields | ReadError]]:
    # Bytes that are not UTF-8 break their own line, not the file.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, parse(line)
        except ReadError as error:
            yield number, error


def _from_table(data: bytes, delimiter: str) -> Iterator[tuple[int, Fields | ReadError]]:
    _, table = table_of(io.BytesIO(data), delimiter)
    columns: list[str] | None = None
    for item in table:
        if isinstance(item, BadLine):
            yield item.number, ReadError(reading.reason(ValueError(item.message)))
        elif columns is None:
            columns = [name.strip().lower() for name in item[1]]
            if not set(PATHS) & set(columns):
                missing = f"it names no column {' or '.join(PATHS)}, as a first line has to"
                yield item[0], ReadError(missing)
                return
        elif len(item[1]) > len(columns):
            many = f"it has {len(item[1])} values in {len(columns)} columns"
            yield item[0], ReadError(f"{many}: quote one that holds a separator")
        else:
            pairs = zip(columns, item[1], strict=False)
            yield item[0], {name: value for name, value in pairs if value.strip()}
