"""Single operations of the pinned wheel's ggml, run as graphs of one node in a process of its own.

    run([("ggml_norm", [x, 1e-5]), ("ggml_mul_mat", [Typed("Q8_0", raw, (m, k)), x])])   ->   one float32 array a call

Arguments in the order of ggml.h, less the context: arrays (float32, float16, int32; last axis contiguous) become
tensors, None a null pointer, int, np.int64 and float stay what they are. "ggml_soft_max_ext, ggml_soft_max_add_sinks"
hands the last argument to a second function, which alters the node of the first.
"""

from __future__ import annotations

import ctypes as ct
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.child import answer

TYPES = {"float32": 0, "float16": 1, "int32": 26}


@dataclass(frozen=True)
class Typed:
    """Raw bytes of a tensor of a type that NumPy lacks; shape rows first."""

    type: str
    raw: np.ndarray
    shape: tuple[int, ...]


class Init(ct.Structure):
    """struct ggml_init_params"""

    _fields_ = [("size", ct.c_size_t), ("buffer", ct.c_void_p), ("no_alloc", ct.c_bool)]


def run(calls, lib="", cpu=""):
    """The result of each call, float32, in the shape ggml gives it (rows first, axes of length 1 in front dropped).

    lib, cpu  another build: a folder of shared libraries, and which of its CPU plug-ins
    """
    program = "from tests.kernels.ggml import live; live.main()"
    return pickle.loads(answer(["-c", program, lib, cpu], pickle.dumps(calls)))


class Folder:
    """The functions of a build whose CPU code is a plug-in."""

    def __init__(self, folder, cpu):
        self.parts = [ct.CDLL(str(Path(folder) / f"lib{name}.so")) for name in ("ggml-base", f"ggml-cpu-{cpu}")]
        self.ggml_cpu_init()

    def __getattr__(self, name):
        return next(getattr(part, name) for part in self.parts if hasattr(part, name))


def library(folder, cpu):
    if folder:
        lib = Folder(folder, cpu)
    else:
        import xllamacpp

        lib = ct.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
    for name in ("ggml_init", "ggml_new_tensor_4d", "ggml_get_data", "ggml_new_graph"):
        getattr(lib, name).restype = ct.c_void_p
    lib.ggml_init.argtypes = [Init]
    lib.ggml_new_tensor_4d.argtypes = [ct.c_void_p, ct.c_int, *[ct.c_int64] * 4]
    lib.ggml_nbytes.restype = ct.c_size_t
    return lib


def tensor(lib, ctx, x):
    """A tensor with the array's bytes."""
    if isinstance(x, Typed):
        from refembed.gguf import BY_NAME

        kind, shape, raw = BY_NAME[x.type].id, x.shape, x.raw
    else:
        kind, shape, raw = TYPES[str(x.dtype)], x.shape, np.ascontiguousarray(x)
    ne = [*shape[::-1], 1, 1, 1][:4]
    t = lib.ggml_new_tensor_4d(ctx, kind, *ne)
    data = raw.tobytes()
    assert lib.ggml_nbytes(ct.c_void_p(t)) == len(data)
    ct.memmove(lib.ggml_get_data(ct.c_void_p(t)), data, len(data))
    return ct.c_void_p(t)


def call(lib, name, arguments):
    """One graph of one node."""
    ctx = ct.c_void_p(lib.ggml_init(Init(256 << 20, None, False)))
    convert = {int: ct.c_int, np.int64: ct.c_int64, float: ct.c_float, bool: ct.c_bool, type(None): ct.c_void_p}
    args = [tensor(lib, ctx, a) if isinstance(a, (np.ndarray, Typed)) else convert[type(a)](a) for a in arguments]
    name, _, setter = name.partition(", ")
    function = getattr(lib, name)
    function.restype = ct.c_void_p
    node = ct.c_void_p(function(ctx, *(args[:-1] if setter else args)))
    if setter:
        getattr(lib, setter)(node, args[-1])
    graph = ct.c_void_p(lib.ggml_new_graph(ctx))
    lib.ggml_build_forward_expand(graph, node)
    assert lib.ggml_graph_compute_with_ctx(ctx, graph, ct.c_int(1)) == 0
    ne = (ct.c_int64 * 4).from_address(node.value + 16)  # struct ggml_tensor: type, buffer, ne[4]
    shape = tuple(ne)[::-1]
    n = int(np.prod(shape))
    data = np.frombuffer(ct.string_at(lib.ggml_get_data(node), 4 * n), np.float32).reshape(shape)
    lib.ggml_free(ctx)
    while data.ndim > 2 and data.shape[0] == 1:
        data = data[0]
    return data.copy()


def main():
    """The other side of `run`."""
    calls = pickle.load(sys.stdin.buffer)
    lib = library(*sys.argv[1:])
    sys.stdout.buffer.write(pickle.dumps([call(lib, *one) for one in calls]))
