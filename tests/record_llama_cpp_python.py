"""Record what the real llama-cpp-python gives, for tests/compat/test_llama_cpp.py.

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36 && tar xzf llama_cpp_python-0.3.36.tar.gz
    python -m tests.record_llama_cpp_python llama_cpp_python-0.3.36 tests/data/llama-cpp-python.json

It is published as source alone. Nothing is compiled here: its Python files run, in a process of their own, on the
llama.cpp of the pinned wheel, which differs from the one they were written for in 8 bytes of llama_context_params.
Needs numpy, diskcache, jinja2, typing-extensions.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TEXTS = [
    "a",
    "b c",
    "The quick brown fox jumps over the lazy dog.",
    "Ein Satz über Käse; 漢字 [SEP]",
    "word " * 520,
    "",
]
FIELDS = '("abort_callback_data", ctypes.c_void_p),\n        ("embeddings", ctypes.c_bool),'


def main() -> None:
    """Lay out a copy, run it, write what it says."""
    sdist, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.write_text(json.dumps(record(sdist), ensure_ascii=False) + "\n", encoding="utf-8")


def record(sdist: Path) -> Any:
    """What `worker` prints, on a copy of the package in that folder."""
    from refembed import hub
    from refembed.verify.engines.llamacpp_lib import wheel_file

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "llama_cpp"
        shutil.copytree(sdist / "llama_cpp", package, ignore=shutil.ignore_patterns("lib"))
        (package / "lib").mkdir()
        for name in ("llama", "ggml", "mtmd"):
            (package / "lib" / f"lib{name}.so").symlink_to(wheel_file())
        code = package / "llama_cpp.py"
        text = code.read_text(encoding="utf-8")
        if text.count(FIELDS) != 1:
            raise SystemExit("another version: look at llama_context_params again")
        code.write_text(text.replace(FIELDS, FIELDS.replace("\n", '\n        ("unnamed", ctypes.c_void_p),\n')))
        command = [sys.executable, __file__, "--worker", folder, str(hub.resolve("minilm"))]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def worker(folder: str, model: str) -> None:
    """Print what llama-cpp-python gives."""
    import ctypes
    import inspect

    import numpy as np

    look_up = ctypes.CDLL.__getattr__

    def or_another(self: Any, name: str) -> Any:
        """The wheel leaves out a few functions that embedding does not need."""
        try:
            return look_up(self, name)
        except AttributeError:
            if not name.startswith(("llama_", "ggml_", "mtmd_")):
                raise
            return look_up(self, "llama_max_devices")

    ctypes.CDLL.__getattr__ = or_another
    sys.path[0] = folder
    import llama_cpp

    llama_cpp.llama_cpp.llama_max_parallel_sequences = lambda: 256

    def f32(x: Any) -> str:
        return base64.b64encode(np.array(x, "<f4").tobytes()).decode()

    llm = llama_cpp.Llama(model, embedding=True, verbose=False)
    rows = llama_cpp.Llama(model, embedding=True, verbose=False, pooling_type=0)
    reply = llm.create_embedding(TEXTS[:4], model="m")
    batch = [item.pop("embedding") for item in reply["data"]]
    ids = [llm.tokenize(t.encode()) for t in TEXTS]
    print(
        json.dumps(
            {
                "made by": f"llama-cpp-python {llama_cpp.__version__} on xllamacpp 2026.10.11549, minilm F32",
                "methods": {
                    name: [p for p in inspect.signature(f).parameters if p != "self"]
                    for name, f in inspect.getmembers(llama_cpp.Llama, inspect.isfunction)
                    if not name.startswith("_")
                },
                "arguments": {
                    n: p.default for n, p in inspect.signature(llama_cpp.Llama).parameters.items()
                    if n != "kwargs" and p.default is not inspect.Parameter.empty
                },
                "texts": TEXTS,
                "ids": ids,
                "special ids": [llm.tokenize(t.encode(), special=True) for t in TEXTS],
                "bare ids": [llm.tokenize(t.encode(), add_bos=False) for t in TEXTS],
                "pieces": [llm.detokenize(i).decode() for i in ids],
                "special pieces": [llm.detokenize(i, special=True).decode() for i in ids],
                "numbers": [llm.n_ctx(), llm.n_batch, llm.n_embd(), llm.n_vocab(), llm.token_bos(), llm.token_eos(),
                            llm.pooling_type()],
                "metadata": dict(sorted(llm.metadata.items())),
                "alone": [f32(llm.embed(t)) for t in TEXTS],
                "unit": f32(llm.embed(TEXTS[2], normalize=True)),
                "rows": f32(rows.embed(TEXTS[1])),
                "reply": reply,
                "batch": f32(batch),
                "count": llm.embed(TEXTS, return_count=True)[1],
            },
            ensure_ascii=False,
        )
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
