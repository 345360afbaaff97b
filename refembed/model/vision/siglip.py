"""SigLIP, the vision tower of Gemma 3.

Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training"; the encoder is Dosovitskiy et al. 2020, "An Image is
Worth 16x16 Words", figure 1, normalized before each residual. Gemma Team 2025, "Gemma 3 Technical Report", section 2.1:
squares of 4 x 4 patches are averaged, so an image is 256 tokens. Mirrors llama.cpp's tools/mtmd/models/siglip.cpp and
clip_graph::build_vit; taps carry that graph's names.

     pixels ─► patches ─► patch_embd + position_embd ─► x
    n_layer ×  x ─► norm ─► attention ─► + x ─► y ─► norm ─► up ─► gelu ─► down ─► + y ─► x
          x ─► norm ─► mean of n_merge x n_merge patches ─► norm ─► input_projection ─► rows of the text model
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refembed.arrays import F32, U8, Float, contiguous
from refembed.errors import ModelError
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops, Tap
from refembed.model.blocks import products
from refembed.model.trace import TapExcept, at_layer
from refembed.model.vision.hparams import TowerTraits, VisionHparams
from refembed.model.vision.preprocess import Size, fit, normalized
from refembed.model.vision.weights import transposed
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = TowerTraits(n_merge=4, marks=("<start_of_image>", "<end_of_image>"), takes_swapped=True)


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `v.blk.{i}.*`."""

    ln1: Affine = affine("C", bias="optional")
    attn_q: Affine = affine("C C", bias="optional")
    attn_k: Affine = affine("C C", bias="optional")
    attn_v: Affine = affine("C C", bias="optional")
    attn_out: Affine = affine("C C", bias="optional")
    ln2: Affine = affine("C", bias="optional")
    ffn_up: Affine = affine("F C", bias="optional")
    ffn_down: Affine = affine("C F", bias="optional")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the tower. A shape is rows first: GGUF's `ne` reversed."""

    patch_embd: Tensor = tensor("C 3 P P", name="v.patch_embd")
    patch_bias: Tensor | None = tensor("C", name="v.patch_embd", end="bias", presence="optional")
    position_embd: Tensor = tensor("N C", name="v.position_embd")
    blk: tuple[Block, ...] = blocks(Block, name="v.blk")
    post_ln: Affine | None = affine("C", bias="optional", presence="optional", name="v.post_ln")
    soft_emb_norm: Tensor = tensor("C", name="mm.soft_emb_norm")
    input_projection: Tensor = tensor("C E", name="mm.input_projection")  # columns are outputs, unlike other matrices


def check(hp: VisionHparams, path: str) -> None:
    """ModelError for a tower of another kind than Gemma 3's."""
    if hp.n_embd_head * hp.n_head != hp.n_embd:
        raise ModelError(f"{path}: {hp.n_head} heads of {hp.n_embd_head} are not {hp.n_embd} channels")
    if hp.n_side % hp.n_merge:
        raise ModelError(f"{path}: {hp.n_side} patches to a side are not a multiple of {hp.n_merge}")


def size(given: Size, hp: VisionHparams) -> Size:
    """Width and height of what the tower reads of an image: always the same square."""
    return Size(hp.image_size, hp.image_size)


def pixels(image: U8, hp: VisionHparams) -> F32:
    """What the tower reads of an image (height, width, 3): a square of planes (3, image_size, image_size)."""
    return normalized(fit(image, hp.image_size, hp.image_size, "bilinear"), hp.mean, hp.std)


def forward(w: Weights, hp: VisionHparams, x: Float, ops: Ops, taps: Tap) -> Float:
    """Planes (3, height, width) -> rows of the text model (N/n_merge², E).

    Unnamed in llama.cpp's graph: what patch_embd makes, products before their bias, kq, kq_soft_max, kqv, pool_2d and
    what follows it.
    """
    x = taps("inp_raw", x)
    x = contiguous(taps("patch_product", ops.conv_2d(x, w.patch_embd)).T)  # (N, C)
    if w.patch_bias is not None:
        x = taps("patch_bias", ops.add_bias(x, w.patch_bias))
    x = taps("pos_embed", ops.add(x, ops.weight(w.position_embd)))
    x = layers(w, hp, x, ops, taps)
    if w.post_ln is not None:
        x = taps("norm_b" if w.post_ln.bias else "norm_w", ops.layer_norm(x, *w.post_ln, hp.norm_eps, taps))

    # each square of patches becomes one token
    planes = contiguous(x.T).reshape(hp.n_embd, hp.n_side, hp.n_side)
    planes = taps("pool_2d", ops.pool_2d(planes, hp.n_merge))
    x = contiguous(planes.reshape(hp.n_embd, -1).T)  # (N/n_merge², C)
    x = taps("soft_emb_norm", ops.rms_norm(x, w.soft_emb_norm, hp.norm_eps, taps))
    return taps("projected", ops.linear(x, transposed(w.input_projection)))


def layers(w: Weights, hp: VisionHparams, x: Float, ops: Ops, taps: Tap) -> Float:
    """All layers, one after the other: (N, C) -> (N, C)."""
    eps, spec = hp.norm_eps, AttentionSpec(hp.n_head, hp.n_head, 1 / math.sqrt(hp.n_embd_head))
    whole, activate = np.array([0, len(x)]), {"gelu": ops.gelu, "silu": ops.silu, "gelu_quick": ops.gelu_quick}

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("Qcur", x) is taps("Qcur-3", x) in layer 3

        # self-attention: every patch looks at all patches
        y = tap("layer_inp_normed", ops.layer_norm(x, *blk.ln1, eps, tap))  # (N, C)
        q, k, v = products(ops, y, tap, "_product", Qcur=blk.attn_q, Kcur=blk.attn_k, Vcur=blk.attn_v)  # 3 x (N, C)
        a = ops.attention(q, k, v, spec, whole, TapExcept(tap, "v_cont"))  # whose copy has no name in this graph
        a = tap("kqv_out", a)  # (N, C) heads side by side
        a = tap("attn_out", ops.linear(a, *blk.attn_out, tap, "attn_out_product"))
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every patch on its own
        y = tap("ffn_inp_normed", ops.layer_norm(x, *blk.ln2, eps, tap))  # (N, C)
        h = tap("ffn_up_b" if blk.ffn_up.bias else "ffn_up", ops.linear(y, *blk.ffn_up, tap, "ffn_up"))  # (N, F)
        h = tap(f"ffn_{hp.activation}", activate[hp.activation](h))  # (N, F)
        h = tap("ffn_out", ops.linear(h, *blk.ffn_down, tap, "ffn_down"))  # (N, C)
        x = tap("layer_out", ops.add(x, h))

    return x
