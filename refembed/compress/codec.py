"""What every scheme is: a codec that turns vectors into codes, back into vectors, and ranks codes by a query.

    codec = fit("int8", corpus)          # what is to be learned from the corpus: ranges, codebooks
    codes = codec.encode(corpus)         # (N, ...)
    codec.decode(codes)                  # (N, D) float32, as near as the scheme comes
    codec.scores(query, codec.prepare(codes))  # (N) float32, larger is nearer

A vector's code, and what comes back from it, do not depend on the other vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, Float
from refembed.errors import RequestError

VECTORS_AT_A_TIME = 8192  # vectors taken at a time; changes no bits

Codes = npt.NDArray[Any]


class Codec(ABC):
    """A scheme with all that it needs to encode and decode vectors of D numbers.

    scheme       as `--to` names it: int8, pq:96 ...
    dimensions   D
    code_dtype   of codes, and
    code_shape   the shape of one vector's code
    """

    scheme: str
    dimensions: int
    code_dtype: np.dtype[Any]
    code_shape: tuple[int, ...]
    stored: ClassVar[tuple[str, ...]] = ()  # the arrays that a file keeps in addition to the codes

    @abstractmethod
    def encode_rows(self, x: Float) -> Codes:
        """Codes of x (N, D), checked."""

    @abstractmethod
    def decode_rows(self, codes: Codes) -> F32:
        """Vectors (N, D) of codes, checked."""

    @abstractmethod
    def scores(self, query: F32, prepared: Any) -> F32:
        """How near each code is to query (D): (N), larger is nearer. The quick way, on `prepare`d codes."""

    @property
    def bytes(self) -> int:
        """Bytes a vector."""
        return int(np.prod(self.code_shape, dtype=np.int64)) * self.code_dtype.itemsize

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What was learned, by name: `of_arrays` makes the codec from it again."""
        return {name: getattr(self, name) for name in self.stored}

    def encode(self, x: npt.ArrayLike) -> Codes:
        """Codes of vectors.

        x        (N, D), or (D) for one   float32; anything else is taken as float64
        returns  (N, ...), or (...)       of `code_dtype` and `code_shape`
        Raises RequestError for what is not of numbers, not finite, or not of D numbers a vector.
        """
        rows, one = as_rows(x, self.dimensions)
        parts = [
            self.encode_rows(check_finite(rows[i : i + VECTORS_AT_A_TIME]))
            for i in range(0, len(rows), VECTORS_AT_A_TIME)
        ]
        codes = np.concatenate(parts) if parts else np.empty((0, *self.code_shape), self.code_dtype)
        return codes[0] if one else codes

    def decode(self, codes: npt.ArrayLike) -> F32:
        """Vectors (N, D) float32 of codes (N, ...), or one of one. RequestError for codes of another scheme."""
        array = np.asarray(codes)
        one = array.shape == self.code_shape
        rows = self.check_codes(array[None] if one else array)
        out = np.empty((len(rows), self.dimensions), np.float32)
        for i in range(0, len(rows), VECTORS_AT_A_TIME):
            out[i : i + VECTORS_AT_A_TIME] = self.decode_rows(rows[i : i + VECTORS_AT_A_TIME])
        return out[0] if one else out

    def check_codes(self, codes: Codes) -> Codes:
        """The codes as they are, or RequestError."""
        if codes.dtype != self.code_dtype or codes.ndim == 0 or codes.shape[1:] != self.code_shape:
            expected = f"{self.code_dtype} of shape {('N', *self.code_shape)}".replace("'", "")
            raise RequestError(f"codes of {self.scheme} are {expected}, not {codes.dtype} of shape {codes.shape}")
        return codes

    def prepare(self, codes: Codes) -> Any:
        """Codes laid out for `scores`, once for many queries."""
        return codes

    def refine(self, query: F32, codes: Codes) -> F32:
        """<query, decode(code)> of each code: (N). Slower than `scores` where that sees less; for few candidates."""
        return self.decode(codes) @ query


def as_rows(x: npt.ArrayLike, dimensions: int | None = None) -> tuple[Float, bool]:
    """Vectors as (N, D) float32 or float64, and whether it was a single one. Not yet checked for NaN."""
    try:
        array = np.asarray(x)
    except ValueError as error:  # a list of lists of several lengths
        raise RequestError(f"not vectors of one length: {error}") from None
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or array.shape[-1] == 0:
        hint = "an array (N, D): a row a vector"
        raise RequestError(f"these are not vectors: {array.dtype} of shape {array.shape}", hint=hint)
    if array.dtype in (np.int8, np.uint8):
        raise RequestError(f"these vectors are {array.dtype}: compressed already", hint="decode them first")
    if dimensions is not None and array.shape[-1] != dimensions:
        hint = "a codec takes vectors of the model it was made for"
        raise RequestError(f"vectors of {array.shape[-1]} numbers, but this codec is for {dimensions}", hint=hint)
    rows = array[None] if array.ndim == 1 else array
    if rows.dtype == np.float16:
        rows = rows.astype(np.float32)
    return (rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)), array.ndim == 1


def check_finite(rows: Float) -> Float:
    """The rows as they are; RequestError for NaN, infinity, and what float32 cannot hold."""
    sound = np.abs(rows) <= np.finfo(np.float32).max  # NaN is not
    if not sound.all():
        row, column = (int(i) for i in np.argwhere(~sound)[0])
        found = f"vector {row}, number {column} is {rows[row, column]}"
        raise RequestError(f"{found}: not a number that float32 holds", hint="embed that text again, or leave it out")
    return rows


def ranges_of(x: npt.ArrayLike) -> F32:
    """The smallest and the largest number of each dimension: x (N, D) -> (2, D) float32."""
    rows, _ = as_rows(x)
    if not len(rows):
        raise RequestError("no vectors to take ranges from")
    parts = [check_finite(rows[i : i + VECTORS_AT_A_TIME]) for i in range(0, len(rows), VECTORS_AT_A_TIME)]
    low = np.min([part.min(axis=0) for part in parts], axis=0)
    high = np.max([part.max(axis=0) for part in parts], axis=0)
    return np.vstack((low, high)).astype(np.float32)
