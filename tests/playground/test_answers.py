"""What the page is given: against live llama.cpp's tensors and vectors, and against the formulas in plain NumPy."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert.quantize import quantize_file
from refembed.errors import RequestError
from refembed.playground.answers import MOST_CHARACTERS, MOST_LEFT_OUT, MOST_TEXTS, Answers
from refembed.playground.run import MOST_TOKENS
from refembed.playground.switches import Workbench
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.align import align
from tests.pooling.test_rerank import HEAD

TEXT = "Hello, naïve world!"
IDS = [101, 7592, 1010, 15743, 2088, 999, 102]  # by Hugging Face's BertTokenizer
TEXTS = ["a cat", "a small dog", "the stock market"]


@pytest.fixture(scope="module")
def answers(minilm: Path) -> Answers:
    """As llama.cpp rounds without flash attention: what is the same number is the same to the last bit."""
    return Answers(Workbench(Embedder.load(minilm, numerics="ggml", flash_attn=False, repack=False)), [TEXT])


@pytest.fixture(scope="module")
def plain(answers: Answers) -> Any:
    """The answer about TEXT with nothing switched."""
    return answers.answer("explain", {"text": TEXT})


@pytest.fixture(scope="module")
def small(tiny: Path) -> Answers:
    """Two layers with random weights, in float64."""
    return Answers(Workbench(Embedder.load(tiny, numerics="exact")), ["hello"])


@pytest.fixture(scope="module")
def theirs(oracle: Any, minilm: Path) -> dict[str, Any]:
    """llama.cpp's tensors of TEXT by name; outputs of layers, which its graph leaves unnamed, by place."""
    trace = oracle.trace(TEXT)
    ours = Embedder.load(minilm, numerics="fast").trace(TEXT)
    named = {t.name: t.array for t in trace.tensors}
    pairs = align(ours, trace).pairs
    return named | {p.name: trace.tensors[p.theirs].array for p in pairs if p.by == "place"}


def cosine_distance(a: Any, b: Any) -> float:
    """1 - cos."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(1 - x @ y / np.sqrt((x @ x) * (y @ y)))


def weights_of(found: Any) -> Any:
    """float32 (H, T, T) of an answer about attention."""
    return np.frombuffer(base64.b64decode(found["weights"]), "<f4").reshape(found["shape"])


# -- llama.cpp -------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_tokens_are_llama_cpps(plain: Any, oracle: Any) -> None:
    assert [t["id"] for t in plain["tokens"]] == IDS == oracle.tokenize(TEXT, True, True)
    assert [bytes.fromhex(t["bytes"]) for t in plain["tokens"]] == [oracle.piece(i) for i in IDS]
    assert [t["special"] for t in plain["tokens"]] == [True, *[False] * 5, True]


@pytest.mark.oracle
@pytest.mark.parametrize("layer", [0, 5])
def test_attention_is_llama_cpps(answers: Answers, theirs: dict[str, Any], layer: int) -> None:
    a = weights_of(answers.answer("attention", {"text": TEXT, "layer": layer}))
    assert a.shape == (12, 7, 7)
    np.testing.assert_allclose(a.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_array_equal(a, theirs[f"kq_soft_max-{layer}"].reshape(a.shape))


@pytest.mark.oracle
def test_planes_are_those_of_llama_cpps_hidden_states(plain: Any, theirs: dict[str, Any]) -> None:
    """Distances within each plane, and what it keeps, by np.linalg.svd of llama.cpp's own states."""
    names = ["inp_norm-0", *(f"l_out-{i}" for i in range(5)), "result_embd"]
    assert len(plain["planes"]) == len(names)
    for name, plane in zip(names, plain["planes"], strict=True):
        x = np.asarray(theirs[name], np.float64).reshape(7, 384)
        u, s, _ = np.linalg.svd(x - x.mean(axis=0))
        expected, points = u[:, :2] * s[:2], np.array(plane["points"])
        far = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (expected, points)]
        np.testing.assert_allclose(far[1], far[0], atol=1e-13 * s[0], err_msg=name)  # measured: 3e-15
        assert plane["kept"] == pytest.approx((s[:2] ** 2).sum() / (s**2).sum(), abs=1e-12)
        cosines = x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2) - 2 * np.eye(7)
        assert [j for j, _ in plane["nearest"]] == cosines.argmax(axis=1).tolist()
        np.testing.assert_allclose([c for _, c in plane["nearest"]], cosines.max(axis=1), atol=1e-12)


@pytest.mark.oracle
def test_vector_and_shares_are_those_of_llama_cpps_states(plain: Any, theirs: dict[str, Any], oracle: Any) -> None:
    """Mean pooling: q[t] = x[t] / T adds up to p, and q[t] · p / |p|² to 1."""
    (vector,) = oracle.embed([TEXT])
    vector = np.asarray(vector, np.float64)
    np.testing.assert_allclose(plain["vector"], vector / np.linalg.norm(vector), rtol=1e-14)
    assert math.hypot(*plain["vector"]) == pytest.approx(1, abs=1e-6)
    q = np.asarray(theirs["result_embd"], np.float64).reshape(7, 384) / 7
    p = q.sum(axis=0)
    np.testing.assert_allclose(plain["shares"], q @ p / (p @ p), rtol=1e-12)
    assert sum(plain["shares"]) == pytest.approx(1, abs=1e-9)


@pytest.mark.oracle
def test_leaving_out_a_token_is_what_llama_cpp_gives_without_it(answers: Answers, oracle: Any) -> None:
    found = answers.answer("leave-out", {"text": TEXT})["distances"]
    whole, *rest = oracle.embed([IDS, *([*IDS[:t], *IDS[t + 1 :]] for t in range(7))])
    expected = [cosine_distance(v, whole) for v in rest]
    assert min(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # measured: 4e-15


@pytest.mark.oracle
def test_cosines_are_those_of_llama_cpps_vectors(answers: Answers, oracle: Any) -> None:
    found = answers.answer("similarity", {"texts": TEXTS, "pooling": "cls"})
    vectors = oracle.embed(TEXTS)
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            assert found["before"][i][j] == pytest.approx(1 - cosine_distance(a, b), abs=1e-13)  # measured: 2e-16
    states = [np.asarray(oracle.trace(t)["result_embd"])[0] for t in TEXTS]  # [CLS]
    for i, a in enumerate(states):
        for j, b in enumerate(states):
            assert found["cosines"][i][j] == pytest.approx(1 - cosine_distance(a, b), abs=1e-13)  # measured: 1e-15


@pytest.mark.oracle
def test_another_pooling_moves_the_vector_as_llama_cpps_states_say(answers: Answers, theirs: dict[str, Any]) -> None:
    x = np.asarray(theirs["result_embd"], np.float64).reshape(7, 384)
    for switch, vector in (({"pooling": "max"}, x.max(axis=0)), ({"fault": "pooling-cls"}, x[0])):
        found = answers.answer("explain", {"text": TEXT, **switch})["moved"]
        assert found["distance"] == pytest.approx(cosine_distance(vector, x.mean(axis=0)), rel=1e-6)  # 1e-8
        assert found["length"] == pytest.approx(
            np.linalg.norm(vector) / np.linalg.norm(x.mean(axis=0)), rel=1e-6
        )  # 4e-8
        assert found["first"] is None or found["first"]["name"] == "result_embd_pooled"


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_gelu_by_erf_changes_gelu_first_and_as_the_formulas_differ(answers: Answers, theirs: dict[str, Any]) -> None:
    """Hendrycks & Gimpel 2016: x Φ(x) of what llama.cpp's first layer gives to its GELU, and what that makes of it."""
    found = answers.answer("explain", {"text": TEXT, "fault": "gelu-erf"})
    x, tanh = (np.asarray(theirs[name], np.float64) for name in ("ffn_up_b-0", "ffn_gelu-0"))
    erf = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    expected = np.linalg.norm(erf - tanh) / np.linalg.norm(tanh)
    assert found["moved"]["first"]["name"] == "ffn_gelu-0"
    assert found["moved"]["first"]["relative"] == pytest.approx(expected, rel=2e-5)  # measured: 4e-6, float32
    names = [name for name, _ in found["moved"]["tensors"]]
    before = [off for _, off in found["moved"]["tensors"][: names.index("ffn_gelu-0")]]
    assert len(before) > 10
    assert set(before) == {0.0}
    assert found["said"]["kind"] == "bad"
    assert "`ffn_gelu-0`, in layer 0" in " ".join(found["said"]["evidence"])
    assert "`gelu-erf`" in found["said"]["advice"]


def test_weights_are_quantized_as_gguf_py_quantizes_them(small: Answers, tiny: Path) -> None:
    """The first tensor, the tokens' rows, through Q8_0 and back."""
    from gguf import GGMLQuantizationType, GGUFReader, quants

    table = next(np.asarray(t.data, np.float32) for t in GGUFReader(tiny).tensors if t.name == "token_embd.weight")
    found = small.answer("explain", {"text": "hello world", "weights": "Q8_0"})
    x = table[[t["id"] for t in found["tokens"]]]
    off = quants.dequantize(quants.quantize(x, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0) - x
    found = found["moved"]
    assert found["first"]["name"] == "embd"
    assert found["first"]["relative"] == pytest.approx(np.linalg.norm(off) / np.linalg.norm(x), rel=1e-6)
    assert 1e-7 < found["distance"] < 1e-2


def test_weights_in_memory_give_the_vector_of_the_quantized_file(small: Answers, tiny: Path, tmp_path: Path) -> None:
    """As `refembed quantize` writes it, whose bytes tests/convert compares with llama-quantize's."""
    quantize_file(tiny, tmp_path / "q4.gguf", "Q4_0")
    found = small.answer("explain", {"text": "hello world", "weights": "Q4_0"})
    stored = Embedder.load(tmp_path / "q4.gguf", numerics="exact").embed("hello world")
    np.testing.assert_allclose(found["vector"], stored, atol=1e-7)  # float32
    assert found["moved"]["distance"] > 1e-6


def test_every_fault_has_verifys_words_and_can_be_switched(small: Answers) -> None:
    """All that `refembed verify` would try: each gives an answer, or a sentence that says why not."""
    from refembed.verify.hypotheses import cheap_hypotheses

    text = "hello world"
    faults = small.answer("explain", {"text": text})["faults"]
    known = {h.id: h.says for h in cheap_hypotheses(small.bench.reference, [text])}
    assert {id: says for id, _, says in faults} == known
    assert len(faults) > 150
    refused = {}
    for id in known:
        try:
            found = small.answer("explain", {"text": text, "fault": id})
        except RequestError as e:
            refused[id] = e.message
            continue
        assert found["said"]["verdict"], id
        assert found["moved"]["distance"] >= 0, id
    assert all("cannot" in message or "tokens" in message for message in refused.values()), refused
    assert len(refused) < 20


def test_a_fault_that_does_nothing_to_a_text_says_so(small: Answers) -> None:
    found = small.answer("explain", {"text": "hello world", "weights": "", "pooling": "mean"})
    assert found["said"]["kind"] == "good"
    assert found["said"]["verdict"] == "Nothing changes: not one number of the run."
    with pytest.raises(RequestError, match="'lower-case' makes no difference to this model and this text"):
        small.answer("explain", {"text": "hello world", "fault": "lower-case"})


def test_padding_is_shown_as_padding(small: Answers) -> None:
    found = small.answer("explain", {"text": "hello world", "fault": "padding-8"})
    assert (len(found["tokens"]), found["padding"]) == (8, 4)
    assert found["shares"][4:] == [0.0] * 4
    assert sum(found["shares"]) == pytest.approx(1, abs=1e-12)
    assert small.answer("leave-out", {"text": "hello world", "fault": "padding-8"})["distances"][4:] == [None] * 4


def test_tokens_that_differ_are_named_by_their_place(small: Answers) -> None:
    found = small.answer("explain", {"text": "hello world", "fault": "no-eos"})
    assert found["moved"]["token"] == 3
    assert found["moved"]["tensors"] == []
    assert "The tokens differ from place 3 on" in " ".join(found["said"]["evidence"])


# -- models that are not encoders with a mean ------------------------------------------------------------------------


def test_a_file_without_pooling_begins_with_one_that_makes_a_vector(tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "qwen3")
    answers = Answers(Workbench(Embedder.load(path, numerics="exact")), [])
    found = answers.answer("explain", {"text": "the cat"})
    assert found["pooling"]["title"] == "The last token"
    assert found["shares"] == pytest.approx([0] * (len(found["shares"]) - 1) + [1], abs=1e-12)
    assert "asks for no pooling" in " ".join(found["said"]["evidence"])
    a = weights_of(answers.answer("attention", {"text": "the cat", "layer": 0}))
    assert not np.triu(a[0], 1).any()  # a decoder's tokens see none behind them
    opened = answers.answer("explain", {"text": "the cat", "fault": "bidirectional"})
    assert opened["moved"]["first"]["name"] == "kq_soft_max-0"


def test_a_reranker_has_scores_and_no_cosines(tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "bert", pooling=4, optional=HEAD)
    answers = Answers(Workbench(Embedder.load(path, numerics="exact")), [])
    assert [name for name, _ in answers.answer("model", {})["poolings"]] == [""]
    found = answers.answer("explain", {"text": "the cat", "fault": "gelu-erf"})
    assert found["shares"] is None
    assert "score" in found["said"]["verdict"]
    with pytest.raises(RequestError, match="no cosine"):
        answers.answer("similarity", {"texts": TEXTS})


def test_flash_attention_shows_no_scores(tiny: Path) -> None:
    answers = Answers(Workbench(Embedder.load(tiny, numerics="ggml", flash_attn=True)), [])
    assert answers.answer("explain", {"text": "hello"})["attention"] == {}
    with pytest.raises(RequestError, match="shows no attention of layer 0"):
        answers.answer("attention", {"text": "hello", "layer": 0})


# -- what cannot be taken --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("explain", {}, "no text"),
        ("explain", {"text": 3}, "no text"),
        ("explain", {"text": "a" * (MOST_CHARACTERS + 1)}, "4,001 characters; this page takes at most 4,000"),
        ("explain", {"text": "hello " * 63}, "65 tokens, and the model reads at most 64"),
        ("explain", {"text": "hello", "pooling": "nosuch"}, "pooling 'nosuch' is not offered"),
        ("explain", {"text": "hello", "pooling": "none"}, "pooling 'none' is not offered"),
        ("explain", {"text": "hello", "weights": "Q9"}, "weights 'Q9' are not offered"),
        ("explain", {"text": "hello", "fault": "nosuch"}, "'nosuch' makes no difference"),
        ("explain", {"text": "hello", "fault": ["x"]}, "fault is to be a text"),
        ("attention", {"text": "hello", "layer": 2}, "no attention of layer 2"),
        ("attention", {"text": "hello", "layer": "0"}, "no attention of layer '0'"),
        ("similarity", {"texts": ["hello"]}, f"2 to {MOST_TEXTS} texts"),
        ("similarity", {"texts": "hello"}, f"2 to {MOST_TEXTS} texts"),
        ("similarity", {"texts": ["hello", 3]}, "no text"),
    ],
)
def test_what_cannot_be_taken_is_one_sentence(small: Answers, name: str, body: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words.replace("(", r"\(")) as e:
        small.answer(name, body)
    assert "\n" not in e.value.message


def test_long_texts_say_how_long_they_may_be(answers: Answers) -> None:
    with pytest.raises(RequestError, match=f"202 tokens, and this page follows at most {MOST_TOKENS}"):
        answers.answer("explain", {"text": "cat " * 200})
    with pytest.raises(RequestError, match=f"72 tokens; at most {MOST_LEFT_OUT} are left out"):
        answers.answer("leave-out", {"text": "cat " * 70})


def test_texts_may_be_odd(small: Answers) -> None:
    for text in ("", "\x00\u202e", "\ud800", "漢字 🦊", "</script>"):
        found = small.answer("explain", {"text": text})
        assert len(found["planes"]) == 3
        assert b"\\u202e" not in json.dumps(found, allow_nan=False).encode()  # no page shows it: it is spelled out
