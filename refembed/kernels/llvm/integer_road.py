"""How this CPU adds products of bytes: which instruction, and the tile that goes with it (integer_tile.py)."""

from __future__ import annotations

from typing import NamedTuple

from refembed.kernels.llvm.microkernel import features


class Road(NamedTuple):
    """How a CPU adds products of bytes: the instruction, the lanes of a vector, and the rows of a tile."""

    name: str
    lanes: int
    rows: int


ROADS: list[tuple[Road, set[str]]] = [  # the first whose features are there; its sums fit into the registers
    (Road("vpdpbusd", 16, 4), {"avx512vnni", "avx512bw"}),
    (Road("vpdpbusd", 8, 3), {"avx512vnni", "avx512vl", "fma"}),
    (Road("vpdpbusd", 8, 3), {"avxvnni", "avx2", "fma"}),
    (Road("pmaddwd", 16, 6), {"avx512bw"}),
    (Road("pmaddwd", 8, 3), {"avx2"}),
    (Road("pmaddwd", 4, 3), {"sse2"}),
    (Road("multiply", 4, 3), set()),
]


def road(have: set[str]) -> Road:
    """The road of a CPU with these features, in LLVM's words."""
    return next(r for r, needed in ROADS if needed <= have)


ROAD = road(features())
QUICK = ROAD.name == "vpdpbusd"  # whether codes of 16 bits are quicker than float32
