"""Finds the shard that this process makes, from the flag or a scheduler's environment variables.

The first that is set decides: SLURM's job arrays, then RANK and WORLD_SIZE (torchrun and others), then the
index of a Kubernetes job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from magnet_cli.batch.jobs import Shard, parse_shard
from magnet_cli.errors import UsageError

_SLURM, _RANK, _KUBERNETES = "SLURM_ARRAY_TASK_ID", "RANK", "JOB_COMPLETION_INDEX"


def shard_of(text: str | None, environment: Mapping[str, str]) -> Shard:
    """Parse `--shard`: "2/8", or "auto" and "auto/8", which read the environment.

    Args:
        text: the flag's value; None: the whole.
        environment: such as os.environ.

    Raises:
        UsageError: the value is not valid, or the environment does not determine the shard.
    """
    asked = re.fullmatch(r"auto(?:/(\d{1,6}))?", (text or "").strip())
    if asked is None:
        return parse_shard(text)
    count = None if asked[1] is None else int(asked[1])
    if count == 0:
        raise UsageError("--shard auto/0 has no parts.", "Give the number of parts: auto/8.")
    if _SLURM in environment:
        number, count = _of_array(environment, count)
    elif _RANK in environment:
        known = _whole(environment, "WORLD_SIZE")
        if None not in (known, count) and known != count:
            raise UsageError(
                f"WORLD_SIZE is {known}, but --shard says {count}.", "Remove the number: auto."
            )
        number, count = _needed(environment, _RANK) + 1, count or known
    elif _KUBERNETES in environment:
        number = _needed(environment, _KUBERNETES) + 1
    else:
        raise UsageError(
            f"--shard auto finds none of {_SLURM}, {_RANK} and {_KUBERNETES}.",
            "Run it under a scheduler that sets one, or give the part: --shard 1/8.",
        )
    if count is None:
        raise UsageError(
            "--shard auto finds which part this is, but not of how many.", "Add it: --shard auto/8."
        )
    return parse_shard(f"{number}/{count}")


def _of_array(environment: Mapping[str, str], count: int | None) -> tuple[int, int]:
    """Number and count for a task of a job array.

    With a given count, the task's number is the shard's, from 1 (or 0 if the array begins there), so that
    single tasks can be run again by number. Otherwise tasks are counted from the first; their numbers must
    then have equal gaps.
    """
    index = _needed(environment, _SLURM)
    first = _whole(environment, "SLURM_ARRAY_TASK_MIN")
    if count is not None:
        return index + (first == 0 or index == 0), count
    last = _whole(environment, "SLURM_ARRAY_TASK_MAX")
    tasks = _whole(environment, "SLURM_ARRAY_TASK_COUNT")
    if first is None or last is None or not tasks:
        raise UsageError(
            f"{_SLURM} is set, but not the array's size.", "Give the number of parts: auto/8."
        )
    step, rest = divmod(last - first, max(1, tasks - 1))
    if rest or (step == 0) != (tasks == 1) or (index - first) % max(1, step):
        raise UsageError(
            f"The array's {tasks} tasks from {first} to {last} have unequal gaps.",
            f"Number them without gaps (--array=1-{tasks}), or give the number of parts: auto/8.",
        )
    return (index - first) // max(1, step) + 1, tasks


def _whole(environment: Mapping[str, str], name: str) -> int | None:
    """A whole number from the environment, or None if it is not set.
    Raises UsageError: it is set to something else."""
    text = environment.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise UsageError(f"{name} is {text[:40]!r}, which is not a number.", "Give the part: 1/8.")
    return int(text)


def _needed(environment: Mapping[str, str], name: str) -> int:
    found = _whole(environment, name)
    assert found is not None
    return found
