"""`refembed.compat.mteb` in MTEB's own tasks, made of local data: a retrieval with prompts, and pairs of sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import RequestError
from refembed.evaluate import Collection, Grid, Pair, evaluate_retrieval, evaluate_sts
from refembed.testing.synthetic import synthetic

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

QUERIES = {
    "q1": "How is pasta cooked?", "q2": "Which language is for systems?", "q3": "Is there air on the moon?",
    "q4": "What do cats eat?",
}  # fmt: skip
DOCUMENTS = {
    "d1": "Spaghetti is cooked in salted water.", "d2": "Rust is a language for systems.", "d3": "The moon has no air.",
    "d4": "Cats eat mice.", "d5": "Bread is baked.", "d6": "The moon moves the sea.", "d7": "Dogs eat what they find.",
}  # fmt: skip
QRELS = {"q1": {"d1": 2, "d5": 1}, "q2": {"d2": 1}, "q3": {"d3": 2, "d6": 1}, "q4": {"d4": 2, "d7": 1, "d1": 0}}
OTHERS = list(DOCUMENTS.values())[3:]
PAIRS = [Pair(a, b, float(i)) for i, (a, b) in enumerate(zip(QUERIES.values(), OTHERS, strict=True))]


def metadata(name: str, kind: str, score: str) -> dict[str, Any]:
    """What MTEB wants to know of a task."""
    return {
        "name": name, "type": kind, "main_score": score, "description": "local", "prompt": None,
        "reference": "https://example.org", "dataset": {"path": "local", "revision": "1"}, "category": "t2t",
        "eval_splits": ["test"], "eval_langs": ["eng-Latn"], "date": ("2022-12-22", "2022-12-22"),
        "dialect": [], "domains": [], "task_subtypes": [], "license": "cc-by-4.0",
        "annotations_creators": "derived", "modalities": ["text"], "sample_creation": "created", "bibtex_citation": "",
    }  # fmt: skip


def retrieval_task() -> Any:
    pytest.importorskip("mteb", reason="an optional library: refembed[mteb]")
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(**metadata("LocalRetrieval", "Retrieval", "ndcg_at_10"))

        def load_data(self, **kwargs: Any) -> None:
            split = RetrievalSplitData(
                queries=Dataset.from_list([{"id": i, "text": t} for i, t in QUERIES.items()]),
                corpus=Dataset.from_list([{"id": i, "text": t, "title": ""} for i, t in DOCUMENTS.items()]),
                relevant_docs=QRELS, top_ranked=None,
            )  # fmt: skip
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Local()


def sts_task() -> Any:
    pytest.importorskip("mteb", reason="an optional library: refembed[mteb]")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    class Local(AbsTaskSTS):
        metadata = TaskMetadata(**metadata("LocalSTS", "STS", "cosine_spearman"))
        min_score, max_score = 0, len(PAIRS)

        def load_data(self, **kwargs: Any) -> None:
            rows = {"sentence1": [p.first for p in PAIRS], "sentence2": [p.second for p in PAIRS]}
            self.dataset = DatasetDict({"test": Dataset.from_dict(rows | {"score": [p.score for p in PAIRS]})})
            self.data_loaded = True

    return Local()


def scores(encoder: Any, task: Any) -> dict[str, Any]:
    """What MTEB makes of a task."""
    import mteb

    results = mteb.evaluate(encoder, task, cache=None, overwrite_strategy="always")
    found: dict[str, Any] = results.task_results[0].scores["test"][0]
    return found


def test_mteb_scores_a_retrieval_as_refembed_evaluate_does(minilm: Path) -> None:
    """nDCG, MAP, recall and MRR of MTEB (pytrec_eval, rounded to 5 digits) are those of `evaluate_retrieval`."""
    from refembed.compat.mteb import Encoder

    theirs = scores(Encoder(minilm), retrieval_task())
    c = Collection.of(QUERIES, DOCUMENTS, QRELS)
    names = {"ndcg@3": "ndcg_at_3", "ndcg@10": "ndcg_at_10", "map@10": "map_at_10", "recall@3": "recall_at_3",
             "p@1": "precision_at_1", "mrr@10": "mrr_at_10"}  # fmt: skip
    ours = evaluate_retrieval(c, Grid((str(minilm),)), list(names)).lines[0].values
    for value, name in zip(ours.values(), names.values(), strict=True):
        assert theirs[name] == pytest.approx(value, abs=1e-5), name
    assert 0.5 < theirs["ndcg_at_3"] <= 1


def test_mteb_scores_pairs_as_refembed_evaluate_does(minilm: Path) -> None:
    from refembed.compat.mteb import Encoder

    theirs = scores(Encoder(minilm), sts_task())
    ours = evaluate_sts(PAIRS, Grid((str(minilm),)), resamples=10).lines[0].values
    assert theirs["cosine_spearman"] == pytest.approx(ours["Spearman"], abs=1e-5)
    assert theirs["cosine_pearson"] == pytest.approx(ours["Pearson"], abs=1e-5)


def test_prompts_are_those_of_queries_and_documents_and_of_nothing_else(tmp_path: Path) -> None:
    from refembed.compat.mteb import Encoder

    path = synthetic(tmp_path / "e5-base-v2.gguf", "bert", pooling=1)
    e, encoder = Embedder.load(path), Encoder(path, prompts="model")
    batches = [{"text": ["a cat"]}, {"text": ["a dog", "rain"]}]
    texts = ["a cat", "a dog", "rain"]
    for kind, prompt in (("query", "query: "), ("document", "passage: "), (None, "")):
        assert np.array_equal(encoder.encode(batches, prompt_type=kind), e.embed([prompt + t for t in texts]))
    with pytest.raises(RequestError, match="a batch of image: this model reads texts only"):
        encoder.encode([{"image": [None]}])


def test_mteb_is_shown_what_the_model_is(minilm: Path) -> None:
    pytest.importorskip("mteb", reason="an optional library: refembed[mteb]")
    from mteb.models.models_protocols import EncoderProtocol

    from refembed.compat.mteb import Encoder

    encoder = Encoder(minilm, dimensions=128)
    meta = encoder.mteb_model_meta
    assert isinstance(encoder, EncoderProtocol)
    assert (meta.embed_dim, meta.max_tokens, meta.revision) == (128, 512, Embedder.load(minilm).info.sha256)
    a = encoder.encode([{"text": ["a cat", "a dog"]}])
    assert a.shape == (2, 128)
    assert encoder.similarity(a, a).shape == (2, 2)
    assert encoder.similarity_pairwise(a, a) == pytest.approx([1, 1])
