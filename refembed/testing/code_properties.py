"""What bytes for vectors promise, in any implementation: int8, uint8, binary and ubinary codes, and Hamming distance.

    from refembed.testing import CodeContract

    class TestMine(CodeContract):
        def quantize(self, x, precision, ranges):   # (N, D) float32, "int8" ..., (2, D) -> (N, D) or (N, ceil(D/8))
            return my_engine.quantize(x, precision, ranges)

        def hamming(self, a, b):                    # (B), (B) uint8 -> int
            return my_engine.hamming(a, b)

The scheme is sentence-transformers' (util/quantization.py): step = (high - low) / 255 in each dimension, and a number's
byte is floor((x - low) / step), from 0 to 255, 128 less in int8; a bit is 1 where its number is above zero, the first
dimension in the highest bit. Properties of what is not there are skipped.
"""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.testing import strategies as draw
from refembed.testing.contract import Contract, at_most, close, for_all, same
from refembed.testing.strategies import Strategy

try:
    from hypothesis import strategies as st
except ImportError as error:  # strategies said so already
    raise ImportError("refembed.testing needs Hypothesis\n  hint: pip install hypothesis") from error

Bytes = npt.NDArray[np.uint8]


@st.composite
def codes(draw_: st.DrawFn, count: int = 2, max_bytes: int = 20) -> tuple[Bytes, ...]:
    """Some codes of one length, uint8."""
    B = draw_(st.integers(1, max_bytes))
    return tuple(np.frombuffer(draw_(st.binary(min_size=B, max_size=B)), np.uint8) for _ in range(count))


@st.composite
def ranged(draw_: st.DrawFn) -> tuple[F32, F32]:
    """Vectors (N, D) and ranges (2, D) that hold them, every one at least 1/64 wide and as wide as it is far from 0."""
    x = draw_(draw.vector_rows())
    middle, half = (x.min(axis=0) + x.max(axis=0)) / 2, (x.max(axis=0) - x.min(axis=0)) / 2
    wide = half + np.abs(middle) + np.float32(1 / 64)
    return x, np.stack([middle - wide, middle + wide]).astype(np.float32)


Drawn: Strategy[tuple[F32, F32]] = ranged()


class CodeContract(Contract):
    """Subclass it, give it what your engine has of the two, and pytest runs the properties on it.

    >>> class Mine(CodeContract):
    ...     def hamming(self, a, b):
    ...         return int(np.unpackbits(a ^ b).sum())
    >>> Mine().failures(max_examples=5)  # `quantize` is not there: its properties are skipped
    {}
    """

    def quantize(self, x: F32, precision: str, ranges: F32) -> Any:
        """The implementation under test: codes of x (N, D). Ranges matter to int8 and uint8 alone."""
        raise unittest.SkipTest(f"{type(self).__name__} has no quantize")

    def hamming(self, a: Any, b: Any) -> int:
        """The implementation under test: how many bits of a and b differ."""
        raise unittest.SkipTest(f"{type(self).__name__} has no hamming")

    # --- a byte a number ---

    @for_all(drawn=Drawn)
    def a_byte_is_within_half_a_step_of_its_number(self, drawn: tuple[F32, F32]) -> None:
        """|x - (low + (q + 1/2) step)| <= step/2, and 2^-20 of the range's ends for rounding in float32."""
        x, ranges = drawn
        low, step = steps(ranges)
        middle = low + (self.bytes_of(x, "uint8", ranges).astype(np.float64) + 0.5) * step
        close(middle, x, step / 2 + 2.0**-20 * np.abs(ranges).max(axis=0), "the middle of the step")

    @for_all(drawn=Drawn)
    def int8_is_uint8_less_128(self, drawn: tuple[F32, F32]) -> None:
        """int8 = uint8 - 128, as numbers."""
        x, ranges = drawn
        signed, unsigned = self.bytes_of(x, "int8", ranges), self.bytes_of(x, "uint8", ranges)
        same(signed, unsigned.astype(np.int64) - 128, "int8")

    @for_all(drawn=Drawn)
    def outside_its_range_a_number_is_the_end_of_it(self, drawn: tuple[F32, F32]) -> None:
        """x <= low gives 0 and x >= high + step gives 255: clipped, never wrapped around."""
        x, ranges = drawn
        far = np.stack([ranges[0] - 3 * np.ptp(ranges, axis=0), ranges[1] + 3 * np.ptp(ranges, axis=0)])
        found = self.bytes_of(far.astype(np.float32), "uint8", ranges)
        same(found, np.stack([np.zeros(x.shape[1]), np.full(x.shape[1], 255)]), "bytes outside the range")

    @for_all(drawn=Drawn)
    def a_larger_number_has_no_smaller_byte(self, drawn: tuple[F32, F32]) -> None:
        """x_d <= y_d gives q(x)_d <= q(y)_d."""
        x, ranges = drawn
        inner = np.sort(x, axis=0)
        found = self.bytes_of(inner, "uint8", ranges).astype(np.float64)
        at_most(found[:-1], found[1:], 0, "bytes in order")

    # --- a bit a number ---

    @for_all(x=draw.vector_rows())
    def a_bit_says_whether_its_number_is_above_zero(self, x: F32) -> None:
        """Bit d, counted from the highest of the first byte, is [x_d > 0]; what fills the last byte is 0."""
        found = self.bytes_of(x, "ubinary", np.zeros((2, x.shape[1]), np.float32))
        N, D = x.shape
        expected = np.zeros((N, -(-D // 8)), np.int64)
        for d in range(D):
            expected[:, d // 8] += np.where(x[:, d] > 0, 1 << (7 - d % 8), 0)
        same(found, expected, "bits")

    @for_all(x=draw.vector_rows())
    def binary_is_ubinary_less_128(self, x: F32) -> None:
        """binary = ubinary - 128, as numbers."""
        ranges = np.zeros((2, x.shape[1]), np.float32)
        signed, unsigned = self.bytes_of(x, "binary", ranges), self.bytes_of(x, "ubinary", ranges)
        same(signed, unsigned.astype(np.int64) - 128, "binary")

    @for_all(drawn=draw.shuffled(draw.vector_rows()), precision=st.sampled_from(["int8", "uint8", "binary", "ubinary"]))
    def rows_stand_alone(self, drawn: tuple[F32, Any], precision: str) -> None:
        """A vector's code depends on that vector and the ranges alone: not on its neighbors, nor on its place."""
        x, order = drawn
        ranges = np.stack([x.min(axis=0), x.max(axis=0)])
        whole = self.bytes_of(x, precision, ranges)
        same(self.bytes_of(x[order], precision, ranges), whole[order], "codes, rows moved")
        same(self.bytes_of(x[:1], precision, ranges), whole[:1], "the code of one alone")

    def bytes_of(self, x: F32, precision: str, ranges: F32) -> npt.NDArray[Any]:
        """What the implementation gives, its type checked."""
        found = np.asarray(self.quantize(x, precision, ranges))
        expected = np.uint8 if precision.startswith("u") else np.int8
        if found.dtype != expected:
            raise AssertionError(f"{precision}: codes are {found.dtype}")
        return found

    # --- Hamming ---

    @for_all(ab=codes())
    def hamming_counts_the_bits_that_differ(self, ab: tuple[Bytes, ...]) -> None:
        """The ones of a XOR b, taken as one large number."""
        a, b = (int.from_bytes(x.tobytes(), "big") for x in ab)
        same(self.hamming(*ab), (a ^ b).bit_count(), "hamming")

    @for_all(abc=codes(3))
    def hamming_is_a_distance(self, abc: tuple[Bytes, ...]) -> None:
        """d(a, a) = 0, d(a, b) = d(b, a), d(a, c) <= d(a, b) + d(b, c); and a and not a differ in every bit."""
        a, b, c = abc
        same(self.hamming(a, a), 0, "hamming with itself")
        same(self.hamming(b, a), self.hamming(a, b), "hamming, the other way")
        at_most(self.hamming(a, c), self.hamming(a, b) + self.hamming(b, c), 0, "hamming, straight")
        same(self.hamming(a, ~a), 8 * len(a), "hamming with the opposite")


def steps(ranges: F32) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """low and step of each dimension, in double: (2, D) -> (D), (D)."""
    low, high = ranges.astype(np.float64)
    return low, (high - low) / 255
