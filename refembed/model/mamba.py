"""Mamba and Falcon Mamba: no attention, no feed-forward; what a token needs of those before it is in a state.

Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces": each channel keeps N numbers, and the
token decides how they fade, what goes in and what is read. Mirrors llama.cpp's src/models/mamba.cpp and
build_mamba_layer of mamba-base.cpp; few tensors have a name there.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► mixer ─► + x ─► x
          x ─► norm
    mixer        y ─► ssm_in = x, z;  x ─► convolution ─► silu ─► x ─► ssm_x = dt, B, C;  dt ─► ssm_dt
                 x, dt, B, C ─► scan ─► * silu(z) ─► ssm_out
"""

from __future__ import annotations

from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import run_layers
from refembed.model.delta_net import behind_zeros
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="rms", recurrent="all", ssm="mamba", runs_alone=True)


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    ssm_in: Tensor = tensor("2I C")
    ssm_conv1d: Affine = affine("I conv")
    ssm_x: Tensor = tensor("dt+2N I")
    ssm_dt: Affine = affine("I dt")
    ssm_a: Tensor = tensor("I N", end="")
    ssm_d: Tensor = tensor("I", end="")
    ssm_out: Tensor = tensor("C I")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, hp.norm_eps, tap))  # (T, C)
        x = tap("l_out", ops.add(tap("mamba_out", mixer(y, blk, hp, batch, ops, tap)), x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, hp.norm_eps, taps))


def mixer(y: Float, blk: Block, hp: Hparams, batch: Batch, ops: Ops, tap: Tap) -> Float:
    """y (T, C) -> (T, C). None of its tensors has a name in llama.cpp's graph."""
    ssm, eps = hp.ssm, hp.norm_eps
    assert ssm is not None
    x, z = ops.split(tap("ssm_xz", ops.linear(y, blk.ssm_in)), [ssm.n_inner] * 2)  # 2 x (T, I)

    # every channel over the last few tokens
    x = behind_zeros(x, ssm.n_conv, tap)
    conv, bias = blk.ssm_conv1d
    x = tap("conv_b", ops.short_conv(x, conv, batch.offsets, 0, bias, tap, "conv"))
    x = tap("conv_silu", ops.silu(x))  # (T, I)

    # every channel over all tokens before
    dt, b, c = ops.split(tap("ssm_dbc", ops.linear(x, blk.ssm_x)), [ssm.dt_rank, ssm.n_state, ssm.n_state])
    if ssm.dt_b_c_rms:
        dt = tap("dt_normed", ops.rms_norm(dt, None, eps))
    dt = tap("dt_b", ops.linear(dt, *blk.ssm_dt, tap, "dt"))  # (T, I)
    if ssm.dt_b_c_rms:
        b, c = tap("b_normed", ops.rms_norm(b, None, eps)), tap("c_normed", ops.rms_norm(c, None, eps))  # 2 x (T, N)
    scanned = ops.selective_scan(x, dt, blk.ssm_a, b, c, 1, batch.offsets, tap)  # (T, I)
    x = tap("ssm_y", ops.add_scaled(scanned, x, blk.ssm_d, tap))

    x = tap("ssm_swiglu", ops.swiglu(z, x))
    return ops.linear(x, blk.ssm_out)
