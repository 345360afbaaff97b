"""GGUF file -> GGUF file with smaller weights, byte for byte what llama-quantize writes without an importance matrix.

    input file ─► which tensors, and to which type: quantize_mix.py ─► kernels/quant/quantize.py ─► output file

Mirrors llama_model_quantize_impl (llama.cpp: src/llama-quant.cpp): keys and tensors in the same order.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from refembed.arrays import U8
from refembed.convert.quantize_mix import TYPES, Mix, canonical, fits, is_weight
from refembed.errors import ModelError, RefembedError, RequestError
from refembed.gguf import BY_NAME, GGUFFile, GGUFWriter, Tensor, open_gguf
from refembed.gguf.cursor import quote
from refembed.gguf.metadata import nearest
from refembed.kernels.quant.quantize import quantize

Progress: TypeAlias = Callable[[str, int, int], None]  # what is being done, how far, of how much; in bytes


@dataclass(frozen=True)
class Planned:
    """A tensor of the file to write."""

    tensor: Tensor
    type: str  # it is to be stored as
    fallback: bool  # because the type it was meant for does not divide its rows

    @property
    def shape(self) -> tuple[int, ...]:
        """As llama.cpp writes it: without leading axes of 1."""
        shape = self.tensor.shape
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        return shape

    def data(self) -> U8:
        """The blocks as they are to stand in the file. An error names the tensor."""
        t = self.tensor
        if self.type == t.type.name:
            stored = t.raw.view(t.type.block.newbyteorder(t.byteorder))
            return stored.astype(t.type.block, copy=False).view(np.uint8)
        try:
            return quantize(t.dequantize(), self.type).reshape(-1)
        except RefembedError as e:
            what = str(e).removesuffix(f"\n  hint: {e.hint}")
            raise type(e)(f"tensor {quote(t.name)}: {what}", hint=e.hint) from None


def quantize_file(
    in_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    type_name: str,
    *,
    keep: Sequence[str] = (),
    pure: bool = False,
    allow_requantize: bool = False,
    progress: Progress | None = None,
) -> list[Planned]:
    """Write a GGUF file whose weights are stored as `type_name`. Returns what became of each tensor.

    in_path           of a split model the first shard; the output is one file
    type_name         a name of TYPES or ALIASES, in capitals or not: "Q8_0", "q4_k_m"
    keep              patterns (`*` any letters, `?` one, `[ab]` one of them) of tensors' names that stay as they are
    pure              every weight gets the one type, token embeddings too: no mix (llama-quantize --pure)
    allow_requantize  weights that are quantized already may be quantized again, at the cost of both roundings
    progress          called with ("quantizing", bytes of weights done, bytes in all)

    Vectors, norms, biases, positions and segment types stay as they are; rows that the type's block does not divide
    get the type of FALLBACK. GGUFError where the input is no GGUF file, ModelError where it is one that cannot be
    quantized, RequestError where the output cannot be written or a number does not fit the type. The weights pass
    through memory one tensor at a time, and the file is written whole or not at all.
    """
    name = canonical(type_name)
    with open_gguf(in_path) as file:
        if Path(out_path).exists() and any(Path(out_path).samefile(p) for p in file.paths):
            raise RequestError(f"{out_path} is the input file itself", hint="name another file to write")
        plan = plan_tensors(file, name, keep, pure, allow_requantize)
        writer = GGUFWriter(None, alignment=file.alignment)
        copy_keys(writer, file, TYPES[name][0])
        total, done = sum(p.tensor.nbytes for p in plan), 0

        def data_of(planned: Planned) -> Callable[[], Any]:
            def data() -> U8:
                nonlocal done
                if progress:
                    progress("quantizing", done, total)
                done += planned.tensor.nbytes
                return planned.data()

            return data

        for p in plan:
            writer.add_tensor(p.tensor.name, data_of(p), p.shape, p.type)
        writer.write(out_path)
    if progress:
        progress("quantizing", total, total)
    return plan


def copy_keys(writer: GGUFWriter, file: GGUFFile, file_type: int) -> None:
    """Every key but those that say how the file is split or stored; the latter follow at the end."""
    stored = {"general.quantization_version", "general.file_type"}
    writer.copy_keys(file.metadata, stored | {key for key in file.metadata if key.startswith("split.")})
    writer.add("general.quantization_version", 2, "UINT32")
    writer.add("general.file_type", file_type, "UINT32")


def plan_tensors(file: GGUFFile, name: str, keep: Sequence[str], pure: bool, allow_requantize: bool) -> list[Planned]:
    """What becomes of each tensor, in the order of llama.cpp: by layer, then by name."""
    tensors = sorted(file.tensors.values(), key=place)
    kept = {t.name for t in tensors for pattern in keep if fnmatch.fnmatchcase(t.name, pattern)}
    for pattern in keep:
        if not fnmatch.filter(kept, pattern):
            raise RequestError(f"no tensor is called {quote(pattern)}", hint=nearest(pattern, file.tensors))
    mix = Mix(file.metadata, [t.name for t in tensors], name)
    plan = []
    for t in tensors:
        type = wanted = TYPES[name][1] if is_weight(t) else t.type.name
        if is_weight(t) and BY_NAME[type].weights > 1:
            wanted = type if pure else mix.type_of(t)
            type = fits(wanted, t)
        if t.name in kept:
            type = wanted = t.type.name
        if type != t.type.name and t.type.name not in ("F32", "F16", "BF16") and not allow_requantize:
            hint = "start from a file in F32, F16 or BF16; --allow-requantize rounds once more"
            raise ModelError(f"{file.path}: tensor {quote(t.name)} is {t.type.name} already", hint=hint)
        plan.append(Planned(t, type, type != wanted))
    return plan


def place(t: Tensor) -> tuple[int, bytes]:
    """Where llama.cpp sorts a tensor: layer, then name; -1 for those outside the layers."""
    layer = re.match(r"blk\.\s*([+-]?\d+)", t.name)
    return int(layer[1]) if layer else -1, t.name.encode()
