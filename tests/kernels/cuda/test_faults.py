"""Kernels with faults: what stands in for a GPU notices races, threads that do not meet, and memory not one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.kernels.cuda.launch import source_text
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.ops import AttentionMask, AttentionSpec
from tests.kernels.cuda.on_cpu import OnCpu
from tests.kernels.longhand import random, stored

X, W = random(1, 70, 40), random(2, 70, 40)
OFFSETS = np.array([0, 37, 70])


def linear(ops: Cupy) -> Any:
    return ops.linear(X, stored(W))


def few(ops: Cupy) -> Any:
    return ops.linear(X[:5], stored(W))


def attention(ops: Cupy) -> Any:
    return ops.attention(X, W, -W, AttentionSpec(4, 4, 0.3, AttentionMask(causal=True)), OFFSETS)


def norm(ops: Cupy) -> Any:
    return ops.layer_norm(X, stored(W[0]), None, 1e-5)


def delta(ops: Cupy) -> Any:
    gate = 1 / (1 + X[:, :4] ** 2)
    return ops.gated_delta_rule(X / 9, W / 9, X, -gate, gate, OFFSETS)


OPERATIONS = {"matmul": linear, "attention": attention, "norms": norm, "recurrent": delta}


def run(operation: Any, built: Path, *, descending: bool = False, changed: dict[str, str] | None = None) -> Any:
    """The result of an operation, each time on a new device."""
    return np.asarray(operation(Cupy(OnCpu(built, descending=descending, changed=changed))))


def with_fault(source: str, text: str, fault: str, count: int = 1) -> dict[str, str]:
    """A source with one thing in it written otherwise; `count` says how often it stands there, all of them change."""
    whole = source_text(source)
    assert whole.count(text) == count
    return {source: whole.replace(text, fault)}


@pytest.mark.parametrize("operation", [*OPERATIONS.values(), few], ids=lambda f: f.__name__)
def test_the_order_of_threads_changes_no_bits(built: Path, operation: Any) -> None:
    assert run(operation, built).tobytes() == run(operation, built, descending=True).tobytes()


BARRIER, UNROLLED = "__syncthreads();", "#pragma unroll 4\n            for"
SLOW = pytest.mark.slow  # attention takes seconds to compile
RACES = [
    ("matmul", f"        {BARRIER}\n        int deep", "        int deep", 1),  # read before it is written
    ("matmul", f"        {BARRIER}\n    }}\n#pragma", "    }\n#pragma", 1),  # written while it is read
    ("attention", f"            {BARRIER}  // what was in the chunk has been read\n", "", 1),
    pytest.param("attention", f"            {BARRIER}\n{UNROLLED} (int d", f"{UNROLLED} (int d", 1, marks=SLOW),
    pytest.param("attention", f"            {BARRIER}\n{UNROLLED} (int key", f"{UNROLLED} (int key", 1, marks=SLOW),
]


@pytest.mark.parametrize(("source", "text", "fault", "count"), RACES)
def test_a_missing_barrier_is_noticed(built: Path, source: str, text: str, fault: str, count: int) -> None:
    changed, sound = with_fault(source, text, fault, count), run(OPERATIONS[source], built)
    both = [run(OPERATIONS[source], built, descending=d, changed=changed).tobytes() for d in (False, True)]
    assert both != [sound.tobytes()] * 2


def test_threads_that_do_not_meet_end_the_launch(built: Path) -> None:
    text = "        __syncthreads();\n        int deep"
    changed = with_fault("matmul", text, "        if (threadIdx.x < 32) __syncthreads();\n        int deep")
    with pytest.raises(RuntimeError, match="kernel matmul: threads of a block do not meet"):
        run(linear, built, changed=changed)
    changed = with_fault("norms", "    double squares = 0;\n    for (int i = lane_number(); i < n; i += WARP) {",
                         "    if (lane_number() == 3) return;\n    double squares = 0;\n"
                         "    for (int i = lane_number(); i < n; i += WARP) {")  # fmt: skip
    with pytest.raises(RuntimeError, match="kernel layer_norm: threads of a block do not meet"):
        run(norm, built, changed=changed)


def test_writing_outside_of_an_array_is_noticed(built: Path) -> None:
    changed = with_fault("matmul", "if (row < T && column < N)", "if (row < T && column <= N)")
    with pytest.raises(AssertionError, match="a kernel wrote outside of its arrays"):
        run(lambda ops: ops.linear(X[:, :39], stored(W[:, :39])), built, changed=changed)


def test_reading_what_nothing_wrote_is_noticed(built: Path) -> None:
    """A text's last key left out of shared memory's reach: what is there is not a number."""
    changed = with_fault("norms", "to[i] = w ? y * w[group + i] : y;", "if (i > 0) to[i] = w ? y * w[group + i] : y;")
    got = run(lambda ops: ops.rms_norm(X, stored(W[0]), 1e-5), built, changed=changed)
    assert np.isnan(got[:, 0]).all()


WRONG = [
    ("norms", "float mean = (float)(warp_sum(sum) / n);", "float mean = (float)(warp_sum(sum) / (n - 1));", 1),
    ("attention", "float kept = most[r] == larger ? 1.0f : expf(most[r] - larger);", "float kept = 1.0f;", 1),
    pytest.param("attention", "*end = causal ? i + 1 : n;", "*end = causal ? i : n;", 1, marks=SLOW),
    ("matmul", "fmaf(a[i], b[j], sums[i][j])", "a[i] * b[j] + sums[i][j]", 1),
    ("recurrent", "change = beta[t * heads + h] * (v", "change = (v", 1),
]  # fmt: skip


@pytest.mark.parametrize(("source", "text", "fault", "count"), WRONG)
def test_a_wrong_formula_changes_the_result(built: Path, source: str, text: str, fault: str, count: int) -> None:
    """What the tests of operations compare with formulas does depend on each of these."""
    changed = with_fault(source, text, fault, count)
    assert run(OPERATIONS[source], built).tobytes() != run(OPERATIONS[source], built, changed=changed).tobytes()
