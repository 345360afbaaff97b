"""What layers of several architectures share: the mask and the rotation of a layer, queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Rope, Tap
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams
from refembed.model.weights import Affine, affine

Layers: TypeAlias = "Callable[[Any, Hparams, Batch, Ops, Tap, Float], Float]"  # all layers of an architecture


@dataclass(frozen=True)
class QkvBlock:
    """Tensors that make queries, keys and values: either attn_qkv, or attn_q, attn_k and attn_v (create_tensor_qkv)."""

    attn_qkv: Affine | None = affine("HD+2KD C", bias="optional", presence="optional")
    attn_q: Affine = affine("HD C", bias="optional", unless="attn_qkv")
    attn_k: Affine = affine("KD C", bias="optional", unless="attn_qkv")
    attn_v: Affine = affine("KD C", bias="optional", unless="attn_qkv")


@dataclass(frozen=True)
class FusedQkvBlock(QkvBlock):
    """The same of architectures that have attn_qkv alone; with a bias, unless they declare it otherwise."""

    attn_qkv: Affine = affine("HD+2KD C")
    attn_q: Affine = affine("HD C", bias="absent", presence="absent")
    attn_k: Affine = affine("KD C", bias="absent", presence="absent")
    attn_v: Affine = affine("KD C", bias="absent", presence="absent")


def products(ops: Ops, x: Float, tap: Tap, end: str = "", **matrices: Affine) -> list[Float]:
    """x (T, C) times each matrix, plus its bias: (T, N) each, seen by its name without the bias and with it.

    All at once where no tap is attached. end: what the name without the bias has behind it.
    """
    if not tap.active:
        return ops.linears(x, list(matrices.values()))
    return [tap(name, ops.linear(x, *matrix, tap, name + end)) for name, matrix in matrices.items()]


def embedded(table: Tensor, batch: Batch, ops: Ops, taps: Tap, scale: float | None = None) -> Float:
    """Rows of the table for the tokens (T), times the scale, and rows of images as they are: (T, C)."""
    x = ops.get_rows(table, batch.ids)
    if not batch.images:
        x = taps("embd", x)
        return x if scale is None else taps("inp_scaled", x * scale)
    x, factors = np.array(x), np.ones((len(x), 1), x.dtype)
    factors *= 1 if scale is None else scale
    for image in batch.images:
        x[image.begin : image.end], factors[image.begin : image.end] = image.rows[:, : x.shape[1]], 1
    return taps("embd", x) if scale is None else taps("inp_scaled", x * factors)


def run_layers(layers: Layers, w: Any, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """`layers(w, hp, batch, ops, taps, x)`: from the first layer's input x (T, C) to the hidden states (T, C).

    `fast` and `cupy` may replay earlier texts of the same lengths instead (`Ops.capture_or_replay`), where their places
    are the usual ones, and no tap is attached. Layers that keep to operations of `ops` can be replayed; of others, they
    find out that they cannot, and run them as they are: a choice of experts, a limit (mpt), and images' layers
    (qwen3vl) are NumPy's.
    """
    operations = partial(layers, w, hp, batch, ops, taps)
    usual = np.arange(len(x)) - np.repeat(batch.offsets[:-1], np.diff(batch.offsets))
    if taps.active or batch.images or not np.array_equal(batch.pos, usual):
        return operations(x)
    return ops.capture_or_replay((layers, w, hp), operations, x, batch.offsets)


class Qkv:
    """Queries, keys and values of x (T, C), by one matrix or by three.

    Where a tap is attached, each of the three is computed when it is asked for, once: in llama.cpp's order.
    flat  as build_qkv without `reshape` (olmo2, olmoe): parts of one matrix are copied and named; a product has a
          name only with its bias
    """

    def __init__(self, x: Float, blk: QkvBlock, hp: Hparams, ops: Ops, tap: Tap, *, flat: bool = False) -> None:
        self.x, self.blk, self.hp, self.ops, self.tap, self.flat = x, blk, hp, ops, tap, flat
        self.parts: list[Float] = []  # of the one matrix
        if blk.attn_qkv is not None:
            name = "wqkv_b" if blk.attn_qkv.bias else "wqkv"
            qkv = tap(name, ops.linear(x, *blk.attn_qkv, tap, "wqkv"))  # (T, HD+2KD)
            HD, KD = hp.sizes["HD"], hp.sizes["KD"]
            self.parts = ops.split(qkv, [HD, KD, KD])
        elif not tap.active:
            self.parts = products(ops, x, tap, Qcur=blk.attn_q, Kcur=blk.attn_k, Vcur=blk.attn_v)

    def queries(self) -> Float:
        """(T, H, D)."""
        q = self.part(0, "Qcur") if self.parts else self.project("Qcur", self.blk.attn_q)
        return q.reshape(len(q), self.hp.n_head, self.hp.n_embd_head)

    def keys(self) -> Float:
        """(T, K, D)."""
        k = self.part(1, "Kcur") if self.parts else self.project("Kcur", self.blk.attn_k)
        return k.reshape(len(k), self.hp.n_head_kv, self.hp.n_embd_head)

    def values(self) -> Float:
        """(T, K, D)."""
        v = self.part(2, "Vcur") if self.parts else self.project("Vcur", self.blk.attn_v)
        return v.reshape(len(v), self.hp.n_head_kv, self.hp.n_embd_head)

    def part(self, i: int, name: str) -> Float:
        """One of the three parts of one product."""
        return self.tap(name, self.parts[i]) if self.flat else self.parts[i]

    def project(self, name: str, affine: Affine) -> Float:
        """One of the three products, and its sum with the bias, under one name."""
        return self.tap(name, self.ops.linear(self.x, *affine, self.tap, "" if self.flat else name))


def gelu_mlp(y: Float, up: Affine, down: Affine, ops: Ops, tap: Tap) -> Float:
    """Feed-forward of GPT-2 and similar models, each token on its own: gelu(y Wᵀ + b) W₂ᵀ + b₂, (T, C) -> (T, C)."""
    h = tap("ffn_up_b" if up.bias else "ffn_up", ops.linear(y, *up, tap, "ffn_up"))  # (T, F)
    h = tap("ffn_gelu", ops.gelu(h))  # (T, F)
    return tap("ffn_out", ops.linear(h, *down, tap, "ffn_down"))


def swiglu_mlp(y: Float, gate: Tensor, up: Tensor, down: Tensor, ops: Ops, tap: Tap) -> Float:
    """SwiGLU (Shazeer 2020), every token on its own, without biases: (T, C) -> (T, C)."""
    gated = tap("ffn_gate", ops.linear(y, gate))  # (T, F)
    h = tap("ffn_swiglu", ops.swiglu(gated, tap("ffn_up", ops.linear(y, up))))  # (T, F)
    return tap("ffn_out", ops.linear(h, down))


def attention_spec(
    hp: Hparams, il: int, scale: float, *, cached: bool = True, soft_cap: float = 0.0
) -> AttentionSpec:  # fmt: skip
    """How layer il of a decoder attends: causal where the model is, through a window where the layer has one.

    cached  llama.cpp keeps keys and values in a cache (`AttentionSpec.cached`); encoders and llama-embed do without
    """
    mask = AttentionMask(hp.causal, hp.n_swa if hp.swa_layers[il] else 0, max_bias=hp.max_alibi_bias)
    return AttentionSpec(hp.n_head, hp.n_head_kv, scale, mask, soft_cap, cached)


def attend(
    q: Float, k: Float, v: Float, spec: AttentionSpec, batch: Batch, ops: Ops, tap: Tap, sinks: Tensor | None = None
) -> Float:
    """Attention of queries (T, H, D), keys and values (T, K, D), or (T, H D), (T, K D) -> (T, H D), side by side.

    Rows of an image see each other even where tokens look back only, unless they are causal too.
    """
    spans = tuple((image.begin, image.end) for image in batch.images if not image.causal)
    if spans and spec.mask.causal:
        spec = replace(spec, mask=replace(spec.mask, spans=spans))
    q, k, v = (x.reshape(len(x), -1) for x in (q, k, v))
    return tap("kqv_out", ops.attention(q, k, v, spec, batch.offsets, tap, sinks=sinks))


def rope_of(hp: Hparams, il: int, factors: Tensor | None = None, *, alike: bool = False) -> Rope:
    """How layer il turns queries and keys: scaling is for layers that see all; those with a window have a base alone.

    factors  (n_rot/2) `rope_freqs.weight`, where the model has it
    alike    all layers turn as those do that see all, whether they do or not
    Mirrors llama_model::get_rope_freq_base and _scale, and what llama-context.cpp makes of YaRN's keys.
    """
    swa, factor = hp.swa_layers[il] and not alike, hp.rope_factor if hp.rope_scaling != "none" else 1.0
    yarn = hp.rope_scaling == "yarn"
    return Rope(
        n_dims=hp.n_rot_of(il),
        pairs=hp.rope_pairs,
        freq_base=hp.rope_freq_base_swa if swa else hp.rope_freq_base,
        freq_scale=1 / (hp.rope_factor_swa if swa else factor),
        n_ctx_orig=hp.n_ctx_orig,
        ext_factor=1.0 if yarn else 0.0,
        attn_factor=hp.rope_attn_factor * (yarn_magnitude(factor, hp.yarn_log_mul) if yarn else 1.0),
        factors=factors,
    )


def yarn_magnitude(factor: float, log_mul: float = 0.0) -> float:
    """YaRN makes vectors longer by 1 + 0.1 ln(factor), but only where factor > 1; the rotation itself does it always.

    So 1, or what takes the rotation's own factor back: in float32 and in the order of llama-context.cpp, whose 1 is
    1 - 2^-24 for some factors.
    log_mul  where it is not 0, the length is the quotient of two such: for 1, and for this multiple of the logarithm
    """
    f32 = np.float32
    with np.errstate(over="ignore"):
        ln = np.log(f32(1) / (f32(1) / f32(factor)))
    own, divisor = ((f32(0.1) * f32(m) * ln + f32(1) if ln > 0 else f32(1)) for m in (1.0, log_mul))
    return float((own / divisor if log_mul else own) * (f32(1) / (f32(1) + f32(0.1) * ln)))


def factors_of(hp: Hparams, freqs: Tensor | None, long: Tensor | None, short: Tensor | None) -> Tensor | None:
    """Which frequency factors hold (llama_model::get_rope_factors), for a context as long as the model's own."""
    return freqs or (long if hp.n_ctx > hp.n_ctx_orig else short)
