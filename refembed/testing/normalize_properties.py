"""What normalizing does, in any implementation: properties of scaling each vector to one length.

    from refembed.testing import NormalizeContract

    class TestMine(NormalizeContract):
        norms = (2,)                     # those your engine has; llama.cpp's -1, 0, 1, 2 and p unless said

        def normalize(self, x, p):       # (N, D) float32 -> (N, D)
            return my_engine.normalize(x, p)

In the formulas y = f_p(x) = x / |x|_p, where |x|_p = (sum |x_i|^p)^(1/p); p = 0 stands for |x|_0 = max |x_i| / 32760
and p = -1 for |x|_-1 = 1, as in llama.cpp's embd_normalize. From x and y the length can be read back, as |x_k| / |y_k|,
and the laws of a norm are checked on that. Nothing here is an expectation taken from refembed.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, F64
from refembed.testing import strategies as draw
from refembed.testing.contract import Contract, at_most, close, for_all, same


class NormalizeContract(Contract):
    """Subclass it, give it `normalize`, and pytest runs every property below on your implementation.

    >>> class Mine(NormalizeContract):
    ...     norms = (2,)
    ...     def normalize(self, x, p):
    ...         length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    ...         return x / np.where(length > 0, length, 1)
    >>> Mine().failures(max_examples=5)
    {}
    """

    norms: ClassVar[tuple[int, ...]] = draw.NORMS  # those to try
    dtype: ClassVar[type[np.floating[Any]]] = np.float32  # of the vectors handed over

    # How far a number of the result may be off, relative to itself. The default leaves room for sums in float32 over
    # the 16 numbers drawn here; llama.cpp's way, squares in float32 and sums in double, stays within 2.5 x 2^-24.
    rounding: ClassVar[float] = 1e-6

    def normalize(self, x: Any, p: int) -> Any:
        """The implementation under test: x (N, D) -> (N, D)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method normalize(self, x, p)")

    def rows(self, x: npt.NDArray[Any], p: int) -> F64:
        """x (N, D), normalized."""
        return np.asarray(self.normalize(x.astype(self.dtype), p), np.float64)

    def one(self, x: npt.NDArray[Any], p: int) -> F64:
        """x (D), normalized."""
        y = self.rows(x[None], p)
        if y.shape != (1, len(x)):
            raise AssertionError(f"p = {p}: shape {y.shape}, expected {(1, len(x))}")
        return y[0]

    def length(self, x: npt.NDArray[Any], p: int) -> float:
        """|x|_p as the implementation has it: what it divided by, seen at the largest number."""
        k = int(np.abs(x).argmax())
        y = abs(float(self.one(x, p)[k]))
        return abs(float(x[k])) / y if y else math.inf

    def of(self, least: int) -> list[int]:
        """Those norms that the implementation has, from `least` up."""
        return [p for p in self.norms if p >= least]

    # --- what a normalized vector is ---

    @for_all(x=draw.wild_vectors())
    def minus_one_changes_nothing(self, x: F32) -> None:
        """f_-1(x) = x, to the last bit, subnormal and huge numbers too."""
        for p in self.norms:
            if p == -1:
                same(self.one(x, p), x, "p = -1")

    @for_all(x=draw.vectors())
    def its_length_is_one(self, x: F32) -> None:
        """|f_p(x)|_p = 1 for p >= 1."""
        for p in self.of(1):
            close(p_length(self.one(x, p), p), 1, self.rounding, f"p = {p}, length")

    @for_all(x=draw.vectors())
    def its_largest_magnitude_is_32760(self, x: F32) -> None:
        """max |f_0(x)| = 32760, for int16 to hold."""
        for p in self.norms:
            if p == 0:
                close(np.abs(self.one(x, p)).max(), 32760, 32760 * self.rounding, "p = 0, largest")

    @for_all(x=draw.vectors())
    def it_points_the_same_way(self, x: F32) -> None:
        """y_i x_k = y_k x_i for every i and k: y is x times one number, and that number is positive."""
        for p in self.norms:
            y, k = self.one(x, p), int(np.abs(x).argmax())
            same(np.sign(y), np.sign(x), f"p = {p}, signs")
            close(
                y * float(x[k]),
                y[k] * x.astype(np.float64),
                2 * self.rounding * np.abs(y[k] * x),
                f"p = {p}, direction",
            )

    @for_all(D=draw.counts(1, 16), p=draw.norms(1), size=draw.factors())
    def one_number_becomes_its_sign(self, D: int, p: int, size: float) -> None:
        """x = (0, ..., a, ..., 0): f_p(x) has sign(a) there, for p >= 1."""
        if p in self.norms:
            x = np.zeros((2, D), np.float32)
            x[:, D // 2] = size, -size
            close(self.rows(x, p), np.sign(x), self.rounding * np.abs(np.sign(x)), f"p = {p}")

    @for_all(N=draw.counts(1, 4), D=draw.counts(1, 16))
    def zero_stays_zero(self, N: int, D: int) -> None:
        """f_p(0) = 0: no NaN and no infinity from a vector of no length."""
        for p in self.norms:
            same(self.rows(np.zeros((N, D), np.float32), p), np.zeros((N, D)), f"p = {p}")

    # --- what does not change it ---

    @for_all(x=draw.vectors(), scale=draw.powers_of_two())
    def size_does_not_matter(self, x: F32, scale: float) -> None:
        """f_p(2^k x) = f_p(x), to the last bit for p = 0, 1 and 2; within rounding for other p."""
        for p in self.of(0):
            y = self.one(x, p)
            within = 0.0 if p <= 2 else 2 * self.rounding * np.abs(y)
            close(self.one(x * np.float32(scale), p), y, within, f"p = {p}, x times {scale:g}")

    @for_all(x=draw.vectors(), scale=draw.factors())
    def any_positive_factor_cancels(self, x: F32, scale: float) -> None:
        """f_p(c x) = f_p(x) for c > 0, within rounding: of c x, and of both results."""
        for p in self.of(0):
            y = self.one(x, p)
            noise = (2 * self.rounding + 2.0**-22) * np.abs(y)
            close(self.one(x * np.float32(scale), p), y, noise, f"p = {p}, x times {scale:g}")

    @for_all(x=draw.vectors())
    def a_sign_passes_through(self, x: F32) -> None:
        """f_p(-x) = -f_p(x), to the last bit."""
        for p in self.norms:
            same(self.one(-x, p), -self.one(x, p), f"p = {p}")

    @for_all(x=draw.vectors())
    def twice_is_once(self, x: F32) -> None:
        """f_p(f_p(x)) = f_p(x), within rounding."""
        for p in self.norms:
            y = self.one(x, p)
            close(self.one(y, p), y, 2 * self.rounding * np.abs(y), f"p = {p}")

    @for_all(drawn=draw.shuffled(draw.vectors()))
    def the_order_of_numbers_does_not_matter(self, drawn: tuple[F32, Any]) -> None:
        """f_p of reordered numbers is f_p, reordered, within rounding: the sum is taken in another order."""
        x, order = drawn
        for p in self.norms:
            y = self.one(x, p)[order]
            close(self.one(x[order], p), y, 2 * self.rounding * np.abs(y), f"p = {p}")

    @for_all(x=draw.vectors(), zeros=draw.counts(1, 16))
    def zeros_at_the_end_add_nothing(self, x: F32, zeros: int) -> None:
        """f_p(x_1, ..., x_D, 0, ..., 0) = (f_p(x), 0, ..., 0)."""
        for p in self.norms:
            padded = np.concatenate([self.one(x, p), np.zeros(zeros)])
            close(self.one(np.pad(x, (0, zeros)), p), padded, self.rounding * np.abs(padded), f"p = {p}")

    @for_all(drawn=draw.shuffled(draw.vector_rows()))
    def rows_stand_alone(self, drawn: tuple[F32, Any]) -> None:
        """A row's bits are the same alone, among others, and in any order of rows."""
        x, order = drawn
        for p in self.norms:
            together = self.rows(x, p)
            same(self.rows(x[order], p), together[order], f"p = {p}, reordered")
            for i, row in enumerate(x):
                same(self.one(row, p), together[i], f"p = {p}, row {i} of {len(x)}")

    # --- the length it divides by is a norm ---

    @for_all(x=draw.vectors())
    def the_length_is_the_formula_s(self, x: F32) -> None:
        """The length it divides by is (sum |x_i|^p)^(1/p), the sum taken exactly; max |x_i| / 32760 for p = 0."""
        for p in self.of(0):
            exact = p_length(x, p) if p else float(np.abs(x).max()) / 32760
            close(self.length(x, p), exact, self.rounding * exact, f"p = {p}, length")

    @for_all(xy=draw.vector_tuples(2))
    def the_way_round_is_no_shorter(self, xy: tuple[F32, F32]) -> None:
        """|x + y|_p <= |x|_p + |y|_p for p >= 1, the triangle inequality (Minkowski)."""
        x, y = (v.astype(self.dtype) for v in xy)
        z = x + y
        for p in self.of(1):
            if z.any():
                sides = self.length(x, p) + self.length(y, p)
                at_most(self.length(z, p), sides, 3 * self.rounding * sides, f"p = {p}, third side")

    @for_all(x=draw.vectors())
    def a_higher_p_is_no_longer(self, x: F32) -> None:
        """|x|_1 >= |x|_2 >= |x|_3 >= ... >= max |x_i|, and |x|_p <= D^(1/p) max |x_i|."""
        lengths = [(p, self.length(x, p)) for p in sorted(self.of(1))]
        largest = float(np.abs(x).max())
        for (p, longer), (q, shorter) in itertools.pairwise(lengths):
            at_most(shorter, longer, 2 * self.rounding * longer, f"length for p = {q}, below that for p = {p}")
        for p, length in lengths:
            at_most(largest, length, self.rounding * length, f"largest number, below the length for p = {p}")
            high = len(x) ** (1 / p) * largest
            at_most(length, high, self.rounding * high, f"length for p = {p}")

    @for_all(x=draw.vectors(max_size=8), times=draw.counts(2, 4))
    def repeating_lengthens_by_a_root(self, x: F32, times: int) -> None:
        """|x x ... x|_p = m^(1/p) |x|_p for m copies of x, p >= 1; p = 0: as long as x."""
        for p in self.of(0):
            expected = self.length(x, p) * (times ** (1 / p) if p else 1)
            close(self.length(np.tile(x, times), p), expected, 2 * self.rounding * expected, f"p = {p}, {times} copies")


def p_length(x: npt.NDArray[Any], p: int) -> float:
    """(sum |x_i|^p)^(1/p), the sum exact, the powers in double."""
    return math.fsum(abs(float(v)) ** p for v in x) ** (1 / p)
