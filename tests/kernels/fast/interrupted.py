"""A process that is interrupted while it computes: `python -m tests.kernels.fast.interrupted MODEL COUNT`.

It embeds texts until COUNT signals have come, each of which raises KeyboardInterrupt as Ctrl-C does, and holds what it
gets against what it got before the first. In the end it prints what is left of the interruptions.
"""

from __future__ import annotations

import contextlib
import faulthandler
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from refembed import Embedder
from refembed.kernels import threads
from refembed.kernels.fast.task_slot import OWNER, WORKERS
from refembed.kernels.fast.thread_pool import spinning_pool

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hello", "world"]


def main() -> None:
    """Compute, be interrupted, compute again."""
    threads.use(2)
    e, count, wrong, seen = Embedder.load(sys.argv[1]), int(sys.argv[2]), 0, 0
    rng = random.Random(3)
    texts = [[" ".join(rng.choice(WORDS) for _ in range(n))] for n in (3, 20, 40)]
    texts.append([t[0] for t in texts] * 8)  # dealt to the cores
    spinning_pool.start()
    for _ in range(20):
        want = [e.embed(some).tobytes() for some in texts]

    def interrupt(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen < count:
            raise KeyboardInterrupt

    def compute() -> None:
        nonlocal wrong
        while seen < count:
            for some, expected in zip(texts, want, strict=True):
                wrong += e.embed(some).tobytes() != expected

    def again(what: Callable[[], None]) -> Callable[[], None]:
        def do() -> None:
            while seen < count:
                with contextlib.suppress(KeyboardInterrupt):
                    what()

        return do

    signal.signal(signal.SIGINT, interrupt)
    print("ready", flush=True)
    again(again(again(compute)))()  # a signal may come in the gaps of one loop, not in those of three at once
    print("enough", flush=True)
    faulthandler.dump_traceback_later(20, exit=True)
    wrong += sum(e.embed(some).tobytes() != expected for some, expected in zip(texts, want, strict=True))
    e.embed(texts[1])
    while spinning_pool.slot[WORKERS]:  # they go when they have found nothing
        time.sleep(0.001)
    awake = sum(t.is_alive() for t in threading.enumerate())
    print(seen, wrong, spinning_pool.slot[OWNER], spinning_pool.kept, awake <= 3, flush=True)


if __name__ == "__main__":
    main()
