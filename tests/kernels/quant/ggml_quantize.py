"""ggml's own quantizers, from the pinned wheel, in a process of its own.

live(x, names)   x (n, width) as ggml_quantize_chunk stores it without an importance matrix: {name: uint8 bytes};
                 under "name ref" what `from_float_ref` of ggml_get_type_traits makes of it, where the type has one
"""

from __future__ import annotations

import ctypes as ct
import io
import sys

import numpy as np

from refembed.arrays import F32, U8
from refembed.gguf import BY_NAME
from refembed.verify.engines.llamacpp_lib import wheel_file
from tests.child import answer

ONLY_REF = ("Q8_1",)  # types of activations: ggml_quantize_chunk does not take them
ONLY_NAMED = ("Q8_K",)  # nor do the traits have this one; the function is exported under its name


class Traits(ct.Structure):
    """struct ggml_type_traits"""

    _fields_ = (
        ("type_name", ct.c_char_p),
        ("blck_size", ct.c_int64),
        ("blck_size_interleave", ct.c_int64),
        ("type_size", ct.c_size_t),
        ("is_quantized", ct.c_bool),
        ("to_float", ct.c_void_p),
        ("from_float_ref", ct.c_void_p),
    )


def live(x: F32, names: list[str]) -> dict[str, U8]:
    """Ask the wheel. x (n, width), float32."""
    given = io.BytesIO()
    np.savez(given, x=np.ascontiguousarray(x, np.float32), names=names)
    with np.load(io.BytesIO(answer(["-m", "tests.kernels.quant.ggml_quantize"], given.getvalue()))) as found:
        return dict(found)


def main() -> None:
    """The other process."""
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as given:
        x, names = given["x"], [str(n) for n in given["names"]]
    lib = ct.CDLL(str(wheel_file()))
    lib.ggml_get_type_traits.restype, lib.ggml_get_type_traits.argtypes = ct.POINTER(Traits), [ct.c_int]
    lib.ggml_quantize_chunk.restype = ct.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ct.c_int, ct.c_void_p, ct.c_void_p, *[ct.c_int64] * 3, ct.c_void_p]
    from_float = ct.CFUNCTYPE(None, ct.c_void_p, ct.c_void_p, ct.c_int64)
    found: dict[str, U8] = {}
    for name in names:
        t = BY_NAME[name]
        traits = lib.ggml_get_type_traits(t.id).contents
        assert (traits.blck_size, traits.type_size) == (t.weights, t.nbytes)
        if name not in ONLY_REF + ONLY_NAMED:
            out = found[name] = np.zeros(x.size // t.weights * t.nbytes, np.uint8)
            size = lib.ggml_quantize_chunk(t.id, x.ctypes.data, out.ctypes.data, 0, *x.shape, None)
            assert size == out.size
        ref = traits.from_float_ref
        if name in ONLY_NAMED:
            ref = ct.cast(lib[f"quantize_row_{name.lower().replace('_k', '_K')}_ref"], ct.c_void_p).value
        if ref:
            out = found[name + " ref"] = np.zeros(x.size // t.weights * t.nbytes, np.uint8)
            from_float(ref)(x.ctypes.data, out.ctypes.data, x.size)
    answer = io.BytesIO()
    np.savez(answer, **found)  # type: ignore[arg-type]  # savez has an argument of its own among the names
    sys.stdout.buffer.write(answer.getvalue())


if __name__ == "__main__":
    main()
