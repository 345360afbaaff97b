"""Hypotheses about the vision tower: activations, patches, places, attention, norms, merging, DeepStack, layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from refembed.arrays import F32, Float
from refembed.kernels.ops import AttentionSpec, Ops
from refembed.model.vision.published import original_tower
from refembed.verify.images.changes import (
    altered,
    backward,
    bfloat16_patches,
    by_centers,
    embedding,
    in_blocks,
    in_module,
    layers,
    not_doubled,
    one_more,
    only_first,
    patch_kernel,
    pooled_by,
    rms_norm_of,
    rope_swapped,
    scaled_to,
    shifted,
    skipped,
    transposed,
    turning,
    without,
)
from refembed.verify.images.hypothesis import Change, ImageHypothesis, hparams, operations, weights
from refembed.verify.images.reference import ImageReference

ACTIVATION = "use the activation that llama.cpp does: clip.use_gelu the tanh form, clip.use_silu, neither quick GELU"
PATCHES = "multiply patches with v.patch_embd as the file has it: channel, row, column of a patch"
PLACES = "give each patch the embedding of its place, and turn heads by its row and column, as the tower's file has it"
ATTENTION = "let every patch see all others, with scores scaled as the tower has it"
NORMS = "use every norm of the tower, with the file's epsilon"
MERGE = "make one token of each square of patches as the tower's projector does"
DEEPSTACK = "project what the layers with v.deepstack.* leave, and hand it on in their order"
LAYERS = "run each layer of the file once, in the order of their numbers"
PUBLISHED = "compare with --semantics original in mind: docs/images.md, `The published models`"

Entry = tuple[str, str, Change, str]


def tower_hypotheses(r: ImageReference) -> Iterator[ImageHypothesis]:
    """What engines do otherwise in this tower, the likeliest first."""
    projector = r.tower.hparams.projector
    own = {"gemma3": of_siglip, "gemma4v": of_gemma4v, "qwen3vl_merger": of_qwen3vl}[projector]
    for id, says, change, advice in (*activations(r), *own(r), *common(r)):
        yield ImageHypothesis(id, "tower", says, change, advice)


def published(r: ImageReference) -> ImageReference:
    """The tower as it was published."""
    return replace(r, tower=original_tower(r.tower))


def published_formulas(r: ImageReference) -> ImageReference:
    """The same, but for how images are prepared."""
    module = r.tower.module
    return replace(r, tower=original_tower(r.tower).changed(size=module.size, pixels=module.pixels))


def activations(r: ImageReference) -> Iterator[Entry]:
    """GELU in its forms, and SiLU."""
    hp = r.tower.hparams
    names = {"gelu": "tanh GELU", "gelu_quick": "quick GELU", "silu": "SiLU"}
    for name, spelled in names.items():
        if name != hp.activation:
            yield (
                name.replace("_", "-") if name != "gelu" else "gelu-tanh",
                f"computes {spelled} where llama.cpp computes {names[hp.activation]}",
                hparams(activation=name), ACTIVATION,
            )  # fmt: skip

    def geglu(true: Ops, gate: Float, up: Float) -> Float:
        return true.multiply(true.gelu_erf(gate), up)

    def erf(true: Ops, x: Float) -> Float:
        return true.gelu_erf(x)

    def change(reference: ImageReference) -> ImageReference:
        tanh = hparams(activation="gelu")(reference)
        return operations(gelu=erf, geglu=geglu)(tanh)

    says = f"computes GELU in its erf form where llama.cpp computes {names[hp.activation]}"
    yield "gelu-erf", says, change, ACTIVATION


def common(r: ImageReference) -> Iterator[Entry]:
    """Of every tower."""
    hp = r.tower.hparams
    yield (
        "kernel-transposed",
        "reads a patch's columns for its rows",
        patch_kernel(lambda w: w.transpose(0, 1, 3, 2)),
        PATCHES,
    )
    yield (
        "patches-bfloat16",
        "rounds patches and their kernel to bfloat16",
        operations(conv_2d=bfloat16_patches),
        PATCHES,
    )

    def causal(true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any) -> Float:
        return true.attention(q, k, v, replace(spec, mask=replace(spec.mask, causal=True)), *rest, **more)

    yield "tower-causal", "lets a patch look back only", operations(attention=causal), ATTENTION
    usual = 1.0 if hp.projector == "gemma4v" else 1 / math.sqrt(hp.n_embd_head)
    for id, says, scale in (
        ("scores-unscaled", "leaves attention scores unscaled", 1.0),
        ("scores-by-head", "scales attention scores by 1/sqrt(D)", 1 / math.sqrt(hp.n_embd_head)),
        ("scores-by-width", "scales attention scores by 1/sqrt(C)", 1 / math.sqrt(hp.n_embd)),
    ):
        if scale != usual:
            yield id, says, operations(attention=scaled_to(scale)), ATTENTION
    for eps in (1e-5, 1e-6, 1e-12):
        if not math.isclose(eps, hp.norm_eps, rel_tol=1e-3):
            yield f"eps-{eps:g}", f"adds {eps:g} to the variance in norms", hparams(norm_eps=eps), NORMS
    n = len(r.tower.weights.blk)
    if n > 1:
        yield "last-layer-left-out", "leaves the last layer of the tower out", layers(range(n - 1)), LAYERS
        yield "first-layer-left-out", "leaves the first layer of the tower out", layers(range(1, n)), LAYERS
        yield "layers-backward", "runs the layers from the last to the first", layers(range(n - 1, -1, -1)), LAYERS
    yield "published", "computes the published model, images prepared as its processor does", published, PUBLISHED
    yield "published-formulas", "computes the published model's formulas", published_formulas, PUBLISHED


def squares_pooled() -> Iterator[Entry]:
    """How a square of patches becomes one token."""
    yield (
        "pool-max",
        "takes the largest number of each square of patches, not the mean",
        operations(pool_2d=pooled_by("max")),
        MERGE,
    )
    yield "pool-first", "takes one patch of each square, not the mean", operations(pool_2d=pooled_by("first")), MERGE
    yield (
        "pool-transposed",
        "takes columns of patches for rows when it averages squares",
        operations(pool_2d=transposed),
        MERGE,
    )


def of_siglip(r: ImageReference) -> Iterator[Entry]:
    """SigLIP, of Gemma 3."""
    n = r.tower.hparams.n_side
    yield "places-left-out", "leaves the embeddings of places out", embedding(np.zeros_like), PLACES
    yield (
        "places-from-one",
        "counts places from 1, as behind a class token",
        embedding(lambda x: np.roll(x, -1, 0)),
        PLACES,
    )
    yield (
        "places-transposed",
        "gives patches the places of columns for rows",
        embedding(lambda x: x.reshape(n, n, -1).transpose(1, 0, 2).reshape(x.shape)),
        PLACES,
    )
    if r.tower.weights.patch_bias is not None:
        yield (
            "patch-bias-left-out",
            "leaves the bias of patches out (v.patch_embd.bias)",
            without("patch_bias"),
            PATCHES,
        )
    if r.tower.weights.post_ln is not None:
        yield "post-norm-left-out", "leaves the norm behind the layers out (v.post_ln)", without("post_ln"), NORMS
    yield from squares_pooled()
    yield (
        "soft-norm-left-out",
        "leaves the norm of the projector out (mm.soft_emb_norm)",
        rms_norm_of("mm.soft_emb_norm", then=skipped),
        NORMS,
    )
    yield (
        "soft-norm-one-more",
        "adds 1 to the weights of mm.soft_emb_norm, which have it already",
        rms_norm_of("mm.soft_emb_norm", then=one_more),
        NORMS,
    )


def of_gemma4v(r: ImageReference) -> Iterator[Entry]:
    """The tower of Gemma 4."""
    w = r.tower.weights
    yield "places-left-out", "leaves the embeddings of columns and rows out", embedding(np.zeros_like), PLACES
    yield "places-swapped", "takes the embeddings of rows for columns", embedding(lambda x: x[::-1]), PLACES
    yield "places-from-one", "counts columns and rows from 1", embedding(lambda x: np.roll(x, -1, 1)), PLACES
    yield from turned()
    base = turning(lambda rope: replace(rope, freq_base=1e4))
    yield "rope-base-10000", "turns by a base of 10000, not 100", base, PLACES
    yield "rope-swapped", "turns by the row where it should by the column", operations(rope=rope_swapped), PLACES
    yield "pixels-from-0-to-1", "leaves pixels from 0 to 1, where the tower reads -1 to 1", not_doubled, PATCHES
    yield from norms_of_gemma4v(w)
    if any(b.out_scale is not None for b in w.blk):
        yield "out-scale-left-out", "leaves the scales of layers out", in_blocks(out_scale=None), LAYERS
    if w.std_bias is not None:
        yield "std-left-out-behind", "does not standardize tokens (v.std_bias, v.std_scale)", without("std_bias"), MERGE
    if r.tower.hparams.limits:
        says = "does not limit what matrices read and make (*.input_min ...)"
        yield "limits-left-out", says, hparams(limits={}), LAYERS
    yield from squares_pooled()


def norms_of_gemma4v(w: Any) -> Iterator[Entry]:
    """Norms of heads, layers, and in front of the projection."""

    def of_rows_alone(true: Ops, x: Float, w: Any, eps: float) -> Float:
        return x if x.ndim == 3 else true.rms_norm(x, w, eps)

    def of_heads_alone(true: Ops, x: Float, w: Any, eps: float) -> Float:
        return x if x.ndim == 2 else true.rms_norm(x, w, eps)

    heads = rms_norm_of("attn_q_norm", "attn_k_norm", then=skipped)
    yield "q-k-norms-left-out", "leaves the norms of queries and keys out", heads, NORMS
    says = "leaves values as they are, where they have a norm without weights"
    yield "v-norm-left-out", says, rms_norm_of("", then=of_rows_alone), NORMS
    if w.blk and w.blk[0].attn_post_norm is not None:
        yield "attn-post-norm-left-out", "leaves the norm behind attention out", in_blocks(attn_post_norm=None), NORMS
    if w.blk and w.blk[0].ffn_post_norm is not None:
        yield "ffn-post-norm-left-out", "leaves the norm behind feed-forward out", in_blocks(ffn_post_norm=None), NORMS
    if w.post_ln is not None:
        yield "post-norm-left-out", "leaves the norm behind the layers out (v.post_ln)", without("post_ln"), NORMS
    says = "leaves the norm in front of the projection out"
    yield "norm-left-out", says, rms_norm_of("", then=of_heads_alone), NORMS


def of_qwen3vl(r: ImageReference) -> Iterator[Entry]:
    """The tower of Qwen3-VL."""
    yield (
        "projector-gelu-erf",
        "computes GELU in its erf form in the projections",
        hparams(projector_activation="gelu_erf"),
        ACTIVATION,
    )
    yield from interpolated_places(math.isqrt(r.tower.hparams.n_pos))
    yield from turned()
    swap = in_module("turned", lambda own: lambda x, row, column, ops: own(x, column, row, ops))
    yield "rope-swapped", "turns by the column where it should by the row", swap, PLACES
    yield from frames()
    yield from squares_of_patches()
    yield from deepstack(r)


def turned() -> Iterator[Entry]:
    """How heads turn, of towers with RoPE."""
    yield "rope-left-out", "does not turn queries and keys", operations(rope=lambda true, x, pos, rope: x), PLACES
    change = turning(lambda rope: replace(rope, pairs="norm"))
    yield "rope-neighbors", "turns neighboring channels together", change, PLACES


def interpolated_places(S: int) -> Iterator[Entry]:
    """Embeddings of a square of S x S places, for an image of another shape."""

    def corner(true: Ops, x: Float, height: int, width: int) -> Float:
        return np.ascontiguousarray(x[:, :height, :width])

    def in_a_row(true: Ops, x: Float, height: int, width: int) -> Float:
        return x.reshape(len(x), -1)[:, : height * width].reshape(-1, height, width)

    def flipped(x: F32) -> F32:
        return x.reshape(S, S, -1).transpose(1, 0, 2).reshape(x.shape)

    for id, says, change in (
        ("places-left-out", "leaves the embeddings of places out", embedding(np.zeros_like)),
        ("places-not-interpolated", "takes the first places' embeddings, not interpolated ones",
         operations(interpolate=corner)),
        ("places-by-number", "takes the first N embeddings in a row, not interpolated ones",
         operations(interpolate=in_a_row)),
        ("places-centers", "interpolates places by the centers of squares, not corner on corner",
         operations(interpolate=by_centers)),
        ("places-transposed", "takes rows of the table of places for columns", embedding(flipped)),
    ):  # fmt: skip
        yield id, says, change, PLACES


def frames() -> Iterator[Entry]:
    """A picture as a film of two frames, each with a kernel of its own."""
    for id, says, alter in (
        ("one-frame", "reads a picture as one frame (v.patch_embd.weight.1 left out)",
         lambda w: replace(w, patch_embd_1=altered(w.patch_embd_1, np.zeros_like))),
        ("first-frame-twice", "multiplies both frames with the first kernel",
         lambda w: replace(w, patch_embd_1=w.patch_embd)),
        ("patch-bias-left-out", "leaves the bias of patches out (v.patch_embd.bias)",
         lambda w: replace(w, patch_bias=altered(w.patch_bias, np.zeros_like))),
    ):  # fmt: skip
        yield id, says, weights(alter), PATCHES


def squares_of_patches() -> Iterator[Entry]:
    """Which four patches stand together."""

    def by_columns(own: Callable[[Float], Float]) -> Callable[[Float], Float]:
        return lambda x: own(x).reshape(-1, 2, 2, len(x)).transpose(0, 2, 1, 3).reshape(-1, len(x))

    def row_by_row(own: Callable[[Float], Float]) -> Callable[[Float], Float]:
        return lambda x: np.ascontiguousarray(x.reshape(len(x), -1).T)

    for id, says, other in (
        ("squares-by-columns", "has the four patches of a square column by column", by_columns),
        ("rows-for-squares", "has patches row by row, where squares of 2 x 2 stand together", row_by_row),
    ):
        yield id, says, in_module("squares", other), MERGE


def deepstack(r: ImageReference) -> Iterator[Entry]:
    """What layers hand on to the text model's first layers."""
    w, C = r.tower.weights, r.tower.hparams.n_proj
    with_it = [i for i, d in enumerate(w.deepstack) if d.fc1 is not None]
    if not with_it:
        return
    yield "deepstack-left-out", "leaves DeepStack out", lambda r: r.add(rows=lambda x: only_first(x, C)), DEEPSTACK
    for by, word in ((1, "behind"), (-1, "before")):
        if 0 <= with_it[-1] + by < len(w.deepstack) and with_it[0] + by >= 0:
            says = f"lets DeepStack read what the layer {word} leaves"
            yield f"deepstack-layer-{word}", says, shifted(by), DEEPSTACK
    if len(with_it) > 1:
        says = "hands what DeepStack adds on in the reverse order"
        yield "deepstack-backward", says, lambda r: r.add(rows=lambda x: backward(x, C)), DEEPSTACK
