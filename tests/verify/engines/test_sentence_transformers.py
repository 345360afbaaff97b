"""sentence-transformers and transformers on the published MiniLM: their own numbers, and their tensors by our names.

Expected values come from the libraries called directly, from mathematics, and from live llama.cpp.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from refembed.errors import EngineError, RequestError
from refembed.verify.compare.align import align
from refembed.verify.compare.arrays import compare
from refembed.verify.engines.base import Engine, open_engine
from refembed.verify.engines.sentence_transformers import open_folder

libraries = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs are not ours to mend
TEXTS = ["Hello, llama!", "café", "The quick brown fox jumps over the lazy dog."]
IDS = [101, 7592, 1010, 2222, 8067, 999, 102]  # [CLS] hello , ll ##ama ! [SEP], by the published vocab.txt


def peers(test):
    for mark in libraries:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def engine(minilm_folder):
    return open_engine(str(minilm_folder), Path("model.gguf"), threads=1)


@pytest.fixture(scope="module")
def direct(minilm_folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_folder), device="cpu", local_files_only=True)


# -- without the packages --


@pytest.mark.parametrize(
    ("module", "package"), [("torch", "torch"), ("sentence_transformers", "sentence-transformers")]
)
def test_a_package_that_is_absent_is_one_sentence(tmp_path, monkeypatch, module, package):
    (tmp_path / "modules.json").write_text("[]")
    if module != "torch":
        monkeypatch.setitem(sys.modules, "torch", sys)  # any module will do so far
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"needs the package {package}: .*\n  hint: pip install {package}, into refembed's environment"
    with pytest.raises(EngineError, match=message):
        open_folder(tmp_path)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(RequestError, match=r"neither config\.json nor modules\.json in it"):
        open_folder(tmp_path)


@pytest.mark.parametrize("options", [{"library": "x"}, {"pooling": "max"}, {"batch": 0}])
def test_options_that_mean_nothing(tmp_path, options):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match="must be"):
        open_folder(tmp_path, **options)


# -- sentence-transformers --


@peers
def test_it_says_what_it_is(engine):
    assert isinstance(engine, Engine)
    assert engine.name == "sentence-transformers"
    assert engine.info["architecture"] == "BertModel"
    assert engine.info["activation"] == "gelu"  # erf, where llama.cpp has tanh
    assert engine.info["max_seq_length"] == 256
    assert engine.info["modules"] == ["Transformer", "Pooling", "Normalize"]
    assert set(engine.info["versions"]) == {"torch", "transformers", "sentence-transformers"}


@peers
def test_vectors_are_those_of_encode(engine, direct):
    expected = direct.encode(TEXTS, batch_size=1)
    found = engine.embed(TEXTS)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [np.linalg.norm(v) for v in found] == pytest.approx([1, 1, 1], abs=1e-6)


@peers
def test_ids_give_the_vector_of_their_text(engine):
    assert engine.tokenize(TEXTS[0]) == IDS
    mixed = engine.embed([TEXTS[1], IDS, TEXTS[2]])
    expected = engine.embed([TEXTS[1], TEXTS[0], TEXTS[2]])
    assert all(np.array_equal(a, b) for a, b in zip(mixed, expected, strict=True))


@peers
def test_a_text_is_cut_where_the_library_cuts_it(engine):
    assert len(engine.tokenize("word " * 400)) == 256


@peers
def test_a_prompt_goes_in_front(minilm_folder, direct):
    engine = open_folder(minilm_folder, prompt="query: ")
    assert np.array_equal(engine.embed(["hello"])[0], direct.encode(["query: hello"])[0])
    assert len(engine.tokenize("hello")) == 5  # [CLS] query : hello [SEP]


@peers
def test_what_the_hooks_see(engine, minilm_folder, minilm, direct):
    """Bias, norm, activation and pooling follow from the tensors of the trace by mathematics."""
    from refembed.gguf import open_gguf

    trace = engine.trace(TEXTS[0])
    weights = open_gguf(minilm).tensors
    bias = weights["blk.3.attn_q.bias"].dequantize()
    np.testing.assert_allclose(trace["Qcur-3", 1] - trace["Qcur-3", 0], np.broadcast_to(bias, (7, 384)), atol=2e-6)
    x = trace["inp_embd"].astype(np.float64)
    y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
    y = y * weights["token_embd_norm.weight"].dequantize() + weights["token_embd_norm.bias"].dequantize()
    np.testing.assert_allclose(trace["inp_norm-0"], y, atol=1e-5)
    np.testing.assert_array_equal(trace["embd"], weights["token_embd.weight"].dequantize()[IDS])
    from math import erf

    up = trace["ffn_up_b-5"].astype(np.float64)
    gelu = up * 0.5 * (1 + np.vectorize(erf)(up / np.sqrt(2)))
    np.testing.assert_allclose(trace["ffn_gelu-5"], gelu, atol=1e-5)
    pooled = trace["result_embd"].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(trace["result_embd_pooled"][0], pooled, atol=1e-6)
    unit = pooled / np.linalg.norm(pooled)
    np.testing.assert_allclose(unit, direct.encode([TEXTS[0]])[0], atol=1e-6)


@peers
@pytest.mark.oracle
@pytest.mark.parametrize("library", ["sentence-transformers", "transformers"])
def test_every_tensor_is_llama_cpps_of_that_name(minilm_folder, oracle, library):
    """All but what GELU's other formula explains: 1e-6 of its power, where a wrong tensor would be near 1."""
    engine = open_folder(minilm_folder, library=library, attention="eager")
    ours, theirs = oracle.trace(TEXTS[0]), engine.trace(TEXTS[0])
    found = align(ours, theirs)
    # 3 before the layers, 16 in each, and the pooled vector where the library pools
    assert len(theirs) == 3 + 6 * 16 + (library == "sentence-transformers")
    named = [pair for pair in found.pairs if pair.by == "name"]
    assert len(named) == len(theirs) - 5  # the outputs of layers 0 to 4 have no name in llama.cpp's graph
    for pair in named:
        a, b = ours.tensors[pair.ours].array, theirs.tensors[pair.theirs].array
        assert compare(a.reshape(b.shape), b).nmse < 2e-5, pair.name


# -- transformers alone --


@peers
def test_rows_of_tokens_and_what_to_make_of_them(minilm_folder):
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(minilm_folder), local_files_only=True).eval()
    with torch.inference_mode():
        ids = torch.tensor([IDS])
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
    rows = open_folder(minilm_folder, library="transformers")
    assert rows.name == "transformers"
    np.testing.assert_array_equal(rows.embed([TEXTS[0]])[0], expected)
    for pooling, vector in {"cls": expected[0], "last": expected[-1], "mean": expected.mean(axis=0)}.items():
        engine = open_folder(minilm_folder, library="transformers", pooling=pooling, batch=3)
        found = engine.embed([*TEXTS[1:], IDS])
        np.testing.assert_allclose(found[2], vector, atol=2e-6)  # padded, in a batch


@peers
def test_a_model_of_the_library_that_is_unknown_here(minilm_folder):
    engine = open_folder(minilm_folder, library="transformers")
    engine.model.named_modules = lambda: iter(())  # none of its modules has a known name
    with pytest.raises(EngineError, match="no module of BertModel has a counterpart in llama"):
        engine.trace(IDS)


@peers
@pytest.mark.parametrize("library", ["sentence-transformers", "transformers"])
def test_what_the_library_refuses_is_one_sentence(minilm_folder, library, tmp_path):
    with pytest.raises(EngineError, match="cannot load it: "):
        open_folder(minilm_folder, library=library, dtype="float33")
    with pytest.raises(EngineError, match=r"failed to embed: |a text without tokens"):
        open_folder(minilm_folder, library=library).embed([[999999]])
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "nonsense.Nothing"}]')
    with pytest.raises(EngineError, match="cannot load it: "):
        open_folder(tmp_path, library=library)
