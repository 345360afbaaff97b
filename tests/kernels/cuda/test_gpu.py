"""`Gpu`: what it says where there is no GPU, and what it asks of CuPy, for which fake_cupy.py stands in."""

from __future__ import annotations

import builtins
import importlib.util
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu as benchmark
from refembed import Embedder
from refembed.errors import RequestError
from refembed.kernels.cuda.gpu import Gpu
from refembed.kernels.cuda.launch import source_text
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.numerics import load_ops
from tests.kernels.cuda.fake_cupy import CompileException, CUDARuntimeError, FakeCupy
from tests.kernels.cuda.on_cpu import OnCpu
from tests.kernels.longhand import random, stored


def test_without_cupy_one_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RequestError) as error:
        Embedder.load("minilm", numerics="cupy")
    assert error.value.message == "numerics 'cupy' needs CuPy, which is not installed"
    assert error.value.hint.startswith("pip install 'refembed[cuda]'")


def test_a_cupy_that_does_not_load_is_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    true = builtins.__import__

    def broken(name: str, *rest: Any) -> Any:
        if name == "cupy":
            raise ImportError("libnvrtc.so.13: cannot open shared object file\nand a page more")
        return true(name, *rest)

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(RequestError, match=r"which cannot be loaded: libnvrtc.so.13: cannot open shared object file\n"):
        Gpu()


def test_without_a_driver_one_error_says_so(fake: FakeCupy) -> None:
    fake.gpus = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
    with pytest.raises(RequestError) as error:
        load_ops("cupy")
    assert error.value.message == f"numerics 'cupy': no NVIDIA GPU to be had: {fake.gpus}"
    assert "install NVIDIA's driver" in error.value.hint


def test_an_error_of_cuda_in_a_fork_says_what_to_do(fake: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something else than refembed had used the GPU before."""
    fake.gpus = "cudaErrorInitializationError: initialization error"
    monkeypatch.setattr(CUDARuntimeError, "status", 3)
    with pytest.raises(RequestError, match="no NVIDIA GPU to be had: cudaErrorInitializationError") as error:
        load_ops("cupy")
    assert error.value.hint.startswith(
        "so CUDA answers in a fork of a process that used it: start processes by 'spawn'"
    )


def test_without_nvrtc_one_error_says_what_to_install(fake: FakeCupy) -> None:
    def missing() -> None:
        raise RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12"\n  and where it was looked for')

    fake.cuda.nvrtc.getVersion = missing
    with pytest.raises(RequestError) as error:
        load_ops("cupy")
    assert error.value.message.endswith('which cannot be loaded: Failure finding "libnvrtc.so.13 or libnvrtc.so.12"')
    assert "cupy-cuda13x[ctk]" in error.value.hint


def test_a_source_that_does_not_compile_is_one_error(fake: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise CompileException("activations.cu(3): error: identifier is undefined\n\n1 error detected")

    monkeypatch.setattr(fake, "RawModule", lambda **options: SimpleNamespace(get_function=broken))
    with pytest.raises(RequestError, match=r"GPU 0: activations.cu does not compile: activations.cu\(3\): error"):
        load_ops("cupy").gelu(np.zeros((1, 1), np.float32))


@pytest.mark.parametrize(("gpus", "hint"), [(1, "GPU 0 is the only one"), (4, "there are 4, 0 to 3")])
def test_a_gpu_that_is_not_there_is_refused(fake: FakeCupy, gpus: int, hint: str) -> None:
    fake.gpus = gpus
    for index in (gpus, -1):
        with pytest.raises(RequestError) as error:
            load_ops("cupy", device=index)
        assert (error.value.message, error.value.hint) == (f"device {index}: there is no such GPU", hint)


def test_a_device_is_for_cupy_alone() -> None:
    with pytest.raises(RequestError, match="device 0: numerics 'fast' has no choice there"):
        Embedder.load("minilm", numerics="fast", device=0)


def test_too_little_memory_is_one_error(fake: FakeCupy) -> None:
    ops = load_ops("cupy")
    fake.total = fake.allocated + 1000
    with pytest.raises(RequestError, match="GPU 0: no memory for 4 MiB more, 0 MiB are free") as error:
        ops.gelu(np.zeros((1024, 1024), np.float32))
    assert "memory_budget 0" in error.value.hint


def test_a_model_runs_through_it_with_the_bits_of_the_kernels(fake: FakeCupy, tiny: Path, built: Path) -> None:
    """Each file of kernels is compiled once; every thread is bound to the GPU that was asked for."""
    fake.gpus = 2
    e = Embedder.load(tiny, numerics="cupy", device=1)
    assert (e.info.numerics, repr(e.ops.device.name)) == ("cupy", "'GPU 1'")  # type: ignore[attr-defined]
    texts = ["the cat sat", "a dog"]
    vectors = e.embed(texts)
    direct = Embedder(e.info, e.tokenizer, e.model, Cupy(OnCpu(built)))
    assert np.asarray(vectors).tobytes() == np.asarray(direct.embed(texts)).tobytes()
    assert len(set(fake.compiled)) == len(fake.compiled)
    other = threading.Thread(target=lambda: e.embed("the mat"))
    other.start()
    other.join()
    assert fake.used == [1, 1]
    assert e.options["device"] == 1


def test_memory_that_is_in_use_is_not_given_away(fake: FakeCupy) -> None:
    """A third of what is free at first may hold decoded matrices."""
    ops: Any = load_ops("cupy")
    assert ops.weights.budget.room == int(0.75 * fake.total)
    w, x = stored(random(1, 30, 20)), random(2, 3, 20)
    assert np.allclose(ops.linear(x, w), x @ random(1, 30, 20).T, atol=1e-5)
    assert ops.weights.budget.room == int(0.75 * fake.total) - 4 * 30 * 20


def test_the_benchmark_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit, match=r"which is not installed\n  hint: pip install .*\nNothing was measured."):
        benchmark.main([])


@pytest.mark.system
def test_the_benchmark_is_ready_for_a_gpu(
    fake: FakeCupy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, on two texts; its figures mean nothing here. In place of sentence-transformers the definition."""
    monkeypatch.setattr(benchmark, "TEXTS", 2)
    monkeypatch.setattr(benchmark, "SHAPES", ((3, 40, 50), (70, 33, 65)))
    monkeypatch.setattr(benchmark, "SHORT_TEXTS", 2)
    exact = Embedder.load("minilm", numerics="exact", semantics="original")
    monkeypatch.setattr(benchmark, "peers", lambda args: dict.fromkeys(args.precisions, exact.embed))
    results = tmp_path / "results.json"
    options = ["--types", "q8_0", "--precisions", "float32", "fp16", "--rows", "1x8", "--seconds", "0"]
    benchmark.main([*options, "--json", str(results)])
    printed = capsys.readouterr().out
    assert "0 numbers differ from the CPU's chains of multiply-adds" in printed
    assert "0 of 2 texts have other bits alone\n" in printed
    assert "tokens/s" in printed
    found = json.loads(results.read_text())
    assert found["machine"]["gpu"] == "no GPU"
    assert found["correctness"]["sound"] is True
    assert found["correctness"]["q8_0"]["worst"] < benchmark.BOUND
    assert found["speed"]["1x8"]["ids"] > 0
    assert "8 tokens: " in printed
    assert found["graphs"]["captured"] == 1
    assert found["graphs"]["other bits"] == 0
    assert found["graphs"]["with"] > 0
    assert (found["correctness"]["precision fp16"]["wrong"], found["correctness"]["precision fp16"]["sound"]) == (
        0,
        True,
    )
    assert found["correctness"]["sentence-transformers fp16"]["worst"] < 1e-12
    assert set(found["speed"]["1x8"]) == {
        "ids", "float32", "fp16", "peer float32", "peer fp16", "ratio float32", "ratio fp16"
    }  # fmt: skip


@pytest.mark.system
def test_the_benchmark_times_nothing_that_is_wrong(
    fake: FakeCupy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.device.changed["activations"] = source_text("activations").replace("0.044715f", "0.04f")
    monkeypatch.setattr(benchmark, "TEXTS", 2)
    with pytest.raises(SystemExit, match="wrong results: nothing was timed"):
        benchmark.main(["--types", "f32", "--precisions", "float32", "--rows", "1x8"])
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed (the extra cuda)")
def test_the_true_cupy_has_what_is_used_of_it() -> None:
    """Without a GPU: names, and how a module of ours is made; compiling and launching need a driver."""
    import cupy

    assert callable(cupy.cuda.alloc)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, Exception)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, Exception)
    assert callable(cupy.cuda.runtime.memcpy)
    assert callable(cupy.cuda.Stream.begin_capture)
    assert callable(cupy.cuda.Stream.end_capture)
    assert callable(cupy.cuda.Graph.launch)
    assert cupy.cuda.Stream.null.ptr == 0
    assert cupy.cuda.runtime.CUDARuntimeError(3).status == 3
    assert callable(cupy.cuda.runtime.memGetInfo)
    assert callable(cupy.RawModule)
    assert callable(cupy.cuda.nvrtc.getVersion)
    assert issubclass(cupy.cuda.compiler.CompileException, Exception)
    assert cupy.cuda.runtime.memcpyHostToDevice == 1
    assert cupy.cuda.runtime.memcpyDeviceToHost == 2
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        with pytest.raises(RequestError, match="no NVIDIA GPU to be had: cudaError"):
            load_ops("cupy")
