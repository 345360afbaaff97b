"""What Embedder takes and refuses: one clear error for input of the wrong kind, with what to try."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refembed
from refembed import Embedder, load_tokenizer, open_gguf
from refembed.errors import GGUFError, ModelError, RequestError, TooLongError
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def e(tiny: Path) -> Embedder:
    return Embedder.load(tiny, numerics="exact")


class Series:
    """As a pandas Series with an index of its own: iterated it gives values, indexed it gives what the index names."""

    def __iter__(self) -> Any:
        return iter(["the cat", "a dog"])

    def __getitem__(self, i: int) -> str:
        return {5: "the cat", 6: "a dog"}[i]

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    "texts",
    [
        ["the cat", "a dog"], ("the cat", "a dog"), (t for t in ("the cat", "a dog")), np.array(["the cat", "a dog"]),
        np.array(["the cat", "a dog"], object), [b"the cat", bytearray(b"a dog")], [np.str_("the cat"), "a dog"],
        Series(), {"the cat": 1, "a dog": 2}.keys().__iter__(),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_ordered_collections_of_texts_are_what_a_list_is(e: Embedder, texts: Any) -> None:
    wanted = np.stack([e.embed("the cat"), e.embed("a dog")])
    assert np.array_equal(e.embed(texts), wanted)


@pytest.mark.parametrize("text", [np.str_("the cat"), b"the cat", bytearray(b"the cat"), memoryview(b"the cat")])
def test_one_text_of_any_kind_gives_one_vector(e: Embedder, text: Any) -> None:
    assert np.array_equal(e.embed(text), e.embed("the cat"))


def test_token_ids_may_be_lists_tuples_or_arrays(e: Embedder) -> None:
    ids = e.tokenize("the cat")
    for given in ([ids], [tuple(ids)], [np.array(ids)], np.array([ids])):
        assert np.array_equal(e.embed(given)[0], e.embed("the cat"))
    assert e.embed([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("texts", "message", "hint"),
    [
        (None, "texts: a text or a list of texts is wanted, not None", 'embed("a text")'),
        (3, "texts: a text or a list of texts is wanted, not 3 of type int", 'embed("a text")'),
        (np.array(3.5), "array of no axis", 'embed("a text")'),
        ([2, 5, 3], r"texts: numbers, \[2, 5, 3\]", r"embed([ids])"),
        (np.array([2, 5, 3]), "texts: numbers", r"embed([ids])"),
        ({"the cat", "a dog"}, "a set has no order", "sorted(texts)"),
        ({"a": "the cat"}, "a dictionary", "list(d.values())"),
        (["the cat", None], "input 1: neither a text nor a list of token ids: None", "a str"),
        (["the cat", float("nan")], "input 1: .*'nan' of type float", "a str"),
        ([["the cat"]], "input 0: .*of type list", "one list of texts"),
        ([[True, False]], "input 0: neither a text", "a str"),
        ([{2, 5}], "input 0: neither a text", "a str"),
    ],
)
def test_anything_else_is_one_clear_error(e: Embedder, texts: Any, message: str, hint: str) -> None:
    with pytest.raises(RequestError, match=message) as found:
        e.embed(texts)
    assert hint in found.value.hint


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"pooling": "meen"}, "pooling 'meen'", "did you mean 'mean'?"),
        ({"pooling": None}, "pooling None", "one of none, mean"),
        ({"normalize": "l2"}, "normalize 'l2'", "2 Euclid"),
        ({"dimensions": 33}, "dimensions 33: the model's vectors have 32", "from 1 to 32"),
        ({"dimensions": 8.0}, "dimensions 8.0", "a whole number"),
        ({"dimensions": "8"}, "dimensions '8'", "a whole number"),
        ({"dimensions": True}, "dimensions True", "a whole number"),
    ],
)
def test_options_are_checked_before_any_work(e: Embedder, options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(RequestError, match=message) as found:
        e.embed("the cat", **options)
    assert hint in found.value.hint
    assert e.embed("the cat", dimensions=np.int64(8)).shape == (8,)


def test_other_methods_say_what_they_take(e: Embedder) -> None:
    for call, message in (
        (lambda: e.trace(["the cat", "a dog"]), "neither a text nor a list of token ids"),
        (lambda: e.trace(None), "None"),
        (lambda: e.tokenize(None), "a text is str or bytes, not NoneType"),
        (lambda: e.tokenize(["the cat"]), "a text is str or bytes, not list"),
        (lambda: e.detokenize(None), "a list of whole numbers is wanted, not None"),
        (lambda: e.detokenize("the"), "a list of whole numbers is wanted, not 'the'"),
        (lambda: e.rerank("a", None), "documents: a list of texts is wanted, not None"),
        (lambda: e.rerank(None, ["b"]), "the query is a text, not of type NoneType"),
        (lambda: e.rerank("a", ["b"]), "needs a classifier head"),
        (lambda: next(e.embed_iter(None)), "texts: a list of texts is wanted, not None"),
        (lambda: next(e.embed_iter("the cat")), "texts: a list of texts is wanted, not 'the cat'"),
        (lambda: Embedder.load(None), "model: a path or a name is wanted, not None"),  # type: ignore[arg-type]
        (lambda: Embedder.load(3), "model: a path or a name is wanted, not 3 of type int"),  # type: ignore[arg-type]
        (lambda: load_tokenizer(None), "model: a path or a name is wanted"),  # type: ignore[arg-type]
    ):
        with pytest.raises(RequestError, match=message) as found:
            call()  # type: ignore[no-untyped-call]
        assert found.value.hint, message


@pytest.mark.parametrize(
    ("option", "value", "near"), [("numerics", "fats", "fast"), ("semantics", "orginal", "original")]
)
def test_a_misspelt_option_names_the_nearest(tiny: Path, option: str, value: str, near: str) -> None:
    with pytest.raises(RequestError, match=f"{option} '{value}'(.|\n)*did you mean '{near}'"):
        Embedder.load(tiny, **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("opener", [Embedder.load, open_gguf, load_tokenizer])
def test_what_is_no_model_file_is_said(opener: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").write_bytes(b"")
    for name, error, message in (
        ("no.gguf", ModelError, "no.gguf: no such file"),
        (".", ModelError, "a folder without config.json"),
        ("empty.gguf", GGUFError, "an empty file"),
    ):
        with pytest.raises(error, match=message) as found:
            opener(tmp_path / name)
        assert found.value.hint


def test_the_lower_doors_take_names_as_embedder_does(minilm: Path) -> None:
    """Ids by Hugging Face's BertTokenizer."""
    assert load_tokenizer("minilm").encode("Hello, world!") == [101, 7592, 1010, 2088, 999, 102]
    f = open_gguf("minilm")
    assert f.path == minilm
    assert f.metadata["general.architecture"] == "bert"
    assert load_tokenizer(f).encode("Hello") == load_tokenizer(f.metadata).encode("Hello") == [101, 7592, 102]


def test_the_repr_says_what_the_model_is(tiny: Path) -> None:
    text = repr(Embedder.load(tiny, numerics="exact"))
    assert "\n" not in text
    for part in ("<Embedder", "bert", "numerics exact", "32 dimensions", "pooling mean", "at most 64 tokens"):
        assert part in text


def test_help_begins_with_embedder() -> None:
    text = pydoc.render_doc(refembed, renderer=pydoc.plaintext)
    first = text.index("Embedder")
    assert all(text.index(name) > first for name in ("DownloadError", "Trace", "load_tokenizer", "cosine"))
    classes = text[text.index("\nCLASSES") :]
    assert classes.index("class Embedder") < classes.index("class Trace")
    assert "class DownloadError" not in classes


def test_every_public_name_can_be_imported() -> None:
    names = ", ".join(n for n in dir(refembed) if n != "__version__")
    assert "TooLongError" in names
    subprocess.run([sys.executable, "-c", f"from refembed import {names}"], check=True)


def test_a_text_that_is_too_long_is_an_error_of_its_own(tmp_path: Path) -> None:
    e = Embedder.load(tiny_bert(tmp_path / "t.gguf"), numerics="exact")
    with pytest.raises(TooLongError, match="the model reads at most 64"):
        e.embed("cat " * 70)
