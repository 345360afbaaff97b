"""The vision tower of Gemma 4 and EmbeddingGemma 2.

Google DeepMind 2026, "EmbeddingGemma 2". A vision transformer (Dosovitskiy et al. 2020) for images of any shape: a
patch has a learned embedding for its column and one for its row, and half of each head turns by the column, half by the
row. Norms stand before and after attention and feed-forward, queries, keys and values are normalized head by head, and
matrices may limit what goes in and comes out. Squares of 3 x 3 patches are averaged. Mirrors llama.cpp's
tools/mtmd/models/gemma4v.cpp and clip_graph::build_vit; taps carry that graph's names.

     pixels ─► patches ─► patch_embd + position_embd[column] + position_embd[row] ─► x
    n_layer ×  x ─► norm ─► attention ─► norm ─► + x ─► y ─► norm ─► gelu(gate) * up ─► down ─► norm ─► + y ─► x
          x ─► mean of n_merge x n_merge patches * sqrt(C) ─► norm ─► input_projection ─► rows of the text model

GELU is the quick form, x sigmoid(1.702 x), where the file does not ask for another: the model was published with the
tanh form, and files of llama.cpp's converter say neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refembed.arrays import F32, I64, U8, Float, contiguous
from refembed.errors import ModelError, RequestError
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops, Rope, Tap
from refembed.model.trace import TapExcept, at_layer
from refembed.model.vision.hparams import TowerTraits, VisionHparams
from refembed.model.vision.preprocess import Size, fit, normalized, whole_squares
from refembed.model.weights import blocks, tensor

TRAITS = TowerTraits(n_merge=3, marks=("<|image>", "<image|>"))
TOKENS = (70, 1120)  # of an image, at least and at most (clip_hparams::set_limit_image_tokens)
ROPE_BASE = 100.0


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `v.blk.{i}.*`."""

    ln1: Tensor = tensor("C")
    attn_q: Tensor = tensor("HD C")
    attn_k: Tensor = tensor("HD C")
    attn_v: Tensor = tensor("HD C")
    attn_q_norm: Tensor = tensor("D")
    attn_k_norm: Tensor = tensor("D")
    attn_out: Tensor = tensor("C HD")
    attn_post_norm: Tensor | None = tensor("C", presence="optional")
    ln2: Tensor = tensor("C")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")
    ffn_post_norm: Tensor | None = tensor("C", presence="optional")
    out_scale: Tensor | None = tensor("1", presence="optional")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the tower. A shape is rows first: GGUF's `ne` reversed."""

    patch_embd: Tensor = tensor("C 3 P P", name="v.patch_embd")
    position_embd: Tensor = tensor("2 S C", name="v.position_embd")  # of columns, of rows
    blk: tuple[Block, ...] = blocks(Block, name="v.blk")
    post_ln: Tensor | None = tensor("C", presence="optional", name="v.post_ln")
    std_bias: Tensor | None = tensor("C", presence="optional", name="v.std_bias", end="")
    std_scale: Tensor | None = tensor("C", presence="optional", name="v.std_scale", end="")
    input_projection: Tensor = tensor("E C", name="mm.input_projection")


def check(hp: VisionHparams, path: str) -> None:
    """ModelError for a tower that RoPE cannot turn."""
    if hp.n_embd_head % 4:
        raise ModelError(f"{path}: heads of {hp.n_embd_head} channels have no two halves of pairs")


def size(given: Size, hp: VisionHparams) -> Size:
    """Width and height of what the tower reads of an image: whole squares of patches, as many as TOKENS allows."""
    return whole_squares(given, hp.patch_size * hp.n_merge, TOKENS)


def pixels(image: U8, hp: VisionHparams) -> F32:
    """What the tower reads of an image (height, width, 3): planes (3, h, w)."""
    width, height = size(Size(image.shape[1], image.shape[0]), hp)
    return normalized(fit(image, width, height, "bicubic"), hp.mean, hp.std)


def forward(w: Weights, hp: VisionHparams, x: Float, ops: Ops, taps: Tap) -> Float:
    """Planes (3, height, width) -> rows of the text model (n, E), a row of squares after the other.

    Unnamed in llama.cpp's graph: what patch_embd makes, the embedding of columns alone, kq, kq_soft_max, kqv, pool_2d,
    and RoPE by columns alone.
    """
    nx, ny = x.shape[2] // hp.patch_size, x.shape[1] // hp.patch_size
    S = w.position_embd.shape[1]
    if max(nx, ny) > S:
        message = f"an image of {nx} x {ny} patches of {hp.patch_size} pixels; the tower has places for {S}"
        raise RequestError(message, hint="cut off or fill up its longer side")
    column, row = np.tile(np.arange(nx), ny), np.repeat(np.arange(ny), nx)  # (N)
    x = taps("inp_raw", x)
    x = taps("inp_raw_scaled", x * 2 - 1)
    x = contiguous(taps("patch_product", ops.conv_2d(x, w.patch_embd)).T)  # (N, C)
    x = taps("inp", x)
    both = w.position_embd.reshape(2 * S, hp.n_embd)
    x = taps("pos_embd_x", ops.add(x, taps("embd_x", ops.get_rows(both, column).astype(x.dtype))))
    y = taps("embd_y", ops.get_rows(both, row + S).astype(x.dtype))
    x = taps("pos_embd", ops.add(x, y))
    x = layers(w, hp, x, column, row, ops, taps)
    if w.post_ln is not None:
        x = taps("norm_w", ops.rms_norm(x, w.post_ln, hp.norm_eps, taps))

    # each square of patches becomes one token
    planes = contiguous(x.T).reshape(hp.n_embd, ny, nx)
    planes = taps("pool_2d", ops.pool_2d(planes, hp.n_merge))
    x = contiguous(planes.reshape(hp.n_embd, -1).T)  # (n, C)
    x = taps("pooled", ops.scale(x, np.sqrt(ops.dtype(hp.n_embd))))
    if w.std_bias is not None and w.std_scale is not None:
        x = taps("std_shifted", x - ops.weight(w.std_bias))
        x = taps("std_scaled", x * ops.weight(w.std_scale))
    x = taps("normed", ops.rms_norm(x, None, hp.norm_eps))
    return limited(x, w.input_projection, hp, ops, taps, "projected")


def layers(w: Weights, hp: VisionHparams, x: Float, column: I64, row: I64, ops: Ops, taps: Tap) -> Float:
    """All layers, one after the other: (N, C) -> (N, C)."""
    eps, D, whole = hp.norm_eps, hp.n_embd_head, np.array([0, len(x)])
    spec = AttentionSpec(hp.n_head, hp.n_head, 1.0)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("Qcur", x) is taps("Qcur-3", x) in layer 3

        # self-attention: every patch looks at all patches
        y = tap("layer_inp_normed", ops.rms_norm(x, blk.ln1, eps, tap))  # (N, C)
        q = limited(y, blk.attn_q, hp, ops, tap, "Qcur_product").reshape(len(y), hp.n_head, D)
        q = tap("Qcur", ops.rms_norm(q, blk.attn_q_norm, eps, tap))  # (N, H, D)
        q = tap("Qcur_pos", turned(q, column, row, ops, tap, "Qcur_pos_x"))
        k = limited(y, blk.attn_k, hp, ops, tap, "Kcur_product").reshape(len(y), hp.n_head, D)
        k = tap("Kcur", ops.rms_norm(k, blk.attn_k_norm, eps, tap))
        k = tap("Kcur_pos", turned(k, column, row, ops, tap, "Kcur_pos_x"))
        v = limited(y, blk.attn_v, hp, ops, tap, "Vcur_product").reshape(len(y), hp.n_head, D)
        v = tap("Vcur", v)
        v = tap("Vcur_normed", ops.rms_norm(v, None, eps))
        sides = tuple(part.reshape(len(y), -1) for part in (q, k, v))  # 3 x (N, H D), heads side by side
        a = ops.attention(sides[0], sides[1], sides[2], spec, whole, TapExcept(tap, "v_cont"))  # no name in this graph
        a = limited(tap("kqv_out", a), blk.attn_out, hp, ops, tap, "attn_out")  # (N, C)
        if blk.attn_post_norm is not None:
            a = tap("attn_post_normed", ops.rms_norm(a, blk.attn_post_norm, eps, tap))
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every patch on its own
        y = tap("ffn_inp_normed", ops.rms_norm(x, blk.ln2, eps, tap))  # (N, C)
        gate = limited(y, blk.ffn_gate, hp, ops, tap, "ffn_gate")  # (N, F)
        h = gated(gate, limited(y, blk.ffn_up, hp, ops, tap, "ffn_up"), hp, ops, tap)
        h = limited(h, blk.ffn_down, hp, ops, tap, "ffn_out")  # (N, C)
        if blk.ffn_post_norm is not None:
            h = tap("ffn_post_normed", ops.rms_norm(h, blk.ffn_post_norm, eps, tap))
        x = tap("layer_out", ops.add(x, h))
        if blk.out_scale is not None:
            x = tap("layer_out_scaled", ops.scale(x, blk.out_scale.dequantize()[0]))

    return x


def turned(x: Float, column: I64, row: I64, ops: Ops, tap: Tap, first: str) -> Float:
    """RoPE in two dimensions: the first half of a head's channels by the column, the second by the row. (N, H, D).

    first  what the tensor is called when the first half is turned
    """
    half = x.shape[2] // 2
    rope = Rope(n_dims=half, pairs="neox", freq_base=ROPE_BASE)
    left = ops.rope(contiguous(x[:, :, :half]), column, rope)
    x = tap(first, np.concatenate([left, x[:, :, half:]], axis=2))
    right = ops.rope(contiguous(x[:, :, half:]), row, rope)
    return np.concatenate([x[:, :, :half], right], axis=2)


def gated(gate: Float, up: Float, hp: VisionHparams, ops: Ops, tap: Tap) -> Float:
    """The gated linear unit that the file asks for (Shazeer 2020)."""
    if hp.activation == "gelu":
        return tap("ffn_geglu", ops.geglu(gate, up))
    if hp.activation == "silu":
        return tap("ffn_swiglu", ops.swiglu(gate, up))
    return tap("ffn_geglu_quick", ops.multiply(ops.gelu_quick(gate), up))


def limited(x: Float, w: Tensor, hp: VisionHparams, ops: Ops, tap: Tap, name: str) -> Float:
    """x Wᵀ, with x and the product between the limits that the file has for this matrix, if any; shown by its name."""
    if (limits := hp.limits.get(w.name)) is None:
        return tap(name, ops.linear(x, w))
    least, most, out_least, out_most = (x.dtype.type(limit) for limit in limits)
    y = ops.linear(tap(f"{name}_clamped", np.clip(x, least, most)), w)
    return tap(name, np.clip(tap(f"{name}_unclamped", y), out_least, out_most))
