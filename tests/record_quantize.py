"""Records what llama.cpp's own llama_model_quantize writes: tests/data/quantize.json.

    npm pack @node-llama-cpp/linux-x64@3.22.1 && tar xf node-llama-cpp-linux-x64-3.22.1.tgz   # llama.cpp v0.5.0
    python -m tests.record_quantize package/bins/linux-x64

The pinned wheel leaves that function out; it has the quantizers themselves (tests/kernels/quant/test_quantize.py asks
those). The library runs in a process of its own for each model, as no process may hold two builds of ggml.
"""

from __future__ import annotations

import ctypes as ct
import hashlib
import json
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

from refembed.convert.quantize_mix import TYPES
from refembed.gguf import open_gguf
from refembed.hub import resolve
from tests.quantize_models import MODELS, build

FILE = Path(__file__).parent / "data" / "quantize.json"
ORIGIN = "@node-llama-cpp/linux-x64 3.22.1: llama.cpp v0.5.0, ggml 0.25.1"


class Params(ct.Structure):
    """struct llama_model_quantize_params"""

    _fields_ = (
        ("nthread", ct.c_int32),
        ("ftype", ct.c_int),
        ("output_tensor_type", ct.c_int),
        ("token_embedding_type", ct.c_int),
        *((flag, ct.c_bool) for flag in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure")),
        *((flag, ct.c_bool) for flag in ("keep_split", "dry_run")),
        *((pointer, ct.c_void_p) for pointer in ("imatrix", "kv_overrides", "tt_overrides", "prune_layers")),
        ("behind", ct.c_byte * 256),  # max_buf_size where the build has it; left as the library fills it
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kinds(path: Path) -> str:
    """The tensors' types in the order of the file: "F32*3 Q4_K F32"."""
    runs = [(name, len(list(run))) for name, run in groupby(t.type.name for t in open_gguf(path).tensors.values())]
    return " ".join(name if n == 1 else f"{name}*{n}" for name, n in runs)


def label(name: str, pure: bool) -> str:
    return f"{name} pure" if pure else name


def worker(folder: Path, source: Path, out: Path) -> None:
    """Every type; a file for each that the library can make."""
    for part in ("libggml-base", "libggml.", "libllama."):
        lib = ct.CDLL(str(min(folder.glob(f"{part}*"))))
    defaults, quantize = lib.llama_model_quantize_default_params, lib.llama_model_quantize
    defaults.restype = Params
    quantize.restype, quantize.argtypes = ct.c_uint32, [ct.c_char_p, ct.c_char_p, ct.POINTER(Params)]
    lib.llama_backend_init()
    for name, (file_type, _) in TYPES.items():
        for pure in (False, True):
            params = defaults()
            assert (params.quantize_output_tensor, params.pure, params.imatrix) == (True, False, None)
            params.nthread, params.ftype, params.pure, params.allow_requantize = 2, file_type, pure, True
            target = out / label(name, pure)
            if quantize(str(source).encode(), str(target).encode(), ct.byref(params)):
                target.unlink(missing_ok=True)


def record(folder: Path, source: Path) -> dict[str, Any]:
    """All that a model becomes: type -> [sha256, types of the tensors], or null where the library refuses."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "tests.record_quantize", str(folder), str(source), scratch]
        subprocess.run(command, check=True, capture_output=True)
        found: dict[str, Any] = {"input": sha256(source)}
        for name in TYPES:
            for pure in (False, True):
                path = Path(scratch) / label(name, pure)
                found[path.name] = [sha256(path), kinds(path)] if path.exists() else None
        return found


def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        worker(folder, *map(Path, sys.argv[2:]))
        return
    library = min(folder.glob("libllama.*"))
    about = {
        "origin": ORIGIN,
        "library": f"{library.name} {sha256(library)}",
        "recorded by": "tests/record_quantize.py",
    }
    models = {"minilm": record(folder, resolve("minilm"))}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            models[name] = record(folder, build(name, Path(scratch) / "in.gguf"))
    lines = [f'"provenance": {json.dumps(about)}']
    for name, found in models.items():
        rows = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        lines.append(f"{json.dumps(name)}: {{\n{rows}\n}}")
    FILE.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
