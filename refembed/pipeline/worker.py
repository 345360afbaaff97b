"""A process of `refembed.pipeline.processes`: it loads a model, and computes vectors of token ids; or it tokenizes.

stdin      a function with its arguments, once, which returns what computes; then arguments of that
stdout     for each of them (result, error), one of the two None

The end of stdin ends it: also that of the process which started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from refembed.errors import RefembedError
from refembed.pipeline.messages import receive, send


def main() -> None:
    """Answer until the end of stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    source, target = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may write among the messages
    compute: Callable[..., Any] | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request, result = receive(source), None
            error: Exception | None = None
            try:
                if compute is None:
                    load, *arguments = request
                    compute = load(*arguments)
                else:
                    result = compute(*request)
            except RefembedError as e:
                error = e
            except Exception:
                error = RuntimeError(f"a process of the pool failed:\n{traceback.format_exc()}")
            send(target, (result, error))
            del request, result


def load_vectors(load: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """What computes vectors, as `Embedder.vectors` does, with the Embedder that a function loads."""
    embedder = load(*arguments)

    def vectors(*request: Any) -> Any:
        found = embedder.vectors(*request)
        return np.stack(found) if found and found[0].ndim == 1 else found  # one buffer, not hundreds

    return vectors
