"""Which BLAS kernels keep rows apart, and what keeping them apart costs: python -m benchmarks rows

This is about `exact`, which multiplies in float64; `fast` has no BLAS in it. For each kind of CPU that OpenBLAS can be
set to be, and 1 and 2 threads: does a row get the same bits whatever stands next to it, in plain products of any height
and in the tiles of refembed/kernels/exact/matmul.py; and the speed of one of MiniLM's products (2048 rows) as one BLAS
call, as tiles, and by the kernel of our own, which is used where tiles mix rows.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SHAPES = ((384, 384), (1536, 384), (384, 1536))  # (n, k) of MiniLM's linear layers
CORES = ("SkylakeX", "Haswell", "Sandybridge", "Nehalem")
HEIGHT = 2048


def plain_mixes() -> bool:
    """True if some height or place changes a row's bits in plain BLAS calls."""
    import numpy as np

    rng = np.random.default_rng(0)
    for n, k in SHAPES:
        w, x = (rng.standard_normal(shape) for shape in ((n, k), (300, k)))
        whole = x @ w.T
        for height in (1, 2, 3, 5, 8, 13, 64, 100, 257):
            if not (x[7 : 7 + height] @ w.T == whole[7 : 7 + height]).all():
                return True
    return False


def rate(run: Callable[[], object], flops: float) -> float:
    """GFLOP/s, median of five after one."""
    run()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return flops / statistics.median(seconds) / 1e9


def report() -> None:
    """One line for this process's BLAS."""
    import numpy as np

    from refembed.kernels.exact import matmul
    from refembed.kernels.llvm import gemm

    alone = all(matmul.rows_stand_alone(n, k, np.float64) for n, k in SHAPES)
    line = f"{'mixes' if plain_mixes() else 'apart':>8}{'apart' if alone else 'mixes':>8}"
    x = np.random.default_rng(0).standard_normal((HEIGHT, 384))
    w = np.random.default_rng(1).standard_normal((1536, 384))
    flops = 2.0 * HEIGHT * 384 * 1536
    runs: tuple[Callable[[], object], ...] = (
        lambda: x @ w.T,
        lambda: matmul.matmul(x, w),
        lambda: gemm.matmul(x, w),
    )
    print(line + "".join(f"{rate(run, flops):9.0f}" for run in runs), flush=True)


def main(argv: list[str] | None = None) -> None:
    if argv == ["report"]:
        return report()
    print("                        float64         GFLOP/s (384 -> 1536, float64)")
    print("kernels      threads   plain   tiles    plain    tiles  our own (one thread)")
    for core in CORES:
        for threads in ("1", "2"):
            env = os.environ | {"OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": threads}
            print(f"{core:<13}{threads:>7}", end="", flush=True)
            run = subprocess.run([sys.executable, "-m", "benchmarks.rows", "report"], env=env)
            if run.returncode:
                print("   this CPU cannot run these")


if __name__ == "__main__":
    main(sys.argv[1:])
