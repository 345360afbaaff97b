"""Models whose layers keep a state from token to token, against live llama.cpp: delta nets, Mamba, RWKV, and hybrids.

`ggml` gives llama.cpp's bits. With float32 weights and a float32 cache `exact` and `fast` differ by rounding alone.
"""

from __future__ import annotations

from typing import Any

from tests.model.bits import Apart
from tests.model.family import Family
from tests.model.faults import Fault
from tests.model.keys import FUSED, QKV_BIAS, WIDE

LOCAL, LOCAL_ROPE, WHOLE = 1e-6, 3e-6, 1.5e-5

ARCHS = ("falcon-h1", "granitehybrid", "mamba", "mamba2", "qwen35", "rwkv7")

# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen35":                        ("qwen35", {"K": 2, "conv": 4}),
    "mamba":                         ("mamba", {"conv": 4}),
    "mamba2":                        ("mamba2", {"conv": 4}),
    "falcon-h1":                     ("falcon-h1", {"K": 2, "conv": 4}),
    "granitehybrid":                 ("granitehybrid", {"K": 2, "conv": 4}),
    "rwkv7":                         ("rwkv7", {"C": 64}),
}
# fmt: on
SLOW: set[str] = set()
FAULTS: list[Fault] = []

FAMILY = Family(
    ARCHS,
    VARIANTS,
    lambda variant, d: LOCAL_ROPE if d.op == "ROPE" else LOCAL,
    lambda variant: WHOLE,
    [(fault, None) for fault in FAULTS],
    slow=SLOW,
    traced="last",
    small=lambda arch: {"K": 2, "D": 6, "n_layer": 4, "conv": 4} | ({"C": 64} if arch == "rwkv7" else {}),
    bits=Apart,
)
