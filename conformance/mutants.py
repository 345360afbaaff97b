"""Faults, each a line or two, that the cases must find: a mutant that no case catches is a missing case.

No file is edited. A mutant is refembed with one operation, one number, one weight or the tokenizer replaced.

    python -m conformance mutants
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, cast

import numpy as np

from conformance import session
from conformance.bounds import Bounds
from conformance.cases import Test, select
from conformance.oracle import Oracle
from conformance.runner import Result, run
from refembed import Embedder
from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, AttentionSpec, Ops, Tap
from refembed.kernels.wrapper import PatchedOps
from refembed.model import Model
from refembed.model.batch import Batch
from refembed.model.weights import Affine
from refembed.tokenizer import Tokenizer

SELECTION = (  # a few tests of every kind, seconds in all; the refembed that is not broken passes them
    *("tokenizer/minilm/parsed::separator-in-text", "tokenizer/minilm/parsed::nul", "tokenizer/minilm/parsed::hello"),
    *("forward/minilm-f32/local::rare-word", "forward/minilm-f32/local::tokens-15"),
    *("forward/minilm-f32/trace::rare-word", "forward/minilm-f32/trace::tokens-15"),
    *("embed/minilm-f32/mean::same-length-1", "embed/minilm-f32/mean::same-length-2"),
    *("pooling/minilm-f32/mean::rare-word", "pooling/minilm-f32/none::rare-word"),
    "batch/minilm-f32/few",
)


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    id: str
    description: str
    broken: Callable[[Embedder], Embedder]
    shown_by: str = ""  # kind that must be among those that catch it, where that is the point


class Model_:  # noqa: N801
    """A model whose batch or whose hidden states are changed on the way."""

    def __init__(self, model: Model, before: Callable[[Batch], Batch], after: Callable[[Batch, Float], Float]) -> None:
        self.model, self.before, self.after, self.hparams = model, before, after, model.hparams

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def forward(self, batch: Batch, ops: Ops, tap: Tap = NO_TAP) -> Float:
        """The true forward pass between the two."""
        return self.after(batch, self.model.forward(self.before(batch), ops, tap))


class Tokenizer_:  # noqa: N801
    """A tokenizer with another `encode`, which gets the true one first."""

    def __init__(self, tokenizer: Tokenizer, encode: Callable[..., list[int]]) -> None:
        self.tokenizer, self.encode = tokenizer, partial(encode, tokenizer.encode)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def ops(**replaced: Callable[..., Any]) -> Callable[[Embedder], Embedder]:
    """Replace operations."""
    return lambda e: Embedder(e.info, e.tokenizer, e.model, PatchedOps(e.ops, replaced))


def fresh(make: Callable[[], Callable[..., Any]], name: str) -> Callable[[Embedder], Embedder]:
    """Replace an operation by a function that remembers: a new one for every refembed."""
    return lambda e: ops(**{name: make()})(e)


def model(change: Callable[[Model], Any]) -> Callable[[Embedder], Embedder]:
    """Replace the model."""
    return lambda e: Embedder(e.info, e.tokenizer, cast(Model, change(e.model)), e.ops)


def hparams(**values: Any) -> Callable[[Embedder], Embedder]:
    """Change hyperparameters."""
    return model(lambda m: replace(m, hparams=replace(m.hparams, **values)))


def weights(change: Callable[[Any], Any]) -> Callable[[Embedder], Embedder]:
    """Change the weights."""
    return model(lambda m: replace(m, weights=change(m.weights)))


def blocks(change: Callable[[Any], Any]) -> Callable[[Embedder], Embedder]:
    """Change every layer's weights."""
    return weights(lambda w: replace(w, blk=tuple(change(b) for b in w.blk)))


def batch(before: Callable[[Batch], Batch]) -> Callable[[Embedder], Embedder]:
    """Change what goes into the forward pass."""
    return model(lambda m: Model_(m, before, lambda batch, hidden: hidden))


def hidden(after: Callable[[Batch, Float], Float]) -> Callable[[Embedder], Embedder]:
    """Change what comes out of the forward pass, behind its last tap."""
    return model(lambda m: Model_(m, lambda batch: batch, after))


def tokenizer(encode: Callable[..., list[int]]) -> Callable[[Embedder], Embedder]:
    """Change the tokenizer."""
    return lambda e: Embedder(e.info, cast(Tokenizer, Tokenizer_(e.tokenizer, encode)), e.model, e.ops)


# -- operations --------------------------------------------------------------------------------------------------

erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_erf(_: Any, x: Float) -> Float:
    """The form that BERT was trained with."""
    return cast(Float, (0.5 * x * (1 + erf(x / math.sqrt(2)))).astype(x.dtype))


def gelu_quick(_: Any, x: Float) -> Float:
    """The sigmoid form of OpenAI's CLIP."""
    return cast(Float, (x / (1 + np.exp(-1.702 * x))).astype(x.dtype))


def gelu_without_cube(_: Any, x: Float) -> Float:
    """The tanh form without its cubic term."""
    return cast(Float, (0.5 * x * (1 + np.tanh(0.7978845608 * x))).astype(x.dtype))


def layer_norm_unbiased(_: Any, x: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
    """The variance divided by C - 1."""
    wide = x.astype(np.float64)
    y = (wide - wide.mean(axis=-1, keepdims=True)) / np.sqrt(wide.var(axis=-1, ddof=1, keepdims=True) + eps)
    y = tap("norm", y.astype(x.dtype)) * w.dequantize()
    return y if b is None else tap("norm_w", y) + b.dequantize()


def layer_norm_in_float16(true: Any, x: Float, *rest: Any) -> Float:
    """Hidden states kept in float16."""
    return cast(Float, true.layer_norm(x, *rest).astype(np.float16).astype(x.dtype))


def linear_in_float16(true: Any, x: Float, *rest: Any) -> Float:
    """Products of numbers rounded to float16."""
    return true.linear(x.astype(np.float16).astype(x.dtype), *rest)


def norm_before_residual(e: Embedder) -> Embedder:
    """a + norm(x) for norm(a + x)."""
    last: list[Float] = []

    def linear_kept(true: Any, x: Float, *rest: Any) -> Float:
        last[:] = [true.linear(x, *rest)]
        return last[0]

    def layer_norm(true: Any, x: Float, *rest: Any) -> Float:
        if not last or last[0].shape != x.shape:
            return true.layer_norm(x, *rest)
        return last[0] + true.layer_norm(x - last[0], *rest)

    def get_rows_of_the_next_text(true: Any, *rest: Any) -> Float:
        last.clear()
        return true.get_rows(*rest)

    return ops(get_rows=get_rows_of_the_next_text, linear=linear_kept, layer_norm=layer_norm)(e)


def scaled(factor: Callable[[Float], float]) -> Callable[..., Float]:
    """Attention with another scale, a function of q."""

    def attention(true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any) -> Float:
        return true.attention(q, k, v, replace(spec, scale=factor(q)), *rest, **more)

    return attention


def interleaved_heads(
    true: Any, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any
) -> Float:  # fmt: skip
    """Channels dealt out to the heads in turn, not side by side."""
    order = np.arange(q.shape[1]).reshape(-1, spec.n_head).T.ravel()
    dealt = (np.ascontiguousarray(x[:, order]) for x in (q, k, v))
    return np.ascontiguousarray(true.attention(*dealt, spec, *rest, **more)[:, np.argsort(order)])


def causal(true: Any, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, *_: Any, **__: Any) -> Float:
    """A token sees itself and those before it."""
    rows = []
    for begin, end in pairwise(offsets):
        for i in range(begin, end):
            seen = (x[begin : i + 1] for x in (q, k, v))
            rows.append(true.attention(*seen, spec, np.array([0, i + 1 - begin]))[-1])
    return np.stack(rows)


def across_texts(
    true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, *rest: Any, **more: Any
) -> Float:
    """The whole batch as one text."""
    return true.attention(q, k, v, spec, offsets[[0, -1]], *rest, **more)


def padding_attended(
    true: Any, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, *rest: Any, **more: Any
) -> Float:
    """Texts filled up with zeros to the longest of the batch, and the zeros looked at."""
    lengths = np.diff(offsets)
    real = (np.arange(lengths.max()) < lengths[:, None]).ravel()
    padded = [np.zeros((len(real), q.shape[1]), q.dtype) for _ in range(3)]
    for wide, x in zip(padded, (q, k, v), strict=True):
        wide[real] = x
    ends = np.arange(len(offsets)) * lengths.max()
    return np.ascontiguousarray(true.attention(*padded, spec, ends, *rest, **more)[real])


def stale_keys() -> Callable[..., Float]:
    """The keys of the last text of this length."""
    kept: dict[tuple[int, ...], list[Float]] = {}

    def attention(true: Any, q: Float, k: Float, *rest: Any, **more: Any) -> Float:
        before = kept.setdefault(k.shape, [])
        before.append(k.copy())
        return true.attention(q, before[-7] if len(before) > 6 else k, *rest, **more)  # six layers ago: the text before

    return attention


def bias(affine: Affine, other: Affine | None) -> Affine:
    """A matrix with another one's bias, or none."""
    return affine._replace(bias=other.bias if other else None)


def last_layer_left_out(m: Model) -> Model:
    """One layer less."""
    blk = m.weights.blk[:-1]
    return replace(m, hparams=replace(m.hparams, n_layer=len(blk)), weights=replace(m.weights, blk=blk))


def stretched(b: Batch, x: Float) -> Float:
    """Hidden states n / (n - 1) as large: their mean is then the sum over n - 1."""
    n = np.diff(b.offsets)
    return x * np.repeat(n / (n - 1), n)[:, None].astype(x.dtype)


def segment_1(true: Any, w: Tensor, ids: Sequence[int] | I64) -> Float:
    """The second segment's vector."""
    return true.get_rows(w, [1] if w.name == "token_types.weight" else ids)


# -- the list ----------------------------------------------------------------------------------------------------

# fmt: off
MUTANTS = (
    Mutant("gelu-erf", "GELU in its erf form", ops(gelu=gelu_erf), "local"),
    Mutant("gelu-quick", "GELU in its sigmoid form", ops(gelu=gelu_quick)),
    Mutant("gelu-without-cube", "GELU without the cubic term", ops(gelu=gelu_without_cube)),
    Mutant("eps-1e-5", "layer norm with eps 1e-5 for 1e-12", hparams(norm_eps=1e-5), "local"),
    Mutant("variance-unbiased", "the variance divided by C - 1", ops(layer_norm=layer_norm_unbiased), "local"),
    Mutant("norm-before-residual", "the residual added behind the norm", norm_before_residual),
    Mutant("hidden-float16", "hidden states kept in float16", ops(layer_norm=layer_norm_in_float16), "local"),
    Mutant("inputs-float16", "matrices multiplied with float16", ops(linear=linear_in_float16), "local"),
    Mutant("token-type-missing", "no segment vector", weights(lambda w: replace(w, token_types=None))),
    Mutant("token-type-1", "the segment vector of the second text", ops(get_rows=segment_1)),
    Mutant("position-off-by-one", "positions from 1", batch(lambda b: replace(b, pos=b.pos + 1))),
    Mutant("position-in-batch", "positions counted through the batch",
           batch(lambda b: replace(b, pos=np.arange(len(b.ids)))), "batch"),
    Mutant("scale-sqrt-C", "attention scaled by 1/sqrt(C)", ops(attention=scaled(lambda q: q.shape[1] ** -0.5))),
    Mutant("scale-missing", "attention without scale", ops(attention=scaled(lambda q: 1.0))),
    Mutant("heads-interleaved", "channels dealt out to the heads in turn", ops(attention=interleaved_heads)),
    Mutant("causal", "a token does not see those behind it", ops(attention=causal)),
    Mutant("across-texts", "attention over the whole batch", ops(attention=across_texts), "batch"),
    Mutant("padding-attended", "attention over padding", ops(attention=padding_attended), "batch"),
    Mutant("stale-keys", "keys of the text before", fresh(stale_keys, "attention")),
    Mutant("bias-swapped", "the biases of Q and K swapped",
           blocks(lambda b: replace(b, attn_q=bias(b.attn_q, b.attn_k), attn_k=bias(b.attn_k, b.attn_q)))),
    Mutant("bias-missing", "no bias behind the attention",
           blocks(lambda b: replace(b, attn_output=bias(b.attn_output, None)))),
    Mutant("key-bias-missing", "no bias of K, which softmax hides from the vector",
           blocks(lambda b: replace(b, attn_k=bias(b.attn_k, None))), "local"),
    Mutant("layer-missing", "the last layer left out", model(last_layer_left_out)),
    Mutant("pooling-cls", "the first token's row for the mean", hparams(pooling="cls")),
    Mutant("mean-over-n-1", "the mean divided by T - 1, which normalizing hides", hidden(stretched)),
    Mutant("specials-unparsed", "[SEP] in a text is text",
           tokenizer(lambda encode, text, add_special=True, parse_special=False: encode(text, add_special))),
    Mutant("separator-missing", "no [SEP] behind the text",
           tokenizer(lambda encode, text, **options: encode(text, **options)[:-1])),
    Mutant("text-ends-at-nul", "the text ends at a NUL, as C strings do",
           tokenizer(lambda encode, text, **options: encode(text.split(b"\0")[0], **options))),
)
# fmt: on


@cache
def true_embedder(name: str, numerics: str, **options: Any) -> Embedder:
    """refembed as it is, loaded once for all mutants."""
    return session.load(name, numerics, **options)


@cache
def selection(numerics: str) -> tuple[Test, ...]:
    """The tests of SELECTION."""
    return tuple(select(SELECTION, numerics=[numerics]))


def run_mutant(mutant: Mutant | None, numerics: str, oracle: Oracle, bounds: Bounds) -> list[Result]:
    """The selection on a broken refembed; None: on the true one."""

    def loader(name: str, chosen: str, **options: Any) -> Embedder:
        true = true_embedder(name, chosen, **options)
        return mutant.broken(true) if mutant else true

    return run(session.Session(oracle, loader), selection(numerics), bounds, {})


def caught_by(results: Sequence[Result]) -> str:
    """Which kinds of check catch it, each with the number that is furthest above its bound. "": none does."""
    found: dict[str, tuple[float, str]] = {}
    for r in results:
        kind = r.test.case.kind
        if r.status == "error":
            found.setdefault(kind, (0.0, r.note.splitlines()[0][:60]))
        for m, bound in r.over:
            times = m.value / bound if bound else math.inf
            if times > found.get(kind, (0.0, ""))[0]:
                found[kind] = (times, f"{m.metric} {m.value:.2g}, bound {bound:.2g}")
    return "; ".join(f"{kind}: {text}" for kind, (_, text) in found.items())
