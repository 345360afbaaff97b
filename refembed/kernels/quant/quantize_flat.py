"""The types whose blocks have one scale: F16 to Q8_K.

Every function takes x (N, weights per block), float32, and fills N blocks, structured arrays of the dtype in
gguf/quants.py. Mirrors quantize_row_*_ref (ggml-quants.c), bit for bit, and so on purpose does not round better than
it: codes follow the scale before it is rounded to float16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, I32, U8
from refembed.kernels.quant.quantize_search import f32, largest, nearest_int

Blocks = npt.NDArray[np.void]
INT32_MIN = -(2**31)


def truncated(x: F32) -> I32:
    """Toward zero, as x86 converts float to int: what does not fit, NaN too, is -2^31."""
    fits = np.abs(x) < f32(2**31)
    return np.where(fits, x, f32(INT32_MIN)).astype(np.int32)


def rounded(x: F32) -> I32:
    """To the nearest integer, halves away from zero, as roundf does; see `truncated` for what does not fit."""
    magnitude = np.abs(x)
    floor = np.floor(magnitude)
    return truncated(np.copysign(floor + (magnitude - floor >= f32(0.5)), x))


def reciprocal(d: F32) -> F32:
    """1 / d, and 0 where d is 0."""
    inverse: F32 = np.where(d != 0, f32(1) / d, f32(0))
    return inverse


def nibbles(codes: I32) -> U8:
    """Codes (N, n) as n/2 bytes each: code j in the lower, code j + n/2 in the upper four bits."""
    low, high = np.split(codes.astype(np.uint8), 2, axis=1)
    packed: U8 = low | high << np.uint8(4)
    return packed


def fifth_bits(codes: I32) -> U8:
    """Bit 4 of codes (N, 32) as 4 bytes, code 0 in the lowest bit."""
    return np.packbits((codes >> 4 & 1).astype(np.uint8), axis=1, bitorder="little")


def f32_(x: F32, out: Blocks) -> None:
    """F32: as they are.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.array([[1], [-2.5]], np.float32)
    >>> out = np.zeros(len(x), BY_NAME["F32"].block)
    >>> f32_(x, out)
    >>> out["x"]
    array([ 1. , -2.5], dtype=float32)
    """
    out["x"] = x[:, 0]


def f16(x: F32, out: Blocks) -> None:
    """F16: to the nearest, halves to even; infinity where float16 ends.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.array([[1], [-2.5], [2049]], np.float32)  # float16 has 11 bits: 2049 becomes 2048
    >>> out = np.zeros(len(x), BY_NAME["F16"].block)
    >>> f16(x, out)
    >>> out["x"]
    array([ 1.000e+00, -2.500e+00,  2.048e+03], dtype=float16)
    """
    out["x"] = x[:, 0]


def bf16(x: F32, out: Blocks) -> None:
    """BF16: the upper half of a float32, rounded to the nearest, halves to even.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.array([[1], [np.pi], [1 + 2**-8]], np.float32)  # the last lies halfway, and 0x3F80 is even
    >>> out = np.zeros(len(x), BY_NAME["BF16"].block)
    >>> bf16(x, out)
    >>> [hex(half) for half in out["x"]]
    ['0x3f80', '0x4049', '0x3f80']
    """
    bits = x[:, 0].view(np.uint32)
    out["x"] = (bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)


def symmetric(x: F32, out: Blocks, half: int) -> I32:
    """Q4_0, Q5_0: the number of largest magnitude becomes code 0, zero becomes code `half`. Fills d; returns codes."""
    d = largest(x)[1] / f32(-half)  # (N)
    out["d"] = d
    codes = truncated(x * reciprocal(d)[:, None] + f32(half + 0.5)).astype(np.int8)
    return np.minimum(codes, np.int8(2 * half - 1)).astype(np.int32)


def from_minimum(x: F32, out: Blocks, most: int) -> I32:
    """Q4_1, Q5_1: the least number becomes code 0, the largest code `most`. Fills d and m; returns codes."""
    low, high = x.min(axis=1), x.max(axis=1)  # (N)
    d = (high - low) / f32(most)
    out["d"], out["m"] = d, low
    return truncated((x - low[:, None]) * reciprocal(d)[:, None] + f32(0.5))


def q4_0(x: F32, out: Blocks) -> None:
    """Q4_0: x = (code - 8) d.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 32), np.float32)
    >>> x[0, :3] = -4, 1.3, 3.5
    >>> out = np.zeros(1, BY_NAME["Q4_0"].block)
    >>> q4_0(x, out)
    >>> float(out["d"][0]), [hex(byte) for byte in out["qs"][0, :3]]  # d = -4/-8; codes 0, 10.6, 15; high halves: 8
    (0.5, ['0x80', '0x8b', '0x8f'])
    """
    out["qs"] = nibbles(symmetric(x, out, 8))


def q4_1(x: F32, out: Blocks) -> None:
    """Q4_1: x = code d + m.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 32), np.float32)
    >>> x[0, :3] = -1, 7.6, 14
    >>> out = np.zeros(1, BY_NAME["Q4_1"].block)
    >>> q4_1(x, out)
    >>> float(out["d"][0]), float(out["m"][0]), [hex(byte) for byte in out["qs"][0, :3]]  # d = (14 + 1)/15
    (1.0, -1.0, ['0x10', '0x19', '0x1f'])
    """
    out["qs"] = nibbles(np.minimum(from_minimum(x, out, 15).astype(np.int8), np.int8(15)).astype(np.int32))


def q5_0(x: F32, out: Blocks) -> None:
    """Q5_0: x = (code - 16) d.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 32), np.float32)
    >>> x[0, :3] = -8, 0.9, 7.5
    >>> out = np.zeros(1, BY_NAME["Q5_0"].block)
    >>> q5_0(x, out)
    >>> float(out["d"][0]), out["qs"][0, :3].tolist()  # d = -8/-16; codes 0, 17.8, 31, less their fifth bits
    (0.5, [0, 2, 15])
    >>> [bin(byte) for byte in out["qh"][0]]  # zeros are code 16
    ['0b11111110', '0b11111111', '0b11111111', '0b11111111']
    """
    codes = symmetric(x, out, 16)
    out["qs"], out["qh"] = nibbles(codes & 15), fifth_bits(codes)


def q5_1(x: F32, out: Blocks) -> None:
    """Q5_1: x = code d + m.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 32), np.float32)
    >>> x[0, :3] = -1, 15.6, 30
    >>> out = np.zeros(1, BY_NAME["Q5_1"].block)
    >>> q5_1(x, out)
    >>> float(out["d"][0]), float(out["m"][0]), [hex(byte) for byte in out["qs"][0, :3]]  # d = (30 + 1)/31
    (1.0, -1.0, ['0x10', '0x11', '0x1f'])
    >>> [bin(byte) for byte in out["qh"][0]]  # codes 0, 17, 31; zeros are code 1
    ['0b110', '0b0', '0b0', '0b0']
    """
    codes = from_minimum(x, out, 31)
    out["qs"], out["qh"] = nibbles(codes & 15), fifth_bits(codes)


def eight_bits(x: F32, out: Blocks) -> tuple[F32, I32]:
    """Q8_0, Q8_1: x = code d, -127 ... 127. Fills d and qs; returns d before it is rounded (N), and the codes."""
    d = np.abs(x).max(axis=1) / f32(127)
    codes = rounded(x * reciprocal(d)[:, None]).astype(np.int8)
    out["d"], out["qs"] = d, codes
    return d, codes.astype(np.int32)


def q8_0(x: F32, out: Blocks) -> None:
    """Q8_0: x = code d.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 32), np.float32)
    >>> x[0, :3] = 63.5, -10, 0.3
    >>> out = np.zeros(1, BY_NAME["Q8_0"].block)
    >>> q8_0(x, out)
    >>> float(out["d"][0]), out["qs"][0, :3].tolist()  # d = 63.5/127; 0.3/0.5 is rounded
    (0.5, [127, -20, 1])
    """
    eight_bits(x, out)


def q8_1(x: F32, out: Blocks) -> None:
    """Q8_1: Q8_0 and the sum of what it stores. A type of activations.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 32), np.float32)
    >>> x[0, :3] = 63.5, -10, 0.3
    >>> out = np.zeros(1, BY_NAME["Q8_1"].block)
    >>> q8_1(x, out)
    >>> float(out["d"][0]), float(out["s"][0]), out["qs"][0, :3].tolist()  # s = 0.5 (127 - 20 + 1)
    (0.5, 54.0, [127, -20, 1])
    """
    d, codes = eight_bits(x, out)
    out["s"] = codes.sum(axis=1, dtype=np.int32).astype(f32) * d


def q8_k(x: F32, out: Blocks) -> None:
    """Q8_K: x = code d, and the sums of 16 codes each. d stays float32. A type of activations.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 256), np.float32)
    >>> x[0, :3] = 63.5, -10, 0.3
    >>> out = np.zeros(1, BY_NAME["Q8_K"].block)
    >>> q8_k(x, out)
    >>> float(out["d"][0]), out["qs"][0, :3].tolist(), int(out["bsums"][0, 0])  # d = 63.5/-127
    (-0.5, [-127, 20, -1], -108)
    """
    amax, extreme = largest(x)  # (N)
    iscale = f32(-127) / extreme
    codes = np.minimum(nearest_int(iscale[:, None] * x), np.int32(127)).astype(np.int8)
    zero = amax == 0
    codes[zero] = 0
    out["d"], out["qs"] = np.where(zero, f32(0), f32(1) / iscale), codes
    out["bsums"] = codes.reshape(len(x), 16, 16).sum(axis=2, dtype=np.int16)


def q1_0(x: F32, out: Blocks) -> None:
    """Q1_0: x = d or -d, by its sign; d is the mean magnitude.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.ones((1, 128), np.float32)
    >>> x[0, :3] = -1, 3, -3
    >>> out = np.zeros(1, BY_NAME["Q1_0"].block)
    >>> q1_0(x, out)
    >>> float(out["d"][0]), bin(out["qs"][0, 0])  # (1 + 3 + 3 + 125) / 128
    (1.03125, '0b11111010')
    """
    out["d"] = np.add.accumulate(np.abs(x), axis=1)[:, -1] / f32(x.shape[1])
    out["qs"] = np.packbits(x >= 0, axis=1, bitorder="little")


def q2_0(x: F32, out: Blocks) -> None:
    """Q2_0: x = (code - 1) d, d the largest magnitude; code 3 stays unused. Four codes a byte, the first lowest.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 64), np.float32)
    >>> x[0, :4] = -2, 0.5, 2, 1.5
    >>> out = np.zeros(1, BY_NAME["Q2_0"].block)
    >>> q2_0(x, out)
    >>> float(out["d"][0]), bin(out["qs"][0, 0])  # codes 0, 1, 2, 2
    (2.0, '0b10100100')
    """
    d = np.abs(x).max(axis=1)
    out["d"] = d
    codes = np.clip(rounded(x * reciprocal(d)[:, None]) + 1, 0, 3)
    out["qs"] = np.bitwise_or.reduce(codes.reshape(len(x), -1, 4) << np.array([0, 2, 4, 6]), axis=2)


def trits(x: F32, out: Blocks) -> I32:
    """TQ1_0, TQ2_0: x = (code - 1) d, d the largest magnitude. Fills d; returns codes 0 ... 2 (N, 256)."""
    d = np.abs(x).max(axis=1)
    out["d"] = d
    return rounded(x * reciprocal(d)[:, None]) + 1


def tq1_0(x: F32, out: Blocks) -> None:
    """TQ1_0: five ternary digits a byte, the byte being their number / 243 as a fraction of 256, rounded up.

    160 weights in 32 bytes, 80 in 16, 16 in 4 bytes of four digits; the digits of a byte stand that many bytes apart.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 256), np.float32)
    >>> x[0, [0, 32, 64]] = -2, 2, 0.5
    >>> out = np.zeros(1, BY_NAME["TQ1_0"].block)
    >>> tq1_0(x, out)
    >>> float(out["d"][0]), int(out["qs"][0, 0])  # digits 0 2 1 1 1 are 67, and 67/243 of 256 is 70.6
    (2.0, 71)
    """
    codes, N = trits(x, out), len(x)
    parts = codes[:, :160].reshape(N, 5, 32), codes[:, 160:240].reshape(N, 5, 16), codes[:, 240:].reshape(N, 4, 4)
    places = np.array([81, 27, 9, 3, 1], np.int32)[:, None]
    fractions = [((part * places[: part.shape[1]]).sum(axis=1) % 256 * 256 + 242) // 243 for part in parts]
    out["qs"], out["qh"] = np.concatenate(fractions[:2], axis=1), fractions[2]


def tq2_0(x: F32, out: Blocks) -> None:
    """TQ2_0: four codes a byte; of each 32 bytes, four runs of 32 codes lie one above the other.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 256), np.float32)
    >>> x[0, [0, 32, 64]] = -2, 2, 0.5
    >>> out = np.zeros(1, BY_NAME["TQ2_0"].block)
    >>> tq2_0(x, out)
    >>> float(out["d"][0]), bin(out["qs"][0, 0])  # codes 0, 2, 1, 1, the first lowest
    (2.0, '0b1011000')
    """
    codes = (trits(x, out) & 3).reshape(len(x), 2, 4, 32)
    out["qs"] = np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6])[:, None], axis=2).reshape(len(x), 64)


FLAT: dict[str, Any] = {
    "F32": f32_, "F16": f16, "BF16": bf16,
    "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1, "Q8_0": q8_0, "Q8_1": q8_1, "Q8_K": q8_k,
    "Q1_0": q1_0, "Q2_0": q2_0, "TQ1_0": tq1_0, "TQ2_0": tq2_0,
}  # fmt: skip
