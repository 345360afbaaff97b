"""Families of hypotheses about numbers in the model and behind it: each number is solved for (`families`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from refembed.arrays import F64, Float
from refembed.kernels.ops import AttentionMask
from refembed.verify.hypotheses.changes import attending, batch, hparams, replaced, scaled
from refembed.verify.hypotheses.families import Family, logarithmic, unit
from refembed.verify.hypotheses.layers import counted_from, rows_of, turned, with_
from refembed.verify.hypotheses.model import masked, masks_of
from refembed.verify.hypothesis import Change
from refembed.verify.reference import Reference, spy, tensor_names


def number_families(reference: Reference, longest: int) -> list[Family]:
    """All that this model could notice. longest: tokens of the longest text that will be tried."""
    used, names = spy(reference), {re.sub(r"^blk\.\d+\.", "", n) for n in tensor_names(reference)}
    return [
        *attention_families(reference, longest), *rope_families(reference, used), *activation_families(used),
        *table_families(reference, names), *pooling_families(reference), *vector_families(reference),
        Family("eps", "model", f"has {{}} as epsilon of its norms, not {reference.model.hparams.norm_eps:g}",
               lambda v: hparams(norm_eps=v), logarithmic(1e-10, 1, 11), "eps"),
    ]  # fmt: skip


# -- the model -------------------------------------------------------------------------------------------------------


def attention_families(reference: Reference, longest: int) -> Iterator[Family]:
    """Scale, cap and window."""
    hp, seen = reference.model.hparams, masks_of(reference)
    yield Family("scale", "model", "scales attention scores by a further factor of {}",
                 lambda v: replaced(attention=scaled(v)), logarithmic(1 / 64, 64, 13), "scale")  # fmt: skip
    own = f", not {hp.soft_cap:g}" if hp.soft_cap else ", where the model has no cap"
    yield Family("soft-cap", "model", "caps attention scores at {}" + own,
                 lambda v: replaced(attention=capped(v)), logarithmic(0.5, 300, 10), "soft cap")  # fmt: skip
    if any(m.max_bias for m in seen):
        yield Family("alibi", "model", "has {} as ALiBi's exponent",
                     lambda v: masked(lambda m: replace(m, max_bias=v)),
                     logarithmic(0.5, 64, 9), "alibi")  # fmt: skip
    wide = {m.window for m in seen if m.window}
    values = tuple(float(w) for w in range(1, min(longest, 600) + 1) if w not in wide)
    own = f"not {max(wide)}" if wide else "where the model has none"
    if wide or any(m.causal for m in seen):
        yield Family("window", "model", "has a sliding window of {} tokens, " + own,
                     lambda v: masked(partial(windowed, int(v), bool(wide))), values, "window",
                     True)  # fmt: skip
    if not all(m.causal for m in seen):
        yield Family("window-reach", "model", "lets a token see {} tokens to each side, " + own,
                     lambda v: masked(partial(reaching, int(v), bool(wide))), values, "window",
                     True)  # fmt: skip


def capped(cap: float) -> Callable[..., Float]:
    """Scores softly capped."""
    return attending(lambda spec: replace(spec, soft_cap=cap))


def windowed(width: int, only_where: bool, mask: AttentionMask) -> AttentionMask:
    """A window of that width, in all layers or where there is one."""
    return mask if only_where and not mask.window else replace(mask, window=width)


def reaching(width: int, only_where: bool, mask: AttentionMask) -> AttentionMask:
    """A window to both sides."""
    return mask if only_where and not mask.window else replace(mask, window=2 * width, kind="symmetric")


def rope_families(reference: Reference, used: frozenset[str]) -> Iterator[Family]:
    """How queries and keys are turned."""
    if "rope" not in used:
        return
    hp = reference.model.hparams
    yield Family("rope-base", "model", f"has {{}} as base of RoPE, not {hp.rope_freq_base:g}",
                 lambda v: turned(partial(with_, freq_base=v)), logarithmic(30, 3e8, 15), "rope base")  # fmt: skip
    yield Family("rope-scale", "model", "multiplies positions by a further {} in RoPE",
                 lambda v: turned(lambda r: replace(r, freq_scale=r.freq_scale * v)),
                 tuple(sorted({*logarithmic(1 / 64, 16, 25), *(k / 10 for k in range(1, 61))})),
                 "rope scaling")  # fmt: skip
    D = min(hp.n_embd_head_of(il) for il in range(hp.n_layer))  # no head is turned beyond its end
    D = D if hp.latent is None else hp.latent.n_rot  # nor is a piece of it
    yield Family("rope-dims", "model", "turns {} channels of a head in RoPE",
                 lambda v: turned(partial(with_, n_dims=int(v))), tuple(map(float, range(2, D + 1, 2))), "rope dims",
                 True)  # fmt: skip


def activation_families(used: frozenset[str]) -> Iterator[Family]:
    """x sigmoid(a x), and a slope for negative numbers."""
    for op in sorted({"gelu", "gelu_erf", "silu"} & used):
        yield Family("sigmoid-slope", "model", "has x sigmoid({} x) as activation function",
                     partial(activated, op, swish),
                     logarithmic(0.2, 8, 9), "activation")  # fmt: skip
        yield Family("leaky-relu", "model", "has a leaky ReLU with slope {} as activation function",
                     partial(activated, op, leaky),
                     logarithmic(0.001, 0.5, 7), "activation")  # fmt: skip
    for op in sorted({"geglu", "swiglu"} & used):
        yield Family("sigmoid-slope", "model", "has x sigmoid({} x) on the gate",
                     partial(gated, op),
                     logarithmic(0.2, 8, 9), "activation")  # fmt: skip


def activated(op: str, function: Callable[[float, Float], Float], value: float) -> Change:
    """Another activation function, with a number."""
    return replaced(**{op: lambda true, x: function(value, x)})


def gated(op: str, value: float) -> Change:
    """Another activation function on the gate."""
    return replaced(**{op: lambda true, gate, up: (swish(value, gate) * up).astype(gate.dtype)})


def leaky(slope: float, x: Float) -> Float:
    """x, where it is negative times the slope."""
    return cast(Float, np.where(x > 0, x, slope * x).astype(x.dtype))


def table_scaled(table: str, value: float) -> Change:
    """Rows of a table times a number."""
    return replaced(get_rows=rows_of(table, lambda x: (x * value).astype(x.dtype)))


def swish(slope: float, x: Float) -> Float:
    """x / (1 + e^(-slope x))."""
    with np.errstate(over="ignore"):
        return cast(Float, (x / (1 + np.exp(-slope * x))).astype(x.dtype))


def table_families(reference: Reference, names: set[str]) -> Iterator[Family]:
    """Embeddings times a number, and positions from another one."""
    rows = (
        ("token_embd", "token vectors"), ("position_embd", "position vectors"), ("token_types", "segment vectors"),
    )  # fmt: skip
    for table, title in rows:
        if f"{table}.weight" in names:
            yield Family(f"{table}-scale", "model", f"multiplies {title} by a further {{}}",
                         partial(table_scaled, table),
                         logarithmic(1 / 100, 100, 11), "embd")  # fmt: skip
    if "position_embd.weight" in names:
        last = reference.model.hparams.n_ctx - 1
        yield Family("position-from", "model", "counts positions from {}", lambda v: batch(
            partial(counted_from, int(v), last)), tuple(float(n) for n in range(3, min(65, last))), "position",
            True)  # fmt: skip


# -- pooling ---------------------------------------------------------------------------------------------------------


def pooling_families(reference: Reference) -> Iterator[Family]:
    """Weights of tokens with a number in them."""
    if reference.pooling in ("none", "rank"):
        return
    for id, says, weigh in (
        ("pooling-decay", "pools the mean in which each token counts {} times the one before it",
         lambda v, n: v ** (np.arange(n) - (n - 1) * (v > 1))),
        ("pooling-power", "pools the mean in which token t, counted from 1, counts t^{}",
         lambda v, n: np.arange(1, n + 1) ** v),
        ("pooling-inverse-power", "pools the mean in which token t, counted from 1, counts 1/t^{}",
         lambda v, n: np.arange(1, n + 1) ** -v),
        ("pooling-first-heavier", "pools the mean in which the first token counts {} times",
         lambda v, n: np.where(np.arange(n) == 0, v, 1.0)),
        ("pooling-last-heavier", "pools the mean in which the last token counts {} times",
         lambda v, n: np.where(np.arange(n) == n - 1, v, 1.0)),
    ):  # fmt: skip
        yield Family(id, "pooling", says, partial(weighted, weigh), logarithmic(0.05, 20, 13), "pooling")
    yield Family("pooling-generalized-mean", "pooling", "pools the generalized mean of power {} (GeM) of magnitudes",
                 lambda v: pooled_by(lambda h: generalized(v, h)), logarithmic(0.5, 8, 7), "pooling")  # fmt: skip
    yield Family("pooling-max-and-mean", "pooling", "pools the mean plus {} times the largest of each channel",
                 lambda v: pooled_by(lambda h: h.mean(axis=0) + v * h.max(axis=0)), logarithmic(0.05, 20, 9),
                 "pooling")  # fmt: skip
    yield Family("pooling-token", "pooling", "pools token {}, counted from 0",
                 lambda v: pooled_by(lambda h: h[min(int(v), len(h) - 1)]), tuple(map(float, range(2, 17))), "pooling",
                 True)  # fmt: skip
    yield Family("pooling-token-from-end", "pooling", "pools token {} from the end, the last being 1",
                 lambda v: pooled_by(lambda h: h[max(len(h) - int(v), 0)]), tuple(map(float, range(3, 17))), "pooling",
                 True)  # fmt: skip
    for id, says, part in (
        ("pooling-mean-of-first", "pools the mean of the first {} tokens", lambda v, h: h[: int(v)]),
        ("pooling-mean-of-last", "pools the mean of the last {} tokens", lambda v, h: h[-int(v) :]),
        ("pooling-mean-from", "pools the mean without the first {} tokens",
         lambda v, h: h[int(v) :] if len(h) > v else h),
        ("pooling-mean-until", "pools the mean without the last {} tokens",
         lambda v, h: h[: -int(v)] if len(h) > v else h),
    ):  # fmt: skip
        yield Family(id, "pooling", says, partial(mean_of_part, part), tuple(map(float, range(2, 65))), "pooling",
                     True)  # fmt: skip


def pooled_by(pool: Callable[[Float], Any]) -> Change:
    """Another way to pool the rows of a text."""
    pooler = lambda hidden, ids: pool(np.asarray(hidden[: len(ids)], np.float64))  # noqa: E731
    return lambda reference: replace(reference, pooler=pooler)


def weighted(weigh: Callable[[float, int], F64], value: float) -> Change:
    """A mean with weights, which depend on a number and on how many tokens there are."""

    def pool(h: Float) -> Any:
        w = np.asarray(weigh(value, len(h)), np.float64)
        return w @ h / w.sum()

    return pooled_by(pool)


def generalized(power: float, h: Float) -> Any:
    """(mean |h|^p)^(1/p), with the sign of the mean."""
    return np.sign(h.mean(axis=0)) * (np.abs(h) ** power).mean(axis=0) ** (1 / power)


def mean_of_part(part: Callable[[float, Float], Float], value: float) -> Change:
    """The mean of some rows."""
    return pooled_by(lambda h: part(value, h).mean(axis=0))


# -- the vector ------------------------------------------------------------------------------------------------------


def vector_families(reference: Reference) -> Iterator[Family]:
    """What is done to a vector with a number."""
    D = reference.info.n_embd_out
    every = tuple(map(float, range(1, D)))
    yield Family("vector-rolled", "vector", "gives the vector {} places further on", lambda v: on_vector(
        lambda x: np.roll(x, int(v), axis=-1)), every, "vector", True)  # fmt: skip
    yield Family("vector-zeroed-from", "vector", "sets numbers of the vector from number {} on to 0",
                 lambda v: on_vector(lambda x: np.where(np.arange(x.shape[-1]) < int(v), x, 0.0)), every, "vector",
                 True)  # fmt: skip
    yield Family("vector-zeroed-until", "vector", "sets the first {} numbers of the vector to 0",
                 lambda v: on_vector(lambda x: np.where(np.arange(x.shape[-1]) >= int(v), x, 0.0)), every, "vector",
                 True)  # fmt: skip
    yield Family("vector-number-lost", "vector", "sets number {} of the vector, counted from 0, to 0",
                 lambda v: on_vector(lambda x: np.where(np.arange(x.shape[-1]) != int(v), x, 0.0)), (0.0, *every),
                 "vector", True)  # fmt: skip
    yield Family("vector-levels", "vector", "gives the vector as whole numbers, the largest magnitude {}",
                 lambda v: on_vector(partial(levels, v)), tuple(map(float, range(1, 256))), "vector", True)  # fmt: skip
    yield Family("vector-steps", "vector", "gives the normalized vector times {} as whole numbers",
                 lambda v: on_vector(lambda x: np.round(unit(x) * v)),
                 tuple(map(float, [*range(2, 257), 500, 512, 1000, 1024, 2048, 4096, 10000, 32767, 32768, 65535])),
                 "vector", True)  # fmt: skip
    yield Family("vector-bits-kept", "vector", "keeps {} bits of the mantissa of each number",
                 lambda v: on_vector(partial(fewer_bits, int(v))), tuple(map(float, range(1, 20))), "vector",
                 True)  # fmt: skip
    yield Family("vector-clipped", "vector", "clips the normalized vector at {}",
                 lambda v: on_vector(lambda x: np.clip(unit(x), -v, v)), logarithmic(0.005, 0.5, 15),
                 "vector")  # fmt: skip
    yield Family("vector-power", "vector", "raises the magnitudes of the vector to the power {}",
                 lambda v: on_vector(lambda x: np.sign(x) * np.abs(x) ** v), logarithmic(0.1, 4, 9),
                 "vector")  # fmt: skip
    yield Family("vector-tanh", "vector", "puts tanh over {} times the vector",
                 lambda v: on_vector(lambda x: np.tanh(v * x)), logarithmic(0.05, 50, 11), "vector")  # fmt: skip
    yield Family("vector-tanh-of-unit", "vector", "puts tanh over {} times the normalized vector",
                 lambda v: on_vector(lambda x: np.tanh(v * unit(x))), logarithmic(0.5, 100, 9), "vector")  # fmt: skip
    yield Family("vector-softmax", "vector", "puts softmax over {} times the vector",
                 lambda v: on_vector(partial(soft_max, v)), logarithmic(0.05, 50, 11), "vector")  # fmt: skip
    for sign, word in ((1, "adds {} to"), (-1, "takes {} off")):
        id = f"vector-shifted{'-down' * (sign < 0)}"
        yield Family(id, "vector", f"{word} every number of the normalized vector",
                     partial(shifted, sign), logarithmic(1e-4, 3, 9), "vector")  # fmt: skip


def on_vector(function: Callable[[F64], F64]) -> Change:
    """Something done to the vector."""
    return lambda reference: reference.add(vector=function)


def shifted(sign: int, value: float) -> Change:
    """A number added to all of the normalized vector, or taken off."""
    return on_vector(lambda x: unit(x) + sign * value)


def levels(most: float, x: F64) -> F64:
    """Whole numbers up to that."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    y: F64 = np.round(x / np.where(largest > 0, largest, 1) * most)
    return y


def fewer_bits(bits: int, x: F64) -> F64:
    """The normalized vector with so many bits behind the leading one."""
    mantissa, exponent = np.frexp(unit(x))
    y: F64 = np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent)
    return y


def soft_max(factor: float, x: F64) -> F64:
    """e^(factor x) over its sum."""
    e = np.exp(factor * (x - x.max(axis=-1, keepdims=True)))
    y: F64 = e / e.sum(axis=-1, keepdims=True)
    return y
