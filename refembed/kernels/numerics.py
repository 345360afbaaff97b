"""The numerics by name: `load_ops` gives the operations that a forward pass computes with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from refembed.errors import RequestError
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops

NUMERICS = ("exact", "ggml", "fast", "int8", "bf16", "cupy")  # `auto` is fast
PRECISIONS = ("float32", "tf32", "fp16", "bf16")  # of `cupy`
OTHER_NAMES = {  # what PyTorch calls them
    "fp32": "float32", "highest": "float32", "high": "tf32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"
}  # fmt: skip


def load_ops(
    numerics: str,
    *,
    profile: str = "avx2",
    flash_attn: bool = True,
    repack: bool = True,
    memory_budget: int | str | None = None,
    device: int | None = None,
    precision: str = "float32",
) -> Ops:
    """Operations of the numerics of that name; `auto` is `fast`.

    memory_budget  bytes of decoded matrices that all but `ggml` keep (quant/row_blocks.py); None: a quarter of
                   memory, of a GPU's three quarters; 0 or "mapped": none. A matrix beyond it is decoded each time it
                   is used. Bits stay the same
    device         which GPU (`cupy` only), as CUDA counts them; None: the first
    precision      what `cupy` multiplies matrices in: "float32", or on tensor cores "tf32", "fp16" or "bf16"; sums and
                   all else are of float32 (`refembed.kernels.cuda.precision`)
    profile, flash_attn, repack  which llama.cpp to equal (`ggml` only): its build, and its own two switches, which are
                   both on unless its user says otherwise
    Raises RequestError for an unknown name, a budget below 0, a device or a precision for other numerics; and for
    `cupy` where there is no CuPy, no driver, no such GPU, or none with tensor cores for the precision.

    >>> load_ops("exact").name, load_ops("auto").name
    ('exact', 'fast')
    """
    if device is not None and numerics != "cupy":
        hint = "numerics cupy computes on a GPU; all others on the CPU"
        raise RequestError(f"device {device}: numerics {numerics!r} has no choice there", hint=hint)
    check_precision(precision, numerics)
    if numerics == "exact":
        from refembed.kernels.exact.ops import Exact

        return Exact(memory_budget=memory_budget)
    if numerics == "ggml":
        from refembed.kernels.ggml.ops import Ggml
        from refembed.kernels.ggml.profile import load_profile

        return Ggml(load_profile(profile, flash_attn=flash_attn, repack=repack))
    if numerics in ("fast", "auto"):
        from refembed.kernels.fast.ops import Fast  # imports Numba: 0.3 s that only compiled numerics pay

        return Fast(memory_budget=memory_budget)
    if numerics in ("int8", "bf16"):
        from refembed.kernels.fast.rounded_ops import BF16, Int8

        return {"int8": Int8, "bf16": BF16}[numerics](memory_budget=memory_budget)
    if numerics == "cupy":
        from refembed.kernels.cuda.gpu import Gpu
        from refembed.kernels.cuda.ops import Cupy

        return Cupy(Gpu(device or 0), memory_budget=memory_budget, precision=precision)
    near = difflib.get_close_matches(str(numerics).lower(), ("auto", *NUMERICS), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of auto, {', '.join(NUMERICS)}"
    raise RequestError(f"numerics {numerics!r}: there is no such numerics", hint=hint)


def check_precision(precision: str, numerics: str) -> None:
    """RequestError for an unknown precision, or one that these numerics have not."""
    if precision not in PRECISIONS:
        meant = OTHER_NAMES.get(str(precision).lower())
        hint = f"did you mean {meant!r}?" if meant else f"one of {', '.join(PRECISIONS)}"
        raise RequestError(f"precision {precision!r}: there is no such precision", hint=hint)
    if precision != "float32" and numerics != "cupy":
        hint = "numerics cupy has, on a GPU; on the CPU bf16 and int8 are numerics of their own"
        raise RequestError(f"precision {precision!r}: numerics {numerics!r} has no choice there", hint=hint)


def spell_numerics(ops: Ops) -> str:
    """The numerics, and the precision where another one was chosen.

    >>> spell_numerics(load_ops("fast"))
    'fast'
    """
    return ops.name if ops.precision in (None, "float32") else f"{ops.name} ({ops.precision})"


def remark_on(ops: Ops, tensors: Iterable[Tensor]) -> str:
    """What is to be said of a model's weights in these numerics; "" for nothing.

    >>> remark_on(load_ops("int8"), [Tensor.of([[1, 2]])])
    'no weight is quantized, so that numerics int8 is fast with attention in bfloat16'
    """
    if ops.name != "int8":
        return ""
    from refembed.kernels.quant.codes import has_codes

    return (
        ""
        if any(map(has_codes, tensors))
        else "no weight is quantized, so that numerics int8 is fast with attention in bfloat16"
    )
