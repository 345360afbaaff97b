"""Activations that are rounded as they are computed: the codes of those that are rounded later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refembed.kernels.exact.bfloat16 import multiply_bfloat16, round_bfloat16
from refembed.kernels.exact.integer import multiply_codes, quantize_rows
from refembed.kernels.fast import also_rounding, elementwise
from refembed.kernels.fast.ops import Fast
from refembed.kernels.fast.rounded_ops import BF16, Int8
from refembed.kernels.fast.thread_pool import SpinningPool
from refembed.kernels.llvm.bfloat16 import round_pairs
from refembed.kernels.llvm.integer import KERNELS
from refembed.kernels.llvm.integer_tile import words_of
from refembed.kernels.quant.codes import codes_of
from tests.kernels.llvm.test_integer import same_bits
from tests.kernels.longhand import random, stored
from tests.kernels.quant.test_codes import any_blocks

ROUND = {8: KERNELS[8].quantize, 16: KERNELS[16].quantize, 0: round_pairs}


@pytest.mark.parametrize("bits", [8, 16, 0])
def test_a_kernel_that_also_rounds_gives_what_both_kernels_give(bits: int) -> None:
    T, C = 13, 160
    words = C // 32 * words_of(bits) if bits else C // 2
    x, more, w, b = random(1, T, C), random(2, T, C), random(3, C), random(4, C)
    x[3, 7], x[5] = np.nan, 0
    for kernel, arguments in ((elementwise.gelu, (x,)), (elementwise.layer_norm, (x, more, w, b, 1e-5))):
        apart, together = np.empty_like(x), np.empty_like(x)
        codes, found = (np.full((T, words), 7, np.float32) for _ in range(2))
        kernel(*arguments, apart, 0, T)
        ROUND[bits](apart, codes, 0, T)
        for begin, end in ((4, T), (0, 4)):
            also_rounding.ALSO_ROUNDING[bits][kernel](*arguments, together, found, begin, end)
        assert same_bits(together, apart)
        assert same_bits(found, codes)


class Fast16(Fast):
    """`fast` as it is where the CPU is quick at whole numbers."""

    bits = 16


def definition(x: Any, w: Any, bits: int) -> Any:
    """x Wᵀ of rounded x."""
    if bits == 0:
        return multiply_bfloat16(round_bfloat16(x), round_bfloat16(w.dequantize()))
    return multiply_codes(*quantize_rows(x, bits), *codes_of(w))


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of kernels from now on."""
    names: list[str] = []
    true = SpinningPool.parallel_for

    def noting(self: Any, kernel: Any, *arguments: Any, **more: Any) -> None:
        names.append(kernel.__name__)
        true(self, kernel, *arguments, **more)

    monkeypatch.setattr(SpinningPool, "parallel_for", noting)
    return names


@pytest.mark.parametrize("numerics", [Int8, Fast16, BF16])
def test_products_find_what_was_rounded_ahead(numerics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And round what was not: a copy, rows of it, another array."""
    ops, w, x = numerics(), any_blocks("Q8_0"), random(1, 5, 512)
    g, b = stored(random(2, 512), "g"), stored(random(3, 512), "b")
    ops.linear(x, w)
    names = calls(monkeypatch)
    h = ops.gelu(x)
    assert same_bits(ops.linear(h, w), definition(h.copy(), w, ops.bits))
    assert [same_bits(y, definition(h, w, ops.bits)) for y in ops.linears(h, [(w, None)] * 2)] == [True, True]
    n = ops.add_layer_norm(x, h, g, b, 1e-5)
    assert same_bits(ops.linear(n, w), definition(n.copy(), w, ops.bits))
    rounding = {"quantize8", "quantize16", "round_pairs"}
    assert not rounding & set(names)
    for other in (n.copy(), n[1:4], n[:, ::-1], h, x):
        names.clear()
        assert same_bits(ops.linear(other, w), definition(np.ascontiguousarray(other), w, ops.bits))
        assert rounding & set(names)


def test_nothing_is_rounded_for_weights_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor rows that are no whole blocks, nor heads."""
    ops, w, names = Int8(), stored(random(1, 8, 512)), calls(monkeypatch)
    ops.linear(ops.gelu(random(2, 5, 512)), w)
    assert names[0] == "gelu"
    ops.linear(random(2, 5, 512), any_blocks("Q8_0"))
    for shape in ((5, 500), (5, 2, 512)):
        names.clear()
        ops.layer_norm(random(3, *shape), None, None, 1e-5)
        assert names == ["layer_norm"]
