"""Prompt files of every kind, including hostile ones."""

from __future__ import annotations

import io
import json
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.data.prompt_files import (
    PromptFormat,
    format_of,
    open_prompts,
    read_prompts,
    records,
)
from magnet_cli.data.prompts import BadLine, PromptLine
from magnet_cli.errors import DataError, UsageError
from magnet_cli.settings import DecodingConfig


def lines(data: bytes | str, kind: PromptFormat = "txt", null: bool = False) -> list[object]:
    raw = data.encode() if isinstance(data, str) else data
    return list(read_prompts(io.BytesIO(raw), kind, null))


def only(data: bytes | str, kind: PromptFormat = "txt", null: bool = False) -> object:
    (line,) = lines(data, kind, null)
    return line


def bad(data: bytes | str, kind: PromptFormat = "txt", null: bool = False) -> str:
    line = only(data, kind, null)
    assert isinstance(line, BadLine), line
    return line.message


def test_text_is_a_prompt_a_line() -> None:
    text = "\ufefflofi piano\r\n\n  # a comment\n  rain \t on a roof\r\nמוזיקה שקטה\nموسيقى\n🎹🥁"
    assert lines(text) == [
        PromptLine(1, "lofi piano"),
        PromptLine(4, "rain on a roof"),
        PromptLine(5, "מוזיקה שקטה"),
        PromptLine(6, "موسيقى"),
        PromptLine(7, "🎹🥁"),
    ]


def test_bad_lines_are_numbered_and_the_rest_is_read() -> None:
    data = b"a\n\xff\xfe b\nc\0d\n" + b"x" * 10_000_000 + b"\nz\n\x07\n"
    read = lines(data)
    assert [line.number for line in read] == [1, 2, 3, 4, 5, 6]  # type: ignore[attr-defined]
    messages = {line.number: line.message for line in read if isinstance(line, BadLine)}
    assert "not UTF-8" in messages[2]
    assert "NUL" in messages[3]
    assert "-0" in messages[3]
    assert "longer than 1 MB" in messages[4]
    assert "control character" in messages[6]
    assert read[4] == PromptLine(5, "z")


@pytest.mark.parametrize(
    ("said", "num"),
    [("3", 3), ("0", None), ("-1", None), ("10001", None), ("x", None), ("", None)],
)
def test_a_bad_line_still_says_for_how_many_clips_it_stands(said: str, num: int | None) -> None:
    """Clips after it keep their indices and seeds when the line is repaired."""
    value = said if said.lstrip("-").isdigit() else f'"{said}"'
    for line in (
        only(f"prompt,num,seed\nrain,{said},x\n", "csv"),
        only(f'{{"prompt": "rain", "num": {value}, "seed": "x"}}', "jsonl"),
    ):
        assert isinstance(line, BadLine)
        assert line.num == num


def test_lines_that_end_in_cr_alone_are_said() -> None:
    """All of them were read as one prompt."""
    assert "CR alone" in bad("rain\rwind\r")
    assert only("rain\r\n") == PromptLine(1, "rain")


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        ("prompt,Steps\nrain,x\n", "csv", "Steps cannot be 'x'"),
        ("prompt,decoding-steps\nrain,0\n", "csv", "decoding-steps cannot be 0"),
        ('{"prompt": "rain", "spans": "q"}', "jsonl", "spans cannot be 'q'"),
        ('{"prompt": "rain", "max-limiting": 99}', "jsonl", "max-limiting cannot be 99."),
        ('{"prompt": "rain", "duration": -1}', "jsonl", "duration cannot be -1"),
        ('{"prompt": "rain", "preset": "fast", "steps": 3}', "jsonl", "preset and steps both"),
    ],
)
def test_errors_name_the_column_as_the_file_does(data: str, kind: PromptFormat, says: str) -> None:
    """They named the field: whoever wrote a column "steps" did not find decoding_steps in the file."""
    assert bad(data, kind).startswith(says)


class _Endless:
    def read1(self, size: int = -1, /) -> bytes:
        return bytes(size)


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_a_stream_without_lines_is_not_read_for_ever(kind: PromptFormat) -> None:
    """`magnet batch - < /dev/zero` read until it was killed."""
    with pytest.raises(DataError, match="more than 64 MB"):
        list(read_prompts(_Endless(), kind))


def test_devices_are_no_files_of_prompts() -> None:
    with pytest.raises(UsageError, match="is a device"), open_prompts("/dev/zero"):
        pass


def test_utf_16_is_said() -> None:
    """Once: every line after it was also bad because of its NULs."""
    (only,) = lines("lofi piano\nrain\nwind\n".encode("utf-16"))
    assert isinstance(only, BadLine)
    assert "UTF-16" in only.message


def test_a_hundred_thousand_lines() -> None:
    read = lines("lofi piano\n" * 100_000)
    assert len(read) == 100_000
    assert read[-1] == PromptLine(100_000, "lofi piano")


def test_between_nuls_a_prompt_may_hold_lines_and_hashes() -> None:
    assert lines(b"#1 hit,\nloud\0\0rain\0", null=True) == [
        PromptLine(1, "#1 hit, loud"),
        PromptLine(3, "rain"),
    ]
    assert only(b"no end", null=True) == PromptLine(1, "no end")


def test_columns_set_what_a_line_wants() -> None:
    table = (
        "Prompt,out,seed,num,duration,negative,preset,steps,max-cfg-coef,anneal,lufs,bit_depth\n"
        '"rain, loud",a/b.flac,7,2,1.5,voices,,"20,10,10,10",3,no,-20,24\n'
        "wind,,,,,,fast,,,,,\n"
        ",,,,,,,,,,,\n"
        "fire\n"
    )
    first, second, third = lines(table, "csv")
    assert first == PromptLine(
        2, "rain, loud", "a/b.flac", 7, 2, 1.5, "voices", None,
        DecodingConfig(
            decoding_steps=(20, 10, 10, 10), max_cfg_coef=3.0, anneal_temperature=False
        ),
        {"lufs": -20.0, "bit_depth": "24"},
    )  # fmt: skip
    assert second == PromptLine(3, "wind", preset="fast")
    assert third == PromptLine(5, "fire")


def test_tabs_separate_tsv() -> None:
    assert lines('prompt\tseed\n12" remix, loud\t7\n', "tsv") == [
        PromptLine(2, '12" remix, loud', seed=7)
    ]


def test_quoted_values_go_over_lines_and_keep_the_number_of_their_first() -> None:
    read = lines('prompt,seed\n"rain\nand wind",1\nfire,x\n"open,1\nb,2\n', "csv")
    assert read[0] == PromptLine(2, "rain and wind", seed=1)
    assert [line.number for line in read[1:]] == [4, 5]  # type: ignore[attr-defined]
    assert "whole number" in read[1].message  # type: ignore[attr-defined]
    assert "not closed" in read[2].message  # type: ignore[attr-defined]


def test_bad_lines_of_a_table_do_not_spoil_their_neighbours() -> None:
    read = lines(b"prompt,seed\na,1\n\xff,2\nb\0,3\nc,4\nd,5,6\n", "csv")
    good = [line for line in read if isinstance(line, PromptLine)]
    assert [line.prompt for line in good] == ["a", "c"]
    assert [line.number for line in read if isinstance(line, BadLine)] == [3, 4, 6]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("promt,seed", "Did you mean prompt"),
        ("seed,num", "no column named prompt"),
        ("prompt,seed,Seed", "seed occurs twice"),
        ("lofi piano", "The first line must name the columns"),
    ],
)
def test_headers_that_cannot_be_used(header: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        lines(f"{header}\na,1\n", "csv")
    assert message in str(caught.value)
    assert "Line 1" in str(caught.value)


def test_objects_set_what_a_line_wants() -> None:
    line = {
        "prompt": "rain",
        "out": "a.ogg",
        "seed": 3,
        "num": 2,
        "duration": 2,
        "negative": "",
        "steps": [4, 2, 2, 2],
        "use_sampling": False,
        "spans": "stride1",
        "bit_depth": 16,
        "normalize": False,
        "preset": None,
    }
    assert only(json.dumps(line), "jsonl") == PromptLine(
        1, "rain", "a.ogg", 3, 2, 2.0, "", None,
        DecodingConfig(
            decoding_steps=(4, 2, 2, 2), use_sampling=False, span_arrangement="stride1"
        ),
        {"bit_depth": "16", "normalize": False},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"', "not JSON"),
        ('["a"]', "not a JSON object"),
        ('"a"', "not a JSON object"),
        ("{}", "prompt is empty"),
        ('{"prompt": 7}', "a text"),
        ('{"prompt": "a", "sed": 1}', "Did you mean seed"),
        ('{"prompt": "a", "seed": "1"}', "whole number"),
        ('{"prompt": "a", "seed": true}', "whole number"),
        ('{"prompt": "a", "seed": 1.5}', "whole number"),
        ('{"prompt": "a", "seed": -1}', "2^63"),
        ('{"prompt": "a", "seed": 9223372036854775808}', "2^63"),
        (f'{{"prompt": "a", "seed": {"9" * 5000}}}', "hundreds of digits"),
        ('{"prompt": "a", "num": 0}', "1 to 10000"),
        ('{"prompt": "a", "duration": 0}', "above 0"),
        ('{"prompt": "a", "duration": NaN}', "not a finite number"),
        ('{"prompt": "a", "duration": 1e999}', "not a finite number"),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' twice"),
        (f'{{"prompt": "a", "duration": 1{"0" * 400}}}', "hundreds of digits"),
        (f'{{"prompt": "a", "at": [[{"9" * 309}, "b"]]}}', "hundreds of digits"),
        (f'{{"prompt": "a", "region": [[0, {"9" * 309}]]}}', "hundreds of digits"),
        (f'{{"prompt": "a", "at": [[{"9" * 308}, "b"]]}}', "at cannot be"),
        ('{"prompt": "a", "temperature": -1}', "temperature"),
        ('{"prompt": "a", "steps": [1, 2.5]}', "whole numbers"),
        ('{"prompt": "a", "steps": [0]}', "from 1"),
        ('{"prompt": "a", "spans": "x"}', "nonoverlap or stride1"),
        ('{"prompt": "a", "preset": "slow"}', "no preset"),
        ('{"prompt": "a", "preset": "fast", "steps": 3}', "Leave one out"),
        ('{"prompt": "a", "normalize": "yes"}', "true or false"),
        ('{"prompt": "a", "out": ""}', "out is empty"),
        ('{"prompt": "a", "steps": 3, "decoding_steps": 4}', "occurs twice"),
        ('{"prompt": "a\\u0000b"}', "control character"),
        ('{"prompt": "\\ud800"}', "UTF-8"),
        ("[" * 100_000, "more than 64 deep"),
        ('{"prompt": "' + "a" * 30_000 + '"}', "too long"),
    ],
)
def test_objects_that_cannot_be_used(text: str, message: str) -> None:
    said = bad(text, "jsonl")
    assert message in said
    assert len(said) < 700


@pytest.mark.parametrize(
    ("value", "message"),
    [("seed,x", "whole number"), ("duration,nan", "above 0"), ("normalize,maybe", "true or false"),
     ("steps,a b", "whole numbers"), ("bit_depth,12", "16 or 24 or float")],
)  # fmt: skip
def test_values_that_text_cannot_stand_for(value: str, message: str) -> None:
    name, text = value.split(",")
    assert message in bad(f"prompt,{name}\nrain,{text}\n", "csv")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["txt", "csv", "tsv", "jsonl"]), st.booleans())
def test_any_bytes_are_lines_or_errors_with_a_number(
    data: bytes, kind: PromptFormat, header: bool
) -> None:
    if header and kind in ("csv", "tsv"):
        data = b"prompt\n" + data
    try:
        read = lines(data, kind)
    except DataError:
        assert kind in ("csv", "tsv")
        return
    last = data.count(b"\n") + 1
    assert all(1 <= line.number <= last for line in read)  # type: ignore[attr-defined]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30)), st.integers(1, 12), st.randoms(use_true_random=False))
def test_records_do_not_depend_on_how_bytes_arrive(
    parts: list[bytes], longest: int, rng: random.Random
) -> None:
    data = b"\n".join(parts)

    class Dribble(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(rng.randint(1, 7))

    complete = data.split(b"\n")
    if complete[-1] == b"":  # nothing stands behind the last separator
        complete.pop()
    expected = [None if len(part) > longest else part for part in complete]
    assert list(records(Dribble(data), longest=longest)) == expected


def test_formats_follow_the_suffix() -> None:
    names = ["a.txt", "a", "a.CSV", "a.tab", "a.tsv", "a.jsonl", "a.ndjson", "a.prompts"]
    kinds = ["txt", "txt", "csv", "tsv", "tsv", "jsonl", "jsonl", "txt"]
    assert [format_of(name) for name in names] == kinds
    with pytest.raises(UsageError, match="jsonl"):
        format_of("a.json")


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, message in ((str(tmp_path), "folder"), ("no.txt", "no file"), ("a\0b", "null")):
        with pytest.raises(UsageError, match=message), open_prompts(name):
            pass


def test_a_file_is_whole_and_a_fifo_arrives(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("rain\n")
    with open_prompts(str(file)) as source:
        assert source.whole

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    go_on = threading.Event()

    def feed() -> None:
        with fifo.open("w") as end:
            end.write("rain\nwi")
            end.flush()
            go_on.wait(20)
            end.write("nd\n")

    writer = threading.Thread(target=feed)
    writer.start()
    with open_prompts(str(fifo)) as source:
        assert not source.whole
        read = read_prompts(source.stream, "txt")
        assert next(read) == PromptLine(1, "rain")  # while the second line is not yet written
        go_on.set()
        assert list(read) == [PromptLine(2, "wind")]
    writer.join()


@pytest.mark.parametrize(
    "text",
    ["prompt;seed\nlofi, slow;7\n", "prompt\tseed\nlofi, slow\t7\n", "sep=;\nprompt;seed\nlofi, slow;7.0\n",
     'sep=,\r\nprompt,seed\r\n"lofi, slow",7.0\r\n', "\ufeffprompt;seed\nlofi, slow;7,0\n"[:-3] + "\n"],
)  # fmt: skip
def test_csv_as_spreadsheets_write_it(text: str) -> None:
    (line,) = read_prompts(io.BytesIO(text.encode()), "csv")
    assert (line.prompt, line.seed) == ("lofi, slow", 7)


@pytest.mark.parametrize("seed", ["7.5", "7.", ".0", "1e3", "12345678901234567.0"])
def test_what_is_no_whole_number_stays_none(seed: str) -> None:
    (line,) = read_prompts(io.BytesIO(f"prompt,seed\nlofi,{seed}\n".encode()), "csv")
    assert isinstance(line, BadLine)
