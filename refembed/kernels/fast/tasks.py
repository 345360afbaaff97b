"""Compiled code that runs tasks: every kernel that the thread pool may dispatch, and what its workers do.

Each such kernel is listed in KERNELS with the types of its arguments. `work` contains calls of all of them: loading it
takes 50 ms, and compiling it the first time takes seconds, so the pool imports this module when a process has shown
that it has work to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
from numba import types

from refembed.kernels.fast import also_rounding, attention_bfloat16, decoder, elementwise, recurrent
from refembed.kernels.fast import attention as fast_attention
from refembed.kernels.fast.task_slot import ALL, ARGUMENTS, DONE, GRAIN, KERNEL, LEFT, ROWS, WORDS, WORKERS, done
from refembed.kernels.llvm import bfloat16, gemm, integer
from refembed.kernels.llvm.atomics import add, getter, pause, publish, replace, seen
from refembed.kernels.llvm.jit import njit, out_of_line

SPINS_PER_PAUSE = 64  # looks from one pause to the next: many pauses in a row make a virtual machine stop the core

i = types.int64
f1, f2, f3 = (types.Array(types.float32, n, "C") for n in (1, 2, 3))
codes, halves = types.Array(types.int8, 3, "C"), types.Array(types.int16, 3, "C")
words = types.Array(types.int32, 3, "C")
places = types.Array(types.int64, 1, "C")


class Kernel(NamedTuple):
    """What `run_kernel` must know of a kernel."""

    arguments: Any  # their types, without `begin, end`; activations are the arrays of two dimensions
    results: int = 1  # how many of its last matrices it fills


PRODUCT = types.Tuple((f2, f3, f1, f2, i))
CODES = types.Tuple((f2, words, i, i, f1, f2, i, i))
ATTENTION = types.Tuple((f2, f2, f2, i, i, places, types.float32, types.boolean, i, i, types.float32, f1, f3, f1, f2))
NORM_AND_CODES = types.Tuple((f2, f2, f1, f1, types.float64, f2, f2))
ONE, TWO = types.Tuple((f2, f2)), types.Tuple((f2, f2, f2))
KERNELS: dict[Any, Kernel] = {  # every kernel that may be dispatched: an entry is all that a new one needs
    gemm.by_rows: Kernel(PRODUCT),
    gemm.by_panels: Kernel(PRODUCT),
    gemm.by_f16: Kernel(types.Tuple((f2, halves, f1, f2))),
    gemm.by_q8: Kernel(types.Tuple((f2, codes, f3, f1, f2))),
    gemm.three_by_panels: Kernel(types.Tuple((f2, *[f3] * 3, *[f1] * 3, *[f2] * 3)), results=3),
    gemm.three_by_f16: Kernel(types.Tuple((f2, *[halves] * 3, *[f1] * 3, *[f2] * 3)), results=3),
    gemm.three_by_q8: Kernel(types.Tuple((f2, *[codes] * 3, *[f3] * 3, *[f1] * 3, *[f2] * 3)), results=3),
    integer.quantize8: Kernel(ONE),
    integer.quantize16: Kernel(ONE),
    integer.product8: Kernel(CODES),
    integer.product16: Kernel(CODES),
    bfloat16.round_pairs: Kernel(ONE),
    bfloat16.product_bf16: Kernel(types.Tuple((f2, words, f1, f2, i, i))),
    fast_attention.attention: Kernel(ATTENTION),
    attention_bfloat16.attention: Kernel(ATTENTION),
    elementwise.layer_norm: Kernel(types.Tuple((f2, f2, f1, f1, types.float64, f2))),
    elementwise.rms_norm: Kernel(types.Tuple((f2, f1, types.float64, f2))),
    elementwise.gelu: Kernel(ONE),
    also_rounding.layer_norm8: Kernel(NORM_AND_CODES, results=2),
    also_rounding.layer_norm16: Kernel(NORM_AND_CODES, results=2),
    also_rounding.layer_norm_pairs: Kernel(NORM_AND_CODES, results=2),
    also_rounding.gelu8: Kernel(TWO, results=2),
    also_rounding.gelu16: Kernel(TWO, results=2),
    also_rounding.gelu_pairs: Kernel(TWO, results=2),
    decoder.gelu_erf: Kernel(ONE),
    decoder.silu: Kernel(ONE),
    decoder.relu: Kernel(ONE),
    decoder.geglu: Kernel(TWO),
    decoder.swiglu: Kernel(TWO),
    decoder.swiglu_oai: Kernel(TWO),
    decoder.add: Kernel(TWO),
    decoder.multiply: Kernel(TWO),
    decoder.scale: Kernel(types.Tuple((f2, types.float32, f2))),
    decoder.columns: Kernel(types.Tuple((f2, i, f2))),
    decoder.rope: Kernel(types.Tuple((f2, places, f3, i, i, i, f2))),
    decoder.sigmoid: Kernel(ONE),
    decoder.add_bias: Kernel(types.Tuple((f2, f1, f2))),
    recurrent.add_scaled: Kernel(types.Tuple((f2, f2, f1, f2))),
    recurrent.log_decay: Kernel(types.Tuple((f2, f1, f1, f2))),
    recurrent.short_conv: Kernel(types.Tuple((f2, f3, f1, i, places, f2))),
    recurrent.gated_delta_rule: Kernel(types.Tuple((*[f2] * 5, i, places, f2))),
    recurrent.scan_of_heads: Kernel(types.Tuple((f2, f2, f1, f2, f2, i, places, f2, f2)), results=2),
    recurrent.scan_of_states: Kernel(types.Tuple((f2, f2, f3, f2, f2, i, places, f2, f2)), results=2),
    recurrent.wkv7: Kernel(types.Tuple((*[f2] * 6, i, places, f2, f2)), results=2),
}
KERNEL_NUMBERS = {kernel: number for number, kernel in enumerate(KERNELS)}


def one_of(kernels: Sequence[Any]) -> Any:
    """run(slot, begin, end): rows begin:end of the task in the slot, by the kernel whose number is in it.

    Its source is written here, a line for each kernel, since Numba compiles no call of a function that is picked at
    run time with arguments of its own types. Not cached on disk by itself but as a part of `work`.
    """
    lines = ["def run(slot, begin, end):", "    number = slot[KERNEL]"]
    names: dict[str, Any] = {"KERNEL": KERNEL, "ARGUMENTS": ARGUMENTS}
    readers = {kind: getter(kind) for kind in {KERNELS[kernel].arguments for kernel in kernels}}
    for n, kernel in enumerate(kernels):
        names |= {f"kernel_{n}": out_of_line(kernel), f"read_{n}": readers[KERNELS[kernel].arguments]}
        lines.append(f"    {'if' if n == 0 else 'elif'} number == {n}:")
        lines.append(f"        kernel_{n}(read_{n}(slot, ARGUMENTS), begin, end)")
    exec("\n".join(lines), names)
    return numba.njit(nogil=True, error_model="numpy")(names["run"])


run_kernel = one_of(list(KERNELS))


@njit()
def run_part(slot):
    """Compute one part of the task, if one is left; False if none was."""
    left = seen(slot, LEFT)
    if left <= 0:
        return False
    if replace(slot, LEFT, left, left - 1):  # from here on, and until DONE says so, the task stays what it is
        rows, parts, grain = slot[ROWS], slot[ALL], slot[GRAIN]
        begin, end = rows * (left - 1) // parts // grain * grain, rows * left // parts // grain * grain
        run_kernel(slot, begin, rows if left == parts else end)
        add(slot, DONE, 1)
    return True


@njit()
def dispatch(slot, parts):
    """Publish the task in the slot in `parts` parts, and compute parts until all are taken; returns how many."""
    did = 0
    publish(slot, DONE, 0)
    publish(slot, LEFT, parts)
    while run_part(slot):
        did += 1
    return did


@njit()
def replay_from(slot, graph, at, parts, spin_limit):
    """Run the tasks of a captured graph from `at` on, in order, each in at most `parts` parts.

    Returns the index of the next task: all before it are done, except that the last may still be running where another
    thread has lost its core.
    """
    for n in range(at, len(graph)):
        most = min(graph[n, ALL], parts)
        if most < 2:
            run_kernel(graph[n], 0, graph[n, ROWS])
            continue
        for word in range(KERNEL, WORDS):
            slot[word] = graph[n, word]
        slot[ALL] = most
        dispatch(slot, most)
        if not done(slot, most, spin_limit):
            return n + 1
    return len(graph)


@njit()
def work(slot, parts, spin_limit, graph, at):
    """All that a thread may do, in one function: it compiles all kernels, which takes a while.

    graph not empty: `replay_from`. Else, parts > 0: `dispatch`. Else: be a worker; returns how many parts were
    computed.
    """
    if len(graph) > 0:
        return replay_from(slot, graph, at, parts, spin_limit)
    if parts > 0:
        return dispatch(slot, parts)
    did = idle = 0
    while idle < spin_limit:
        if run_part(slot):
            did, idle = did + 1, 0
        else:
            idle += 1
            if idle % SPINS_PER_PAUSE == 0:
                pause()
    add(slot, WORKERS, -1)
    return did
