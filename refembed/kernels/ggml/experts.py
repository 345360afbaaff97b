"""Products with the matrices of a token's experts, as ggml_mul_mat_id computes them on a CPU (ggml-cpu.c, repack.cpp).

Rows are gathered expert by expert, but its dispatch is poorer than ggml_mul_mat's: tinyBLAS is not asked, interleaved
weights have no GEMM, so every row is a dot product of its own, whatever comes along with it. One exception: an expert
with eight rows and more takes the tiled kernel, as there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refembed.arrays import F32, I64
from refembed.gguf import Tensor
from refembed.kernels.exact import experts as definition
from refembed.kernels.ggml import floats, quantized
from refembed.kernels.ggml.profile import Profile
from refembed.kernels.ggml.quantized import Kept

FLOATS = ("F32", "F16", "BF16")


def mul_mat_id(x: F32, w: Tensor, chosen: I64, profile: Profile, kept: Kept) -> F32:
    """x (T, C) or (T, k, C) through experts chosen (T, k) of w (X, N, C): (T, k, N)."""

    def product(rows: F32, expert: Tensor) -> F32:
        return one_expert(np.ascontiguousarray(rows, np.float32), expert, profile, kept)

    return definition.experts(x, w, chosen, product)


def per_head(x: F32, w: Tensor, contiguous: bool, profile: Profile, kept: Kept) -> F32:
    """x (T, H, C), each head times its own of w (H, N, C): (T, H, N). ggml_mul_mat of three dimensions.

    A matrix in three dimensions is not interleaved at load.
    contiguous  whether rows of a head follow each other in llama.cpp's memory, which tinyBLAS minds for F32
    """
    plain = replace(profile, repack=False)

    def product(h: int) -> F32:
        rows, matrix = np.ascontiguousarray(x[:, h]), w.entry(h)
        if w.type.name not in FLOATS:
            return quantized.mul_mat(rows, matrix, plain, kept)
        return floats.mul_mat(rows, matrix.dequantize(), w.type.name, plain, contiguous)

    return np.stack([product(h) for h in range(w.shape[0])], axis=1)


def one_expert(x: F32, w: Tensor, profile: Profile, kept: Kept) -> F32:
    """x (n, C), the rows that one expert has to do with, times w (N, C) transposed: (n, N)."""
    type = w.type.name
    if type in FLOATS:
        order = floats.order_of(type, 1, w.shape, profile)
        packed = kept.setdefault(w, {})
        if order not in packed:
            packed[order] = floats.pack(w.dequantize(), order)
        return floats.multiply(floats.activations(x, type, order), packed[order], order, w.shape[0])
    quantized.check(x, w)
    how = quantized.RECIPES[type]
    if quantized.repacked(w, profile):
        _, how = quantized.REPACKED[type]
    elif len(x) >= 8 and profile.tiled and type in quantized.TILED:
        how = quantized.TILED[type]
    elif len(x) >= 8 and not profile.tiled and w.shape[0] % 8 == 0 and type in quantized.CODEBOOK:
        how = quantized.CODEBOOK[type]
    if profile.lanes == 4:
        how = quantized.recipe(type, 1, w.shape[0], profile)
    return np.ascontiguousarray(quantized.product(x, w, how, kept, profile.q8_by_scale))
