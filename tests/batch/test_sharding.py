"""Which shard a process makes, from the environment variables of schedulers."""

from __future__ import annotations

import pytest

from magnet_cli.batch.jobs import Shard
from magnet_cli.batch.sharding import shard_of
from magnet_cli.errors import UsageError


def array(index: int, first: int, last: int, count: int) -> dict[str, str]:
    names = ("ID", "MIN", "MAX", "COUNT")
    values = (index, first, last, count)
    return {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("2/8", array(1, 1, 4, 4), (2, 8)),  # an explicit value takes precedence
        ("auto", array(1, 1, 4, 4), (1, 4)),
        ("auto", array(0, 0, 3, 4), (1, 4)),
        ("auto", array(3, 0, 3, 4), (4, 4)),
        ("auto", array(7, 1, 10, 4), (3, 4)),  # --array=1-10:3
        ("auto", array(8, 4, 8, 2), (2, 2)),  # --array=4,8
        ("auto", array(5, 5, 5, 1), (1, 1)),
        ("auto/8", array(3, 3, 7, 2), (3, 8)),  # two of eight tasks, again
        ("auto/8", array(0, 0, 7, 8), (1, 8)),
        ("auto/8", array(7, 0, 7, 8), (8, 8)),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "8"}, (8, 8)),
        ("auto", {"RANK": "0", "WORLD_SIZE": "2"}, (1, 2)),
        ("auto/2", {"RANK": "1", "WORLD_SIZE": "2"}, (2, 2)),
        ("auto/2", {"RANK": "1"}, (2, 2)),
        (" auto/16 ", {"JOB_COMPLETION_INDEX": "15"}, (16, 16)),
        ("auto", {**array(1, 1, 4, 4), "RANK": "1", "WORLD_SIZE": "9"}, (1, 4)),
        ("auto", {"RANK": "1", "WORLD_SIZE": "9", "JOB_COMPLETION_INDEX": "5"}, (2, 9)),
    ],
)
def test_the_first_that_is_set_decides(
    text: str, environment: dict[str, str], shard: tuple[int, int]
) -> None:
    assert shard_of(text, environment) == Shard(*shard)


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("step", [1, 3])
def test_the_tasks_of_an_array_are_its_shards(first: int, count: int, step: int) -> None:
    last = first + (count - 1) * step
    tasks = [array(index, first, last, count) for index in range(first, last + 1, step)]
    assert [shard_of("auto", task).number for task in tasks] == [*range(1, count + 1)]


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("auto", {}, "finds none of SLURM_ARRAY_TASK_ID, RANK and JOB_COMPLETION_INDEX"),
        ("auto/8", {}, "finds none of"),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "not of how many"),
        ("auto", {"RANK": "3"}, "not of how many"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3"}, "not the array's size"),
        ("auto", array(2, 1, 9, 3), "unequal gaps"),
        ("auto", array(1, 1, 9, 4), "unequal gaps"),
        ("auto/3", {"RANK": "1", "WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but --shard says 3"),
        ("auto/3", {"JOB_COMPLETION_INDEX": "3"}, "There is no shard 4 of 3"),
        ("auto/2", array(3, 1, 8, 8), "There is no shard 3 of 2"),
        ("auto/0", {"RANK": "1"}, "has no parts"),
        ("auto", {"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ("auto", {"RANK": "1", "WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ("auto/x", {"RANK": "1"}, "--shard cannot be"),
    ],
)
def test_what_is_not_known_is_refused(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shard_of(text, environment)
