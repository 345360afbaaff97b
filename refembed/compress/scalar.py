"""Scalar quantization: a byte for a number.

    int8, uint8    each dimension has its range [low, high], taken from vectors: sentence-transformers' bytes
    int8-global    one range for all dimensions, the same bytes from it
    int8-vector    each vector has a scale of its own, and nothing is learned from others

The first three:  step = (high - low) / 255,  q = clip(floor((x - low) / step), 0, 255),  int8 is q - 128.
sentence-transformers (util/quantization.py) decodes to the lower edge of a step, low + q step, which is off by up to a
whole step; refembed decodes to the middle, low + (q + 1/2) step, which is off by half of one.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, F64, Float
from refembed.compress import kernels
from refembed.compress.codec import Codec, Codes
from refembed.errors import RequestError

LARGEST = float(np.finfo(np.float32).max)
GRAIN = 2.0**-141  # 256 of the smallest float32: what subnormal steps and scales lose by being rounded themselves


class Ranged(Codec):
    """int8, uint8, int8-global: a step of (high - low) / 255 in each dimension.

    ranges   (2, D) float32   low and high of each dimension; low = high stores nothing of it
    Raises RequestError for ranges of another shape, not finite, upside down, or wider than float32.

    For x within its range  |x - decode(encode(x))| <= step / 2 + 2^-21 max(|low|, |high|) + 2^-141,  the second and
    third for float32's own rounding. A number outside comes back from the range's end: add its distance to the range.
    """

    stored: ClassVar = ("ranges",)

    def __init__(self, ranges: npt.ArrayLike, scheme: str = "int8") -> None:
        self.ranges = check_ranges(ranges)
        self.scheme, self.dimensions = scheme, self.ranges.shape[1]
        self.low = self.ranges[0]
        self.step = (self.ranges[1] - self.low) / np.float32(255)  # (D)
        self.code_dtype, self.code_shape = np.dtype("u1" if scheme == "uint8" else "i1"), (self.dimensions,)
        self.offset = 0 if scheme == "uint8" else 128

    def encode_rows(self, x: Float) -> Codes:
        """One byte a number, in the dtype of x."""
        steps = np.where(self.step == 0, np.float32(1), self.step)
        with np.errstate(over="ignore"):  # a number far outside its range: clipped
            q = np.clip(np.floor((x - self.low) / steps), 0, 255)
        return (q - self.offset).astype(self.code_dtype)

    def decode_rows(self, codes: Codes) -> F32:
        """The middle of each step, computed in double."""
        q = codes.astype(np.float64) + self.offset
        return as_float32(self.low + (q + 0.5) * self.step.astype(np.float64))

    def bound(self, x: npt.ArrayLike) -> F64:
        """The most that decode(encode(x)) may be off, number by number, as the class says: (N, D) -> (N, D)."""
        low, high = self.ranges.astype(np.float64)
        outside = np.maximum(np.maximum(low - x, np.asarray(x, np.float64) - high), 0)
        rounding = 2.0**-21 * np.maximum(np.maximum(np.abs(low), np.abs(high)), np.abs(x)) + GRAIN
        return self.step.astype(np.float64) / 2 + rounding + outside

    def scores(self, query: F32, prepared: Codes) -> F32:
        """<query, decode(code)>, the steps multiplied into the query, so that codes are read as bytes."""
        weights = query * self.step
        first = self.low.astype(np.float64) + (self.offset + 0.5) * self.step  # what code 0 decodes to
        return kernels.dot_codes(weights, prepared) + np.float32(query @ first)


class PerVector(Codec):
    """int8-vector: scale = max |x| / 127 for each vector, q = round(x / scale), ties to even.

    A code is the scale (float32) and D times int8: D + 4 bytes. Zero stays zero, and no sign changes.
    |x - decode(encode(x))| <= scale / 2 + 2^-22 max |x| + 2^-141, the second and third for float32's own rounding.
    """

    def __init__(self, dimensions: int) -> None:
        self.scheme, self.dimensions = "int8-vector", dimensions
        self.code_dtype = np.dtype([("scale", "<f4"), ("q", "i1", (dimensions,))])
        self.code_shape = ()

    def encode_rows(self, x: Float) -> Codes:
        """The scale and the numbers over it."""
        x = x.astype(np.float32)
        codes = np.empty(len(x), self.code_dtype)
        codes["scale"] = np.abs(x).max(axis=1) / np.float32(127)
        scale = np.where(codes["scale"] > 0, codes["scale"], np.float32(1))[:, None]
        codes["q"] = np.clip(np.rint(x / scale), -127, 127)
        return codes

    def decode_rows(self, codes: Codes) -> F32:
        """The product, computed in double."""
        return as_float32(codes["q"].astype(np.float64) * codes["scale"][:, None])

    def bound(self, x: npt.ArrayLike) -> F64:
        """The most that decode(encode(x)) may be off, as the class says: (N, D) -> (N, 1)."""
        largest = np.abs(np.asarray(x, np.float64)).max(axis=-1, keepdims=True)
        return largest / 254 + 2.0**-22 * largest + GRAIN

    def prepare(self, codes: Codes) -> tuple[Codes, F32]:
        """The numbers (N, D) side by side, and the scales (N)."""
        return np.ascontiguousarray(codes["q"]), np.ascontiguousarray(codes["scale"])

    def scores(self, query: F32, prepared: tuple[Codes, F32]) -> F32:
        """<query, q> scale."""
        q, scale = prepared
        return kernels.dot_codes(query, q) * scale


def as_float32(x: F64) -> F32:
    """Rounded; half a step beyond the largest float32 is the largest float32."""
    return np.clip(x, -LARGEST, LARGEST).astype(np.float32)


def check_ranges(ranges: npt.ArrayLike) -> F32:
    """Ranges (2, D) as float32, or RequestError."""
    found = np.asarray(ranges)
    if found.dtype.kind not in "fiu" or found.ndim != 2 or len(found) != 2 or not found.shape[1]:
        raise RequestError(f"ranges are (2, D), the lowest and the highest numbers, not {found.dtype} {found.shape}")
    with np.errstate(all="ignore"):
        checked = found.astype(np.float32)
        width = checked[1] - checked[0]
    if not (width >= 0).all() or not np.isfinite(width).all():  # NaN is not >= 0
        d = int(np.argmin((width >= 0) & np.isfinite(width)))
        raise RequestError(
            f"the range of dimension {d} is {found[0, d]} to {found[1, d]}", hint="low <= high, both finite"
        )
    return checked
