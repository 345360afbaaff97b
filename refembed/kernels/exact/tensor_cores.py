"""Products on tensor cores: what `cupy` computes with precision "tf32", "fp16" or "bf16".

    y[t, n] = sum over steps of 8 (tf32) or 16 channels:  y + x[t, k] w[n, k] + x[t, k+1] w[n, k+1] + ...

x and w are rounded first, to the nearest number of the format:

            bits of mantissa   exponent      halves         largest
    tf32           11           8 bits     away from 0      3.4e38
    fp16           11           5 bits     to even          65504; numbers beyond it become NaN
    bf16            8           8 bits     to even          3.4e38

So a product is exact in float32. A step is one instruction of a GPU, `mma` (cuda/mma.cuh). In which order it adds its
products to y, and what it rounds on the way, NVIDIA leaves open; here they are added in order in double, and their sum
is rounded to float32. A number of y depends on its row of x and its row of w alone.
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import F32
from refembed.kernels.exact.bfloat16 import nearest_bfloat16

STEP = {"tf32": 8, "fp16": 16, "bf16": 16}  # channels of one instruction


def round_tf32(x: F32) -> F32:
    """Numbers with 11 bits of mantissa, the nearest, halves away from 0: PTX's cvt.rna.tf32.f32.

    >>> round_tf32(np.array([1 + 2**-11, 1 + 2**-12, -1 - 3 * 2**-11], np.float32)) * 2**10  # 1024.5, 1024.25, -1025.5
    array([ 1025.,  1024., -1026.], dtype=float32)
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isnan(x), np.float32(np.nan), rounded)


def round_fp16(x: F32) -> F32:
    """Numbers of IEEE 754's binary16, the nearest, halves to even; NaN where the nearest would be infinite.

    An infinity would go through a sigmoid or a ReLU as if it were a number. NaN goes on to the vector, and is refused.

    >>> round_fp16(np.array([1 + 2**-11, 65519, 65520, 2**-25], np.float32))  # 65520 is nearer to 65536, which is none
    array([1.0000e+00, 6.5504e+04,        nan, 0.0000e+00], dtype=float32)
    """
    with np.errstate(over="ignore"):
        rounded = np.asarray(x, np.float32).astype(np.float16).astype(np.float32)
    return np.where(np.isinf(rounded), np.float32(np.nan), rounded)


def round_bf16(x: F32) -> F32:
    """Numbers with 8 bits of mantissa, the nearest, halves to even.

    >>> round_bf16(np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)) * 2**7  # 128.5 and 129.5, to even
    array([128., 130.], dtype=float32)
    """
    return nearest_bfloat16(x)


def matmul_tf32(x: F32, w: F32) -> F32:
    """x Wᵀ of numbers rounded to tf32: x (T, C), w (N, C) -> (T, N).

    >>> matmul_tf32(np.array([[1 + 2**-12, 2]], np.float32), np.array([[3, 4], [5, 6]], np.float32))  # 1 + 2^-12 is 1
    array([[11., 17.]], dtype=float32)
    """
    return multiply_steps(round_tf32(x), round_tf32(w), STEP["tf32"])


def matmul_fp16(x: F32, w: F32) -> F32:
    """x Wᵀ of numbers rounded to fp16: x (T, C), w (N, C) -> (T, N). A row of x with a number beyond 65504 is NaN.

    >>> matmul_fp16(np.array([[1, 2], [7e4, 0]], np.float32), np.array([[3, 4], [5, 6]], np.float32))
    array([[11., 17.],
           [nan, nan]], dtype=float32)
    """
    return multiply_steps(round_fp16(x), round_fp16(w), STEP["fp16"])


def matmul_bf16(x: F32, w: F32) -> F32:
    """x Wᵀ of numbers rounded to bf16: x (T, C), w (N, C) -> (T, N).

    >>> matmul_bf16(np.array([[1 + 2**-9, 2]], np.float32), np.array([[3, 4], [5, 6]], np.float32))  # 1 + 2^-9 is 1
    array([[11., 17.]], dtype=float32)
    """
    return multiply_steps(round_bf16(x), round_bf16(w), STEP["bf16"])


def multiply_steps(x: F32, w: F32, step: int) -> F32:
    """x Wᵀ for rounded numbers: x (T, C), w (N, C) -> (T, N) float32.

    >>> multiply_steps(np.array([[1, 2, 3]], np.float32), np.array([[4, 5, 6]], np.float32), 8)  # 4 + 10 + 18
    array([[32.]], dtype=float32)
    """
    y = np.zeros((len(x), len(w)), np.float32)
    with np.errstate(all="ignore"):
        for k in range(0, x.shape[1], step):
            total = y.astype(np.float64)
            for c in range(k, min(k + step, x.shape[1])):
                total += x[:, c, None].astype(np.float64) * w[None, :, c]
            y = total.astype(np.float32)
    return y
