"""Many vectors a text by ColBERT heads: next to what PyLate made of the same models, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert import convert
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.gguf import open_gguf
from refembed.kernels.exact import attention as textbook
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import AttentionMask, AttentionSpec
from refembed.pipeline.multi_vector import ExpansionOps
from refembed.similarity import maxsim
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.colbert_folders import DOCUMENTS, QUERIES, WORDS, C, build, numbers, records, stanford
from tests.copies import copied
from tests.hf_folders import safetensors, stored, weights, write_json

RECORDS = records()
NAMES = [name for name in RECORDS if name != "provenance"]
# Largest error of numbers up to 1. Measured with PyLate 1.6.0 in float64: exact 3.4e-8, fast 3.9e-7; [PAD] in place of
# [MASK], the smallest of six planted faults, moves a number by 4e-5
BOUNDS = {"exact": 1e-7, "fast": 1.2e-6}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each recorded folder as a GGUF file."""
    folder = tmp_path_factory.mktemp("colbert")
    return {
        name: convert(build(RECORDS[name], folder / name), folder / f"{name}.gguf", heads=True, say=lambda _: None)
        for name in NAMES
    }


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_pylates(name: str, numerics: str, files: dict[str, Path]) -> None:
    """Queries filled up with [MASK] or not, seen by others or not; documents without punctuation; what is too long."""
    e = Embedder.load(files[name], numerics=numerics, semantics="original")
    queries = e.embed_multi_vector(QUERIES, is_query=True, truncate=True)
    documents = e.embed_multi_vector(DOCUMENTS, truncate=True)
    for ours, theirs in ((queries, RECORDS[name]["queries"]), (documents, RECORDS[name]["documents"])):
        for found, wanted in zip(ours, map(numbers, theirs), strict=True):
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() < BOUNDS[numerics]
    wanted = [[(q @ d.T).max(axis=1).sum() for d in map(numbers, RECORDS[name]["documents"])]
              for q in map(numbers, RECORDS[name]["queries"])]  # fmt: skip
    assert [maxsim(q, documents).tolist() for q in queries] == [pytest.approx(row, abs=1e-4) for row in wanted]


def test_records_have_what_makes_a_difference() -> None:
    """Queries of a length of their own, and of one length; documents shorter than their tokens."""
    rows = {name: [len(v) for v in RECORDS[name]["queries"]] for name in NAMES}
    assert rows["bert"] == [14] * 4
    assert rows["modern-bert"] == [24] * 4
    assert rows["bert-not-expanded"][:3] == [6, 6, 3]
    assert [len(v) for v in RECORDS["bert"]["documents"]] == [9, 4, 9]


def test_tokens_of_a_query_do_not_see_what_it_is_filled_up_with(files: dict[str, Path]) -> None:
    """Its own tokens have the vectors that they have in a document of the same tokens, the marker aside."""
    e = Embedder.load(files["bert"], numerics="exact")
    head = e.multi_vector_head
    assert head.query is not None
    assert head.document is not None
    assert (head.query.length, head.query.expanded, head.document.length) == (14, 14, 20)
    ids = e.tokenize("the cat sat")
    marked = [ids[0], head.query.marker, *ids[1:]]
    plain = e.embed([marked], pooling="none", normalize=-1)[0].astype(float) @ head.weight.T.astype(float)
    plain /= np.linalg.norm(plain, axis=1)[:, None]
    found = e.embed_multi_vector("the cat sat", is_query=True)
    assert len(found) == 14
    assert np.abs(found[: len(marked)] - plain).max() < 1e-6


@pytest.mark.parametrize("name", ["exact", "fast"])
@pytest.mark.parametrize("window", [0, 4])
def test_attention_to_the_first_tokens_is_that_of_a_mask(window: int, name: str) -> None:
    """Next to the definition with every key from the fourth on hidden, a query at a time."""
    rng = np.random.default_rng(1)
    ops = load_ops(name)
    q, k, v = (rng.standard_normal((9, 8)).astype(ops.dtype) for _ in range(3))
    spec = AttentionSpec(2, 2, 0.5, AttentionMask(window=window, kind="symmetric"))
    found = ExpansionOps(ops, 4).attention(q, k, v, spec, np.array([0, 9]))
    assert found.dtype == ops.dtype
    for i in range(9):
        seen = [j for j in range(4) if not window or abs(i - j) <= window // 2]
        for h in (slice(0, 4), slice(4, 8)):
            if not seen:
                assert not found[i, h].any()
                continue
            shares = textbook.softmax(q[i, h].astype(float) @ k[seen, h].astype(float).T * 0.5)
            assert found[i, h] == pytest.approx(shares @ v[seen, h], abs=1e-6)


def test_a_text_that_is_too_long_is_an_error_unless_it_may_be_cut(files: dict[str, Path]) -> None:
    e = Embedder.load(files["bert"])
    with pytest.raises(TooLongError, match="input 1: 16 tokens, but this head was made for at most 13"):
        e.embed_multi_vector(["a", "the cat " * 7], is_query=True)
    ids = e.tokenize("the cat " * 7)
    cut = e.embed_multi_vector(["the cat " * 7], is_query=True, truncate=True)[0]
    assert np.array_equal(cut, e.embed_multi_vector([[*ids[:12], ids[-1]]], is_query=True)[0])
    with pytest.raises(TooLongError, match="at most 19"):
        e.embed_multi_vector("the cat " * 12)
    with pytest.raises(RequestError, match="input 0: no tokens"):
        e.embed_multi_vector([[]])


@pytest.mark.oracle
def test_llama_cpp_loads_the_file_and_gives_the_same_vectors(files: dict[str, Path], tmp_path: Path) -> None:
    """It passes over the keys."""
    keys = [key for key in open_gguf(files["bert"]).metadata if key.startswith("refembed.")]
    assert len(keys) == 11
    plain = copied(files["bert"], tmp_path / "plain.gguf", dict.fromkeys(keys))
    vectors = []
    for path in (files["bert"], plain):
        with LlamaCpp(path, pooling="mean") as engine:
            vectors.append(engine.embed(["the cat sat"])[0])
    assert np.array_equal(*vectors)


def test_without_heads_a_colbert_model_is_refused(tmp_path: Path) -> None:
    for folder, said in (
        (build(RECORDS["bert"], tmp_path / "a"), r"modules.json: a module of type .*pylate.models.Dense.Dense"),
        (stanford(tmp_path / "b"), r"config.json: a module of type .*HF_ColBERT"),
    ):
        with pytest.raises(ModelError, match=said) as error:
            convert(folder, tmp_path / "m.gguf")
        assert "--heads" in error.value.hint


def settings(**facts: Any) -> Callable[[Path], None]:
    """Other values in config_sentence_transformers.json."""

    def change(folder: Path) -> None:
        old = RECORDS["bert"]["files"]["config_sentence_transformers.json"]
        write_json(folder / "config_sentence_transformers.json", old | facts)

    return change


def dense_settings(**facts: Any) -> Callable[[Path], None]:
    """Other values in 1_Dense/config.json."""

    def change(folder: Path) -> None:
        write_json(folder / "1_Dense" / "config.json", RECORDS["bert"]["files"]["1_Dense/config.json"] | facts)

    return change


def dense_weight(
    shape: tuple[int, ...], name: str = "linear.weight", value: float | None = None
) -> Callable[[Path], None]:
    """Another matrix."""

    def change(folder: Path) -> None:
        x = weights(name, shape) if value is None else np.full(shape, value, np.float32)
        (folder / "1_Dense" / "model.safetensors").write_bytes(safetensors({name: ("F32", shape, stored(x, "F32"))}))

    return change


def modules(*kinds: str) -> Callable[[Path], None]:
    """modules.json with these behind the Transformer and the Dense module."""

    def change(folder: Path) -> None:
        listed = RECORDS["bert"]["files"]["modules.json"]
        more = [{"idx": 2 + i, "name": str(2 + i), "path": f"{2 + i}_", "type": kind} for i, kind in enumerate(kinds)]
        write_json(folder / "modules.json", [*listed, *more])

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (settings(query_prefix="query: "), "texts begin with 'query: ', which is no token of the model"),
        (settings(query_length=0), "query_length is 0, not a length"),
        (settings(document_length="long"), "document_length is long, not a length"),
        (settings(default_prompt_name="q", prompts={"q": "Find: "}), "default_prompt_name q"),
        (settings(prompts=["q"]), "not as its library writes it: AttributeError"),
        (settings(query_prefix=7), "not as its library writes it: AttributeError"),
        (settings(skiplist_words=[["."]]), "not as its library writes it: TypeError"),
        (dense_settings(activation_function="torch.nn.modules.activation.Tanh"), "activation_function is .*Tanh"),
        (dense_settings(module_input_name="sentence_embedding"), "module_input_name is sentence_embedding"),
        (dense_settings(use_residual=True), r"not a linear.weight \(n, 32\) and what belongs to it"),
        (dense_weight((12, 31)), r"not a linear.weight \(n, 32\)"),
        (dense_weight((12, C), "weight"), r"not a linear.weight \(n, 32\)"),
        (dense_weight((12, C), value=float("nan")), "the head has NaN or infinity"),
        (lambda f: (f / "1_Dense" / "model.safetensors").unlink(), "no model.safetensors of the Dense module"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
        (modules("pylate.models.Other.Other"), "a module of type pylate.models.Other.Other"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_kept_is_refused(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    folder = build(RECORDS["bert"], tmp_path / "hf")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    damage(folder)
    with pytest.raises(ModelError, match=said):
        convert(folder, tmp_path / "m.gguf", heads=True)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"refembed.multi_vector.kind": ("other", "STRING")}, "that is known: 'other'"),
        ({"refembed.multi_vector.weight": ([1.0], "ARRAY[FLOAT32]")}, "weight has 1 numbers, not 12x32"),
        ({"refembed.multi_vector.bias": ([float("nan")] * 12, "ARRAY[FLOAT32]")}, "a vector that is not finite"),
        ({"refembed.multi_vector.query_length": (99, "UINT32")}, "query_length is 99, but the model reads at most 40"),
        ({"refembed.multi_vector.expansion_length": (41, "UINT32")}, "expansion_length is 41, but"),
    ],
)
def test_a_damaged_head_is_one_error(keys: dict[str, Any], said: str, files: dict[str, Path], tmp_path: Path) -> None:
    e = Embedder.load(copied(files["bert"], tmp_path / "odd.gguf", keys))
    with pytest.raises(ModelError, match=said):
        e.embed_multi_vector("the cat")


def test_words_that_are_no_token_do_not_skip_the_unknown_one(tmp_path: Path) -> None:
    """PyLate would: it looks them up and finds the unknown token."""
    folder = build(RECORDS["bert"], tmp_path / "hf")
    settings(skiplist_words=["nosuch", "."])(folder)
    md = open_gguf(convert(folder, tmp_path / "m.gguf", heads=True, say=lambda _: None)).metadata
    assert md.ints("refembed.multi_vector.skiplist").tolist() == [WORDS.index(".")]
