"""How long /health takes while something else happens. `watched` measures; run as a program this file asks.

The program is a process of its own, so that what the test sends does not hold it up: it asks on a new connection every
20 ms until its stdin ends, then writes what it found as one line of JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

PAUSE = 0.02  # seconds between two questions
TIMEOUT = 60


@dataclass
class Found:
    """Seconds, once the block is left."""

    asked: int = 0
    failed: int = 0  # no answer, or none with status 200
    median: float = 0.0
    slowest: float = 0.0


@contextlib.contextmanager
def watched(address: str) -> Iterator[Found]:
    """Ask while the block runs; what was found is filled in at its end."""
    found = Found()
    with subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        assert asking.stdout.readline() == b"begun\n"
        try:
            yield found
        finally:
            asking.stdin.close()
            vars(found).update(json.loads(asking.stdout.readline()))


def main() -> None:
    at, over = urlsplit(sys.argv[1]), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    took, failed = [], 0
    while not took or not over.is_set():
        begin = time.monotonic()
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=TIMEOUT)
        try:
            connection.request("GET", "/health")
            failed += connection.getresponse().status != 200
        except OSError:
            failed += 1
        finally:
            connection.close()
        took.append(time.monotonic() - begin)
        if len(took) == 1:
            print("begun", flush=True)
        time.sleep(PAUSE)
    found = {"asked": len(took), "failed": failed, "median": statistics.median(took), "slowest": max(took)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
