"""The contracts are tested by breaking things.

Each mutant is caught by the property that names its mistake, and each property catches some mutant. The unbroken
functions pass them all (tests/testing/test_testing.py), so what is caught here is the mutation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refembed.testing import Contract, NormalizeContract, PoolingContract, SimilarityContract
from tests.plain import PLAIN, PlainSimilarity, plain_cosine, plain_normalize, plain_pool, ramp, sum_up

EXAMPLES = 60  # per mutant

# --- mutants: (what is wrong, the broken function, the property that names it) ---


def mode(**broken: Callable[[Any], Any]) -> Callable[..., Any]:
    """plain_pool with some modes replaced."""
    table = PLAIN | broken

    def pool(hidden: Any, offsets: Any, how: str) -> Any:
        return [table[how](hidden[i:j]) for i, j in itertools.pairwise(offsets)]

    return pool


def whole_batch_mean(hidden: Any, offsets: Any, how: str) -> Any:
    return [PLAIN[how](hidden) if how == "mean" else v for v in plain_pool(hidden, offsets, how)]


def late_offsets(hidden: Any, offsets: Any, how: str) -> Any:
    """Every text but the first begins a token late, and keeps at least one."""
    starts = [min(i + 1, j - 1) if i else 0 for i, j in itertools.pairwise(offsets)]
    return [PLAIN[how](hidden[i:j]) for i, j in zip(starts, offsets[1:], strict=True)]


def last_of_longest(hidden: Any, offsets: Any, how: str) -> Any:
    """`last` at the longest text's position in every text, cut at the end of the batch."""
    if how != "last":
        return plain_pool(hidden, offsets, how)
    longest = int(np.diff(offsets).max())
    return [hidden[min(i + longest, len(hidden)) - 1] for i in offsets[:-1]]


def sorted_by_length(hidden: Any, offsets: Any, how: str) -> Any:
    """Texts sorted by length for speed, and never put back."""
    return sorted(plain_pool(hidden, offsets, how), key=lambda v: float(v.reshape(-1)[0]))


def padded_max(hidden: Any, offsets: Any, how: str) -> Any:
    """Shorter texts padded with zeros before the maximum."""
    lengths = np.diff(offsets)
    return [
        np.maximum(v, 0) if how == "max" and n < lengths.max() else v
        for v, n in zip(plain_pool(hidden, offsets, how), lengths, strict=True)
    ]


def chunked_mean(x: Any) -> Any:
    """The mean of the last micro-batch of four tokens, as llama.cpp with a KV cache and n_ubatch = 4."""
    return PLAIN["mean"](x[(len(x) - 1) // 4 * 4 :])


POOL_MUTANTS: dict[str, tuple[Callable[..., Any], str]] = {
    "mean over n - 1": (
        mode(mean=lambda x: sum_up(x) / np.float32(max(len(x) - 1, 1))),
        "mean_is_the_sum_over_the_count",
    ),
    "mean over n + 1": (mode(mean=lambda x: sum_up(x) / np.float32(len(x) + 1)), "one_token_is_its_own_vector"),
    "sum for mean": (mode(mean=sum_up), "equal_tokens_average_to_themselves"),
    "mean without the first token": (
        mode(mean=lambda x: PLAIN["mean"](x[1:] if len(x) > 1 else x)),
        "the_order_of_tokens_does_not_matter",
    ),
    "mean of the last micro-batch": (mode(mean=chunked_mean), "means_combine_by_their_counts"),
    "mean of the whole batch": (whole_batch_mean, "neighbors_do_not_matter"),
    "mean summed in float16": (
        mode(mean=lambda x: (sum_up(x.astype(np.float16)) / len(x)).astype(np.float32)),
        "mean_is_the_sum_over_the_count",
    ),
    "mean clipped to float16": (
        mode(mean=lambda x: PLAIN["mean"](x).astype(np.float16).astype(np.float32)),
        "one_token_is_its_own_vector",
    ),
    "mean of magnitudes": (mode(mean=lambda x: PLAIN["mean"](np.abs(x))), "a_sign_passes_through"),
    "median for mean": (mode(mean=lambda x: np.median(x, axis=0)), "a_sum_passes_through"),
    "mean with weights that grow": (mode(mean=PLAIN["weightedmean"]), "saying_it_again_changes_no_average"),
    "mean normalized": (
        mode(mean=lambda x: PLAIN["mean"](x) / max(float(np.linalg.norm(PLAIN["mean"](x))), 1e-9)),
        "a_power_of_two_passes_through",
    ),
    "mean centered over channels": (mode(mean=lambda x: PLAIN["mean"](x - x.mean())), "channels_do_not_mix"),
    "offsets one token late": (late_offsets, "neighbors_do_not_matter"),
    "texts left sorted": (sorted_by_length, "the_order_of_texts_does_not_matter"),
    "last at the longest text's place": (last_of_longest, "neighbors_do_not_matter"),
    "last for cls": (mode(cls=PLAIN["last"]), "cls_is_the_first_token_and_last_the_last"),
    "cls is the second token": (mode(cls=lambda x: x[min(1, len(x) - 1)]), "the_first_token_is_the_last_one_backwards"),
    "max of magnitudes": (mode(max=lambda x: np.abs(x).max(axis=0)), "a_shift_passes_through"),
    "max from zero": (mode(max=lambda x: np.maximum(x.max(axis=0), 0)), "max_is_reached_and_never_passed"),
    "max over padding": (padded_max, "neighbors_do_not_matter"),
    "mean for max": (mode(max=PLAIN["mean"]), "max_is_reached_and_never_passed"),
    "sum over n for sqrt(n)": (
        mode(mean_sqrt_len=PLAIN["mean"]),
        "mean_sqrt_len_is_the_sum_over_the_root_of_the_count",
    ),
    "weights from 0": (
        mode(weightedmean=lambda x: sum_up(x * (ramp(len(x)) - 1)) / max(float(ramp(len(x) - 1).sum()), 1)),
        "one_token_is_its_own_vector",
    ),
    "weights backwards": (
        mode(weightedmean=lambda x: PLAIN["weightedmean"](x[::-1])),
        "a_weight_is_as_good_as_a_repetition",
    ),
    "weights squared": (
        mode(weightedmean=lambda x: sum_up(x * ramp(len(x)) ** 2) / (ramp(len(x)) ** 2).sum()),
        "forwards_and_backwards_the_weights_even_out",
    ),
    "weights not divided by": (
        mode(weightedmean=lambda x: sum_up(x * ramp(len(x)))),
        "averages_stay_among_their_tokens",
    ),
    "none leaves out the specials": (mode(none=lambda x: x[1:-1] if len(x) > 2 else x), "none_keeps_every_token"),
}


def lengths(of: Callable[[Any, int], Any]) -> Callable[..., Any]:
    """x over its length, for p >= 1, as refembed would; `of` says the broken length of rows (N, D)."""

    def normalize(x: Any, p: int) -> Any:
        if p < 1:
            return plain_normalize(x, p)
        length = np.asarray(of(x.astype(np.float64), p), np.float64)
        return (x * np.where(length > 0, 1 / np.where(length > 0, length, 1), 0)[:, None]).astype(np.float32)

    return normalize


def norm(x: Any, p: float) -> Any:
    """(sum |x|^p)^(1/p) of each row."""
    return (np.abs(x) ** p).sum(axis=1) ** (1 / p)


def when(p: int, broken: Callable[[Any], Any]) -> Callable[..., Any]:
    """plain_normalize with one norm replaced."""
    return lambda x, q: broken(x) if q == p else plain_normalize(x, q)


def with_nan(x: Any, p: int) -> Any:
    """Divides by the length even where it is 0."""
    with np.errstate(all="ignore"):
        return x / norm(x.astype(np.float64), p)[:, None] if p >= 1 else plain_normalize(x, p)


NORMALIZE_MUTANTS: dict[str, tuple[Callable[..., Any], str]] = {
    "the last number left out": (lengths(lambda x, p: norm(x[:, : max(x.shape[1] - 1, 1)], p)), "its_length_is_one"),
    "L1 for L2": (lengths(lambda x, p: norm(x, 1 if p == 2 else p)), "the_length_is_the_formula_s"),
    "no root": (lengths(lambda x, p: norm(x, p) ** p), "size_does_not_matter"),
    "as it is": (lambda x, p: x, "any_positive_factor_cancels"),
    "magnitudes": (lambda x, p: np.abs(plain_normalize(x, p)), "a_sign_passes_through"),
    "turned round": (lambda x, p: -plain_normalize(x, p), "it_points_the_same_way"),
    "centered first": (lambda x, p: plain_normalize(x - x.mean(axis=1, keepdims=True), p), "it_points_the_same_way"),
    "root mean square": (lengths(lambda x, p: norm(x, p) / x.shape[1] ** (1 / p)), "zeros_at_the_end_add_nothing"),
    "eps added to the length": (lengths(lambda x, p: norm(x, p) + 1e-5), "its_length_is_one"),
    "the batch's length": (lengths(lambda x, p: np.full(len(x), norm(x.reshape(1, -1), p)[0])), "rows_stand_alone"),
    "p = 0 up to 32767": (
        when(0, lambda x: plain_normalize(x, 0) * np.float32(32767 / 32760)),
        "its_largest_magnitude_is_32760",
    ),
    "p = 0 rounded to whole numbers": (when(0, lambda x: np.round(plain_normalize(x, 0))), "it_points_the_same_way"),
    "p = -1 is Euclid": (when(-1, lambda x: plain_normalize(x, 2)), "minus_one_changes_nothing"),
    "p = 1 of signed numbers": (
        lengths(lambda x, p: np.abs(x.sum(axis=1)) if p == 1 else norm(x, p)),
        "its_length_is_one",
    ),
    "p = 3 is the maximum": (
        lengths(lambda x, p: np.abs(x).max(axis=1) if p == 3 else norm(x, p)),
        "repeating_lengthens_by_a_root",
    ),
    "p and 1/p mixed": (lengths(lambda x, p: norm(x, 1 / p)), "the_way_round_is_no_shorter"),
    "p counted from the other end": (lengths(lambda x, p: norm(x, max(6 - p, 1))), "a_higher_p_is_no_longer"),
    "weighted by place": (
        lengths(lambda x, p: norm(x * np.arange(1, x.shape[1] + 1), p)),
        "the_order_of_numbers_does_not_matter",
    ),
    "half the length": (lengths(lambda x, p: norm(x, p) / 2), "one_number_becomes_its_sign"),
    "squared after": (lambda x, p: plain_normalize(x, p) * np.abs(plain_normalize(x, p)), "twice_is_once"),
    "divided by zero": (with_nan, "zero_stays_zero"),
    "float16 result": (
        lambda x, p: x if p < 1 else plain_normalize(x, p).astype(np.float16).astype(np.float32),
        "its_length_is_one",
    ),
}

SIMILARITY_MUTANTS: dict[str, tuple[dict[str, Callable[..., Any]], str]] = {
    "cosine not divided": ({"cosine": lambda a, b: float(a @ b)}, "cosine_of_a_vector_with_itself_is_1"),
    "cosine over one length": (
        {"cosine": lambda a, b: float(a @ b) / float(a @ a or 1)},
        "cosine_is_the_same_both_ways_and_between_minus_1_and_1",
    ),
    "cosine distance": ({"cosine": lambda a, b: 1 - plain_cosine(a, b)}, "cosine_is_0_at_right_angles"),
    "cosine as a score in 0 to 1": (
        {"cosine": lambda a, b: (1 + plain_cosine(a, b)) / 2},
        "cosine_does_not_see_length",
    ),
    "cosine of zeros is 0": (
        {"cosine": lambda a, b: plain_cosine(a, b) if a.any() else 0.0},
        "cosine_with_zero_is_llama_cpp_s",
    ),
    "cosine weighted by place": (
        {"cosine": lambda a, b: plain_cosine(a * np.arange(1, len(a) + 1), b)},
        "cosine_of_numbers_moved_alike_is_the_same",
    ),
    "cosine squared": ({"cosine": lambda a, b: plain_cosine(a, b) * abs(plain_cosine(a, b))}, "dot_and_cosine_agree"),
    "cosine in float16": (
        {"cosine": lambda a, b: float(np.float16(plain_cosine(a, b)))},
        "for_unit_vectors_all_rank_alike",
    ),
    "dot is a cosine": ({"dot": plain_cosine}, "dot_is_linear"),
    "dot over D": ({"dot": lambda a, b: float(a @ b) / len(a)}, "dot_is_the_sum_of_products"),
    "dot twice": ({"dot": lambda a, b: 2 * float(a @ b)}, "dot_is_no_more_than_both_lengths"),
    "euclidean squared": ({"euclidean": lambda a, b: float((a - b) @ (a - b))}, "euclidean_is_a_distance"),
    "euclidean over sqrt(D)": (
        {"euclidean": lambda a, b: float(np.linalg.norm(a - b)) / len(a) ** 0.5},
        "dot_and_euclidean_agree",
    ),
    "euclidean is manhattan": ({"euclidean": lambda a, b: float(np.abs(a - b).sum())}, "manhattan_adds_up"),
    "manhattan signed": ({"manhattan": lambda a, b: float((a - b).sum())}, "manhattan_is_a_distance"),
    "manhattan is the largest": (
        {"manhattan": lambda a, b: float(np.abs(a - b).max())},
        "the_straight_way_is_the_shorter",
    ),
    "manhattan doubled": ({"manhattan": lambda a, b: 2 * float(np.abs(a - b).sum())}, "along_an_axis_all_ways_are_one"),
}


@pytest.mark.parametrize("mutant", POOL_MUTANTS)
def test_a_broken_pooling_is_caught(mutant: str) -> None:
    broken, caught_by = POOL_MUTANTS[mutant]

    class Broken(PoolingContract):
        def pool(self, hidden: Any, offsets: Any, how: str) -> Any:
            return broken(hidden, offsets, how)

    assert "AssertionError" in Broken().failure(caught_by, EXAMPLES)


@pytest.mark.parametrize("mutant", NORMALIZE_MUTANTS)
def test_a_broken_normalization_is_caught(mutant: str) -> None:
    broken, caught_by = NORMALIZE_MUTANTS[mutant]

    class Broken(NormalizeContract):
        def normalize(self, x: Any, p: int) -> Any:
            return broken(x, p)

    assert "AssertionError" in Broken().failure(caught_by, EXAMPLES)


@pytest.mark.parametrize("mutant", SIMILARITY_MUTANTS)
def test_a_broken_similarity_is_caught(mutant: str) -> None:
    broken, caught_by = SIMILARITY_MUTANTS[mutant]
    contract = type("Broken", (PlainSimilarity,), {name: staticmethod(f) for name, f in broken.items()})()
    assert "AssertionError" in contract.failure(caught_by, EXAMPLES)


@pytest.mark.parametrize(
    ("contract", "mutants"),
    [
        (PoolingContract, POOL_MUTANTS),
        (NormalizeContract, NORMALIZE_MUTANTS),
        (SimilarityContract, SIMILARITY_MUTANTS),
    ],
)
def test_no_property_is_idle(contract: type[Contract], mutants: dict[str, tuple[Any, str]]) -> None:
    """Each is the one that catches some mutant."""
    assert set(contract.properties()) == {caught_by for _, caught_by in mutants.values()}
    assert all(p.check.__doc__ for p in contract.properties().values())
