"""What measures of likeness do, in any implementation: properties of cosine, dot product and two distances.

    from refembed.testing import SimilarityContract

    class TestMine(SimilarityContract):
        def cosine(self, a, b):          # (D), (D) float32 -> float; likewise dot, euclidean, manhattan, those you have
            return my_engine.cosine(a, b)

A property of a measure that is not there is skipped. In the formulas <a, b> is the dot product and |a| the Euclidean
length. Nothing here is an expectation taken from refembed.
"""

from __future__ import annotations

import math
import unittest
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.testing import strategies as draw
from refembed.testing.contract import Contract, at_most, close, for_all

Pair = tuple[F32, F32]


class SimilarityContract(Contract):
    """Subclass it, give it what your engine has of the four, and pytest runs the properties on it.

    >>> class Mine(SimilarityContract):
    ...     def dot(self, a, b):
    ...         return float(a.astype(np.float64) @ b)
    ...     def euclidean(self, a, b):
    ...         return float(np.linalg.norm(a.astype(np.float64) - b))
    ...     def manhattan(self, a, b):
    ...         return float(np.abs(a.astype(np.float64) - b).sum())
    ...     def cosine(self, a, b):
    ...         lengths = np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64))
    ...         return self.dot(a, b) / lengths if lengths else float(not a.any() and not b.any())
    >>> Mine().failures(max_examples=5)
    {}
    """

    # How far a result may be off: a cosine by this much, the others by this part of what they sum in magnitude. The
    # default is for sums in float32 over the 16 numbers drawn here.
    rounding: ClassVar[float] = 2e-6

    def cosine(self, a: Any, b: Any) -> float:
        """The implementation under test: <a, b> / (|a| |b|)."""
        raise unittest.SkipTest(f"{type(self).__name__} has no cosine")

    def dot(self, a: Any, b: Any) -> float:
        """The implementation under test: <a, b>."""
        raise unittest.SkipTest(f"{type(self).__name__} has no dot")

    def euclidean(self, a: Any, b: Any) -> float:
        """The implementation under test: |a - b|."""
        raise unittest.SkipTest(f"{type(self).__name__} has no euclidean")

    def manhattan(self, a: Any, b: Any) -> float:
        """The implementation under test: sum |a_i - b_i|."""
        raise unittest.SkipTest(f"{type(self).__name__} has no manhattan")

    # --- cosine ---

    @for_all(ab=draw.vector_tuples(2))
    def cosine_is_the_same_both_ways_and_between_minus_1_and_1(self, ab: Pair) -> None:
        """cos(a, b) = cos(b, a), and -1 <= cos(a, b) <= 1 (Cauchy and Schwarz)."""
        a, b = ab
        c = self.cosine(a, b)
        close(self.cosine(b, a), c, self.rounding, "cosine, the other way")
        at_most(abs(c), 1, self.rounding, "cosine")

    @for_all(a=draw.vectors())
    def cosine_of_a_vector_with_itself_is_1(self, a: F32) -> None:
        """cos(a, a) = 1, cos(a, -a) = -1."""
        close(self.cosine(a, a), 1, self.rounding, "cosine with itself")
        close(self.cosine(a, -a), -1, self.rounding, "cosine with the opposite")

    @for_all(ab=draw.vector_tuples(2), scale=draw.powers_of_two())
    def cosine_does_not_see_length(self, ab: Pair, scale: float) -> None:
        """cos(2^k a, b) = cos(a, b), and cos(-a, b) = -cos(a, b)."""
        a, b = ab
        c = self.cosine(a, b)
        close(self.cosine(a * np.float32(scale), b), c, self.rounding, "cosine, one vector longer")
        close(self.cosine(-a, b), -c, self.rounding, "cosine, one vector turned round")

    @for_all(a=draw.vectors(), zeros=draw.counts(1, 8))
    def cosine_is_0_at_right_angles(self, a: F32, zeros: int) -> None:
        """cos((a, 0), (0, a)) = 0, exactly: every product is 0."""
        left, right = np.pad(a, (0, len(a) + zeros)), np.pad(a, (len(a) + zeros, 0))
        close(self.cosine(left, right), 0, 0, "cosine at right angles")

    @for_all(a=draw.vectors())
    def cosine_with_zero_is_llama_cpp_s(self, a: F32) -> None:
        """cos(a, 0) = cos(0, a) = 0, cos(0, 0) = 1: a rule, as the formula says 0/0 (common_embd_similarity_cos)."""
        zero = np.zeros_like(a)
        close(self.cosine(a, zero), 0, 0, "cosine with zero")
        close(self.cosine(zero, a), 0, 0, "cosine of zero")
        close(self.cosine(zero, zero), 1, 0, "cosine of two zeros")

    @for_all(drawn=draw.shuffled(draw.vectors()))
    def cosine_of_numbers_moved_alike_is_the_same(self, drawn: tuple[F32, Any]) -> None:
        """Reordering both vectors in the same way changes nothing: cos(Pa, Pb) = cos(a, b)."""
        a, order = drawn
        b = a[::-1]
        close(self.cosine(a[order], b[order]), self.cosine(a, b), self.rounding, "cosine, reordered")

    # --- dot ---

    @for_all(ab=draw.vector_tuples(2))
    def dot_is_the_sum_of_products(self, ab: Pair) -> None:
        """<a, b> = sum a_i b_i, the sum taken exactly, and <a, b> = <b, a>."""
        a, b = ab
        exact, slack = exact_dot(a, b), self.rounding * exact_dot(np.abs(a), np.abs(b))
        close(self.dot(a, b), exact, slack, "dot")
        close(self.dot(b, a), exact, slack, "dot, the other way")

    @for_all(abc=draw.vector_tuples(3))
    def dot_is_linear(self, abc: tuple[F32, F32, F32]) -> None:
        """<a + b, c> = <a, c> + <b, c>, and <2 a, c> = 2 <a, c>."""
        a, b, c = abc
        slack = (3 * self.rounding + 2.0**-23) * exact_dot(np.abs(a) + np.abs(b), np.abs(c))
        close(self.dot(a + b, c), self.dot(a, c) + self.dot(b, c), slack, "dot of a sum")
        close(self.dot(2 * a, c), 2 * self.dot(a, c), slack, "dot of twice")

    @for_all(ab=draw.vector_tuples(2))
    def dot_is_no_more_than_both_lengths(self, ab: Pair) -> None:
        """|<a, b>| <= |a| |b| (Cauchy and Schwarz)."""
        a, b = ab
        lengths = math.sqrt(exact_dot(a, a) * exact_dot(b, b))
        at_most(abs(self.dot(a, b)), lengths, self.rounding * lengths, "dot")

    # --- distances ---

    @for_all(abc=draw.vector_tuples(3))
    def euclidean_is_a_distance(self, abc: tuple[F32, F32, F32]) -> None:
        """d(a, a) = 0, d(a, b) = d(b, a), d(a, c) <= d(a, b) + d(b, c)."""
        self.is_a_distance(self.euclidean, *abc)

    @for_all(abc=draw.vector_tuples(3))
    def manhattan_is_a_distance(self, abc: tuple[F32, F32, F32]) -> None:
        """d(a, a) = 0, d(a, b) = d(b, a), d(a, c) <= d(a, b) + d(b, c)."""
        self.is_a_distance(self.manhattan, *abc)

    def is_a_distance(self, d: Any, a: F32, b: F32, c: F32) -> None:
        """The three laws of a distance."""
        ab, bc = d(a, b), d(b, c)
        close(d(a, a), 0, 0, "distance to itself")
        close(d(b, a), ab, self.rounding * ab, "distance, the other way")
        at_most(d(a, c), ab + bc, 3 * self.rounding * (ab + bc), "straight way")

    @for_all(ab=draw.vector_tuples(2))
    def the_straight_way_is_the_shorter(self, ab: Pair) -> None:
        """euclidean <= manhattan <= sqrt(D) euclidean."""
        a, b = ab
        straight, round_ = self.euclidean(a, b), self.manhattan(a, b)
        at_most(straight, round_, 2 * self.rounding * round_, "euclidean, below manhattan")
        at_most(round_, math.sqrt(len(a)) * straight, 2 * self.rounding * round_, "manhattan, below sqrt(D) euclidean")

    @for_all(D=draw.counts(1, 16), size=draw.factors(), k=draw.counts(0, 15))
    def along_an_axis_all_ways_are_one(self, D: int, size: float, k: int) -> None:
        """euclidean(0, a e_k) = manhattan(0, a e_k) = |a|."""
        x, zero = np.zeros(D, np.float32), np.zeros(D, np.float32)
        x[k % D] = size
        close(self.euclidean(zero, x), abs(size), self.rounding * abs(size), "euclidean along an axis")
        close(self.manhattan(zero, x), abs(size), self.rounding * abs(size), "manhattan along an axis")

    @for_all(a=draw.vectors(), b=draw.vectors())
    def manhattan_adds_up(self, a: F32, b: F32) -> None:
        """manhattan((a, b), 0) = manhattan(a, 0) + manhattan(b, 0), and euclidean^2 likewise (Pythagoras)."""
        both = np.concatenate([a, b])
        for d, power in ((self.manhattan, 1), (self.euclidean, 2)):
            whole, left, right = (d(x, np.zeros_like(x)) ** power for x in (both, a, b))
            close(whole, left + right, 6 * self.rounding * whole, f"{d.__name__} to zero")

    # --- how they hang together ---

    @for_all(ab=draw.vector_tuples(2))
    def dot_and_euclidean_agree(self, ab: Pair) -> None:
        """|a - b|^2 = <a, a> + <b, b> - 2 <a, b>."""
        a, b = ab
        squares = self.dot(a, a) + self.dot(b, b)
        close(self.euclidean(a, b) ** 2, squares - 2 * self.dot(a, b), 6 * self.rounding * squares, "euclidean squared")

    @for_all(ab=draw.vector_tuples(2))
    def dot_and_cosine_agree(self, ab: Pair) -> None:
        """cos(a, b) = <a, b> / sqrt(<a, a> <b, b>)."""
        a, b = ab
        expected = self.dot(a, b) / math.sqrt(self.dot(a, a) * self.dot(b, b))
        close(self.cosine(a, b), expected, 3 * self.rounding, "cosine")

    @for_all(ab=draw.vector_tuples(2))
    def for_unit_vectors_all_rank_alike(self, ab: Pair) -> None:
        """|a| = |b| = 1: <a, b> = cos(a, b), and |a - b|^2 = 2 - 2 cos(a, b)."""
        a, b = (np.float32(x / math.sqrt(exact_dot(x, x))) for x in ab)
        c = self.cosine(a, b)
        close(self.dot(a, b), c, 2 * self.rounding, "dot of unit vectors")
        close(self.euclidean(a, b) ** 2, 2 - 2 * c, 8 * self.rounding, "euclidean squared of unit vectors")


def exact_dot(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """sum a_i b_i of float32 numbers: products exact in double, their sum exact too, rounded once."""
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
