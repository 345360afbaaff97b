"""Whole comparisons: next to a ranking by plain sorting, what a setting changes, what it costs, what is refused."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.compress import fit
from refembed.convert.quantize import quantize_file
from refembed.errors import EngineError, ModelError, RequestError
from refembed.evaluate import Collection, Grid, Pair, compare, embedding, evaluate_retrieval, evaluate_sts
from refembed.evaluate.embedding import Job, in_own_process
from refembed.evaluate.page import evaluation_page, front
from refembed.kernels import threads
from refembed.pipeline.progress import Bar
from refembed.testing.synthetic import synthetic
from tests.tiny import WORDS

ROOT = Path(__file__).parents[2]
DRAWN = random.Random(5)
NOUNS = [w for w in WORDS if w.isalpha()]


def some_texts(n: int, of: str) -> dict[str, str]:
    return {f"{of}{i}": " ".join(DRAWN.choices(NOUNS, k=DRAWN.randint(2, 9))) for i in range(n)}


QUERIES, DOCUMENTS = some_texts(12, "q"), some_texts(60, "d")
QRELS = {q: {d: DRAWN.randint(0, 3) for d in DRAWN.sample(list(DOCUMENTS), 9)} for q in QUERIES}
COLLECTION = Collection.of(QUERIES, DOCUMENTS, QRELS)


def ndcg_by_hand(scores: dict[str, float], levels: dict[str, int]) -> float:
    """nDCG@10 of a query, in a few lines of Python."""
    order = sorted(sorted(scores, reverse=True), key=lambda d: -scores[d])[:10]
    gain = sum(levels.get(d, 0) / math.log2(i + 2) for i, d in enumerate(order))
    return gain / sum(x / math.log2(i + 2) for i, x in enumerate(sorted(levels.values(), reverse=True)[:10]))


@pytest.mark.parametrize("dimensions", [None, 8])
@pytest.mark.parametrize("scheme", ["float32", "int8-vector", "ubinary"])
def test_a_line_is_what_plain_sorting_gives(tiny: Path, scheme: str, dimensions: int | None) -> None:
    grid = Grid((str(tiny),), numerics=("exact",), dimensions=(dimensions,), vectors=(scheme,))
    line = evaluate_retrieval(COLLECTION, grid, ["ndcg@10"]).lines[0]
    e = Embedder.load(tiny, numerics="exact")
    q, d = (np.asarray(e.embed(list(t.values()), dimensions=dimensions)) for t in (QUERIES, DOCUMENTS))
    if scheme == "ubinary":
        scores = -((q[:, None] > 0) != (d[None] > 0)).sum(axis=2).astype(float)
    elif scheme == "float32":
        scores = (q @ d.T).astype(np.float32)
    else:
        codec = fit(scheme, d)
        scores = (q @ codec.decode(codec.encode(d)).T).astype(np.float32)
    runs = [dict(zip(DOCUMENTS, row.tolist(), strict=True)) for row in scores]
    expected = np.mean([ndcg_by_hand(run, QRELS[query]) for run, query in zip(runs, QUERIES, strict=True)])
    assert line.values["nDCG@10"] == pytest.approx(expected, abs=1e-12)
    assert line.interval.low < expected < line.interval.high
    n = dimensions or 32
    assert (line.dimensions, line.bytes) == (n, {"float32": 4 * n, "int8-vector": n + 4, "ubinary": n // 8}[scheme])


def test_every_combination_is_a_line_and_the_first_is_compared_with(tiny: Path) -> None:
    grid = Grid(
        (str(tiny),), weights=("f32", "Q8_0"), poolings=("mean", "cls"), dimensions=(32, 8),
        vectors=("float32", "ubinary", "ubinary+float32"),
    )  # fmt: skip
    report = evaluate_retrieval(COLLECTION, grid, ["ndcg@10", "map"])
    lines = report.lines
    assert len(lines) == 2 * 2 * 2 * 3
    assert (report.measures, lines[0].difference) == (["nDCG@10", "MAP"], None)
    assert [line.setting.weights for line in lines] == ["F32"] * 12 + ["Q8_0"] * 12
    mean, ubinary, again, other = lines[0], lines[1], lines[2], lines[6]
    assert (again.bytes, again.more_bytes, ubinary.more_bytes) == (4, 128, 0)
    assert again.values == mean.values  # 240 candidates of 60 documents: all are scored again
    assert mean.values != ubinary.values
    assert mean.values != other.values
    difference = other.difference
    assert difference is not None
    assert difference.low < other.values["nDCG@10"] - mean.values["nDCG@10"] < difference.high


def test_a_type_costs_what_quantize_writes(tiny: Path, tmp_path: Path) -> None:
    report = evaluate_retrieval(COLLECTION, Grid((str(tiny),), weights=("", "Q8_0")), ["map"])
    quantize_file(tiny, tmp_path / "q.gguf", "Q8_0")
    assert [line.cost.file_bytes for line in report.lines] == [
        tiny.stat().st_size,
        (tmp_path / "q.gguf").stat().st_size,
    ]
    with pytest.raises(ModelError, match="is Q8_0 already"):  # F32 of it would be no F32
        evaluate_retrieval(COLLECTION, Grid((str(tmp_path / "q.gguf"),), weights=("F32",)), ["map"])
    e = Embedder.load(tiny)
    tokens = sum(len(e.tokenize(text)) for text in (*QUERIES.values(), *DOCUMENTS.values()))
    assert [line.cost.tokens for line in report.lines] == [tokens, tokens]
    assert all(line.cost.tokens_per_second > 0 for line in report.lines)


def test_a_document_with_the_querys_id_is_left_out_where_that_is_asked(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = Collection.of({"x": "the cat"}, {"x": "the cat", "y": "hello world"}, {"x": {"y": 1}})
    found = {skip: evaluate_retrieval(c, Grid((str(tiny),)), ["mrr"], skip_same_id=skip) for skip in (False, True)}
    assert [found[skip].lines[0].values["MRR"] for skip in (False, True)] == [0.5, 1]
    monkeypatch.setattr(compare, "DEPTH", 1)  # one more is looked for, since one may be left out
    assert evaluate_retrieval(c, Grid((str(tiny),)), ["mrr"], skip_same_id=True).lines[0].values["MRR"] == 1


def test_prompts_go_in_front_of_queries_and_of_documents(tmp_path: Path) -> None:
    """A model by the name of e5 has "query: " and "passage: "."""
    model = str(synthetic(tmp_path / "e5-base-v2.gguf", "bert", pooling=1))
    report = evaluate_retrieval(COLLECTION, Grid((model,), prompts=("none", "own")), ["map"])
    e = Embedder.load(model)
    before = {"": QUERIES | DOCUMENTS, "own": {}}
    before["own"] = {i: f"query: {t}" for i, t in QUERIES.items()} | {i: f"passage: {t}" for i, t in DOCUMENTS.items()}
    tokens = [sum(len(e.tokenize(t)) for t in texts.values()) for texts in before.values()]
    assert [line.cost.tokens for line in report.lines] == tokens
    assert tokens[0] < tokens[1]


def test_texts_that_are_too_long_are_cut_and_counted(tiny: Path) -> None:
    c = Collection.of({"q": "the cat"}, {"a": "cat " * 100, "b": "dog"}, {"q": {"a": 1}})
    report = evaluate_retrieval(c, Grid((str(tiny),)), ["map"])
    assert report.notes == (f"{tiny}: 1 texts were too long and lost their end",)
    assert report.lines[0].cost.tokens == 4 + 64 + 3


PAIRS = [Pair(a, b, float(i % 5)) for i, (a, b) in enumerate(zip(QUERIES.values(), DOCUMENTS.values(), strict=False))]


@pytest.mark.parametrize("scheme", ["float32", "int8", "ubinary"])
def test_pairs_are_correlated_by_the_cosines_of_what_codes_decode_to(tiny: Path, scheme: str) -> None:
    grid = Grid((str(tiny),), numerics=("exact",), vectors=(scheme,))
    line = evaluate_sts(PAIRS, grid, resamples=50).lines[0]
    e = Embedder.load(tiny, numerics="exact")
    one, other = (np.asarray(e.embed([getattr(p, name) for p in PAIRS])) for name in ("first", "second"))
    codec = fit(scheme, np.concatenate([one, other]))
    x, y = (codec.decode(codec.encode(v)).astype(float) for v in (one, other))
    cosines = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    expected = np.corrcoef(cosines, [p.score for p in PAIRS])[0, 1]
    assert line.values["Pearson"] == pytest.approx(expected, abs=1e-6)  # cosines of float32: measured 4e-8
    assert line.interval.low <= line.values["Spearman"] <= line.interval.high


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ()}, "no model"),
        ({"vectors": ("int9",)}, "not a scheme"),
        ({"vectors": ("ubinary+nosuch",)}, "not a scheme"),
        ({"prompts": ("some",)}, "prompts 'some'"),
        ({"weights": ("Q9",)}, "is no type"),
        ({"dimensions": (33,)}, "the model's vectors have 32 numbers"),
        ({"poolings": ("none",)}, "gives no vector a text"),
        ({"poolings": ("nosuch",)}, "no such pooling"),
        ({"prompts": ("own",)}, "not known to have prompts"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny: Path, options: dict[str, tuple[object, ...]], said: str) -> None:
    grid = Grid(**{"models": (str(tiny),), **options})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=said):
        evaluate_retrieval(COLLECTION, grid, ["map"])


def test_requests_that_make_no_sense_are_refused(tiny: Path) -> None:
    grid = Grid((str(tiny),))
    with pytest.raises(RequestError, match="no measure"):
        evaluate_retrieval(COLLECTION, grid, [])
    with pytest.raises(ModelError, match="no such file"):
        evaluate_retrieval(COLLECTION, Grid(("nosuch.gguf",)), ["map"])
    with pytest.raises(RequestError, match="all numbers are the same"):
        evaluate_sts([Pair("a", "b", 1), Pair("a", "cat", 1)], grid)
    with pytest.raises(RequestError, match="pairs are not searched"):
        evaluate_sts(PAIRS, Grid((str(tiny),), vectors=("ubinary+int8",)))
    with pytest.raises(RequestError, match="prompts are for queries"):
        evaluate_sts(PAIRS, Grid((str(tiny),), prompts=("own",)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what a process needed")
def test_a_process_of_its_own_gives_the_same_vectors_and_its_memory(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "chosen", [3])  # --threads 3
    grid = Grid((str(tiny),), numerics=("exact",))
    here, there = (evaluate_retrieval(COLLECTION, grid, ["ndcg@10"], memory=m).lines[0] for m in (False, True))
    assert there.values == here.values
    assert there.cost.tokens == here.cost.tokens
    assert here.cost.peak_bytes is None
    assert (here.cost.cores, there.cost.cores) == (3, 3)
    assert 20 << 20 < (there.cost.peak_bytes or 0) < 1 << 30  # Python and NumPy alone: 60 MiB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what a process needed")
def test_the_peak_is_the_most_that_a_process_had() -> None:
    code = """
import numpy as np
from refembed.evaluate.embedding import peak
before = peak()
x = np.ones(32 << 20)
print(before, peak())
del x
print(peak())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    before, most, after = map(int, done.stdout.split())
    assert 250 << 20 < most - before < 280 << 20
    assert abs(after - most) < 1 << 20  # the kernel counts pages by the batch


@pytest.mark.parametrize("memory", [False, True])
def test_the_bar_counts_texts_in_this_process_and_in_another(
    tiny: Path, memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Bar] = []
    done: list[int] = []

    class Counted(Bar):
        def __init__(self, total: int | None, *, wanted: bool) -> None:
            super().__init__(total, wanted=wanted)
            bars.append(self)
            assert (total, wanted) == (72, True)

        def advance(self, done_: int, texts: int = 1) -> None:
            super().advance(done_, texts)
            done.append(done_)

    monkeypatch.setattr(embedding, "Bar", Counted)
    monkeypatch.setattr(embedding, "STEP", 50)
    evaluate_retrieval(COLLECTION, Grid((str(tiny),)), ["map"], memory=memory, progress=True)
    assert done == ([12, 72] if memory else [12, 62, 72])  # the other process has a STEP of its own
    assert [bar.texts for bar in bars] == [72]


def test_a_process_of_its_own_says_what_went_wrong(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="gives no vector a text") as error:
        evaluate_retrieval(COLLECTION, Grid((str(tiny),), poolings=("none",)), ["map"], memory=True)
    assert error.value.hint.startswith("--pooling mean")
    with pytest.raises(ModelError, match=r"nosuch.gguf: no such file"):
        in_own_process(Job("m", "nosuch.gguf", "exact", "mean", {"query": (["a"], "")}, 1), tmp_path)
    with pytest.raises(EngineError, match=r"m: the process that embeds ended with 1: ValueError"):  # a fault of ours
        in_own_process(Job("m", str(tiny), "exact", "mean", {"query": ([], "")}, 1), tmp_path)


def test_a_process_that_prints_something_else_says_what(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a module that Python imports at its start may do."""
    (tmp_path / "sitecustomize.py").write_text("print('welcome to this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"m: .* printed 'welcome to this machine', not a number of texts") as error:
        in_own_process(Job("m", str(tiny), "exact", "mean", {"query": (["a"], "")}, 1), tmp_path)
    assert "stdout" in error.value.hint


def test_the_lines_that_no_other_beats(tiny: Path) -> None:
    report = evaluate_retrieval(COLLECTION, Grid((str(tiny),), vectors=("float32", "float16", "ubinary")), ["ndcg@10"])
    a, b, c = report.lines
    quality = {id(a): 0.5, id(b): 0.5, id(c): 0.3}
    for line in report.lines:
        line.values["nDCG@10"] = quality[id(line)]
    cost = {id(a): 128.0, id(b): 64.0, id(c): 4.0}
    assert front(report.lines, "nDCG@10", lambda line: cost[id(line)], True) == {1, 2}  # as good as line 1 for half
    assert front(report.lines, "nDCG@10", lambda line: cost[id(line)], False) == {0}


def test_of_equal_lines_the_page_calls_that_the_best_which_costs_least(tiny: Path) -> None:
    report = evaluate_retrieval(COLLECTION, Grid((str(tiny),), vectors=("float32", "float16")), ["ndcg@10"])
    for line in report.lines:
        line.values["nDCG@10"] = 0.5
    assert "line 2, the best and smallest, has 0.500 at 64" in evaluation_page(report)
