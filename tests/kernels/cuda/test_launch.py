"""What a launch passes: arguments read from the source, packed, checked; and what no launch may ask for."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.gguf import QUANT_TYPES
from refembed.kernels.cuda import array, launch, precision, state_ops
from refembed.kernels.cuda import ops as ops_module
from refembed.kernels.cuda.launch import HOME, SOURCES, kernel_of, kernels_of, packed
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.quant.dequant import FAMILIES, PLAIN
from tests.kernels.cuda.on_cpu import OnCpu

# a kernel -> the function that defines it, where that has another name or place
ELSEWHERE = {
    "sigmoid": "exact.recurrent.sigmoid", "relu": "ops.Ops.relu", "tanh_": "ops.Ops.tanh", "exp_": "ops.Ops.exp",
    "softmax": "exact.attention.softmax", "mean": "exact.sums.means", "matmul_few": "exact.matmul.matmul",
    "add_scaled": "exact.ops.Exact.add_scaled", "log_decay": "exact.ops.Exact.log_decay",
    "add": "ops.Ops.add", "multiply": "ops.Ops.multiply", "scale": "ops.Ops.scale", "columns": "ops.Ops.split",
    "gather": "ops.Ops.get_rows", **{f"attention_{n}": "exact.attention.attention" for n in (64, 128, 256, 512)},
    **{f"matmul_{p}_few": f"exact.tensor_cores.matmul_{p}" for p in ("tf32", "fp16", "bf16")},
    **{name.lower(): "quant.dequant.plain" for name in PLAIN},
}  # fmt: skip


def test_every_file_of_kernels_is_listed_and_no_two_kernels_have_one_name() -> None:
    assert sorted(path.stem for path in HOME.glob("*.cu")) == sorted(SOURCES)
    names = [name for source in SOURCES for name in kernels_of(source)]
    assert len(set(names)) == len(names)
    assert len(names) == 77


@pytest.mark.parametrize("source", SOURCES)
def test_every_kernel_has_the_name_of_its_definition(source: str) -> None:
    for name in kernels_of(source):
        room = "quant" if source.startswith("dequant") else "exact"
        path = ELSEWHERE.get(name, f"{room}.{source}.{name}").split(".")
        depth = next(i for i, part in enumerate(path) if part[0].isupper()) if any(p[0].isupper() for p in path) else -1
        found: object = importlib.import_module("refembed.kernels." + ".".join(path[:depth]))
        for part in path[depth:]:
            found = getattr(found, part)
        assert callable(found)


def test_every_tensor_type_has_a_decoder() -> None:
    kernels = {name for family in FAMILIES for name in kernels_of(f"dequant_{family}")}
    assert kernels == {t.name.lower() for t in QUANT_TYPES}


def test_arguments_are_numbers_of_the_size_that_the_kernel_reads(built: Path) -> None:
    memory = OnCpu(built).upload(np.ones(3, np.float32))
    values = packed(kernel_of("rms_norm"), [memory, None, 1e-6, 2**40, 7, np.int64(1), memory.at(2)])
    assert [type(v) for v in values] == [np.uint64, np.uint64, np.float32, np.int64, np.int32, np.int32, np.uint64]
    assert (values[0], values[1], values[3]) == (memory.pointer, 0, 2**40)
    assert values[-1] == memory.pointer + 8


def test_a_wrong_argument_is_refused_before_the_launch(built: Path) -> None:
    device = OnCpu(built)
    x, ids = device.upload(np.ones(3, np.float32)), device.upload(np.ones(3, np.int32))
    with pytest.raises(TypeError, match="kernel gather: ids is of int64, not of int32"):
        device.for_each("gather", 3, x, ids, 3, 1, x)
    with pytest.raises(TypeError, match="kernel scale takes 4 arguments, not 3"):
        device.for_each("scale", 3, x, 1.0, 3)
    with pytest.raises(OverflowError):
        packed(kernel_of("rms_norm"), [x, None, 1e-6, 1, 2**31, 1, x])
    with pytest.raises(ValueError, match="more than CUDA launches"):
        device.launch("softmax", (1, 65_536, 1), (32, 1, 1), x, 1, 3, x)
    with pytest.raises(ValueError, match="more than CUDA launches"):
        device.launch("softmax", (1, 1, 1), (1056, 1, 1), x, 1, 3, x)
    assert device.launched == []


def test_an_empty_grid_launches_nothing(ops: Cupy) -> None:
    assert ops.gelu(np.empty((0, 4), np.float32)).shape == (0, 4)
    assert ops.device.launched == []  # type: ignore[attr-defined]


def test_a_signature_may_not_have_a_type_that_is_not_packed() -> None:
    with pytest.raises(KeyError, match="double"):
        launch.parameters_of("const float* x, double y")


@pytest.mark.parametrize("module", [launch, ops_module, state_ops, array, precision])
def test_examples_hold(module: Any) -> None:
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)
