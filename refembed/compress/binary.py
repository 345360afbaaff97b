"""Binary quantization: a bit for a number, 1 where it is above zero.

    code = packbits(x > 0), the first dimension in the highest bit of the first byte; a last byte is filled with zeros
    ubinary   those bytes, uint8          binary   each 128 less, int8: sentence-transformers' two forms

What is left of a vector is the signs of its numbers. decode gives them length 1: +-1/sqrt(D), zero counting as minus.
Then encode(decode(code)) = code, and exactly

    cos(x, decode(encode(x))) = sum |x_i| / (sqrt(D) |x|)

Codes are ranked by Hamming distance between the query's bits and theirs (`scores`), or by the dot product of the
query's floats and their signs (`refine`), which sees more: Yamada, Asai & Hajishirzi 2021 (BPR) find candidates by the
first and order them by the second.
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import F32, U8, Float
from refembed.compress import kernels
from refembed.compress.codec import Codec, Codes


class Binary(Codec):
    """binary or ubinary, of vectors of D numbers: ceil(D / 8) bytes."""

    def __init__(self, dimensions: int, scheme: str = "ubinary") -> None:
        self.scheme, self.dimensions = scheme, dimensions
        self.code_dtype = np.dtype("i1" if scheme == "binary" else "u1")
        self.code_shape = (-(-dimensions // 8),)

    def encode_rows(self, x: Float) -> Codes:
        """Bits of the numbers above zero."""
        bits = np.packbits(x > 0, axis=-1)
        return bits if self.scheme == "ubinary" else (bits ^ np.uint8(0x80)).view(np.int8)  # less 128, modulo 256

    def bits(self, codes: Codes) -> U8:
        """Codes as plain bits, uint8."""
        return codes if self.scheme == "ubinary" else codes.view(np.uint8) ^ np.uint8(0x80)

    def decode_rows(self, codes: Codes) -> F32:
        """Signs over sqrt(D)."""
        bits = np.unpackbits(self.bits(codes), axis=-1, count=self.dimensions)  # (N, D)
        size = np.float32(1 / np.sqrt(self.dimensions))
        return np.where(bits, size, -size)

    def prepare(self, codes: Codes) -> Codes:
        """Bits in whole words, uint64, zeros behind: (N, ceil(D / 64))."""
        bits = self.bits(np.ascontiguousarray(self.check_codes(codes)))
        return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)

    def scores(self, query: F32, prepared: Codes) -> F32:
        """Minus the Hamming distance between the query's bits and each code's."""
        return -kernels.hamming(self.prepare(self.encode(query[None]))[0], prepared).astype(np.float32)
