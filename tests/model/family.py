"""A family: architectures whose tests share tables, and what tests/model/test_variants.py does with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from refembed.testing.synthetic import synthetic
from refembed.verify.compare.replay import LocalDifference
from tests.model.bits import Bits
from tests.model.faults import Fault

# the module that a fault is planted in, or the function that the architecture's imports; None: the architecture's
Planted: TypeAlias = ModuleType | Callable[..., Any] | None
Variants: TypeAlias = Mapping[str, "tuple[str, dict[str, Any]]"]  # name -> architecture, arguments of `synthetic`


def alone(arch: str) -> dict[str, Any]:
    """The sizes that `synthetic` has by itself."""
    return {}


@dataclass(frozen=True, eq=False, repr=False)
class Family:
    """Tables, and how llama.cpp is run on them: with a cache keys and values are of float16, without they are not."""

    archs: tuple[str, ...]
    variants: Variants
    bound_of: Callable[[str, LocalDifference], float]  # of one operation of a variant, on llama.cpp's own inputs
    whole_of: Callable[[str], float]  # of a variant's whole run
    faults: Sequence[tuple[Fault, Planted]] = ()
    slow: Collection[str] = ()  # variants whose options others show in part
    cached: bool = True
    quantized: bool = False  # whether `exact` and `fast` are compared with quantized weights, too
    unordered: str = "none"  # tensors whose names have this in them do not count in whole runs
    pooling: str = "last"  # for rounding
    classic: str = "last"  # for bits without flash attention
    flash: str = "mean"  # for bits with it, and with interleaved weights
    traced: str = "mean"  # for faults
    poolings: tuple[str, ...] = ("none", "mean")  # of the file, through the public path
    small: Callable[[str], dict[str, Any]] = alone  # architecture -> sizes of a small model
    P: int = 256  # context: long enough for every text of these tests
    lengths: Callable[[str, bool], tuple[int, ...]] = lambda variant, flash: () if flash else (1, 33, 70)
    bits: type[Bits] = field(default=Bits)

    def write(self, variant: str, folder: Path) -> Path:
        """The file of a variant."""
        arch, sizes = self.variants[variant]
        return synthetic(folder / "m.gguf", arch, seed=len(variant), **{"P": self.P, **sizes})

    def rounds_to_8_bits(self, variant: str) -> bool:
        """Whether llama.cpp rounds activations, which `ggml` alone can follow."""
        return "type_name" in self.variants[variant][1]
