"""What other runtimes differ by from themselves: a rest that is no larger is their own rounding.

An engine that computes another model's graph (GELU itself, say, where the file has its tanh form) is named by a
hypothesis, and something is left. `rounding_of` says whether a runtime's own settings are as far apart.

The numbers are conformance/runtimes.toml's, measured by `python -m conformance runtimes`.
"""

from __future__ import annotations

RUNTIMES: dict[str, dict[str, float]] = {}  # runtime -> precision -> 1 - cos, the worst text of its settings
ENGINES = {"onnx": "onnxruntime", "sentence-transformers": "pytorch", "transformers": "pytorch"}
NAMES = {"onnxruntime": "ONNX Runtime", "pytorch": "PyTorch", "openvino": "OpenVINO"}
PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "int8": "8 bits"}


def rounding_of(engine: str, left: float) -> str:
    """A sentence about what is left of a difference; empty where the engine is none of these, or more is left."""

    runtime = ENGINES.get(engine, "")
    for precision, floor in sorted(RUNTIMES.get(runtime, {}).items(), key=lambda row: row[1]):
        if left <= floor:
            name, in_words = NAMES[runtime], PRECISIONS[precision]
            return (
                f"what is left, {left:.2g}, is within {name}'s own rounding: its settings differ by up to {floor:.2g} "
                f"in {in_words} (MiniLM)"
            )
    return ""
