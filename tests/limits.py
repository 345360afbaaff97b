"""A time limit: a test that waits for ever fails, and says where it waits.

Every test has one (`pytest_runtest_call` in conftest.py): `USUAL` seconds, `LONG` where its marker says that it takes
minutes, or those of `@pytest.mark.limit(seconds)`, which stands on tests that kill processes.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

USUAL, LONG = 900.0, 7200.0  # seconds: far above what any test takes on a busy machine
AGAIN = 60.0  # seconds to the next alarm, where what ends the test waits for ever as well
LONG_MARKERS = ("slow", "attack", "peers")


def limit_of(item: pytest.Item) -> float:
    """Seconds that a test may take."""
    if (marker := item.get_closest_marker("limit")) is not None:
        return float(marker.args[0])
    return LONG if any(item.get_closest_marker(name) for name in LONG_MARKERS) else USUAL


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Fail where the block takes longer. Only in the main thread, and where the system has alarms: Windows has none."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def too_long(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"it takes longer than {seconds:g} s")  # the traceback shows where it waits

    began, before = time.monotonic(), signal.signal(signal.SIGALRM, too_long)
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left and max(left - (time.monotonic() - began), 0.001), again)
        signal.signal(signal.SIGALRM, before)
