"""The spinning thread pool: each part runs once, bits are those of one core, and no thread waits for ever."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed import Embedder, hub
from refembed.kernels import threads
from refembed.kernels.fast import (
    also_rounding,
    attention_bfloat16,
    decoder,
    elementwise,
    recurrent,
    task_slot,
    tasks,
    thread_pool,
)
from refembed.kernels.fast import attention as fast_attention
from refembed.kernels.fast.ops import Fast
from refembed.kernels.fast.task_slot import ALL, DONE, EMPTY, KERNEL, LEFT, OWNER, WORDS, WORKERS
from refembed.kernels.fast.tasks import KERNEL_NUMBERS, KERNELS
from refembed.kernels.fast.thread_pool import MIN_PART, SpinningPool, spinning_pool
from refembed.kernels.llvm import bfloat16, gemm, integer, integer_tile, microkernel
from refembed.model import ARCHITECTURES
from refembed.testing.synthetic import synthetic
from tests.kernels.longhand import random
from tests.machine import cores

MUCH = 1 << 30


pytestmark = pytest.mark.usefixtures("cores_as_they_were")


def jobs(T: int, seed: int = 0) -> dict[Any, tuple[tuple[Any, ...], Any, int]]:
    """For each kernel that may be shared: its arguments, where it writes, and its rows."""
    x, w, bias, P = random(seed, T, 96), random(seed + 1, 250, 96), random(seed + 2, 250), gemm.panel(4)
    up, g = random(seed + 3, T, 96), random(seed + 4, 96)
    packed, out = gemm.pack(w), np.full((T, 250), np.nan, np.float32)
    halves = np.empty(packed.shape, np.int16)
    gemm.pack_rows(w.astype(np.float16).view(np.int16), halves, 0, len(halves))
    codes = np.random.default_rng(seed).integers(-127, 128, packed.shape).astype(np.int8)
    scales = random(seed + 5, len(packed), 96 // microkernel.Q8_BLOCK, P)
    same = np.full((T, 96), np.nan, np.float32)
    offsets = np.array([0, T // 3, T // 2, T])
    how = np.float32(0.2), False, 0, 0, np.float32(0)
    none = np.empty((0, 0, 0), np.float32)
    attention = (x, up, random(seed + 6, T, 96), 6, 1, offsets, *how, np.zeros(6, np.float32), none, bias[:6], same)
    all_out = np.full(T * 450, np.nan, np.float32)
    outs = tuple(all_out[T * a : T * b].reshape(T, b - a) for a, b in ((0, 250), (250, 346), (346, 450)))
    biases, two = (bias, bias[:0], bias[50:154]), (gemm.pack(w[:96]), gemm.pack(w[96:200]))
    two_halves, two_scales = (halves[:2].copy(), halves[2:5].copy()), (scales[:2].copy(), scales[2:5].copy())
    two_codes = codes[:2].copy(), codes[2:5].copy()
    given = {
        gemm.three_by_panels: ((x, packed, *two, *biases, *outs), all_out, 6 + 2 + 3),
        gemm.three_by_q8: ((x, codes, *two_codes, scales, *two_scales, *biases, *outs), all_out, 6 + 2 + 3),
        gemm.by_rows: ((x, packed, bias, out, 0), out, T),
        gemm.by_panels: ((x, packed, bias, out, 0), out, len(packed)),
        gemm.by_q8: ((x, codes, scales, bias, out), out, len(packed)),
        fast_attention.attention: (attention, same, 18),
        attention_bfloat16.attention: (attention, same, 18),
        elementwise.layer_norm: ((x, up, g, g, 1e-5, same), same, T),
        elementwise.rms_norm: ((x, g, 1e-5, same), same, T),
        elementwise.gelu: ((x, same), same, T),
        decoder.gelu_erf: ((x, same), same, T),
        decoder.silu: ((x, same), same, T),
        decoder.relu: ((x, same), same, T),
        decoder.geglu: ((x, up, same), same, T),
        decoder.swiglu: ((x, up, same), same, T),
        decoder.swiglu_oai: ((x, up, same), same, T),
        decoder.add: ((x, up, same), same, T),
        decoder.multiply: ((x, up, same), same, T),
        decoder.scale: ((x, np.float32(0.3), same), same, T),
        decoder.columns: ((up, 0, same), same, T),
        decoder.rope: ((x, np.arange(T)[::-1].copy(), random(seed + 7, 2, T, 5), 6, 1, 5, same), same, T),
    }
    for bits, (quantize, product) in integer.KERNELS.items():
        rounded = np.full((T, 3 * integer_tile.words_of(bits)), np.nan, np.float32)
        given[quantize] = (x, rounded), rounded, T
        xs, panels = rounded.copy(), integer.pack_whole(w, random(seed + 5, 250, 3), None)
        quantize(x, xs, 0, T)
        given[product] = (xs, panels, 0, 0, bias, out, 0, 0), out, len(panels)
    for bits, also in also_rounding.ALSO_ROUNDING.items():
        words = 3 * integer_tile.words_of(bits) if bits else 48
        both = np.full(T * (96 + words), np.nan, np.float32)
        two_outs = both[: 96 * T].reshape(T, 96), both[96 * T :].reshape(T, words)
        given[also[elementwise.gelu]] = (x, *two_outs), both, T
        given[also[elementwise.layer_norm]] = (x, up, g, g, 1e-5, *two_outs), both, T
    pairs = np.full((T, 48), np.nan, np.float32)
    given[bfloat16.round_pairs] = (x, pairs), pairs, T
    rounded, panels = pairs.copy(), bfloat16.pack_whole(w)
    bfloat16.round_pairs(x, rounded, 0, T)
    given[bfloat16.product_bf16] = (rounded, panels, bias, out, 0, 0), out, len(panels)
    given |= of_states(seed, T)
    if microkernel.CONVERTS_F16:
        given[gemm.by_f16] = (x, halves, bias, out), out, len(packed)
        given[gemm.three_by_f16] = (x, halves, *two_halves, *biases, *outs), all_out, 6 + 2 + 3
    return given


def of_states(seed: int, T: int) -> dict[Any, tuple[tuple[Any, ...], Any, int]]:
    """`jobs` of layers that keep a state: two texts, 3 heads of 10 channels, 1 head of keys."""
    x, y, z = (random(seed + s, T, 30) for s in (1, 2, 3))
    one, few, bias, out = random(seed + 4, T, 10), random(seed + 5, T, 3), random(seed + 6, 30), np.empty_like(x)
    a, offsets, states = -np.abs(random(seed + 7, 3)), np.array([0, min(2, T), T]), np.empty((6, 100), np.float32)
    same, step = np.empty_like(few), np.abs(few)
    by_channel = x, y, -np.abs(random(seed + 8, 1, 30, 10)), one, one, 1, offsets, np.empty((60, 10), np.float32), out
    return {
        decoder.sigmoid: ((x, out), out, T),
        decoder.add_bias: ((x, bias, out), out, T),
        recurrent.add_scaled: ((x, y, bias, out), out, T),
        recurrent.log_decay: ((few, a, a, same), same, T),
        recurrent.short_conv: ((x, random(seed + 9, 1, 4, 30), bias, 0, offsets, out), out, T),
        recurrent.gated_delta_rule: ((one, one / 4, x, -step, 1 / (1 + step), 1, offsets, out), out, 6),
        recurrent.scan_of_heads: ((x, few, a, one, one, 1, offsets, states, out), out, 6),
        recurrent.scan_of_states: (by_channel, out, 60),
        recurrent.wkv7: ((x, 1 / (1 + y * y), y, z, x / 40, y / 40, 3, offsets, states, out), out, 6),
    }


@pytest.mark.parametrize("cores", [2, 3, 7])
@pytest.mark.parametrize("T", [3, 50])
def test_every_kernel_has_the_bits_of_one_core(cores: int, T: int) -> None:
    threads.use(cores)
    todo = jobs(T)
    assert todo.keys() == {k for k in KERNELS if microkernel.CONVERTS_F16 or "f16" not in k.__name__}
    for kernel, (arguments, out, rows) in todo.items():
        kernel(*arguments, 0, rows)
        want = out.tobytes()
        for grain in (1, 8):
            out[:] = np.nan
            spinning_pool.parallel_for(kernel, *arguments, rows=rows, size=MUCH, grain=grain)
            assert out.tobytes() == want, kernel.__name__


def test_arguments_have_the_types_they_are_read_as() -> None:
    for kernel, (arguments, _, _) in jobs(5).items():
        assert numba.typeof(arguments) == KERNELS[kernel].arguments, kernel.__name__


@pytest.mark.parametrize(("type_name", "bits"), [("F32", 0), ("F16", 0), ("Q8_0", 0), ("Q8_0", 8), ("Q8_0", 16)])
@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_so_have_those_of_forward_passes(
    arch: str, type_name: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fast, "bits", bits)
    called = set()

    def share(kernel: Any, *arguments: Any, rows: int, size: int, grain: int = 1) -> None:
        assert numba.typeof(arguments) == KERNELS[kernel].arguments, kernel.__name__
        called.add(kernel)
        kernel(*arguments, 0, rows)

    monkeypatch.setattr(spinning_pool, "parallel_for", share)
    wide = {} if type_name == "F32" else {"C": 192, "F": 96, "D": 32}  # rows of whole blocks
    e = Embedder.load(synthetic(tmp_path / "m.gguf", arch, type_name=type_name, **wide))
    e.embed([[1, 2, 3]], pooling="mean")
    e.embed([[1, 2, 3], [4, 5], list(range(2, 40))], pooling="mean")
    many = integer.KERNELS[bits].product if bits else gemm.by_panels
    attends = ARCHITECTURES[arch].TRAITS.recurrent != "all"
    assert {many, *[fast_attention.attention] * attends} <= called
    few = f"product{bits}" if bits else {"F32": "by_panels", "F16": "by_f16", "Q8_0": "by_q8"}[type_name]
    assert {few, f"three_{few}"} & {kernel.__name__ for kernel in called} or (
        type_name == "F16" and not microkernel.CONVERTS_F16
    )


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 3, 8]))
def test_parts_are_all_rows_once(rows: int, parts: int, grain: int) -> None:
    """Read off an addition in place, which would show a row done twice; more parts than workers."""
    slot, x = np.zeros(WORDS, np.int64), random(rows, rows, 5)
    out = np.full_like(x, np.nan)
    task_slot.write(slot, KERNEL_NUMBERS[elementwise.gelu], rows, parts, grain, (x, out))
    assert tasks.work(slot, parts, 0, EMPTY, 0) == parts
    assert task_slot.done(slot, parts, 1)
    assert not task_slot.done(slot, parts + 1, 10)
    want = np.empty_like(x)
    elementwise.gelu(x, want, 0, rows)
    assert out.tobytes() == want.tobytes()
    assert (slot[LEFT], slot[DONE]) == (0, parts)


def test_the_dispatcher_calls_kernels_and_does_not_contain_them() -> None:
    """In one function of all kernels LLVM makes slower code of each."""
    run, slot = tasks.one_of([elementwise.gelu, elementwise.rms_norm]), np.zeros(WORDS, np.int64)
    slot[KERNEL] = 2  # none of them
    run(slot, 0, 0)
    (code,) = run.inspect_llvm().values()  # optimized
    for name in ("gelu", "rms_norm"):
        (attributes,) = re.findall(rf"call i32 @\S*{name}\S*\(.*\) (#\d+)", code)
        assert re.search(rf"^attributes {attributes} = .*noinline", code, re.MULTILINE), name


def test_a_helper_does_parts_and_leaves() -> None:
    slot, x = np.zeros(WORDS, np.int64), random(1, 64, 512)
    out, want, done = np.empty_like(x), np.empty_like(x), []
    elementwise.gelu(x, want, 0, 64)
    tasks.work(slot, 0, 1, EMPTY, 0)  # compiled
    for _ in range(20):  # on a busy machine a worker may not have its turn once in 500 tasks
        slot[WORKERS] = 1
        worker = threading.Thread(target=lambda: done.append(tasks.work(slot, 0, 10_000_000, EMPTY, 0)))
        worker.start()
        for _ in range(500):
            out[:] = np.nan
            task_slot.write(slot, KERNEL_NUMBERS[elementwise.gelu], 64, 16, 1, (x, out))
            tasks.work(slot, 16, 0, EMPTY, 0)
            while not task_slot.done(slot, 16, 1000):
                time.sleep(0)
            assert out.tobytes() == want.tobytes()
        worker.join(60)
        assert (slot[LEFT], slot[WORKERS]) == (0, 0)
        if done[-1]:
            break
    assert done[-1] > 0 or cores() == 1  # on one core it may never have its turn


def test_helpers_are_as_many_as_parts_and_go_when_nothing_comes() -> None:
    threads.use(3)
    own, ((x, out), _, rows) = SpinningPool(), jobs(64)[elementwise.gelu]
    own.start()
    for size, most in ((MIN_PART, 0), (2 * MIN_PART, 1), (MUCH, 2)):
        own.parallel_for(elementwise.gelu, x, out, rows=rows, size=size)
        assert own.slot[WORKERS] <= most
    until = time.monotonic() + 30
    while own.slot[WORKERS] and time.monotonic() < until:
        time.sleep(0.001)
    assert own.slot[WORKERS] == 0


def test_helpers_do_not_hold_up_other_work() -> None:
    """While they look for work, what `threads.parallel_map` hands out is done."""
    threads.use(2)
    (x, out), _, rows = jobs(64)[elementwise.gelu]
    done: list[int] = []
    for i in range(200):
        spinning_pool.parallel_for(elementwise.gelu, x, out, rows=rows, size=MUCH)
        threads.parallel_map([lambda i=i: done.append(i), lambda i=i: done.append(i)])  # type: ignore[misc]
    assert sorted(done) == sorted(list(range(200)) * 2)


def test_texts_of_several_threads_do_not_mix() -> None:
    """One has the workers, the others go on alone; many jobs of different kinds in a row."""
    threads.use(4)
    wrong: list[str] = []

    def one(seed: int) -> None:
        todo = jobs(20 + seed, seed)
        want = {}
        for kernel, (arguments, out, rows) in todo.items():
            kernel(*arguments, 0, rows)
            want[kernel] = out.tobytes()
        for _ in range(150):
            for kernel, (arguments, out, rows) in todo.items():
                out[:] = np.nan
                spinning_pool.parallel_for(kernel, *arguments, rows=rows, size=MUCH)
                if out.tobytes() != want[kernel]:
                    wrong.append(kernel.__name__)

    those = [threading.Thread(target=one, args=(seed,)) for seed in range(4)]
    for t in those:
        t.start()
    for t in those:
        t.join(120)
    assert not any(t.is_alive() for t in those)
    assert wrong == []


def test_an_interruption_waits_for_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the job is posted, and after: the lock is free again, and no part is under way any more."""
    threads.use(2)
    (x, out), _, rows = jobs(64)[elementwise.gelu]
    real = tasks.work

    def before(*_: Any) -> None:
        raise KeyboardInterrupt

    def after(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    for name, interrupted in (("seen_workers", before), ("work", before), ("work", after)):
        slot = spinning_pool.slot
        slot[DONE] = slot[ALL] = 0
        monkeypatch.undo()
        monkeypatch.setattr(tasks if name == "work" else thread_pool, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            spinning_pool.parallel_for(elementwise.gelu, x, out, rows=rows, size=MUCH)
        assert slot[DONE] == (0 if name == "seen_workers" else 2)
        assert spinning_pool.slot is not slot  # workers that were counted and not woken are forgotten with it
        assert (spinning_pool.slot[WORKERS], spinning_pool.slot[OWNER], spinning_pool.kept) == (0, 0, None)
    monkeypatch.undo()
    want = out.copy()
    spinning_pool.parallel_for(elementwise.gelu, x, out, rows=rows, size=MUCH)
    assert out.tobytes() == want.tobytes()


def test_small_work_and_work_inside_shared_work_stay_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    threads.use(4)
    monkeypatch.setattr(tasks, "work", lambda *_: pytest.fail("was shared"))
    (x, out), _, rows = jobs(16)[elementwise.gelu]
    spinning_pool.parallel_for(elementwise.gelu, x, out, rows=rows, size=2 * MIN_PART - 1)
    spinning_pool.parallel_for(elementwise.gelu, x, out, rows=1, size=MUCH)
    spinning_pool.parallel_for(elementwise.gelu, x, out, rows=15, size=MUCH, grain=8)
    monkeypatch.setattr(threads.own, "busy", True)
    spinning_pool.parallel_for(elementwise.gelu, x, out, rows=rows, size=MUCH)
    monkeypatch.setattr(threads.own, "busy", False)
    threads.use(1)
    spinning_pool.parallel_for(elementwise.gelu, x, out, rows=rows, size=MUCH)
    assert np.isfinite(out).all()


def test_a_process_with_little_to_do_starts_no_thread_pool() -> None:
    """One short text neither loads nor compiles what workers run; the same text many times does, aside."""
    code = """
from refembed import Embedder, hub
from refembed.kernels import threads
from refembed.kernels.fast.thread_pool import spinning_pool
threads.use(2)
e = Embedder.load("minilm")
once = e.embed("hi").tobytes()
print(spinning_pool.loading, spinning_pool.tasks)
for _ in range(200):  # 56 are WORTH_SPINNING
    assert e.embed("hi").tobytes() == once
print(spinning_pool.loading is not None)
spinning_pool.start()
print(spinning_pool.loading.done(), len(spinning_pool.tasks.work.signatures))
assert e.embed("hi").tobytes() == once
"""
    hub.resolve("minilm")  # fetched here where the cache is empty, which is said
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, text=True)
    assert (out.stdout, out.stderr) == ("None None\nTrue\nTrue 1\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_finds_helpers_of_its_own() -> None:
    code = """
import os, numpy as np
from refembed.kernels import threads
from refembed.kernels.fast.task_slot import OWNER, WORKERS
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.fast.elementwise import gelu
threads.use(2)
x, out = np.ones((64, 64), np.float32), np.empty((64, 64), np.float32)
spinning_pool.start()
spinning_pool.parallel_for(gelu, x, out, rows=64, size=1 << 30)
spinning_pool.slot[OWNER] = 1  # as if another thread had it
pid = os.fork()
if pid == 0:
    out[:] = 0
    assert spinning_pool.slot[WORKERS] == 0
    spinning_pool.start()
    for _ in range(50):
        spinning_pool.parallel_for(gelu, x, out, rows=64, size=1 << 30)
    os._exit(0 if (out == out[0, 0]).all() and out[0, 0] > 0.8 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, timeout=60, text=True)
    assert (out.stdout, out.stderr) == ("0\n", "")


def test_a_process_ends_at_once_with_helpers_awake() -> None:
    code = """
import atexit, numpy as np
from refembed.kernels import threads
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.fast.elementwise import gelu
threads.use(3)
x, out = np.ones((64, 64), np.float32), np.empty((64, 64), np.float32)
spinning_pool.start()
run = spinning_pool.parallel_for
atexit.register(lambda: run(gelu, x, out, rows=64, size=1 << 30) or print(out.min() == out.max()))
spinning_pool.parallel_for(gelu, x, out, rows=64, size=1 << 30)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, text=True)
    assert (out.stdout, out.stderr, out.returncode) == ("True\n", "", 0)
