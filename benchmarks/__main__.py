"""python -m benchmarks: refembed compared with its peers (`speed`); python -m benchmarks NAME [options]: another."""

from __future__ import annotations

import importlib
import sys

OTHERS = {
    "before": "the code of another commit, compared with this one",
    "cache": "what keeping vectors saves",
    "families": "decoders that people download most, compared with llama.cpp",
    "ggml": "the ggml numerics, compared with the llama.cpp whose bits they have",
    "image_memory": "memory over 1,000 images",
    "integers": "quantized weights multiplied as whole numbers: speed and error",
    "gguf_open": "opening a file, compared with gguf-py",
    "gpu": "the `cupy` numerics on a GPU: whether it is right, then how fast",
    "mixed": "small requests while a giant one is computed",
    "memory": "peak memory of each engine",
    "retrieval": "what quantization of weights and vectors costs retrieval",
    "rows": "which BLAS kernels keep rows apart, for `exact`",
    "scale": "processes and threads, engines, tokenizers, and the memory of a worker",
    "server": "requests a second",
    "soak": "64 clients, some of which leave, compared with llama-server",
    "stalls": "how long /health waits while large bodies are read",
    "tradeoff": "every engine's error and speed: PyTorch, ONNX Runtime, OpenVINO, llama.cpp",
    "tokens": "tokenizing, compared with llama.cpp",
    "towers": "one image through each vision tower, compared with libmtmd",
    "verify": "how long a verdict takes",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "speed"
    if name != "speed" and name not in OTHERS:
        sys.exit(f"no benchmark {name!r}; there are " + "; ".join(f"{n}: {about}" for n, about in OTHERS.items()))
    rest = sys.argv[2 if name in sys.argv[1:2] else 1 :]
    importlib.import_module(f"benchmarks.{name}").main(rest)


if __name__ == "__main__":
    main()
