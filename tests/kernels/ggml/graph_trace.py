"""Attention inside live graphs: what llama.cpp gave to every layer's attention, and what it made of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refembed.model.trace import Trace, TracedTensor
from refembed.verify.engines.llamacpp_wire import receive, send

NAMES = ("kq", "kq_scaled_1", "kq_tanh", "kq_scaled_2", "kq_soft_max", "v_cont", "kqv")


class Layer(NamedTuple):
    """One layer's attention: inputs q (T, H D), k, v (T, K D), and every tensor up to kqv_out (T, H D) by name."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    shown: dict[str, np.ndarray]


def layers(trace: Any) -> Iterator[Layer]:
    """The layers of a trace in order."""
    nodes, taps, T = trace.meta["nodes"], trace.tensors, len(trace.meta["tokens"])
    for i, tap in enumerate(taps):
        if not (tap.name.startswith("kq-") or tap.op == "FLASH_ATTN_EXT"):
            continue
        out = next(t for t in taps[i:] if t.name.startswith("kqv_out-"))
        il = out.name.split("-")[1]
        query = nodes[i]["sources"][0 if tap.op == "FLASH_ATTN_EXT" else 1]  # kq = ggml_mul_mat(k, q)
        inputs = [taps[nodes[query]["view_of"]].array]
        inputs += [[t.array for t in taps[:i] if t.name == f"{x}cur-{il}"][-1] for x in "KV"]
        shown = {n: trace[f"{n}-{il}"] for n in NAMES if f"{n}-{il}" in trace} | {"kqv_out": out.array}
        yield Layer(*(x.reshape(T, -1) for x in inputs), shown)


def traced_together(path: Path, flash_attn: bool, texts: Sequence[list[int]]) -> Trace:
    """The trace of several texts, token ids, in one llama_decode: the engine itself traces one text at a time."""
    root = os.fspath(Path(__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, env=env
    ) as worker:
        send(worker.stdin, (os.fspath(path), flash_attn, [list(t) for t in texts]))
        nodes = receive(worker.stdout)
    ids = [i for text in texts for i in text]
    return Trace([TracedTensor(n["name"], n["array"], n["op"]) for n in nodes], {"nodes": nodes, "tokens": ids})


def main() -> None:
    """In the worker: answer one request."""
    from refembed.verify.engines.llamacpp import LlamaCpp
    from refembed.verify.engines.llamacpp_worker import Session

    path, flash_attn, texts = receive(sys.stdin.buffer)
    with LlamaCpp(None) as engine:  # for its defaults
        options = {**engine.options, "path": path, "flash_attn": flash_attn, "pooling": "none"}
    session = Session(options)
    session.run(session.context(watched=True), texts)
    send(sys.stdout.buffer, session.graph.nodes)


if __name__ == "__main__":
    main()
