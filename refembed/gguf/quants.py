"""Tensor types: every way GGUF stores weights, as ONE table.

A type cuts each row of a tensor into blocks of `weights` numbers. A line below holds the block's fields in file order,
so sizes follow from the fields, and decoders read fields, not offsets. Source, all in llama.cpp: enum ggml_type
(ggml.h), struct block_* (ggml-common.h), and for the `dot` column type_traits_cpu (ggml-cpu.c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refembed.errors import RequestError


@dataclass(frozen=True)
class QuantType:
    """One tensor type. The fields of `block` are little-endian; a big-endian file has `block.newbyteorder(">")`.

    >>> BY_NAME["Q4_0"].weights, BY_NAME["Q4_0"].nbytes  # a float16 scale and 32 codes of 4 bits: 2 + 16 bytes
    (32, 18)
    >>> BY_NAME["Q4_0"].block.names, BY_ID[2].name
    (('d', 'qs'), 'Q4_0')
    """

    id: int  # the number in the file, enum ggml_type
    name: str  # as GGUF tools spell it
    weights: int  # weights per block; the length of a row is a multiple of it
    dot: str  # the type llama.cpp's CPU backend rounds activations to before a dot product; "" where it has none
    block: np.dtype[Any]  # one block as stored: struct block_* of ggml-common.h, field for field

    @property
    def nbytes(self) -> int:
        """Bytes per block.

        >>> BY_NAME["Q4_K"].nbytes  # d, dmin, 12 bytes of scales and minima, 256 codes of 4 bits: 2 + 2 + 12 + 128
        144
        """
        return self.block.itemsize


def row(id: int, name: str, weights: int, dot: str, *fields: tuple[Any, ...]) -> QuantType:
    """One line of the table: a field is (name, dtype) or (name, dtype, count)."""
    return QuantType(id, name, weights, dot, np.dtype(list(fields)))


QUANT_TYPES = (
    #   id  name       weights  dot   block fields: (name, dtype[, count]), in file order
    row( 0, "F32",       1, "F32",  ("x", "<f4")),
    row( 1, "F16",       1, "F16",  ("x", "<f2")),
    row(30, "BF16",      1, "BF16", ("x", "<u2")),  # the upper half of a float32
    row(28, "F64",       1, "",     ("x", "<f8")),
    row(24, "I8",        1, "",     ("x", "i1")),
    row(25, "I16",       1, "",     ("x", "<i2")),
    row(26, "I32",       1, "",     ("x", "<i4")),
    row(27, "I64",       1, "",     ("x", "<i8")),
    # blocks of one scale: d, and m or s where a second number is stored
    row( 2, "Q4_0",     32, "Q8_0", ("d", "<f2"), ("qs", "u1", 16)),
    row( 3, "Q4_1",     32, "Q8_1", ("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)),
    row( 6, "Q5_0",     32, "Q8_0", ("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)),
    row( 7, "Q5_1",     32, "Q8_1", ("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)),
    row( 8, "Q8_0",     32, "Q8_0", ("d", "<f2"), ("qs", "i1", 32)),
    row( 9, "Q8_1",     32, "",     ("d", "<f2"), ("s", "<f2"), ("qs", "i1", 32)),  # activations only
    row(41, "Q1_0",    128, "Q8_0", ("d", "<f2"), ("qs", "u1", 16)),
    row(42, "Q2_0",     64, "Q8_0", ("d", "<f2"), ("qs", "u1", 16)),
    row(39, "MXFP4",    32, "Q8_0", ("e", "u1"), ("qs", "u1", 16)),
    row(40, "NVFP4",    64, "Q8_0", ("d", "u1", 4), ("qs", "u1", 32)),
    row(20, "IQ4_NL",   32, "Q8_0", ("d", "<f2"), ("qs", "u1", 16)),
    # super-blocks of 256 with a scale for each sub-block
    row(10, "Q2_K",    256, "Q8_K", ("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")),
    row(11, "Q3_K",    256, "Q8_K", ("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")),
    row(12, "Q4_K",    256, "Q8_K", ("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)),
    row(13, "Q5_K",    256, "Q8_K", ("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32),
                                    ("qs", "u1", 128)),
    row(14, "Q6_K",    256, "Q8_K", ("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")),
    row(15, "Q8_K",    256, "",     ("d", "<f4"), ("qs", "i1", 256), ("bsums", "<i2", 16)),  # activations only
    # codebook types: qs index a grid
    row(16, "IQ2_XXS", 256, "Q8_K", ("d", "<f2"), ("qs", "<u2", 32)),
    row(17, "IQ2_XS",  256, "Q8_K", ("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)),
    row(22, "IQ2_S",   256, "Q8_K", ("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("scales", "u1", 8)),
    row(18, "IQ3_XXS", 256, "Q8_K", ("d", "<f2"), ("qs", "u1", 96)),
    row(21, "IQ3_S",   256, "Q8_K", ("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32),
                                    ("scales", "u1", 4)),
    row(19, "IQ1_S",   256, "Q8_K", ("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)),
    row(29, "IQ1_M",   256, "Q8_K", ("qs", "u1", 32), ("qh", "u1", 16), ("scales", "u1", 8)),
    row(23, "IQ4_XS",  256, "Q8_K", ("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)),
    # ternary types: digits -1, 0, 1
    row(34, "TQ1_0",   256, "Q8_K", ("qs", "u1", 48), ("qh", "u1", 4), ("d", "<f2")),
    row(35, "TQ2_0",   256, "Q8_K", ("qs", "u1", 64), ("d", "<f2")),
)  # fmt: skip

BY_ID = {t.id: t for t in QUANT_TYPES}
BY_NAME = {t.name: t for t in QUANT_TYPES}

# Ids that once were types. llama.cpp removed them and refuses their files.
REMOVED = {
    4: "Q4_2", 5: "Q4_3",
    31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip


def quant_type(name: str) -> QuantType:
    """The type of that name, e.g. "Q4_K". RequestError for any other, with the names there are."""
    if name not in BY_NAME:
        known = ", ".join(BY_NAME)
        raise RequestError(f"{name!r} is no tensor type", hint=f"one of {known}")
    return BY_NAME[name]
