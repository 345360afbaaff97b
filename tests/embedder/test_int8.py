"""Quantized weights multiplied as whole numbers, on the default model: as exact as stated, and texts stand alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder, hub
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.verify.compare.arrays import cosine_distance
from refembed.verify.engines.callables import CallableEngine
from refembed.verify.run import verify

TEXTS = [
    "a cat sat on the mat", "", "Hello, world!", "x", "Der schnelle braune Fuchs springt über den faulen Hund.",
    "The quick brown fox jumps over the lazy dog. " * 9, "to be or not to be", "日本語のテキスト", "1 2 3 4 5 6 7 8 9",
]  # fmt: skip
# 1 - cos to `exact`, the worst of these texts: measured 1.23e-3 and 2.3e-8 (Q8_0), times about 1.7
FAR = {"int8": 2.1e-3, "fast": 4e-8}


@pytest.fixture(scope="module", params=["q8_0", "q4_k_m"])
def path(request: pytest.FixtureRequest) -> Path:
    return hub.resolve("minilm", outtype=request.param)


@pytest.mark.parametrize("numerics", FAR)
def test_vectors_are_as_near_as_stated_and_no_nearer(path: Path, numerics: str) -> None:
    """Nearer would mean that nothing is rounded: `fast` without whole numbers is 2e-12 away."""
    e, exact = Embedder.load(path, numerics=numerics), Embedder.load(path, numerics="exact").embed(TEXTS)
    far = [
        cosine_distance(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(exact, e.embed(TEXTS), strict=True)
    ]
    least = FAR[numerics] / 1000 if e.ops.bits in (8, 16) else 0  # type: ignore[attr-defined]
    assert least < max(far) <= FAR[numerics]


def test_a_text_has_the_same_bits_in_any_batch_and_when_it_is_replayed(path: Path) -> None:
    e = Embedder.load(path, numerics="int8")
    spinning_pool.start()  # from here on short texts are captured and replayed
    whole: Any = e.embed(TEXTS)
    for i, text in itertools.chain(enumerate(TEXTS), enumerate(TEXTS)):
        assert e.embed(text).tobytes() == whole[i].tobytes()
    backwards: Any = e.embed(TEXTS[::-1])
    assert backwards[::-1].tobytes() == whole.tobytes()
    mapped = Embedder.load(path, numerics="int8", memory_budget=0)
    assert mapped.embed(TEXTS[0]).tobytes() == whole[0].tobytes()


def test_verify_takes_int8_for_sound_and_names_what_is_wrong_with_it(path: Path) -> None:
    """An engine that rounds in its own way, and one that also pools another token."""
    e = Embedder.load(path, numerics="int8")
    sound = verify(path, CallableEngine(lambda texts: e.embed(list(texts))), TEXTS[:6])
    assert sound.kind == "identical"
    faulty = verify(path, CallableEngine(lambda texts: e.embed(list(texts), pooling="cls")), TEXTS[:6])
    assert (faulty.kind, faulty.cause) == ("differs", "the engine pools the first token")


def test_a_file_without_quantized_weights_has_its_attention_rounded_and_no_more(tiny: Path) -> None:
    with pytest.warns(UserWarning, match="no weight is quantized, so that numerics int8 is fast with attention in bf"):
        e = Embedder.load(tiny, numerics="int8")
    assert e.info.numerics == "int8"
    fast = Embedder.load(tiny, numerics="fast")
    ours, theirs = (x.trace("hello world") for x in (e, fast))
    assert ours["Qcur-0"].tobytes() == theirs["Qcur-0"].tobytes()
    assert ours["kq-0"].tobytes() != theirs["kq-0"].tobytes()
    far = np.float64(1) - e.embed("hello world").astype(np.float64) @ fast.embed("hello world")
    assert 1e-9 < far < 1e-4
