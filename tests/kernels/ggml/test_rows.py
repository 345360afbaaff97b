"""Norms, softmax and activations against ggml's own operations, bit for bit."""

import ctypes
import ctypes.util
import zlib

import numpy as np
import pytest

from refembed.kernels.ggml import rows
from refembed.kernels.ggml.ops import Ggml
from refembed.kernels.llvm.jit import njit
from tests.kernels.ggml.live import run
from tests.kernels.ggml.test_floats import differ

f32 = np.float32
NOTHING = np.empty(0, np.float32)
SIZES = ((3, 384), (5, 390), (4, 7), (2, 1024), (1, 1))
SCALES = (1.0, 100.0, 1e-3)


def inputs():
    """Rows of many lengths and sizes, off center."""
    rng = np.random.default_rng(3)
    for shape in SIZES:
        for scale in SCALES:
            yield (rng.standard_normal(shape) * scale + scale / 2).astype(np.float32)


def agree(name, ours, *arguments):
    """No bit differs between ours(x) and the operation of ggml, on all inputs."""
    xs = list(inputs())
    theirs = run([(name, [x, *arguments]) for x in xs])
    assert [differ(ours(x), y) for x, y in zip(xs, theirs, strict=True)] == [0] * len(xs)


def made(kernel, *arguments):
    """A kernel that fills `out`, as a function."""

    def call(x):
        out = np.empty_like(x)
        kernel(x, *arguments, out, 0, len(x))
        return out

    return call


def flat(kernel):
    """A kernel over flat arrays, as a function."""

    def call(x):
        out = np.empty(x.size, np.float32)
        kernel(x.reshape(-1), out)
        return out.reshape(x.shape)

    return call


@pytest.mark.oracle
def test_layer_norm_is_ggml_norm():
    agree("ggml_norm", made(rows.layer_norm, f32(1e-12), 8), 1e-12)
    agree("ggml_norm", made(rows.layer_norm, f32(1e-2), 8), 1e-2)


@pytest.mark.oracle
def test_rms_norm_is_ggml_rms_norm():
    agree("ggml_rms_norm", made(rows.rms_norm, f32(1e-6)), 1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ggml_gelu", rows.gelu),
        ("ggml_gelu_quick", rows.gelu_quick),
        ("ggml_gelu_erf", flat(rows.gelu_erf)),
        ("ggml_silu", made(rows.silu, 8)),
        ("ggml_tanh", flat(rows.tanh)),
    ],
)
def test_activations_are_ggml_s(name, ours):
    agree(name, ours)


@pytest.mark.oracle
def test_swiglu_of_gpt_oss_is_ggml_s():
    """Beyond its limits, too."""
    xs = [x * f32(4) for x in inputs()]
    gates = [np.roll(-x, 1, axis=-1) for x in xs]
    theirs = run([("ggml_swiglu_oai", [g, x, 1.702, 7.0]) for g, x in zip(gates, xs, strict=True)])
    ours = [Ggml().swiglu_oai(g, x) for g, x in zip(gates, xs, strict=True)]
    assert [differ(o, t) for o, t in zip(ours, theirs, strict=True)] == [0] * len(xs)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["geglu", "swiglu"])
def test_gated_activations_are_ggml_s(name):
    """Also where the gate is closed and the sign of zero is left."""
    xs = list(inputs())
    gates = [np.roll(-x, 1, axis=-1) for x in xs]
    theirs = run([(f"ggml_{name}_split", [g, x]) for g, x in zip(gates, xs, strict=True)])
    ours = [getattr(Ggml(), name)(g, x) for g, x in zip(gates, xs, strict=True)]
    assert [differ(o, t) for o, t in zip(ours, theirs, strict=True)] == [0] * len(xs)


@pytest.mark.oracle
@pytest.mark.parametrize("masked", [False, True])
def test_softmax_is_ggml_soft_max_ext(masked):
    """With a scale; and with a mask of distances and minus infinity."""
    rng = np.random.default_rng(4)
    calls, ours = [], []
    for x in inputs():
        mask = np.where(rng.random(x.shape) < 0.3, -np.inf, -rng.integers(0, 50, x.shape)).astype(np.float32)
        mask[:, 0] = 0  # a row that sees nothing is NaN in llama.cpp
        calls.append(("ggml_soft_max_ext", [x, mask if masked else None, 0.17, 0.0]))
        y = x.copy()
        for row, m in zip(y, mask, strict=True):
            rows.soft_max(row, f32(0.17), m if masked else NOTHING, f32(1), f32(-np.inf), 8)
        ours.append(y)
    assert [differ(y, t) for y, t in zip(ours, run(calls), strict=True)] == [0] * len(calls)


@pytest.mark.oracle
def test_a_sink_takes_its_share_of_the_softmax_as_in_ggml():
    """One below all scores, one among them, one above."""
    rng = np.random.default_rng(6)
    calls, ours, sinks = [], [], np.array([-9, 0.3, 9], np.float32)
    for n in (1, 7, 16, 37, 256):
        x = rng.standard_normal((3, 5, n)).astype(np.float32)
        calls.append(("ggml_soft_max_ext, ggml_soft_max_add_sinks", [x, None, 0.17, 0.0, sinks]))
        y = x.copy()
        for head, sink in zip(y, sinks, strict=True):
            for row in head:
                rows.soft_max(row, f32(0.17), NOTHING, f32(1), sink, 8)
        ours.append(y)
    assert [differ(y, t) for y, t in zip(ours, run(calls), strict=True)] == [0] * len(calls)


@njit()
def exponentials(x, lanes, out):
    for i in range(len(x)):
        out[i] = rows.v_expf(x[i], lanes)


# ggml_v_expf of two builds (GCC 12.2, AVX2 and AVX-512) at these places; libm's expf has other last bits at four
PLACES = (0, -0.5, -1, -2.25, -10, -20.5, -87, 1.5, 10)
AVX2 = "3f800000 3f1b4597 3ebc5ab2 3dd7db8c 383e6bce 30abd1d9 00b33686 408f69fe 46ac14f0"
AVX512 = AVX2.replace("3ebc5ab2", "3ebc5ab3")


@pytest.mark.parametrize(("lanes", "expected"), [(8, AVX2), (16, AVX512)])
def test_the_exponential_has_the_bits_of_either_build(lanes, expected):
    out = np.empty(len(PLACES), np.float32)
    exponentials(np.array(PLACES, np.float32), lanes, out)
    assert " ".join(f"{b:08x}" for b in out.view(np.uint32)) == expected


@pytest.mark.parametrize("lanes", [8, 16])
def test_the_exponential_is_within_two_ulp_everywhere(lanes):
    """Against double; beyond both ends it is infinite and zero, and subnormal results are there between."""
    x = np.concatenate([np.linspace(-110, 95, 200001), [-np.inf, np.inf]]).astype(np.float32)
    out = np.empty_like(x)
    exponentials(x, lanes, out)
    with np.errstate(over="ignore", under="ignore"):
        expected = np.exp(x.astype(np.float64)).astype(np.float32)
    finite = np.isfinite(expected) & np.isfinite(out)
    assert (np.isfinite(expected) == np.isfinite(out))[np.abs(x - 88.72) > 0.4].all()
    ulps = np.abs(out.view(np.int32).astype(np.int64) - expected.view(np.int32))[finite]
    assert ulps.max() <= 2
    assert out[-2] == 0
    assert np.isinf(out[-1])


def test_the_gelu_tables_are_the_builds_own():
    """CRC-32 of the codes of every float16 below 10 in magnitude, as two builds of llama.cpp have them."""
    h = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    chosen = np.isfinite(h) & (np.abs(h.astype(np.float32)) < 10)
    tables = (rows.gelu_table(), rows.gelu_quick_table())
    assert [zlib.crc32(t.astype(np.float16)[chosen].tobytes()) for t in tables] == [0xB52162F1, 0x2CB695E9]


@njit()
def libm(x, e, t, r):
    for i in range(len(x)):
        e[i], t[i], r[i] = rows.expf(x[i]), rows.tanhf(x[i]), rows.erff(x[i])


@pytest.mark.skipif(ctypes.util.find_library("m") is None, reason="no C library of mathematics to compare with")
def test_numba_calls_the_c_library_s_functions():
    """expf, tanhf and erff on float32 are libm's own, not double ones rounded."""
    x = np.random.default_rng(5).normal(0, 3, 20000).astype(np.float32)
    found = [np.empty_like(x) for _ in range(3)]
    libm(x, *found)
    c = ctypes.CDLL(ctypes.util.find_library("m"))
    for name, ours in zip(("expf", "tanhf", "erff"), found, strict=True):
        function = getattr(c, name)
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
        assert ours.tolist() == [function(v) for v in x.tolist()]
