"""Fixtures of tests of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from refembed.kernels import threads
from refembed.kernels.fast.thread_pool import spinning_pool


@pytest.fixture
def cores_as_they_were() -> Iterator[None]:
    """A thread pool that is ready; and `threads.use` undone."""
    before = list(threads.chosen)
    spinning_pool.start()
    yield
    threads.chosen[:] = before
    threads.workers.cache_clear()
