"""From a ggml_tensor in memory to an array of our own, as the evaluation callback must: at once and whole.

ggml reuses a tensor's memory as soon as its last reader has run, so the copy is made inside the callback. Strides are
ggml's: of a permuted or viewed tensor they are in any order (numerics of the callback: ggml/src/ggml-backend.cpp).
"""

from __future__ import annotations

import ctypes as ct
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.verify.engines.llamacpp_abi import tensor_at

# enum ggml_type: the plain types; all others are blocks of quantized weights
DTYPES = {0: "f4", 1: "f2", 24: "i1", 25: "i2", 26: "i4", 27: "i8", 28: "f8", 30: "u2"}
BF16 = 30


def read_tensor(lib: Any, address: int) -> npt.NDArray[Any]:
    """The tensor's values in NumPy order (`ne` reversed), at least 2-D, without further leading axes of length 1.

    BF16 comes as float32, which holds it exactly; quantized types come as their raw bytes, one axis.
    """
    t = tensor_at(address)
    itemsize = np.dtype(DTYPES[t.type]).itemsize if t.type in DTYPES else 1
    ne, nb = list(t.ne), list(t.nb)
    if t.type not in DTYPES:
        ne, nb = [lib.ggml_nbytes(address), 1, 1, 1], [1, 0, 0, 0]
    if 0 in ne:
        return np.empty(shape_of(ne), DTYPES.get(t.type, "u1"))
    span = sum((n - 1) * b for n, b in zip(ne, nb, strict=True)) + itemsize
    memory = (ct.c_char * span).from_address(t.data) if is_host(lib, t) else fetch(lib, address, span)
    strided: npt.NDArray[Any] = np.ndarray(ne[::-1], DTYPES.get(t.type, "u1"), memory, strides=nb[::-1])
    x = strided.copy().reshape(shape_of(ne) if t.type in DTYPES else -1)
    return (x.astype("u4") << 16).view("f4") if t.type == BF16 else x


def shape_of(ne: list[int]) -> tuple[int, ...]:
    """NumPy shape of `ne`: (5, 7, 1, 1) is (7, 5), (5, 1, 1, 1) is (1, 5)."""
    shape = ne[::-1]
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def is_host(lib: Any, t: Any) -> bool:
    """Whether the data can be read where it lies."""
    return not t.buffer or bool(lib.ggml_backend_buffer_is_host(t.buffer))


def fetch(lib: Any, address: int, span: int) -> Any:
    """Bytes of a tensor that lives in another memory."""
    memory = (ct.c_char * span)()
    lib.ggml_backend_tensor_get(address, memory, 0, span)
    return memory
