"""Products on tensor cores (`precision`), on the CPU: rounding, lanes and fragments, ragged sizes, ranges, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.errors import ModelError, RequestError
from refembed.kernels.cuda.launch import source_text
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.cuda.precision import PRECISIONS
from refembed.kernels.exact import tensor_cores
from tests.kernels.cuda.on_cpu import OnCpu
from tests.kernels.exact.test_tensor_cores import drawn
from tests.kernels.longhand import random, stored

few = settings(max_examples=30)
ON_TENSOR_CORES = ("tf32", "fp16", "bf16")
HALVES = {"tf32": 1, "fp16": 2, "bf16": 2}  # numbers of a word

# largest error of a sum over the sum of all |x w|, K up to 200: measured 8.9e-8, and 4.5e-7, 4.5e-7, 1.6e-7 cut off
BOUND, COARSE = 1.5e-7, {"tf32": 8e-7, "fp16": 8e-7, "bf16": 3e-7}


def on_cpu(built: Path, precision: str, **options: Any) -> Cupy:
    """The numerics on this CPU."""
    changed = options.pop("changed", None)
    descending = options.pop("descending", False)
    return Cupy(OnCpu(built, changed=changed, descending=descending), precision=precision, **options)


def rounded(x: Any, precision: str) -> Any:
    """In float64, by NumPy's float16 or by arithmetic on whole numbers."""
    x = np.asarray(x, np.float32)
    if precision == "fp16":
        return x.astype(np.float16).astype(np.float64)
    bits = {"tf32": 11, "bf16": 8}[precision]
    mantissa, exponent = np.frexp(x.astype(np.float64))
    steps = mantissa * 2.0**bits
    whole = np.trunc(steps + np.copysign(0.5, steps)) if precision == "tf32" else np.rint(steps)
    return np.ldexp(whole, exponent - bits)


def unpacked(words: Any, precision: str) -> Any:
    """What words stand for, in float32."""
    if precision == "tf32":
        return words.view(np.float32)
    halves = words.view(np.uint16)
    return (
        halves.view(np.float16).astype(np.float32)
        if precision == "fp16"
        else (halves.astype(np.uint32) << 16).view(np.float32)
    )


@pytest.mark.parametrize("precision", ON_TENSOR_CORES)
@pytest.mark.parametrize("K", [1, 15, 48])
def test_a_kept_matrix_is_rounded_to_the_definitions_bits(built: Path, precision: str, K: int) -> None:
    """Numbers of all sizes, ties and subnormal ones among them; behind each row there are zeros."""
    ops = on_cpu(built, precision)
    x = drawn(5, 60 * K + 400)
    x = np.where(np.abs(x) < 65_000, x, 1)[: 50 * K].reshape(50, K)
    memory = ops.weights.matrix(stored(x))
    assert memory is not None
    words = np.empty((50, PRECISIONS[precision].words(K)), np.uint32)
    ops.device.read(memory, words)
    got = unpacked(words, precision).reshape(50, -1)
    assert np.array_equal(got[:, :K].view(np.uint32), getattr(tensor_cores, f"round_{precision}")(x).view(np.uint32))
    assert not got[:, K:].any()
    assert got.shape[1] % (8 * HALVES[precision]) == 0


@few
@given(st.integers(1, 150), st.integers(1, 200), st.integers(1, 80), st.sampled_from(ON_TENSOR_CORES), st.booleans())
def test_a_product_is_that_of_rounded_numbers_summed_in_float32(
    built: Path, T: int, K: int, N: int, precision: str, biased: bool
) -> None:
    """Near float64's sum; to the bit the definition's; a row's bits alone and in both kinds of tiles."""
    x, w, b = random(1, T, K), random(2, N, K), random(3, N)
    ops, weights, bias = on_cpu(built, precision), stored(w), stored(b, "b") if biased else None
    got = np.asarray(ops.linear(x, weights, bias))
    xr, wr = rounded(x, precision), rounded(w, precision)
    size = np.abs(xr) @ np.abs(wr).T + np.abs(b) * biased
    assert (np.abs(got - xr @ wr.T - b * biased) <= BOUND * size).all()
    want = getattr(tensor_cores, f"matmul_{precision}")(x, w)
    assert np.array_equal(got, want + b if biased else want)
    for row in {0, T // 2, T - 1}:
        assert np.asarray(ops.linear(x[row : row + 1], weights, bias)).tobytes() == got[row : row + 1].tobytes()


@pytest.mark.parametrize("precision", ON_TENSOR_CORES)
def test_a_product_of_whole_numbers_is_exact(built: Path, precision: str) -> None:
    """Of up to 8 bits: in any order, however sums are cut off. Every lane's numbers are others."""
    rng = np.random.default_rng(1)
    x, w = (rng.integers(-127, 128, shape).astype(np.float32) for shape in ((131, 70), (75, 70)))
    for changed in (None, CUT_OFF):
        got = np.asarray(on_cpu(built, precision, changed=changed).linear(x, stored(w)))
        assert np.array_equal(got, x.astype(np.int64) @ w.astype(np.int64).T)


CUT_OFF = {"tensor_cores": source_text("tensor_cores") + "\nstatic bool coarse = on_cpu::cut_off = true;\n"}


@pytest.mark.parametrize("precision", ON_TENSOR_CORES)
def test_sums_that_are_cut_off_cost_what_is_written_down(built: Path, precision: str) -> None:
    """As coarsely as a V100 adds: mma_on_cpu.h. What a GPU does is between that and the definition."""
    x, w, off = random(1, 60, 200), random(2, 30, 200), []
    xr, wr = rounded(x, precision), rounded(w, precision)
    for changed in (None, CUT_OFF):
        got = np.asarray(on_cpu(built, precision, changed=changed).linear(x, stored(w)))
        off.append((np.abs(got - xr @ wr.T) / (np.abs(xr) @ np.abs(wr).T)).max())
    assert off[0] < off[1] <= COARSE[precision]


def test_rows_that_do_not_begin_at_16_bytes(built: Path) -> None:
    """A slice of an array of one width, read as rows of another."""
    x, w = random(1, 9, 6), random(2, 5, 4)
    ops = on_cpu(built, "bf16")
    part = ops.on_device(x)[1:].reshape(12, 4)  # begins 24 bytes behind a multiple of 16
    want = tensor_cores.matmul_bf16(x[1:].reshape(12, 4), w)
    assert np.array_equal(np.asarray(ops.linear(part, stored(w))), want)


def test_experts_are_multiplied_in_the_precision(built: Path) -> None:
    x, w = random(1, 7, 24), random(2, 3, 5, 24)
    chosen = np.array([[t % 3, (t + 1) % 3] for t in range(7)])
    got = np.asarray(on_cpu(built, "fp16").experts(x, stored(w), chosen))
    for t in range(7):
        for k in range(2):
            assert np.array_equal(got[t, k], tensor_cores.matmul_fp16(x[t : t + 1], w[chosen[t, k]])[0])


def test_what_is_beyond_fp16_is_nan_in_its_row_alone(built: Path) -> None:
    """Never an infinity; a ReLU does not hide it."""
    x, w = random(1, 5, 40), random(2, 6, 40)
    x[1, 7], x[3, 39], x[4, 0] = 65520, -1e6, 65519  # the last is rounded to 65504
    ops = on_cpu(built, "fp16")
    got = np.asarray(ops.relu(ops.linear(x, stored(w))))
    assert np.isnan(got[[1, 3]]).all()
    want = np.maximum(tensor_cores.matmul_fp16(x[[0, 2, 4]], w), 0)
    assert np.array_equal(got[[0, 2, 4]], want)
    for precision in ("tf32", "bf16"):
        got = np.asarray(on_cpu(built, precision).linear(x, stored(w)))
        assert np.isfinite(got).all()


@pytest.mark.parametrize("budget", [None, "mapped"])
@pytest.mark.parametrize(
    ("precision", "weight"), [("fp16", 65520), ("fp16", -7e4), ("bf16", 3.4e38), ("tf32", -3.4028e38)]
)
def test_a_weight_that_the_precision_has_not_is_one_error(
    built: Path, precision: str, weight: float, budget: Any
) -> None:
    """Not an infinity, and not a NaN: kept or decoded each time."""
    w = random(2, 6, 40)
    w[5, 33] = weight
    ops = on_cpu(built, precision, memory_budget=budget)
    for _ in range(2):
        with pytest.raises(ModelError, match=rf"ffn_up.weight: precision {precision} ends at .*, a weight is beyond"):
            ops.linear(random(1, 2, 40), stored(w, "blk.3.ffn_up.weight"))
    w[5, 33] = 65519 if precision == "fp16" else 1e38
    assert ops.linear(random(1, 2, 40), stored(w)).shape == (2, 6)


@pytest.mark.parametrize("precision", ON_TENSOR_CORES)
def test_a_matrix_takes_what_its_words_take_and_a_budget_changes_no_bits(
    built: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bytes a number for fp16 and bf16, in two parts."""
    monkeypatch.setattr("refembed.kernels.cuda.weights.row_blocks", lambda n, k: ((0, 40), (40, n)))
    K, N = 160, 45
    w, x, bias = stored(random(1, N, K)), random(2, 3, K), stored(random(3, N), "b")
    nbytes = N * K * (4 if precision == "tf32" else 2)
    kept, less = (on_cpu(built, precision, memory_budget=budget) for budget in (nbytes, nbytes - 1))
    want = getattr(tensor_cores, f"matmul_{precision}")(x, random(1, N, K)) + random(3, N)
    for ops in (kept, less):
        assert np.array_equal(ops.linear(x, w, bias), want)
    assert (w in kept.weights.rounded, w in less.weights.rounded, kept.weights.budget.room) == (True, False, 0)
    assert kept.weights.decoded.get(w) is None


def test_products_of_two_activations_stay_in_float32(built: Path) -> None:
    """Those of attention, when it is traced."""
    q, k = random(1, 2, 3, 8), random(2, 2, 4, 8)
    assert np.array_equal(
        on_cpu(built, "bf16").products_of_heads(q, k), on_cpu(built, "float32").products_of_heads(q, k)
    )


class Turing(OnCpu):
    """A GPU without tensor cores for these formats."""

    name = "GPU 1"

    def capability(self) -> tuple[int, int]:
        return 7, 5


def test_a_gpu_without_tensor_cores_is_refused(built: Path) -> None:
    for precision in ON_TENSOR_CORES:
        with pytest.raises(RequestError) as error:
            Cupy(Turing(built), precision=precision)
        message = f"precision {precision}: GPU 1 has compute capability 7.5, tensor cores need 8.0"
        assert (error.value.message, error.value.hint) == (message, "precision float32")
    Cupy(Turing(built))


def with_fault(text: str, fault: str) -> dict[str, str]:
    """The source with one thing in it written otherwise."""
    whole = source_text("tensor_cores")
    assert whole.count(text) == 1, text
    return {"tensor_cores": whole.replace(text, fault)}


FAULTS = {
    "two quarters of a fragment of x exchanged": (
        "a[m][1] = far[0], a[m][2] = near[4]",
        "a[m][2] = far[0], a[m][1] = near[4]",
    ),
    "the halves of a fragment of W exchanged": (
        "b[n][0] = line[0], b[n][1] = line[4]",
        "b[n][1] = line[0], b[n][0] = line[4]",
    ),
    "sums written to other columns": ("8 * n + 2 * t + i % 2", "8 * n + t + i % 2 * 4"),
    "sums written to other rows": ("g + i / 2 * 8", "g * 2 + i / 2"),
    "the second step of a slice left out": ("s < DEPTH && k + s < words", "s < DEPTH / 2 && k + s < words"),
    "the last numbers of a row left out": ("first + l < K ?", "first + l < K - 1 ?"),
    "numbers of the next row read": ("first + l < K ?", "first + l < K + 1 ?"),
    "x not rounded but cut off": (
        "return bf16_pair(x[0], x[1]);",
        "return on_cpu::bits_as<unsigned>(x[0]) >> 16 | (on_cpu::bits_as<unsigned>(x[1]) & 0xffff0000u);",
    ),
    "two numbers of a word exchanged": ("return bf16_pair(x[0], x[1]);", "return bf16_pair(x[1], x[0] * 1.5f);"),
    "a warp takes another's columns": ("&ws[across + 8 * n + g]", "&ws[8 * n + g]"),
    "the next numbers loaded too early": ("(k + DEPTH) * NUMBERS, K, next_x", "k * NUMBERS, K, next_x"),
    "a barrier missing before": ("        __syncthreads();\n        if (k + DEPTH", "        if (k + DEPTH"),
    "a barrier missing behind": ("        __syncthreads();\n    }\n", "    }\n"),
}


ALWAYS = ("two quarters", "numbers of the next row", "a barrier")  # each takes a second or two to compile


@pytest.mark.parametrize(
    "fault", [f if f.startswith(ALWAYS) else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS]
)
def test_faults_in_the_source_change_a_product(built: Path, fault: str) -> None:
    """What the tests above compare with mathematics depends on each of these; a race shows in one of two orders."""
    x, w = random(1, 150, 77), random(2, 70, 77)
    w[:, 76] += 3
    sound = tensor_cores.matmul_bf16(x, w)
    changed = with_fault(*FAULTS[fault])
    got = [np.asarray(on_cpu(built, "bf16", changed=changed, descending=d).linear(x, stored(w))) for d in (False, True)]
    assert any(y.tobytes() != sound.tobytes() for y in got)


@pytest.mark.parametrize("precision", ON_TENSOR_CORES)
@pytest.mark.parametrize("T", [5, 150])
def test_the_order_of_threads_changes_no_bits(built: Path, precision: str, T: int) -> None:
    x, w = random(1, T, 77), stored(random(2, 70, 77))
    both = [np.asarray(on_cpu(built, precision, descending=d).linear(x, w)).tobytes() for d in (False, True)]
    assert both[0] == both[1]


def test_an_infinity_would_be_noticed_where_nan_is_not_made(built: Path) -> None:
    """The guard of fp16 taken away: a ReLU makes 0 of minus infinity, and nothing shows."""
    changed = with_fault("if ((pair & 0x7c00u) == 0x7c00u) pair |= 0x0200u;", "")
    x, w = np.zeros((1, 16), np.float32), -np.abs(random(2, 6, 16))
    x[0, 0] = 1e5
    quiet, loud = (on_cpu(built, "fp16", changed=c) for c in (changed, None))
    assert not np.asarray(quiet.relu(quiet.linear(x, stored(w)))).any()
    assert np.isnan(np.asarray(loud.relu(loud.linear(x, stored(w))))).all()
