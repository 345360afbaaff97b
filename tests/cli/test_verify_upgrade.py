"""`refembed verify OLD --against NEW`: words, exit codes, JSON, and what goes with what."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refembed import Embedder
from refembed.verify.engines.base import is_engine
from refembed.verify.engines.llamacpp_lib import PINNED
from refembed.verify.report.upgrade import called

TEXTS = ["hello world", "the cat sat", "Hello, mat!", "a dog", "the dog sat", "the mat"]


@pytest.fixture
def recorded(tiny, tmp_path):
    """Vectors of a tiny model in a file, as `change` leaves them."""

    def record(name, change=lambda v: v):
        vectors = change(Embedder.load(tiny, numerics="fast").embed(TEXTS))
        rows = [{"text": t, "embedding": v.tolist()} for t, v in zip(TEXTS, vectors, strict=True)]
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return record


def noisy(v):
    return v + np.float32(1e-6) * np.sign(np.random.default_rng(0).normal(size=v.shape)).astype(np.float32)


def test_a_valid_index_ends_with_0(cli, recorded):
    result = cli("verify", recorded("old.jsonl"), "--against", recorded("new.jsonl", noisy))
    assert result.code == 0
    assert result.out.startswith("VALID: recorded, then recorded.")
    assert "the index stays valid" in " ".join(result.out.split())
    assert result.out.split("\n\n")[-1].startswith("nothing to do: old and new vectors may stand in one index")


def test_the_same_vectors_end_with_0(cli, recorded):
    result = cli("verify", recorded("old.jsonl"), "--against", recorded("new.jsonl"))
    assert (result.code, result.out.split(":")[0]) == (0, "IDENTICAL")


def test_other_vectors_end_with_3_and_the_model_says_why(cli, recorded, tiny):
    new = recorded("new.jsonl", lambda v: -v)
    result = cli("verify", recorded("old.jsonl"), "--against", new, "--model", tiny)
    assert result.code == 3
    assert result.out.startswith("RE-EMBED: recorded, then recorded.")
    flat = " ".join(result.out.split())
    assert "the new engine gives the vector with its sign turned; the other is as the model file says" in flat
    assert "old, held against the model:" in flat


def test_json_is_one_object(cli, recorded):
    result = cli("verify", recorded("old.jsonl"), "--against", recorded("new.jsonl", lambda v: 2 * v), "--json")
    data = json.loads(result.out)
    assert (data["format"], data["kind"], data["exit_code"], result.code) == ("refembed-upgrade-1", "normalize", 3, 3)
    assert data["search"]["documents"] == 6
    assert result.err == ""


def test_a_corpus_may_be_stored_vectors(cli, recorded, tiny, tmp_path):
    stored = tmp_path / "stored.npy"
    np.save(stored, Embedder.load(tiny, numerics="fast").embed([f"the cat {i}" for i in range(20)]))
    files = recorded("old.jsonl"), "--against", recorded("new.jsonl", noisy)
    data = json.loads(cli("verify", *files, "--corpus", stored, "--json").out)
    assert (data["search"]["queries"], data["search"]["documents"]) == (6, 20)
    assert [a["says"] for a in data["search"]["arrangements"]] == ["new queries, stored documents"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--pooling", "cls"), "--pooling is about the model that both engines run"),
        (("--html", "x.html"), "--html writes a report about a model"),
        (("--queries", "q.txt"), "--queries are looked for in a corpus"),
        (("--threads", "2"), "has an option 'threads'"),
        (("--corpus", "missing.txt"), "no such file"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(cli, recorded, more, says):
    result = cli("verify", "-q", recorded("old.jsonl"), "--against", recorded("new.jsonl", noisy), *more)
    assert (result.code, result.raw) == (1, b"")
    assert says in result.err
    assert "Traceback" not in result.err


def test_live_llamacpp_needs_a_model(cli, recorded):
    result = cli("verify", "-q", "llamacpp", "--against", recorded("new.jsonl"))
    assert result.code == 1
    assert "'llamacpp' runs a GGUF file" in result.err
    assert "--model FILE says which" in result.err


def test_a_corpus_is_for_two_engines(cli, tiny, recorded):
    result = cli("verify", "-q", tiny, "--against", recorded("new.jsonl"), "--corpus", "x.txt")
    assert result.code == 1
    assert "refembed verify OLD --against NEW" in result.err


def test_the_model_is_given_once(cli, tiny, recorded):
    assert cli("verify", tiny, "-m", tiny, "--against", recorded("new.jsonl")).code == 1
    assert cli("verify", "--against", recorded("new.jsonl")).code == 1
    assert cli("verify", "-q", "-m", tiny, "--against", recorded("new.jsonl")).code == 0


def test_words_that_are_engines_and_words_that_are_models(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    engines = ["old.npz", "a.jsonl", "b.log", "http://x", "https://x/v1", "localhost:8080", "10.0.0.1:80/embed",
               "llamacpp", "llamacpp:/opt/llama/lib", "llamacpp:lib@haswell", "mine:embed", "a.b:C.encode",
               "m.onnx"]  # fmt: skip
    models = ["minilm", "minilm:q8_0", "minilm-f16", "all-minilm:q4_0", "model.gguf", "org/model", "org/model:Q4_K_M",
              str(folder), "./model.gguf"]  # fmt: skip
    assert [w for w in engines if not is_engine(w)] == []
    assert [w for w in models if is_engine(w)] == []


@pytest.mark.oracle
def test_builds_choose_flash_attention_and_repacking_unless_an_option_does(cli, tiny):
    """Unless --flash-attn says otherwise, as a build does that is asked for nothing: flash attention is its choice."""
    result = cli("verify", "llamacpp", "--against", "llamacpp", "--model", tiny, "--json")
    data = json.loads(result.out)
    assert (result.code, data["kind"], data["same_tokens"]) == (0, "identical", True)
    assert data["verdicts"] == {}
    asked = [data["sides"][side]["info"]["options"] for side in ("old", "new")]
    assert [(o["flash_attn"], o["extra_buffer_types"]) for o in asked] == [("auto", True)] * 2
    off = cli("verify", "llamacpp", "--against", "llamacpp", "--model", tiny, "--no-flash-attn")
    assert f"IDENTICAL: llama.cpp (xllamacpp {PINNED}), then llama.cpp (xllamacpp {PINNED})." in " ".join(
        off.out.split()
    )


def test_a_build_is_called_by_its_package():
    side = {
        "engine": "llama.cpp",
        "info": {"build": {"wheel": None}, "options": {"lib": "/x/xllamacpp-0.2.8-cp310.whl"}},
    }
    assert called(side) == "llama.cpp (xllamacpp 0.2.8)"
    side["info"]["options"]["lib"] = "/opt/llama/lib"
    assert called(side) == "llama.cpp (lib)"
    assert called({"engine": "http Ollama", "info": {"build": "b11549"}}) == "http Ollama"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("objects.npy", np.array([{}], dtype=object), "cannot be read as NumPy's format"),
        ("prose.npy", b"Call me Ishmael.", "cannot be read as NumPy's format"),
        ("empty.npy", b"", "cannot be read as NumPy's format"),
        ("none.npz", np.zeros((0, 3)), "the corpus has shape (0"),
    ],
)
def test_a_corpus_that_holds_no_vectors_is_one_sentence(cli, recorded, tmp_path, name, content, says):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif name.endswith(".npz"):
        np.savez(tmp_path / name, embeddings=content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    r = cli("verify", recorded("old.jsonl"), "--against", recorded("new.jsonl", noisy), "--corpus", tmp_path / name)
    assert r.code == 1
    assert says in r.err
    assert "refembed failed" not in r.err
