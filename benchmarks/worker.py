"""One engine in a process of its own: JSON lines in, JSON lines out.

    {"do": "open", "engine": "refembed", "options": {...}}    -> {"seconds": 0.2, "about": {...}}
    {"do": "give", "row": "256x32", "ids": [[101, ...], ...]} -> {"ways": ["flash off, batch 512", ...]}
    {"do": "run", "row": "256x32", "way": "...", "least": 0.1} -> {"seconds": 0.9, "repeats": 1}: of one run
    {"do": "vectors", "row": "256x32", "way": "..."}          -> {"shape": [256, 384], "float32": base64}
    {"do": "job", "name": "growth", "options": {...}}         -> whatever `jobs` gives

The clock runs round the computation only: texts have been read, and a peer's padded tensors or batches made, before it
starts. Between requests the process waits for its next line, asleep. What libraries print goes to stderr. An exception
is answered as {"error": "one sentence"}; at the end of its input the process ends.

Engines of other packages run in other interpreters, so nothing here imports refembed.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Ids = list[list[int]]


def timed(run: Callable[[], Any], least: float) -> tuple[float, int]:
    """Seconds of one run, in the mean of as many as fill `least` seconds; and how many that were."""
    repeats, start = 0, time.perf_counter()
    while True:
        run()
        repeats += 1
        passed = time.perf_counter() - start
        if passed >= least:
            return passed / repeats, repeats


class Session:
    """What a worker holds: its engine, the rows, and the thing to run of the row and way that was last asked for."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.rows: dict[str, Ids] = {}
        self.ready: tuple[str, str, Callable[[], Any]] | None = None

    def open(self, engine: str, options: dict[str, Any]) -> dict[str, Any]:
        make = getattr(importlib.import_module("benchmarks.engines"), engine)
        start = time.perf_counter()
        self.engine = make(**options)
        return {"seconds": time.perf_counter() - start, "about": self.engine.about}

    def give(self, row: str, ids: Ids) -> dict[str, Any]:
        """Texts of a row; those given before under that name are forgotten."""
        self.rows[row] = ids
        self.ready = None
        return {"ways": self.engine.ways(ids)}

    def prepared(self, row: str, way: str) -> Callable[[], Any]:
        """The thing to run. Only one is kept: an engine may hold gigabytes for each (llama.cpp, a decoder's logits)."""
        if self.ready is None or self.ready[:2] != (row, way):
            self.ready = row, way, self.engine.prepare(self.rows[row], way)
        return self.ready[2]

    def run(self, row: str, way: str, least: float) -> dict[str, Any]:
        seconds, repeats = timed(self.prepared(row, way), least)
        return {"seconds": seconds, "repeats": repeats}

    def vectors(self, row: str, way: str) -> dict[str, Any]:
        """What it computes, in the order of the texts."""
        import numpy as np

        x = np.ascontiguousarray(np.stack(list(self.prepared(row, way)())), np.float32)
        return {"shape": list(x.shape), "float32": base64.b64encode(x.tobytes()).decode()}

    def job(self, name: str, options: dict[str, Any]) -> Any:
        return getattr(importlib.import_module("benchmarks.jobs"), name)(**options)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        do = request.pop("do", None)
        if do not in ("open", "give", "run", "vectors", "job"):
            return {"error": f"no such request: {do!r}"}
        try:
            return {"value": getattr(self, do)(**request)}
        except BaseException as e:
            said = " ".join(str(e).split())
            return {"error": f"{type(e).__name__}: {said:.500}", "absent": isinstance(e, ImportError)}


def main() -> None:
    """Serve until stdin ends."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what libraries print does not come between our lines
        session = Session()
        for line in sys.stdin:
            out.write(json.dumps(session.answer(json.loads(line))) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
