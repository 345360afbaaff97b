"""The steps from a text to its vector, one by one: each keeps its promise, and together they are `Embedder.embed`."""

from __future__ import annotations

from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed import Embedder, ModelError
from refembed.gguf import split
from refembed.model.batch import pack
from refembed.pipeline.batches import pack_batches, spread_batches, take_batch
from refembed.pipeline.inputs import unknown_id
from refembed.pipeline.truncate import truncate
from refembed.pipeline.vectors import cut_and_normalize, forward_and_pool
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_lora import synthetic_lora

LENGTHS = st.lists(st.integers(1, 50), max_size=40)


@pytest.mark.parametrize("numerics", ["exact", "fast", "ggml"])
@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_the_steps_by_hand_give_the_bits_of_embed(tiny: Path, numerics: str, pooling: str) -> None:
    e = Embedder.load(tiny, numerics=numerics)
    text = "the cat sat on a mat " * 20  # too long
    ids = e.tokenize(text)
    short = truncate(ids, e.info.n_ctx, keep_last=e.tokenizer.vocab.is_closed(ids))
    assert (len(short), short[-1]) == (e.info.n_ctx, e.tokenizer.vocab.sep)
    rows = forward_and_pool(e.model, e.ops, pack([short]), pooling)
    vector = cut_and_normalize(rows[0], 2, 20)
    assert vector.tobytes() == e.embed(text, pooling=pooling, dimensions=20, truncate=True).tobytes()


@given(ids=st.lists(st.integers(0, 9), min_size=1, max_size=9), limit=st.integers(1, 9), keep_last=st.booleans())
def test_truncating_keeps_the_first_ids_and_the_last_if_it_is_to_stay(
    ids: list[int], limit: int, keep_last: bool
) -> None:
    found = truncate(ids, limit, keep_last=keep_last)
    assert len(found) == min(len(ids), limit)
    assert found[:-1] == ids[: len(found) - 1]
    assert found[-1] == (ids[-1] if keep_last else ids[len(found) - 1])


@given(lengths=LENGTHS, max_tokens=st.integers(0, 100), max_texts=st.none() | st.integers(1, 5))
def test_batches_are_full_and_hold_every_text_once_in_order(
    lengths: list[int], max_tokens: int, max_texts: int | None
) -> None:
    batches = list(pack_batches(lengths, max_tokens, max_texts))
    assert list(chain(*batches)) == list(range(len(lengths)))
    for batch, following in zip_longest(batches, batches[1:]):
        tokens = sum(lengths[i] for i in batch)
        assert tokens <= max_tokens or len(batch) == 1
        assert max_texts is None or len(batch) <= max_texts
        if following is not None:
            assert tokens + lengths[following[0]] > max_tokens or len(batch) == max_texts


@given(lengths=LENGTHS, min_tokens=st.integers(0, 100))
def test_a_stream_is_read_up_to_the_text_that_fills_the_batch_and_no_further(
    lengths: list[int], min_tokens: int
) -> None:
    read: list[int] = []
    stream = (read.append(n) or n for n in lengths)  # type: ignore[func-returns-value]
    batches = []
    while batch := take_batch(stream, min_tokens, int):
        batches.append(batch)
        assert read == list(chain(*batches))
        assert sum(batch) >= min_tokens or len(read) == len(lengths)
        assert sum(batch[:-1]) < min_tokens or len(batch) == 1
    assert read == lengths


@given(lengths=LENGTHS, max_tokens=st.integers(1, 100), n=st.integers(1, 4))
def test_batches_for_cores_hold_every_text_once_and_leave_no_core_idle(
    lengths: list[int], max_tokens: int, n: int
) -> None:
    batches = spread_batches(lengths, max_tokens, n)
    assert not batches or sorted(chain(*batches)) == list(range(len(lengths)))
    assert not batches or len(batches) >= min(n, len(lengths))


def test_an_id_beyond_the_vocabulary_is_found() -> None:
    assert unknown_id([], 5) is unknown_id([0, 4], 5) is None
    assert (unknown_id([0, 5, -1], 5), unknown_id([0, -1, 5], 5)) == (5, -1)


def test_the_file_of_an_embedder_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks for the file's keys later does not open it again: hashes for corpora, prompts, the server's facts."""
    from refembed.corpus.fingerprint import describe
    from refembed.hub.prompts import find
    from refembed.server.facts import Facts
    from refembed.verify.hypotheses.weights import weight_hypotheses
    from refembed.verify.reference import reference_of

    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path))
    path = synthetic(tmp_path / "m.gguf", "bert", pooling=1)
    e = Embedder.load(path, numerics="fast", lora=[synthetic_lora(tmp_path / "a.gguf", path)])
    assert e.file.metadata["general.architecture"] == "bert"

    def refuse(path: object, *mmap: bool) -> None:
        raise AssertionError(f"{path} is opened again")

    monkeypatch.setattr(split, "GGUFFile", refuse)
    assert len(describe(e)["lora"]) == 1
    assert Facts.of(e).file_type
    assert weight_hypotheses(reference_of(e))
    find(e.file)
    with pytest.raises(AssertionError, match="opened again"):
        Embedder(e.info, e.tokenizer, e.model, e.ops).file  # noqa: B018  # made by hand: opened when it is asked for


def test_vectors_without_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        cut_and_normalize(np.array([1.0, np.nan]), 2)
