"""The kernels, compiled for GPUs by nvcc, which needs none: no spills, and the arguments that a launch packs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from refembed.kernels.cuda.gpu import OPTIONS
from refembed.kernels.cuda.launch import HOME, SOURCES, Kernel, kernels_of, source_text

NVCC = shutil.which("nvcc")

TARGETS = ("sm_80", "sm_90", "sm_90a")
SHARED = 48 << 10  # bytes of shared memory that a kernel may declare, on every GPU
REGISTERS = 65_536  # of a multiprocessor

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc, which compiles for GPUs without one, is not installed")

PTX_TYPES = {"u64": 8, "u32": 4, "f32": 4, "s32": 4, "s64": 8}


def nvrtc_is_there() -> bool:
    """Whether CuPy finds NVIDIA's compiler."""
    if importlib.util.find_spec("cupy") is None:
        return False
    from cupy.cuda import nvrtc

    try:
        return bool(nvrtc.getVersion())
    except Exception:  # of whatever kind CuPy's loader of libraries has
        return False


def nvcc(folder: Path, source: str, *options: str) -> str:
    """Compile what a launch would compile; what the compiler says, and `folder/out`."""
    code = folder / f"{source}.cu"
    code.write_text(source_text(source))
    assert NVCC is not None
    # as `Gpu` does, which has NVRTC's spelling; warnings are errors
    command = [NVCC, *OPTIONS, "-Werror", "all-warnings", *options, "-o", str(folder / "out"), str(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def check_cubin(folder: Path, source: str, target: str) -> None:
    """No spills, no local arrays, no more shared memory and registers than a block can have."""
    said = nvcc(folder, source, f"-arch={target}", "-cubin", "--resource-usage")
    names = re.findall(r"Compiling entry function '(\w+)'", said)
    assert sorted(names) == sorted(kernels_of(source))  # extern "C": the names that get_function asks for
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(spills) >= len(names)
    assert {spill[1:] for spill in spills} == {("0", "0")}, said
    for used in re.findall(r"Used (\d+) registers", said):
        assert int(used) * 256 <= REGISTERS
    for shared in re.findall(r"(\d+) bytes smem", said):
        assert int(shared) <= SHARED


@needs_nvcc
@pytest.mark.parametrize("source", ["matmul", "norms", "tensor_cores"])
def test_kernels_compile_without_spills(tmp_path: Path, source: str) -> None:
    check_cubin(tmp_path, source, "sm_90")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_kernel_compiles_for_every_target_without_spills(tmp_path: Path, source: str, target: str) -> None:
    check_cubin(tmp_path, source, target)


def check_ptx(folder: Path, source: str) -> None:
    """The compiler's own list of arguments: as many, as wide, floats where floats are."""
    nvcc(folder, source, "-arch=compute_80", "-ptx")
    entries = re.findall(r"\.entry (\w+)\(([^)]*)\)", (folder / "out").read_text())
    assert sorted(name for name, _ in entries) == sorted(kernels_of(source))
    for name, listed in entries:
        types = re.findall(r"\.param \.(?:align \d+ \.)?(\w+)", listed)
        assert [PTX_TYPES[t] for t in types] == widths(kernels_of(source)[name])
        floats = [not p.pointer and p.type is np.float32 for p in kernels_of(source)[name].parameters]
        assert [t == "f32" for t in types] == floats


def widths(kernel: Kernel) -> list[int]:
    """Bytes of each argument, as a launch packs it."""
    return [8 if p.pointer else np.dtype(p.type).itemsize for p in kernel.parameters]


@needs_nvcc
@pytest.mark.parametrize("source", ["attention", "dequant_iquants", "norms"])
def test_the_compiler_reads_the_arguments_that_a_launch_packs(tmp_path: Path, source: str) -> None:
    check_ptx(tmp_path, source)


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_the_compiler_reads_the_arguments_that_any_launch_packs(tmp_path: Path, source: str) -> None:
    check_ptx(tmp_path, source)


def test_no_kernel_needs_a_header() -> None:
    """NVRTC has none."""
    for path in [*HOME.glob("*.cu"), *HOME.glob("*.cuh")]:
        assert not re.search(r"#\s*include\s*<", path.read_text(encoding="utf-8"))


@pytest.mark.skipif(not nvrtc_is_there(), reason="CuPy or NVRTC is not installed (the extra cuda)")
@pytest.mark.parametrize("source", SOURCES)
def test_cupys_own_compiler_takes_every_kernel(source: str) -> None:
    """NVRTC, by CuPy's binding, with the options of `Gpu`; measured with CuPy 14.2, NVRTC 13.5."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source_text(source), f"{source}.cu", [], [])
    nvrtc.compileProgram(program, [*OPTIONS, "--gpu-architecture=compute_80"])
    ptx = nvrtc.getPTX(program)
    found = re.findall(r"\.entry (\w+)\(", ptx.decode() if isinstance(ptx, bytes) else ptx)
    assert sorted(found) == sorted(kernels_of(source))
