"""Which shard of a batch this process makes: said, or read from what a cluster's scheduler sets.

Who is asked first: SLURM's job arrays, then RANK and WORLD_SIZE (torchrun and others), then the index of
a Kubernetes job. The first that is set decides alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from magnet_cli.batch.jobs import Shard, parse_shard
from magnet_cli.errors import UsageError

_SLURM, _RANK, _KUBERNETES = "SLURM_ARRAY_TASK_ID", "RANK", "JOB_COMPLETION_INDEX"


def shard_of(text: str | None, environment: Mapping[str, str]) -> Shard:
    """What `--shard` asks for: "2/8"; "auto" and "auto/8" ask the environment.

    Args:
        text: None: the whole.
        environment: such as os.environ.

    Raises:
        UsageError: it is anything else, or the environment does not say it.
    """
    asked = re.fullmatch(r"auto(?:/(\d{1,6}))?", (text or "").strip())
    if asked is None:
        return parse_shard(text)
    count = None if asked[1] is None else int(asked[1])
    if count == 0:
        raise UsageError("--shard auto/0 has no parts.", "Say how many there are: auto/8.")
    if _SLURM in environment:
        number, count = _of_array(environment, count)
    elif _RANK in environment:
        known = _whole(environment, "WORLD_SIZE")
        if None not in (known, count) and known != count:
            raise UsageError(
                f"WORLD_SIZE is {known}, and --shard says {count}.", "Leave the number out: auto."
            )
        number, count = _needed(environment, _RANK) + 1, count or known
    elif _KUBERNETES in environment:
        number = _needed(environment, _KUBERNETES) + 1
    else:
        raise UsageError(
            f"--shard auto finds none of {_SLURM}, {_RANK} and {_KUBERNETES}.",
            "Run it by a scheduler that sets one, or say the part: --shard 1/8.",
        )
    if count is None:
        raise UsageError(
            "--shard auto finds which part this is, but not of how many.", "Say it: --shard auto/8."
        )
    return parse_shard(f"{number}/{count}")


def _of_array(environment: Mapping[str, str], count: int | None) -> tuple[int, int]:
    """Number and count of a task of a job array.

    Where the count is said, the task's number is the shard's, from 1 (from 0 where the array begins
    there), so that some tasks of an array can be run again by their numbers. Otherwise tasks are counted
    from the first on; numbers that leave gaps of unequal width do not say how many come before.
    """
    index = _needed(environment, _SLURM)
    first = _whole(environment, "SLURM_ARRAY_TASK_MIN")
    if count is not None:
        return index + (first == 0 or index == 0), count
    last = _whole(environment, "SLURM_ARRAY_TASK_MAX")
    tasks = _whole(environment, "SLURM_ARRAY_TASK_COUNT")
    if first is None or last is None or not tasks:
        raise UsageError(
            f"{_SLURM} is set, but not the array's size.", "Say how many parts there are: auto/8."
        )
    step, rest = divmod(last - first, max(1, tasks - 1))
    if rest or (step == 0) != (tasks == 1) or (index - first) % max(1, step):
        raise UsageError(
            f"The array's {tasks} tasks from {first} to {last} leave gaps of unequal width.",
            f"Number them without gaps (--array=1-{tasks}), or say how many parts there are: auto/8.",
        )
    return (index - first) // max(1, step) + 1, tasks


def _whole(environment: Mapping[str, str], name: str) -> int | None:
    """A whole number of the environment; None where it is not set.

    Raises:
        UsageError: it is set to something else.
    """
    text = environment.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise UsageError(f"{name} is {text[:40]!r}, which is not a number.", "Say the part: 1/8.")
    return int(text)


def _needed(environment: Mapping[str, str], name: str) -> int:
    found = _whole(environment, name)
    assert found is not None
    return found
