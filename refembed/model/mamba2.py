"""Mamba 2 and Codestral Mamba; its mixer is also that of Granite 4 (`granite_hybrid`) and Falcon-H1 (`falcon_h1`).

Dao & Gu 2024, "Transformers are SSMs": a head keeps N numbers for each of its channels, and all of them fade alike.
Mirrors llama.cpp's src/models/mamba2.cpp and build_mamba2_layer of mamba-base.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► mixer ─► + x ─► x
          x ─► norm
    mixer        y ─► ssm_in = z, xBC, dt;  xBC ─► convolution ─► silu = x, B, C
                 x, dt, B, C ─► scan ─► + d x ─► * silu(z) ─► norm ─► ssm_out
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

TRAITS = Traits(norm="rms", recurrent="all", ssm="mamba2", runs_alone=True)


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    ssm_in: Tensor = tensor("2I+2GN+dt C")
    ssm_conv1d: Affine = affine("I+2GN conv")
    ssm_dt: Tensor = tensor("dt", end="bias")
    ssm_a: Tensor = tensor("dt 1", end="")
    ssm_d: Tensor = tensor("dt 1", end="")
    ssm_norm: Tensor | None = tensor("G I/G")
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
    """y (T, C) -> (T, C)."""
    return gated(*scanned(y, blk, hp, batch, ops, tap), blk, hp, ops, tap)


def scanned(y: Float, blk: Block, hp: Hparams, batch: Batch, ops: Ops, tap: Tap) -> tuple[Float, Float, Float]:
    """What a mixer's state gives each token of y (T, C), what went in, and the gate: 3 x (T, I).

    None of its tensors has a name in llama.cpp's graph.
    """
    ssm = hp.ssm
    assert ssm is not None
    INNER, GN = ssm.n_inner, ssm.n_group * ssm.n_state
    z, xbc, dt = ops.split(tap("ssm_zxbcdt", ops.linear(y, blk.ssm_in)), [INNER, INNER + 2 * GN, ssm.dt_rank])

    # every channel over the last few tokens
    xbc = behind_zeros(xbc, ssm.n_conv, tap)
    conv, bias = blk.ssm_conv1d
    xbc = tap("conv_b", ops.short_conv(xbc, conv, batch.offsets, 0, bias, tap, "conv"))
    x, b, c = ops.split(tap("conv_silu", ops.silu(xbc)), [INNER, GN, GN])

    # every head over all tokens before
    dt = tap("dt_b", ops.add_bias(dt, blk.ssm_dt))  # (T, H)
    return ops.selective_scan(x, dt, blk.ssm_a, b, c, ssm.n_group, batch.offsets, tap), x, z


def gated(y: Float, x: Float, z: Float, blk: Block, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """What the state gave y, and x itself, as far as z lets them through, head by head: (T, I) each -> (T, C)."""
    ssm = hp.ssm
    assert ssm is not None
    H, P = ssm.dt_rank, ssm.n_inner // ssm.dt_rank
    y = tap("mamba2_y_add_d", ops.add_scaled(y, x, blk.ssm_d, tap).reshape(-1, H, P))  # (T, H, P)
    y = tap("ssm_swiglu", ops.swiglu(z.reshape(-1, P), y.reshape(-1, P)).reshape(-1, H, P)).reshape(z.shape)
    if blk.ssm_norm is not None:
        groups = ops.rms_norm(y.reshape(len(y), ssm.n_group, -1), blk.ssm_norm, hp.norm_eps, tap)  # (T, G, I/G)
        y = tap("ssm_normed", groups).reshape(z.shape)
    return ops.linear(y, blk.ssm_out)
