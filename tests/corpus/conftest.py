"""The worker that runs what the corpus asks for: one a module, after one import."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.corpus.runner import Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as made:
        yield made
