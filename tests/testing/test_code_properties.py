"""The contract of codes: it holds for a plain implementation, and each property catches a mutant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refembed.testing import CodeContract

EXAMPLES = 60  # per mutant


def plain_bytes(x: Any, ranges: Any) -> Any:
    steps = (ranges[1] - ranges[0]) / np.float32(255)
    return np.clip(np.floor((x - ranges[0]) / np.where(steps == 0, np.float32(1), steps)), 0, 255)


def plain_quantize(x: Any, precision: str, ranges: Any) -> Any:
    if precision.endswith("binary"):
        bits = np.packbits(x > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(int) - 128).astype(np.int8)
    q = plain_bytes(x, ranges)
    return q.astype(np.uint8) if precision == "uint8" else (q - 128).astype(np.int8)


def plain_hamming(a: Any, b: Any) -> int:
    return int(np.unpackbits(a ^ b).sum())


class TestPlain(CodeContract):
    def quantize(self, x: Any, precision: str, ranges: Any) -> Any:
        return plain_quantize(x, precision, ranges)

    def hamming(self, a: Any, b: Any) -> int:
        return plain_hamming(a, b)


class TestSkipsWhatIsNotThere(CodeContract):
    pass


def only(precision: str, broken: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """plain_quantize with one precision replaced."""
    return lambda x, p, ranges: broken(x, ranges) if p == precision else plain_quantize(x, p, ranges)


def wrapped(x: Any, ranges: Any) -> Any:
    steps = (ranges[1] - ranges[0]) / np.float32(255)
    return np.floor((x - ranges[0]) / np.where(steps == 0, 1, steps)).astype(np.int64).astype(np.uint8)


def own_ranges(x: Any, precision: str, ranges: Any) -> Any:
    """Ranges from the batch, whatever was given."""
    return plain_quantize(x, precision, np.stack([x.min(axis=0), x.max(axis=0)]))


MUTANTS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "rounded up": (
        "quantize",
        only("uint8", lambda x, r: np.minimum(plain_bytes(x, r) + 1, 255).astype(np.uint8)),
        "a_byte_is_within_half_a_step_of_its_number",
    ),
    "int8 by a shift of 127": (
        "quantize",
        only("int8", lambda x, r: np.clip(plain_bytes(x, r) - 127, -128, 127).astype(np.int8)),
        "int8_is_uint8_less_128",
    ),
    "wrapped around": ("quantize", only("uint8", wrapped), "outside_its_range_a_number_is_the_end_of_it"),
    "magnitudes": (
        "quantize",
        only("uint8", lambda x, r: plain_bytes(np.abs(x), r).astype(np.uint8)),
        "a_larger_number_has_no_smaller_byte",
    ),
    "lowest bit first": (
        "quantize",
        only("ubinary", lambda x, r: np.packbits(x > 0, axis=-1, bitorder="little")),
        "a_bit_says_whether_its_number_is_above_zero",
    ),
    "binary is the same bytes": (
        "quantize",
        only("binary", lambda x, r: np.packbits(x > 0, axis=-1).view(np.int8)),
        "binary_is_ubinary_less_128",
    ),
    "ranges of the batch": ("quantize", own_ranges, "rows_stand_alone"),
    "bytes counted": ("hamming", lambda a, b: int((a != b).sum()), "hamming_counts_the_bits_that_differ"),
    "ones of both": ("hamming", lambda a, b: int(np.unpackbits(a | b).sum()), "hamming_is_a_distance"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_code_is_caught(mutant: str) -> None:
    method, broken, caught_by = MUTANTS[mutant]
    contract = type("Broken", (TestPlain,), {method: staticmethod(broken)})()
    assert "AssertionError" in contract.failure(caught_by, EXAMPLES)


def test_no_property_is_idle() -> None:
    """Each is the one that catches some mutant."""
    assert set(CodeContract.properties()) == {caught_by for _, _, caught_by in MUTANTS.values()}
    assert all(p.check.__doc__ for p in CodeContract.properties().values())


def test_codes_of_the_wrong_type_are_caught() -> None:
    contract = type("Broken", (TestPlain,), {"quantize": lambda self, x, p, r: plain_quantize(x, p, r).astype(int)})()
    assert "codes are int64" in contract.failure("int8_is_uint8_less_128", EXAMPLES)
