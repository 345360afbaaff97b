"""RoPE that is scaled by pairs: the factors of Llama 3.1 and of LongRoPE as tensors.

    llama3    pairs that turn often keep their speed, those that turn seldom are slowed by `factor`, between them it
              goes over smoothly: one number for each pair
    longrope  config.json has the numbers, for contexts as long as the original one and for longer ones

llama.cpp divides each pair's speed by its number. Mirrors generate_extra_tensors of its conversion/llama.py and phi.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.convert.config import Config
from refembed.convert.planned import Planned
from refembed.convert.safetensors import Entry
from refembed.convert.scaling import kind_of
from refembed.errors import ModelError


def plan_rope(config: Config) -> list[Planned]:
    """The tensors that config.json asks for, in front of the others."""
    table, kind = config.rope, kind_of(config.rope)
    if kind == "longrope":
        return [planned(f"rope_factors_{part}", long_factors(config, table, part)) for part in ("long", "short")]
    if kind != "llama3":
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
    return [planned("rope_freqs", llama3_factors(theta, width, *numbers))]


def planned(name: str, factors: F32) -> Planned:
    """A tensor of factors."""
    entry = Entry(name, "F32", factors.shape, np.frombuffer(factors.tobytes(), np.uint8))
    return Planned(f"{name}.weight", entry, "F32")


def long_factors(config: Config, table: dict[str, Any], part: str) -> F32:
    """long_factor or short_factor of config.json. ModelError where there is not one number for each pair."""
    found = table.get(f"{part}_factor")
    numbers = found if isinstance(found, list) else []
    if len(numbers) != config.turned // 2 or not all(type(n) in (int, float) and 0 < n < 1e12 for n in numbers):
        says = f"{config.path}: {part}_factor of rope_type longrope has {len(numbers)} numbers above zero or others"
        raise ModelError(says, hint=f"one for each pair that RoPE turns: {config.turned // 2}")
    return np.array(numbers, np.float32)


def long_magnitude(c: Config) -> float | None:
    """What LongRoPE multiplies queries and keys by; None: there is none. ModelError where config.json says otherwise.

    Mirrors generate_extra_tensors of Phi3MiniModel, in conversion/phi.py.
    """
    table = c.rope
    if kind_of(table) != "longrope":
        return None
    scale = c.sizes["P"] / c.original_context
    usual = math.sqrt(1 + math.log(scale) / math.log(c.original_context)) if scale > 1 else 1.0
    for key, expected in (("attention_factor", usual), ("factor", scale)):
        said = table.get(key)
        if said is not None and not (type(said) in (int, float) and math.isclose(said, expected, rel_tol=1e-6)):
            hint = f"llama.cpp's converter takes {expected:.6g}, by the two contexts, for granted"
            raise ModelError(f"{c.path}: {key} of rope_type longrope is {said!r}", hint=hint)
    return usual


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
