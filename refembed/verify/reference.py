"""One way to compute vectors of texts: the steps of `refembed.pipeline`, with something changed on the way.

    text ─ text ─► encode ─► ids ─ tokens ─► batch ─► model, ops ─► hidden ─ rows ─► pooler ─► vector ─ vector ─►

Each `─ name ─►` is a place where a hypothesis may put a function of its own (`hypotheses`). A Reference is frozen; a
change makes another one, and changes of changes add up, so two hypotheses together are one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from refembed.arrays import F64, Float
from refembed.embedder import Embedder
from refembed.gguf import GGUFFile
from refembed.kernels.activation_ops import ActivationOps
from refembed.kernels.image_ops import ImageOps
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import COMPOSED, NO_TAP, Ops, Tap
from refembed.kernels.state_ops import StateOps
from refembed.kernels.wrapper import PatchedOps
from refembed.model import Model
from refembed.model.batch import Batch, pack
from refembed.model.info import Info
from refembed.model.lora import Adapter, adapted
from refembed.pipeline.batches import pack_batches
from refembed.pipeline.truncate import truncate
from refembed.pipeline.vectors import forward_and_pool
from refembed.pooling.heads import dense, pooled, run
from refembed.pooling.poolers import resolve_pooling
from refembed.tokenizer import Tokenizer

Item: TypeAlias = "str | list[int]"
Vectors: TypeAlias = "list[F64]"  # (D) of a text, or (T, D) where nothing is pooled

NUMERICS: dict[str, dict[str, Any]] = {  # arithmetic -> how `load_ops` makes it
    "fast": {"numerics": "fast"},
    "exact": {"numerics": "exact"},
    "ggml": {"numerics": "ggml", "flash_attn": True},
    "ggml, plain": {"numerics": "ggml", "flash_attn": False, "repack": False},
    "int8": {"numerics": "int8"},
}
TOGETHER = 2048  # tokens of one forward pass where a text's bits do not depend on its batch


class OpsByNumerics:
    """The arithmetics, each made when first asked for; and what was computed before.

    adapters, order  LoRA, and the order of addition, as `refembed.model.lora.adapted` takes them
    """

    def __init__(self, adapters: Sequence[Adapter] = (), order: Sequence[int] | None = None) -> None:
        self.adapters, self.order = tuple(adapters), order
        self.ops: dict[str, Ops] = {}
        self.hidden: dict[Any, tuple[Any, Float]] = {}
        self.samples: dict[str, Any] = {}  # changes that compute in fewer bits (`hypotheses.precision`)

    def __getitem__(self, name: str) -> Ops:
        """Operations of a row of NUMERICS."""
        if name not in self.ops:
            base = load_ops(**NUMERICS[name])
            side = load_ops(**NUMERICS[name] | {"repack": False}) if self.adapters else base
            self.ops[name] = adapted(base, side, self.adapters, self.order)
        return self.ops[name]


@dataclass(frozen=True, eq=False)
class Reference:
    """How vectors come about. Functions in tuples run in order, the latest change last."""

    info: Info
    file: GGUFFile
    tokenizer: Tokenizer
    model: Model
    by_numerics: OpsByNumerics
    pooling: str
    encode: Callable[[Tokenizer, str], list[int]]
    text: tuple[Callable[[str], str], ...] = ()
    tokens: tuple[Callable[[list[int]], list[int]], ...] = ()
    batch: tuple[Callable[[Batch], Batch], ...] = ()
    ops: tuple[Callable[[Ops], Ops], ...] = ()
    pooler: Callable[[Float, list[int]], Float] | None = None  # hidden (T, C), ids (T) -> (C), in place of `pooling`
    vector: tuple[Callable[[F64], F64], ...] = ()
    together: Callable[[list[list[int]]], list[list[int]]] | None = None  # ids of texts that share a batch

    def add(self, **functions: Any) -> Reference:
        """Another reference, with these functions at the end of their tuples: add(text=str.lower)."""
        tuples: dict[str, Any] = {name: (*getattr(self, name), f) for name, f in functions.items()}
        return replace(self, **tuples)

    def ids_of(self, item: Item) -> list[int]:
        """Token ids of an input, at most as many as the model reads."""
        if isinstance(item, str):
            for change in self.text:
                item = change(item)
            ids = self.encode(self.tokenizer, item)
        else:
            ids = list(item)
        for alter in self.tokens:
            ids = alter(ids)
        return truncate(ids, self.info.n_ctx, keep_last=self.tokenizer.vocab.is_closed(ids))

    def ops_of(self, numerics: str) -> Ops:
        """The operations of numerics, changed."""
        ops = self.by_numerics[numerics]
        for change in self.ops:
            ops = change(ops)
        return ops

    def packed(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Texts that run together, end to end, changed."""
        batch = pack(ids)
        for change in self.batch:
            batch = change(batch)
        return batch

    def forward(self, ids: Sequence[Sequence[int]], numerics: str) -> Float:
        """Hidden states (T, C) of texts that run together."""
        return self.model.forward(self.packed(ids), self.ops_of(numerics))

    def hidden(self, ids: Sequence[list[int]], numerics: str) -> list[Float]:
        """Hidden states (T_s, C) of each text, cached from before where nothing on the way has changed."""
        kept, key = self.by_numerics.hidden, (id(self.model), self.ops, self.batch, numerics)
        missing = [i for i in dict.fromkeys(map(tuple, ids)) if (key, i) not in kept]
        limit = 0 if numerics.startswith("ggml") else TOGETHER
        for texts in pack_batches(map(len, missing), limit):
            states = self.forward([missing[i] for i in texts], numerics)
            ends = np.cumsum([len(missing[i]) for i in texts])
            for i, part in zip(texts, np.split(states, ends[:-1]), strict=True):
                kept[key, missing[i]] = self.model, part
        return [kept[key, tuple(i)][1] for i in ids]

    def vectors(self, items: Sequence[Item], numerics: str) -> Vectors:
        """Vectors of texts, not normalized, in double."""
        ids = [self.ids_of(item) for item in items]
        if self.together is None:
            return [self.finish(h, i, numerics) for h, i in zip(self.hidden(ids, numerics), ids, strict=True)]
        filled = self.together(ids)
        if len(filled) == 1:
            return [self.finish(self.hidden(filled, numerics)[0], ids[0], numerics)]
        kept, key = self.by_numerics.hidden, (id(self.model), self.ops, self.batch, numerics, tuple(map(tuple, filled)))
        if key not in kept:
            kept[key] = self.model, self.forward(filled, numerics)
        parts = np.split(kept[key][1], np.cumsum([len(i) for i in filled])[:-1])
        return [self.finish(h, i, numerics) for h, i in zip(parts, ids, strict=True)]

    def finish(self, hidden: Float, ids: list[int], numerics: str) -> F64:
        """Pool and post-process the states of one text; ids are its own tokens, what follows them is padding."""
        ops = self.ops_of(numerics)
        with np.errstate(all="ignore"):
            if self.pooler is None:
                own = np.ascontiguousarray(hidden[: len(ids)])
                found = pooled(own, np.array([0, len(own)]), self.pooling, self.model, ops)[0]
            else:
                row = np.asarray(self.pooler(hidden, ids))[None].astype(ops.dtype)
                found = run(dense(self.model, ops, NO_TAP), row, NO_TAP)[0]
            vector: F64 = np.asarray(found, np.float64)
            for change in self.vector:
                vector = change(vector)
        return vector

    def show(self, ids: list[int], numerics: str, tap: Tap) -> None:
        """Run one text with a tap, up to the pooled vector, as `Embedder.trace` does."""
        forward_and_pool(self.model, self.ops_of(numerics), self.packed([ids]), self.pooling, tap)


def own_encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids as llama-embedding and llama-server make them."""
    return tokenizer.encode(text, add_special=True, parse_special=True)


def reference_of(embedder: Embedder, pooling: str = "native") -> Reference:
    """The model of an embedder with its adapters, unchanged. pooling as `Embedder.embed` takes it."""
    e, how = embedder, resolve_pooling(pooling, embedder.model.hparams.pooling)
    return Reference(e.info, e.file, e.tokenizer, e.model, OpsByNumerics(e.adapters), how, own_encode)


OPERATIONS = (*vars(Ops), *vars(ActivationOps), *vars(StateOps), *vars(ImageOps))


def spy(reference: Reference) -> frozenset[str]:
    """Names of the operations that the model asks for."""
    used: set[str] = set()

    def noting(name: str) -> Callable[..., Any]:
        def operation(true: Ops, *args: Any, **more: Any) -> Any:
            used.add(name)
            return getattr(true, name)(*args, **more)

        return operation

    every = {name: noting(name) for name in OPERATIONS if name[0] != "_" and name not in COMPOSED}
    reference.add(ops=lambda ops: PatchedOps(ops, every)).forward([[0, 1]], "fast")
    return frozenset(used)


def tensor_names(reference: Reference) -> Iterator[str]:
    """Names of all tensors that the model is made of."""
    from dataclasses import fields, is_dataclass

    def walk(value: Any) -> Iterator[str]:
        if hasattr(value, "raw") and hasattr(value, "name"):
            yield value.name
        elif isinstance(value, tuple):
            for part in value:
                yield from walk(part)
        elif is_dataclass(value):
            for f in fields(value):
                yield from walk(getattr(value, f.name))

    yield from walk(reference.model.weights)
