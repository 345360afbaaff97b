"""Recorded vectors and traces: every format is read, and what cannot be compared is one sentence."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError, RequestError
from refembed.verify.engines.base import Engine, open_engine
from refembed.verify.engines.recorded import open_recording

TEXTS = ["one", "two words", "trois éléments"]
VECTORS = np.float32([[0.5, -1.25, 3.0], [1.0, 2.0, -0.125], [0.0, 0.25, 8.0]])  # exact in few decimals


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def same(found, expected=VECTORS):
    return len(found) == len(expected) and all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


ENTRIES = [{"text": t, "embedding": v.tolist()} for t, v in zip(TEXTS, VECTORS, strict=True)]
RAW = "\n".join(" ".join(f"{x:.7f}" for x in v) for v in VECTORS)
WITH_TEXTS = {  # files that name their texts
    "a.jsonl": "\n".join(json.dumps(e, ensure_ascii=False) for e in ENTRIES) + "\n\n",
    "b.jsonl": "\n".join(json.dumps({"input": e["text"], "vector": e["embedding"]}) for e in ENTRIES),
    "c.json": json.dumps(ENTRIES),
}
UNTOLD = {  # files that do not
    "lists.jsonl": "\n".join(json.dumps(v.tolist()) for v in VECTORS),
    "openai.json": json.dumps(
        {"data": [{"index": i, "embedding": VECTORS[i].tolist()} for i in (2, 0, 1)], "object": "list"}
    ),
    "base64.json": json.dumps(
        {"data": [{"index": i, "embedding": base64.b64encode(v).decode()} for i, v in enumerate(VECTORS)]}
    ),
    "array.json": json.dumps(VECTORS.tolist()),  # llama-embedding --embd-output-format array
    "array.txt": json.dumps(VECTORS.tolist()),
    "raw.txt": RAW + "\n",  # --embd-output-format raw
}


@pytest.mark.parametrize("name", WITH_TEXTS)
def test_files_that_tell_their_texts(tmp_path, name):
    engine = open_recording(written(tmp_path, name, WITH_TEXTS[name]))
    assert isinstance(engine, Engine)
    assert engine.info["texts"] == TEXTS
    assert same(engine.embed(TEXTS))
    assert same(engine.embed([TEXTS[2], TEXTS[0], TEXTS[2]]), VECTORS[[2, 0, 2]])
    with pytest.raises(EngineError, match=r"holds no vector for 'four'\n  hint: compare on the recorded texts"):
        engine.embed([TEXTS[0], "four"])


@pytest.mark.parametrize("name", UNTOLD)
def test_files_that_do_not(tmp_path, name):
    path = written(tmp_path, name, UNTOLD[name])
    assert same(open_recording(path, texts=TEXTS).embed(TEXTS[::-1]), VECTORS[::-1])
    engine = open_recording(path)
    assert "texts" not in engine.info
    with pytest.raises(EngineError, match=r"3 vectors without their texts, asked for 1 texts\n  hint: texts="):
        engine.embed(["one"])
    assert same(engine.embed(TEXTS))  # the first call of three says which they are
    assert same(engine.embed(["two words"]), VECTORS[1:2])


def test_numpys_formats(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS)
    assert same(open_recording(tmp_path / "a.npy", texts=TEXTS).embed(TEXTS))
    np.save(tmp_path / "one.npy", VECTORS[0].astype(np.float64))
    assert same(open_recording(tmp_path / "one.npy").embed(["one"]), VECTORS[:1])
    meta = json.dumps({"model": "m", "library": "fastembed 0.6"})
    np.savez(tmp_path / "a.npz", embeddings=VECTORS.astype(np.float16), texts=TEXTS, meta=meta)
    engine = open_recording(tmp_path / "a.npz")
    assert same(engine.embed(TEXTS))
    assert engine.info["library"] == "fastembed 0.6"
    assert engine.info["dtype"] == "float16"
    np.savez(tmp_path / "other.npz", whatever=VECTORS)
    assert same(open_recording(tmp_path / "other.npz", texts=TEXTS).embed(TEXTS))


def test_ids_instead_of_texts(tmp_path):
    lines = "\n".join(json.dumps({"tokens": [101, i, 102], "embedding": v.tolist()}) for i, v in enumerate(VECTORS))
    engine = open_recording(written(tmp_path, "ids.jsonl", lines))
    assert engine.can_take_ids
    assert same(engine.embed([[101, 1, 102]]), VECTORS[1:2])


def test_llama_embeddings_own_text(tmp_path):
    """One text is printed whole, with six decimals; of several the first 16 numbers only."""
    x = np.random.default_rng(0).standard_normal(40).round(6)
    path = written(tmp_path, "out.txt", "\nembedding 0: " + " ".join(f"{v:9.6f}" for v in x) + " \n\n")
    engine = open_recording(path)
    assert engine.info["resolution"] == 0.5e-6
    assert np.array_equal(engine.embed(["x"])[0], x.astype(np.float32))
    rows = "\n".join(f"embedding {j}: " + " ".join(f"{v:9.6f}" for v in x[:16]) + " " for j in range(2))
    with pytest.raises(EngineError, match=r"prints 16 numbers only\n  hint: llama-embedding --embd-output-format json"):
        open_recording(written(tmp_path, "two.txt", rows))
    with pytest.raises(EngineError, match="rows cut short by"):
        open_recording(written(tmp_path, "none.txt", "embedding 0:  0.1  0.2  0.3  ...  0.4  0.5  0.6 \n"))


def test_a_trace_of_our_own(tmp_path, tiny):
    embedder = Embedder.load(tiny, numerics="exact")
    trace = embedder.trace("hello world")
    trace.meta["text"] = "hello world"
    engine = open_engine(str(trace.save(tmp_path / "run.npz")), tiny)
    assert (engine.name, engine.can_trace, engine.can_tokenize, engine.can_take_ids) == ("recorded", True, True, True)
    ids = embedder.tokenize("hello world")
    assert engine.tokenize("hello world") == ids
    vector = embedder.embed("hello world", normalize=-1)
    assert np.array_equal(engine.embed(["hello world"])[0], vector)
    assert np.array_equal(engine.embed([ids])[0], vector)
    assert list(engine.trace(ids)) == list(trace)
    assert engine.info["texts"] == ["hello world"]
    assert engine.info["numerics"] == "exact"
    with pytest.raises(EngineError, match="is a run of 'hello world', not of 'hello'"):
        engine.embed(["hello"])
    with pytest.raises(EngineError, match="not of 'hello'"):
        engine.trace("hello")


def test_a_trace_without_its_text_goes_by_its_ids(tmp_path, tiny):
    embedder = Embedder.load(tiny, numerics="exact")
    path = embedder.trace("hello world").save(tmp_path / "run.npz")
    engine = open_recording(path)
    assert not engine.can_tokenize
    assert engine.info["texts"] == [embedder.tokenize("hello world")]
    with pytest.raises(EngineError, match="is a run of "):
        engine.embed([[1, 2, 3]])
    assert open_engine(str(path), tiny).trace("hello world")  # its text, by refembed's own tokenizer
    with pytest.raises(EngineError, match=r"is a run of \[.*\], not of 'hello'"):
        open_engine(str(path), tiny).trace("hello")


BAD = {
    "empty.jsonl": ("", "empty: no recorded run"),
    "blank.jsonl": ("\n\n", "no vector in it"),
    "empty.json": ("[]", "an empty list: no vector at all"),
    "broken.json": ('{"data": [', "not JSON"),
    "broken.jsonl": ('{"text": "a", "embedding": [1.0]}\n{"text"\n', "line 2: not JSON"),
    "vectorless.jsonl": ('{"text": "a"}', "entry 0: no embeddings, embedding, vectors in it"),
    "half.jsonl": ('{"text": "a", "embedding": [1.0]}\n[2.0]', "1 of 2 entries name their text; all or none is meant"),
    "ragged.jsonl": ("[1.0, 2.0]\n[1.0]", r"vectors of unequal length: 2 \(text 0\) and 1 \(text 1\)"),
    "nan.jsonl": ("[1.0, NaN]", "1 of 2 numbers are not finite, the first at 1"),
    "null.json": ("[[1.0, null]]", "1 of 2 numbers are not finite"),
    "number.jsonl": ('{"text": 5, "embedding": [1.0]}', "entry 0: neither a text nor ids: 5"),
    "object.jsonl": ('{"text": {"a": 1}, "embedding": [1.0]}', "entry 0: neither a text nor ids: {'a': 1}"),
    "list.jsonl": ('{"input": ["a", "b"], "embedding": [1.0]}', r"entry 0: neither a text nor ids: \['a', 'b'\]"),
    "ids.jsonl": ('{"tokens": [1, null], "embedding": [1.0]}', r"entry 0: neither a text nor ids: \[1, None\]"),
    "long.jsonl": ('{"text": "a", "embedding": [' + "1" * 400 + "]}", "text 0: a number does not fit in float32"),
    "prose.txt": ("Call me Ishmael.", "nothing recorded is recognized in this text"),
    "bytes.txt": (b"\x80\x02}q", "neither text nor .npz, .npy: byte 0 is no UTF-8"),
    "no.npz": (b"PK but no zip", "damaged, or no .npz at all"),
    "no.npy": (b"\x93NUMPY", "cannot be read as NumPy's format"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence(tmp_path, name):
    content, message = BAD[name]
    with pytest.raises(EngineError, match=message):
        open_recording(written(tmp_path, name, content))


def test_arrays_that_are_no_vectors(tmp_path):
    np.savez(tmp_path / "two.npz", x=VECTORS, y=VECTORS)
    with pytest.raises(EngineError, match="no array named embeddings, embedding, vectors; it has x, y"):
        open_recording(tmp_path / "two.npz")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(EngineError, match=r"arr_0 is <U1 of shape \(2,\), where numbers \(N, D\) are meant"):
        open_recording(tmp_path / "words.npy")
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    with pytest.raises(EngineError, match="no vector in it"):
        open_recording(tmp_path / "none.npy")
    np.save(tmp_path / "objects.npy", np.array([[1], [1, 2]], dtype=object))
    with pytest.raises(EngineError, match="cannot be read as NumPy's format: Object arrays cannot be loaded"):
        open_recording(tmp_path / "objects.npy")
    np.save(tmp_path / "a.npy", VECTORS)
    with pytest.raises(EngineError, match="3 vectors for 2 texts"):
        open_recording(tmp_path / "a.npy", texts=["a", "b"])


def test_an_empty_trace(tmp_path):
    from refembed.model.trace import Trace

    with pytest.raises(EngineError, match="an empty trace, no tensor in it"):
        open_recording(Trace().save(tmp_path / "run.npz"))


def test_no_such_file(tmp_path):
    with pytest.raises(RequestError, match="No such file"):
        open_recording(tmp_path / "gone.npz")
    with pytest.raises(RequestError, match="No such file"):
        open_engine("gone.jsonl", Path("model.gguf"))
