"""LlamaCpp on the default model: what it hands out is what llama.cpp computed.

Expected values come from the published vocabulary, the weights as gguf-py reads them, and from tensors of one run
checked against others of the same run by mathematics.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
from pathlib import Path

import numpy as np
import pytest

from refembed.errors import EngineError, RequestError
from refembed.model.trace import Trace
from refembed.verify.engines.llamacpp import LlamaCpp
from refembed.verify.engines.llamacpp_lib import PINNED, wheel_file

pytestmark = pytest.mark.oracle

TEXT = "Hello, llama!"
IDS = [101, 7592, 1010, 2222, 8067, 999, 102]  # [CLS] hello , ll ##ama ! [SEP], by the published vocab.txt
LONG = [101, *(2000 + 37 * i for i in range(98)), 102]  # 100 tokens


@pytest.fixture(scope="module")
def engine(minilm):
    with LlamaCpp(minilm) as e:
        yield e


@pytest.fixture(scope="module")
def trace(engine):
    return engine.trace(TEXT)


# -- text --


def test_tokenize(engine):
    assert engine.tokenize(TEXT) == IDS
    assert engine.tokenize(TEXT.encode()) == IDS
    assert engine.tokenize(TEXT, add_special=False) == IDS[1:-1]
    assert engine.tokenize("") == [101, 102]
    assert engine.tokenize("", add_special=False) == []


def test_special_tokens_in_the_text_are_tokens_only_when_asked_for(engine):
    assert engine.tokenize("a [SEP] b", add_special=False, parse_special=True) == [1037, 102, 1038]
    assert 102 not in engine.tokenize("a [SEP] b", add_special=False)


def test_many_texts_are_tokenized_in_one_go(engine):
    """Empty ones, with NUL inside, without a space."""
    texts = [TEXT, "", "a\0b", "\U0001f600" * 50, "x" * 5000]
    assert engine.tokenize_many(texts) == [engine.tokenize(t) for t in texts]
    assert engine.tokenize_many([]) == []


def test_pieces_and_text_of_ids(engine):
    assert [engine.piece(i) for i in IDS] == [b"[CLS]", b" hello", b" ,", b" ll", b"ama", b" !", b"[SEP]"]
    assert engine.piece(101, special=False) == b""
    assert engine.detokenize(IDS) == "[CLS] hello, llama![SEP]"
    assert engine.detokenize(IDS[1:-1]) == " hello, llama!"
    assert engine.detokenize(IDS, remove_special=True).startswith(" hello, llama!")
    assert engine.detokenize(IDS, unparse_special=False).strip() == "hello, llama!"
    assert engine.detokenize_bytes([]) == b""


def test_long_texts_come_back_whole(engine):
    """Longer than the room that is offered first."""
    ids = [7592] * 500
    assert engine.detokenize(ids).split() == ["hello"] * 500


def test_a_lone_surrogate_is_refused(engine):
    with pytest.raises(RequestError, match="lone surrogate at character 1"):
        engine.tokenize("a\ud800")


def test_an_id_outside_the_vocabulary_is_refused(engine):
    for ask in (lambda: engine.piece(30522), lambda: engine.detokenize([5, -1]), lambda: engine.embed([[101, 30522]])):
        with pytest.raises(EngineError, match=r"token id (30522|-1) is not in the vocabulary of 30522"):
            ask()


# -- vectors --


def test_facts_of_the_model(engine):
    assert (engine.n_embd, engine.n_embd_out, engine.n_vocab, engine.n_ctx_train) == (384, 384, 30522, 512)
    assert engine.pooling == "mean"


def test_a_text_and_its_ids_and_its_bytes_have_one_vector(engine):
    a, b, c = engine.embed([TEXT, IDS, TEXT.encode()])
    assert a.dtype == np.float32
    assert a.shape == (384,)
    assert a.tobytes() == b.tobytes() == c.tobytes()
    assert np.linalg.norm(a) > 2  # not normalized


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("text", [IDS, LONG], ids=["short", "long"])
def test_watching_changes_nothing(minilm, flash_attn, text):
    """The traced run ends in the very bits of the plain one; flash attention has one kernel to 63 rows, one from 64."""
    with LlamaCpp(minilm, flash_attn=flash_attn) as e:
        assert e.trace(text)["result_embd_pooled"].tobytes() == e.embed([text])[0].tobytes()


def test_what_must_not_change_a_vector_does_not(minilm, engine):
    """Threads, room for more texts, a longer context; asking twice."""
    want = engine.embed([IDS, LONG])
    for options in ({"threads": 2}, {"n_seq_max": 1}, {"n_ctx": 256, "n_batch": 256}, {}):
        with LlamaCpp(minilm, **options) as e:
            assert [v.tobytes() for v in e.embed([IDS, LONG])] == [v.tobytes() for v in want]


def test_flash_attention_is_off_unless_asked_for(minilm, engine):
    plain = engine.embed([TEXT])[0]
    with LlamaCpp(minilm, flash_attn=True) as on, LlamaCpp(minilm, flash_attn="auto") as auto:
        v = on.embed([TEXT])[0]
        assert v.tobytes() == auto.embed([TEXT])[0].tobytes()
        assert v.tobytes() != plain.tobytes()
        assert np.abs(v - plain).max() < 1e-2
        assert "FLASH_ATTN_EXT" in {t.op for t in on.trace(TEXT).tensors}


def test_texts_of_one_batch_keep_their_order(engine):
    """They influence each other's rounding, no more."""
    texts = [TEXT, "A much longer text than the others are, with many words in it.", "cat"]
    alone, together = engine.embed(texts), engine.embed(texts, batched=True)
    assert len(together) == 3
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert engine.embed([], batched=True) == engine.embed([]) == []


def test_poolings_are_made_of_the_token_rows(minilm, engine):
    with LlamaCpp(minilm, pooling="none") as e:
        rows = e.embed([IDS])[0]
        both = e.embed([IDS, IDS[:3]], batched=True)
    assert rows.shape == (7, 384)
    assert [r.shape for r in both] == [(7, 384), (3, 384)]
    np.testing.assert_allclose(rows.astype(np.float64).mean(axis=0), engine.embed([IDS])[0], atol=1e-6)
    for pooling, i in (("cls", 0), ("last", -1)):
        with LlamaCpp(minilm, pooling=pooling) as e:
            assert e.pooling == pooling
            assert e.embed([IDS])[0].tobytes() == rows[i].tobytes()


def test_another_kind_of_kv_cache_or_mask_is_nothing_to_an_encoder(minilm, engine):
    with LlamaCpp(minilm, type_kv="f32", causal=True) as e:
        assert e.embed([IDS])[0].tobytes() == engine.embed([IDS])[0].tobytes()


@pytest.mark.parametrize(
    ("texts", "batched", "message"),
    [
        (
            [[101] * 513],
            False,
            r"1 text\(s\) of 513 tokens, 513 in all; this context takes 512\n  hint: open .* n_batch",
        ),
        ([[101] * 300, [101] * 300], True, r"2 text\(s\) of 300, 300 tokens, 600 in all"),
        ([[101]] * 33, True, r"33 texts in one batch; this context takes 32\n  hint: open .* n_seq_max"),
        ([[101], []], False, "text 0 has no tokens"),
    ],
)
def test_what_would_abort_is_refused(engine, texts, batched, message):
    """And the engine goes on."""
    with pytest.raises(EngineError, match=message):
        engine.embed(texts, batched=batched)
    assert engine.tokenize(TEXT) == IDS


def test_a_text_in_place_of_a_list_is_refused(engine):
    with pytest.raises(RequestError, match=r"a list of texts, not one text\n  hint: embed\(\[text\]\)"):
        engine.embed(TEXT)


# -- traces --


def test_a_trace_has_every_node_in_order(trace):
    names = [t.name for t in trace.tensors]
    assert names[0] == "embd"
    assert names[-1] == "result_embd_pooled"
    assert {f"kq_soft_max-{i}" for i in range(6)} <= set(names)
    ops = [t.op for t in trace.tensors if t.name == "Qcur-0"]
    assert ops == ["MUL_MAT", "ADD", "RESHAPE"]
    assert trace.meta["tokens"] == IDS
    assert trace.meta["text"] == TEXT


def test_traced_rows_are_the_rows_of_the_file(minilm, trace):
    """Token embeddings as gguf-py reads them."""
    gguf = pytest.importorskip("gguf")
    (table,) = (t for t in gguf.GGUFReader(minilm).tensors if t.name == "token_embd.weight")
    np.testing.assert_array_equal(trace["embd"], table.data[IDS])


def test_traced_attention_is_attention(trace):
    """Scores, softmax and the weighted sum, from the tensors of the same run (Vaswani et al. 2017)."""
    q, k, v = (trace[f"{x}cur-2"].astype(np.float64).transpose(1, 0, 2) for x in "QKV")  # (H, T, D)
    np.testing.assert_allclose(trace["kq-2"], q @ k.transpose(0, 2, 1), atol=1e-4)
    e = np.exp(trace["kq-2"].astype(np.float64) / np.sqrt(32))
    p = e / e.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(trace["kq_soft_max-2"], p, atol=1e-6)
    np.testing.assert_allclose(trace["kqv-2"], p @ v, atol=1e-5)
    np.testing.assert_array_equal(trace["kqv_out-2", 0], trace["kqv-2"].transpose(1, 0, 2).reshape(7, 384))


def test_views_are_read_through_their_strides(trace):
    np.testing.assert_array_equal(trace["Qcur-0", 2], trace["Qcur-0", 1].reshape(7, 12, 32))
    np.testing.assert_array_equal(trace["Kcur-0 (permuted)"], trace["Kcur-0"].transpose(1, 0, 2))
    np.testing.assert_array_equal(trace["Vcur-0 (permuted) (transposed)"], trace["Vcur-0"].transpose(1, 2, 0))
    np.testing.assert_array_equal(trace["v_cont-0"], trace["Vcur-0"].transpose(1, 2, 0))
    np.testing.assert_array_equal(trace["result_embd (transposed)"], trace["result_embd"].T)


def test_half_precision_tensors_are_read(minilm):
    """Flash attention's copies of K."""
    with LlamaCpp(minilm, flash_attn=True) as e:
        t = e.trace(IDS)
    k = t["Kcur-0 (permuted) (copy)"]
    assert k.dtype == np.float16
    np.testing.assert_array_equal(k, t["Kcur-0 (permuted)"].astype(np.float16))


def test_a_trace_tells_where_values_come_from(trace):
    """Sources and views are places in the trace, or names of weights."""
    place = {(t.name, t.op): i for i, t in enumerate(trace.tensors)}
    nodes = trace.meta["nodes"]
    product, total = place["Qcur-0", "MUL_MAT"], place["Qcur-0", "ADD"]
    assert nodes[product]["sources"] == ["blk.0.attn_q.weight", place["inp_norm-0", "ADD"]]
    assert nodes[total]["sources"] == [product, "blk.0.attn_q.bias"]
    assert nodes[place["Qcur-0", "RESHAPE"]]["view_of"] == total
    assert nodes[product]["view_of"] is None
    assert {n["type"] for n in nodes} == {"f32"}


def test_one_token_is_still_a_matrix(engine):
    t = engine.trace([101])
    assert t["embd"].shape == (1, 384)
    assert t["kq-0"].shape == (12, 1, 1)


def test_a_trace_survives_its_file(trace, tmp_path):
    again = Trace.load(trace.save(tmp_path / "run.npz"))
    assert again.meta == trace.meta
    assert [(t.name, t.op, t.array.tobytes()) for t in again.tensors] == [
        (t.name, t.op, t.array.tobytes()) for t in trace.tensors
    ]


def test_two_traces_are_apart(engine):
    """Nothing of the first run is left in the second."""
    a, b = engine.trace([101, 102]), engine.trace(IDS)
    assert len(a) == len(b)
    assert a["embd"].shape == (2, 384)


# -- what it is --


def test_the_build_is_named(engine):
    """The hash is the one that the wheel's own RECORD lists (PEP 376)."""
    build = engine.build
    assert build["wheel"] == importlib.metadata.version("xllamacpp")
    (file,) = build["files"]
    (record,) = (f for f in importlib.metadata.files("xllamacpp") if f.name == wheel_file().name)
    assert record.hash.mode == "sha256"
    assert base64.urlsafe_b64decode(record.hash.value + "=").hex() == file["sha256"]
    assert hashlib.sha256(Path(file["path"]).read_bytes()).hexdigest() == file["sha256"]
    assert build["system_info"].startswith("CPU : ")
    assert set(build["layouts"]) == {"model", "context"}


def test_the_installed_wheel_is_the_pinned_one():
    assert importlib.metadata.version("xllamacpp") == PINNED


def test_the_pinned_wheel_is_the_one_in_pyproject():
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    assert re.findall(r'"xllamacpp==([\d.]+)"', pyproject.read_text()) == [PINNED]


def test_a_vocabulary_alone_tokenizes_and_nothing_else(minilm, tmp_path):
    """From a file without tensors too, as llama.cpp's own ggml-vocab-*.gguf are."""
    gguf = pytest.importorskip("gguf")
    w = gguf.GGUFWriter(tmp_path / "vocab.gguf", "bert")
    w.add_tokenizer_model("bert")
    w.add_token_list(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581cat", "s"])
    w.add_token_types([3, 3, 3, 3, 1, 1])
    w.add_token_type_count(2)
    for add, i in ((w.add_bos_token_id, 2), (w.add_sep_token_id, 3), (w.add_unk_token_id, 1)):
        add(i)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()
    with LlamaCpp(tmp_path / "vocab.gguf", vocab_only=True) as e:
        assert e.tokenize("Cats") == [2, 4, 5, 3]
    with LlamaCpp(minilm, vocab_only=True) as e:
        assert e.tokenize(TEXT) == IDS
        assert e.pooling == "native"
        with pytest.raises(EngineError, match="opened with vocab_only"):
            e.embed([TEXT])


def test_the_library_alone_has_no_vocabulary():
    with LlamaCpp(None) as e:
        assert e.build["wheel"] == importlib.metadata.version("xllamacpp")
        for ask in (lambda: e.tokenize(TEXT), lambda: e.embed([[1]]), lambda: e.trace([1])):
            with pytest.raises(EngineError, match="opened without a model"):
                ask()
