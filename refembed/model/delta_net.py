"""Gated delta net: the linear attention of Qwen3-Next and Qwen 3.5, in place of attention in most of their layers.

Yang, Kautz & Hatamizadeh 2024, "Gated Delta Networks"; Qwen3-Next adds a convolution in front and a gated norm behind.
A head keeps a matrix of values under keys. Each token lets it fade, replaces what is held under its key, and reads it.
Mirrors llama.cpp's src/models/delta-net-base.cpp and what qwen35.cpp and qwen3next.cpp do around it.

    y ─► q, k, v ─► convolution ─► silu ─► q, k of length 1 ─► delta rule ─► norm ─► * silu(z) ─► output
    y ─► alpha ─► how much of the state stays     y ─► beta ─► how far it is replaced     y ─► z
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams


def convolved(
    qkv: Float, conv: Tensor, hp: Hparams, batch: Batch, ops: Ops, tap: Tap, *, interleaved: bool = False
) -> tuple[Float, Float, Float]:
    """Queries, keys (T, G N) and values (T, I) as the delta rule takes them, of qkv (T, I + 2 G N).

    conv         (I + 2 G N, conv)
    interleaved  neighboring heads of values share a head of keys, and q and k are repeated for them: (T, I); else
                 every G-th does, which the rule knows
    """
    ssm = hp.ssm
    assert ssm is not None
    GN = ssm.n_group * ssm.n_state
    qkv = behind_zeros(qkv, ssm.n_conv, tap)
    qkv = tap("conv_output_raw", ops.short_conv(qkv, conv, batch.offsets))  # (T, I + 2 G N)
    qkv = tap("conv_output_silu", ops.silu(qkv))
    q, k, v = ops.split(qkv, [GN, GN, ssm.n_inner])
    q, k = (predelta(x, which, interleaved, hp, ops, tap) for x, which in ((q, "q"), (k, "k")))
    return q, k, v


def predelta(x: Float, which: str, interleaved: bool, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """Queries or keys x (T, G N) as the delta rule takes them: each head of length 1; (T, I) if they are repeated."""
    ssm = hp.ssm
    assert ssm is not None
    heads, name = x.reshape(len(x), ssm.n_group, ssm.n_state), f"{which}_conv_predelta"  # (T, G, N)
    heads = tap(f"{which}_normed", ops.rms_norm(heads, None, hp.norm_eps / ssm.n_state))
    heads = ops.scale(heads, ops.dtype(1) / np.sqrt(ops.dtype(ssm.n_state)))  # in float32 it takes two roundings
    if interleaved and ssm.dt_rank != ssm.n_group:
        heads = np.repeat(tap(f"{which}_scaled", heads), ssm.dt_rank // ssm.n_group, axis=1)  # (T, dt, N)
    return tap(name, heads).reshape(len(x), -1)


def behind_zeros(x: Float, n_conv: int, tap: Tap) -> Float:
    """x (T, C), after it was shown as llama.cpp convolves it: transposed, behind the zeros of a new text's state."""
    if not tap.active:
        return x
    shown = tap("conv_input", np.pad(x, ((n_conv - 1, 0), (0, 0))).T)  # (C, n_conv - 1 + T)
    return np.ascontiguousarray(shown.T[n_conv - 1 :])


def let_through(o: Float, z: Float, ops: Ops, tap: Tap) -> Float:
    """What the state gave, normed head by head, o (T, dt, N), as far as z (T, I) lets it through: (T, I)."""
    gate = tap("z_silu", ops.silu(z.reshape(-1, o.shape[2])).reshape(o.shape))  # unnamed in llama.cpp's graph
    return tap("final_output", ops.multiply(o.reshape(z.shape), gate.reshape(z.shape)))
