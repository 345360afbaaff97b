"""What a formula's letters stand for: tensors of the run, tensors of the file, keys and numbers, as they are printed.

inp_norm-0                        a tensor of the run
Qcur-0 (1st of 2)                 of a name that occurs more than once
wqkv-0[:, 0:36]                   some of its columns
l_out-0[0]                        the first of its streams
blk.0.attn_q.weight               a tensor of the file
bert.attention.head_count = 12    a key of the file and its value; behind the last "=" stands what is used
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refembed.arrays import Float
from refembed.explain.watch import Run, key, same_numbers

ORDINALS = {1: "1st", 2: "2nd", 3: "3rd"}
MIXED = (  # tensors that are cut into parts
    "wqkv", "wqkv_clamped", "ffn_up", "model.layers.{}.conv.in_proj", "ssm_xz", "ssm_zxbcdt", "ssm_dbc", "conv_silu",
    "conv_output_silu", "kv_cmpr_pe",
)  # fmt: skip


@dataclass(frozen=True)
class Operand:
    """A letter of a formula."""

    letter: str
    what: str  # as this module's first lines show


def base_of(name: str) -> str:
    """`kqv_out` of `kqv_out-3`."""
    head, dash, tail = name.rpartition("-")
    return head if dash and tail.isdigit() else name


def tap_of(run: Run, i: int) -> str:
    """A tensor of the run by its name, and by its number among those of that name where there are several."""
    name = run.trace.tensors[i].name
    alike = [k for k, tap in enumerate(run.trace.tensors) if tap.name == name]
    if len(alike) == 1:
        return name
    n = alike.index(i) + 1
    return f"{name} ({ORDINALS.get(n, f'{n}th')} of {len(alike)})"


def array_of(run: Run, x: Float, before: int) -> str:
    """The tensor, or the part of one, that an operation was given; "" where the run shows no such tensor.

    before  the tap whose formula this is: what it is made of was shown earlier
    """
    i, name = found_in(run, x, before)
    by_heads = name and x.ndim == 3 and run.trace.tensors[i].array.ndim == 2
    return f"{name}, as {x.shape}" if by_heads else name


def rows_of(run: Run, x: Float, before: int) -> str:
    """`array_of`, in the shape that the operation was given where the tensor has another."""
    i, name = found_in(run, x, before)
    there = run.trace.tensors[i].array
    other = name and there.size == x.size and there.shape != x.shape
    return f"{name}, as {x.shape}" if other else array_of(run, x, before)


def found_in(run: Run, x: Float, before: int) -> tuple[int, str]:
    """The tap that x is, or is a part of, and how that is printed; "" where there is none."""
    place = run.places.get(key(x))
    if place is not None and place < before:
        return place, tap_of(run, place)
    flat = x.reshape(len(x), -1)
    for i in range(before - 1, -1, -1):
        whole = run.trace.tensors[i].array
        if whole.ndim == 3 and x.ndim == 2 and whole.shape[1:] == x.shape:
            same = [n for n, one in enumerate(whole) if same_numbers(one, x)]
            if same:
                return i, f"{tap_of(run, i)}[{same[0]}]"
        if whole.ndim == 2 and len(whole) == len(flat):
            if same_numbers(whole, flat):
                return i, tap_of(run, i)
            mixed = base_of(run.trace.tensors[i].name).removesuffix("_b") in MIXED
            if mixed and (part := part_of(whole, flat, tap_of(run, i))):
                return i, part
    return -1, ""


def part_of(whole: Float, part: Float, name: str) -> str:
    """`wqkv-0[:, 36:72]`, if those columns of `whole` are `part`; else ""."""
    n = part.shape[1]
    for first in range(whole.shape[1] - n + 1):
        if whole[0, first] == part[0, 0] and same_numbers(whole[:, first : first + n], part):
            return columns(name, first, first + n)
    return ""


def columns(name: str, begin: int, end: int) -> str:
    """Some columns of a tensor."""
    return f"{name}[:, {begin}:{end}]"


def latest(run: Run, before: int, *names: str) -> int | None:
    """The last tap before this one that has one of these names, whatever its layer."""
    return next((i for i in range(before - 1, -1, -1) if base_of(run.trace.tensors[i].name) in names), None)


def number(run: Run, name: str, value: Any) -> str:
    """`bert.attention.head_count = 12`; the number alone where the file has no such key, or another value.

    name  the key without the architecture, or what the number is
    """
    metadata, full = run.embedder.tokenizer.vocab.metadata, f"{run.embedder.model.hparams.arch}.{name}"
    stored = metadata.get(full)
    known = isinstance(stored, (int, float)) and np.float32(stored) == np.float32(value)
    text = str(np.float32(value)) if isinstance(value, float) else str(value)
    return f"{full} = {text}" if known else f"{name.rpartition('.')[2]} = {text}"
