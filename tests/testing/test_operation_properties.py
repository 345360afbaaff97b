"""The contracts of operations, tested by breaking things: each mutant is caught by the property that names its mistake,
and each property catches some mutant. NumPy's plain formulas pass them all, and so do refembed's own functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refembed.gguf.quants import quant_type
from refembed.kernels.exact import activations, norms
from refembed.kernels.exact import attention as exact_attention
from refembed.kernels.exact import rope as exact_rope
from refembed.kernels.ops import AttentionSpec, Rope
from refembed.kernels.quant.quantize import quantize
from refembed.testing import (
    AttentionContract,
    Contract,
    EmbeddingContract,
    LayerNormContract,
    Q8Contract,
    RopeContract,
    SwigluContract,
    WordPieceContract,
)

EXAMPLES = 40

Function = Callable[..., Any]


def wordpiece(word: str, vocabulary: set[str], *, first: int = -1, unknown: bool = True) -> list[str]:
    """Plain; `first` picks another of the pieces that fit than the longest."""
    pieces, at = [], 0
    while at < len(word):
        fits = sorted((p for p in vocabulary if word.startswith(p, at)), key=len)
        if not fits and unknown:
            return ["[UNK]"]
        pieces.append(fits[first] if fits else "[UNK]")
        at += len(pieces[-1]) if fits else 1
    return pieces


def embed(ids: Any, tokens: Any, positions: Any, segments: Any) -> Any:
    return tokens[ids] + positions[np.arange(len(ids))] + segments[0]


def attention(q: Any, k: Any, v: Any, *, scale: float = 0.5, axis: int = -1, high: bool = True) -> Any:
    """Plain; scores are divided by D to the power of `scale`."""
    s = q @ k.T / q.shape[1] ** scale
    e = np.exp(s - s.max(axis=axis, keepdims=True) if high else s)
    return e / e.sum(axis=axis, keepdims=True) @ v


def layer_norm(x: Any, w: Any, b: Any, eps: float, *, ddof: int = 0, axis: int = 1) -> Any:
    centered = x - x.mean(axis=axis, keepdims=True)
    var = (centered**2).sum(axis=axis, keepdims=True) / max(x.shape[axis] - ddof, 1)
    return centered / np.sqrt(var + eps) * w + b


def swiglu(x: Any, gate: Any, up: Any, down: Any, *, slope: float = 1.0) -> Any:
    z = x @ gate.T
    return (z / (1 + np.exp(-slope * z)) * (x @ up.T)) @ down.T


def rope(x: Any, pos: Any, base: float, *, exponent: float = 2.0, grow: float = 1.0) -> Any:
    half = x.shape[1] // 2
    theta = pos[:, None] * base ** (-exponent * np.arange(half) / x.shape[1])
    a, b = x[:, :half] * grow, x[:, half:] * grow
    return np.hstack([a * np.cos(theta) - b * np.sin(theta), a * np.sin(theta) + b * np.cos(theta)])


def q8_0(x: Any, *, most: float = 127, round: Function = np.rint) -> tuple[Any, Any]:
    d = np.abs(x).max() / np.float32(most)
    return np.float16(d), round(x / d) if d else np.zeros(32)


def refembeds_attention(q: Any, k: Any, v: Any) -> Any:
    """Of packed texts: queries and keys are of the same tokens there, so rows are filled up."""
    n = max(len(q), len(k))
    spec = AttentionSpec(1, 1, 1 / math.sqrt(q.shape[1]))
    if len(k) < n:  # the queries in turns of as many as there are keys
        parts = [q[i : i + len(k)] for i in range(0, n, len(k))]
        return np.concatenate([refembeds_attention(part, k, v) for part in parts])
    filled = np.concatenate([q, np.zeros((n - len(q), q.shape[1]))])
    return exact_attention.attention(filled, k, v, spec, np.array([0, n]))[: len(q)]


def refembeds_rope(x: Any, pos: Any, base: float) -> Any:
    return exact_rope.rope(x[:, None], pos, Rope(n_dims=x.shape[1], pairs="neox", freq_base=base))[:, 0]


def refembeds_q8_0(x: Any) -> tuple[Any, Any]:
    block = quantize(x, "Q8_0").view(quant_type("Q8_0").block)
    return block["d"][0], block["qs"][0]


CONTRACTS: dict[type[Contract], str] = {
    WordPieceContract: "wordpiece", EmbeddingContract: "embed", AttentionContract: "attention",
    LayerNormContract: "layer_norm", SwigluContract: "swiglu", RopeContract: "rope", Q8Contract: "q8_0",
}  # fmt: skip

RIGHT: dict[str, tuple[type[Contract], Function]] = {
    "wordpiece": (WordPieceContract, wordpiece),
    "embed": (EmbeddingContract, embed),
    "attention": (AttentionContract, attention),
    "attention of refembed": (AttentionContract, refembeds_attention),
    "attention in float32": (AttentionContract, lambda *qkv: attention(*(x.astype(np.float32) for x in qkv))),
    "layer_norm": (LayerNormContract, layer_norm),
    "layer_norm of refembed": (LayerNormContract, lambda x, w, b, eps: norms.layer_norm(x, eps) * w + b),
    "swiglu": (SwigluContract, swiglu),
    "swiglu of refembed": (SwigluContract, lambda x, g, u, d: activations.swiglu(x @ g.T, x @ u.T) @ d.T),
    "rope": (RopeContract, rope),
    "rope of refembed": (RopeContract, refembeds_rope),
    "q8_0": (Q8Contract, q8_0),
    "q8_0 of refembed": (Q8Contract, refembeds_q8_0),
}

MUTANTS: dict[str, tuple[type[Contract], Function, str]] = {  # what is wrong: contract, function, who names it
    "the shortest piece": (WordPieceContract, lambda w, v: wordpiece(w, v, first=0), "each_piece_is_the_longest_there"),
    "the last letter is lost": (WordPieceContract, lambda w, v: wordpiece(w, v)[:-1], "pieces_make_up_the_word"),
    "only the rest is unknown": (
        WordPieceContract,
        lambda w, v: wordpiece(w, v, unknown=False),
        "a_letter_without_a_piece_makes_the_whole_word_unknown",
    ),
    "the row behind": (
        EmbeddingContract,
        lambda i, t, p, s: embed((i + 1) % len(t), t, p, s),
        "without_places_and_segments_rows_are_the_tokens",
    ),
    "places from 1": (
        EmbeddingContract,
        lambda i, t, p, s: embed(i, t, p[1:], s),
        "without_tokens_and_segments_rows_are_the_places",
    ),
    "segment 1": (EmbeddingContract, lambda i, t, p, s: embed(i, t, p, s[::-1]), "every_token_gets_segment_0"),
    "multiplied": (
        EmbeddingContract,
        lambda i, t, p, s: embed(i, t, p, s) + t[i] * p[: len(i)],
        "the_three_are_added",
    ),
    "not scaled": (
        AttentionContract,
        lambda q, k, v: attention(q, k, v, scale=0),
        "two_keys_share_by_the_scaled_difference",
    ),
    "softmax over the queries": (
        AttentionContract,
        lambda q, k, v: attention(q, k, v, axis=0),
        "equal_keys_share_equally",
    ),
    "softmax over all": (AttentionContract, lambda q, k, v: attention(q, k, v, axis=0), "each_query_stands_alone"),
    "a sum, no average": (
        AttentionContract,
        lambda q, k, v: len(k) * attention(q, k, v),
        "averages_stay_among_the_values",
    ),
    "a causal mask": (
        AttentionContract,
        lambda q, k, v: np.concatenate([attention(q[i : i + 1], k[: i + 1], v[: i + 1]) for i in range(len(q))]),
        "the_order_of_the_keys_does_not_matter",
    ),
    "cosines for scores": (
        AttentionContract,
        lambda q, k, v: attention(q, k / (1 + np.abs(k).sum(axis=1, keepdims=True)), v),
        "the_same_for_all_keys_changes_nothing",
    ),
    "the largest score is left": (
        AttentionContract,
        lambda q, k, v: attention(q, k, v, high=False),
        "large_scores_do_not_overflow",
    ),
    "no mean": (
        LayerNormContract,
        lambda x, w, b, e: x / np.sqrt(x.var(axis=1, keepdims=True) + e) * w + b,
        "the_mean_is_0",
    ),
    "by C - 1": (LayerNormContract, lambda *a: layer_norm(*a, ddof=1), "the_variance_is_1_but_for_eps"),
    "RMS": (
        LayerNormContract,
        lambda x, w, b, e: x / np.sqrt((x**2).mean(axis=1, keepdims=True) + e) * w + b,
        "a_shift_is_taken_out",
    ),
    "eps outside": (
        LayerNormContract,
        lambda x, w, b, e: (x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, keepdims=True) + e) * w + b,
        "a_factor_is_taken_out",
    ),
    "bias before weight": (
        LayerNormContract,
        lambda x, w, b, e: (layer_norm(x, 1, 0, e) + b) * w,
        "weight_and_bias_come_last",
    ),
    "over the tokens": (LayerNormContract, lambda *a: layer_norm(*a, axis=0), "each_token_stands_alone"),
    "the sigmoid alone": (
        SwigluContract,
        lambda x, g, u, d: (1 / (1 + np.exp(-x @ g.T)) * (x @ u.T)) @ d.T,
        "a_closed_gate_lets_nothing_through",
    ),
    "a steeper sigmoid": (SwigluContract, lambda *m: swiglu(*m, slope=1.702), "one_channel_is_the_formula"),
    "the gate is up": (SwigluContract, lambda x, g, u, d: swiglu(x, u, g, d), "up_and_down_are_linear"),
    "ReLU of the mirror": (
        SwigluContract,
        lambda x, g, u, d: (np.abs(x @ g.T) * (x @ u.T)) @ d.T,
        "a_gate_and_its_mirror_differ_by_the_gate",
    ),
    "all tokens' gates": (
        SwigluContract,
        lambda x, g, u, d: swiglu(x - x.mean(axis=0), g, u, d) + swiglu(x, g, u, d),
        "each_token_stands_alone",
    ),
    "places from 1 (RoPE)": (RopeContract, lambda x, p, b: rope(x, p + 1, b), "place_0_stays"),
    "-i/D": (RopeContract, lambda x, p, b: rope(x, p, b, exponent=1.0), "pair_i_turns_by_its_own_angle"),
    "it grows": (RopeContract, lambda x, p, b: rope(x, p, b, grow=1.1), "lengths_stay"),
    "angles of squares": (RopeContract, lambda x, p, b: rope(x, p**2, b), "turns_add_up"),
    "angles of roots": (RopeContract, lambda x, p, b: rope(x, p**0.5, b), "scores_know_the_distance_alone"),
    "by 128": (Q8Contract, lambda x: q8_0(x, most=128), "codes_are_whole_numbers_of_one_byte"),
    "cut off": (Q8Contract, lambda x: q8_0(x, round=np.trunc), "no_number_is_off_by_more_than_half_a_step"),
    "a float32 scale": (
        Q8Contract,
        lambda x: (np.abs(x).max() / np.float32(127), q8_0(x)[1]),
        "the_scale_is_the_largest_over_127_in_float16",
    ),
    "rounded down": (Q8Contract, lambda x: q8_0(x, round=np.floor), "a_sign_passes_through"),
    "a scale from 1 up": (
        Q8Contract,
        lambda x: q8_0(np.maximum(np.abs(x), 1) * np.sign(x)),
        "a_power_of_two_goes_into_the_scale",
    ),
}  # fmt: skip


def yours(contract: type[Contract], function: Function) -> Contract:
    return type("Yours", (contract,), {CONTRACTS[contract]: staticmethod(function)})()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_operation_passes(name: str) -> None:
    with np.errstate(all="ignore"):
        assert yours(*RIGHT[name]).failures(EXAMPLES) == {}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_operation_is_caught(name: str) -> None:
    contract, function, caught_by = MUTANTS[name]
    with np.errstate(all="ignore"):
        assert "AssertionError" in yours(contract, function).failure(caught_by, EXAMPLES)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_no_property_is_idle(contract: type[Contract]) -> None:
    """Each is the one that catches some mutant."""
    assert set(contract.properties()) == {caught_by for of, _, caught_by in MUTANTS.values() if of is contract}
    assert all(p.check.__doc__ for p in contract.properties().values())


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_missing_method_is_named(contract: type[Contract]) -> None:
    name = next(iter(contract.properties()))
    assert f"needs a method {CONTRACTS[contract]}" in type("Empty", (contract,), {})().failure(name, 5)
