"""Numbers that are solved for: limits of cuts, factors and bases; prompts, and batches of one length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conformance.drawn_engine import NumpyModel, Settings
from conformance.drawn_faults import SINGLE
from conformance.verify_drawn import DrawnEngine, Outcome, draw, target_of
from refembed import Embedder
from refembed.errors import RequestError
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.floor import SCREEN
from refembed.verify.hypotheses import part_hypotheses
from refembed.verify.hypotheses.changes import replaced
from refembed.verify.hypotheses.cuts import Search, cuts_of
from refembed.verify.hypotheses.families import Family, solve
from refembed.verify.hypotheses.numbers import rope_families
from refembed.verify.reference import reference_of
from refembed.verify.run import verify
from refembed.verify.texts import default_texts
from tests.tiny import tiny_bert
from tests.verify.engine import Stub

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def e(tmp_path_factory):
    return Embedder.load(tiny_bert(tmp_path_factory.mktemp("solved") / "tiny.gguf", P=256), numerics="fast")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    path = synthetic(tmp_path_factory.mktemp("solved") / "q.gguf", "qwen3", K=2, P=160, V=300, pooling=1)
    return Embedder.load(path, numerics="fast")


@pytest.fixture(scope="module")
def texts(e):
    return default_texts(lambda t: len(e.tokenize(t)), 256, 150)


def named(e, answer, texts):
    """Ids of the causes."""
    return [c.id for c in verify(e, Stub(answer), texts).causes]


@pytest.mark.parametrize("n", [7, 33, 62, 97, 124])
def test_a_cut_that_keeps_the_closing_token_is_named_alone_at_any_length(e, texts, n):
    def answer(given):
        ids = [e.tokenize(t) for t in given]
        return e.embed([i if len(i) <= n else [*i[: n - 1], i[-1]] for i in ids])

    assert named(e, answer, texts) == [f"cut-{n}-closed"]


@pytest.mark.parametrize("n", [11, 62, 124])
def test_a_cut_without_a_closing_token_is_named_alone_at_any_length(e, texts, n):
    assert named(e, lambda given: e.embed([e.tokenize(t)[:n] for t in given]), texts) == [f"cut-{n}"]


@pytest.mark.parametrize("n", [20, 35, 50, 113])
def test_a_cut_at_any_number_of_characters_is_named(e, texts, n):
    found = named(e, lambda given: e.embed([t[:n] for t in given], truncate=True), texts)
    assert f"cut-{n}-characters" in found[:3]
    assert n > 100 or all(id.endswith("-characters") for id in found)  # a limit that one text alone shows is a tie


@pytest.mark.parametrize(
    ("part", "cause"),
    [
        (slice(1, -1), "pooling-mean-without-ends"),
        (slice(1, None), "pooling-mean-without-first"),
        (slice(0, -1), "pooling-mean-without-last"),
    ],
)
def test_a_mean_without_the_ends_is_named(e, texts, part, cause):
    def answer(given):
        return [r[part].mean(axis=0) for r in e.embed(given, pooling="none", normalize=-1)]

    assert cause in named(e, answer, texts)[:3]


def test_a_prompt_that_is_read_and_not_pooled_is_named(e, texts):
    prompt = "search_document: "
    n = len(e.tokenize(prompt)) - 1

    def answer(given):
        rows = e.embed([prompt + t for t in given], pooling="none", normalize=-1, truncate=True)
        return [r[n:].mean(axis=0) for r in rows]

    assert named(e, answer, texts) == [f"prefix {prompt!r} not pooled"]


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"rope_base": 37000.0}, "rope-base-37000"),
        ({"rope_scale": 0.3}, "rope-scale-0.3"),
        ({"score_factor": 1.7}, "scale-1.7"),
        ({"cap": 1.3}, "soft-cap-1.3"),
        ({"eps": 0.013}, "eps-0.013"),
        ({"window": 6}, "window-6"),
        ({"token_scale": 3.5}, "token_embd-scale-3.5"),
        ({"layers": (0, 2, 1)}, "layers-1-2-swapped"),
    ],
)
def test_a_number_in_the_model_is_solved_for(decoder, settings, cause):
    model = NumpyModel(decoder.info.path)

    def answer(given):
        ids = [decoder.tokenize(t) for t in given]
        return [h.mean(axis=0) for h in model.hidden(ids, Settings(**settings))]

    texts = default_texts(lambda t: len(decoder.tokenize(t)), 160, 60)
    found = named(decoder, answer, texts)
    assert found[0] == cause
    assert len(found) <= 3


def test_two_faults_of_which_one_has_a_number_are_named(decoder):
    model = NumpyModel(decoder.info.path)

    def answer(given):
        ids = [decoder.tokenize(t) for t in given]
        return [h[:-1].mean(axis=0) for h in model.hidden(ids, Settings(score_factor=0.6))]

    texts = default_texts(lambda t: len(decoder.tokenize(t)), 160, 40)
    found = named(decoder, answer, texts)  # under a causal mask a token less at the end is the same
    assert set(found) == {"scale-0.6 + pooling-mean-without-last", "no-eos + scale-0.6"}


@pytest.mark.parametrize(
    ("tokens", "settings", "cause"),
    [  # padding leaves long texts alone, a cut short ones; tokens that are doubled leave none
        (lambda i: i + [0] * (16 - len(i)), {"rope_neighbors": True}, "padding-16-pooled + rope-pairs"),
        (lambda i: i[:10], {"score_factor": 1.59}, "cut-10 + scale-1.59"),
        (lambda i: [*i, *i], {"eps": 0.05}, "doubled-text + eps-0.05"),
    ],
)
def test_a_fault_of_tokens_with_one_of_the_model_is_named(decoder, tokens, settings, cause):
    model = NumpyModel(decoder.info.path)

    def answer(given):
        ids = [tokens(decoder.tokenize(t)) for t in given]
        return [h.mean(axis=0) for h in model.hidden(ids, Settings(**settings))]

    texts = default_texts(lambda t: len(decoder.tokenize(t)), 160, 60)
    assert cause in named(decoder, answer, texts)[:3]


def test_a_mask_that_is_lost_in_batches_of_one_length_is_named(decoder):
    """Built-in texts alone would not show it: no two of a batch need have one length."""
    model = NumpyModel(decoder.info.path)

    def answer(given):
        ids = [decoder.tokenize(t) for t in given]
        lost = len(ids) > 1 and len({len(i) for i in ids}) == 1
        return [h.mean(axis=0) for h in model.hidden(ids, Settings(causal=not lost))]

    texts = default_texts(lambda t: len(decoder.tokenize(t)), 160, 40)
    verdict = verify(decoder, Stub(answer), texts)
    assert verdict.kind == "differs"
    assert [c.id for c in verdict.causes] == ["equal-lengths + bidirectional"]
    assert "equal length" in verdict.cause


def test_a_cache_that_forgets_case_is_named(e):
    seen: dict[str, object] = {}
    texts = ["hello world", "the cat sat", "Hello b", "cat b c", "cat b C", "a mat"]
    apart = replace(e.tokenizer.vocab, lowercase=False)
    cased = Embedder(e.info, type(e.tokenizer)(apart, e.tokenizer.where), e.model, e.ops)

    def answer(given):
        return [seen.setdefault(t.lower(), cased.embed([t])[0]) for t in given]

    assert named(cased, answer, texts) == ["cache-key-lower-case"]


def test_a_number_is_solved_to_its_digits(e):
    """By Newton's steps on the vectors, and then as few digits as explain them."""
    r = reference_of(e)
    half = Family("half", "vector", "{}", lambda v: lambda r: r.add(vector=lambda x: x + v * x[::-1]), (0.1, 1.0, 10.0))
    items = ["hello world", "the cat sat"]
    wanted = [x + 0.375 * x[::-1] for x in r.vectors(items, "fast")]
    ((found, left),) = list(solve(r, items, wanted, [half]))
    assert found.id == "half-0.375"
    assert left < 1e-12


def test_every_single_part_runs(e):
    """No change of one layer or matrix fails on a model that has it, and each moves something."""
    r = reference_of(e)
    before = r.vectors(["hello world"], "fast")[0]
    for h in part_hypotheses(r):
        try:
            after = h.change(r).vectors(["hello world"], "fast")[0]
        except RequestError as error:  # rows that are no whole blocks
            assert "whole" in str(error), h.id  # noqa: PT017
            continue
        assert np.isfinite(after).all() or "zero" in h.id, h.id
    assert (r.vectors(["hello world"], "fast")[0] == before).all()


def test_drawn_faults_are_the_same_for_the_same_seed(e):
    _, target = target_of("bert", e, "mean")
    draws = [[[p.about for p in draw(np.random.default_rng([3, n]), target)] for n in range(40)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len({about for pieces in draws[0] for about in pieces}) > 25
    assert len(SINGLE) > 25


def test_a_drawn_engine_without_faults_is_within_rounding(e, texts):
    """The second engine is right where nothing is broken; so what differs is the fault."""
    _, target = target_of("bert", e, "mean")
    verdict = verify(e, DrawnEngine(e, target, (), 0), texts)
    assert Outcome(0, "bert", (), (), verdict, 0.0).grade == "healthy"


def test_no_head_is_turned_beyond_its_end(tmp_path: Path) -> None:
    """Heads of 10 channels, and of 6 where the window is: the kernels would write outside."""
    narrow = ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa")
    path = synthetic(tmp_path / "m.gguf", "gemma-embedding2", keys=dict.fromkeys(narrow, (6, "UINT32")))
    reference = reference_of(Embedder.load(path, numerics="exact"))
    (dims,) = (f for f in rope_families(reference, frozenset({"rope"})) if f.id == "rope-dims")
    assert max(dims.values) == 6


def test_attention_without_self_gives_a_lone_token_what_attention_gives(e):
    """There is nothing else to look at, so its one weight is 1 all the same."""
    reference = reference_of(e)
    (without_self,) = (h for h in part_hypotheses(reference) if h.id == "attention-to-self-missing")
    alone = [e.tokenize("a")[:1]]
    assert np.array_equal(without_self.change(reference).vectors(alone, SCREEN), reference.vectors(alone, SCREEN))


def test_a_cut_text_that_cannot_be_run_keeps_all_of_its_difference(e, texts):
    def no_meaning(true, *arguments, **more):
        raise ValueError("no meaning for this text")

    reference = reference_of(e)
    vectors = reference.vectors(texts[:1], SCREEN)
    cut = next(cut for cut in cuts_of(reference) if cut.stage == "tokens")
    for changed, left in ((reference, 0.0), (replaced(attention=no_meaning)(reference), 1.0)):
        search = Search(changed, texts[:1], vectors, [True], np.ones(1))
        assert search.share(cut, 256, 0) == pytest.approx(left, abs=1e-6)
