"""Tensors of mmproj files: their names as towers declare them, and a matrix the other way around."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from refembed.errors import ModelError
from refembed.gguf import Tensor


@lru_cache(maxsize=64)
def transposed(w: Tensor) -> Tensor:
    """A matrix of floats (M, N) as (N, M). ModelError for one in blocks, which cannot be turned.

    >>> transposed(Tensor.of([[1, 2, 3], [4, 5, 6]])).dequantize().tolist()
    [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    """
    if w.type.weights != 1:
        hint = "llama.cpp cannot turn it either; convert the mmproj file to F16 or F32"
        raise ModelError(f"{w.name} is of type {w.type.name}", hint=hint)
    M, N = w.shape
    raw = w.raw.reshape(M, N, w.type.nbytes).transpose(1, 0, 2)
    return replace(w, shape=(N, M), raw=np.ascontiguousarray(raw).reshape(-1))


def with_ffn_in_order(tensors: Mapping[str, Tensor], n_embd: int) -> dict[str, Tensor]:
    """The tensors of a file, with ffn_up and ffn_down of layers that have them the other way around swapped.

    As clip_model_loader::load_tensors finds out: ffn_down there reads n_embd channels.
    """
    found = dict(tensors)
    for name, down in tensors.items():
        if (m := re.fullmatch(r"(v\.blk\.\d+\.ffn_)down\.weight", name)) and down.shape[-1] == n_embd:
            for end in ("weight", "bias"):
                pair = [f"{m[1]}{which}.{end}" for which in ("up", "down")]
                given = [tensors.get(n) for n in pair]
                for n, t in zip(pair, reversed(given), strict=True):
                    if t is None:
                        found.pop(n, None)
                    else:
                        found[n] = t
    return found
