"""Hypotheses about the model itself, continued: places of tokens, and layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Rope
from refembed.model import Model
from refembed.model.batch import Batch
from refembed.verify.hypotheses.changes import Row, batch, named, replaced
from refembed.verify.hypotheses.parts import layers_of
from refembed.verify.hypothesis import Change
from refembed.verify.reference import Reference

# -- places ----------------------------------------------------------------------------------------------------------


def rope_rows(reference: Reference, used: frozenset[str]) -> Iterator[Row]:
    """How queries and keys are turned."""
    if "rope" not in used:
        return
    hp = reference.model.hparams
    other: Literal["norm", "neox"] = "neox" if hp.rope_pairs == "norm" else "norm"
    pairs = {"norm": "neighboring channels", "neox": "the two halves of a head"}
    yield (
        "rope-pairs",
        f"turns {pairs[other]} together in RoPE",
        turned(lambda r: replace(r, pairs=other)),
        "rope pairs",
    )
    yield "rope-missing", "leaves out RoPE", replaced(rope=lambda true, x, pos, rope: x), "rope"
    yield "rope-backwards", "turns backwards in RoPE", replaced(
        rope=lambda true, x, pos, rope: true.rope(x, -pos, rope)), "rope"  # fmt: skip
    for base in (1e4, 1e5, 1.6e5, 5e5, 1e6, 1e7):
        if not math.isclose(base, hp.rope_freq_base) or not math.isclose(base, hp.rope_freq_base_swa):
            says = f"has {base:g} as base of RoPE, not {hp.rope_freq_base:g}"
            if any(hp.swa_layers) and not math.isclose(base, hp.rope_freq_base_swa):
                says += f" (layers with a window: {hp.rope_freq_base_swa:g})"
            yield f"rope-base-{base:g}", says, turned(partial(with_, freq_base=base)), "rope base"
    if hp.rope_factor != 1:
        yield "rope-scaling-missing", "leaves out the scaling of RoPE", turned(
            lambda r: replace(r, freq_scale=1.0, ext_factor=0.0, attn_factor=1.0)), "rope scaling"  # fmt: skip
    for factor in (2, 4, 8):
        yield f"rope-scaled-{factor}", f"scales RoPE by a further 1/{factor}", turned(
            partial(slower, factor)), "rope scaling"  # fmt: skip
    yield "rope-factors-missing", "leaves out the frequency factors of RoPE", turned(
        lambda r: replace(r, factors=None)), "rope factors"  # fmt: skip
    yield "rope-half", "turns only half of a head's channels in RoPE", turned(
        lambda r: replace(r, n_dims=r.n_dims // 4 * 2)), "rope dims"  # fmt: skip


def turned(other: Callable[[Rope], Rope]) -> Change:
    """RoPE with other numbers."""
    return replaced(rope=lambda true, x, pos, rope: true.rope(x, pos, other(rope)))


def place_rows(reference: Reference, names: set[str]) -> Iterator[Row]:
    """Positions, segments, and the scale of embeddings."""
    if "position_embd.weight" in names:  # RoPE knows only how far apart two tokens are
        last = reference.model.hparams.n_ctx - 1
        for more in (1, 2):
            yield f"position+{more}", f"counts positions from {more}", batch(
                partial(counted_from, more, last)), "position"  # fmt: skip
        yield "position-zero", "gives every token position 0", batch(lambda b: replace(b, pos=b.pos * 0)), "position"
        yield "position-backwards", "counts positions from the end", batch(from_the_end), "position"
        yield "position-missing", "leaves out the position vectors", replaced(
            get_rows=rows_of("position_embd", lambda x: x * 0)), "position"  # fmt: skip
    if "token_types.weight" in names:
        yield "segment-1", "gives every token segment 1", replaced(get_rows=segment(1)), "segment"
        yield "segment-missing", "leaves out the segment vector", replaced(
            get_rows=rows_of("token_types", lambda x: x * 0)), "segment"  # fmt: skip
    C = reference.model.hparams.n_embd
    scaled = reference.model.hparams.arch.startswith("gemma")
    factor, says = (
        (C**-0.5, "does not scale embeddings by sqrt(C)") if scaled else (C**0.5, "scales embeddings by sqrt(C)")
    )
    yield (
        "embedding-scale",
        says,
        replaced(get_rows=rows_of("token_embd", lambda x: (x * factor).astype(x.dtype))),
        "embd",
    )


def with_(rope: Rope, **numbers: Any) -> Rope:
    return replace(rope, **numbers)


def slower(factor: float, rope: Rope) -> Rope:
    """Angles divided."""
    return replace(rope, freq_scale=rope.freq_scale / factor)


def counted_from(first: int, last: int, b: Batch) -> Batch:
    """Positions from another number, at most the last there is."""
    return replace(b, pos=np.minimum(b.pos + first, last))


def rows_of(table: str, other: Callable[[Float], Float]) -> Callable[..., Float]:
    """Rows of one table changed."""

    def get_rows(true: Any, w: Tensor, ids: Sequence[int] | I64) -> Float:
        x = true.get_rows(w, ids)
        return other(x) if named(w, table) else cast(Float, x)

    return get_rows


def segment(n: int) -> Callable[..., Float]:
    """Another row of the segment vectors."""
    return lambda true, w, ids: true.get_rows(w, [n] if named(w, "token_types") else ids)


def from_the_end(b: Batch) -> Batch:
    """Positions counted backwards in each text."""
    lengths = np.diff(b.offsets)
    return replace(b, pos=np.repeat(lengths, lengths) - 1 - b.pos)


# -- layers ----------------------------------------------------------------------------------------------------------


def layer_rows(reference: Reference) -> Iterator[Row]:
    """A layer too few."""
    if reference.model.hparams.n_layer > 1:
        yield (
            "last-layer-missing",
            "leaves out the last layer",
            lambda r: replace(r, model=without_layer(r.model, -1)),
            "layer",
        )
        yield (
            "first-layer-missing",
            "leaves out the first layer",
            lambda r: replace(r, model=without_layer(r.model, 0)),
            "layer",
        )


def without_layer(model: Model, which: int) -> Model:
    """The model less one layer, first or last."""
    order = list(range(model.hparams.n_layer))
    return layers_of(model, order[1:] if which == 0 else order[:-1])
