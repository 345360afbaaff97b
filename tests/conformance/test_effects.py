"""`python -m conformance effects`: each effect is what its name says. Oracles: gguf-py, plain NumPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from conformance import effects
from conformance.cases import Text
from conformance.effects import EFFECTS, Effect, Size, SwappedOps, budget, markdown, round_activations, size
from refembed import Embedder
from refembed.arrays import F32
from refembed.gguf import BY_NAME, Tensor
from refembed.kernels.numerics import load_ops


def weight(x: F32, kind: str) -> Tensor:
    """A matrix as gguf-py writes it."""
    raw = np.ascontiguousarray(quants.quantize(x, GGMLQuantizationType[kind])).reshape(-1).view(np.uint8)
    return Tensor("w", x.shape, BY_NAME[kind], raw, 0, "<")


def numbers(*shape: int) -> F32:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def there_and_back(x: F32, kind: str) -> F32:
    """Through a type of gguf-py and back."""
    one = GGMLQuantizationType[kind]
    found: F32 = quants.dequantize(quants.quantize(x, one), one)
    return found


@pytest.mark.parametrize(
    ("kind", "dot"), [("F32", "F32"), ("F16", "F16"), ("BF16", "BF16"), ("Q8_0", "Q8_0"), ("Q4_0", "Q8_0")]
)
def test_activations_are_rounded_as_gguf_py_rounds(kind: str, dot: str) -> None:
    x = numbers(5, 64)
    found = round_activations(x.astype(np.float64), weight(numbers(3, 64), kind))
    want = there_and_back(x, dot)
    if dot == "Q8_0":  # llama.cpp rounds x * (1 / d), gguf-py x / d: a number may fall on the next step
        step = np.abs(x.reshape(5, 2, 32)).max(axis=-1, keepdims=True) / 127
        off = np.abs(found - want).reshape(5, 2, 32) / step
        assert off.max() < 1.01
        assert np.mean(off > 0.01) < 0.01
    else:
        assert np.array_equal(found, want)


def test_a_rounded_product_is_the_product_of_rounded_numbers() -> None:
    exact, ggml = load_ops("exact"), load_ops("ggml", flash_attn=False, repack=False)
    x, w = numbers(5, 64), numbers(3, 64)
    mixed = SwappedOps(exact, ggml, next(e for e in EFFECTS if e.name == "activations"))
    found = mixed.linear(x.astype(np.float64), weight(w, "F16"))
    want = there_and_back(x, "F16").astype(np.float64) @ there_and_back(w, "F16").astype(np.float64).T
    assert found.dtype == np.float64
    assert np.abs(found - want).max() < 1e-14
    assert np.abs(found - x.astype(np.float64) @ want_weight(w).T).max() > 1e-5


def want_weight(w: F32) -> Any:
    """The weight as stored."""
    return there_and_back(w, "F16").astype(np.float64)


def test_without_it_the_product_is_of_numbers_as_they_are() -> None:
    exact, ggml = load_ops("exact"), load_ops("ggml", flash_attn=False, repack=False)
    x, w = numbers(5, 64), numbers(3, 64)
    found = SwappedOps(ggml, exact, next(e for e in EFFECTS if e.name == "activations")).linear(x, weight(w, "F16"))
    assert found.dtype == np.float32
    assert np.array_equal(found, (x.astype(np.float64) @ want_weight(w).T).astype(np.float32))


def test_an_effect_replaces_its_operations_and_no_other() -> None:
    exact, ggml = load_ops("exact"), load_ops("ggml", flash_attn=False, repack=False)
    x = numbers(4, 32).astype(np.float64)
    mixed = SwappedOps(exact, ggml, next(e for e in EFFECTS if e.name == "gelu"))
    h = x.astype(np.float16).astype(np.float64)  # the table: GELU of x in float16, in float16
    want = (h / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))).astype(np.float16)
    assert np.abs(mixed.gelu(x) - want).max() <= np.spacing(np.abs(want)).max()
    assert np.mean(mixed.gelu(x) == want) > 0.99
    one, zero = weight(np.ones(32, np.float32), "F32"), weight(np.zeros(32, np.float32), "F32")
    assert np.array_equal(mixed.layer_norm(x, one, zero, 1e-12), exact.layer_norm(x, one, zero, 1e-12))


def test_effects_name_operations_that_there_are() -> None:
    exact = load_ops("exact")
    for effect in EFFECTS:
        assert all(m == "rounded" or hasattr(exact, m) for m in effect.methods), effect.name
    assert len({e.name for e in EFFECTS}) == len(EFFECTS)


def test_sizes_are_angles_and_changes() -> None:
    a = [np.array([1, 0], np.float32)] * 3
    b = [np.array([math.cos(t), math.sin(t)], np.float32) for t in (0.0, 0.1, 0.2)]
    found = size(a, b)
    assert found.median == pytest.approx(1 - math.cos(0.1), rel=1e-5)
    assert found.worst == pytest.approx(1 - math.cos(0.2), rel=1e-5)
    assert found.max_abs == pytest.approx(math.sin(0.2))


TEXTS = ("the cat sat on the mat", "hello, world!", "a dog")


@pytest.fixture(scope="module")
def rows(tiny: Path) -> dict[str, tuple[Size, Size]]:
    """The budget of a small model on TEXTS: alone and without, by name."""
    few = {t: Text(t, "", t.encode(), 9, ()) for t in TEXTS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effects, "model_path", lambda name: tiny)
        patch.setattr(effects, "load_texts", lambda: few)
        return {name: (alone, without) for name, _, alone, without in budget("tiny")}


def test_the_budget_of_a_small_model(rows: dict[str, tuple[Size, Size]]) -> None:
    assert set(rows) == {e.name for e in EFFECTS} | {f"everything, flash attention {x}" for x in ("on", "off")}
    for name in ("products", "attention", "norm", "mean"):  # float32 alone: below a rounding step of it
        assert 0 < rows[name][0].worst < 1e-12, name
    for name in ("gelu", "flash"):  # float16 alone
        assert 1e-12 < rows[name][0].worst < 1e-5, name
    everything = rows["everything, flash attention off"][0]
    assert rows["gelu"][0].worst == pytest.approx(everything.worst, rel=0.5)  # as docs/numerics.md says of float32
    assert rows["gelu"][1].worst == pytest.approx(everything.worst, rel=0.5)


def test_the_budget_is_that_of_another_computation(tiny: Path, rows: dict[str, tuple[Size, Size]]) -> None:
    """GELU's table alone: our own forward pass with the table in NumPy moves vectors as far."""
    texts = list(TEXTS)
    exact = Embedder.load(tiny, numerics="exact")
    truth = [exact.embed(t) for t in texts]

    class Table:
        """Exact operations, GELU by the table's formula."""

        def __init__(self, ops: Any) -> None:
            self.ops = ops

        def __getattr__(self, name: str) -> Any:
            return self.gelu if name == "gelu" else getattr(self.ops, name)

        def gelu(self, x: Any) -> Any:
            h = x.astype(np.float32).astype(np.float16).astype(np.float64)
            y = h / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
            return np.where(x <= -10, 0, np.where(x >= 10, x, y.astype(np.float16)))

    broken: Any = Table(exact.ops)
    exact.ops = broken
    want = size(truth, [exact.embed(t) for t in texts])
    found = rows["gelu"][0]
    assert found.worst == pytest.approx(want.worst, rel=1e-2)
    assert found.median == pytest.approx(want.median, rel=1e-2)


def test_the_table_is_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Size(1e-9, 2e-9, 3e-5)
    monkeypatch.setattr(effects, "budget", lambda model: iter([("gelu", "a table", one, one)]))
    lines = list(markdown("m"))
    assert lines[2] == "| gelu: a table | 1.0e-09 | 2.0e-09 | 3.0e-05 | 1.0e-09 | 2.0e-09 | 3.0e-05 |"
    assert {line.count("|") for line in lines if line} == {8}


def test_an_effect_of_nothing_is_nothing() -> None:
    exact = load_ops("exact")
    x = numbers(4, 32).astype(np.float64)
    mixed = SwappedOps(exact, load_ops("ggml"), Effect("none", "", ()))
    assert np.array_equal(mixed.gelu(x), exact.gelu(x))
    assert (mixed.name, mixed.dtype) == (exact.name, exact.dtype)
