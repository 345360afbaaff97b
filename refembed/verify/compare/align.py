"""Two traces of one text -> which tensor of one is which tensor of the other.

Traces carry llama.cpp's names, and those need six rules:

1. A name repeats (`Qcur-0` is the product, then the sum with its bias): the k-th pairs with the k-th.
2. llama.cpp's callback also shows nodes that compute nothing: views, and copies that only change the layout. They are
   left out, unless that leaves a name with fewer tensors than the other trace has: with flash attention `kqv_out-0` is
   a RESHAPE of a node without a name, and with a fused QKV weight `Qcur-0` is a VIEW.
3. Rows picked from a tensor (GET_ROWS) that turn out to be all rows in order are that tensor again: left out. So are
   unnamed nodes on whose values nothing depends.
4. A node without a name is `node_K`, and K shifts with every option. Such a node pairs by place: with a tensor of
   the same shape that has no partner by name, between the same matched neighbors, in order. So `l_out-3` of ours, the
   output of layer 3, finds its node in BERT's graph, which has no name for it.
5. Decoders run with a KV cache, read in blocks of 256 cells, and compute the next token's logits unasked. Scores of
   cells that hold no token are cut off (`without_empty_cells`), `result_output` is left out: no embedding needs them.
6. What the heads of latent attention have mixed, times `attn_v_b`, is `kqv_mla` without flash attention and `fattn_mla`
   with it: one tensor, the first of its names here.

A run with LoRA adapters is aligned after `without_lora`: what an adapter adds belongs to the product it is added to.

Mirrors how nodes get their names: ggml_build_forward_expand in ggml/src/ggml.c, graph_get_cb in src/llama-context.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.model.trace import Trace, TracedTensor

VIEWS = frozenset({"VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"})  # compute nothing, own no memory
COPIES = frozenset({"CONT", "CPY", "DUP", "PAD"})  # the same numbers in another order or type, or before zeros
STORES = frozenset({"SET_ROWS", "CPY"})  # may write into a KV cache
UNNAMED = re.compile(r"node_\d+$")
DERIVED = re.compile(r" \((view|reshaped|permuted|transposed|cont|copy.*)\)$")  # what ggml appends to a source's name
SCORES = re.compile(r"kq(_\w+)?-\d+$")  # kq, kq_soft_max ...: (H, T, cells)
BLOCK = 256  # cells of a KV cache that are read at a time (llama_kv_cache::get_n_kv)
LOGITS = frozenset({"result_output", "result_output_no_bias"})
FUSED_NAMES = {"fattn_mla": "kqv_mla"}  # with flash attention, and without
FACTOR = re.compile(r"lora (\d+): .*\.lora_b$")


@dataclass(frozen=True)
class Pair:
    """Two taps that are the same tensor."""

    name: str  # ours; theirs is the same, or node_K
    k: int  # the occurrence index of the of that name in ours, from 0: trace[name, k]
    ours: int  # place in the taps of each trace
    theirs: int
    by: str  # "name" or "place"


@dataclass(frozen=True)
class Alignment:
    """What belongs together, in the order of ours, and what is left: places in the traces."""

    pairs: tuple[Pair, ...]
    ours_only: tuple[int, ...]  # tensors that are computed or named here and have no partner
    theirs_only: tuple[int, ...]


@dataclass
class Side:
    """One of the two traces while it is being aligned."""

    tensors: list[TracedTensor]
    named: dict[str, list[int]]  # name -> its places, rule 2 still open
    unnamed: list[int]  # places of nodes without a name that compute something

    def computed(self, name: str) -> list[int]:
        """Places of a name where something is computed."""
        return [i for i in self.named.get(name, []) if self.tensors[i].op not in VIEWS | COPIES]

    def places(self) -> list[int]:
        """All places, in order."""
        return sorted([*self.unnamed, *(i for places in self.named.values() for i in places)])


def align(ours: Trace, theirs: Trace) -> Alignment:
    """Pair the taps of two traces of the same token ids; either may be llama.cpp's.

    Taps pair only when their shapes are the same but for axes of length 1; a pair by name whose shapes differ is left
    unpaired on both sides, which is a finding.

    >>> ours = Trace([TracedTensor("inp_embd", np.zeros((2, 3))), TracedTensor("ffn_up-0", np.ones((2, 4)))])
    >>> theirs = Trace([TracedTensor("ffn_up-0", np.ones((2, 4)), "MUL_MAT"), TracedTensor("extra", np.ones(5), "ADD")])
    >>> alignment = align(ours, theirs)
    >>> [(pair.name, pair.ours, pair.theirs) for pair in alignment.pairs], alignment.ours_only, alignment.theirs_only
    ([('ffn_up-0', 1, 0)], (0,), (1,))
    """
    a, b = side(without_empty_cells(ours)), side(without_empty_cells(theirs))
    partner: dict[int, int] = {}
    for name in a.named:
        for i, j in zip(*occurrences(a, b, name), strict=False):
            if shape(a, i) == shape(b, j):
                partner[i] = j
    by_name = set(partner)
    pair_by_place(a, b, partner)
    pairs = [
        Pair(ours.tensors[i].name, occurrence(ours, i), i, j, "name" if i in by_name else "place")
        for i, j in sorted(partner.items())
    ]
    return Alignment(tuple(pairs), leftover(a, set(partner)), leftover(b, set(partner.values())))


def without_empty_cells(trace: Trace) -> Trace:
    """The trace, place by place, its scores cut to the keys of its own tokens: (H, T, cells) -> (H, T, T).

    A text alone in a cleared cache lies in the first T cells; no query sees the others.
    """
    taps = [cut(tap) if SCORES.match(tap.name) else tap for tap in trace.tensors]
    return trace if all(a is b for a, b in zip(taps, trace.tensors, strict=True)) else replace(trace, tensors=taps)


def without_lora(trace: Trace) -> Trace:
    """The trace with the inner nodes of W x + scale B (A x) named as views are, so that only the sum is left to pair.

    They have no names of their own, and four in a row have the same shape. A trace without adapters, or one that does
    not report its sources, stays as it is.
    """
    nodes, inner = trace.meta.get("nodes", ()), set[int]()
    for i, node in enumerate(nodes):
        factor = any(isinstance(s, str) and s.endswith((".lora_a", ".lora_b")) for s in node["sources"])
        if factor or (trace.tensors[i].op == "SCALE" and set(node["sources"]) & inner):
            inner.add(i)
        elif trace.tensors[i].op == "ADD" and node["sources"][1] in inner:
            inner.add(node["sources"][0])
    if not inner:
        return trace
    return replace(
        trace, tensors=[t._replace(name="lora (view)") if i in inner else t for i, t in enumerate(trace.tensors)]
    )


def addition_order(trace: Trace) -> tuple[int, ...]:
    """Places of LoRA adapters in the order in which llama.cpp's graph adds them: (2, 0, 1).

    Each is added to each of its matrices by ADD(sum so far, SCALE(MUL_MAT("lora 1: ... .lora_b", ...))).
    """
    taps, nodes = trace.tensors, trace.meta["nodes"]
    chains: dict[int, list[int]] = {}  # place of a sum -> adapters that are in it, the first added first
    before: dict[int, set[int]] = {}
    for i, node in enumerate(nodes):
        scaled = node["sources"][-1] if taps[i].op == "ADD" else None
        if not isinstance(scaled, int) or taps[scaled].op != "SCALE":
            continue
        factor = FACTOR.match(str(nodes[nodes[scaled]["sources"][0]]["sources"][0]))
        if factor:
            chain = chains.get(node["sources"][0], [])
            adapter = int(factor[1])
            before.setdefault(adapter, set()).update(chain)
            chains[i] = [*chain, adapter]
    return tuple(TopologicalSorter({adapter: before[adapter] for adapter in sorted(before)}).static_order())


def cut(tap: TracedTensor) -> TracedTensor:
    """The tap, (..., T, cells) cut to (..., T, T) if it is wider than high by what a cache's blocks explain."""
    T, cells = tap.array.shape[-2:] if tap.array.ndim > 1 else (0, 0)
    return tap._replace(array=tap.array[..., :T]) if cells > T and cells % BLOCK == 0 else tap


def side(trace: Trace) -> Side:
    """Sort a trace's taps into named and unnamed; what rules 2 and 3 leave out in any case is in neither."""
    named: dict[str, list[int]] = {}
    unnamed = []
    alive = live(trace)
    for i, tap in enumerate(trace.tensors):
        if UNNAMED.match(tap.name):
            if i in alive and tap.op not in VIEWS | COPIES and not all_rows(trace, i):
                unnamed.append(i)
        elif not DERIVED.search(tap.name) and tap.name not in LOGITS:
            named.setdefault(unfused(tap.name), []).append(i)
    return Side(trace.tensors, {name: without_repeated_views(trace, places) for name, places in named.items()}, unnamed)


def unfused(name: str) -> str:
    """The name that a tensor has without flash attention.

    >>> unfused("fattn_mla-3"), unfused("kqv_out-3")
    ('kqv_mla-3', 'kqv_out-3')
    """
    stem, dash, layer = name.partition("-")
    return FUSED_NAMES.get(stem, stem) + dash + layer


def without_repeated_views(trace: Trace, places: list[int]) -> list[int]:
    """A view under its source's name (`Qcur-0` reshaped to heads) is not one more occurrence of it."""
    return [i for n, i in enumerate(places) if n == 0 or trace.tensors[i].op not in VIEWS]


def all_rows(trace: Trace, i: int) -> bool:
    """Whether tap i is GET_ROWS of every row in order, as in the last layer (llama.cpp's out_ids)."""
    tap = trace.tensors[i]
    if tap.op != "GET_ROWS":
        return False
    return any(
        same(tap.array, earlier.array) for earlier in trace.tensors[:i] if earlier.array.shape == tap.array.shape
    )


def same(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> bool:
    """Equal numbers; NaN equals NaN."""
    return bool(np.array_equal(x, y, equal_nan=x.dtype.kind == "f" and y.dtype.kind == "f"))


def live(trace: Trace) -> set[int]:
    """Places of taps on which a named tensor, the last one, or what is written to a cache depends.

    The graph of BERT begins with three nodes for input that mixes tokens and vectors, computed and never used. A trace
    that does not report its sources (meta["nodes"]) counts as live throughout.
    """
    nodes = trace.meta.get("nodes")
    if nodes is None:
        return set(range(len(trace.tensors)))
    alive = {len(nodes) - 1}
    for i in reversed(range(len(nodes))):
        name = trace.tensors[i].name
        named = not UNNAMED.match(name) and not DERIVED.search(name)
        writes_to_a_leaf = trace.tensors[i].op in STORES and isinstance(nodes[i]["view_of"], str)
        if i in alive or named or writes_to_a_leaf:
            alive |= {i, *(s for s in nodes[i]["sources"] if isinstance(s, int))}
    return alive


def occurrences(a: Side, b: Side, name: str) -> tuple[list[int], list[int]]:
    """The places of a name on both sides, k-th with k-th; without views and copies where only that makes them equal."""
    x, y = a.named.get(name, []), b.named.get(name, [])
    if len(x) > len(y) and len(a.computed(name)) == len(y):
        x = a.computed(name)
    if len(y) > len(x) and len(b.computed(name)) == len(x):
        y = b.computed(name)
    return x, y


def shape(s: Side, i: int) -> tuple[int, ...]:
    """A tap's shape without axes of length 1."""
    return tuple(n for n in s.tensors[i].array.shape if n != 1)


def pair_by_place(a: Side, b: Side, partner: dict[int, int]) -> None:
    """Rule 4, in both directions: taps without a partner, one of the two without a name. Adds to `partner`."""
    by_name = sorted(partner.items())
    taken = set(partner.values())
    for i in a.places():
        if i in partner:
            continue
        low = max((q for p, q in by_name if p < i), default=-1)
        high = min((q for p, q in by_name if p > i), default=len(b.tensors))
        for j in b.places():
            fits = low < j < high and j not in taken and shape(a, i) == shape(b, j)
            if fits and (i in a.unnamed or j in b.unnamed):
                partner[i] = j
                taken.add(j)
                break


def occurrence(trace: Trace, i: int) -> int:
    """The occurrence index of the of its name tap i is."""
    return sum(t.name == trace.tensors[i].name for t in trace.tensors[:i])


def leftover(s: Side, paired: set[int]) -> tuple[int, ...]:
    """Named taps that compute something and have no partner."""
    return tuple(sorted(i for name in s.named for i in s.computed(name) if i not in paired))
