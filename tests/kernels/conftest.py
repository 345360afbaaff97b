"""Fixtures of tests of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from refembed.kernels import blas, threads
from refembed.kernels.fast.thread_pool import spinning_pool


@pytest.fixture
def cores_as_they_were() -> Iterator[None]:
    """A thread pool that is ready; and `threads.use` undone."""
    before, blas_before = list(threads.chosen), list(blas.chosen)
    spinning_pool.start()
    yield
    blas.limit(blas_before[0] if blas_before else threads.available())
    threads.chosen[:], blas.chosen[:] = before, blas_before
    threads.workers.cache_clear()
