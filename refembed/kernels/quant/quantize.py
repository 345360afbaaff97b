"""Float32 to the blocks of a GGUF tensor: what llama-quantize writes without an importance matrix, bit for bit.

    quantize(x, "Q4_K")    x (..., n) -> (..., bytes a row)

    quantize_flat     one scale a block: F16, BF16, Q4_0 ... Q8_0, Q1_0, Q2_0, TQ1_0, TQ2_0, and Q8_1, Q8_K
    quantize_fp4      MXFP4, NVFP4
    quantize_kquants  Q2_K ... Q6_K         quantize_iq4   IQ4_NL, IQ4_XS
    quantize_search   the searches of these two, in NumPy: the definition; quantize_jit: the same, compiled

Mirrors ggml_quantize_chunk (ggml.c, ggml-quants.c). Types of a codebook (IQ1 to IQ3) have no quantizer here.
"""

from __future__ import annotations

import importlib
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from refembed.arrays import F32, U8
from refembed.errors import RequestError
from refembed.gguf.quants import QuantType, quant_type
from refembed.kernels.quant.quantize_flat import FLAT, Blocks
from refembed.kernels.quant.quantize_fp4 import FP4
from refembed.kernels.quant.quantize_iq4 import IQ4
from refembed.kernels.quant.quantize_kquants import K_QUANTS
from refembed.kernels.threads import parallel_map

SEARCHED: dict[str, Any] = {**K_QUANTS, **IQ4}
QUANTIZERS: dict[str, Any] = {**FLAT, **FP4, **SEARCHED}  # type -> the function that fills its blocks

CHUNK = 1 << 17  # weights a thread works on at a time: with all that comes in between, they stay in the cache
LARGEST_SQUARED = 1e18  # the searches square numbers; beyond this the squares overflow


def quantize(x: F32, type_name: str) -> U8:
    """Store rows of numbers as a tensor type.

    x          (..., n) float32, n a multiple of the type's weights per block
    type_name  a name of QUANTIZERS, as gguf/quants.py spells it: "Q4_K"
    returns    (..., bytes a row) uint8, little-endian, as a file holds them

    Bit-identical with ggml_quantize_chunk of llama.cpp on x86-64, on every machine. RequestError for a type without a
    quantizer, for rows that are not whole blocks, and for numbers the type cannot hold: NaN, infinity, or so large that
    a block's float16 scale would overflow.

    >>> x = np.zeros(32, np.float32)
    >>> x[:3] = -4, 1, 3.5
    >>> raw = quantize(x, "Q4_0")  # float16 scale -4/-8 = 0.5 (0x3800), then codes: 0, 10, 15, and 8 for zero
    >>> raw.shape, [hex(byte) for byte in raw[:5]]
    ((18,), ['0x0', '0x38', '0x80', '0x8a', '0x8f'])
    >>> quantize(x[:3], "Q4_0")
    Traceback (most recent call last):
        ...
    refembed.errors.RequestError: rows of 3 numbers are not whole Q4_0 blocks of 32
      hint: Q8_0 and others take rows of multiples of 32; F16 takes any
    """
    type = quant_type(type_name)
    if type.name not in QUANTIZERS:
        raise RequestError(f"there is no quantizer for {type.name}", hint="one of " + ", ".join(QUANTIZERS))
    x = np.ascontiguousarray(x, np.float32)  # a single number becomes a row of one
    n = x.shape[-1]
    if n % type.weights:
        found = f"rows of {n:,} numbers are not whole {type.name} blocks of {type.weights}"
        raise RequestError(found, hint="Q8_0 and others take rows of multiples of 32; F16 takes any")
    blocks = np.zeros(x.size // type.weights, type.block)
    search = importlib.import_module("refembed.kernels.quant.quantize_jit") if type.name in SEARCHED else None
    step = CHUNK // type.weights
    runs = x.reshape(len(blocks), type.weights)
    parts = [(runs[i : i + step], blocks[i : i + step]) for i in range(0, len(blocks), step)]

    def work(part: tuple[F32, Blocks]) -> None:
        fill(*part, type, search)
        check(*part, type)

    parallel_map([partial(work, part) for part in parts])
    return blocks.view(np.uint8).reshape(*x.shape[:-1], n // type.weights * type.nbytes)


def fill(x: F32, blocks: Blocks, type: QuantType, search: ModuleType | None) -> None:
    """Fill blocks (N) from x (N, weights per block), whatever x holds; `search` for the types in SEARCHED."""
    with np.errstate(all="ignore"):  # divisions by zero are chosen away, overflows are what `check` looks for
        if type.name in SEARCHED:
            SEARCHED[type.name](x, blocks, search)
        else:
            QUANTIZERS[type.name](x, blocks)


def check(x: F32, blocks: Blocks, type: QuantType) -> None:
    """RequestError where x (N, weights per block) is not finite, or the scales stored for it are not."""
    if x.size == 0:
        return
    largest = max(float(x.max()), -float(x.min()))  # NaN where one is in it
    if not np.isfinite(largest):
        raise RequestError("NaN or infinity cannot be quantized", hint="the weights are damaged")
    scales = [name for name, (dtype, *_) in (blocks.dtype.fields or {}).items() if dtype.base.kind == "f"]
    overflow = any(not np.isfinite(blocks[name]).all() for name in scales)
    if type.name == "BF16":
        overflow = bool((blocks["x"] & 0x7FFF == 0x7F80).any())
    if overflow or (type.name in SEARCHED and largest > LARGEST_SQUARED):
        raise RequestError(f"numbers up to {largest:.3g} are beyond {type.name}", hint="BF16 and F32 hold larger ones")
