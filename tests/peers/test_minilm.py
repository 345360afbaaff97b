"""all-MiniLM-L6-v2 as published, by sentence-transformers: the second oracle, which knows nothing of llama.cpp.

Measured on an AMD EPYC, PyTorch 2.13.0 (CPU), sentence-transformers 6.2.0, the texts below, vectors of length 1:

    original, exact    PyTorch in float64    8.3e-9    half an ulp of the float32 that vectors end in
    original, exact    PyTorch in float32    1.3e-7
    original, fast     PyTorch in float64    1.5e-7
    llama.cpp, exact   PyTorch in float64    1.6e-4 to 2.6e-4; 1 - cos 5.0e-7 to 1.3e-6: GELU in its tanh form
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXTS = [
    "Hello, world!",
    "a",
    "",
    "The quick brown fox jumps over the lazy dog. " * 5,
    "Ein Satz über Käse; naïve café, 漢字 and émigrés.",
    "unaffable antidisestablishmentarianism 3.14159 @#$%",
    "How do I cook pasta?",
]


@pytest.fixture(scope="module")
def published(minilm_folder: Path) -> Any:
    """PyTorch in float64, and in the float32 of the checkpoint."""
    from sentence_transformers import SentenceTransformer

    double, single = (SentenceTransformer(str(minilm_folder), device="cpu") for _ in range(2))
    return {"float64": double.double(), "float32": single.float()}


def by_torch(model: Any) -> Any:
    return np.array([model.encode([text], convert_to_numpy=True)[0] for text in TEXTS], np.float64)


def vectors(numerics: str, semantics: str) -> Any:
    return Embedder.load("minilm", numerics=numerics, semantics=semantics).embed(TEXTS).astype(np.float64)


@pytest.mark.parametrize(
    ("numerics", "dtype", "bound"), [("exact", "float64", 3e-8), ("exact", "float32", 5e-7), ("fast", "float64", 5e-7)]
)
def test_the_published_model_is_sentence_transformers(published: Any, numerics: str, dtype: str, bound: float) -> None:
    assert np.abs(vectors(numerics, "original") - by_torch(published[dtype])).max() < bound


def test_llama_cpp_is_as_far_off_as_the_documentation_says(published: Any) -> None:
    """docs/differences.md: BERT's GELU. Both ends are held, so that the page stays true."""
    here, there = vectors("exact", "llama.cpp"), by_torch(published["float64"])
    largest, angle = np.abs(here - there).max(axis=1), 1 - (here * there).sum(axis=1)
    assert 1e-5 < largest.min() < largest.max() < 4e-4
    assert 1e-9 < angle.min() < angle.max() < 1.5e-6


def test_hidden_states_differ_by_rounding_of_float64(published: Any) -> None:
    """Token by token and not normalized, PyTorch's float64 and refembed's are equal to 12 digits."""
    import torch

    e = Embedder.load("minilm", numerics="exact", semantics="original")
    bert = published["float64"][0].auto_model
    for text in TEXTS:
        ids = e.tokenize(text)
        with torch.no_grad():
            wanted = bert(torch.tensor([ids])).last_hidden_state[0].numpy()
        assert np.abs(e.forward([ids]) - wanted).max() < 1e-11


def test_token_ids_are_those_of_the_published_tokenizer(published: Any) -> None:
    tokenizer = published["float32"].tokenizer
    e = Embedder.load("minilm")
    assert [e.tokenize(text) for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_segments_of_a_pair_are_those_of_the_published_tokenizer(published: Any) -> None:
    from refembed.model.batch import pack
    from refembed.model.published import segments

    tokenizer = published["float32"].tokenizer
    for pair in (("a query", "a document"), ("", "x"), ("x", "")):
        wanted = tokenizer(*pair)
        assert segments(pack([wanted["input_ids"]]), tokenizer.sep_token_id).tolist() == wanted["token_type_ids"]
