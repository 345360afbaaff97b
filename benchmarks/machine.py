"""What the figures were measured on: the processor and what of it is used, builds, and llama.cpp's backend for it."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

# What llama.cpp's CPU backends of x86-64 need, as Linux spells it, and the bit each adds to a backend's score
# (ggml/src/ggml-cpu/arch/x86/cpu-feats.cpp)
NEEDS: dict[str, tuple[tuple[str, ...], int]] = {
    "FMA": (("fma",), 0),
    "F16C": (("f16c",), 1),
    "SSE42": (("sse4_2",), 2),
    "BMI2": (("bmi2",), 3),
    "AVX": (("avx",), 4),
    "AVX2": (("avx2",), 5),
    "AVX_VNNI": (("avx_vnni",), 6),
    "AVX512": (("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"), 7),
    "AVX512_VBMI": (("avx512vbmi",), 8),
    "AVX512_BF16": (("avx512_bf16",), 9),
    "AVX512_VNNI": (("avx512_vnni",), 10),
    "AMX_INT8": (("amx_int8",), 11),
}
HASWELL = "SSE42 AVX F16C FMA AVX2 BMI2"
SKYLAKE = HASWELL + " AVX512"
VARIANTS = {  # backend -> what it is built with (ggml/src/CMakeLists.txt)
    "x64": "",
    "sse42": "SSE42",
    "sandybridge": "SSE42 AVX",
    "ivybridge": "SSE42 AVX F16C",
    "piledriver": "SSE42 AVX F16C FMA",
    "haswell": HASWELL,
    "skylakex": SKYLAKE,
    "cannonlake": SKYLAKE + " AVX512_VBMI",
    "cascadelake": SKYLAKE + " AVX512_VNNI",
    "icelake": SKYLAKE + " AVX512_VBMI AVX512_VNNI",
    "cooperlake": SKYLAKE + " AVX512_VNNI AVX512_BF16",
    "zen4": SKYLAKE + " AVX512_VBMI AVX512_VNNI AVX512_BF16",
    "alderlake": HASWELL + " AVX_VNNI",
    "sapphirerapids": SKYLAKE + " AVX512_VBMI AVX512_VNNI AVX512_BF16 AMX_INT8",
}
NAMED = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8")


def score(variant: str, flags: set[str]) -> int:
    """What llama.cpp's loader gives a backend on a processor with these flags; 0: it does not run there."""
    needs = [NEEDS[name] for name in VARIANTS[variant].split()]
    if not all(flag in flags for wanted, _ in needs for flag in wanted):
        return 0
    return 1 + sum(1 << bit for _, bit in needs)


def variant(present: Iterable[str], flags: set[str]) -> str | None:
    """The backend of those present that llama.cpp's loader would take; None where none runs."""
    scores = {name: score(name, flags) for name in sorted(present) if name in VARIANTS}
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best and scores[best] else None


def backends(folder: Path) -> list[str]:
    """CPU backends in a folder of llama.cpp's libraries, by name."""
    return sorted(f.stem.removeprefix("libggml-cpu-") for f in folder.glob("libggml-cpu-*.so"))


def cpuinfo(text: str | None = None) -> dict[str, str]:
    """Facts of the first processor in /proc/cpuinfo; {} where there is none."""
    path = Path("/proc/cpuinfo")
    if text is None:
        text = path.read_text() if path.is_file() else ""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def flags() -> set[str]:
    """What the processor can do, as Linux spells it."""
    return set(cpuinfo().get("flags", "").split())


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory of the machine; 0 where it is not known."""
    path = Path("/proc/meminfo")
    found = re.search(r"MemTotal:\s+(\d+) kB", path.read_text()) if path.is_file() else None
    return int(found[1]) << 10 if found else 0


def facts() -> dict[str, str]:
    """The machine, for a report; the same on the same machine."""
    info = cpuinfo()
    model = info.get("model name") or platform.processor() or platform.machine()
    return {
        "processor": f"{model}, family {info.get('cpu family', '?')} model {info.get('model', '?')}",
        "features": " ".join(n for n in NAMED if n in flags()) or "not known",
        "cores": str(cores()),
        "memory": f"{memory() / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def builds() -> dict[str, str]:
    """refembed and what it computes with."""
    import numpy as np
    from llvmlite import binding

    from refembed import __version__
    from refembed.kernels.llvm import microkernel

    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    width = f"vectors of {8 * microkernel.WIDTH} bits, tiles of {microkernel.ROWS} rows x {microkernel.VECTORS} vectors"
    numba = f"Numba {metadata.version('numba')}, llvmlite {metadata.version('llvmlite')}"
    llvm = ".".join(map(str, binding.llvm_version_info))
    return {
        "refembed": f"{__version__}; {numba} (LLVM {llvm}), {width}",
        "NumPy": f"{np.__version__}, {blas.get('name', '?')} {blas.get('version', '?')}",
    }


def slug(said: dict[str, str]) -> str:
    """A file's name for a machine."""
    model = re.sub(r"\((r|tm)\)|processor|cpu|@.*", "", said["processor"].split(", family")[0], flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", f"{model} {said['cores']} cores {sys.platform}".lower()).strip("-")
