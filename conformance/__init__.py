"""Is refembed llama.cpp, number for number? Cases as data, measured bounds, one command: `python -m conformance`."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent

# before NumPy is imported: texts are short, and on a busy machine two BLAS threads that wait for each other are ten
# times slower than one
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
