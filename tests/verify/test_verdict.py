"""Verdicts on engines whose fault is known: the right word, the right cause, and the first wrong tensor."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from refembed import Embedder
from refembed.verify.run import verify
from refembed.verify.verdict import EXIT, plain
from tests.verify.engine import Shown, Stub

pytestmark = pytest.mark.system

TEXTS = ["hello world", "Hello, world!", "the cat sat on the mat", "a [SEP] b", "world hello hello", "mat"]


@pytest.fixture(scope="module")
def e(tiny):
    return Embedder.load(tiny, numerics="fast")


def ask(e, answer, texts=None, **options):
    """The verdict on a function of texts."""
    return verify(e, Stub(answer), texts or TEXTS, **options)


def ids(v):
    """Names of its causes."""
    return [c.id for c in v.causes]


def test_the_same_vectors_are_identical(e):
    v = ask(e, lambda t: e.embed(t))
    assert (v.kind, v.cause, v.causes, v.exit_code) == ("identical", "", (), 0)


def test_float64_vectors_are_within_rounding(e, tiny):
    exact = Embedder.load(tiny, numerics="exact")
    v = ask(e, lambda t: exact.embed(t))
    assert v.kind in ("identical", "within rounding")
    assert v.exit_code == 0


def test_raw_vectors_are_no_fault_unless_the_engine_is_to_normalize(e):
    raw = lambda t: e.embed(t, normalize=-1)  # noqa: E731
    assert ask(e, raw).exit_code == 0
    v = ask(e, raw, normalize=2)
    assert (v.kind, ids(v)) == ("differs", ["raw"])
    assert "directions agree" in v.cause


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (lambda e, t: e.embed(t) * 3, "scaled-unit"),
        (lambda e, t: e.embed(t, normalize=-1) * 3, "scaled"),
        (lambda e, t: e.embed(t, normalize=1), "scaled-taxicab"),
        (lambda e, t: e.embed(t, normalize=0), "scaled-max"),
        (lambda e, t: [r.sum(axis=0) for r in e.embed(t, pooling="none", normalize=-1)], "scaled-sum"),
    ],
)
def test_a_length_has_a_name(e, answer, cause):
    """Directions agree; what is done to lengths is the cause."""
    v = ask(e, lambda t: answer(e, t))
    assert "directions agree" in v.cause
    assert (v.kind, ids(v)) == ("differs", [cause])


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (lambda e, t: e.embed(t)[::-1], "order-reversed"),
        (lambda e, t: np.roll(e.embed(t), 1, axis=0), "stale"),
        (lambda e, t: np.repeat(e.embed(t)[:1], len(t), axis=0), "order-same"),
    ],
)
def test_vectors_of_other_texts_are_named(e, answer, cause):
    v = ask(e, lambda t: answer(e, t))
    assert (v.kind, ids(v)) == ("differs", [cause])


def test_a_cut_says_whether_it_came_before_the_norm_or_after(e):
    after, before = ask(e, lambda t: e.embed(t)[:, :16]), ask(e, lambda t: e.embed(t, dimensions=16))
    assert ids(after) == ids(before) == ["dimension-cut"]
    assert "after normalizing" in after.cause
    assert "and then normalizes" in before.cause


def test_a_vector_of_another_width_is_another_model(e):
    draw = np.random.default_rng(0)
    v = ask(e, lambda t: draw.normal(size=(len(t), 7 * 32 + 1)))
    assert (v.kind, ids(v)) == ("differs", ["other-model"])
    assert "vectors of 225 numbers" in v.cause


def test_random_vectors_are_unexplained(e):
    """Random numbers: no hypothesis is named."""
    seen = {}
    draw = np.random.default_rng(0)
    v = ask(e, lambda t: [seen.setdefault(x, draw.normal(size=32)) for x in t])
    assert (v.kind, ids(v), v.exit_code) == ("unexplained", ["unexplained"], 3)
    assert "another model" in v.cause


def test_state_between_requests_is_named(e):
    """The same text gives another vector the second time."""
    before = []

    def answer(texts):
        found = []
        for v in e.embed(texts):
            before.append(v + (0.3 * before[-1] if before else 0))
            found.append(before[-1])
        return found

    assert ids(ask(e, answer)) == ["state"]


def test_a_batch_whose_texts_mix_is_named(e):
    def answer(texts):
        own = [e.tokenize(t) for t in texts]
        longest = max(map(len, own))
        rows = e.embed([i + [0] * (longest - len(i)) for i in own], pooling="none", normalize=-1)
        return [r[: len(i)].mean(axis=0) for r, i in zip(rows, own, strict=True)]

    v = ask(e, answer)
    assert ids(v) == ["padding-attended"]
    assert "alone every text is right" in v.cause


def test_the_first_wrong_tensor_is_named(e):
    """No bias of K: softmax hides it from every vector."""
    blk = tuple(replace(b, attn_k=b.attn_k._replace(bias=None)) for b in e.model.weights.blk)
    broken = Embedder(e.info, e.tokenizer, replace(e.model, weights=replace(e.model.weights, blk=blk)), e.ops)
    v = verify(e, Shown(broken), TEXTS)
    assert v.first_wrong_tensor == "Kcur-0[1]"
    assert (v.kind, ids(v)) == ("differs", ["attn_k-bias-missing"])


def test_a_verdict_is_json(e):
    v = ask(e, lambda t: e.embed(t, pooling="cls"))
    data = json.loads(json.dumps(v.as_dict(), allow_nan=False))
    assert data["format"] == "refembed-verdict-1"
    assert data["causes"][0]["id"] == "pooling-cls"
    assert data["exit_code"] == 3


def test_numbers_that_are_not_finite_are_text_in_json():
    assert plain({"a": (float("nan"), 1, np.float32(2))}) == {"a": ["nan", 1, 2.0]}


def test_every_word_has_its_exit_code():
    assert EXIT == {"identical": 0, "within rounding": 0, "differs": 3, "unexplained": 3}
