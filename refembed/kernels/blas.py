"""How many threads NumPy's BLAS computes with: from the environment when NumPy is imported, afterwards by a call.

BLAS reads its number once, as its library is loaded. `limit` calls the library's own function instead, so that it can
be changed later. OpenBLAS (NumPy's wheels), MKL and BLIS have one; Apple's Accelerate has none and keeps to what
VECLIB_MAXIMUM_THREADS said.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

VARIABLES = (
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS"
)  # fmt: skip
SETTERS = (  # of OpenBLAS as NumPy's wheels, SciPy's and distributions name it; of MKL; of BLIS
    "scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "scipy_openblas_set_num_threads",
    "openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads",
)  # fmt: skip
NAMES = ("openblas", "mkl_rt", "blis")  # parts of the libraries' file names
MAPS = Path("/proc/self/maps")  # the files that this process has loaded


chosen: list[int] = []  # by `limit`


def limit(n: int) -> None:
    """Let BLAS compute with n threads from now on, if NumPy has loaded one."""
    chosen[:] = [n]
    if "numpy" in sys.modules:
        for set_threads in setters():
            set_threads(n)


@cache
def setters() -> tuple[Any, ...]:
    """The function that sets the number of threads, of each BLAS in this process."""
    found = []
    for path in libraries():
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(str(path))  # it is loaded already: this is the same one
            found += [getattr(library, name) for name in SETTERS if hasattr(library, name)][:1]
    return tuple(found)


def libraries() -> Iterator[Path]:
    """Files of the BLAS libraries that are loaded; where the system does not list them, those of NumPy's wheel."""
    import numpy as np

    try:
        lines = MAPS.read_text().splitlines()
        paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    except (OSError, IndexError):
        home = Path(np.__file__).parent
        paths = {str(p) for folder in (home / ".dylibs", home.with_name("numpy.libs")) for p in folder.glob("*")}
    yield from (Path(p) for p in sorted(paths) if any(name in Path(p).name for name in NAMES))
