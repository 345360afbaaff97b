"""Hypotheses about precision: numbers of fewer bits than float32, as GPUs multiply them.

    TF32        10 bits of mantissa and float32's exponent: PyTorch's allow_tf32, ONNX Runtime's use_tf32, llama.cpp's
                products of F32 matrices on a GPU. float16 has as many bits
    bfloat16    7 bits, and float32's exponent
    inputs-     what is multiplied is rounded, sums and all else are float32
    results-    sums are rounded behind each product too, and so are activations (torch.autocast; llama.cpp's F16
                products on a GPU)
    sums-       and while they are added (CUBLAS_COMPUTE_16F)
    hidden-     weights, and the result of every operation (model.half(), torch_dtype=torch.bfloat16)

Two engines of one precision have not the same bits, nor nearly: sums in another order turn over a rounding here and
there, the next product sees other numbers, and after a few layers their roundings have nothing to do with each other.
So each precision is computed twice, once with inputs of products that are NUDGE larger: how far these two are apart is
its noise floor (`verify.precision`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np

from refembed.arrays import F32, Float
from refembed.gguf import Tensor
from refembed.kernels.exact.bfloat16 import nearest_bfloat16
from refembed.kernels.exact.tensor_cores import round_tf32
from refembed.kernels.ops import COMPOSED, NO_TAP, Ops, Tap
from refembed.verify.hypotheses.changes import replaced
from refembed.verify.hypotheses.weights import stored_as
from refembed.verify.hypothesis import Change, Hypothesis, both
from refembed.verify.reference import OPERATIONS, Reference

FAMILY = "precision"
NUDGE = 1 + 2.0**-22  # two units in the last place of float32: what sums in another order differ by
CHANNELS = 16  # that tensor cores add at once
WHOLE = ("weight", "split", "mean", *COMPOSED)  # operations that round nothing of their own; pooling is in float32
ACTIVATIONS = ("gelu", "gelu_erf", "silu", "relu", "sigmoid", "geglu", "swiglu", "swiglu_oai")

Round = Callable[[Float], Float]


def tf32(x: Float) -> Float:
    """Rounded to 10 bits of mantissa, halves away from zero (PTX: cvt.rna.tf32.f32).

    >>> tf32(np.array([1 + 2**-11, 1 + 2**-12, -1 - 2**-11], np.float32)) - 1
    array([ 9.765625e-04,  0.000000e+00, -2.000977e+00], dtype=float32)
    """
    return round_tf32(x.astype(np.float32)).astype(x.dtype)


def truncated_tf32(x: Float) -> Float:
    """Cut to 10 bits of mantissa: what tensor cores read of a float32 that nothing has rounded.

    >>> truncated_tf32(np.array([1 + 2**-11, 1 + 2**-10], np.float32)) - 1
    array([0.        , 0.00097656], dtype=float32)
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(x.dtype)


def bfloat16(x: Float) -> Float:
    """Rounded to 8 bits of mantissa, as bfloat16 has them."""
    return nearest_bfloat16(x.astype(np.float32)).astype(x.dtype)


def float16(x: Float) -> Float:
    """Rounded to float16 and back."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(x.dtype)


@dataclass(frozen=True)
class Precision:
    """One way to compute in fewer bits."""

    id: str  # "inputs-tf32"
    name: str  # "TF32"
    says: str  # after "the engine"
    round: Round
    holds: tuple[str, ...]  # types of tensors that this rounding leaves as they are
    kind: str = "inputs"  # of the four above

    def samples(self) -> tuple[Hypothesis, Hypothesis]:
        """Two changes of a reference: the second with numbers NUDGE larger, and where it may round more, it does."""
        weights = weights_as(self) if self.kind == "hidden" else None
        found = []
        for nudged in (False, True):
            change = CHANGES[self.kind](self, partial(nudged_first, self.round) if nudged else self.round, nudged)
            whole = change if weights is None else both(weights, change)
            found.append(Hypothesis(self.id, "model", self.says, whole, FAMILY))
        return found[0], found[1]

    def weight(self, w: Tensor) -> Tensor:
        """A matrix rounded, under its own name; made once."""
        if w.type.name in self.holds:
            return w
        kept = ROUNDED.setdefault(self.round, WeakKeyDictionary())
        if w not in kept:
            kept[w] = Tensor.of(self.round(w.dequantize()), w.name)
        return kept[w]


ROUNDED: dict[Round, WeakKeyDictionary[Tensor, Tensor]] = {}  # matrices that are in use, by each rounding


def nudged_first(round_: Round, x: Float) -> Float:
    """Rounded after a change that is below float32's own rounding of sums."""
    return round_((x * x.dtype.type(NUDGE)).astype(x.dtype))


# -- where an engine rounds ------------------------------------------------------------------------------------------


def rounded_inputs(p: Precision, round_: Round, attention: bool) -> Change:
    """Both factors of each product; queries, keys and values too, in the second of the two samples."""
    return replaced(**products(p, round_), **({"attention": rounded_attention(round_)} if attention else {}))


def products(p: Precision, round_: Round, result: Round | None = None) -> dict[str, Callable[..., Any]]:
    """Matrix products of rounded factors."""

    def multiplied(name: str, true: Any, x: Float, w: Tensor, *rest: Any, **more: Any) -> Float:
        if result is None:
            return cast(Float, getattr(true, name)(round_(x), p.weight(w), *rest, **more))
        return cast(Float, rounded_result(result, name, true, round_(x), p.weight(w), *rest, **more))

    return {name: partial(multiplied, name) for name in ("linear", "experts", "per_head")}


def rounded_attention(round_: Round, result: Round | None = None) -> Callable[..., Float]:
    """Attention over rounded queries, keys and values."""

    def attention(true: Ops, q: Float, k: Float, v: Float, *rest: Any, **more: Any) -> Float:
        if result is None:
            return true.attention(round_(q), round_(k), round_(v), *rest, **more)
        return cast(Float, rounded_result(result, "attention", true, round_(q), round_(k), round_(v), *rest, **more))

    return attention


def rounded_results(p: Precision, round_: Round, nudged: bool) -> Change:
    """Products and activations, what goes in and what comes out."""
    after = {name: partial(rounded_result, p.round, name) for name in ACTIVATIONS}
    return replaced(**products(p, round_, p.round), **after, attention=rounded_attention(round_, p.round))


def rounded_result(round_: Round, name: str, true: Any, *given: Any, **more: Any) -> Any:
    """The result of an operation, rounded, and what it shows on the way."""
    shown = [RoundedTap(g, round_) if getattr(g, "active", False) else g for g in given]
    y = getattr(true, name)(*shown, **more)
    return [round_(part) for part in y] if isinstance(y, list) else round_(y)


class RoundedTap:
    """A tap that is shown rounded numbers, and whose answer goes on so."""

    active = True

    def __init__(self, tap: Tap, round_: Round) -> None:
        self.tap, self.round = tap, round_

    def __call__(self, name: str, x: Float) -> Float:
        return self.round(self.tap(name, self.round(x)))


def rounded_sums(p: Precision, round_: Round, nudged: bool) -> Change:
    """Sums rounded after every CHANNELS channels."""

    def linear(true: Ops, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        rows, matrix = round_(x).astype(np.float32), p.weight(w).dequantize()
        y: F32 = np.zeros((len(x), len(matrix)), np.float32)
        for k in range(0, x.shape[1], CHANNELS):
            y = p.round(y + rows[:, k : k + CHANNELS] @ matrix[:, k : k + CHANNELS].T)
        found = y.astype(x.dtype)
        return found if b is None else true.add_bias(tap(product, found), b)

    return replaced(linear=linear, attention=rounded_attention(round_, p.round))


def rounded_whole(p: Precision, round_: Round, nudged: bool) -> Change:
    """Every weight, and the result of every operation."""
    names = [n for n in OPERATIONS if n[0] != "_" and n not in WHOLE and callable(getattr(Ops, n, None))]
    every: dict[str, Callable[..., Any]] = {n: partial(rounded_result, p.round, n) for n in names}
    every |= products(p, round_, p.round) | {"attention": rounded_attention(round_, p.round)}

    def add_layer_norm(true: Ops, x: Float, residual: Float, *rest: Any) -> Float:
        return p.round(true.layer_norm(p.round(x + residual), *rest))

    return replaced(**every, add_layer_norm=add_layer_norm)


def weights_as(p: Precision) -> Change:
    """All tensors of the model in that type, made once for a file."""
    type_name = {"float16": "F16", "bfloat16": "BF16"}[p.name]
    last: list[Any] = []  # a file, and the change of models that are made of it

    def change(r: Reference) -> Reference:
        if not last or last[0] is not r.file:
            last[:] = r.file, stored_as({n: type_name for n, t in r.file.tensors.items() if t.type.name not in p.holds})
        return cast(Reference, last[1](r))

    return change


CHANGES: dict[str, Callable[[Precision, Round, bool], Change]] = {
    "inputs": rounded_inputs,
    "results": rounded_results,
    "sums": rounded_sums,
    "hidden": rounded_whole,
}


def precisions() -> Iterator[Precision]:
    """All of them; those that round least first."""
    short = ("F16", "BF16")  # neither has more bits of mantissa than TF32
    says = "multiplies numbers rounded to TF32 (10 bits of mantissa, as float16 has)"
    yield Precision("inputs-tf32", "TF32", says, tf32, short)
    says = "multiplies numbers cut to TF32 (10 bits of mantissa)"
    yield Precision("inputs-tf32-truncated", "TF32", says, truncated_tf32, short)
    yield Precision("results-float16", "float16", "multiplies in float16, results too", float16, ("F16",), "results")
    yield Precision("hidden-float16", "float16", "computes all of the model in float16", float16, ("F16",), "hidden")
    yield Precision("sums-float16", "float16", "multiplies and adds in float16", float16, ("F16",), "sums")
    says = "multiplies numbers rounded to bfloat16"
    yield Precision("inputs-bfloat16", "bfloat16", says, bfloat16, ("BF16",))
    says = "multiplies in bfloat16, results too"
    yield Precision("results-bfloat16", "bfloat16", says, bfloat16, ("BF16",), "results")
    says = "computes all of the model in bfloat16"
    yield Precision("hidden-bfloat16", "bfloat16", says, bfloat16, ("BF16",), "hidden")


def samples_of(reference: Reference, p: Precision) -> tuple[Hypothesis, Hypothesis]:
    """The two samples of a precision, made once for a reference and all that is made of it."""
    kept = reference.by_numerics.samples
    if p.id not in kept:
        kept[p.id] = p.samples()
    return kept[p.id]
