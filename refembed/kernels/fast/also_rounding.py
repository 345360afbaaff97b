"""Norms and GELU that also leave their results rounded, a few rows at a time: the kernels of rounding.py.

The loop is written six times: Numba keeps no kernel on the disk that passes others on as arguments, and of those that a
factory makes it does not find what it has kept.
"""

from __future__ import annotations

from refembed.kernels.fast.elementwise import gelu, layer_norm
from refembed.kernels.llvm.bfloat16 import round_pairs
from refembed.kernels.llvm.integer import quantize8, quantize16
from refembed.kernels.llvm.jit import njit

FEW = 4  # rows


@njit()
def gelu8(x, out, codes, begin, end):
    """`gelu`, and `quantize8` of it."""
    for t in range(begin, end, FEW):
        last = min(t + FEW, end)
        gelu(x, out, t, last)
        quantize8(out, codes, t, last)


@njit()
def gelu16(x, out, codes, begin, end):
    """`gelu`, and `quantize16` of it."""
    for t in range(begin, end, FEW):
        last = min(t + FEW, end)
        gelu(x, out, t, last)
        quantize16(out, codes, t, last)


@njit()
def gelu_pairs(x, out, codes, begin, end):
    """`gelu`, and `round_pairs` of it."""
    for t in range(begin, end, FEW):
        last = min(t + FEW, end)
        gelu(x, out, t, last)
        round_pairs(out, codes, t, last)


@njit()
def layer_norm8(x, plus, weight, bias, eps, out, codes, begin, end):
    """`layer_norm`, and `quantize8` of it."""
    for t in range(begin, end, FEW):
        last = min(t + FEW, end)
        layer_norm(x, plus, weight, bias, eps, out, t, last)
        quantize8(out, codes, t, last)


@njit()
def layer_norm16(x, plus, weight, bias, eps, out, codes, begin, end):
    """`layer_norm`, and `quantize16` of it."""
    for t in range(begin, end, FEW):
        last = min(t + FEW, end)
        layer_norm(x, plus, weight, bias, eps, out, t, last)
        quantize16(out, codes, t, last)


@njit()
def layer_norm_pairs(x, plus, weight, bias, eps, out, codes, begin, end):
    """`layer_norm`, and `round_pairs` of it."""
    for t in range(begin, end, FEW):
        last = min(t + FEW, end)
        layer_norm(x, plus, weight, bias, eps, out, t, last)
        round_pairs(out, codes, t, last)


ALSO_ROUNDING = {  # by the length of codes; 0: pairs of bfloat16
    8: {gelu: gelu8, layer_norm: layer_norm8},
    16: {gelu: gelu16, layer_norm: layer_norm16},
    0: {gelu: gelu_pairs, layer_norm: layer_norm_pairs},
}
