"""What ggml's CPU backend itself makes of a matrix product: one-node graphs, in a process of its own.

products(jobs)      W x for every job, by the pinned wheel: weights in plain buffers, or interleaved ("repacked")
conversions(jobs)   activations as the backend's own `from_float` rounds them, raw bytes
"""

from __future__ import annotations

import ctypes as ct
import io
import sys
from pathlib import Path

import numpy as np

from tests.child import answer

PTR, INT, STR, SIZE = ct.c_void_p, ct.c_int, ct.c_char_p, ct.c_size_t
FUNCTIONS = {
    "ggml_init": (PTR, "init"),
    "ggml_free": (None, PTR),
    "ggml_tensor_overhead": (SIZE,),
    "ggml_graph_overhead": (SIZE,),
    "ggml_new_tensor_2d": (PTR, PTR, INT, ct.c_int64, ct.c_int64),
    "ggml_mul_mat": (PTR, PTR, PTR, PTR),
    "ggml_new_graph": (PTR, PTR),
    "ggml_build_forward_expand": (None, PTR, PTR),
    "ggml_backend_cpu_reg": (PTR,),
    "ggml_backend_load": (PTR, STR),
    "ggml_backend_reg_dev_get": (PTR, PTR, SIZE),
    "ggml_backend_reg_get_proc_address": (PTR, PTR, STR),
    "ggml_backend_dev_init": (PTR, PTR, STR),
    "ggml_backend_dev_buffer_type": (PTR, PTR),
    "ggml_backend_alloc_ctx_tensors_from_buft": (PTR, PTR, PTR),
    "ggml_backend_buffer_free": (None, PTR),
    "ggml_backend_graph_compute": (INT, PTR, PTR),
    "ggml_backend_tensor_set": (None, PTR, PTR, SIZE, SIZE),
    "ggml_backend_tensor_get": (None, PTR, PTR, SIZE, SIZE),
    "ggml_get_type_traits_cpu": (PTR, INT),
}


class Init(ct.Structure):
    """struct ggml_init_params"""

    _fields_ = (("mem_size", SIZE), ("mem_buffer", PTR), ("no_alloc", ct.c_bool))


class CpuTraits(ct.Structure):
    """struct ggml_type_traits_cpu"""

    _fields_ = (("from_float", PTR), ("vec_dot", PTR), ("vec_dot_type", INT), ("nrows", ct.c_int64))


def products(jobs, *, repack=False, lib=None, cpu=None):
    """jobs: (type id, raw weights (bytes of m rows), m, x (n, k) float32). One float32 (n, m) a job.

    lib, cpu  another build: a folder of shared libraries, and which of its CPU plug-ins
    """
    arrays = {}
    for i, (type, raw, m, x) in enumerate(jobs):
        arrays |= {f"type{i}": np.array([type, m]), f"raw{i}": raw, f"x{i}": np.ascontiguousarray(x, np.float32)}
    answers = ask(["repack" if repack else "plain", str(lib or ""), cpu or ""], arrays)
    return [answers[f"y{i}"] for i in range(len(jobs))]


def conversions(jobs):
    """jobs: (type id, x (k) float32, bytes the answer has): what from_float writes."""
    arrays = {}
    for i, (type, x, nbytes) in enumerate(jobs):
        arrays |= {f"type{i}": np.array([type, nbytes]), f"x{i}": np.ascontiguousarray(x, np.float32)}
    answers = ask(["convert", "", ""], arrays)
    return [answers[f"y{i}"] for i in range(len(jobs))]


def ask(words, arrays):
    """Run this file with arrays on its stdin; the arrays on its stdout."""
    data = io.BytesIO()
    np.savez(data, **arrays)
    return np.load(io.BytesIO(answer(["-m", "tests.kernels.ggml.oracle_mul_mat", *words], data.getvalue())))


class Ggml:
    """The library and one CPU device."""

    def __init__(self, lib, cpu):
        if lib:
            folder = Path(lib)
            self.parts = [
                ct.CDLL(str(next(iter(sorted(folder.glob(f"{s}*.so*")))))) for s in ("libggml-base", "libggml.")
            ]
        else:
            import importlib.util

            spec = importlib.util.find_spec("xllamacpp")
            self.parts = [ct.CDLL(str(next(iter(Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so")))))]
        for name, (result, *arguments) in FUNCTIONS.items():
            for part in self.parts:
                if hasattr(part, name):
                    function = part[name]
                    function.restype = result
                    function.argtypes = [Init if a == "init" else a for a in arguments]
                    setattr(self, name, function)
                    break
        if lib:
            reg = self.ggml_backend_load(str(Path(lib) / f"libggml-cpu-{cpu}.so").encode())
            assert reg, f"{cpu} does not run here"
        else:
            reg = self.ggml_backend_cpu_reg()
        self.device = self.ggml_backend_reg_dev_get(reg, 0)
        self.backend = self.ggml_backend_dev_init(self.device, None)
        self.plain = self.ggml_backend_dev_buffer_type(self.device)
        found = self.ggml_backend_reg_get_proc_address(reg, b"ggml_backend_dev_get_extra_bufts")
        self.extra = ct.CFUNCTYPE(ct.POINTER(PTR), PTR)(found)(self.device)

    def context(self):
        return self.ggml_init(Init(16 * self.ggml_tensor_overhead() + self.ggml_graph_overhead(), None, True))

    def mul_mat(self, type, raw, m, x, repack):
        (n, k), weights, rest = x.shape, self.context(), self.context()
        w = self.ggml_new_tensor_2d(weights, type, k, m)
        held = self.ggml_backend_alloc_ctx_tensors_from_buft(weights, self.extra[0] if repack else self.plain)
        self.ggml_backend_tensor_set(w, raw.ctypes.data, 0, raw.nbytes)
        b = self.ggml_new_tensor_2d(rest, 0, k, n)
        y = self.ggml_mul_mat(rest, w, b)
        graph = self.ggml_new_graph(rest)
        self.ggml_build_forward_expand(graph, y)
        also = self.ggml_backend_alloc_ctx_tensors_from_buft(rest, self.plain)
        self.ggml_backend_tensor_set(b, x.ctypes.data, 0, x.nbytes)
        status = self.ggml_backend_graph_compute(self.backend, graph)
        assert status == 0, f"graph_compute says {status}"
        out = np.empty((n, m), np.float32)
        self.ggml_backend_tensor_get(y, out.ctypes.data, 0, out.nbytes)
        for buffer in (held, also):
            self.ggml_backend_buffer_free(buffer)
        for context in (weights, rest):
            self.ggml_free(context)
        return out

    def convert(self, type, x, nbytes):
        traits = ct.cast(self.ggml_get_type_traits_cpu(type), ct.POINTER(CpuTraits)).contents
        out = np.zeros(nbytes, np.uint8)
        ct.CFUNCTYPE(None, PTR, PTR, ct.c_int64)(traits.from_float)(x.ctypes.data, out.ctypes.data, x.size)
        return out


def main():
    what, lib, cpu = sys.argv[1:]
    ggml, asked, answers = Ggml(lib, cpu), np.load(io.BytesIO(sys.stdin.buffer.read())), {}
    i = 0
    while f"type{i}" in asked:
        (type, size), x = (int(v) for v in asked[f"type{i}"]), asked[f"x{i}"]
        if what == "convert":
            answers[f"y{i}"] = ggml.convert(type, x, size)
        else:
            answers[f"y{i}"] = ggml.mul_mat(type, asked[f"raw{i}"], size, x, what == "repack")
        i += 1
    out = io.BytesIO()
    np.savez(out, **answers)
    sys.stdout.buffer.write(out.getvalue())


if __name__ == "__main__":
    main()
