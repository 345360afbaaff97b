"""Hypotheses about the order of a layer's steps: parallel or one after the other, norms in front or behind, NoPE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops, Rope
from refembed.model.weights import Affine
from refembed.verify.hypotheses.changes import Row, hparams, named, remembering, replaced
from refembed.verify.reference import Reference

INTO_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv")
INTO_FEED_FORWARD = ("ffn_gate", "ffn_up")


def order_rows(reference: Reference, used: frozenset[str], names: set[str]) -> Iterator[Row]:
    """Every change of this file that this model could notice."""
    hp, blk = reference.model.hparams, reference.model.weights.blk
    in_turn = "computes feed-forward behind attention, not in parallel to it"
    aside = "computes feed-forward in parallel to attention, not behind it"
    if hp.parallel_residual:
        yield "parallel-in-turn", in_turn, hparams(parallel_residual=False), "order"
    elif "attn_norm.weight" in names and not names & {"ffn_norm.weight", "post_attention_norm.weight"}:
        yield "parallel-in-turn", in_turn, remembering(lambda: Behind(blk).functions()), "order"
    elif {"attn_norm.weight", "ffn_norm.weight"} <= names:
        yield "in-turn-parallel", aside, remembering(lambda: Parallel().functions()), "order"
    if "attn_norm.weight" not in names and {"post_attention_norm.weight", "post_ffw_norm.weight"} <= names:
        change = replaced(linear=NormedInput(blk, hp.norm_eps), rms_norm=NoNormBehind())
        yield (
            "post-norms-in-front",
            "normalizes in front of attention and feed-forward, not behind them",
            change,
            "norm",
        )
    if "attn_q_norm" in {n.removesuffix(".weight") for n in names}:
        yield from qk_norm_rows(reference)
    if hp.clamp_kqv:
        yield "clamp-missing", "does not hold queries, keys and values within a limit", hparams(clamp_kqv=0.0), "clamp"
    if "rope" in used:
        if rests_in_some(reference):
            yield "rope-everywhere", "turns queries and keys also in layers in which the model does not", remembering(
                lambda: TurnedEverywhere().functions()), "rope"  # fmt: skip
        if hp.n_rot < hp.n_embd_head and hp.latent is None:
            yield "rope-whole", "turns all of a head's channels in RoPE, not a part of them", replaced(
                rope=whole_heads), "rope dims"  # fmt: skip


class Remembering:
    """Operations that remember what came before in the same run; made anew for every run."""

    def functions(self) -> dict[str, Callable[..., Any]]:
        """The operations that are replaced, by name."""
        return {
            n: getattr(self, n) for n in ("layer_norm", "rms_norm", "linear", "attention", "rope") if hasattr(self, n)
        }


class Behind(Remembering):
    """Feed-forward of attention's sum with its input, normalized by the layer's one norm."""

    def __init__(self, blk: Any) -> None:
        self.blk = blk
        self.input: Any = None  # x of the layer
        self.norm: tuple[Any, ...] = ()  # of what feed-forward reads: the weight and what follows it
        self.heads: Any = None  # attention's result, before the output matrix

    def layer_norm(self, true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        """The norm in front of attention; the second of two is attention's alone."""
        if named(w, "attn_norm", "attn_norm_2"):
            self.input = x
        if named(w, "attn_norm"):
            self.norm = (w, *rest[:2])
        return cast(Float, true.layer_norm(x, w, *rest))

    def attention(self, true: Ops, *args: Any, **more: Any) -> Float:
        """Attention itself."""
        self.heads = true.attention(*args, **more)
        return cast(Float, self.heads)

    def linear(self, true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        """The matrices of feed-forward read another input."""
        if named(w, *INTO_FEED_FORWARD):
            output = self.blk[int(w.name.split(".")[1])].attn_output
            added = true.linear(self.heads, *output) if isinstance(output, Affine) else true.linear(self.heads, output)
            x = true.layer_norm(self.input + added, *self.norm)
        return cast(Float, true.linear(x, w, *rest))


class Parallel(Remembering):
    """Feed-forward of the layer's own input."""

    def __init__(self) -> None:
        self.input: Any = None

    def norm(self, op: str, true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
        """The norm in front of feed-forward is given what the one in front of attention was."""
        if named(w, "attn_norm"):
            self.input = x
        x = self.input if named(w, "ffn_norm") and self.input is not None else x
        return cast(Float, getattr(true, op)(x, w, *rest))

    def layer_norm(self, true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        """LayerNorm."""
        return self.norm("layer_norm", true, x, w, *rest)

    def rms_norm(self, true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
        """RMSNorm."""
        return self.norm("rms_norm", true, x, w, *rest)


class NormedInput:
    """Products of a normalized input, by the norm that stands behind that half of the layer."""

    def __init__(self, blk: Any, eps: float) -> None:
        self.blk, self.eps = blk, eps

    def __call__(self, true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        """x Wᵀ."""
        if named(w, *INTO_ATTENTION, *INTO_FEED_FORWARD):
            layer = self.blk[int(w.name.split(".")[1])]
            norm = layer.post_ffw_norm if named(w, *INTO_FEED_FORWARD) else layer.post_attention_norm
            x = true.rms_norm(x, norm, self.eps)
        return cast(Float, true.linear(x, w, *rest))


class NoNormBehind:
    """Norms, less those behind attention and feed-forward."""

    def __call__(self, true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
        """x, or its norm."""
        behind = named(w, "post_attention_norm", "post_ffw_norm")
        return x if behind else cast(Float, true.rms_norm(x, w, *rest))


def qk_norm_rows(reference: Reference) -> Iterator[Row]:
    """Queries and keys normalized head by head, or all heads at once."""
    D, layers = reference.model.hparams.n_embd_head, reference.model.weights.blk
    norm = next(
        n for blk in layers if (n := getattr(blk, "attn_q_norm", None)) is not None
    )  # some keep a state instead
    shape = norm.weight.shape if isinstance(norm, Affine) else norm.shape
    if len(shape) == 1 and shape != (D,):
        yield "qk-norm-by-head", "normalizes queries and keys head by head, not all heads at once", replaced(
            rms_norm=by_head(D), layer_norm=by_head(D)), "qk norm"  # fmt: skip
    elif reference.model.hparams.n_head > 1:
        yield "qk-norm-whole", "normalizes queries and keys over all heads at once, not head by head", replaced(
            rms_norm=over_all_heads, layer_norm=over_all_heads), "qk norm"  # fmt: skip


def by_head(D: int) -> Callable[..., Float]:
    """A norm of each head by itself, times its part of the weights."""

    def norm(true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
        layer = len(rest) > 1 and not isinstance(rest[0], (int, float, np.floating))
        own = true.layer_norm if layer else true.rms_norm
        if not named(w, "attn_q_norm", "attn_k_norm"):
            return cast(Float, own(x, w, *rest))
        eps = next(r for r in rest if isinstance(r, (int, float, np.floating)))
        y = x.astype(np.float64).reshape(len(x), -1, D)
        y = y - y.mean(-1, keepdims=True) if layer else y
        y = (y / np.sqrt((y**2).mean(-1, keepdims=True) + eps)).reshape(x.shape)
        return (y * cast(Tensor, w).dequantize()).astype(x.dtype)

    return norm


def over_all_heads(true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
    """A norm of all heads of a token at once, times each head's weights."""
    layer = len(rest) > 1 and not isinstance(rest[0], (int, float, np.floating))
    own = true.layer_norm if layer else true.rms_norm
    if x.ndim != 3 or not named(w, "attn_q_norm", "attn_k_norm"):
        return cast(Float, own(x, w, *rest))
    eps = next(r for r in rest if isinstance(r, (int, float, np.floating)))
    y = x.astype(np.float64)
    y = y - y.mean((1, 2), keepdims=True) if layer else y
    y = y / np.sqrt((y**2).mean((1, 2), keepdims=True) + eps)
    return (y * cast(Tensor, w).dequantize()).astype(x.dtype)


def rests_in_some(reference: Reference) -> bool:
    """Whether some layers turn queries and keys, and others do not (NoPE)."""
    calls = {"rope": 0, "attention": 0}

    def counted(op: str) -> Callable[..., Float]:
        def operation(true: Any, *args: Any, **more: Any) -> Float:
            calls[op] += 1
            return cast(Float, getattr(true, op)(*args, **more))

        return operation

    replaced(**{op: counted(op) for op in calls})(reference).forward([[0, 1]], "fast")
    return 0 < calls["rope"] < 2 * calls["attention"]


class TurnedEverywhere(Remembering):
    """RoPE of another layer where the model has none."""

    def __init__(self) -> None:
        self.known: tuple[Any, ...] = ()  # places and numbers of the last rotation
        self.turned = False  # since the last attention

    def rope(self, true: Any, x: Float, pos: I64, rope: Rope) -> Float:
        """The model's own."""
        self.known, self.turned = (pos, rope), True
        return cast(Float, true.rope(x, pos, rope))

    def attention(
        self, true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any
    ) -> Float:  # fmt: skip
        """Attention of turned queries and keys."""
        if not self.turned and self.known:
            q, k = (
                np.ascontiguousarray(true.rope(x.reshape(len(x), n, -1), *self.known).reshape(len(x), -1))
                for x, n in ((q, spec.n_head), (k, spec.n_head_kv))
            )
        self.turned = False
        return true.attention(q, k, v, spec, *rest, **more)


def whole_heads(true: Any, x: Float, pos: I64, rope: Rope) -> Float:
    """RoPE of all channels."""
    return cast(Float, true.rope(x, pos, replace(rope, n_dims=x.shape[-1] // 2 * 2, factors=None)))
