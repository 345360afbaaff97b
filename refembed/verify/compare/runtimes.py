"""How far other runtimes are from the formulas: a rest that is no larger is their own rounding.

An engine that computes another graph (GELU itself, say, where the file has its tanh form) is named by a hypothesis, and
something is left. `rounding_of` says whether that runtime's settings are as far from float64 on the same graph.

The numbers are those of conformance/runtimes.toml, measured by `python -m conformance runtimes`.
"""

from __future__ import annotations

import math

RUNTIMES: dict[
    str, dict[str, float]
] = {  # runtime -> precision -> 1 - cos of MiniLM to float64, worst text and setting
    "onnxruntime": {"f32": 2.73e-13, "int8": 1.12e-1},
    "openvino": {"f32": 6.96e-13, "bf16": 2.46e-5},
    "pytorch": {"f32": 3.36e-13, "bf16": 7.90e-5, "f16": 1.68e-6},
}
OURS = 3.6e-12  # what `fast` is away from float64 at most (conformance/bounds.toml: distance.f32)
ENGINES = {"onnx": "onnxruntime", "sentence-transformers": "pytorch", "transformers": "pytorch"}
NAMES = {"onnxruntime": "ONNX Runtime", "pytorch": "PyTorch", "openvino": "OpenVINO"}
PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "int8": "8 bits"}


def rounding_of(engine: str, left: float) -> str:
    """A sentence about what is left of a difference; empty where the engine is none of these, or more is left.

    The angle that is left is at most the runtime's to the formulas and ours to them, and 1 - cos is half its square.

    >>> rounding_of("onnx", 4e-12)[:62]  # (sqrt(2.73e-13) + sqrt(3.6e-12))^2 = 5.9e-12
    "what is left, 4e-12, is within ONNX Runtime's rounding in floa"
    >>> rounding_of("recorded", 4e-12)
    ''
    """
    runtime = ENGINES.get(engine, "")
    for precision, off in sorted(RUNTIMES.get(runtime, {}).items(), key=lambda row: row[1]):
        if left <= (math.sqrt(off) + math.sqrt(OURS)) ** 2:
            name, in_words = NAMES[runtime], PRECISIONS[precision]
            return (
                f"what is left, {left:.2g}, is within {name}'s rounding in {in_words}: on MiniLM its settings are up "
                f"to {off:.2g} away from float64"
            )
    return ""
