"""Experts that a checkpoint stores as MXFP4 already (gpt-oss): the same bits go into the file, in GGUF's order.

    {}.mlp.experts.gate_up_proj_blocks (X, 2F, C/32, 16), _scales (X, 2F, C/32)  ─► ffn_gate_exps, ffn_up_exps
    {}.mlp.experts.down_proj_blocks    (X, C, F/32, 16),  _scales (X, C, F/32)   ─► ffn_down_exps

A block is 32 numbers of four bits and the exponent that they share (OCP Microscaling Formats, 2023). In a checkpoint a
byte holds two neighbors, in GGUF numbers j and j + 16. Of gate_up_proj even rows are gates, odd ones go up. Mirrors
llama.cpp's conversion/gpt_oss.py, which writes these tensors in front of all others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from refembed.arrays import U8
from refembed.convert.planned import Planned
from refembed.convert.safetensors import Entry
from refembed.convert.weights import check_place
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

if TYPE_CHECKING:
    from refembed.convert.config import Config

WEIGHTS = 32  # of a block
MXFP4_FILE = 38  # general.file_type, whatever the other matrices are stored as
NAME = re.compile(r"layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj_(blocks|scales)")
PARTS = {"gate_up": (("gate", slice(0, None, 2)), ("up", slice(1, None, 2))), "down": (("down", slice(None)),)}


@dataclass(frozen=True)
class Blocks(Planned):
    """A tensor of blocks. Its entry has the bytes of numbers, and the shape of the tensor."""

    exponents: Entry  # (X, rows, blocks)
    rows: slice  # of the checkpoint's

    def data(self) -> Any:
        """The blocks as they are to stand in the file."""
        pairs, exponents = self.entry.raw, self.exponents.values()
        pairs = pairs.reshape(*exponents.shape, WEIGHTS // 2)
        return in_halves(pairs[:, self.rows], exponents[:, self.rows]).reshape(-1)


def in_halves(pairs: U8, exponents: U8) -> U8:
    """Blocks as GGUF has them, (..., 17): an exponent, then bytes of which each holds numbers j and j + 16.

    pairs      (..., 16): byte j holds numbers 2j (its lower half) and 2j + 1
    exponents  (...)

    >>> import numpy as np
    >>> pairs = np.arange(16, dtype=np.uint8)[None] * 16  # 0, 0, 0, 1, 0, 2, ... 0, 15
    >>> in_halves(pairs, np.array([127], np.uint8))[0, :4].tolist()  # byte 1: number 1 is 0, number 17 is 8
    [127, 0, 128, 0]
    """
    numbers = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*pairs.shape[:-1], WEIGHTS)
    halves = numbers[..., : WEIGHTS // 2] | (numbers[..., WEIGHTS // 2 :] << 4)
    return np.concatenate([exponents[..., None], halves], axis=-1)


def packed_blocks(config: Config, entries: list[Entry]) -> tuple[list[Blocks], list[Entry]]:
    """The tensors of blocks among the entries, and the others. ModelError where half of one is missing, or of another
    shape than config.json says.
    """
    found: dict[tuple[str, str], dict[str, Entry]] = {}
    rest = []
    for entry in entries:
        name = NAME.search(entry.name)
        if name is None or entry.dtype != "U8" or not is_packed(config):
            rest.append(entry)
        else:
            found.setdefault((name[1], name[2]), {})[name[3]] = entry
    return [one for (layer, part), both in found.items() for one in blocks_of(config, layer, part, both)], rest


def is_packed(config: Config) -> bool:
    """Whether config.json says that experts are MXFP4."""
    return config.inner("quantization_config").get("quant_method") == "mxfp4"


def blocks_of(config: Config, layer: str, part: str, both: dict[str, Entry]) -> list[Blocks]:
    """What becomes of the blocks of one matrix."""
    if len(both) < 2:
        (one,) = both.values()
        hint = "blocks and their scales belong together; is the folder whole?"
        raise ModelError(f"{config.folder}: tensor {quote(one.name)} alone", hint=hint)
    sizes = config.sizes
    rows, columns = (2 * sizes["F"], sizes["C"]) if part == "gate_up" else (sizes["C"], sizes["F"])
    if columns % WEIGHTS:
        found = f"{config.folder}: tensor {quote(both['blocks'].name)}: rows of {columns} numbers"
        raise ModelError(found, hint=f"a block has {WEIGHTS}; are these files of one model?")
    shape = (sizes["X"], rows, columns // WEIGHTS)
    made = []
    for name, take in PARTS[part]:
        target = f"blk.{layer}.ffn_{name}_exps.weight"
        check_place(both["scales"], shape, target, None, config.folder)
        check_place(both["blocks"], (*shape, WEIGHTS // 2), target, None, config.folder)
        whole = (sizes["X"], len(range(rows)[take]), columns)
        entry = Entry(both["blocks"].name, "U8", whole, both["blocks"].raw)
        made.append(Blocks(target, entry, "MXFP4", both["scales"], take))
    return made
