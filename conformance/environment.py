"""What a run ran on: without it no number means anything.

Bounds hold on every processor, but they were measured on one: `measured_elsewhere` says so next to one that fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conformance.oracle import Oracle
from refembed import __version__
from refembed.corpus.fingerprint import features

VECTORS = ("sse4", "avx", "fma", "f16c", "amx", "neon", "asimd", "sve", "vsx", "rvv")


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
        "cpu_vectors": " ".join(vector_sets()),
        "oracle": f"llama.cpp, {oracle.name}: wheel xllamacpp {build.get('wheel')}, one thread, no repacked weights",
        "oracle_sha256": str(file.get("sha256", "")),
        "oracle_cpu": str(build.get("system_info", "")),
    }


def blas() -> str:
    """NumPy's BLAS, and where it reports them, the kernels it has chosen for this processor."""
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
    return cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor; elsewhere nothing."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(errors="replace").split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def vector_sets() -> list[str]:
    """The processor's vector instruction sets: as Linux names them, elsewhere as NumPy does."""
    info = cpuinfo()
    named = (info.get("flags") or info.get("Features") or " ".join(features()).lower()).split()
    return [name for name in dict.fromkeys(named) if name.startswith(VECTORS)]


def measured_elsewhere(measured: Mapping[str, str]) -> str:
    """Where bounds come from, if that is another processor or another BLAS kernel than this process has; else ""."""
    here = {"cpu": f"{cpu_name()}; {platform.system()} {platform.machine()}", "blas": blas()}
    if all(measured.get(key) == value for key, value in here.items()):
        return ""
    there = ", ".join(str(measured.get(key, "?")) for key in here)
    return f"measured on {there}; this is {', '.join(here.values())}"
