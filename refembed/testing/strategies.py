"""Hypothesis strategies: hidden states, packed batches, vectors, norms, pooling modes, drawn small and hostile.

    @given(batch=batches())
    def test_mine(batch):
        my_engine.pool(batch.hidden, batch.offsets, "mean")

Numbers are float32, zero or between 2^-15 and 2^13 in magnitude unless said otherwise, a quarter of them small whole
numbers. Squares of their sums stay well inside float32, so that a property measures the implementation, not the edge of
the format; and the sum of two is exact in double, so that it does not measure the property either.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:  # an optional dependency
    raise ImportError("refembed.testing needs Hypothesis\n  hint: pip install hypothesis") from error

from refembed.arrays import F32, I64

Strategy = st.SearchStrategy

MODES = ("none", "mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean")
NORMS = (-1, 0, 1, 2, 3, 5)  # llama.cpp's embd_normalize: none, largest magnitude, taxicab, Euclid, p-norms


class PackedBatch(NamedTuple):
    """S texts of T tokens in all, end to end: text s is rows offsets[s]:offsets[s+1] of hidden."""

    hidden: F32  # (T, C)
    offsets: I64  # (S+1)

    @property
    def texts(self) -> list[F32]:
        """Each text's own rows: S of (T_s, C)."""
        return [self.hidden[i:j] for i, j in itertools.pairwise(self.offsets)]


def packed(texts: list[F32]) -> PackedBatch:
    """Lay texts (T_s, C) end to end."""
    return PackedBatch(np.concatenate(texts), np.cumsum([0, *map(len, texts)], dtype=np.int64))


def numbers_from(raw: bytes) -> F32:
    """One number from every four bytes, much quicker than drawing each by itself. Four bytes 0 are the number 0.

    Bits 0-1: 0 for a whole number from -4 to 4, by bits 8-31; else a float with its sign in bit 2, its exponent in
    bits 3-7 and its mantissa in bits 9-31.
    """
    bits = np.frombuffer(raw, "<u4").astype(np.int64)
    whole = ((bits >> 8) + 4) % 9 - 4
    sign = 1 - 2 * (bits >> 2 & 1)
    size = np.ldexp(1 + (bits >> 9) * 2.0**-23, np.minimum(bits >> 3 & 31, 27) - 15)
    return np.where(bits & 3, sign * size, whole).astype(np.float32)


def arrays(*shape: int) -> Strategy[F32]:
    """Arrays of a shape."""
    count = int(np.prod(shape))
    return st.binary(min_size=4 * count, max_size=4 * count).map(lambda raw: numbers_from(raw).reshape(shape))


def lengths(max_texts: int = 5, max_tokens: int = 12) -> Strategy[list[int]]:
    """How many tokens each text of a batch has: 1 to max_texts numbers from 1 to max_tokens."""
    return st.lists(st.integers(1, max_tokens), min_size=1, max_size=max_texts)


@st.composite
def hidden_states(draw: st.DrawFn, tokens: int | None = None, channels: int | None = None) -> F32:
    """The states (T, C) of one text; T from 1 to 12, C from 1 to 6, unless given."""
    return draw(arrays(tokens or draw(st.integers(1, 12)), channels or draw(st.integers(1, 6))))


@st.composite
def batches(draw: st.DrawFn, max_texts: int = 5, max_tokens: int = 12, max_channels: int = 6) -> PackedBatch:
    """Packed batches of 1 to max_texts texts."""
    sizes = draw(lengths(max_texts, max_tokens))
    hidden = draw(arrays(sum(sizes), draw(st.integers(1, max_channels))))
    return PackedBatch(hidden, np.cumsum([0, *sizes], dtype=np.int64))


@st.composite
def two_texts(draw: st.DrawFn, same_length: bool = False) -> tuple[F32, F32]:
    """The states of two texts, (n, C) and (m, C); same_length: m = n."""
    C, n = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    m = n if same_length else draw(st.integers(1, 12))
    return draw(arrays(n, C)), draw(arrays(m, C))


@st.composite
def vector_tuples(draw: st.DrawFn, count: int = 2, max_size: int = 16) -> tuple[F32, ...]:
    """Some vectors (D) of one length, none of them zero."""
    D = draw(st.integers(1, max_size))
    return tuple(draw(arrays(D).filter(np.any)) for _ in range(count))


def vectors(max_size: int = 16) -> Strategy[F32]:
    """One vector (D) that is not zero."""
    return vector_tuples(1, max_size).map(lambda one: one[0])


@st.composite
def vector_rows(draw: st.DrawFn, max_rows: int = 6, max_size: int = 16) -> F32:
    """Several vectors (N, D), some perhaps zero."""
    return draw(arrays(draw(st.integers(1, max_rows)), draw(st.integers(1, max_size))))


def wild_vectors(max_size: int = 16) -> Strategy[F32]:
    """One vector (D) of any finite float32: subnormal, huge, zero."""
    anything = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return hnp.arrays(np.float32, st.integers(1, max_size), elements=anything)


def norms(least: int = -1) -> Strategy[int]:
    """A norm p, from `least` up."""
    return st.sampled_from([p for p in NORMS if p >= least])


def modes() -> Strategy[str]:
    """A pooling mode."""
    return st.sampled_from(MODES)


def powers_of_two(least: int = -10, most: int = 10) -> Strategy[float]:
    """2^k: multiplying by it rounds nothing."""
    return st.integers(least, most).map(lambda k: 2.0**k)


def factors() -> Strategy[float]:
    """A positive float32, 1/16 to 16."""
    return st.floats(1 / 16, 16, width=32)


def counts(least: int, most: int) -> Strategy[int]:
    """A whole number, both ends included."""
    return st.integers(least, most)


@st.composite
def shuffled(draw: st.DrawFn, of: Strategy[Any]) -> tuple[Any, npt.NDArray[np.int64]]:
    """An array, or a batch, and an order of its rows, or texts."""
    value = draw(of)
    n = len(value.texts) if isinstance(value, PackedBatch) else len(value)
    return value, np.array(draw(st.permutations(range(n))), np.int64)
