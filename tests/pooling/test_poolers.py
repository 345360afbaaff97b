"""Pooling: the contract, worked examples, a second implementation, live llama.cpp, and every way to ask wrongly."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given

from refembed import RefembedError
from refembed.errors import RequestError
from refembed.pooling.poolers import (
    ALIASES,
    POOLERS,
    POOLING_TYPES,
    pool,
    resolve_pooling,
    unnamed_pooling,
    usual_pooling,
)
from refembed.testing import PoolingContract
from refembed.testing.strategies import PackedBatch, batches, hidden_states


class TestPooling(PoolingContract):
    """float32: rounded once, at the end."""

    rounding = 2.0**-24

    def pool(self, hidden: Any, offsets: Any, how: str) -> Any:
        return pool(hidden, offsets, how)


class TestPoolingInDouble(PoolingContract):
    """float64: a rounding a token."""

    dtype = np.float64
    rounding = 60 * 2.0**-53  # the longest text drawn is four times twelve tokens

    def pool(self, hidden: Any, offsets: Any, how: str) -> Any:
        return pool(hidden, offsets, how)


# --- examples worked by hand: a text of three tokens, then one of a single token; two channels ---

HIDDEN = np.array([[1, 10], [2, -20], [6, 40], [5, 7]], np.float32)
OFFSETS = [0, 3, 4]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [[3, 10], [5, 7]]),
        ("cls", [[1, 10], [5, 7]]),
        ("last", [[6, 40], [5, 7]]),
        ("max", [[6, 40], [5, 7]]),
        ("mean_sqrt_len", [[9 / 3**0.5, 30 / 3**0.5], [5, 7]]),
        ("weightedmean", [[(1 + 4 + 18) / 6, (10 - 40 + 120) / 6], [5, 7]]),
    ],
)
def test_a_worked_example(how: str, expected: list[list[float]]) -> None:
    pooled = pool(HIDDEN, OFFSETS, how)
    assert isinstance(pooled, np.ndarray)
    assert pooled.dtype == np.float32
    assert pooled.tolist() == np.array(expected, np.float32).tolist()


def test_none_gives_the_rows_of_each_text() -> None:
    texts = pool(HIDDEN, OFFSETS, "none")
    assert isinstance(texts, list)
    assert [t.tolist() for t in texts] == [HIDDEN[:3].tolist(), HIDDEN[3:].tolist()]


@pytest.mark.parametrize("how", POOLERS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_dtype_of_the_states_is_kept(how: str, dtype: type[np.floating[Any]]) -> None:
    assert all(v.dtype == dtype for v in pool(HIDDEN.astype(dtype), OFFSETS, how))


@pytest.mark.parametrize("how", POOLERS)
def test_how_the_states_lie_in_memory_changes_no_bits(how: str) -> None:
    hidden = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32)
    wide = np.zeros((80, 14), np.float32)
    wide[::2, ::2] = hidden
    offsets = np.array([0, 13, 40], np.uint32)
    expected = [v.tolist() for v in pool(hidden, offsets, how)]
    assert [v.tolist() for v in pool(np.asfortranarray(hidden), offsets, how)] == expected
    assert [v.tolist() for v in pool(wide[::2, ::2], offsets, how)] == expected


@pytest.mark.parametrize("how", sorted(set(POOLERS) - {"none"}))
def test_no_texts_give_no_vectors(how: str) -> None:
    pooled = pool(np.empty((0, 5), np.float32), [0], how)
    assert isinstance(pooled, np.ndarray)
    assert pooled.shape == (0, 5)


def test_the_states_are_left_as_they_were() -> None:
    hidden = HIDDEN.copy()
    hidden.flags.writeable = False
    for how in POOLERS:
        pool(hidden, OFFSETS, how)
    assert hidden.tolist() == HIDDEN.tolist()


@pytest.mark.parametrize("how", sorted(set(POOLERS) - {"none", "cls"}))
def test_what_is_not_finite_passes_through_without_a_warning(how: str) -> None:
    pooled = pool(np.array([[1, 1], [np.nan, np.inf]], np.float32), [0, 2], how)
    assert isinstance(pooled, np.ndarray)
    assert np.isnan(pooled[0, 0])
    assert pooled[0, 1] == np.inf


# --- a second implementation ---


@given(text=hidden_states())
def test_the_mean_is_the_float_nearest_to_the_exact_mean(text: Any) -> None:
    """Fractions do not round; nothing may be off by more than half the gap between neighboring floats."""
    pooled = pool(text, [0, len(text)], "mean")
    for y, channel in zip(pooled[0], text.T, strict=True):
        exact = sum(map(Fraction, channel.tolist())) / len(channel)
        gap = Fraction(float(np.spacing(np.abs(y))))
        assert abs(Fraction(float(y)) - exact) <= gap / 2 * Fraction(1 + 2.0**-20)


@given(text=hidden_states())
def test_a_float32_mean_never_leaves_the_range_of_its_tokens(text: Any) -> None:
    """Not even by a rounding, which a sum in float32 does not keep."""
    pooled = pool(text, [0, len(text)], "mean")[0]
    assert (text.min(axis=0) <= pooled).all()
    assert (pooled <= text.max(axis=0)).all()


def padded_pooling(batch: PackedBatch, how: str) -> np.ndarray:
    """The same modes the other way about: padded to (S, n, C) with a mask, as sentence-transformers lays texts out."""
    n = max(map(len, batch.texts))
    x = np.zeros((len(batch.texts), n, batch.hidden.shape[1]))
    mask = np.zeros((len(batch.texts), n, 1))
    for s, text in enumerate(batch.texts):
        x[s, : len(text)], mask[s, : len(text)] = text, 1
    if how == "max":
        return np.where(mask == 1, x, -np.inf).max(axis=1)
    if how == "cls":
        return x[:, 0]
    if how == "last":
        return x[np.arange(len(x)), mask.sum(axis=1).astype(int)[:, 0] - 1]
    weights = mask * np.arange(1, n + 1)[None, :, None] if how == "weightedmean" else mask
    divisor = weights.sum(axis=1)
    return (x * weights).sum(axis=1) / (np.sqrt(divisor) if how == "mean_sqrt_len" else divisor)


@given(batch=batches())
def test_packed_and_padded_pooling_agree(batch: PackedBatch) -> None:
    for how in set(POOLERS) - {"none"}:
        scale = padded_pooling(PackedBatch(np.abs(batch.hidden), batch.offsets), how)
        actual = np.asarray(pool(batch.hidden, batch.offsets, how), np.float64)
        assert (np.abs(actual - padded_pooling(batch, how)) <= 2.0**-23 * scale).all(), how


@pytest.mark.oracle
@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_llama_cpp_pools_its_own_states_alike(how: str, tiny: Path) -> None:
    """cls and last to the last bit; mean within a float32 rounding a token, as llama.cpp sums in float32."""
    from refembed.verify.engines.llamacpp import LlamaCpp

    texts = ["hello world", "a", "the quick brown fox jumps over the lazy dog", ""]
    with LlamaCpp(tiny, pooling="none") as engine:
        states = engine.embed(texts)
    with LlamaCpp(tiny, pooling=how) as engine:
        expected = engine.embed(texts)
    for x, y in zip(states, expected, strict=True):
        pooled = np.asarray(pool(x, [0, len(x)], how))[0]
        bound = (len(x) + 2) * 2.0**-24 * np.abs(x).mean(axis=0) if how == "mean" else np.zeros(x.shape[1])
        assert (np.abs(pooled.astype(np.float64) - y) <= bound).all()


# --- names ---


def test_the_numbers_in_a_file_are_gguf_py_s() -> None:
    known = {int(t): t.name.lower() for t in gguf.PoolingType}
    assert {n: name for n, name in POOLING_TYPES.items() if n >= 0} == known
    assert POOLING_TYPES[-1] == "unspecified"  # LLAMA_POOLING_TYPE_UNSPECIFIED of llama.h; not written to files


@pytest.mark.parametrize("name", POOLERS)
def test_a_name_that_was_asked_for_wins_over_the_file_s(name: str) -> None:
    assert resolve_pooling(name, "cls") == name
    assert resolve_pooling(name, "rank") == name
    assert resolve_pooling(name, None) == name


@pytest.mark.parametrize(
    ("alias", "name"), [("first", "cls"), ("lasttoken", "last"), ("mean_sqrt_len_tokens", "mean_sqrt_len")]
)
def test_an_alias_is_its_mode(alias: str, name: str) -> None:
    assert resolve_pooling(alias, None) == name
    assert np.array_equal(pool(HIDDEN, OFFSETS, alias), pool(HIDDEN, OFFSETS, name))


@pytest.mark.parametrize("asked", ["native", "auto"])
def test_native_is_what_the_file_says_and_none_where_it_says_nothing(asked: str) -> None:
    assert resolve_pooling(asked, "mean") == "mean"
    assert resolve_pooling(asked, "last") == "last"
    assert resolve_pooling(asked, None) == "none"
    assert resolve_pooling(asked, "unspecified") == "none"


def test_every_alias_leads_somewhere() -> None:
    assert all(name in POOLERS or name == "native" for name in ALIASES.values())
    assert not set(ALIASES) & set(POOLERS)


@pytest.mark.parametrize(
    ("name", "near"), [("maen", "mean"), ("Mean", "mean"), ("CLS", "cls"), ("mean_sqrt", "mean_sqrt_len")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(
        RequestError, match=f"pooling '{name}': there is no such pooling\n  hint: did you mean '{near}'"
    ):
        resolve_pooling(name, "mean")


@pytest.mark.parametrize(("name", "meant"), [(1, "mean"), ("2", "cls"), ("3", "last"), ("MEAN", "mean")])
def test_numbers_of_gguf_and_capitals_are_answered_with_the_name(name: Any, meant: str) -> None:
    with pytest.raises(RequestError, match=rf"there is no such pooling\n  hint: did you mean '{meant}'\?"):
        resolve_pooling(name, "mean")


@pytest.mark.parametrize("name", ["xyzzy", "", 17])
def test_what_is_like_no_name_is_answered_with_all(name: Any) -> None:
    with pytest.raises(RequestError, match=r"there is no such pooling\n  hint: one of none, mean, cls, last"):
        resolve_pooling(name, "mean")


@pytest.mark.parametrize("name", ["xyzzy", 1, None, ["mean"], {}])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(RequestError, match="there is no such pooling"):
        resolve_pooling(name, "mean")
    with pytest.raises(RequestError, match="there is no such pooling"):
        pool(HIDDEN, OFFSETS, name)


def test_rank_is_a_heads_business() -> None:
    """tests/pooling/test_heads.py has what the head makes of it."""
    assert resolve_pooling("rank", "mean") == resolve_pooling("native", "rank") == "rank"
    with pytest.raises(RequestError, match=r"'rank' needs a classifier head, not states alone"):
        pool(HIDDEN, OFFSETS, "rank")


def test_native_must_be_resolved_before_pooling() -> None:
    with pytest.raises(RequestError, match="there is no such pooling"):
        pool(HIDDEN, OFFSETS, "native")


# --- bad input ---


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 0, 4], "text 0 has no tokens"),
        ([0, 2, 2, 4], "text 1 has no tokens"),
        ([0, 4, 4], "text 1 has no tokens"),
        ([0, 3, 2, 4], "offsets must rise: text 1 would be rows 3 to 2"),
        ([1, 4], "offsets must go from 0 to 4, not from 1 to 4"),
        ([0, 3], "offsets must go from 0 to 4, not from 0 to 3"),
        ([0, 5], "offsets must go from 0 to 4, not from 0 to 5"),
        ([0, -1, 4], "offsets must rise"),
        ([], "offsets must be a list of whole numbers"),
        ([0.0, 4.0], "offsets must be a list of whole numbers, not float64"),
        ([[0, 4]], r"offsets must be a list of whole numbers, not int64 of shape \(1, 2\)"),
        (4, "offsets must be a list of whole numbers"),
    ],
)
@pytest.mark.parametrize("how", ["none", "mean", "cls"])
def test_offsets_that_do_not_fit_are_refused(how: str, offsets: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        pool(HIDDEN, offsets, how)


@pytest.mark.parametrize(
    "hidden", [[[1, 2]], np.zeros(4), np.zeros((1, 2, 3)), [["a"]], [[1j]], np.zeros((2, 2), np.int8)]
)
def test_states_that_are_no_rows_of_floats_are_refused(hidden: Any) -> None:
    with pytest.raises(RefembedError, match=r"hidden states must be floats of shape \(T, C\), not"):
        pool(hidden, [0, len(hidden)], "mean")


def test_unnamed_pooling_is_one_advice() -> None:
    """A decoder's last token is the one that has seen the whole text; where all is seen the mean is usual."""
    assert (usual_pooling(True), usual_pooling(False)) == ("last", "mean")
    assert unnamed_pooling(True).startswith("--pooling last gives each text one vector")
    assert unnamed_pooling(False).startswith("--pooling mean gives each text one vector")
