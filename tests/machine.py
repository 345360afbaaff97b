"""What a test run says of the machine: its processor, and where the bounds that tests hold were measured."""

from __future__ import annotations

import importlib.metadata
import os

from conformance import environment
from conformance.architectures import BOUNDS
from conformance.bounds import PATH, load_bounds

FILES = (PATH, BOUNDS)  # measured bounds; those in a test file are of the same machine


def header() -> list[str]:
    """The lines at the top of a run."""
    origins: dict[str, list[str]] = {}
    for path in FILES:
        origins.setdefault(origin(load_bounds(path).measured), []).append(path.name)
    return [
        f"processor: {environment.cpu_name()}, {cores()} cores; {' '.join(environment.vector_sets())}",
        f"arithmetic: NumPy {version('numpy')} with {environment.blas()}; "
        f"Numba {version('numba')} for {compiled_for()}; llama.cpp: wheel xllamacpp {version('xllamacpp')}",
        *(f"bounds ({', '.join(names)}): {where}" for where, names in origins.items()),
    ]


def origin(measured: dict[str, str]) -> str:
    """Where bounds were measured, compared with this processor."""
    return environment.measured_elsewhere(measured) or f"measured on a processor like this one ({measured['date']})"


def warning() -> str:
    """What a failed test says where bounds were measured on another processor; else ""."""
    found = environment.measured_elsewhere(load_bounds(PATH).measured)
    return f"If this is a bound that does not hold: bounds were {found}." if found else ""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiled_for() -> str:
    """The processor that Numba compiles for."""
    import llvmlite.binding

    return os.environ.get("NUMBA_CPU_NAME") or str(llvmlite.binding.get_host_cpu_name())


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
