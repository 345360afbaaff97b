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
    """IQ4_NL: 32 weights with one scale. x (N, 32).

    >>> from refembed.gguf import BY_NAME
    >>> from refembed.kernels.quant import quantize_search
    >>> from refembed.kernels.quant.dequant_legacy import NL  # -127, -104, -83 ... 113
    >>> x = np.resize(NL, (1, 32)).astype(np.float32)
    >>> out = np.zeros(1, BY_NAME["IQ4_NL"].block)
    >>> with np.errstate(all="ignore"):
    ...     iq4_nl(x, out, quantize_search)
    >>> float(out["d"][0]), [hex(byte) for byte in out["qs"][0, :3]]
    (1.0, ['0x0', '0x11', '0x22'])
    """
    scale = search.iq4_scales(x, NTRY)  # (N)
    out["d"] = scale
    out["qs"] = nibbles(search.best_index_int8(reciprocal(scale)[:, None] * x))


def iq4_xs(x: F32, out: Blocks, search: ModuleType) -> None:
    """IQ4_XS: 8 runs of 32, each with a scale of 6 bits: 4 in `scales_l`, 2 in `scales_h`. x (N, 256).

    >>> from refembed.gguf import BY_NAME
    >>> from refembed.kernels.quant import quantize_search
    >>> from refembed.kernels.quant.dequant_legacy import NL  # -127, -104, -83 ... 113
    >>> x = 32 * np.resize(NL, (1, 256)).astype(np.float32)
    >>> out = np.zeros(1, BY_NAME["IQ4_XS"].block)
    >>> with np.errstate(all="ignore"):
    ...     iq4_xs(x, out, quantize_search)
    >>> float(out["d"][0]), int(out["scales_l"][0, 0]), [hex(byte) for byte in out["qs"][0, :3]]  # scale -32 d
    (-1.0, 0, ['0x0', '0x11', '0x22'])
    """
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
