"""Operations in front of operations: every one of them is handed on, or is made of some that are."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import numpy as np
import pytest

from refembed.gguf import Tensor
from refembed.kernels import activation_ops, image_ops, state_ops, wrapper
from refembed.kernels import ops as ops_module
from refembed.kernels.activation_ops import ActivationOps
from refembed.kernels.image_ops import ImageOps
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import COMPOSED, Ops
from refembed.kernels.state_ops import StateOps
from refembed.kernels.wrapper import OpsWrapper, PatchedOps
from tests.kernels.longhand import random, stored

PARTS = (Ops, ActivationOps, StateOps, ImageOps)
OPERATIONS = [name for c in PARTS for name, f in vars(c).items() if inspect.isfunction(f)]


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in COMPOSED])
def test_the_wrapper_hands_on_each_operation_with_its_arguments(name: str) -> None:
    """Whatever is in them; an operation that is added to `Ops` and not to the wrapper fails here."""
    signature = inspect.signature(getattr(Ops, name))
    given = [object() for p in list(signature.parameters.values())[1:] if p.kind is not p.KEYWORD_ONLY]
    named = {p.name: object() for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    called: list[Any] = []
    result = object()
    base = load_ops("exact")
    setattr(base, name, lambda *args, **more: (called.append((args, more)), result)[1])
    assert getattr(OpsWrapper(base), name)(*given, **named) is result
    assert called == [(tuple(given), named)]


def test_the_wrapper_is_of_its_bases_numerics() -> None:
    base = load_ops("fast")
    assert (OpsWrapper(base).name, OpsWrapper(base).dtype) == ("fast", np.float32)


@pytest.mark.parametrize("numerics", ["exact", "ggml", "fast", "int8", "bf16"])
def test_what_a_wrapper_changes_holds_for_operations_made_of_it(numerics: str) -> None:
    """Though `fast` has them fused."""
    ops = load_ops(numerics)
    x, y = (random(seed, 3, 8).astype(ops.dtype) for seed in (1, 2))
    w, g = stored(random(3, 4, 8), "w"), stored(random(4, 8), "g")
    twice: Any = lambda true, x, *rest: true.linear(x, *rest) * 2  # noqa: E731
    changed = PatchedOps(ops, {"linear": twice, "layer_norm": lambda true, x, *rest: x})
    for got in changed.linears(x, [(w, None)] * 3):
        assert np.array_equal(got, ops.linear(x, w) * 2)
    assert np.array_equal(changed.add_layer_norm(x, y, g, g, 1e-5), x + y)
    for _ in range(3):  # no captured graph of the true operations
        got = changed.capture_or_replay((w,), lambda x: changed.linear(x, w), x)
        assert np.array_equal(got, ops.linear(x, w) * 2)


@pytest.mark.parametrize("numerics", ["exact", "ggml", "fast", "int8", "bf16"])
def test_composed_operations_have_the_bits_of_their_parts(numerics: str) -> None:
    ops = load_ops(numerics)
    x, y = (random(seed, 5, 8).astype(ops.dtype) for seed in (1, 2))
    w, b, g = stored(random(3, 4, 8), "w"), stored(random(5, 4), "b"), stored(random(4, 8), "g")
    matrices = [(w, b), (w, None), (w, b)]
    for got, (m, bias) in zip(ops.linears(x, matrices), matrices, strict=True):
        assert got.tobytes() == ops.linear(x, m, bias).tobytes()
    assert ops.add_layer_norm(x, y, g, None, 1e-5).tobytes() == ops.layer_norm(x + y, g, None, 1e-5).tobytes()
    assert ops.capture_or_replay((), ops.gelu, x).tobytes() == ops.gelu(x).tobytes()


def test_an_operation_that_does_not_exist_cannot_be_replaced() -> None:
    with pytest.raises(AttributeError, match="Ops has no operation 'gleu'"):
        PatchedOps(load_ops("exact"), {"gleu": lambda true, x: x})


def test_a_numerics_must_have_every_operation() -> None:
    class Half(Ops):
        def gelu(self, x: Any) -> Any:
            return x

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


@pytest.mark.parametrize("module", [ops_module, activation_ops, state_ops, image_ops, wrapper])
def test_every_operation_has_an_example_that_holds(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.failed == 0
    tests = [
        t for home in (ops_module, activation_ops, state_ops, image_ops) for t in doctest.DocTestFinder().find(home)
    ]
    examples = {t.name.split(".")[-1] for t in tests if t.examples}
    assert set(OPERATIONS) <= examples


def test_a_tensor_of_an_array_holds_its_numbers() -> None:
    x = random(1, 2, 3)
    assert np.array_equal(Tensor.of(x, "blk.0.attn_q.weight").dequantize(), x)
