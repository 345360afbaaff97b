"""ColBERT heads next to sentence-transformers' MultiVectorEncoder: folders of PyLate, of Stanford's, and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert import convert
from refembed.similarity import maxsim
from tests.colbert_folders import DOCUMENTS, QUERIES, bert, build, modern_bert, records

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

RECORDS = records()
# Largest error of numbers up to 1, sentence-transformers 6.2 in float64; three times what was measured
BOUNDS = {"exact": 1e-7, "fast": 1.2e-6}


def check(encoder: Any, e: Embedder) -> None:
    """The same vectors and the same scores. encoder: in float64."""
    found, wanted = [], []
    for texts, is_query in ((QUERIES, True), (DOCUMENTS, False)):
        encode = encoder.encode_query if is_query else encoder.encode_document
        wanted.append([v.double().numpy() for v in encode(texts)])
        found.append(e.embed_multi_vector(texts, is_query=is_query, truncate=True))
        for ours, theirs in zip(found[-1], wanted[-1], strict=True):
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < BOUNDS[e.info.numerics]
    scores = encoder.similarity(encoder.encode_query(QUERIES), encoder.encode_document(DOCUMENTS)).numpy()
    assert np.abs(np.array([maxsim(q, found[1]) for q in found[0]]) - scores).max() < 1e-4


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("name", ["bert", "bert-attended", "modern-bert", "stanford"])
def test_a_folder_of_pylate_is_what_sentence_transformers_makes_of_it(name: str, numerics: str, tmp_path: Path) -> None:
    from sentence_transformers import MultiVectorEncoder

    folder = build(RECORDS[name], tmp_path / "hf")
    encoder = MultiVectorEncoder(str(folder), device="cpu").double()
    file = convert(folder, tmp_path / "m.gguf", heads=True)
    check(encoder, Embedder.load(file, numerics=numerics, semantics="original"))


@pytest.mark.parametrize("expansion", [None, "fixed", "min"])
@pytest.mark.parametrize("kind", ["bert", "modern-bert"])
def test_a_folder_that_sentence_transformers_saved(kind: str, expansion: str | None, tmp_path: Path) -> None:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from torch import nn

    base = (bert if kind == "bert" else modern_bert)(tmp_path / "base")
    how: Any = None if expansion is None else {"strategy": expansion, "length": 12, "attend": expansion == "min"}
    most = None if expansion == "fixed" else 16
    modules = [
        Transformer(str(base), query_expansion=how, query_length=most, document_length=20),
        Dense(32, 12, bias=False, activation_function=nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask(skiplist_words=[".", ","]),
        Normalize(module_input_name="token_embeddings"),
    ]  # fmt: skip
    prompts = {"query": "[CLS]", "document": "[SEP]"} if kind == "bert" else {"query": "", "document": "[MASK]"}
    encoder = MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu")
    encoder.save(str(tmp_path / "saved"))
    encoder = MultiVectorEncoder(str(tmp_path / "saved"), device="cpu").double()
    file = convert(tmp_path / "saved", tmp_path / "m.gguf", heads=True)
    check(encoder, Embedder.load(file, numerics="exact", semantics="original"))
