"""Measures next to trec_eval's own code (pytrec-eval-terrier) and SciPy's, on random rankings full of ties."""

from __future__ import annotations

import random

import numpy as np
import pytest

from refembed.evaluate import pearson, score_run, spearman

pytestmark = pytest.mark.peers

NAMES = {  # refembed's -> trec_eval's
    **{f"ndcg@{k}": f"ndcg_cut_{k}" for k in (1, 5, 10, 100)},
    **{f"recall@{k}": f"recall_{k}" for k in (1, 5, 10, 100)},
    **{f"map@{k}": f"map_cut_{k}" for k in (1, 5, 10, 100)},
    **{f"p@{k}": f"P_{k}" for k in (1, 5, 10, 100)},
    "ndcg": "ndcg", "map": "map", "mrr": "recip_rank",
}  # fmt: skip
IDS = [*map(str, range(60)), "a", "B", "é", "z", "ÿ", "日", "d-1", "d_1"]


def draw(rng: random.Random, ties: int) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Judgements and rankings; scores are of `ties` values, with differences that float32 does not hold."""
    qrels, run = {}, {}
    for q in range(20):
        qrels[f"q{q}"] = {d: rng.choice((-1, 0, 0, 1, 2, 3)) for d in rng.sample(IDS, rng.randint(1, 40))}
        found = rng.sample(IDS, rng.randint(1, len(IDS)))
        run[f"q{q}"] = {d: rng.randrange(ties) / 7 + rng.random() * 1e-12 for d in found}
    return qrels, run


@pytest.mark.parametrize("ties", [1, 2, 5, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_measures_are_trec_evals(ties: int, seed: int) -> None:
    """Largest difference measured, pytrec-eval-terrier 0.5.11: 2.2e-16."""
    import pytrec_eval

    qrels, run = draw(random.Random(1000 * ties + seed), ties)
    names = {name.rsplit("_", 1)[0] if name[-1].isdigit() else name for name in NAMES.values()}
    wanted = {f"{name}.1,5,10,100" if name in ("ndcg_cut", "recall", "map_cut", "P") else name for name in names}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    ours = score_run(qrels, run, list(NAMES))
    assert ours.keys() == theirs.keys()
    for query, values in ours.items():
        for name, value in values.items():
            assert value == pytest.approx(theirs[query][NAMES[name]], abs=1e-14), (query, name)


@pytest.mark.parametrize("values", [2, 5, 1 << 30])
@pytest.mark.parametrize("n", [2, 3, 10, 500])
def test_correlations_are_scipys(n: int, values: int) -> None:
    """Largest difference measured, SciPy 1.17: 4.4e-16."""
    from scipy.stats import pearsonr, spearmanr

    rng = np.random.default_rng(n * values)
    drawn = [rng.integers(0, values, (2, n)) for _ in range(200)]
    differing = [(x, y) for x, y in drawn if len(set(x)) > 1 and len(set(y)) > 1]
    assert len(differing) > 20
    for x, y in differing[:20]:
        assert pearson(x, y) == pytest.approx(pearsonr(x, y).statistic, abs=1e-13)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-13)
