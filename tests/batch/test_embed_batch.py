"""EmbedBatch on dictionaries of arrays; what needs pandas, Arrow or an engine is in tests/peers/test_engines.py."""

from __future__ import annotations

import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.batch import EmbedBatch
from refembed.batch.embed_batch import models
from refembed.corpus.fingerprint import digest
from refembed.embedder import Embedder
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.kernels import blas, threads
from tests.child import ROOT
from tests.copies import copied
from tests.tiny import tiny_bert

TEXTS = ["the cat sat", "a", "hello world! hello"]
LONG = "a " * 99  # 101 tokens; the model reads 64


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Any:
    """EmbedBatch chooses one thread for its process."""
    before, blas_before = list(threads.chosen), list(blas.chosen)
    yield
    threads.chosen[:], blas.chosen[:] = before, blas_before
    threads.workers.cache_clear()


def test_rows_keep_their_columns_and_get_the_bits_of_embed(tiny: Path) -> None:
    given = {"id": np.array([3, 1, 2]), "text": np.array(TEXTS, object)}
    found = EmbedBatch(tiny)(given)
    assert list(found) == ["id", "text", "embedding"]
    assert list(given) == ["id", "text"]
    assert found["id"] is given["id"]
    assert found["embedding"].dtype == np.float32
    assert np.array_equal(found["embedding"], Embedder.load(tiny).embed(TEXTS))


@pytest.mark.parametrize("options", [{"pooling": "cls", "normalize": -1}, {"dimensions": 8}, {"numerics": "exact"}])
def test_options_are_those_of_embed_and_load(tiny: Path, options: dict[str, Any]) -> None:
    load = {k: v for k, v in options.items() if k == "numerics"}
    embed = {k: v for k, v in options.items() if k != "numerics"}
    found = EmbedBatch(tiny, "body", "v", **options)({"body": TEXTS})["v"]
    assert np.array_equal(found, Embedder.load(tiny, **load).embed(TEXTS, **embed))


def test_float16_is_the_nearest(tiny: Path) -> None:
    found = EmbedBatch(tiny, dtype="float16")({"text": TEXTS})["embedding"]
    assert found.dtype == np.float16
    wanted = np.asarray(Embedder.load(tiny).embed(TEXTS))
    assert np.abs(found - wanted).max() <= 2.0**-12  # half a step of float16 below 1


def test_prompts_go_before_each_text(tiny: Path) -> None:
    found = EmbedBatch(tiny, prefix="hello ")({"text": TEXTS})["embedding"]
    assert np.array_equal(found, Embedder.load(tiny).embed(["hello " + text for text in TEXTS]))


def test_no_rows_are_a_batch_too(tiny: Path) -> None:
    assert EmbedBatch(tiny)({"text": []})["embedding"].shape == (0, 32)


def test_it_travels_small_and_loads_once(tiny: Path) -> None:
    batch = EmbedBatch(tiny, truncate=True)
    found = batch({"text": [*TEXTS, LONG]})["embedding"]
    pickled = pickle.dumps(batch)
    assert len(pickled) < 1000
    loaded = len(models.loaded)
    for _ in range(3):
        assert np.array_equal(pickle.loads(pickled)({"text": [*TEXTS, LONG]})["embedding"], found)
    assert len(models.loaded) == loaded


def test_a_text_that_cannot_be_embedded_fails_its_batch_with_its_row(tiny: Path) -> None:
    batch = EmbedBatch(tiny)
    with pytest.raises(TooLongError, match="row 1 of column 'text': 101 tokens"):
        batch({"text": ["a", LONG]})
    for value in (None, float("nan"), 7):
        with pytest.raises(RequestError, match="row 2 of column 'text': no text, but"):
            batch({"text": ["a", "b", value]})
    with pytest.raises(RequestError, match=r"no column 'text'\n.*columns are id, body"):
        batch({"id": [1], "body": ["a"]})


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({}, "embedding"), ({"into": "id"}, "id"), ({"into": "v", "on_error": "column"}, "v_error"),
        ({"into": "embedding", "on_error": "column"}, "embedding"),
    ],
)  # fmt: skip
def test_a_column_that_is_there_is_never_written_over(tiny: Path, options: dict[str, Any], there: str) -> None:
    """Nothing is loaded for it."""
    given = {"id": [1], "text": ["a"], "embedding": [None], "v_error": [""]}
    hint = rf"another name for the vectors, into=NAME \(--into NAME\), or rows without '{there}'"
    with pytest.raises(RequestError, match=rf"^there is a column '{there}' already\n  hint: {hint}"):
        EmbedBatch("/nowhere/m.gguf", **options)(given)
    assert list(EmbedBatch(tiny, into="v")(given)) == [*given, "v"]


def test_errors_may_go_into_a_column(tiny: Path) -> None:
    found = EmbedBatch(tiny, on_error="column")({"text": ["a", LONG, None, "the cat sat"]})
    assert [e is None for e in found["embedding_error"]] == [True, False, False, True]
    assert found["embedding_error"][1].startswith("row 1 of column 'text': 101 tokens, but the model reads at most 64")
    assert np.isnan(found["embedding"][1:3]).all()
    assert np.array_equal(found["embedding"][[0, 3]], Embedder.load(tiny).embed(["a", "the cat sat"]))


def test_a_vector_that_is_not_finite_is_an_error_of_its_row_alone(tmp_path: Path) -> None:
    model = with_nan(tiny_bert(tmp_path / "m.gguf"), "dog")
    rows = {"text": ["a cat", "a dog", "a"]}
    found = EmbedBatch(model, on_error="column")(rows)
    said = "row 1 of column 'text': the model gave a vector that is not finite"
    assert found["embedding_error"].tolist() == [None, said, None]
    assert np.isnan(found["embedding"][1]).all()
    assert np.isfinite(found["embedding"][[0, 2]]).all()
    with pytest.raises(ModelError, match=rf"^{said}\n  hint: `refembed doctor"):
        EmbedBatch(model)(rows)


def with_nan(path: Path, word: str) -> Path:
    """The model, with NaN in the embedding of a word."""
    e = Embedder.load(path)
    x = np.array(e.file.tensors["token_embd.weight"].dequantize())
    x[e.tokenize(word)[1], 0] = np.nan
    return copied(path, path.with_name("nan.gguf"), tensors={"token_embd.weight": x})


def test_what_float16_cannot_hold_is_an_error_of_its_row(tmp_path: Path) -> None:
    """Its largest number is 65504; the last norm is made to give some million."""
    path = tiny_bert(tmp_path / "m.gguf")
    norm = {f"blk.1.layer_output_norm.{part}": 1e6 for part in ("weight", "bias")}
    norm = {name: factor * tensor_of(path, name) for name, factor in norm.items()}
    model, rows = copied(path, tmp_path / "large.gguf", tensors=norm), {"text": ["a cat", "the cat sat"]}
    said = r"row 0 of column 'text': a number of its vector, \d\.?\d*e\+06, is too large for float16"
    with pytest.raises(RequestError, match=rf"^{said}\n  hint: normalize=2, or dtype"):
        EmbedBatch(model, dtype="float16", normalize=-1)(rows)
    found = EmbedBatch(model, dtype="float16", normalize=-1, on_error="column")(rows)
    assert np.isnan(found["embedding"]).all()
    assert re.fullmatch(said, found["embedding_error"][0])
    assert np.isfinite(EmbedBatch(model, normalize=-1)(rows)["embedding"]).all()
    assert np.isfinite(EmbedBatch(model, dtype="float16")(rows)["embedding"]).all()


def tensor_of(path: Path, name: str) -> Any:
    return np.array(Embedder.load(path).file.tensors[name].dequantize())


def test_what_is_expected_is_compared(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another model, other options and another processor are refused; a processor may be allowed."""
    record = EmbedBatch(tiny).fingerprint()
    assert json.loads(json.dumps(record)) == record
    rows = {"text": TEXTS}
    for expect in (record, digest(record).hex()):
        assert len(EmbedBatch(tiny, expect=expect)(rows)["embedding"]) == 3
    other = tiny_bert(tmp_path / "other.gguf", seed=1)
    with pytest.raises(RequestError, match="would compute other vectors than where the job began: model: was"):
        EmbedBatch(other, expect=record)(rows)
    with pytest.raises(RequestError, match="another model, processor or version"):
        EmbedBatch(other, expect=digest(record).hex())(rows)
    with pytest.raises(RequestError, match="pooling: was 'mean', is 'cls'"):
        EmbedBatch(tiny, expect=record, pooling="cls")(rows)
    elsewhere = record | {"machine": "riscv64 features 0 numpy 1 numba 1"}
    with pytest.raises(RequestError, match=r"machine: was 'riscv64[^;]*\n  hint: allow_mixed=True"):
        EmbedBatch(tiny, expect=elsewhere)(rows)
    with pytest.raises(RequestError, match="model: was"):
        EmbedBatch(other, expect=elsewhere, allow_mixed=True)(rows)
    with caplog.at_level(logging.WARNING, "refembed.batch"):
        assert len(EmbedBatch(tiny, expect=elsewhere, allow_mixed=True)(rows)["embedding"]) == 3
    assert "machine: was 'riscv64" in caplog.text


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"into": "text"}, "column 'text' has the texts"),
        ({"column": "x_error", "into": "x"}, "column 'x_error' has the texts"),
        ({"dtype": "int8"}, "dtype 'int8'"), ({"on_error": "ignore"}, "on_error 'ignore'"),
        ({"allow_mixed": True}, "of what is expected"), ({"pooling": "none"}, "a vector a token"),
        ({"numerics": "fats"}, "no such numerics"), ({"pooling": "men"}, "pooling 'men'"),
        ({"dimensions": 99}, "32 numbers"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(tiny: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        EmbedBatch(tiny, **options)({"text": TEXTS})


def test_a_model_that_is_no_path_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="path or name"):
        EmbedBatch(Embedder.load(tiny))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no such file"):
        EmbedBatch(tmp_path / "none.gguf")({"text": ["a"]})


@pytest.mark.parametrize("batch", [["a"], "a", None, np.array(["a"])])
def test_a_batch_that_is_none_is_refused(tiny: Path, batch: Any) -> None:
    with pytest.raises(RequestError, match="a batch of type"):
        EmbedBatch(tiny)(batch)


IMPORTED = "import refembed.batch, sys; print([m for m in ('pandas', 'pyarrow', 'numba', 'ray') if m in sys.modules])"


def test_importing_it_imports_no_engine_and_no_compiler() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "[]\n"


def test_one_thread_is_the_default(tiny: Path) -> None:
    threads.use(2)
    EmbedBatch(tiny)({"text": TEXTS})
    assert threads.cores() == 1
    EmbedBatch(tiny, threads=2)({"text": TEXTS})
    assert threads.cores() == 2
