"""What a run ran on: without it no number means anything."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from pathlib import Path
from typing import Any

import numpy as np

from conformance.oracle import Oracle
from refembed import __version__


def environment(oracle: Oracle) -> dict[str, str]:
    """Versions, processor, and which llama.cpp was asked."""
    build = oracle.build()
    file = build["files"][0] if build.get("files") else {}
    return {
        "refembed": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas(),
        "numba": numba_version(),
        "cpu": f"{cpu_name()}; {platform.system()} {platform.machine()}",
        "oracle": f"llama.cpp, {oracle.name}: wheel xllamacpp {build.get('wheel')}, one thread, no repacked weights",
        "oracle_sha256": str(file.get("sha256", "")),
        "oracle_cpu": str(build.get("system_info", "")),
    }


def blas() -> str:
    """NumPy's BLAS, and where it tells, the kernels it has chosen for this processor."""
    config: Any = np.show_config(mode="dicts")
    found = config.get("Build Dependencies", {}).get("blas", {})
    return " ".join(filter(None, [found.get("name", "?"), found.get("version", ""), openblas_kernels()]))


def openblas_kernels() -> str:
    """`SkylakeX`, for one; "" where NumPy's wheel has no OpenBLAS of its own."""
    for file in (Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*"):
        for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
            with contextlib.suppress(AttributeError, OSError):
                ask = ctypes.CDLL(str(file))[name]
                ask.restype = ctypes.c_char_p
                return str(ask().decode())
    return ""


def numba_version() -> str:
    """Numba's version, without importing it."""
    from importlib.metadata import version

    return version("numba")


def cpu_name() -> str:
    """The processor as the system calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
