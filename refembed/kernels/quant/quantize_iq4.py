"""IQ4_NL and IQ4_XS: codes of 4 bits for 16 values that lie closer together near zero.

Mirrors quantize_row_iq4_nl_impl (ggml-quants.c), bit for bit. `search` as in quantize_kquants.py.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.kernels.quant.quantize_flat import Blocks, nibbles, reciprocal
from refembed.kernels.quant.quantize_search import clipped, f32, finite, largest

NTRY = 7


def iq4_nl(x: F32, out: Blocks, search: ModuleType) -> None:
    """IQ4_NL: 32 weights with one scale. x (N, 32)."""
    scale = search.iq4_scales(x, NTRY)  # (N)
    out["d"] = scale
    out["qs"] = nibbles(search.best_index_int8(reciprocal(scale)[:, None] * x))


def iq4_xs(x: F32, out: Blocks, search: ModuleType) -> None:
    """IQ4_XS: 8 runs of 32, each with a scale of 6 bits: 4 in `scales_l`, 2 in `scales_h`. x (N, 256)."""
    N = len(x)
    scale = search.iq4_scales(x.reshape(N * 8, 32), NTRY).reshape(N, 8)
    d = -largest(finite(scale))[1] / f32(32)  # (N)
    sc = clipped(reciprocal(d)[:, None] * scale, -32, 31)  # (N, 8)
    iscale = reciprocal(d[:, None] * sc.astype(f32))
    out["d"] = d
    codes = search.best_index_int8((iscale[:, :, None] * x.reshape(N, 8, 32)).reshape(N * 8, 32))
    out["qs"] = nibbles(codes).reshape(N, 128)
    sc += 32
    out["scales_l"] = (sc[:, ::2] & 15) | ((sc[:, 1::2] & 15) << 4)
    out["scales_h"] = np.bitwise_or.reduce(sc >> 4 << 2 * np.arange(8, dtype=np.int32), axis=1)


IQ4: dict[str, Any] = {"IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs}
