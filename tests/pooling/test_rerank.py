"""`Embedder.rerank` against the wheel's own llama-server, which makes the pairs and scores them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import ModelError, RequestError
from refembed.testing.synthetic import synthetic
from refembed.tokenizer.pairs import encode_pair
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied
from tests.llama_server import server_scores

HEAD = {"cls.weight", "cls.bias", "cls.norm.weight", "cls.output.weight", "cls.output.bias"}
FLAGS = {
    f"tokenizer.ggml.add_{role}_token": (on, "BOOL") for role, on in (("bos", True), ("eos", True), ("sep", False))
}
YES_NO = {"classifier.output_labels": (["yes", "no"], "ARRAY[STRING]")}
TEMPLATE = {"tokenizer.chat_template.rerank": ("[CLS] the {query} [SEP] is {document} it [MASK]", "STRING")}

# fmt: off
RERANKERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "bert":                 ("bert", {}, FLAGS),
    "bert of before":       ("bert", {}, {}),
    "bert, two labels":     ("bert", {"keys": YES_NO}, FLAGS),
    "jina-bert-v2":         ("jina-bert-v2", {}, FLAGS),
    "modern-bert":          ("modern-bert", {}, FLAGS),
    "qwen3, template":      ("qwen3", {"K": 2, "keys": YES_NO}, TEMPLATE),
}
# fmt: on

QUERY = "the cat sat on the mat"
DOCUMENTS = ["a dog was in it", "the cat is", "", "of and to", "the cat sat on the mat and was [SEP] it"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a reranker, written when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("rerankers"), {}

    def path(name: str) -> Path:
        if name not in made:
            arch, sizes, full = RERANKERS[name]
            made[name] = synthetic(folder / f"{len(made)}.gguf", arch, pooling=4, optional=HEAD, **sizes)
            if full:
                made[name] = copied(made[name], folder / f"{len(made)}-keys.gguf", full)
        return made[name]

    return path


@pytest.mark.oracle
@pytest.mark.parametrize("name", RERANKERS)
def test_scores_are_llama_servers_to_the_last_bit(name: str, paths: Callable[[str], Path]) -> None:
    """In the order of the documents; of several outputs the first, as there."""
    theirs = server_scores(paths(name), [(QUERY, d) for d in DOCUMENTS])
    e = Embedder.load(paths(name), numerics="ggml", flash_attn=False, repack=False)
    ours = e.rerank(QUERY, DOCUMENTS)
    assert ours.dtype == np.float32
    assert ours.tolist() == [np.float32(score) for score in theirs]
    assert len(set(ours.tolist())) == len(DOCUMENTS)  # the scores do differ
    for numerics in ("exact", "fast"):
        near = Embedder.load(paths(name), numerics=numerics).rerank(QUERY, DOCUMENTS)
        assert np.abs(near - ours).max() < 3e-3  # GELU's table; the cache of 16-bit floats


@pytest.mark.oracle
def test_all_labels_are_all_that_llama_cpp_gives(paths: Callable[[str], Path]) -> None:
    for name in ("bert, two labels", "qwen3, template"):
        e = Embedder.load(paths(name), numerics="ggml", flash_attn=False, repack=False)
        both = e.rerank(QUERY, DOCUMENTS, all_labels=True)
        assert both.shape == (len(DOCUMENTS), 2)
        assert np.array_equal(both[:, 0], e.rerank(QUERY, DOCUMENTS))
        with LlamaCpp(paths(name), pooling="rank") as engine:
            theirs = engine.embed([encode_pair(e.tokenizer, QUERY, d) for d in DOCUMENTS])
        assert np.stack(theirs).tobytes() == both.tobytes()
    assert np.allclose(both.sum(axis=1), 1)  # qwen3 ends in softmax


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_a_score_does_not_depend_on_the_other_documents(numerics: str, paths: Callable[[str], Path]) -> None:
    e = Embedder.load(paths("bert, two labels"), numerics=numerics)
    scores = e.rerank(QUERY, DOCUMENTS)
    assert [e.rerank(QUERY, [d])[0] for d in DOCUMENTS] == scores.tolist()
    assert np.array_equal(e.rerank(QUERY, DOCUMENTS[::-1]), scores[::-1])
    assert np.array_equal(e.rerank(QUERY.encode(), [d.encode() for d in DOCUMENTS]), scores)
    pairs = [encode_pair(e.tokenizer, QUERY, d) for d in DOCUMENTS]
    assert np.array_equal(e.embed(pairs, pooling="rank")[:, 0], scores)
    assert e.rerank(QUERY, []).shape == (0,)
    assert e.rerank(QUERY, [], all_labels=True).shape == (0, 2)


def test_the_other_callers_pairs_can_be_had(paths: Callable[[str], Path]) -> None:
    e = Embedder.load(paths("bert of before"))
    server, cli = (e.rerank(QUERY, DOCUMENTS, caller=caller) for caller in ("server", "cli"))
    assert not np.array_equal(server, cli)  # a file without add_eos_token: the server sets no last [SEP]
    pairs = [encode_pair(e.tokenizer, QUERY, d, "cli") for d in DOCUMENTS]
    assert np.array_equal(e.embed(pairs)[:, 0], cli)
    with pytest.raises(RequestError, match="caller='other'"):
        e.rerank(QUERY, DOCUMENTS, caller="other")


def test_a_pair_that_is_too_long_is_refused_or_cut(paths: Callable[[str], Path]) -> None:
    e = Embedder.load(paths("bert"))
    long = "the cat sat " * 50
    with pytest.raises(RequestError, match="document 1 and the query: 159 tokens, but the model reads at most 128"):
        e.rerank(QUERY, ["dog", long])
    ids = encode_pair(e.tokenizer, QUERY, long)
    assert np.array_equal(e.rerank(QUERY, [long], truncate=True), e.embed([[*ids[:127], ids[-1]]])[:, 0])


def test_what_cannot_be_ranked_is_said_so(paths: Callable[[str], Path], tmp_path: Path) -> None:
    e = Embedder.load(paths("bert"))
    with pytest.raises(RequestError, match=r"takes a list of documents.*\n  hint: rerank\(query, \[document\]\)"):
        e.rerank(QUERY, "a document")
    with pytest.raises(RequestError, match="str or bytes, not int"):
        e.rerank(QUERY, [1])  # type: ignore[list-item]
    with pytest.raises(RequestError, match="this is no reranker"):
        Embedder.load(synthetic(tmp_path / "m.gguf", "bert", pooling=1)).rerank(QUERY, DOCUMENTS)
    with pytest.raises(ModelError, match="its head is lost"):
        Embedder.load(synthetic(tmp_path / "n.gguf", "qwen3", pooling=4)).rerank(QUERY, DOCUMENTS)


def test_a_head_scores_under_every_pooling_type_of_the_file(tmp_path: Path) -> None:
    """bge-reranker-v2-m3 is published without a pooling_type; llama-server is then given --rerank."""
    scores = [
        Embedder.load(synthetic(tmp_path / f"{p}.gguf", "bert", pooling=p, optional=HEAD)).rerank(QUERY, DOCUMENTS)
        for p in (None, 2, 4)
    ]
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])
