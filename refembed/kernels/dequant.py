"""Blocks of a GGUF tensor to float32.

The arithmetic leans on `gguf.quants`, the decoders that llama.cpp's authors publish, bit-identical to ggml's own
`dequantize_row_*`; F32 and F64 need none. `refembed.gguf.Tensor.dequantize` finds this module by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refembed.arrays import F32, U8
from refembed.errors import ModelError
from refembed.gguf import QuantType


def dequantize(raw: U8, qtype: QuantType, byteorder: str = "<") -> F32:
    """Decode whole blocks.

    raw        bytes of n blocks
    byteorder  "<" or ">": how the file stores the fields of a block
    returns    (n * weights per block), float32; a view of `raw` where it already is float32 in this machine's order
    Raises ModelError for a type that has no decoder yet.
    """
    blocks = np.ascontiguousarray(raw).reshape(-1).view(qtype.block.newbyteorder(byteorder))  # type: ignore[arg-type]
    if qtype.name in SCALARS:
        return blocks["x"].astype(np.float32, copy=False)
    import gguf  # 0.1 s, and only quantised files need it

    little = blocks.astype(qtype.block.newbyteorder("<"), copy=False).view(np.uint8)
    try:
        decoded: F32 = gguf.quants.dequantize(little, gguf.GGMLQuantizationType(qtype.id))
    except (NotImplementedError, ValueError):
        raise ModelError(f"tensor type {qtype.name} (id {qtype.id}) has no decoder") from None
    return decoded.reshape(-1)


SCALARS: dict[str, Any] = dict.fromkeys(("F32", "F16", "F64"))
