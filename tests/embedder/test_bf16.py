"""Matrices and activations rounded to bfloat16: as exact as stated, and texts stand alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.verify.compare.arrays import cosine_distance
from tests.embedder.test_int8 import TEXTS

FAR = 5.2e-5  # 1 - cos to `exact`, the worst of these texts: measured 3.0e-5, times 1.7


def test_vectors_are_as_near_as_stated_and_no_nearer() -> None:
    """Nearer would mean that nothing is rounded."""
    found = Embedder.load("minilm", numerics="bf16").embed(TEXTS)
    exact = Embedder.load("minilm", numerics="exact").embed(TEXTS)
    far = [cosine_distance(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(exact, found, strict=True)]
    assert FAR / 100 < max(far) <= FAR


def test_a_text_has_the_same_bits_in_any_batch_and_when_it_is_replayed() -> None:
    e = Embedder.load("minilm", numerics="bf16")
    spinning_pool.start()  # from here on short texts are captured and replayed
    whole: Any = e.embed(TEXTS)
    for i, text in itertools.chain(enumerate(TEXTS), enumerate(TEXTS)):
        assert e.embed(text).tobytes() == whole[i].tobytes()
    backwards: Any = e.embed(TEXTS[::-1])
    assert backwards[::-1].tobytes() == whole.tobytes()


@pytest.mark.parametrize("outtype", ["bf16", "q8_0"])
def test_nothing_kept_has_the_same_bits(outtype: str) -> None:
    kept, mapped = (
        Embedder.load(f"minilm:{outtype}", numerics="bf16", memory_budget=budget) for budget in (None, "mapped")
    )
    assert kept.embed(TEXTS[0]).tobytes() == mapped.embed(TEXTS[0]).tobytes()
