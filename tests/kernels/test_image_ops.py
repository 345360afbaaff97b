"""Operations of vision towers, in every numerics, against plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from refembed.arrays import F64
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import Ops
from tests.kernels.longhand import random, stored

# over the largest result; measured 3.9e-16, 9.1e-8, and 4.8e-4 of `ggml`, whose pixels, kernels and tables are float16
BOUNDS = {"exact": 2e-15, "fast": 3e-7, "ggml": 1e-3, "cupy": 3e-7}  # `cupy`: tests/kernels/cuda/test_operations.py


@pytest.fixture(params=["exact", "fast", "ggml"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return load_ops(request.param)


def check(ops: Ops, got: Any, want: F64) -> None:
    assert got.dtype == ops.dtype
    assert got.shape == want.shape
    assert np.abs(np.asarray(got) - want).max() <= BOUNDS[ops.name] * np.abs(want).max()


def test_each_patch_goes_through_the_kernel_and_a_rest_is_not_read(ops: Ops) -> None:
    x, w = random(1, 3, 7, 11).astype(ops.dtype), stored(random(2, 5, 3, 2, 2), "w")
    kernel = w.dequantize().astype(float)
    want = np.array(
        [
            [
                sum(
                    float(x[c, 2 * i + a, 2 * j + b]) * kernel[n, c, a, b]
                    for c in range(3)
                    for a in range(2)
                    for b in range(2)
                )
                for i in range(3)
                for j in range(5)
            ]
            for n in range(5)
        ]
    )
    check(ops, ops.conv_2d(x, w), want)


def test_squares_are_averaged(ops: Ops) -> None:
    x = random(3, 4, 6, 9).astype(ops.dtype)
    want = np.array(
        [[[plane[i : i + 3, j : j + 3].mean() for j in (0, 3, 6)] for i in (0, 3)] for plane in x.astype(float)]
    )
    check(ops, ops.pool_2d(x, 3), want)


@pytest.mark.parametrize("size", [(3, 5), (7, 9), (2, 2), (1, 8), (5, 1)])
def test_planes_are_interpolated_corner_to_corner(ops: Ops, size: tuple[int, int]) -> None:
    x = random(4, 2, 3, 5).astype(ops.dtype)

    def at(plane: F64, y: float, z: float) -> float:
        i, j = min(int(y), 1), min(int(z), 3)
        dy, dz = y - i, z - j
        return float(
            plane[i, j] * (1 - dy) * (1 - dz)
            + plane[i, j + 1] * (1 - dy) * dz
            + plane[i + 1, j] * dy * (1 - dz)
            + plane[i + 1, j + 1] * dy * dz
        )

    ys, zs = (np.linspace(0, most, n) for most, n in zip((2, 4), size, strict=True))
    want = np.array([[[at(plane, y, z) for z in zs] for y in ys] for plane in x.astype(float)])
    check(ops, ops.interpolate(x, *size), want)


def test_quick_gelu_is_x_times_a_sigmoid(ops: Ops) -> None:
    x = (4 * random(5, 3, 8)).astype(ops.dtype)
    want = np.array([float(v) / (1 + math.exp(-1.702 * float(v))) for v in x.reshape(-1)]).reshape(x.shape)
    check(ops, ops.gelu_quick(x), want)
