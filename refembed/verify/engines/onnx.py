"""An ONNX file in ONNX Runtime: pooled vectors, or rows of tokens, whichever it was exported with.

    OnnxEngine("model.onnx")                        # tokenizer.json next to it, if the package tokenizers is there
    OnnxEngine("model.onnx", gguf="model.gguf")     # else refembed's own tokenizer of that file

Exporters keep the names of PyTorch's modules in the names of nodes: "/encoder/layer.3/attention/self/query/MatMul". So
with the package `onnx` the file is given more outputs, in memory, and the table of `hooks` says which tensor of
llama.cpp's graph each of them is. That run is not optimized: no operations are fused, unlike in `embed`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.errors import EngineError, RequestError
from refembed.model.trace import Trace, TracedTensor
from refembed.tokenizer import load_tokenizer
from refembed.verify.engines.base import POOLINGS, Item, Plain, checked, need, pool
from refembed.verify.engines.hooks import BERT

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
POOLED = ("sentence_embedding", "sentence_embeddings", "embeddings", "text_embeds", "embedding")
TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings", "hidden_states")
ATTENTION = re.compile(r"(?:.*\.)?encoder\.layer\.(\d+)\.attention\.self")


class OnnxEngine(Plain):
    """One file in ONNX Runtime, on the CPU.

    path       the file; weights may lie next to it
    output     the output to take; default: one known by its name (POOLED, then ROWS), else the first with two or
               three axes
    pooling    none, mean, cls, last: what to make of rows of tokens; a pooled output stays as it is
    batch      texts that are computed together, padded to the longest
    tokenizer  a tokenizer.json or its folder; default: next to the file or one folder up
    gguf       lends refembed's tokenizer where the file has none of its own; then the engine shows no tokens
    threads    of ONNX Runtime

    RequestError where there is no such file; EngineError where packages are absent, or the file does not run.
    """

    name = "onnx"
    can_take_ids = True

    def __init__(
        self,
        path: str | Path,
        *,
        output: str | None = None,
        pooling: str = "none",
        batch: int = 1,
        tokenizer: str | Path | None = None,
        gguf: str | Path | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        if not self.path.is_file():
            raise RequestError(f"{path}: no such file")
        if pooling not in POOLINGS:
            raise RequestError(f"pooling={pooling!r}: must be one of {', '.join(POOLINGS)}")
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise RequestError(f"batch={batch!r}: must be a positive whole number")
        self.runtime = need("onnxruntime", "onnxruntime")
        self.pooling, self.batch, self.threads = pooling, batch, threads
        self.session = self.opened(self.path, optimized=True)
        self.inputs = {i.name: integer(i.name, i.type, self.path) for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.own = own_tokenizer(self.path, tokenizer)
        self.can_tokenize = self.own is not None
        self.gguf = gguf
        self.borrowed: Any = None
        self.output, found = self.choose(output)
        self.extra = more_outputs(self.path)
        self.can_trace = bool(self.extra)
        self.watched: Any = None
        self.info = {
            "model": str(self.path),
            "version": f"onnxruntime {self.runtime.__version__}",
            "providers": self.session.get_providers(),
            "inputs": list(self.inputs),
            "outputs": self.outputs,
            "output": self.output,
            "shape": "rows of tokens" if found.ndim == 3 else "pooled",
            "pooling": pooling,
            "batch": batch,
            "n_embd": int(found.shape[-1]),
            "tokenizer": "tokenizer.json" if self.own else "refembed's own, of the GGUF file",
        }

    def opened(self, model: Any, optimized: bool) -> Any:
        """A session on a path or on bytes."""
        options = self.runtime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave us the cores
        if self.threads:
            options.intra_op_num_threads = self.threads
        level = self.runtime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        source = str(model) if isinstance(model, Path) else model
        try:
            return self.runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as e:
            raise EngineError(f"{self.path}: ONNX Runtime cannot load it: {one_line(e)}") from None

    def choose(self, wanted: str | None) -> tuple[str, Any]:
        """The output to take, and what it gives for two tokens."""
        if wanted is not None and wanted not in self.outputs:
            raise RequestError(f"output={wanted!r}: {self.path} has {', '.join(self.outputs)}")
        given = dict(zip(self.outputs, self.run(self.session, self.outputs, [[0, 1]]), strict=True))
        shaped = [n for axes in (3, 2) for n, x in given.items() if np.ndim(x) == axes and x.dtype.kind == "f"]
        names = [wanted] if wanted else [*(n for n in POOLED + TOKEN_OUTPUTS if n in shaped), *shaped]
        if not names or np.ndim(given[names[0]]) not in (2, 3):
            shapes = ", ".join(f"{n} {np.shape(x)}" for n, x in given.items())
            raise EngineError(f"{self.path}: no output has the shape of vectors (S, D) or rows (S, T, D): {shapes}")
        return names[0], given[names[0]]

    def run(self, session: Any, outputs: Sequence[str], ids: Sequence[Sequence[int]]) -> list[Any]:
        """One call with these ids, padded at the end."""
        longest = max(map(len, ids))
        blank = np.zeros((len(ids), longest), np.int64)
        made = {name: blank.copy() for name in INPUTS}
        for row, given in enumerate(ids):
            made["input_ids"][row, : len(given)], made["attention_mask"][row, : len(given)] = given, 1
        made["position_ids"] += np.arange(longest)
        feed = {name: made[name].astype(kind) for name, kind in self.inputs.items()}
        try:
            found: list[Any] = session.run(list(outputs), feed)
        except Exception as e:
            raise EngineError(f"{self.path}: ONNX Runtime failed on {len(ids)} texts: {one_line(e)}") from None
        return found

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """One (D), or (T, D) where the file gives rows and pooling is none, for each item."""
        ids = [self.ids_of(i) for i in items]
        vectors: list[Any] = []
        for at in range(0, len(ids), self.batch):
            part = ids[at : at + self.batch]
            found = self.run(self.session, [self.output], part)[0].astype(np.float32)
            vectors += [pool(x[: len(r)], self.pooling) if x.ndim == 2 else x for x, r in zip(found, part, strict=True)]
        return checked(vectors, items, str(self.path))

    def ids_of(self, item: Item) -> list[int]:
        """The ids to feed; EngineError where there are none."""
        if not isinstance(item, str):
            ids = [int(i) for i in item]
        elif self.own is not None:
            ids = list(self.own.encode(item).ids)
        elif self.gguf is not None:
            self.borrowed = self.borrowed or load_tokenizer(self.gguf)
            ids = self.borrowed.encode(item, add_special=True, parse_special=True)
        else:
            hint = "tokenizer= names a tokenizer.json (needs the package tokenizers), gguf= a GGUF file; or give ids"
            raise EngineError(f"{self.path} has no tokenizer next to it", hint=hint)
        if not ids:
            raise EngineError(f"{self.path}: no tokens in {item!r:.80}")
        return ids

    def tokenize(self, text: str) -> list[int]:
        """The ids of its own tokenizer.json."""
        return self.ids_of(text) if self.can_tokenize else super().tokenize(text)

    def trace(self, item: Item) -> Trace:
        """The outputs of nodes that have a counterpart in llama.cpp's graph, of a run that is not optimized."""
        if not self.can_trace:
            why = "needs the package onnx, and a file whose nodes bear the names of PyTorch's modules"
            raise EngineError(f"{self.path} shows no intermediate tensors: that {why}")
        if self.watched is None:
            self.watched = self.opened(with_outputs(self.path, [name for _, name, _ in self.extra]), optimized=False)
        ids = self.ids_of(item)
        names = list(dict.fromkeys(name for _, name, _ in self.extra))
        found = dict(zip(names, self.run(self.watched, names, [ids]), strict=True))
        taps = [TracedTensor(tap, np.asarray(found[name], np.float32)[0], op) for tap, name, op in self.extra]
        result = np.asarray(self.run(self.session, [self.output], [ids])[0], np.float32)
        if result.ndim == 2:
            taps.append(TracedTensor("result_embd_pooled", result))
        text = item if isinstance(item, str) else None
        return Trace(taps, {**self.info, "engine": self.name, "text": text, "tokens": ids})


def integer(name: str, kind: str, path: Path) -> Any:
    """The type of an input that is known."""
    if name not in INPUTS or kind not in INTEGERS:
        hint = "export the encoder alone, without past keys and values" if "past" in name else ""
        raise EngineError(f"{path}: unknown input {name} of {kind}; known are {', '.join(INPUTS)}", hint=hint)
    return INTEGERS[kind]


def own_tokenizer(path: Path, wanted: str | Path | None) -> Any:
    """The tokenizer.json next to the file, or the one asked for; None where there is none, or no package to read it."""
    places = [Path(wanted)] if wanted is not None else [path.parent, path.parent.parent]
    files = [p / "tokenizer.json" if p.is_dir() else p for p in places]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        if wanted is not None:
            raise RequestError(f"tokenizer={str(wanted)!r}: no tokenizer.json there")
        return None
    try:
        library = need("tokenizers", "tokenizers")
    except EngineError:
        if wanted is not None:
            raise
        return None
    try:
        tokenizer = library.Tokenizer.from_file(str(file))
    except Exception as e:
        raise EngineError(f"{file}: cannot be read as a tokenizer: {one_line(e)}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def more_outputs(path: Path) -> list[tuple[str, str, str]]:
    """(tap, output of a node, operation) for nodes with a counterpart in llama.cpp's graph, in the graph's order."""
    try:
        graph = need("onnx", "onnx").load(str(path), load_external_data=False).graph
    except Exception:  # no package, or a file that only ONNX Runtime reads
        return []
    constants = {i.name for i in graph.initializer}
    modules: dict[str, list[Any]] = {}  # a module's nodes, those of the modules in it included
    place: dict[str, int] = {}
    for n, node in enumerate(graph.node):
        place.update(dict.fromkeys(node.output, n))
        parts = node.name.strip("/").split("/")[:-1]
        for depth in range(1, len(parts) + 1) if node.op_type != "Constant" else ():
            modules.setdefault(".".join(parts[:depth]), []).append(node)
    found = [x for module, nodes in modules.items() for x in taps_of(module, nodes, constants)]
    layers = [int(m[1]) for name in modules if (m := ATTENTION.fullmatch(name))]
    last = f"l_out-{max(layers, default=-1)}"
    found = [("result_embd" if tap == last else tap, name, op) for tap, name, op in found]
    return sorted(found, key=lambda x: place.get(x[1], -1))  # stable: an input stays before what is made of it


def taps_of(module: str, nodes: list[Any], constants: set[str]) -> list[tuple[str, str, str]]:
    """What the nodes of one module give: by the table of `hooks`, and inside attention by their operations."""
    found = []
    for pattern, take, names in BERT:
        m = re.fullmatch(rf"(?:.*\.)?{pattern}", module)
        if m is None or take == "weights":
            continue
        taps = [name.format(*m.groups()) for name in names]
        if take == "in":
            found += [(taps[0], i, "") for i in nodes[0].input if i not in constants][:1]
            continue
        if take == "product" and nodes[-1].op_type == "Add":
            found += [(taps[0], n.output[0], "MUL_MAT") for n in nodes if n.op_type == "MatMul"][:1]
        found.append((taps[-1], nodes[-1].output[0], nodes[-1].op_type))
    if m := ATTENTION.fullmatch(module):
        soft = [n for n in nodes if n.op_type == "Softmax"]
        found += [(f"kq_soft_max-{m[1]}", n.output[0], "SOFT_MAX") for n in soft]
        weights = {n.output[0] for n in soft}
        found += [(f"kqv-{m[1]}", n.output[0], "MUL_MAT") for n in nodes if n.input and n.input[0] in weights]
    return found


def with_outputs(path: Path, names: Sequence[str]) -> bytes:
    """The model's bytes with these tensors as further outputs."""
    onnx = need("onnx", "onnx")
    try:
        model = onnx.load(str(path))
        given = {o.name for o in model.graph.output}
        new = [n for n in dict.fromkeys(names) if n not in given]
        model.graph.output.extend([onnx.ValueInfoProto(name=n) for n in new])
        made: bytes = model.SerializeToString()
    except Exception as e:
        raise EngineError(f"{path}: cannot be given more outputs: {one_line(e)}") from None
    return made


def one_line(e: Exception) -> str:
    """An exception in one line."""
    return " ".join(str(e).split())[:300] or type(e).__name__
