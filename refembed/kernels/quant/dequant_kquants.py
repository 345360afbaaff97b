"""What K-quants mean, in NumPy: blocks of 256 weights, with a scale, and often a minimum, for each 16 or 32 of them.

Scales are whole numbers themselves, of 4 to 8 bits, times the block's d. Conventions: dequant_legacy.py. The compiled
compiled versions, by the same names, are in dequant_jit_kquants.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, U8, Float
from refembed.kernels.quant.dequant_legacy import column, nibbles, real, two_bit_fields


def q2_k(b: Any) -> Float:
    """w = (d sc) q - dmin m, where sc and m are the halves of a byte for each 16 weights.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q2_K"].block)
    >>> b["d"], b["dmin"], b["scales"][0, 0] = 0.5, 0.25, 0x23  # sc = 3, m = 2
    >>> b["qs"][0, :3] = [0, 1, 3]
    >>> q2_k(b)[0, [0, 1, 2]]  # 1.5 q - 0.5
    array([-0.5,  1. ,  4. ], dtype=float32)
    """
    n = len(b)
    q = two_bit_fields(b["qs"].reshape(n, 2, 32)).reshape(n, 16, 16)
    scale, least = q2_k_scales(b)
    return (scale[:, :, None] * real(q) - least[:, :, None]).reshape(n, 256)


def q2_k_scales(b: Any) -> tuple[F32, F32]:
    """d sc and dmin m: (n, 16) each."""
    return column(b["d"]) * real(b["scales"] & 15), column(b["dmin"]) * real(b["scales"] >> 4)


def q3_k(b: Any) -> Float:
    """w = (d (sc - 32)) q, where q has two bits in qs, and a third in hmask that is worth -4 where it is 0.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q3_K"].block)
    >>> b["d"], b["scales"][0, 0], b["scales"][0, 8] = 0.5, 0x2, 0x2  # sc = 2 + (2 << 4) = 34
    >>> b["qs"][0, :3], b["hmask"][0, :3] = [0, 1, 3], [1, 0, 1]
    >>> q3_k(b)[0, [0, 1, 2]]  # 0.5 (34 - 32) = 1, times 0, 1 - 4, 3
    array([ 0., -3.,  3.], dtype=float32)
    """
    n = len(b)
    low = two_bit_fields(b["qs"].reshape(n, 2, 32)).reshape(n, 8, 32)
    high = b["hmask"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1  # (n, 8, 32)
    q = real(low) - 4 * (1 - real(high))
    scale = column(b["d"]) * (real(q3_k_scales(b["scales"])) - 32)  # (n, 16)
    return (scale[:, :, None] * q.reshape(n, 16, 16)).reshape(n, 256)


def q3_k_scales(packed: U8) -> U8:
    """12 bytes -> 16 scales of six bits: the lower four in the halves of bytes 0-7, the upper two in bytes 8-11.

    >>> packed = np.zeros((1, 12), np.uint8)
    >>> packed[0, [0, 8]] = 0x52, 0b1110
    >>> q3_k_scales(packed)[0, [0, 4, 8]]  # 2 + (2 << 4), then 0 + (3 << 4); 5 + (0 << 4)
    array([34, 48,  5], dtype=uint8)
    """
    high = two_bit_fields(packed[:, 8:]).reshape(len(packed), 16)
    scales: U8 = nibbles(packed[:, :8]) | high << np.uint8(4)
    return scales


def q4_k(b: Any) -> Float:
    """w = (d sc) q - dmin m, where sc and m are six bits each for 32 weights.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q4_K"].block)
    >>> b["d"], b["dmin"], b["scales"][0, 0], b["scales"][0, 4] = 0.5, 0.25, 3, 2  # sc = 3, m = 2
    >>> b["qs"][0, :3] = [0, 1, 15]
    >>> q4_k(b)[0, [0, 1, 2]]  # 1.5 q - 0.5
    array([-0.5,  1. , 22. ], dtype=float32)
    """
    n = len(b)
    return scaled(b, nibbles(b["qs"].reshape(n, 4, 32)).reshape(n, 8, 32))


def q5_k(b: Any) -> Float:
    """w = (d sc) q - dmin m; the fifth bit of q in the j-th 32 weights is bit j of qh.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q5_K"].block)
    >>> b["d"], b["dmin"], b["scales"][0, 0], b["scales"][0, 4] = 0.5, 0.25, 3, 2  # sc = 3, m = 2
    >>> b["qs"][0, :3], b["qh"][0, :3] = [0, 1, 15], [0, 0, 1]
    >>> q5_k(b)[0, [0, 1, 2]]  # 1.5 q - 0.5 of 0, 1, 31
    array([-0.5,  1. , 46. ], dtype=float32)
    """
    n = len(b)
    low = nibbles(b["qs"].reshape(n, 4, 32)).reshape(n, 8, 32)
    high = b["qh"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1  # (n, 8, 32)
    return scaled(b, low | high << 4)


def scaled(b: Any, q: npt.NDArray[np.uint8]) -> Float:
    """q (n, 8, 32) -> (d sc) q - dmin m (n, 256)."""
    scale, least = scales_and_minima(b)
    return (scale[:, :, None] * real(q) - least[:, :, None]).reshape(len(b), 256)


def scales_and_minima(b: Any) -> tuple[F32, F32]:
    """d sc and dmin m of Q4_K and Q5_K: (n, 8) each."""
    sc, m = q4_k_scales(b["scales"])
    return column(b["d"]) * real(sc), column(b["dmin"]) * real(m)


def q4_k_scales(packed: U8) -> tuple[U8, U8]:
    """12 bytes -> 8 scales and 8 minima of six bits.

    The first four of each fill the lower six bits of bytes 0-3 and 4-7. The last four have their lower four bits in the
    halves of bytes 8-11, and their upper two in the upper two of bytes 0-3 and 4-7.

    >>> packed = np.zeros((1, 12), np.uint8)
    >>> packed[0, [0, 4, 8]] = 0b01_000011, 0b10_000111, 0x25
    >>> sc, m = q4_k_scales(packed)
    >>> sc[0, [0, 4]].tolist(), m[0, [0, 4]].tolist()  # 3, 5 + (1 << 4); 7, 2 + (2 << 4)
    ([3, 21], [7, 34])
    """
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    sc = np.concatenate([a & 63, c & 15 | a >> 6 << 4], axis=1)
    m = np.concatenate([b & 63, c >> 4 | b >> 6 << 4], axis=1)
    return sc, m


def q6_k(b: Any) -> Float:
    """w = (d sc) (q - 32), where q has four bits in ql and two in qh, and sc is a signed byte for each 16 weights.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q6_K"].block)
    >>> b["d"], b["scales"][0, 0] = 0.5, 2
    >>> b["ql"][0, :3], b["qh"][0, :3] = [0, 1, 15], [2, 0, 3]  # q = 32, 1, 63
    >>> q6_k(b)[0, [0, 1, 2]]  # 0.5 * 2 (q - 32)
    array([  0., -31.,  31.], dtype=float32)
    """
    n = len(b)
    low = nibbles(b["ql"].reshape(n, 2, 64)).reshape(n, 2, 4, 32)
    high = two_bit_fields(b["qh"].reshape(n, 2, 32))
    q = real(low | high << 4).reshape(n, 16, 16) - 32
    scale = column(b["d"]) * real(b["scales"])  # (n, 16)
    return (scale[:, :, None] * q).reshape(n, 256)


def q8_k(b: Any) -> Float:
    """w = d q; bsums, the sums of 16 each, are for dot products. Activations only: ggml decodes none.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q8_K"].block)
    >>> b["d"], b["qs"][0, :3] = 0.5, [127, -20, 1]
    >>> q8_k(b)[0, [0, 1, 2]]  # 127/2, -20/2, 1/2
    array([ 63.5, -10. ,   0.5], dtype=float32)
    """
    return column(b["d"]) * real(b["qs"])
