"""Single operations of live ggml, as graphs of one or a few nodes, in a process of its own.

    with Graphs() as ggml:                      # the pinned wheel
        ggml.rope(x, pos, rope)                 # (T, H, D)
        ggml.flash(q, k, v, mask, scale)        # (T, H, D)
        ggml.classic(q, k, v, mask, scale)      # every tensor of attention without flash attention, by name

`Graphs(lib, cpu)` asks another build: a folder of shared libraries, and which of its CPU backends.
Shapes are NumPy's: q (T, H, D), k and v (N, K, D), mask (T, N); the graphs permute them as llama-graph.cpp does.
"""

from __future__ import annotations

import ctypes as ct
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from refembed.verify.engines.llamacpp_wire import receive, send

PTR, INT, FLOAT, I64 = ct.c_void_p, ct.c_int, ct.c_float, ct.c_int64
TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int32): 26}  # enum ggml_type
MODES = {"norm": 0, "neox": 2}  # GGML_ROPE_TYPE_*
NODES = {  # name: what stands between the context and the first tensor, and all that follows it
    "ggml_new_tensor_4d": (INT, I64, I64, I64, I64),
    "ggml_rope_ext": (PTR, PTR, PTR, INT, INT, INT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT),
    "ggml_flash_attn_ext": (PTR, PTR, PTR, PTR, FLOAT, FLOAT, FLOAT),
    "ggml_soft_max_ext": (PTR, PTR, FLOAT, FLOAT),
    "ggml_mul_mat": (PTR, PTR),
    "ggml_permute": (PTR, INT, INT, INT, INT),
    "ggml_transpose": (PTR,),
    "ggml_cont": (PTR,),
    "ggml_cast": (PTR, INT),
    "ggml_scale": (PTR, FLOAT),
    "ggml_tanh": (PTR,),
    "ggml_new_graph": (),
}


class Graphs:
    """The process that holds ggml. Its answers are what that build computes."""

    def __init__(self, lib=None, cpu=None):
        root = os.fspath(Path(__file__).parents[3])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(lib or ""), cpu or ""]
        self.worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.worker.stdin.close()
        self.worker.wait(20)
        self.worker.stdout.close()

    def ask(self, op, *args):
        send(self.worker.stdin, (op, args))
        return receive(self.worker.stdout)

    def rope(self, x, pos, rope, factors=None):
        """ggml_rope_ext. factors (n_dims/2): freq_factors."""
        numbers = (rope.freq_base, rope.freq_scale, rope.ext_factor, rope.attn_factor, rope.beta_fast, rope.beta_slow)
        return self.ask("rope", x, pos.astype(np.int32), factors, rope.n_dims, rope.pairs, rope.n_ctx_orig, numbers)

    def flash(self, q, k, v, mask, scale, max_bias=0.0, soft_cap=0.0, threads=1):
        """ggml_flash_attn_ext. mask becomes float16; k and v go in as they come, float16 or float32."""
        mask = None if mask is None else mask.astype(np.float16)
        return self.ask("flash", q, k, v, mask, scale, max_bias, soft_cap, threads)

    def classic(self, q, k, v, mask, scale, max_bias=0.0, soft_cap=0.0):
        """build_attn_mha without flash attention: kq, kq_scaled_*, kq_tanh, kq_soft_max, v_cont, kqv (H, ...), kqv_out.

        Float16 k and v stand for a cache, where v is kept transposed.
        """
        return self.ask("classic", q, k, v, mask, scale, max_bias, soft_cap)

    def mul_mat(self, w, x):
        """ggml_mul_mat of w (m, k) and x (n, k): (n, m)."""
        return self.ask("mul_mat", w, x)


class Context:
    """Tensors and nodes of one graph; `run` computes it."""

    def __init__(self, lib, size):
        from refembed.verify.engines.llamacpp_abi import GgmlInit

        self.lib = lib
        self.ctx = lib.library.ggml_init(GgmlInit(size, None, False))

    def tensor(self, x):
        """An array as a ggml tensor."""
        ne = [1] * (4 - x.ndim) + list(x.shape)
        t = self("ggml_new_tensor_4d", TYPES[x.dtype], *ne[::-1])
        x = np.ascontiguousarray(x)
        ct.memmove(self.lib.at(t).data, x.ctypes.data, x.nbytes)
        return t

    def __call__(self, name, *args):
        return self.lib.nodes[name](self.ctx, *args)

    def run(self, *outputs, threads=1):
        """Compute these nodes and return their values."""
        graph = self("ggml_new_graph")
        for node in outputs:
            self.lib.expand(graph, node)
        assert self.lib.compute(self.ctx, graph, threads) == 0
        return [self.value(node) for node in outputs]

    def value(self, node):
        t = self.lib.at(node)
        kind = np.float16 if t.type == 1 else np.float32
        size = sum((t.ne[i] - 1) * t.nb[i] for i in range(4)) + kind(0).nbytes
        data = ct.string_at(t.data, size)
        return np.ndarray(tuple(t.ne)[::-1], kind, data, strides=tuple(t.nb)[::-1]).copy()

    def close(self):
        self.lib.library.ggml_free(self.ctx)


class Lib:
    """ggml's functions, from the wheel or from a folder whose CPU code is a plug-in."""

    def __init__(self, folder, cpu):
        from refembed.verify.engines.llamacpp_abi import tensor_at
        from refembed.verify.engines.llamacpp_lib import Library

        self.library, self.at = Library(folder or None, cpu or None), tensor_at
        computing = ct.CDLL(os.fspath(self.library.files[-1])) if folder else self.library
        self.nodes = {name: self.function(self.library[name], PTR, PTR, *args) for name, args in NODES.items()}
        self.expand = self.function(self.library["ggml_build_forward_expand"], None, PTR, PTR)
        self.compute = self.function(computing["ggml_graph_compute_with_ctx"], INT, PTR, PTR, INT)
        self.function(computing["ggml_cpu_init"], None)()

    @staticmethod
    def function(f, result, *arguments):
        f.restype, f.argtypes = result, arguments
        return f


def rope(g, x, pos, factors, n_dims, pairs, n_ctx_orig, numbers):
    c = None if factors is None else g.tensor(factors)
    out = g("ggml_rope_ext", g.tensor(x), g.tensor(pos), c, n_dims, MODES[pairs], n_ctx_orig, *numbers)
    return g.run(out)[0][0]


def flash(g, q, k, v, mask, scale, max_bias, soft_cap, threads):
    q, k, v = (g("ggml_permute", g.tensor(x), 0, 2, 1, 3) for x in (q, k, v))
    mask = None if mask is None else g.tensor(mask)
    out = g("ggml_flash_attn_ext", q, k, v, mask, scale, max_bias, soft_cap)
    return g.run(out, threads=threads)[0][0]


def classic(g, q, k, v, mask, scale, max_bias, soft_cap):
    shown = {}
    if v.dtype == np.float16:  # as a cache keeps it: (K, D, N)
        vt = g.tensor(v.transpose(1, 2, 0))
    else:
        shown["v_cont"] = vt = g("ggml_cont", g("ggml_transpose", g("ggml_permute", g.tensor(v), 0, 2, 1, 3)))
    q, k = (g("ggml_permute", g.tensor(x), 0, 2, 1, 3) for x in (q, k))
    shown["kq"] = kq = g("ggml_mul_mat", k, q)
    if soft_cap:
        shown["kq_scaled_1"] = kq = g("ggml_scale", kq, 1 / np.float32(soft_cap))
        shown["kq_tanh"] = kq = g("ggml_tanh", kq)
        shown["kq_scaled_2"] = kq = g("ggml_scale", kq, soft_cap)
    shown["kq_soft_max"] = kq = g("ggml_soft_max_ext", kq, g.tensor(mask), scale, max_bias)
    shown["kqv"] = kqv = g("ggml_mul_mat", vt, kq)
    shown["kqv_out"] = g("ggml_cont", g("ggml_permute", kqv, 0, 2, 1, 3))
    return {name: x[0] for name, x in zip(shown, g.run(*shown.values()), strict=True)}


def mul_mat(g, w, x):
    return g.run(g("ggml_mul_mat", g.tensor(w), g.tensor(x)))[0][0, 0]


OPERATIONS = {f.__name__: f for f in (rope, flash, classic, mul_mat)}


def main():
    """Answer requests until the other end closes."""
    lib = Lib(*sys.argv[1:3])
    source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever ggml prints must not mix with answers
    while True:
        try:
            op, args = receive(source)
        except EOFError:
            return
        g = Context(lib, 1 << 29)
        send(out, OPERATIONS[op](g, *args))
        g.close()


if __name__ == "__main__":
    main()
