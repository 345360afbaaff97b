"""The kernels on this CPU, for tests of the `cupy` numerics without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from refembed.kernels.cuda.ops import Cupy
from tests.kernels.cuda.fake_cupy import FakeCupy
from tests.kernels.cuda.on_cpu import COMPILER, OnCpu


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> Path:
    """A folder for compiled kernels, which later runs find again."""
    if COMPILER is None:
        pytest.skip("the kernels are run on the CPU by g++, which is not installed")
    cache: Any = request.config.cache
    return Path(cache.mkdir("cuda-on-cpu"))


@pytest.fixture
def ops(built: Path) -> Cupy:
    """The `cupy` numerics, on the CPU."""
    return Cupy(OnCpu(built))


@pytest.fixture
def fake(built: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """`import cupy` gives it."""
    module = FakeCupy(OnCpu(built))
    monkeypatch.setitem(sys.modules, "cupy", module)  # type: ignore[arg-type]
    return module
