"""Schemes that stay with floats: as they are, in half the bytes, or fewer of them."""

from __future__ import annotations

import numpy as np

from refembed.arrays import F32, Float
from refembed.compress.codec import Codec, Codes
from refembed.errors import RequestError
from refembed.pooling.normalize import normalize


class Float32(Codec):
    """As it is: what the others are measured against. decode(encode(x)) = x for float32."""

    def __init__(self, dimensions: int) -> None:
        self.scheme, self.dimensions = "float32", dimensions
        self.code_dtype, self.code_shape = np.dtype("<f4"), (dimensions,)

    def encode_rows(self, x: Float) -> Codes:
        """x in float32."""
        return x.astype(np.float32)

    def decode_rows(self, codes: Codes) -> F32:
        """The codes."""
        return codes

    def scores(self, query: F32, prepared: Codes) -> F32:
        """Dot products, by BLAS."""
        return prepared @ query


class Float16(Codec):
    """IEEE half precision, rounded to nearest, ties to even: |x - decode(encode(x))| <= max(2^-11 |x|, 2^-25)."""

    LARGEST = 65504.0

    def __init__(self, dimensions: int) -> None:
        self.scheme, self.dimensions = "float16", dimensions
        self.code_dtype, self.code_shape = np.dtype("<f2"), (dimensions,)

    def encode_rows(self, x: Float) -> Codes:
        """x in float16. Numbers beyond 65504 are refused."""
        if np.abs(x).max(initial=0) > self.LARGEST:
            hint = "normalize the vectors, or take another scheme"
            raise RequestError(f"numbers beyond {self.LARGEST:g} do not fit into float16", hint=hint)
        return x.astype(np.float16)

    def decode_rows(self, codes: Codes) -> F32:
        """The codes in float32, exactly."""
        return codes.astype(np.float32)

    def prepare(self, codes: Codes) -> Codes:
        """float32: NumPy multiplies float16 number by number. Half the bytes are on disk, not in memory."""
        return codes.astype(np.float32)

    def scores(self, query: F32, prepared: Codes) -> F32:
        """Dot products, by BLAS."""
        return prepared @ query


class Matryoshka(Codec):
    """The first `keep` numbers of a vector, made length 1 again.

        y = x[:keep] / |x[:keep]|

    For models trained so that a prefix is a vector of its own: Kusupati et al. 2022, Matryoshka Representation
    Learning. decode puts zeros behind. Where x has length 1: cos(x, decode(encode(x))) = |x[:keep]|. A prefix of zeros
    stays zeros.
    """

    def __init__(self, dimensions: int, keep: int) -> None:
        if not 1 <= keep <= dimensions:
            raise RequestError(f"matryoshka:{keep}: the vectors have {dimensions} numbers", hint=f"1 to {dimensions}")
        self.scheme, self.dimensions, self.keep = f"matryoshka:{keep}", dimensions, keep
        self.code_dtype, self.code_shape = np.dtype("<f4"), (keep,)

    def encode_rows(self, x: Float) -> Codes:
        """Cut, then normalize, in the dtype of x; then float32."""
        return normalize(np.ascontiguousarray(x[:, : self.keep]), 2).astype(np.float32)

    def decode_rows(self, codes: Codes) -> F32:
        """Zeros behind."""
        return np.pad(codes, ((0, 0), (0, self.dimensions - self.keep)))

    def scores(self, query: F32, prepared: Codes) -> F32:
        """Dot products with the query's own first numbers."""
        return prepared @ query[: self.keep]
