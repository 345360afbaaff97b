"""Print a trace as llama.cpp's eval-callback prints a run: names, shapes, six numbers of an axis, the sum.

Written after common_debug_cb_eval and common_debug_print_tensor of common/debug.cpp. It prints live llama.cpp's own
tensors; data/eval-callback-tiny.txt.gz, which the original printed, shows that the two print the same lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refembed.model.trace import Trace

PRINTED = ("f32", "f16", "bf16", "i8", "i16", "i32", "i64")


def printed(trace: Trace, prompt: bool = False) -> str:
    """The whole text. prompt: with the text and ids behind it, as llama-debug writes them."""
    lines = [line for i in range(len(trace)) for line in tensor_lines(trace, i)]
    if prompt:
        pieces = "".join(f"x({i}) " for i in trace.meta["tokens"])
        lines += [f'Input prompt: "{trace.meta["text"]}"', f"Token ids ({len(trace.meta['tokens'])}):", pieces]
    return "\n".join(lines) + "\n"


def tensor_lines(trace: Trace, i: int) -> Iterator[str]:
    """One tensor."""
    tap, node = trace.tensors[i], trace.meta["nodes"][i]
    sources = [source(trace, s) for s in node["sources"][:2]] + ["", ""]
    inside = f"{sources[0]}, {sources[1]}}}"
    yield f"common_debug_cb_eval: {tap.name:>24} = ({node['type']}) {tap.op:>10}({inside}) = {{{ne(tap.array)}}}"
    if node["type"] not in PRINTED:
        return
    x = np.asarray(tap.array, np.float32)
    x = x.reshape((1,) * (4 - x.ndim) + x.shape)
    total = float(np.cumsum(x.ravel(), dtype=np.float32)[-1]) if x.size else 0.0
    for block in x:
        yield "    ["
        for matrix in ends(block):
            yield "        ..., " if matrix is None else "        ["
            if matrix is not None:
                for row in ends(matrix):
                    yield "            ..., " if row is None else f"            [{row_text(row)}  ],"
                yield "        ],"
        yield "    ]"
        yield f"    sum = {total:.6f}"


def ends(x: Any) -> list[Any]:
    """The first and last three places, None between them."""
    return list(x) if len(x) <= 6 else [*x[:3], None, *x[-3:]]


def row_text(row: Any) -> str:
    """Numbers of the last axis."""
    parts = [row] if len(row) <= 6 else [row[:3], row[-3:]]
    return ",    ..., ".join(", ".join(f"{v:12.4f}" for v in part) for part in parts)


def ne(x: Any) -> str:
    """Sizes, the fastest first, four of them."""
    return ", ".join(map(str, [*x.shape[::-1], *[1] * (4 - x.ndim)]))


def source(trace: Trace, s: Any) -> str:
    """A source as the printer shows it."""
    return f"{trace.tensors[s].name}{{{ne(trace.tensors[s].array)}}}" if isinstance(s, int) else f"{s}{{1, 1, 1, 1}}"
