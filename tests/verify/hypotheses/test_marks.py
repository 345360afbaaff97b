"""What vectors show by themselves: steps, signs, zeros; and the faults before them, which are named with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.drawn_engine import NumpyModel, Settings
from refembed import Embedder
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.floor import floor_of
from refembed.verify.diagnose import has_by_itself
from refembed.verify.hypotheses import marks, number_families
from refembed.verify.hypotheses.families import Family
from refembed.verify.hypothesis import Hypothesis
from refembed.verify.reference import reference_of
from refembed.verify.run import verify
from refembed.verify.texts import default_texts
from refembed.verify.trials import Case
from tests.verify.engine import Stub

pytestmark = pytest.mark.system

LISTED = [
    Hypothesis(id, "vector", id, lambda r: r)
    for id in ("vector-binary", "vector-bits", "vector-int8", "vector-int8-unit", "vector-3-decimals")
]
FAMILIES = [
    Family(id, "vector", "{}", lambda v: lambda r: r, ())
    for id in ("vector-steps", "vector-levels", "vector-zeroed-from", "vector-zeroed-until", "vector-number-lost")
]


def unit(x):
    """x over its length."""
    return x / np.linalg.norm(x)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda x: np.where(x > 0, 1.0, -1.0), ["vector-binary"]),
        (lambda x: (x > 0) * 1.0, ["vector-bits"]),
        (lambda x: np.rint(x * 79), ["vector-steps-79"]),
        (lambda x: np.rint(x * 193), ["vector-steps-193"]),
        (lambda x: np.rint(x * 127), ["vector-int8-unit"]),
        (lambda x: np.round(x, 3), ["vector-3-decimals"]),
        (lambda x: np.rint(x / np.abs(x).max() * 127), ["vector-int8"]),
        (lambda x: np.rint(x / np.abs(x).max() * 40), ["vector-levels-40"]),
        (lambda x: np.where(np.arange(36) < 20, x, 0), ["vector-zeroed-from-20"]),
        (lambda x: np.where(np.arange(36) >= 5, x, 0), ["vector-zeroed-until-5"]),
        (lambda x: np.where(np.arange(36) != 7, x, 0), ["vector-number-lost-7"]),
        (
            lambda x: np.rint(unit(np.where(np.arange(36) < 20, x, 0)) * 79),
            ["vector-steps-79", "vector-zeroed-from-20"],
        ),
        (lambda x: x, []),
        (lambda x: x**3, []),
        (lambda x: np.clip(x, -0.2, 0.2), []),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_mark_is_read_from_normalized_float32_vectors(change, names, seed):
    rng = np.random.default_rng(seed)
    vectors = [unit(change(unit(rng.normal(size=36)))).astype(np.float32).astype(np.float64) for _ in range(12)]
    assert [h.id for h in marks(vectors, LISTED, FAMILIES)] == names


def test_arbitrary_vectors_bear_no_mark():
    rng = np.random.default_rng(4)
    for _ in range(200):
        vectors = [unit(rng.normal(size=16)) for _ in range(3)]
        assert marks(vectors, LISTED, FAMILIES) == []


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    path = synthetic(tmp_path_factory.mktemp("marks") / "q.gguf", "qwen3", K=2, P=160, V=300, pooling=1)
    return Embedder.load(path, numerics="fast")


def named(decoder, answer):
    """Ids of the causes for built-in texts."""
    texts = default_texts(lambda t: len(decoder.tokenize(t)), 160, 60)
    return [c.id for c in verify(decoder, Stub(answer), texts).causes]


def test_a_number_is_solved_for_before_steps(decoder):
    """Under steps there is no slope, so Newton works without them, and numbers nearby are tried with them."""
    model = NumpyModel(decoder.info.path)

    def answer(given):
        hidden = model.hidden([decoder.tokenize(t) for t in given], Settings(eps=0.031))
        return [np.rint(unit(h.mean(axis=0)) * 79) for h in hidden]

    (id,) = named(decoder, answer)
    number, mark = id.split(" + ")
    assert mark == "vector-steps-79"
    assert number.startswith("eps-")
    assert float(number.removeprefix("eps-")) == pytest.approx(0.031, rel=0.03)


def test_steps_alone_are_named_without_a_search(decoder):
    def answer(given):
        return [np.rint(unit(v) * 246) for v in decoder.embed(given, truncate=True)]

    texts = default_texts(lambda t: len(decoder.tokenize(t)), 160, 60)
    verdict = verify(decoder, Stub(answer), texts)
    assert [c.id for c in verdict.causes] == ["vector-steps-246"]
    assert verdict.evidence.tried == 1


def test_zeros_that_the_model_has_itself_are_no_mark(decoder):
    r = reference_of(decoder)
    case = Case(r, ["hello"], [], floor_of(r, ["hello"]), np.zeros(1))
    zeros = next(f for f in number_families(r, 8) if f.id == "vector-zeroed-from").at(20.0)
    assert not has_by_itself(case, zeros)
    assert has_by_itself(replace(case, reference=zeros.change(r)), zeros)


def test_a_pooling_is_named_before_signs(decoder):
    model = NumpyModel(decoder.info.path)

    def answer(given):
        hidden = model.hidden([decoder.tokenize(t) for t in given], Settings())
        return [np.where(h.max(axis=0) > 0, 1.0, -1.0) for h in hidden]

    assert named(decoder, answer) == ["pooling-max + vector-binary"]
