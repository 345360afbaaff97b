"""Blocks of a GGUF tensor to float32, bit for bit as ggml's own `dequantize_row_*`.

What each type means is written down in dequant_legacy, dequant_kquants and dequant_iquants: one short NumPy function a
type. dequant_jit_* are their Numba versions, by the same names: the same bits at the speed of memory, on all cores, but
at 0.4 s to import and compile. So `dequantize` begins with the definitions and changes over when enough was asked for.
`refembed.gguf.Tensor.dequantize` finds this module by name.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from refembed.arrays import F32, U8, Float
from refembed.errors import ModelError, RequestError
from refembed.gguf import QuantType

PLAIN = ("F32", "F64", "I8", "I16", "I32", "I64")  # numbers that NumPy rounds to float32; ggml decodes none of these
FAMILIES = {
    "legacy": ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q1_0", "Q2_0", "MXFP4", "NVFP4",
               "IQ4_NL", "TQ1_0", "TQ2_0"),
    "kquants": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"),
    "iquants": ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_XS"),
}  # fmt: skip
FAMILY = {name: family for family, names in FAMILIES.items() for name in names}
CODEBOOKS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M")

CHUNK = 1 << 16  # weights that a definition decodes at a time: its temporary arrays stay in the cache
SHARE = 1 << 20  # weights, 0.2 ms; below this a second thread costs more to wake than it saves
# How many weights definitions decode while a compiled version is loaded: a kernel from the cache, or Numba besides.
WORTH_LOADING, WORTH_IMPORTING = 1 << 22, 1 << 26

CompiledDecoder = tuple[Callable[..., None], tuple[Any, ...]]
in_use: dict[str, CompiledDecoder] = {}  # those in use: the kernel, and its codebook if it has one
decoded_weights: Counter[str] = Counter()  # weights that definitions have decoded in this process, by type


def dequantize(
    raw: U8, qtype: QuantType, byteorder: str = "<", *, out: F32 | None = None, threads: int | None = None
) -> F32:
    """Decode whole blocks.

    raw        bytes of n blocks
    byteorder  "<" or ">": how the file stores the fields of a block
    out        where to put the weights: (n * weights per block), float32, contiguous; None makes an array
    threads    1 keeps to the calling thread; None takes all cores where it pays
    returns    (n * weights per block), float32; a view of `raw` where it already is float32 in this machine's order
    Integers and F64 are rounded to the nearest float32. Raises RequestError for part of a block, or an `out` that does
    not fit; ModelError for a type without a decoder.

    >>> from refembed.gguf import BY_NAME
    >>> block = np.zeros(1, BY_NAME["Q8_0"].block)  # one scale and 32 whole numbers
    >>> block["d"], block["qs"][0, :3] = 0.5, [127, -20, 1]
    >>> dequantize(block.view(np.uint8), BY_NAME["Q8_0"])[:3]
    array([ 63.5, -10. ,   0.5], dtype=float32)
    """
    if raw.size % qtype.nbytes:
        raise RequestError(f"{raw.size:,} bytes are not whole {qtype.name} blocks of {qtype.nbytes} bytes")
    weights = raw.size // qtype.nbytes * qtype.weights
    if out is not None and (out.shape != (weights,) or out.dtype != np.float32 or not out.flags.carray):
        raise RequestError(
            f"out: {weights:,} numbers of float32, contiguous and writable, are needed; it is {out.dtype} {out.shape}"
        )
    blocks = np.ascontiguousarray(raw).reshape(-1).view(qtype.block.newbyteorder(byteorder))  # type: ignore[arg-type]
    with np.errstate(all="ignore"):  # a scale may be infinite, and a product too large: so is ggml's
        if qtype.name in PLAIN:
            return plain(blocks["x"], out)
        if qtype.name not in FAMILY:
            raise ModelError(f"tensor type {qtype.name} (id {qtype.id}) has no decoder")
        if out is None:
            out = np.empty(weights, np.float32)
        if compiling_pays(qtype.name, weights):
            decode_compiled(blocks, qtype, out, threads)
        else:
            decode_defined(blocks, qtype, out)
    return out


def plain(x: Any, out: F32 | None) -> F32:
    """Numbers as they are, in float32."""
    if out is None:
        return x.astype(np.float32, copy=False)
    np.copyto(out, x, casting="unsafe")
    return out


def compiling_pays(name: str, weights: int) -> bool:
    """Whether this many weights more are reason enough to use the Numba version of a type.

    Always, once it is loaded. Before that, when definitions have spent as long on decoding as loading it takes: then
    neither choice is ever more than twice as slow as the better one.
    """
    if name in in_use:
        return True
    decoded_weights[name] += weights
    if "numba" in sys.modules:
        return decoded_weights[name] > WORTH_LOADING
    return decoded_weights.total() > WORTH_IMPORTING


def definition(name: str) -> Callable[[Any], Float]:
    """The NumPy function of a type: blocks (n) -> (n, weights per block)."""
    function: Callable[[Any], Float] = getattr(
        importlib.import_module(f"refembed.kernels.quant.dequant_{FAMILY[name]}"), name.lower()
    )
    return function


def compiled(name: str) -> CompiledDecoder:
    """The Numba kernel of a type, (raw, *codebook, out, begin, end), and its codebook."""
    if name not in in_use:
        kernel = getattr(importlib.import_module(f"refembed.kernels.quant.dequant_jit_{FAMILY[name]}"), name.lower())
        codebook: tuple[Any, ...] = ()
        if name in CODEBOOKS:
            from refembed.kernels.quant import dequant_iquants

            codebook = (dequant_iquants.codebook(name).reshape(-1),)
        in_use[name] = kernel, codebook
    return in_use[name]


def decode_defined(blocks: Any, qtype: QuantType, out: F32) -> None:
    """Blocks (n) -> out (n * weights per block), by the definition, some thousand weights at a time."""
    function, step = definition(qtype.name), max(CHUNK // qtype.weights, 1)
    rows = out.reshape(-1, qtype.weights)
    for i in range(0, len(blocks), step):
        rows[i : i + step] = function(blocks[i : i + step])


def decode_compiled(blocks: Any, qtype: QuantType, out: F32, threads: int | None = None) -> None:
    """Blocks (n) -> out (n * weights per block), by the Numba version."""
    raw = blocks.astype(qtype.block, copy=False).view(np.uint8)
    raw.flags.writeable = False  # mapped files are read-only: one compiled kernel serves all
    kernel, codebook = compiled(qtype.name)
    if threads == 1 or out.size < SHARE:
        kernel(raw, *codebook, out, 0, len(blocks))
        return
    from refembed.kernels.threads import parallel_for

    parallel_for(kernel, raw, *codebook, out, rows=len(blocks), size=out.size)
