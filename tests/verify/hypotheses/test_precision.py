"""Roundings to fewer bits against arithmetic with fractions, and where each precision rounds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from refembed import Embedder
from refembed.gguf import Tensor, open_gguf
from refembed.kernels.numerics import load_ops
from refembed.kernels.wrapper import PatchedOps
from refembed.testing.synthetic import synthetic
from refembed.verify.hypotheses import precision
from refembed.verify.hypotheses.changes import named
from refembed.verify.hypotheses.precision import bfloat16, float16, precisions, samples_of, tf32, truncated_tf32
from refembed.verify.reference import reference_of


def rounded(x: float, bits: int, halves: str) -> float:
    """To so many bits of mantissa behind the first, by fractions. halves: "away", "even", or "down" for a cut."""
    if x == 0:
        return x
    step = Fraction(2) ** (math.frexp(abs(x))[1] - 1 - bits)
    whole, rest = divmod(abs(Fraction(x)), step)
    up = rest * 2 > step or (rest * 2 == step and (halves == "away" or whole % 2 == 1))
    return math.copysign(float((whole + (up and halves != "down")) * step), x)


def numbers() -> list[float]:
    """Of all sizes, and halves between two neighbors."""
    draw = np.random.default_rng(0)
    some = (draw.normal(size=400) * 10.0 ** draw.uniform(-4, 4, 400)).astype(np.float32)
    halves = (1 + (2 * np.arange(40) + 1) * 2.0**-11) * draw.choice([-1, 1], 40)
    return [0.0, *map(float, some), *map(float, halves), *(float(x) for x in 1 + (2 * np.arange(40) + 1) * 2.0**-8)]


@pytest.mark.parametrize(
    ("function", "bits", "halves"),
    [(tf32, 10, "away"), (truncated_tf32, 10, "down"), (bfloat16, 7, "even"), (float16, 10, "even")],
)
def test_a_rounding_is_what_fractions_say(function, bits, halves):
    x = np.array(numbers(), np.float32)
    x = x[(np.abs(x) > 1e-3) & (np.abs(x) < 6e4)] if function is float16 else x  # below, float16 has fewer bits
    assert function(x).tolist() == [rounded(float(v), bits, halves) for v in x]
    assert function(x.astype(np.float64)).dtype == np.float64


def test_products_of_rounded_numbers():
    """Each factor by itself: 1 + 2^-11 is 1 + 2^-10 in TF32, 1 when cut, and 1 in bfloat16."""
    x, w = np.array([[1 + 2.0**-11]]), Tensor.of([[1 + 2.0**-11]])
    step = {"inputs-tf32": 1 + 2.0**-10, "inputs-tf32-truncated": 1.0, "inputs-bfloat16": 1.0}
    for p in precisions():
        if p.id in step:
            ops = PatchedOps(load_ops("exact"), precision.products(p, p.round))
            assert ops.linear(x, w).item() == step[p.id] ** 2
            assert ops.experts(x, w.reshape(1, 1, 1), np.array([[0]])).item() == step[p.id] ** 2


def test_sums_in_float16_lose_what_is_small():
    """2048 + 1 is 2048 in float16, but 16 ones at once are added."""
    p = next(p for p in precisions() if p.id == "sums-float16")
    change = p.samples()[0].change
    ops = change_of(change)(load_ops("exact"))
    one = np.ones((1, 32))
    one[0, 0] = 2048
    assert ops.linear(one, Tensor.of(np.ones((1, 32)))).item() == 2048 + 16 + 16
    one[0, 17:] = 0  # then a single one is left for the second sum
    one[0, 1:16] = 0
    assert ops.linear(one, Tensor.of(np.ones((1, 32)))).item() == 2048


def change_of(change):
    """The change of operations in a change of a reference."""

    class Keeps:
        def add(self, ops):
            return ops

    return change(Keeps())


def test_a_matrix_that_has_no_more_bits_is_left_as_it_is(tmp_path):
    f = open_gguf(synthetic(tmp_path / "m.gguf", "bert", type_name="BF16", C=64, optional={"attn_q.bias"}))
    short, long = f.tensors["blk.0.attn_q.weight"], f.tensors["blk.0.attn_q.bias"].reshape(1, 64)
    every = list(precisions())
    kept = {p.id for p in every if p.weight(short) is short}
    assert kept == {
        "inputs-tf32", "inputs-tf32-truncated", "inputs-bfloat16", "results-bfloat16", "hidden-bfloat16"
    }  # fmt: skip
    assert len(every) == 8
    for p in every:
        assert p.weight(long) is not long
        assert p.weight(long) is p.weight(long)


def test_names_of_rounded_matrices_are_still_known(tmp_path):
    """So that a fault in one of them is looked for under a precision too."""
    path = synthetic(tmp_path / "m.gguf", "qwen3")
    r = reference_of(Embedder.load(path, numerics="fast"), "mean")
    for p in precisions():
        for h in samples_of(r, p):
            seen = []

            def linear(true, x, w, *rest, seen=seen):
                seen.append(named(w, "attn_q"))
                return true.linear(x, w, *rest)

            changed = h.change(r)
            changed.add(ops=lambda ops, linear=linear: PatchedOps(ops, {"linear": linear})).vectors([[1, 2, 3]], "fast")
            assert sum(seen) == 3, p.id


def test_samples_are_made_once_for_a_reference(tmp_path):
    r = reference_of(Embedder.load(synthetic(tmp_path / "m.gguf", "bert"), numerics="fast"), "mean")
    p = next(precisions())
    assert samples_of(r, p) is samples_of(r.add(text=str.lower), p)
