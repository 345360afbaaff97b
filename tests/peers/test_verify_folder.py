"""`verify` against all-MiniLM-L6-v2 as published: three causes are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refembed import Embedder
from refembed.verify.engines.base import open_engine
from refembed.verify.run import verify

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

PLAIN = ["Hello, world!", "How do I cook pasta?", "The quick brown fox jumps over the lazy dog.", "3.14159 is pi"]


def test_gelu_is_named_where_tokens_agree(minilm: Path, minilm_folder: Path) -> None:
    v = verify(minilm, open_engine(str(minilm_folder), minilm), PLAIN)
    assert [c.id for c in v.causes] == ["gelu-erf"]
    assert v.kind in ("differs", "within rounding")


def test_gelu_decomposed_hangul_and_a_cut_are_named_together(minilm: Path, minilm_folder: Path) -> None:
    """The built-in texts: one has hangul, which only the published tokenizer takes apart; one has over 256 tokens.

    How long it takes: `python -m benchmarks verify`.
    """
    v = verify(Embedder.load(minilm, numerics="fast"), open_engine(str(minilm_folder), minilm))
    assert "nfd + gelu-erf + cut-256-closed" in [c.id for c in v.causes]
    assert v.first_wrong_tensor == "inp_tokens"


def test_the_environment_is_left_as_it_was(minilm: Path, minilm_folder: Path) -> None:
    """OpenMP's threads are set to sleep when they wait, but only while PyTorch is loaded."""
    before = dict(os.environ)
    open_engine(str(minilm_folder), minilm).close()
    assert {k: v for k, v in os.environ.items() if k.startswith("OMP")} == {
        k: v for k, v in before.items() if k.startswith("OMP")
    }
