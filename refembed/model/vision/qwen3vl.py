"""The vision tower of Qwen3-VL and Qwen3-VL-Embedding.

Bai et al. 2025, "Qwen3-VL Technical Report". A vision transformer (Dosovitskiy et al. 2020) for images of any shape:
its learned embeddings are those of a square, interpolated, and of each head's pairs of channels the first half turns by
the row, the second by the column. Patches stand in squares of 2 x 2; a square becomes one token. DeepStack: what some
layers leave is projected as well, and added behind the first layers of the text model. Mirrors llama.cpp's
tools/mtmd/models/qwen3vl.cpp; taps carry that graph's names.

     pixels ─► patches ─► patch_embd (both frames) + position_embd, interpolated ─► x
    n_layer ×  x ─► norm ─► attention ─► + x ─► y ─► norm ─► up ─► gelu ─► down ─► + y ─► x
               x ─► squares ─► norm ─► fc1 ─► gelu ─► fc2 ─► further columns      of layers with `v.deepstack.{i}.*`
          x ─► norm ─► squares ─► mm.0 ─► gelu ─► mm.2 ─► rows of the text model
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refembed.arrays import F32, I64, U8, Float, contiguous
from refembed.errors import ModelError
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops, Rope, Tap
from refembed.model.trace import TapExcept, at_layer
from refembed.model.vision.hparams import TowerTraits, VisionHparams
from refembed.model.vision.preprocess import Size, fit, normalized, whole_squares
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = TowerTraits(n_merge=2, marks=("<|vision_start|>", "<|vision_end|>"), mrope=True, causal=True)
TOKENS = (8, 4096)  # of an image, at least and at most (clip_hparams::set_limit_image_tokens)


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `v.blk.{i}.*`."""

    ln1: Affine = affine("C")
    attn_qkv: Affine = affine("3C C")
    attn_out: Affine = affine("C C")
    ln2: Affine = affine("C")
    ffn_up: Affine = affine("F C")
    ffn_down: Affine = affine("C F")


@dataclass(frozen=True)
class Deepstack:
    """What projects the squares that a layer leaves, `v.deepstack.{i}.*`; of other layers there is nothing."""

    norm: Affine | None = affine("4C", presence="optional")
    fc1: Affine | None = affine("4C 4C", presence="optional")
    fc2: Affine | None = affine("E 4C", presence="optional")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the tower. A shape is rows first: GGUF's `ne` reversed."""

    patch_embd: Tensor = tensor("C 3 P P", name="v.patch_embd")
    patch_embd_1: Tensor = tensor("C 3 P P", name="v.patch_embd.weight", end="1")  # of a video's second frame
    patch_bias: Tensor = tensor("C", name="v.patch_embd", end="bias")
    position_embd: Tensor = tensor("S C", name="v.position_embd")  # S a square number
    blk: tuple[Block, ...] = blocks(Block, name="v.blk")
    deepstack: tuple[Deepstack, ...] = blocks(Deepstack, name="v.deepstack")
    post_ln: Affine = affine("C", name="v.post_ln")
    mm_0: Affine = affine("4C 4C", name="mm.0")
    mm_2: Affine = affine("E 4C", name="mm.2")


def check(hp: VisionHparams, path: str) -> None:
    """ModelError for a tower that no image could go through."""
    if hp.n_merge != 2:
        raise ModelError(f"{path}: clip.vision.spatial_merge_size is {hp.n_merge}", hint="llama.cpp computes 2 alone")
    if hp.n_embd_head % 4 or hp.n_embd_head * hp.n_head != hp.n_embd:
        raise ModelError(f"{path}: {hp.n_head} heads of {hp.n_embd_head} channels, {hp.n_embd} in all")
    if math.isqrt(hp.n_pos) ** 2 != hp.n_pos:
        raise ModelError(f"{path}: {hp.n_pos} embeddings of places are not those of a square")


def size(given: Size, hp: VisionHparams) -> Size:
    """Width and height of what the tower reads of an image: whole squares of patches, as many as TOKENS allows."""
    return whole_squares(given, hp.patch_size * hp.n_merge, TOKENS)


def pixels(image: U8, hp: VisionHparams) -> F32:
    """What the tower reads of an image (height, width, 3): planes (3, h, w)."""
    width, height = size(Size(image.shape[1], image.shape[0]), hp)
    return normalized(fit(image, width, height, "bicubic"), hp.mean, hp.std)


def forward(w: Weights, hp: VisionHparams, x: Float, ops: Ops, taps: Tap) -> Float:
    """Planes (3, height, width) -> rows of the text model (n, E (1 + layers with DeepStack)).

    Unnamed in llama.cpp's graph: what the patches are multiplied to, queries, keys and values side by side, kq,
    kq_soft_max, kqv, and the projections.
    """
    nx, ny, C = x.shape[2] // hp.patch_size, x.shape[1] // hp.patch_size, hp.n_embd
    x = taps("inp_raw", x)
    y = taps("patch_product", ops.conv_2d(x, w.patch_embd))  # (C, N)
    x = ops.add(y, taps("patch_product_1", ops.conv_2d(x, w.patch_embd_1)))
    x = squares(taps("patch_sum", x.reshape(C, ny, nx)))  # (N, C)
    x = taps("patch_bias", ops.add_bias(x, w.patch_bias))
    S = math.isqrt(hp.n_pos)
    places = contiguous(ops.weight(w.position_embd).T).reshape(C, S, S)
    if (ny, nx) != (S, S):
        places = taps("interpolated", ops.interpolate(places, ny, nx))  # (C, ny, nx)
    x = taps("inp_pos_emb", ops.add(x, squares(places)))
    row, column = (squares(i[None].astype(x.dtype))[:, 0].astype(np.int64) for i in np.mgrid[0:ny, 0:nx])  # (N)
    x, left = layers(w, hp, x, row, column, ops, taps)

    x = norm(x, w.post_ln, hp, ops, at_layer(taps, hp.n_layer))
    x = mlp(x.reshape(-1, 4 * C), w.mm_0, w.mm_2, hp, ops, taps, "projected")  # (n, E)
    further = deepstack(w, hp, left, ops, taps)
    return x if further is None else taps("concatenated", np.concatenate([x, further], axis=1))


def layers(
    w: Weights, hp: VisionHparams, x: Float, row: I64, column: I64, ops: Ops, taps: Tap
) -> tuple[Float, list[Float]]:
    """All layers, one after the other: (N, C) -> (N, C), and what each of them leaves."""
    C, D, whole, left = hp.n_embd, hp.n_embd_head, np.array([0, len(x)]), list[Float]()
    spec = AttentionSpec(hp.n_head, hp.n_head, 1 / math.sqrt(D))

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("Qcur", x) is taps("Qcur-3", x) in layer 3

        # self-attention: every patch looks at all patches
        y = tap("ln1", ops.layer_norm(x, *blk.ln1, hp.norm_eps, tap))  # (N, C)
        qkv = tap("qkv", ops.linear(y, *blk.attn_qkv, tap, "qkv_product"))  # (N, 3C)
        q, k, v = (part.reshape(len(x), hp.n_head, D) for part in ops.split(qkv, [C] * 3))  # 3 x (N, H, D)
        q, k, v = tap("Qcur", q), tap("Kcur", k), tap("Vcur", v)
        q = tap("Qcur_rope", turned(q, row, column, ops))
        k = tap("Kcur_rope", turned(k, row, column, ops))
        flat = tuple(part.reshape(len(x), C) for part in (q, k, v))  # heads side by side
        a = ops.attention(flat[0], flat[1], flat[2], spec, whole, TapExcept(tap, "v_cont"))  # no name in this graph
        a = tap("attn_out", ops.linear(tap("kqv_out", a), *blk.attn_out, tap, "attn_out_product"))  # (N, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every patch on its own
        y = tap("ffn_inp_normed", ops.layer_norm(x, *blk.ln2, hp.norm_eps, tap))  # (N, C)
        h = tap("ffn_up_b", ops.linear(y, *blk.ffn_up, tap, "ffn_up"))  # (N, F)
        activate = {"gelu": ops.gelu, "silu": ops.silu, "gelu_quick": ops.gelu_quick}[hp.activation]
        h = tap(f"ffn_{hp.activation}", activate(h))
        h = tap("ffn_out", ops.linear(h, *blk.ffn_down, tap, "ffn_down"))  # (N, C)
        x = tap("layer_out", ops.add(x, h))
        left.append(x)

    return x, left


def deepstack(w: Weights, hp: VisionHparams, left: list[Float], ops: Ops, taps: Tap) -> Float | None:
    """What DeepStack takes of layers, side by side (n, E layers with it); None where none has it."""
    found = None
    for il, (own, x) in enumerate(zip(w.deepstack, left, strict=True)):
        if own.norm is not None and own.fc1 is not None and own.fc2 is not None:
            tap = at_layer(taps, il)
            y = norm(x.reshape(-1, 4 * hp.n_embd), own.norm, hp, ops, tap)
            y = mlp(y, own.fc1, own.fc2, hp, ops, tap, "deepstack")  # (n, E)
            found = y if found is None else tap("deepstack_stacked", np.concatenate([found, y], axis=1))
    return found


def norm(x: Float, w: Affine, hp: VisionHparams, ops: Ops, tap: Tap) -> Float:
    """Layer normalization under the name that llama.cpp gives one without a name of its own."""
    return tap("norm_b", ops.layer_norm(x, *w, hp.norm_eps, tap))


def mlp(x: Float, up: Affine, down: Affine, hp: VisionHparams, ops: Ops, tap: Tap, name: str) -> Float:
    """gelu(x Wᵀ + b) W₂ᵀ + b₂ of each square: (n, 4C) -> (n, E)."""
    activate = {"gelu": ops.gelu, "gelu_erf": ops.gelu_erf}[hp.projector_activation]
    h = tap("ffn_gelu", activate(tap("ffn_up_b", ops.linear(x, *up, tap, "ffn_up"))))
    return tap(name, ops.linear(h, *down, tap, "ffn_down"))


def squares(planes: Float) -> Float:
    """Planes (C, height, width) as rows (N, C) that stand in squares of 2 x 2, a row of squares after the other.

    >>> squares(np.arange(8.0).reshape(1, 2, 4))[:, 0]
    array([0., 1., 4., 5., 2., 3., 6., 7.])
    """
    C, ny, nx = planes.shape
    grid = planes.reshape(C, ny // 2, 2, nx // 2, 2).transpose(1, 3, 2, 4, 0)
    return contiguous(grid).reshape(ny * nx, C)


def turned(x: Float, row: I64, column: I64, ops: Ops) -> Float:
    """RoPE in two dimensions (N, H, D): of D/2 pairs, channel i with i + D/2, the first half turns by the row."""
    N, H, D = x.shape
    rope = Rope(n_dims=D // 2, pairs="neox", freq_base=10000.0)
    parts = x.reshape(N, H, 2, 2, D // 4)  # which of a pair; row or column; channel
    done = [
        ops.rope(contiguous(parts[:, :, :, i]).reshape(N, H, D // 2), places, rope).reshape(N, H, 2, D // 4)
        for i, places in enumerate((row, column))
    ]
    return np.stack(done, axis=3).reshape(N, H, D)
