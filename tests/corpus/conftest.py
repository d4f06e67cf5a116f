"""A worker that runs the corpus's commands: one per module, with a single import."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.corpus.runner import Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as made:
        yield made
