"""refembed/cli/formats.py: vectors come back from every format, bit for bit where it promises that."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refembed.cli.formats import FORMATS, Item, Run
from refembed.errors import RequestError

F32 = npt.NDArray[np.float32]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8"))
EXACT = ["json", "jsonl", "csv", "npy"]
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=FLOATS)


def written(
    form: str, vectors: list[F32], texts: list[Any] | None = None, pooling: str = "mean", normalize: int = 2
) -> bytes:
    out = io.BytesIO()
    run = Run("m", pooling, normalize, vectors[0].shape[-1])
    with contextlib.closing(FORMATS[form](out, run)) as writer:
        for i, v in enumerate(vectors):
            ids = list(range(len(v) if v.ndim > 1 else 3))
            writer.write(Item(i, texts[i] if texts else f"t{i}", ids, [b"p,%d" % t for t in ids]), v)
        writer.finish()
    return out.getvalue()


def rows_of_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


READERS: dict[str, Callable[[bytes], Any]] = {
    "json": lambda b: json.loads(b)["embeddings"],
    "jsonl": lambda b: [json.loads(line)["embedding"] for line in b.decode().split("\n") if line],
    "csv": lambda b: [row[2:] for row in rows_of_csv(b)[1:]],
    "npy": lambda b: np.load(io.BytesIO(b), allow_pickle=False),
}


@pytest.mark.parametrize("form", EXACT)
@given(x=MATRICES)
def test_float32_comes_back_bit_for_bit(form: str, x: F32) -> None:
    back = np.array(READERS[form](written(form, list(x))), np.float32)
    assert back.shape == x.shape
    assert back.tobytes() == x.tobytes()


@pytest.mark.parametrize("form", EXACT)
def test_every_exponent_comes_back(form: str) -> None:
    bits = np.arange(0, 0x7F800000, 0x00C0FFEE // 7, dtype=np.uint32)  # from zero and the subnormals to the largest
    x = np.concatenate([bits, bits | 0x80000000]).astype(np.uint32).view(np.float32)[None]
    back = np.array(READERS[form](written(form, list(x))), np.float32)
    assert back.tobytes() == x.tobytes()


@given(x=MATRICES)
def test_text_has_seven_digits(x: F32) -> None:
    shown = " ".join(line for line in written("text", list(x)).decode().splitlines() if not line.startswith("["))
    np.testing.assert_allclose(np.array(shown.split(), np.float64), x.ravel().astype(np.float64), rtol=5.1e-7)


@given(x=hnp.arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32)))
def test_raw_is_what_c_prints(x: F32) -> None:
    lines = written("raw", list(x)).decode().splitlines()
    assert lines == [" ".join("%1.7f" % float(v) for v in row) for row in x]  # noqa: UP031  # llama-embedding's format


def test_raw_has_whole_numbers_where_the_largest_is_32760() -> None:
    assert written("raw", [np.array([32760.0, -1.6], np.float32)], normalize=0) == b"32760 -2\n"


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_texts_come_back(form: str, texts: list[str]) -> None:
    content = written(form, [np.ones(2, np.float32)] * len(texts), list(texts))
    if form == "jsonl":
        lines = [json.loads(line) for line in content.decode().split("\n") if line]
        back = [(line["index"], line["text"], line["tokens"]) for line in lines]
    else:
        back = [(int(row[0]), row[1], 3) for row in rows_of_csv(content)[1:]]
    assert back == [(i, t, 3) for i, t in enumerate(texts)]


@pytest.mark.parametrize("form", ["jsonl", "csv", "text"])
def test_texts_that_are_not_utf_8_are_still_written(form: str) -> None:
    x = [np.ones(2, np.float32)] * 2
    shown = "a\\xffb" if form == "text" else "a\ufffdb"
    assert shown in written(form, x, [b"a\xffb", "b"]).decode()


def test_json_says_how_it_was_made() -> None:
    about = json.loads(written("json", [np.ones(2, np.float32)] * 2))
    assert {k: v for k, v in about.items() if k != "embeddings"} == {
        "model": "m",
        "pooling": "mean",
        "normalize": 2,
        "dimension": 2,
        "tokens": [3, 3],
    }


def test_one_text_has_no_head() -> None:
    x = np.array([1, 2], np.float32)
    assert written("text", [x]).split() == [b"1", b"2"]
    assert written("text", [x, x]).decode().splitlines() == ["[0] t0", " 1             2", "[1] t1", " 1             2"]


def test_an_escape_sequence_does_not_reach_the_terminal() -> None:
    assert b"\x1b" not in written("text", [np.ones(1, np.float32)] * 2, ["\x1b[31m", "b"])


TOKENS = [np.arange(6, dtype=np.float32).reshape(3, 2), np.ones((1, 2), np.float32)]


def test_token_vectors_in_json() -> None:
    assert json.loads(written("json", TOKENS, pooling="none"))["embeddings"] == [t.tolist() for t in TOKENS]
    lines = written("jsonl", TOKENS, pooling="none").decode().splitlines()
    assert [json.loads(line)["embedding"] for line in lines] == [t.tolist() for t in TOKENS]


def test_token_vectors_in_csv() -> None:
    head, *rows = rows_of_csv(written("csv", TOKENS, pooling="none"))
    assert head == ["index", "token", "id", "piece", "e0", "e1"]
    assert [row[:4] for row in rows] == [["0", str(t), str(t), f"p,{t}"] for t in range(3)] + [["1", "0", "0", "p,0"]]
    assert np.array_equal(np.array([row[4:] for row in rows], np.float32), np.concatenate(TOKENS))


def test_token_vectors_in_raw_and_text() -> None:
    assert len(written("raw", TOKENS, pooling="none").splitlines()) == 4
    heads = [line for line in written("text", TOKENS, pooling="none").decode().splitlines() if line.startswith("[")]
    assert heads == ["[0.0] p,0 (0)", "[0.1] p,1 (1)", "[0.2] p,2 (2)", "[1.0] p,0 (0)"]
    assert written("text", TOKENS[:1], pooling="none").startswith(b"[0.0] p,0 (0)\n")


def test_npy_takes_the_tokens_of_one_text() -> None:
    assert np.array_equal(np.load(io.BytesIO(written("npy", TOKENS[:1], pooling="none"))), TOKENS[0])
    with pytest.raises(RequestError, match="npy holds one array") as e:
        written("npy", TOKENS, pooling="none")
    assert "jsonl" in e.value.hint


def test_npy_is_what_numpy_writes() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = io.BytesIO()
    np.save(expected, x)
    assert np.load(io.BytesIO(written("npy", list(x)))).dtype == np.dtype("<f4")
    assert written("npy", list(x)) == expected.getvalue()


def test_npy_of_more_than_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refembed.cli.formats.NPY_IN_MEMORY", 64)
    x = np.arange(4000, dtype=np.float32).reshape(100, 40)
    assert np.array_equal(np.load(io.BytesIO(written("npy", list(x)))), x)


@pytest.mark.parametrize("form", ["jsonl", "csv", "raw", "text", "json"])
def test_lines_are_written_as_they_come(form: str) -> None:
    out = io.BytesIO()
    writer = FORMATS[form](out, Run("m", "mean", 2, 2))
    sizes = []
    for i in range(5):
        writer.write(Item(i, "t", [1], []), np.ones(2, np.float32))
        sizes.append(len(out.getvalue()))
    assert sizes[1] > 0
    assert sizes == sorted(set(sizes))
