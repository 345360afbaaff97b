"""The `int8` and `bf16` numerics: `fast` with activations rounded before products, and in attention."""

from __future__ import annotations

from refembed.kernels.fast import attention_bfloat16
from refembed.kernels.fast.bfloat16 import BFloat16Products
from refembed.kernels.fast.ops import Fast


class Int8(Fast):
    """`fast` with activations rounded to codes of 8 bits wherever weights are quantized, as llama.cpp rounds them.

    Attention rounds to bfloat16.
    """

    name = "int8"
    bits = 8
    attention_kernels = attention_bfloat16


class BF16(Fast):
    """`fast` with activations and matrices rounded to bfloat16, also in attention; sums stay in float32."""

    name = "bf16"
    bits = 0
    attention_kernels = attention_bfloat16

    def __init__(self, *, memory_budget: int | str | None = None) -> None:
        """As `load_ops` takes it."""
        super().__init__(memory_budget=memory_budget)
        self.rounded = BFloat16Products(self.store, self.empty)
