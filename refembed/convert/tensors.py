"""What becomes of each tensor of a checkpoint, as the rows of recipes.py say: its name, its numbers, its type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.convert.checkpoints_gemma import own_keys, own_values
from refembed.convert.config import Config
from refembed.convert.mxfp4 import packed_blocks
from refembed.convert.planned import OUTTYPES, Planned, note_dropped, stored_type
from refembed.convert.recipes import ALWAYS, Row
from refembed.convert.safetensors import Entry
from refembed.convert.weights import QUANTIZED, check_floats, check_place, unknown_tensor
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

BUFFERS = (  # ends of names that are no weights
    ".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
    ".mlp.experts.bias",
)  # fmt: skip

FACTORS = (".0.lora_A", ".0.lora_B")  # ends of names of a matrix's adapters (adapters.py)
STACKED = re.compile(r"((?:^|\.)(?:experts|norms|altup_projections|altup_unembed_projections))\.(\d+)(?=\.|$)")

Change: TypeAlias = "Callable[[Any, Config], Any]"


def turned(x: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of q or k: channel i and i + D/2 of each head become neighbors."""
    return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def by_group(x: npt.NDArray[Any], groups: int, of_each: int) -> npt.NDArray[Any]:
    """Rows of a fused matrix, group by group: so many heads of queries, their keys, their values. Queries first."""
    heads = x.reshape(groups, of_each + 2, -1, *x.shape[1:])
    parts = (heads[:, :of_each], heads[:, of_each], heads[:, of_each + 1])
    return np.concatenate([part.reshape(-1, *x.shape[1:]) for part in parts])


def in_turn(x: npt.NDArray[Any], groups: int, heads: int, axis: int = 0) -> npt.NDArray[Any]:
    """Heads of values, which stand group by group (Qwen3.5), so that neighbors are of different groups."""
    x = np.moveaxis(x, axis, 0)
    x = x.reshape(groups, heads // groups, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
    return np.moveaxis(x, 0, axis)


def values_in_turn(x: npt.NDArray[Any], c: Config) -> npt.NDArray[Any]:
    """The same where queries and keys stand before them."""
    first = 2 * c.sizes["G"] * c.sizes["N"]
    return np.concatenate([x[:first], in_turn(x[first:], c.sizes["G"], c.sizes["dt"])])


def of_heads(x: npt.NDArray[Any], c: Config) -> list[npt.NDArray[Any]]:
    """q, k, v and z of all heads; in the matrix each group has its own (Qwen3-Next)."""
    groups, state = c.sizes["G"], c.sizes["N"]
    ends = np.cumsum([state, state, c.sizes["I"] // groups])
    parts = np.split(x.reshape(groups, -1, x.shape[1]), ends, axis=1)
    return [part.reshape(-1, x.shape[1]) for part in parts]


def times(x: npt.NDArray[Any], c: Config, keys: list[str]) -> npt.NDArray[Any]:
    """Multiplied with numbers of config.json, one after the other; "mlp_multipliers.0" is the first of a list."""
    x = widened(x)
    for key in keys:
        x = x * np.float32(c.multiplier(key))
    return x


def each_part_times(x: npt.NDArray[Any], c: Config) -> npt.NDArray[Any]:
    """Falcon-H1's in_proj: gate, channels, B, C and dt have a multiplier each."""
    x, inner, groups = times(x, c, ["ssm_in_multiplier"]), c.sizes["I"], c.sizes["G"] * c.sizes["N"]
    sizes = (inner, inner, groups, groups, c.sizes["dt"])
    each = [np.full(n, c.multiplier(f"ssm_multipliers.{i}"), np.float32) for i, n in enumerate(sizes)]
    return x * np.concatenate(each)[:, None]


def decay(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """-e^x of A_log."""
    return (-np.exp(x.astype(np.float64))).astype(np.float32)


def squeezed(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A convolution's taps without the axis that has one."""
    return x.reshape(x.shape[0], x.shape[-1])


def of_latent(x: npt.NDArray[Any], c: Config) -> npt.NDArray[Any]:
    """What makes keys and values of a latent vector, head by head: (H, nope + Dv, rkv)."""
    return x.reshape(c.sizes["H"], c.sizes["nope"] + c.sizes["Dv"], -1)


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
    "padded": lambda x, c: np.concatenate([x, np.zeros((c.sizes["V"] - len(x), x.shape[1]), x.dtype)]),
    "known-tokens": lambda x, c: x[: c.sizes["V"]],
    "columns-first": lambda x, c: x.T if x.ndim == 2 else x,
    "qkv by head": lambda x, c: by_group(x, c.sizes["H"], 1),
    "qkv by group": lambda x, c: by_group(x, c.sizes["K"], c.sizes["H"] // c.sizes["K"]),
    "first half": lambda x, c: x[..., : x.shape[-2] // 2, :],
    "second half": lambda x, c: x[..., x.shape[-2] // 2 :, :],
    "squeezed": lambda x, c: squeezed(x),
    "decay": lambda x, c: decay(x),
    "decay, a column": lambda x, c: decay(x)[:, None],
    "a column": lambda x, c: x[:, None],
    "by groups": lambda x, c: x.reshape(c.sizes["G"], -1),
    "by expert": lambda x, c: x.reshape(c.sizes["X"], -1, x.shape[1]),
    "by expert, columns first": lambda x, c: x.reshape(c.sizes["X"], -1, x.shape[1]).swapaxes(1, 2),
    "each part times ssm_multipliers": each_part_times,
    "qkv of heads": lambda x, c: np.concatenate(of_heads(x, c)[:3]),
    "z of heads": lambda x, c: of_heads(x, c)[3],
    "heads in turn": lambda x, c: in_turn(x, c.sizes["G"], c.sizes["dt"]),
    "columns in turn": lambda x, c: in_turn(x, c.sizes["G"], c.sizes["dt"], 1),
    "values in turn": values_in_turn,
    "squeezed, values in turn": lambda x, c: values_in_turn(squeezed(x), c),
    "even columns": lambda x, c: x.swapaxes(-1, -2)[..., ::2, :],
    "odd columns": lambda x, c: x.swapaxes(-1, -2)[..., 1::2, :],
    "columns": lambda x, c: x.swapaxes(-1, -2),
    "even": lambda x, c: x[..., ::2],
    "odd": lambda x, c: x[..., 1::2],
    "keys of latent": lambda x, c: of_latent(x, c)[:, : c.sizes["nope"]].swapaxes(1, 2),
    "values of latent": lambda x, c: of_latent(x, c)[:, c.sizes["nope"] :],
    "decay, heads in turn": lambda x, c: in_turn(decay(x), c.sizes["G"], c.sizes["dt"]),
}
TIMES = "times "  # begins a change that multiplies; keys of config.json follow
WEIGHTS_ONLY = ("+1", "+1, scaled", "squeezed")  # changes that leave a bias as it is


def halved(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Half the rows."""
    return (*shape[:-2], shape[-2] // 2, shape[-1])


RESHAPED: dict[str, Callable[[tuple[int, ...], Config], tuple[int, ...]]] = {  # what a change makes of a shape
    "used-positions": lambda shape, c: (shape[0] - c.first_position, *shape[1:]),
    "columns-first": lambda shape, c: shape[::-1],
    "padded": lambda shape, c: (c.sizes["V"], *shape[1:]),
    "first half": lambda shape, c: halved(shape),
    "second half": lambda shape, c: halved(shape),
    "squeezed": lambda shape, c: (shape[0], shape[-1]),
    "squeezed, values in turn": lambda shape, c: (shape[0], shape[-1]),
    "decay, a column": lambda shape, c: (*shape, 1),
    "a column": lambda shape, c: (*shape, 1),
    "by expert": lambda shape, c: (c.sizes["X"], shape[0] // c.sizes["X"], shape[1]),
    "by expert, columns first": lambda shape, c: (c.sizes["X"], shape[1], shape[0] // c.sizes["X"]),
    "by groups": lambda shape, c: (c.sizes["G"], shape[0] // c.sizes["G"]),
    "even columns": lambda shape, c: (*shape[:-2], shape[-1] // 2, shape[-2]),
    "odd columns": lambda shape, c: (*shape[:-2], shape[-1] // 2, shape[-2]),
    "columns": lambda shape, c: (*shape[:-2], shape[-1], shape[-2]),
    "even": lambda shape, c: (*shape[:-1], shape[-1] // 2),
    "odd": lambda shape, c: (*shape[:-1], shape[-1] // 2),
    "keys of latent": lambda shape, c: (c.sizes["H"], shape[1], c.sizes["nope"]),
    "values of latent": lambda shape, c: (c.sizes["H"], c.sizes["Dv"], shape[1]),
    "qkv of heads": lambda shape, c: (c.sizes["I+2GN"], shape[1]),
    "z of heads": lambda shape, c: (c.sizes["I"], shape[1]),
}
# Where a row applies: whether the model has it, and which layers
PLACES: dict[str, Callable[[Config], bool]] = {
    "gated": lambda c: c.gated,
    "head": lambda c: c.classifies,
    "one norm": lambda c: not c.two_norms,
    "two norms": lambda c: c.two_norms,
    "one after the other": lambda c: not c.raw.get("use_parallel_residual"),
    "norms of heads": lambda c: bool(c.raw.get("qk_layernorm")),
    "experts": lambda c: c.experts > 0,
    "no experts": lambda c: c.experts == 0,
    "queries at once": lambda c: c.raw.get("q_lora_rank") is None,
    "queries through a rank": lambda c: c.raw.get("q_lora_rank") is not None,
    "per layer": lambda c: bool(c.raw.get("hidden_size_per_layer_input")),
    "normed mixers": lambda c: bool(c.raw.get("mamba_rms_norm")),
}
LAYERS_AT: dict[str, Callable[[Config], Iterable[int]]] = {
    "first": lambda c: range(1),
    "rest": lambda c: range(1, c.layers),
    "attention": lambda c: c.attention_layers,
    "leading": lambda c: range(c.dense_layers),
    "keys": own_keys,
    "values": own_values,
    "trailing": lambda c: range(c.dense_layers, c.layers),
    "shared": lambda c: range(c.dense_layers if c.raw.get("n_shared_experts") else c.layers, c.layers),
    "routed": lambda c: c.routed_layers,
    "dense": lambda c: [il for il in range(c.layers) if il not in c.routed_layers],
    "recurrent": lambda c: [il for il in range(c.layers) if il not in c.attention_layers],
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


def split_how(how: str) -> tuple[str, str]:
    """Where a row applies, and the change: ("attention", "turn-q") of "attention: turn-q"; "" for what is not said."""
    place, colon, change = how.rpartition(": ")
    if colon:
        return place, change
    return ("", how) if how in CHANGES or how.startswith(TIMES) else (how, "")


def rows_by_name(config: Config) -> dict[str, list[Row]]:
    """The rows of each of the checkpoint's names; of rows that exclude each other those that this model has."""
    rows: dict[str, list[Row]] = {}
    for row in config.recipe.rows:
        for name in spellings(row[2]):
            rows.setdefault(name, []).append(row)
    holds = {
        place: place not in PLACES or PLACES[place](config)
        for place in {split_how(r[3])[0] for r in config.recipe.rows}
    }
    return {name: [r for r in found if holds[split_how(r[3])[0]]] or found for name, found in rows.items()}


def plan_tensors(config: Config, entries: list[Entry], outtype: str) -> list[Planned]:
    """What becomes of each tensor. ModelError if one is unknown, missing, or not of the size config.json states."""
    sizes, rows = config.sizes, rows_by_name(config)
    blocks, entries = packed_blocks(config, entries)
    plan: dict[str, Planned] = {one.name: one for one in blocks}
    dropped: list[str] = []
    for entry, name in kept(config, entries, dropped):
        if not entry.name.endswith(QUANTIZED):
            check_floats(entry, config.folder)
        layer = re.match(re.escape(config.recipe.layers) + r"(\d+)(\..*)", name)
        number, part = (layer[1], "{}" + layer[2]) if layer else ("", name)
        stem, _, kind = part.rpartition(".")
        one = STACKED.search(stem)  # of several that become one tensor
        stem = stem if one is None else stem.replace(one[0], f"{one[1]}.#")
        found = rows.get(f"={part}") or rows.get(stem, [])
        if not found or (f"={part}" not in rows and kind not in ("weight", "bias")):
            raise unknown_tensor(entry, config.folder, config.architecture)
        local = config.recipe.layer_sizes(config, int(number)) if number and config.recipe.layer_sizes else {}
        for row in found:
            target = row[0].format(number) + ("" if row[2].startswith("=") else f".{kind}")
            stored = tuple((sizes | local)[x] for x in row[1].split())[: 1 if kind == "bias" else None]
            if one is not None:
                whole = stack(entry, one, stored, target, plan, config)
                plan[target] = planned(target, whole, outtype)
            else:
                put(entry, row, stored, target, plan, config, outtype)
    check_complete(config, plan)
    note_dropped(config.notes, dropped)
    return list(plan.values())


def put(
    entry: Entry, row: Row, shape: tuple[int, ...], target: str, plan: dict[str, Planned], config: Config, outtype: str
) -> None:
    """Add what becomes of a tensor, by its row, to the plan. ModelError where it is not of that shape."""
    change = split_how(row[3])[1]
    shape = shape[::-1] if change == "columns-first" else shape
    check_place(entry, shape, target, plan[target].entry if target in plan else None, config.folder)
    if config.answers and row[0] == ("token_embd" if config.raw.get("tie_word_embeddings") else "output"):
        answers = with_change(entry, (2, shape[1]), "yes and no", config)
        plan["cls.output.weight"] = planned("cls.output.weight", answers, outtype)
        if row[0] == "output":
            return
    if change and not (change in WEIGHTS_ONLY and target.endswith(".bias")):
        stored = RESHAPED[change](shape, config) if change in RESHAPED else shape
        entry = with_change(entry, stored, change, config)
    plan[target] = planned(target, entry, outtype)


def stack(
    entry: Entry, one: re.Match[str], shape: tuple[int, ...], target: str, plan: dict[str, Planned], config: Config
) -> Stacked:
    """The tensor of all experts with this one added. ModelError where it is of another shape, or there is one too many.

    one    "experts" and the number
    shape  of all: (X, ...)
    """
    expert = int(one[2])
    known = plan[target].entry if target in plan else None
    parts = dict(known.parts) if isinstance(known, Stacked) else {}
    check_place(entry, shape[1:], target, parts.get(expert), config.folder)
    if expert >= shape[0]:
        found = f"{config.folder}: tensor {quote(entry.name)}: config.json says {shape[0]} {one[1].strip('.')}"
        raise ModelError(found, hint="are these files of one model?")
    return Stacked(target, entry.dtype, shape, entry.raw[:0], parts | {expert: entry})


def planned(target: str, entry: Entry, outtype: str) -> Planned:
    """A tensor, stored as `outtype` asks."""
    return Planned(target, entry, stored_type(target, entry.shape, OUTTYPES[outtype][0]))


def kept(config: Config, entries: list[Entry], dropped: list[str]) -> Iterator[tuple[Entry, str]]:
    """The tensors that a file needs, and their names without a prefix. The others' names are added to `dropped`."""
    recipe, tied = config.recipe, config.raw.get("tie_word_embeddings", False)
    unneeded = tuple(part for part in recipe.dropped if not (config.classifies and part == "head."))
    drafts = config.raw.get("num_nextn_predict_layers")  # behind the last, which guess further tokens
    unneeded += tuple(f"{recipe.layers}{config.layers + i}." for i in range(drafts if type(drafts) is int else 0))
    names = {entry.name for entry in entries}
    if "shared.weight" in names:  # T5's table, which some files have twice
        unneeded += ("encoder.embed_tokens.",)
    for entry in entries:
        name = next((entry.name.removeprefix(p) for p in recipe.prefixes if entry.name.startswith(p)), entry.name)
        name = plain_name(name) if recipe.parametrized else name
        if recipe.parametrized and name.endswith(FACTORS):
            continue
        if name.startswith(unneeded) or name.endswith(BUFFERS) or (tied and name == "lm_head.weight"):
            dropped.append(entry.name)
        else:
            yield entry, name


def plain_name(name: str) -> str:
    """A name without what torch's parametrizations add: a.parametrizations.weight.original is a.weight."""
    return name.replace(".parametrizations.", ".").removesuffix(".original")


def with_change(entry: Entry, shape: tuple[int, ...], how: str, config: Config) -> Entry:
    """The entry, changed."""
    whole = entry.shape

    def change(x: npt.NDArray[Any]) -> Any:
        x = x.reshape(whole)
        return times(x, config, how.split()[1:]) if how.startswith(TIMES) else CHANGES[how](x, config)

    return Changed(entry.name, entry.dtype, shape, entry.raw, change)


def spellings(name: str) -> list[str]:
    """`a.wi|wi_1` is `a.wi` or `a.wi_1`; `shared|encoder.embed_tokens` is one of two names."""
    first, *others = name.split("|")
    stem = first.rpartition(".")[0]
    return [first, *(f"{stem}.{other}" if stem else other for other in others)]


def check_complete(config: Config, plan: dict[str, Planned]) -> None:
    """ModelError where weights of such a model are missing, or some are there that it does not have."""
    n, found = config.layers, set(plan)
    wanted, allowed = set(), set()
    for name, _, theirs, how in config.recipe.rows:
        where, _ = split_how(how)
        layers = LAYERS_AT[where](config) if where in LAYERS_AT else range(n) if "{}" in name else range(1)
        bias = config.recipe.biases.get(name.rsplit(".", 1)[-1], "")
        kinds = [".weight"] + [".bias"] * (bias == ALWAYS or config.raw.get(bias) is True)
        names = {name.format(i) + kind for i in layers for kind in ([""] if theirs.startswith("=") else kinds)}
        if where not in PLACES or PLACES[where](config):
            allowed |= names
            wanted |= names if where != "?" or ("{}" in name and names & found) else set()
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
