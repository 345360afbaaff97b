"""Files written in an unusual way: refembed loads those that llama.cpp loads, and refuses those that it refuses.

The classes were found by changing 900 files at random and asking live llama.cpp; docs/security.md has the table.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError, ModelError, RefembedError
from refembed.gguf import open_gguf
from refembed.model import load_model
from refembed.testing.synthetic import synthetic
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.attack.gguf_mutants import Raw, take_apart
from tests.copies import copied, with_keys
from tests.tiny import tiny_bert


def changed(path: Path, change: Any) -> Path:
    """A copy, taken apart, changed and put together."""
    raw: Raw = take_apart(path)
    change(raw)
    path.with_suffix(".changed").write_bytes(raw.pack())
    return path.with_suffix(".changed")


@pytest.mark.oracle
@pytest.mark.parametrize("ones", [1, 2])
def test_dimensions_of_1_may_be_written_or_left_out(ones: int, tmp_path: Path) -> None:
    """`ne` {64} is {64, 1, 1, 1} to ggml."""

    def change(raw: Raw) -> None:
        for t in raw.tensors:
            t[1] = [*t[1], *[1] * ones]  # type: ignore[misc]

    plain = tiny_bert(tmp_path / "tiny.gguf")
    path = changed(plain, change)
    with LlamaCpp(path) as engine:
        theirs = engine.embed([[2, 5, 6, 3]])
    ours = Embedder.load(path).embed([[2, 5, 6, 3]], normalize=-1)
    assert np.array_equal(ours, Embedder.load(plain).embed([[2, 5, 6, 3]], normalize=-1))
    difference = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    assert difference < 2e-3, difference  # of numbers up to 2.4; GELU is a table of float16 there


def refused_by_both(path: Path, message: str) -> None:
    """Neither loads it, or llama.cpp cannot make a context of it."""
    with pytest.raises(ModelError, match=message):
        load_model(open_gguf(path))
    with pytest.raises(EngineError), LlamaCpp(path) as engine:
        engine.embed([[1, 2]])


@pytest.mark.oracle
def test_values_have_the_width_of_c_over_h_where_no_key_says_otherwise(tmp_path: Path) -> None:
    """Whatever attention.key_length is: 36 channels in 6 heads are 6 each, and the file has 10."""
    full = synthetic(tmp_path / "full.gguf", "qwen3")
    path = copied(full, tmp_path / "less.gguf", {"qwen3.attention.value_length": None})
    refused_by_both(path, "heads of keys and of values that differ in width")


@pytest.mark.oracle
def test_a_model_without_a_vocabulary_has_as_many_tokens_as_vocab_size_says(tmp_path: Path) -> None:
    full = synthetic(tmp_path / "full.gguf", "qwen3", V=101)
    path = copied(full, tmp_path / "none.gguf", {"tokenizer.ggml.model": ("none", "STRING")})
    refused_by_both(path, r"mis-shaped token_embd.weight: \(101, 36\), but the metadata ask for \(V C\) = \(0, 36\)")


def test_a_vocabulary_without_texts_has_a_limit(tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.model": ("none", "STRING"), "qwen3.vocab_size": (2**32 - 1, "UINT32")}
    path = copied(synthetic(tmp_path / "full.gguf", "qwen3"), tmp_path / "none.gguf", keys)
    with pytest.raises(RefembedError, match=r"vocab_size is 4,?294,?967,?295"):
        Embedder.load(path)


@pytest.mark.oracle
def test_a_context_of_no_tokens_is_refused(tmp_path: Path) -> None:
    """Truncated to 0 tokens, a text kept all of them."""
    path = with_keys(synthetic(tmp_path / "a.gguf", "qwen3"), tmp_path / "b.gguf", {"context_length": (0, "UINT32")})
    refused_by_both(path, r"qwen3\.context_length is 0")


def test_names_end_where_they_end_and_not_at_a_nul(tmp_path: Path) -> None:
    """llama.cpp looks up keys as C strings and takes such a file; here it is refused, as gguf-py reads other names."""

    def change(raw: Raw) -> None:
        raw.keys[0] = (raw.keys[0][0] + b"\0", *raw.keys[0][1:])

    with pytest.raises(RefembedError, match=r"no such key among \d+"):
        load_model(open_gguf(changed(tiny_bert(tmp_path / "tiny.gguf"), change)))


def test_weights_that_overflow_end_in_one_error_and_no_warning(tmp_path: Path) -> None:
    """NumPy's warnings are errors in this test suite."""
    large = {
        name: np.full((32,), 3e38, np.float32) for name in ("token_embd_norm.weight", "blk.0.attn_output_norm.weight")
    }
    path = copied(tiny_bert(tmp_path / "a.gguf"), tmp_path / "b.gguf", tensors=large)
    for numerics in ("fast", "exact", "ggml"):
        with contextlib.suppress(ModelError):  # `exact` may have room for it
            Embedder.load(path, numerics=numerics).embed("the cat")
