"""What both kinds of converters need: tensors that are to be written, their types, labels, and what is left out.

`folder.py` (BERT, DistilBERT) and `models.py` (the others) plan their files with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refembed.convert.safetensors import Entry
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

ALWAYS_F32 = (  # ends of names: routers, norms of heads, convolutions, mixtures of streams
    "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "_norm.weight", "ssm_conv1d.weight", "shortconv.conv.weight",
    "altup_correct_coef.weight", "altup_predict_coef.weight",
)  # fmt: skip
OUTTYPES = {"f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32), "q8_0": ("Q8_0", 7)}  # type, general.file_type


@dataclass(frozen=True)
class Planned:
    """A tensor of the file to write."""

    name: str  # GGUF's
    entry: Entry
    type: str  # it is stored as

    def data(self) -> Any:
        """The blocks as they are to stand in the file. ModelError where the weights are no numbers, or too large."""
        from gguf import GGMLQuantizationType, quants

        values = self.entry.values()
        if values.dtype not in (np.float32, np.float16):
            values = values.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            stored = quants.quantize(values, GGMLQuantizationType[self.type])
        if not np.isfinite(values).all():
            raise ModelError(f"tensor {quote(self.entry.name)} holds NaN or infinity", hint="the weights are damaged")
        if self.type == "F16" and not np.isfinite(stored).all():
            largest = f"{np.abs(values).max():.3g}"
            raise ModelError(f"tensor {quote(self.entry.name)}: {largest} is beyond F16", hint="convert to bf16 or f32")
        return np.ascontiguousarray(stored).view(np.uint8)


def read_labels(path: Path, raw: dict[str, Any], *, classifies: bool) -> tuple[str, ...]:
    """The classes' names, by number. `transformers` adds two where there are none; only a classifier keeps these."""
    named = raw.get("id2label")
    if named is None:
        count = raw.get("num_labels", 2)
        named = {str(i): f"LABEL_{i}" for i in range(count if type(count) is int and 0 < count < 10_000 else 2)}
    try:
        labels = {int(i): str(label) for i, label in named.items()}
    except (AttributeError, ValueError):
        raise ModelError(f"{path}: id2label is no table of labels by number", hint="is the file whole?") from None
    added = len(labels) == 2 and labels.get(0) == "LABEL_0"
    return () if added and not classifies else tuple(labels[i] for i in sorted(labels))


def note_dropped(notes: list[str], names: list[str]) -> None:
    """One sentence about tensors that are left out, by the modules they belong to."""
    modules = sorted({re.sub(r"\.(weight|bias|gamma|beta)$", "", name) for name in names})
    if modules:
        listed = ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")
        notes.append(f"left out, as llama.cpp has no place for them: {listed}")


def stored_type(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """The type llama.cpp's converter stores a tensor as: F32 unless a matrix, F16 where Q8_0 does not divide a row."""
    matrix = len(shape) >= 2 and name.endswith(".weight") and not name.endswith(ALWAYS_F32)
    if not matrix or name in ("position_embd.weight", "token_types.weight"):
        return "F32"
    return "F16" if wanted == "Q8_0" and shape[-1] % 32 else wanted
