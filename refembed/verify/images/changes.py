"""How a hypothesis changes a tower: other tensors, operations, functions of its file. Tables are in `towers`."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from refembed.arrays import F32, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, AttentionSpec, Ops, Rope, Tap
from refembed.model import vision
from refembed.verify.hypotheses.precision import bfloat16
from refembed.verify.images.hypothesis import Change, operations, weights
from refembed.verify.images.reference import ImageReference

ALTERED = itertools.count()  # tensors that were altered so far


def layers(order: range) -> Change:
    """Some layers, in that order; what DeepStack takes stays with its layer."""

    def change(r: ImageReference) -> ImageReference:
        w = r.tower.weights
        parts = {"blk": tuple(w.blk[i] for i in order)}
        if hasattr(w, "deepstack"):
            parts["deepstack"] = tuple(w.deepstack[i] for i in order)
        own = replace(r.tower.hparams, n_layer=len(order))
        return replace(r, tower=replace(r.tower, hparams=own, weights=replace(w, **parts)))

    return change


def scaled_to(scale: float) -> Callable[..., Float]:
    """Attention with another scale of its scores."""

    def attention(true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any) -> Float:
        return true.attention(q, k, v, replace(spec, scale=scale), *rest, **more)

    return attention


def patch_kernel(alter: Callable[[F32], F32]) -> Change:
    """Another order of the numbers of a patch's kernel."""

    def change(w: Any) -> Any:
        names = [name for name in ("patch_embd", "patch_embd_1") if hasattr(w, name)]
        return replace(w, **{name: altered(getattr(w, name), alter) for name in names})

    return weights(change)


def altered(w: Tensor, alter: Callable[[F32], Any]) -> Tensor:
    """A tensor with other numbers, under a name of its own."""
    return Tensor.of(np.ascontiguousarray(alter(w.dequantize())), f"{w.name}, altered no. {next(ALTERED)}")


def bfloat16_patches(true: Ops, x: Float, w: Tensor) -> Float:
    """Both factors with eight bits of mantissa."""
    return true.conv_2d(bfloat16(x), Tensor.of(bfloat16(w.dequantize()), f"{w.name} in BF16"))


def without(name: str) -> Change:
    """A tensor that is not there."""
    return weights(lambda w: replace(w, **{name: None}))


def in_blocks(**values: Any) -> Change:
    """Tensors of every layer replaced."""
    return weights(lambda w: replace(w, blk=tuple(replace(b, **values) for b in w.blk)))


def embedding(alter: Callable[[F32], Any]) -> Change:
    """Another table of places."""
    return weights(lambda w: replace(w, position_embd=altered(w.position_embd, alter)))


def pooled_by(name: str) -> Callable[..., Float]:
    """Another number for each square of patches."""

    def pool_2d(_: Ops, x: Float, k: int) -> Float:
        ny, nx = x.shape[1] // k, x.shape[2] // k
        squares = x[:, : ny * k, : nx * k].reshape(len(x), ny, k, nx, k)
        if name == "first":
            return np.ascontiguousarray(squares[:, :, 0, :, 0])
        if name == "max":
            return np.ascontiguousarray(squares.max(axis=(2, 4)))
        return np.ascontiguousarray(squares.sum(axis=(2, 4)))

    return pool_2d


def transposed(true: Ops, x: Float, k: int) -> Float:
    """Planes whose rows are read as columns: the rest of the run sees tokens in another order."""
    turned = np.ascontiguousarray(x.reshape(len(x), x.shape[2], x.shape[1]).transpose(0, 2, 1))
    return true.pool_2d(turned, k)


def rms_norm_of(*names: str, then: Callable[..., Float]) -> Change:
    """Another function in the place of RMS norms with one of these weights; "" is a norm without any."""

    def rms_norm(true: Ops, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        found = w.name if w is not None else ""
        if any(found.removesuffix(".weight").endswith(name) if name else not found for name in names):
            return then(true, x, w, eps)
        return true.rms_norm(x, w, eps, tap)

    return operations(rms_norm=rms_norm)


def skipped(true: Ops, x: Float, w: Tensor | None, eps: float) -> Float:
    """No norm."""
    return x


def one_more(true: Ops, x: Float, w: Tensor | None, eps: float) -> Float:
    """Gemma's 1 + w, of weights that have the 1 already."""
    assert w is not None
    return true.rms_norm(x, None, eps) * (1 + true.weight(w))


def turning(other: Callable[[Rope], Rope]) -> Change:
    """RoPE with other settings."""
    return operations(rope=lambda true, x, pos, rope: true.rope(x, pos, other(rope)))


def rope_swapped(true: Ops, x: Float, pos: Any, rope: Rope) -> Float:
    """Places of a grid, row by row, as those of columns, and the other way around."""
    ny = int(pos.max()) + 1 if pos[0] == pos[1] or len(pos) == 1 else len(pos) // (int(pos.max()) + 1)
    nx = len(pos) // ny
    by_row = nx > 1 and pos[1] == pos[0]
    return true.rope(x, np.tile(np.arange(nx), ny) if by_row else np.repeat(np.arange(ny), nx), rope)


def not_doubled(r: ImageReference) -> ImageReference:
    """Pixels x for 2 x - 1: the tower doubles (x + 1) / 2."""
    pixels = r.tower.module.pixels
    return replace(r, tower=r.tower.changed(pixels=lambda image, hp: (pixels(image, hp) + 1) / 2))


def in_module(name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Change:
    """A function of a tower's file replaced, as its other functions see it: the file is run once more for that."""

    def change(r: ImageReference) -> ImageReference:
        spec = importlib.util.find_spec(f"{vision.__name__}.{vision.TOWERS[r.tower.hparams.projector]}")
        assert spec is not None
        assert spec.loader is not None
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        setattr(copy, name, make(getattr(copy, name)))
        return replace(r, tower=r.tower.changed(forward=copy.forward))

    return change


def by_centers(_: Ops, x: Float, height: int, width: int) -> Float:
    """Bilinear interpolation with half a step at the edges (align_corners=False)."""
    for axis, n in ((1, height), (2, width)):
        most = x.shape[axis] - 1
        at = np.clip((np.arange(n) + 0.5) * x.shape[axis] / n - 0.5, 0, most)
        low = np.floor(at).astype(int)
        share = (at - low).astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(3)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, most), axis) * share
    return np.ascontiguousarray(x)


def shifted(by: int) -> Change:
    """What DeepStack has of one layer, of another."""
    return weights(lambda w: replace(w, deepstack=w.deepstack[-by:] + w.deepstack[:-by]))


def only_first(x: Float, C: int) -> Float:
    """Rows with zeros in the further columns."""
    out = np.array(x)
    out[:, C:] = 0
    return out


def backward(x: Float, C: int) -> Float:
    """The further columns, the last layer's first."""
    parts = x[:, C:].reshape(len(x), -1, C)[:, ::-1]
    return np.concatenate([x[:, :C], parts.reshape(len(x), -1)], axis=1)
