"""The weights: numbers that are not finite, types that cannot be multiplied, a file that is not what it calls itself.

Tensors are decoded some megabytes at a time, so a file of any size passes through little memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refembed.convert.quantize_mix import TYPES, is_weight
from refembed.errors import RefembedError
from refembed.gguf import GGUFFile, Tensor
from refembed.kernels.quant.dequant import dequantize
from refembed.verify.doctor.finding import Finding

CHUNK = 1 << 22  # weights that are decoded at a time
HALF = 65504.0  # the largest float16
MAX_NAMES = 4  # names of tensors in one finding

FTYPES = {
    number: (name, kind) for name, (number, kind) in TYPES.items()
}  # general.file_type -> name, most weights' type


def check_types(f: GGUFFile) -> Iterator[Finding]:
    """Findings that need no weight to be read."""
    useless = [t for t in f.tensors.values() if is_weight(t) and not t.type.dot]
    if useless:
        kinds = ", ".join(sorted({t.type.name for t in useless}))
        says = f"{names(useless)}: llama.cpp has no product for {kinds}"
        yield Finding("error", "types", says, "quantize again: refembed quantize, or llama-quantize", useless[0].name)
    small = [t for t in f.tensors.values() if t.name.endswith(("norm.weight", "norm.bias", ".bias"))]
    packed = [t for t in small if t.type.weights > 1]
    if packed:
        says = f"{names(packed)}: a norm or a bias in {packed[0].type.name}; llama.cpp keeps them in F32"
        yield Finding("error", "types", says, "convert again; llama-quantize leaves them alone", packed[0].name)
    half = [t for t in small if t.type.name in ("F16", "BF16", "F64")]
    if half:
        says = f"{names(half)}: a norm or a bias in {half[0].type.name}; llama.cpp's converter writes F32"
        yield Finding("warning", "types", says, "convert again with a current converter", half[0].name)
    yield from check_file_type(f)


def check_file_type(f: GGUFFile) -> Iterator[Finding]:
    """general.file_type, which people read, against what is there."""
    key = "general.file_type"
    number = f.metadata.of_type(key, int)
    count: Counter[str] = Counter()
    for t in f.tensors.values():
        if is_weight(t):
            count[t.type.name] += int(np.prod(t.shape))
    if not count:
        return
    most = count.most_common(1)[0][0]
    if number is None:
        yield Finding(
            "note",
            "file type",
            f"the file does not say its type; most weights are {most}",
            "nothing: vectors do not depend on it",
            key,
        )
    elif number in FTYPES and FTYPES[number][1] not in count:
        name = FTYPES[number][0]
        says = f"the file calls itself {name}, but no weight is {FTYPES[number][1]}: most are {most}"
        yield Finding("warning", "file type", says, f"set {key}, and do not trust the file's name", key)


def check_weights(f: GGUFFile, progress: Callable[[Tensor], object] = lambda t: None) -> Iterator[Finding]:
    """Findings that need every weight. progress is called with each tensor before it is read."""
    zero: list[Tensor] = []
    large: list[Tensor] = []
    for t in f.tensors.values():
        progress(t)
        try:
            bad, first, top = measure(t)
        except RefembedError as e:
            yield Finding("error", "weights", str(e).partition("\n")[0], "convert the model again", t.name)
            continue
        if bad:
            share = f"{bad:,} of {int(np.prod(t.shape)):,} weights are not finite"
            says = f"{t.name} ({t.type.name}): {share}, {place(t, first)}"
            do = "the file is damaged or was converted from damaged weights: check its hash, download or convert again"
            yield Finding("error", "weights", says, do, t.name)
        elif top == 0 and int(np.prod(t.shape)) > 1 and not t.name.endswith(".bias"):
            zero.append(t)
        elif top > HALF:
            large.append(t)
    if zero:
        says = f"{names(zero)}: every weight is 0"
        severity = "note" if all("token_types" in t.name for t in zero) else "error"
        yield Finding(
            severity, "weights", says, "the file is damaged or half written: download or convert again", zero[0].name
        )
    if large:
        says = f"{names(large)}: weights above {HALF:g}, the largest float16"
        yield Finding(
            "warning", "weights", says, "F16 files and half-precision engines overflow: use BF16 or F32", large[0].name
        )


def measure(t: Tensor) -> tuple[int, int, float]:
    """How many weights are not finite, the first of them, and the largest magnitude of the others."""
    step = max(CHUNK // t.type.weights, 1) * t.type.nbytes
    bad, first, top = 0, -1, 0.0
    for at in range(0, t.nbytes, step):
        x = dequantize(t.raw[at : at + step], t.type, t.byteorder)
        with np.errstate(all="ignore"):
            low, high = float(x.min()), float(x.max())  # NaN where any weight is
        if np.isfinite(low) and np.isfinite(high):
            top = max(top, -low, high)
            continue
        broken = ~np.isfinite(x)
        first = at // t.type.nbytes * t.type.weights + int(broken.argmax()) if first < 0 else first
        bad += int(broken.sum())
        top = max(top, float(np.abs(x[~broken]).max(initial=0)))
    return bad, first, top


def place(t: Tensor, index: int) -> str:
    """Where a weight is: its row and column, and which scale of its block is to blame, if one is."""
    where = ", ".join(map(str, np.unravel_index(index, t.shape))) if t.shape else "0"
    if t.type.weights == 1:
        return f"the first at [{where}]"
    number = index // t.type.weights
    raw = t.raw[number * t.type.nbytes : (number + 1) * t.type.nbytes]
    block: Any = np.ascontiguousarray(raw).view(t.type.block.newbyteorder(t.byteorder))[0]
    fields: Any = t.type.block.fields or {}
    guilty = [
        n for n in fields if fields[n][0].base.kind == "f" and not np.isfinite(np.asarray(block[n], np.float32)).all()
    ]
    scale = f", whose scale {guilty[0]} is {np.asarray(block[guilty[0]]).reshape(-1)[0]}" if guilty else ""
    return f"the first at [{where}], in block {number:,}{scale}"


def names(tensors: list[Tensor]) -> str:
    """Names of some tensors."""
    shown = ", ".join(t.name for t in tensors[:MAX_NAMES])
    return f"{shown} and {len(tensors) - MAX_NAMES} more" if len(tensors) > MAX_NAMES else shown
