"""The cores of this process, and how kernels share them: rows begin:end each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

WORTH_SHARING = 1 << 18  # elements; below this a second core costs more to wake than it saves


@cache
def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def workers() -> ThreadPoolExecutor:
    """One thread a core, made when first needed. Kernels release the GIL."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="refembed")


def share(kernel: Callable[..., Any], *arguments: Any, rows: int, size: int) -> None:
    """Run kernel(*arguments, begin, end) over rows 0:rows, in as many parts as there are cores where it is worth it."""
    parts = min(cores(), rows) if size >= WORTH_SHARING else 1
    if parts == 1:
        kernel(*arguments, 0, rows)
        return
    edges = [rows * i // parts for i in range(parts + 1)]
    jobs = [workers().submit(kernel, *arguments, a, b) for a, b in itertools.pairwise(edges)]
    for job in jobs:
        job.result()
