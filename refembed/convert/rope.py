"""RoPE that is scaled by pairs: the factors of Llama 3.1 as a tensor.

Mirrors generate_extra_tensors of llama.cpp's conversion/llama.py, which mirrors `transformers` (rope_type "llama3"):
pairs that turn often keep their speed, those that turn seldom are slowed by `factor`, between them it goes over
smoothly. llama.cpp divides each pair's speed by its number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.convert.config import Config
from refembed.convert.planned import Planned
from refembed.convert.safetensors import Entry
from refembed.errors import ModelError


def plan_rope(config: Config) -> list[Planned]:
    """`rope_freqs.weight` where config.json asks for it, in front of the other tensors."""
    table = config.inner("rope_parameters") or config.inner("rope_scaling")
    if (table.get("rope_type") or table.get("type")) != "llama3":
        return []
    theta, width = config.thetas[0] or 10000.0, config.sizes["D"]
    numbers = []
    for key, usual in (
        ("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0),
        ("original_max_position_embeddings", 8192),
    ):  # fmt: skip
        value = table.get(key, usual)
        if type(value) not in (int, float) or not 0 < value < 1e12:
            raise ModelError(f"{config.path}: {key} of rope_type llama3 is {value!r}", hint="a number above zero")
        numbers.append(float(value))
    if numbers[1] >= numbers[2]:
        found = f"{config.path}: low_freq_factor is {numbers[1]}, high_freq_factor {numbers[2]}"
        raise ModelError(found, hint="the first must be less")
    factors = llama3_factors(theta, width, *numbers)
    entry = Entry("rope_freqs", "F32", factors.shape, np.frombuffer(factors.tobytes(), np.uint8))
    return [Planned("rope_freqs.weight", entry, "F32")]


def llama3_factors(theta: float, width: int, factor: float, low: float, high: float, context: float) -> F32:
    """What each pair's speed is divided by, (D/2,).

    factor     of the slowest pairs
    low, high  a pair that turns less than `low` times in `context` tokens is slowed, one that turns more than `high`
               times is not

    >>> factors = llama3_factors(500000.0, 4, 8.0, 1.0, 4.0, 8192.0)
    >>> [round(float(f), 2) for f in factors]  # 1304 turns, and 1.84: s = (1.84 - 1) / 3, 1 / ((1 - s) / 8 + s)
    [1.0, 2.69]
    """
    one = np.float32(1)
    exponents = (np.arange(0, width, 2, dtype=np.float32) / np.float32(width)).astype(np.float64)
    speeds = one / (np.float64(theta) ** exponents).astype(np.float32)
    waves: Any = np.float32(2 * math.pi) / speeds  # tokens of one turn
    smooth = (np.float32(context) / waves - np.float32(low)) / np.float32(high - low)
    between = one / ((one - smooth) / np.float32(factor) + smooth)
    slow = np.where(waves > np.float32(context / low), np.float32(factor), between)
    return np.asarray(np.where(waves < np.float32(context / high), one, slow), np.float32)
