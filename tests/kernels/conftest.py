"""Fixtures of tests of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from refembed.kernels import threads
from refembed.kernels.fast.thread_pool import crew


@pytest.fixture
def cores_as_they_were() -> Iterator[None]:
    """A crew that is formed; and `threads.use` undone."""
    before = list(threads.chosen)
    crew.form()
    yield
    threads.chosen[:] = before
    threads.workers.cache_clear()
