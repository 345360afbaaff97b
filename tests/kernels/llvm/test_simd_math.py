"""What every kernel of the `ggml` numerics is made of, against NumPy and exact arithmetic."""

from fractions import Fraction

import numpy as np

from refembed.kernels.llvm import simd_math
from refembed.kernels.llvm.jit import njit

RNG = np.random.default_rng(11)


@njit()
def halves(x, out):
    for i in range(len(x)):
        out[i] = simd_math.half(x[i])


@njit()
def fused(a, b, c, out):
    for i in range(len(a)):
        out[i] = simd_math.fma(a[i], b[i], c[i])


@njit()
def sums(x):
    return simd_math.hsum8(x[:8]), simd_math.reduce16(x)


def test_half_rounds_as_float16_does():
    """Every float16, the places half way between neighbors, one step to either side; subnormal, infinite, NaN."""
    h = np.arange(1 << 15, dtype=np.uint16).view(np.float16).astype(np.float32)
    h = np.append(h[np.isfinite(h)], np.float32(65536))
    middle = (h[:-1] + h[1:]) / 2
    near = np.concatenate([h, middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))])
    wide = np.ldexp(RNG.standard_normal(20000), RNG.integers(-40, 20, 20000)).astype(np.float32)
    x = np.concatenate([near, -near, wide, np.array([np.inf, -np.inf, np.nan, 1e-45, 3e38], np.float32)])
    out = np.empty_like(x)
    halves(x, out)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).astype(np.float32)
    same = (out.view(np.int32) == expected.view(np.int32)) | (np.isnan(out) & np.isnan(expected))
    assert same.all()


def nearest(x: Fraction) -> np.float32:
    """A fraction as float32, rounded once."""
    guess = np.float32(float(x))
    candidates = [guess, np.nextafter(guess, np.float32(np.inf)), np.nextafter(guess, np.float32(-np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - x), int(c.view(np.int32)) & 1))


def test_fma_rounds_once():
    """Against fractions, where rounding the product first gives another number."""
    a, b = (RNG.standard_normal(2000).astype(np.float32) for _ in range(2))
    c = (-(a * b) * (1 + RNG.integers(-3, 4, 2000) * 1e-7)).astype(np.float32)
    out = np.empty_like(a)
    fused(a, b, c, out)
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert out.tolist() == [nearest(e) for e in exact]
    assert (out != a * b + c).any()


def test_sums_across_a_register_add_in_their_order():
    """Longhand, on numbers where the order shows."""
    x = (RNG.standard_normal(16) * 10.0 ** RNG.integers(-4, 5, 16)).astype(np.float32)
    t = [x[i] + x[i + 4] for i in range(4)]
    hsum8, reduce16 = sums(x)
    assert hsum8 == (t[0] + t[2]) + (t[1] + t[3])
    u = [x[i] + x[i + 8] for i in range(8)]
    t = [u[i] + u[i + 4] for i in range(4)]
    assert reduce16 == (t[0] + t[2]) + (t[1] + t[3])
