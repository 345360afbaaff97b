"""What becomes of each tensor of a checkpoint, as the rows of recipes.py say: its name, its numbers, its type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.convert.config import SIZES, Config
from refembed.convert.planned import OUTTYPES, Planned, note_dropped, stored_type
from refembed.convert.recipes import ALWAYS
from refembed.convert.safetensors import Entry
from refembed.convert.weights import check_floats, check_place
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # ends of names that are no weights

Change: TypeAlias = "Callable[[Any, Config], Any]"


def turned(x: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of q or k: channel i and i + D/2 of each head become neighbors."""
    return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def widened(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float16 as float32, so that a sum keeps its digits: llama.cpp's converter adds in float16 and loses some."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


CHANGES: dict[str, Change] = {
    "turn-q": lambda x, c: turned(x, c.sizes["H"]),
    "turn-k": lambda x, c: turned(x, c.sizes["K"]),
    "+1": lambda x, c: widened(x) + np.float32(1),
    "+1, scaled": lambda x, c: (widened(x) + np.float32(1)) * np.float32(c.query_scale),
    "yes and no": lambda x, c: x[list(c.answers or ())],
    "used-positions": lambda x, c: x[c.first_position :],
    "known-tokens": lambda x, c: x[: c.sizes["V"]],
    "columns-first": lambda x, c: x.T if x.ndim == 2 else x,
}


@dataclass(frozen=True)
class Changed(Entry):
    """A tensor that is changed on the way."""

    change: Callable[[Any], Any] = field(default=lambda x: x)

    def values(self) -> npt.NDArray[Any]:
        """The numbers, changed; of `shape`."""
        whole: npt.NDArray[Any] = self.raw.view({"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}[self.dtype])
        if self.dtype == "BF16":
            whole = (whole.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(self.change(whole))


@dataclass(frozen=True)
class Stacked(Entry):
    """The same matrix of all experts of a layer, one after the other."""

    parts: dict[int, Entry] = field(default_factory=dict)  # expert -> its matrix

    def values(self) -> npt.NDArray[Any]:
        """The numbers, of `shape`."""
        return np.stack([self.parts[i].values() for i in range(self.shape[0])])


def plan_tensors(config: Config, entries: list[Entry], outtype: str) -> list[Planned]:
    """What becomes of each tensor. ModelError if one is unknown, missing, or not of the size config.json states."""
    sizes, rows = config.sizes, {name: row for row in config.recipe.rows for name in spellings(row[2])}
    plan: dict[str, Planned] = {}
    dropped: list[str] = []
    for entry, name in kept(config, entries, dropped):
        check_floats(entry, config.folder)
        stem, _, kind = name.rpartition(".")
        layer = re.match(re.escape(config.recipe.layers) + r"(\d+)(\..*)", stem)
        number, stem = (layer[1], "{}" + layer[2]) if layer else ("", stem)
        expert = re.search(r"\.experts\.(\d+)\.", stem)
        stem = stem if expert is None else stem.replace(expert[0], ".experts.#.")
        row = rows.get(stem)
        if row is None or kind not in ("weight", "bias"):
            hint = f"{config.architecture} has none of that name that refembed knows"
            raise ModelError(f"{config.folder}: tensor {quote(entry.name)}", hint=hint)
        target, letters = f"{row[0].format(number)}.{kind}", row[1].split()
        stored = tuple(sizes[x] for x in letters)[: 1 if kind == "bias" else None]
        if expert is not None:
            entry = stack(entry, int(expert[1]), stored, target, plan, config)
            plan[target] = planned(target, entry, outtype)
            continue
        stored = stored[::-1] if row[3] == "columns-first" else stored
        check_place(entry, stored, target, plan[target].entry if target in plan else None, config.folder)
        if config.answers and row[0] == ("token_embd" if config.raw.get("tie_word_embeddings") else "output"):
            answers = with_change(entry, (2, stored[1]), "yes and no", config)
            plan["cls.output.weight"] = planned("cls.output.weight", answers, outtype)
            if row[0] == "output":
                continue
        if row[3] in CHANGES:
            offset = config.first_position if row[3] == "used-positions" else 0
            shape = stored[::-1] if row[3] == "columns-first" else (stored[0] - offset, *stored[1:])
            entry = with_change(entry, shape, row[3], config)
        plan[target] = planned(target, entry, outtype)
    check_complete(config, plan)
    note_dropped(config.notes, dropped)
    return list(plan.values())


def stack(
    entry: Entry, expert: int, shape: tuple[int, ...], target: str, plan: dict[str, Planned], config: Config
) -> Stacked:
    """The tensor of all experts with this one added. ModelError where it is of another shape, or there is one too many.

    shape  of all: (X, ...)
    """
    known = plan[target].entry if target in plan else None
    parts = dict(known.parts) if isinstance(known, Stacked) else {}
    check_place(entry, shape[1:], target, parts.get(expert), config.folder)
    if expert >= shape[0]:
        found = f"{config.folder}: tensor {quote(entry.name)}: config.json says {shape[0]} experts"
        raise ModelError(found, hint="are these files of one model?")
    return Stacked(target, entry.dtype, shape, entry.raw[:0], parts | {expert: entry})


def planned(target: str, entry: Entry, outtype: str) -> Planned:
    """A tensor, stored as `outtype` asks."""
    return Planned(target, entry, stored_type(target, entry.shape, OUTTYPES[outtype][0]))


def kept(config: Config, entries: list[Entry], dropped: list[str]) -> Iterator[tuple[Entry, str]]:
    """The tensors that a file needs, and their names without a prefix. The others' names are added to `dropped`."""
    recipe, tied = config.recipe, config.raw.get("tie_word_embeddings", False)
    unneeded = tuple(part for part in recipe.dropped if not (config.classifies and part == "head."))
    names = {entry.name for entry in entries}
    if "shared.weight" in names:  # T5's table, which some files have twice
        unneeded += ("encoder.embed_tokens.",)
    for entry in entries:
        name = next((entry.name.removeprefix(p) for p in recipe.prefixes if entry.name.startswith(p)), entry.name)
        if name.startswith(unneeded) or name.endswith(BUFFERS) or (tied and name == "lm_head.weight"):
            dropped.append(entry.name)
        else:
            yield entry, name


def with_change(entry: Entry, shape: tuple[int, ...], how: str, config: Config) -> Entry:
    """The entry, changed."""
    whole = entry.shape
    return Changed(entry.name, entry.dtype, shape, entry.raw, lambda x: CHANGES[how](x.reshape(whole), config))


def spellings(name: str) -> list[str]:
    """`a.wi|wi_1` is `a.wi` or `a.wi_1`; `shared|encoder.embed_tokens` is one of two names."""
    first, *others = name.split("|")
    stem = first.rpartition(".")[0]
    return [first, *(f"{stem}.{other}" if stem else other for other in others)]


def check_complete(config: Config, plan: dict[str, Planned]) -> None:
    """ModelError where weights of such a model are missing, or some are there that it does not have."""
    n, found = config.size(*SIZES["block_count"]), set(plan)
    wanted, allowed = set(), set()
    for name, _, _, where in config.recipe.rows:
        layers = {"first": range(1), "rest": range(1, n)}.get(where, range(n)) if "{}" in name else range(1)
        bias = config.recipe.biases.get(name.rsplit(".", 1)[-1], "")
        kinds = [".weight"] + [".bias"] * (bias == ALWAYS or config.raw.get(bias) is True)
        names = {name.format(i) + kind for i in layers for kind in kinds}
        if not (where == "gated" and not config.gated) and not (where == "head" and not config.classifies):
            allowed |= names
            wanted |= names if where != "?" else set()
    for name, one in plan.items():
        if isinstance(one.entry, Stacked) and len(one.entry.parts) < one.entry.shape[0]:
            lacks = next(i for i in range(one.entry.shape[0]) if i not in one.entry.parts)
            raise ModelError(f"{config.folder}: {name}: no expert {lacks}", hint="is the folder whole?")
    if config.answers:
        wanted.add("cls.output.weight")
    for kind, names in (("missing", wanted - found), ("unexpected", found - wanted - allowed)):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ModelError(f"{config.folder}: {kind} tensors: {listed}", hint=f"config.json says {n} layers")
