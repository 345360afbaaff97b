"""The public interface, on a small model with random weights. Whether its numbers are right, conformance asks."""

from __future__ import annotations

import copy
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed import Embedder, GGUFError, ModelError, RequestError, Trace
from refembed.embedder import embedder
from refembed.gguf import open_gguf
from refembed.pipeline.batches import UNEVEN, balance
from refembed.testing.synthetic_lora import synthetic_lora
from tests.tiny import tiny_bert

TEXTS = ["the cat sat on a mat.", "a", "", "hello world! hello hello world", "dog 123 " * 9, "the dog embeds the cat"]


@pytest.fixture(scope="module", params=["exact", "fast"])
def e(request: pytest.FixtureRequest, tiny: Path) -> Embedder:
    return Embedder.load(tiny, numerics=request.param)


def test_info_says_what_the_file_says(e: Embedder, tiny: Path) -> None:
    i = e.info
    assert (i.name, i.architecture, i.n_embd, i.n_ctx, i.n_layer, i.n_head) == ("tiny", "bert", 32, 64, 2, 4)
    assert (i.pooling, i.tokenizer, i.file_size) == ("mean", "bert", tiny.stat().st_size)
    tensors = open_gguf(tiny).tensors.values()
    assert i.quant_types == {"F32": len(tensors)}
    assert i.n_params == sum(t.nbytes for t in tensors) // 4
    import hashlib

    assert i.sha256 == hashlib.sha256(tiny.read_bytes()).hexdigest()


def test_shapes(e: Embedder) -> None:
    assert e.embed("the cat").shape == (32,)
    assert e.embed(b"the cat").shape == (32,)
    assert e.embed(["the cat"]).shape == (1, 32)
    assert e.embed(TEXTS).shape == (len(TEXTS), 32)
    assert e.embed([]).shape == (0, 32)
    assert e.embed(["the cat"], dimensions=7).shape == (1, 7)
    assert e.embed("the cat", pooling="none").shape == (4, 32)
    assert [x.shape for x in e.embed(["the cat", "a"], pooling="none")] == [(4, 32), (3, 32)]
    assert e.embed(TEXTS).dtype == np.float32


def test_text_bytes_and_ids_are_the_same_input(e: Embedder) -> None:
    ids = e.tokenize("the cat")
    assert (ids[0], ids[-1]) == (2, 3)
    a, b, c = e.embed(["the cat", b"the cat", ids])
    assert np.array_equal(a, b)
    assert np.array_equal(a, c)
    assert e.detokenize(ids) == "[CLS] the cat[SEP]"


def test_a_text_has_the_same_bits_alone_in_any_batch_and_in_any_order(e: Embedder) -> None:
    alone = [e.embed(t) for t in TEXTS]
    for seed in range(6):
        order = random.Random(seed).sample(range(len(TEXTS)), k=len(TEXTS) - seed % 3)
        for i, vector in zip(order, e.embed([TEXTS[i] for i in order]), strict=True):
            assert np.array_equal(vector, alone[i])
    many = e.embed(TEXTS * 400)  # several forward passes
    assert all(np.array_equal(many[i], alone[i % len(TEXTS)]) for i in range(len(many)))


def test_streaming_gives_the_same_vectors_in_order(e: Embedder) -> None:
    want = e.embed(TEXTS * 3)
    for batch_tokens in (1, 17, 10_000):
        got = list(e.embed_iter(iter(TEXTS * 3), batch_tokens=batch_tokens))
        assert np.array_equal(np.stack(got), want)


def test_streaming_does_not_wait_for_the_end(e: Embedder) -> None:
    def endless():  # type: ignore[no-untyped-def]
        while True:
            yield "the cat"

    stream = e.embed_iter(endless(), batch_tokens=100)
    assert next(stream).shape == (32,)


def test_the_vector_is_the_norm_of_the_cut_of_the_pooled_hidden_states(e: Embedder) -> None:
    hidden = e.embed("hello world", pooling="none", normalize=-1).astype(np.float64)
    assert np.allclose(e.embed("hello world", normalize=-1), hidden.mean(axis=0), atol=1e-6)
    assert np.array_equal(e.embed("hello world", pooling="cls", normalize=-1), hidden[0].astype(np.float32))
    cut = hidden.mean(axis=0)[:9]
    assert np.allclose(e.embed("hello world", dimensions=9), cut / np.linalg.norm(cut), atol=1e-6)


def test_too_long_a_text_is_refused_or_cut_when_asked(e: Embedder) -> None:
    with pytest.raises(RequestError, match=r"input 1: 72 tokens, but the model reads at most 64(.|\n)*--truncate"):
        e.embed(["a", "cat " * 70])
    ids = e.tokenize("cat " * 70)
    assert np.array_equal(e.embed("cat " * 70, truncate=True), e.embed([[*ids[:63], 3]])[0])
    assert np.array_equal(
        e.embed([ids[:-1]], truncate=True), e.embed([ids[:64]])
    )  # made by the caller: no [SEP] is put
    assert e.embed("cat " * 62).shape == (32,)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([[]], {}, "input 0: no tokens"),
        ([[5, 10**6]], {}, "input 0: token id 1000000 is not in the vocabulary"),
        ([[5, -1]], {}, "token id -1 is not in the vocabulary"),
        ([[1.5]], {}, "input 0: neither a text nor a list of token ids"),
        ([None], {}, "neither a text nor"),
        ([7], {}, "neither a text nor"),
        ([["a", "b"]], {}, "neither a text nor"),
        (["a"], {"dimensions": 0}, "dimensions 0: the model's vectors have 32"),
        (["a"], {"dimensions": 33}, "dimensions 33"),
        (["a"], {"pooling": "meen"}, "meen"),
        (["a"], {"normalize": -2}, "-2"),
    ],
)
def test_bad_input_is_one_clear_error(e: Embedder, inputs: list, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(RequestError, match=message):
        e.embed(inputs, **options)


def test_a_vector_that_is_not_finite_is_an_error(e: Embedder, tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "nan.gguf")
    t = open_gguf(path).tensors["blk.1.layer_output_norm.bias"]
    with path.open("r+b") as f:
        f.seek(t.offset)
        f.write(np.float32(np.nan).tobytes())
    with pytest.raises(ModelError, match="not finite"):
        Embedder.load(path, numerics=e.info.numerics).embed("a cat")


def test_a_file_without_a_pooling_key_means_none(tmp_path: Path) -> None:
    e = Embedder.load(tiny_bert(tmp_path / "t.gguf", pooling=None))
    assert e.info.pooling == "none"
    assert e.embed("the cat").shape == (4, 32)
    assert e.embed("the cat", pooling="mean").shape == (32,)


def test_a_reranker_loads_and_embeds_with_another_pooling(tmp_path: Path) -> None:
    e = Embedder.load(tiny_bert(tmp_path / "t.gguf", pooling=4))
    assert e.info.pooling == "rank"
    assert e.embed("the cat", pooling="cls").shape == (32,)
    with pytest.raises(ModelError, match="reranker"):
        e.embed("the cat")


def test_a_trace_ends_in_the_pooled_vector(e: Embedder) -> None:
    t = e.trace("the cat")
    assert isinstance(t, Trace)
    assert t.meta["tokens"] == e.tokenize("the cat")
    assert t.meta["numerics"] == e.info.numerics
    assert np.array_equal(t["result_embd_pooled"].astype(np.float32), e.embed(["the cat"], normalize=-1))
    assert t["kq_soft_max-1"].shape == (4, 4, 4)
    assert np.allclose(t["kq_soft_max-1"].sum(axis=-1), 1)
    assert "result_embd" not in e.trace("the cat", pooling="none")


def test_batch_invariance_cannot_be_given_up(tiny: Path) -> None:
    """A removed switch that had lost its effect: named, not ignored."""
    removed: Any = {"batch_invariant": False}
    with pytest.raises(TypeError, match="batch_invariant"):
        Embedder.load(tiny, **removed)


def test_exact_and_fast_agree_to_rounding(tiny: Path) -> None:
    a, b = (Embedder.load(tiny, numerics=n).embed(TEXTS) for n in ("exact", "fast"))
    assert 0 < np.abs(a - b).max() < 1e-6


def test_what_is_no_model_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="numerics 'cupy'"):
        Embedder.load("x.gguf", numerics="cupy")
    (tmp_path / "x.gguf").write_bytes(b"hello")
    with pytest.raises(GGUFError, match=r"x\.gguf"):
        Embedder.load(tmp_path / "x.gguf")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 12))
def test_texts_are_dealt_to_cores_once_and_evenly_or_not_at_all(lengths: list[int], n: int) -> None:
    bins = balance(lengths, n)
    loads = [sum(lengths[i] for i in part) for part in bins]
    assert sorted(i for part in bins for i in part) == (list(range(len(lengths))) if bins else [])
    assert all(bins)
    assert len(bins) <= n
    if bins:
        assert max(loads) <= UNEVEN * sum(lengths) / n
    else:  # the last text went to the core that had least: no more than an even part
        assert max(lengths) > (UNEVEN - 1) * sum(lengths) / n


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_some_texts_run_side_by_side_with_the_bits_of_each_alone(
    cores: int, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even ones a core each; where one is far longer than the rest, all cores share each operation."""
    spread, dealt = embedder.parallel_map, []
    monkeypatch.setattr(embedder, "cores", lambda: cores)
    monkeypatch.setattr(
        embedder, "parallel_map", lambda jobs: (dealt.append([job.args[0] for job in jobs]), spread(jobs))
    )
    e = Embedder.load(tiny)
    for counts, even in (
        ([30] * 9, True),
        ([40, 61, 60, 60, 41, 41], True),
        ([30] * 8, False),
        ([64] * 4 + [9], cores == 2),
    ):
        texts = [[2 + (7 * i + j) % 20 for j in range(n)] for i, n in enumerate(counts)]
        alone = [e.embed([text])[0].tobytes() for text in texts]
        dealt.clear()
        assert [v.tobytes() for v in e.embed(texts)] == alone
        if cores > 1:
            assert len(dealt[0] if dealt else []) == (cores if even else 0)


@pytest.mark.parametrize("numerics", ["exact", "fast", "ggml"])
def test_an_embedder_is_pickled_and_copied(tiny: Path, tmp_path: Path, numerics: str) -> None:
    """What comes out has the same bits, adapters and options included; it is a matter of loading the file again."""
    adapter = synthetic_lora(tmp_path / "a:0.gguf", tiny)
    e = Embedder.load(tiny, numerics=numerics, lora=[f"{adapter}:0.3"], flash_attn=False)
    expected = e.embed(["hello world", "a"])
    for other in (pickle.loads(pickle.dumps(e)), copy.deepcopy(e), copy.copy(e)):
        assert other.options == e.options
        assert np.array_equal(other.embed(["hello world", "a"]), expected)


def test_another_file_in_the_place_of_a_pickled_model_is_refused(tmp_path: Path) -> None:
    """Also one of the same size and time, and also the adapter's."""
    model = tiny_bert(tmp_path / "m.gguf")
    adapter = synthetic_lora(tmp_path / "a.gguf", model)
    pickled = pickle.dumps(Embedder.load(model, lora=[adapter]))
    for path in (model, adapter):
        whole, state = path.read_bytes(), path.stat()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        with pytest.raises(ModelError, match=rf"{path.name}: another file than the Embedder was made of"):
            pickle.loads(pickled)
        path.write_bytes(whole)
    assert pickle.loads(pickled).info.n_embd == 32


def test_what_load_did_not_make_is_not_pickled(tiny: Path) -> None:
    e = Embedder.load(tiny)
    with pytest.raises(TypeError, match=r"Embedder\.load"):
        pickle.dumps(Embedder(e.info, e.tokenizer, e.model, e.ops))
