"""LoRA: for some of a model's matrices, W x becomes W x + scale B (A x).

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". An adapter is a GGUF file of its own: general.type
"adapter", adapter.type "lora", the architecture of its model, and for a tensor `name` of that model two more,

    name.lora_a  (r, C)      name.lora_b  (N, r)      W (N, C)      scale = user's scale * adapter.lora.alpha / r

Of an alpha of 0 the user's scale is left alone. `token_embd.weight` has lora_a (V, r): its rows are looked up as W's
are. jina-embeddings-v3 is published as a model and one such file a task. Mirrors llama.cpp's src/llama-adapter.cpp, and
build_lora_mm, build_lora_mm_id and build_inp_embd in src/llama-graph.cpp.

An "activated" LoRA (adapter.alora.*) works on every token, as in llama-embedding; llama-server waits for its signal.

Several adapters are added one after another, in the order in which they are given. Float addition is not associative:
another order moves the last bits. llama.cpp leaves the order to chance: it keeps the adapters of a context in a
`std::unordered_map` keyed by their addresses (src/llama-adapter.h), so it depends on the allocator and on the C++
library, and may change from one machine to the next. To equal one run of llama.cpp bit for bit, give `adapted` the
order of that run, which `LlamaCpp.lora_order` reads from its graph:

    with LlamaCpp(model, lora=[(a, 0.5), (b, 1.0), (c, 1.0)]) as engine:
        engine.lora_order            # (2, 0, 1): W x + c + a + b
    Embedder.load(model, lora=[c, f"{a}:0.5", b], numerics="ggml")  # the same bits
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from refembed.arrays import I64, Float
from refembed.errors import ModelError, RequestError
from refembed.gguf import GGUFFile, Tensor, open_gguf
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.kernels.wrapper import OpsWrapper

A, B = ".lora_a", ".lora_b"
EMBEDDING = "token_embd.weight"
PROJECTION = ("gemma-embedding2", "output.weight")  # there the last product makes the vector
LATENT = ("deepseek2", tuple(f"attn_{name}.weight" for name in ("q", "q_a", "q_b", "kv_a_mqa", "kv_b", "k_b", "v_b")))
NEVER = ("attn_rel_b.weight", "shortconv.conv.weight", "altup_router.weight")  # of layers


class Pair(NamedTuple):
    """The two factors of what is added to one matrix."""

    a: Tensor  # (r, C); for a mixture of experts (X, r, C); for token_embd (V, r)
    b: Tensor  # (N, r); (X, N, r); (C, r)

    @property
    def rank(self) -> int:
        """r."""
        return self.b.shape[-1]


@dataclass(frozen=True)
class Adapter:
    """One adapter file, and how strongly it is asked for."""

    path: Path
    paths: tuple[Path, ...]  # of all its shards
    scale: float  # the user's
    alpha: float  # adapter.lora.alpha
    task: str  # adapter.lora.task_name, where it has one: jina-embeddings-v3's "retrieval.query"
    prompt_prefix: str  # adapter.lora.prompt_prefix: what a text should begin with; nothing adds it
    pairs: Mapping[str, Pair]  # by the name of the model's tensor
    idle: tuple[str, ...]  # tensors that are there, and that llama.cpp never applies


def read_spec(spec: str | Path) -> tuple[Path, float]:
    """`file.gguf:0.5` is that file at scale 0.5, `file.gguf` at scale 1. RequestError where that is no finite number.

    A file that is there under the whole name is meant by it.
    """
    whole = str(spec)
    name, colon, number = whole.rpartition(":")
    if isinstance(spec, Path) or not colon or Path(whole).exists() or "/" in number or "\\" in number:
        return Path(whole), 1.0
    try:
        scale = float(number)
    except ValueError:
        raise RequestError(f"lora {whole!r}: {number!r} is no number", hint="FILE, or FILE:SCALE") from None
    if not math.isfinite(scale):
        raise RequestError(f"lora {whole!r}: a scale must be finite")
    return Path(name), scale


def load_adapters(specs: str | Path | Sequence[str | Path], model: GGUFFile) -> list[Adapter]:
    """Adapters of a model in the order in which they are added: `load_adapter` of each spec, or of the only one."""
    return [load_adapter(spec, model, i) for i, spec in enumerate([specs] if isinstance(specs, (str, Path)) else specs)]


def load_adapter(spec: str | Path, model: GGUFFile, index: int = 0) -> Adapter:
    """Open an adapter for a model, checked as llama.cpp checks it.

    spec   `read_spec`
    index  its place among several: their tensors must not share names
    Raises RequestError where there is no such file, GGUFError where it is none, ModelError where it does not fit.
    """
    path, scale = read_spec(spec)
    if not path.is_file():
        raise RequestError(f"lora {path}: no such file", hint="FILE, or FILE:SCALE")
    f = open_gguf(path)
    check_kind(f, model)
    md, pairs = f.metadata, pair_up(f)
    for name, pair in pairs.items():
        check_shapes(f, name, pair, model.tensors)
    own = {n: Pair(*(replace(t, name=f"lora {index}: {t.name}") for t in pair)) for n, pair in pairs.items()}
    return Adapter(
        path=path,
        paths=f.paths,
        scale=scale,
        alpha=md.float("adapter.lora.alpha", 0.0),
        task=md.string("adapter.lora.task_name", ""),
        prompt_prefix=md.string("adapter.lora.prompt_prefix", ""),
        pairs={name: pair for name, pair in own.items() if is_applied(name, model)},
        idle=tuple(name for name in own if not is_applied(name, model)),
    )


def check_kind(f: GGUFFile, model: GGUFFile) -> None:
    """Refuse what is no LoRA adapter, or one for another architecture."""
    arch = model.metadata.string("general.architecture")
    for key, want in (("general.type", "adapter"), ("general.architecture", arch), ("adapter.type", "lora")):
        found = f.metadata.string(key, "")
        if found != want:
            hint = "an adapter made by convert_lora_to_gguf.py from the LoRA of this very model"
            raise ModelError(f"{f.path}: {key} is {found!r}, not {want!r}", hint=hint)


def pair_up(f: GGUFFile) -> dict[str, Pair]:
    """The model's tensor -> its two factors. Norms in an adapter are ignored, as llama.cpp ignores them."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, t in f.tensors.items():
        end = name[-len(A) :]
        if end in (A, B):
            halves.setdefault(name.removesuffix(end), {})[end] = t
        elif not name.endswith("_norm.weight"):
            raise ModelError(f"{f.path}: tensor {name!r} is neither {A} nor {B}", hint="llama.cpp refuses it too")
    for name, found in halves.items():
        if len(found) < 2:
            raise ModelError(f"{f.path}: {name}: there is {next(iter(found))} alone", hint="llama.cpp refuses it too")
    return {name: Pair(found[A], found[B]) for name, found in halves.items()}


def check_shapes(f: GGUFFile, name: str, pair: Pair, tensors: Mapping[str, Tensor]) -> None:
    """Refuse factors that do not make a matrix of the shape of the model's."""
    if name not in tensors:
        hint = "is this the adapter of another model?"
        raise ModelError(f"{f.path}: the model has no tensor {name!r} to adapt", hint=hint)
    shape = tensors[name].shape
    *experts, N, C = shape if len(shape) > 1 else (1, *shape)
    r = pair.rank
    want = ((N, r), (C, r)) if name.endswith(EMBEDDING) else ((*experts, r, C), (*experts, N, r))
    found = pair.a.shape, pair.b.shape
    if found != want or not r:
        hint = "is this the adapter of another model?"
        message = f"{f.path}: {name}: lora_a {found[0]} and lora_b {found[1]} make no {shape}"
        raise ModelError(message, hint=hint)


def is_applied(name: str, model: GGUFFile) -> bool:
    """Whether llama.cpp's graphs ask for adapters of this tensor: token_embd, matrices of layers, and PROJECTION.

    Kinds of token, positions, heads and dense layers are loaded, and left alone; so are LATENT's.
    """
    arch = model.metadata.string("general.architecture")
    if arch == LATENT[0] and name.endswith(LATENT[1]):
        return False
    matrix = "blk." in name and (len(model.tensors[name].shape) > 1 or name.endswith("ffn_gate_inp_shexp.weight"))
    projection = name == PROJECTION[1] and arch == PROJECTION[0]
    return name == EMBEDDING or projection or (matrix and not name.endswith(NEVER))


class AdaptedOps(OpsWrapper):
    """Operations with LoRA: a product with a matrix that has adapters is that product plus what they add.

    base      the operations of the model
    side      those of the adapters' own tensors, which llama.cpp never repacks
    adapters  in the order of addition
    """

    def __init__(self, base: Ops, side: Ops, adapters: Sequence[Adapter]) -> None:
        super().__init__(base)
        self.side = side
        self.pairs: dict[str, list[tuple[Any, Pair]]] = {}  # tensor -> (scale, factors), in the order of addition
        self.biases: dict[str, Float] = {}
        for adapter in (a for a in adapters if a.scale):
            for name, pair in adapter.pairs.items():
                self.pairs.setdefault(name, []).append((self.scale_of(adapter, pair), pair))

    def scale_of(self, adapter: Adapter, pair: Pair) -> Any:
        """The user's scale * alpha / r, rounded at each step as the numerics rounds."""
        scale, alpha = self.dtype(adapter.scale), self.dtype(adapter.alpha)
        return scale * alpha / self.dtype(pair.rank) if adapter.alpha else scale

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows of w, plus scale B a of the same rows of A."""
        x = self.base.get_rows(w, ids)
        for scale, pair in self.pairs.get(w.name, ()) if w.name == EMBEDDING else ():
            x = x + self.side.linear(self.side.get_rows(pair.a, ids), pair.b) * scale
        return x

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        """y = x Wᵀ + scale (x Aᵀ) Bᵀ + b."""
        if w.name not in self.pairs:
            return self.base.linear(x, w, b, tap, product)
        y = self.base.linear(x, w)
        for scale, pair in self.pairs[w.name]:
            y = y + self.side.linear(self.side.linear(x, pair.a), pair.b) * scale
        return y if b is None else tap(product, y) + self.bias(b)

    def experts(
        self, x: Float, w: Tensor, chosen: I64, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = ""
    ) -> Float:
        """y = x W_eᵀ + scale (x A_eᵀ) B_eᵀ + b_e for each chosen e."""
        if w.name not in self.pairs:
            return self.base.experts(x, w, chosen, b, tap, product)
        y = self.base.experts(x, w, chosen)
        for scale, pair in self.pairs[w.name]:
            y = y + self.side.experts(self.side.experts(x, pair.a, chosen), pair.b, chosen) * scale
        return y if b is None else tap(product, y) + self.bias(b)[chosen]

    def add_layer_norm(
        self, x: Float, residual: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP
    ) -> Float:
        """As without adapters, which change no norm."""
        return self.base.add_layer_norm(x, residual, w, b, eps, tap)

    def bias(self, b: Tensor) -> Float:
        """The decoded bias, kept."""
        if b.name not in self.biases:
            self.biases[b.name] = b.dequantize().astype(self.dtype)
        return self.biases[b.name]


def adapted(base: Ops, side: Ops, adapters: Sequence[Adapter], order: Sequence[int] | None = None) -> Ops:
    """`base` with adapters; itself where none has a scale other than 0.

    order  of addition: places in `adapters`, each once; None: as given. (2, 0, 1) is W x + adapter 2 + adapter 0 + 1.
    """
    active = [a for a in in_order(adapters, order) if a.scale]
    return AdaptedOps(base, side, active) if active else base


def in_order(adapters: Sequence[Adapter], order: Sequence[int] | None) -> list[Adapter]:
    """Adapters in their order of addition. RequestError where `order` does not name each place once."""
    if order is None:
        return list(adapters)
    if sorted(order) != list(range(len(adapters))):
        message = f"order of addition {tuple(order)}: {len(adapters)} adapters have the places 0 to {len(adapters) - 1}"
        raise RequestError(message, hint="name each place once: (2, 0, 1)")
    return [adapters[i] for i in order]
