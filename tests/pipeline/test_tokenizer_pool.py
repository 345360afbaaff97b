"""Texts tokenized by other processes: the bits and the order of one, whatever happens to them."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.embedder import Embedder
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.pipeline import tokenizer_pool
from refembed.pipeline.tokenizer_pool import TokenizerPool
from tests.tiny import WORDS, tiny_bert

pytestmark = pytest.mark.system

TEXTS = [" ".join(WORDS[i : i + 1 + i % 17]) for i in range(40)] * 12
MIXED: list[Any] = ["the cat", b"a dog \xff", [1, 3, 4], bytearray(b"hello"), "Größe \ud800 東京", "", *TEXTS[:50]]


@pytest.fixture(scope="module")
def e(tiny: Path) -> Embedder:
    return Embedder.load(tiny)


@pytest.fixture(scope="module")
def alone(e: Embedder) -> list[bytes]:
    """The bits of one process."""
    return bits(e.embed(TEXTS))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few texts are many chunks."""
    monkeypatch.setattr(tokenizer_pool, "CHUNK_BYTES", 100)


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[TokenizerPool]:
    """Those that are started."""
    found: list[TokenizerPool] = []
    start = TokenizerPool.__init__

    def noted(self: TokenizerPool, *arguments: Any) -> None:
        found.append(self)
        start(self, *arguments)

    monkeypatch.setattr(TokenizerPool, "__init__", noted)
    return found


def bits(vectors: Any) -> list[bytes]:
    return [vector.tobytes() for vector in vectors]


def wait_until_ended(pids: set[int]) -> None:
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end, "processes that tokenize are left"
        time.sleep(0.02)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_rows_have_the_order_and_the_bits_of_one_process(e: Embedder, alone: list[bytes], n: int) -> None:
    assert bits(e.embed_iter(iter(TEXTS), tokenizers=n, batch_tokens=64)) == alone


@pytest.mark.usefixtures("small_chunks")
def test_whatever_can_be_embedded_can_be_mixed(e: Embedder) -> None:
    """Characters, bytes that are not UTF-8, token ids, half a surrogate pair, nothing."""
    wanted = bits(e.embed_iter(MIXED))
    assert bits(e.embed_iter(MIXED, tokenizers=2)) == wanted
    assert list(e.embed_iter([], tokenizers=2)) == []


@pytest.mark.usefixtures("small_chunks")
def test_processes_that_tokenize_go_with_processes_that_compute(tiny: Path, alone: list[bytes]) -> None:
    e = Embedder.load(tiny)
    e.start_pool(2)
    assert bits(e.embed_iter(TEXTS, tokenizers=2, batch_tokens=64)) == alone
    e.stop_pool()


@pytest.mark.usefixtures("small_chunks")
def test_texts_are_tokenized_while_others_are_computed(
    e: Embedder, pools: list[TokenizerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch is not done before processes have tokenized the texts of several batches behind it."""
    futures: list[concurrent.futures.Future[Any]] = []
    submit, compute = TokenizerPool.submit, e.vectors

    def noted(self: TokenizerPool, *arguments: Any) -> concurrent.futures.Future[Any]:
        futures.append(submit(self, *arguments))
        return futures[-1]

    def patient(ids: Any, *options: Any) -> Any:
        ahead = concurrent.futures.wait(futures[:6], 60)
        assert not ahead.not_done
        return compute(ids, *options)

    monkeypatch.setattr(TokenizerPool, "submit", noted)
    monkeypatch.setattr(e, "vectors", patient, raising=False)
    stream = e.embed_iter(TEXTS, tokenizers=2, batch_tokens=16)
    next(stream)
    assert 6 <= len(futures) <= 2 * tokenizer_pool.CHUNKS_AHEAD + 2, "ahead, and not without end"
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.usefixtures("small_chunks")
def test_a_text_that_is_too_long_is_named(e: Embedder, alone: list[bytes], truncate: bool) -> None:
    texts = [*TEXTS[:100], "a " * 99, *TEXTS[:9]]
    stream = e.embed_iter(texts, tokenizers=2, batch_tokens=16, truncate=truncate)
    if truncate:
        assert bits(stream) == bits(e.embed(texts, truncate=True))
        return
    got: list[bytes] = []
    with pytest.raises(TooLongError, match="input 100: 101 tokens"):
        got.extend(vector.tobytes() for vector in stream)
    assert got[:90] == alone[:90]
    with pytest.raises(RequestError, match="input 1: neither a text nor a list of token ids: None"):
        list(e.embed_iter(["a", None], tokenizers=2))  # type: ignore[list-item]


class BrokenError(Exception):
    """Of the caller's own texts."""


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("how", ["the end", "stopped early", "texts fail", "a text is refused", "computing fails"])
def test_processes_that_tokenize_end_with_the_iterator(
    e: Embedder, pools: list[TokenizerPool], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:

    def texts() -> Iterator[str]:
        yield from TEXTS[:60]
        if how == "texts fail":
            raise BrokenError
        yield "a " * (99 if how == "a text is refused" else 2)

    stream = e.embed_iter(texts(), tokenizers=2, batch_tokens=16)
    next(stream)
    started = set(pools[0].pids)
    assert len(started) == 2
    if how == "stopped early":
        del stream
    elif how == "computing fails":
        monkeypatch.setattr(e, "vectors", lambda *arguments: 1 / 0, raising=False)
        with pytest.raises(ZeroDivisionError):
            list(stream)
    elif how == "the end":
        assert sum(1 for _ in stream) == 60
    else:
        with pytest.raises(BrokenError if how == "texts fail" else TooLongError):
            list(stream)
    wait_until_ended(started)


@pytest.mark.limit(300)
@pytest.mark.usefixtures("small_chunks")
def test_a_process_that_is_killed_is_replaced_and_nothing_is_lost(
    e: Embedder, alone: list[bytes], pools: list[TokenizerPool], caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    with caplog.at_level(logging.WARNING, "refembed.pool"):
        for n, vector in enumerate(e.embed_iter(TEXTS * 2, tokenizers=2, batch_tokens=64)):
            found.append(vector.tobytes())
            if n in (100, 400):
                os.kill(pools[0].pids[0], signal.SIGKILL)
    assert found == alone * 2
    assert "of the pool of tokenizers ended (SIGKILL)" in caplog.text


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "m.gguf")
    e = Embedder.load(path, mmap=False)
    token = e.tokenizer.vocab.tokens[7]
    e.tokenizer.vocab.tokens[7] = b"other"
    with pytest.raises(ModelError, match="its vocabulary is another one than when the model was loaded"):
        next(e.embed_iter(["a"], tokenizers=1))
    e.tokenizer.vocab.tokens[7] = token
    assert len(list(e.embed_iter(["a"], tokenizers=1))) == 1


@pytest.mark.parametrize("n", [0, -1])
def test_a_number_of_processes_that_cannot_be_is_refused(e: Embedder, n: int) -> None:
    with pytest.raises(RequestError, match=f"tokenizers {n}: a number of processes"):
        next(e.embed_iter(["a"], tokenizers=n))


def test_what_a_tokenizer_refuses_comes_behind_the_texts_before_it(
    e: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever text of a chunk it is."""
    encode = tokenizer_pool.load_encoder(e.info.path, tokenizer_pool.checksum(e.tokenizer))
    flat, lengths, error = encode(["a cat", None, 7, "a dog"])  # type: ignore[list-item]
    assert lengths.tolist() == [len(e.tokenize("a cat")), -1]
    assert flat.tolist() == e.tokenize("a cat")
    assert isinstance(error, RequestError)

    def answers(self: TokenizerPool, *arguments: Any) -> Iterator[Any]:
        list(arguments[0])
        yield np.array([1, 2, 3], np.int32), np.array([2, 1], np.int32), RequestError("no further")

    monkeypatch.setattr(TokenizerPool, "answers", answers)
    pool = TokenizerPool(e.info.path, e.tokenizer, 1)
    stream = pool.stream(["a", "b", "c"])
    assert [next(stream), next(stream)] == [("a", [1, 2]), ("b", [3])]
    with pytest.raises(RequestError, match="no further"):
        next(stream)
    pool.close()
