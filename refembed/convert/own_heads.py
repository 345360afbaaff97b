"""Heads that llama.cpp has no place for, kept under keys of refembed's own: `refembed convert --heads`.

    folder                                          keys (all ARRAY[FLOAT32], in order of rows)
    bge-m3: sparse_linear.pt (1, C)                 refembed.sparse.kind = "token", .weight (C), .bias (1)
            colbert_linear.pt (D, C)                refembed.multi_vector.weight (D C), .bias (D)
    SPLADE: the head of BertForMaskedLM or          refembed.sparse.kind = "vocabulary", .dense.weight (C C),
            DistilBertForMaskedLM                   .dense.bias (C), .norm.weight (C), .norm.bias (C), .bias (V)
    ColBERT: PyLate's Dense, linear.weight          refembed.multi_vector.kind = "colbert" and more (colbert_head.py)

Keys, since llama.cpp refuses a file with a tensor that it does not know and passes over keys that it does not know: the
file stays one that llama.cpp loads. The matrix from channels to the vocabulary is the table of token embeddings, which
the file has already; a checkpoint with another one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.convert.colbert_head import add_colbert, colbert_module
from refembed.convert.pickled import read_tensors
from refembed.convert.safetensors import Entry
from refembed.convert.weights import open_weights
from refembed.convert.wordpiece import OTHER_SHAPE, load_json, read_json
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import quote

Array = npt.NDArray[Any]

SPARSE, MULTI = "sparse_linear.pt", "colbert_linear.pt"  # of bge-m3
MLM = {  # of transformers' heads -> refembed.sparse.*
    "cls.predictions.transform.dense": "dense", "vocab_transform": "dense",
    "cls.predictions.transform.LayerNorm": "norm", "vocab_layer_norm": "norm",
}  # fmt: skip
DECODERS = ("cls.predictions.decoder.weight", "vocab_projector.weight")
BIASES = ("cls.predictions.bias", "cls.predictions.decoder.bias", "vocab_projector.bias")
TABLES = tuple(p + "embeddings.word_embeddings.weight" for p in ("bert.", "distilbert.", ""))


def splade_module(folder: Path) -> str:
    """The module that makes sparse vectors of a sentence-transformers model, "" where there is none."""
    modules = load_json(folder / "modules.json")
    listed = modules if isinstance(modules, list) else []
    kinds = [str(m.get("type", "")) for m in listed if isinstance(m, dict)]
    return next((kind for kind in kinds if kind.endswith(".SpladePooling")), "")


def there(folder: Path) -> list[str]:
    """What the folder has of such heads, in words."""
    config = load_json(folder / "config.json")
    names = config.get("architectures") if isinstance(config, dict) else None
    masked = isinstance(names, list) and names[:1] in (["BertForMaskedLM"], ["DistilBertForMaskedLM"])
    found = [name for name in (SPARSE, MULTI) if (folder / name).is_file()]
    if colbert_module(folder):
        return [*found, "a ColBERT head"]
    return found + (["the head of a masked language model"] if masked else [])


def module_of_head(folder: Path) -> str:
    """The module, or the class, whose vectors are others without --heads; "" where there is none."""
    return splade_module(folder) or colbert_module(folder)


def add_heads(writer: GGUFWriter, folder: Path, arch: str) -> None:
    """Add the keys. ModelError where the folder has no such head, or one that cannot be kept.

    arch  general.architecture
    """
    if not there(folder):
        hint = f"{SPARSE} and {MULTI} of bge-m3, BertForMaskedLM and DistilBertForMaskedLM, or a ColBERT model"
        raise ModelError(f"{folder}: no head that --heads knows", hint=hint)
    if colbert_module(folder):
        try:
            add_colbert(writer, folder, arch)
        except OTHER_SHAPE as e:
            found = f"{folder}: a file that says how texts are read is not as its library writes it: {e!r}"
            raise ModelError(found, hint="save the model again") from None
        return
    config = read_json(folder / "config.json", required=True)
    C = config.get("hidden_size", config.get("dim", 768))
    if (folder / SPARSE).is_file():
        weight, bias = linear(folder / SPARSE, C, 1)
        add(writer, "sparse", {"weight": weight, "bias": bias}, "token")
    elif not (folder / MULTI).is_file():
        check_splade(folder)
        add(writer, "sparse", mlm_head(folder, C), "vocabulary")
    if (folder / MULTI).is_file():
        weight, bias = linear(folder / MULTI, C, None)
        add(writer, "multi_vector", {"weight": weight, "bias": bias})


def add(writer: GGUFWriter, head: str, arrays: Mapping[str, Array], kind: str = "") -> None:
    """The keys of one head."""
    if kind:
        writer.add(f"refembed.{head}.kind", kind, "STRING")
    for name, x in arrays.items():
        if not np.isfinite(x).all():
            raise ModelError(f"refembed.{head}.{name} would hold NaN or infinity", hint="the weights are damaged")
        writer.add(f"refembed.{head}.{name}", np.ascontiguousarray(x, np.float32).reshape(-1), "ARRAY[FLOAT32]")


def linear(path: Path, C: int, rows: int | None) -> tuple[Array, Array]:
    """Weight (rows, C) and bias (rows) of a layer. ModelError where they are of other shapes."""
    tensors = read_tensors(path)
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != C or bias.shape != weight.shape[:1]:
        shapes = {name: list(x.shape) for name, x in tensors.items()}
        raise ModelError(
            f"{path}: {shapes}, not a weight (n, {C}) and a bias (n)", hint="are these files of one model?"
        )
    if rows is not None and len(weight) != rows:
        raise ModelError(f"{path}: {len(weight)} rows, not {rows}", hint="are these files of one model?")
    return weight, bias


def check_splade(folder: Path) -> None:
    """ModelError for a SPLADE model that adds up or scales otherwise than max of log(1 + ReLU)."""
    if not splade_module(folder):
        return
    for module in load_json(folder / "modules.json") or []:
        if str(module.get("type", "")).endswith("SpladePooling"):
            settings = read_json(folder / str(module.get("path", "")) / "config.json", required=True)
            found = settings.get("pooling_strategy", "max"), settings.get("activation_function", "relu")
            if found != ("max", "relu"):
                hint = "refembed knows pooling_strategy max, activation_function relu"
                raise ModelError(f"{folder}: SPLADE with {found[0]} and {found[1]}", hint=hint)


def mlm_head(folder: Path, C: int) -> dict[str, Array]:
    """The head of a masked language model. ModelError where it is not whole, or has a matrix of its own."""
    config = read_json(folder / "config.json", required=True)
    activation = config.get("hidden_act", config.get("activation", "gelu"))
    if activation != "gelu":
        raise ModelError(f"{folder}: a head with {quote(str(activation))}", hint="refembed knows gelu")
    entries = {entry.name: entry for entry in open_weights(folder, [])}
    found: dict[str, Array] = {}
    for theirs, ours in MLM.items():
        for kind, names in (("weight", ("weight", "gamma")), ("bias", ("bias", "beta"))):
            for name in names:
                if f"{theirs}.{name}" in entries:
                    found[f"{ours}.{kind}"] = values(entries[f"{theirs}.{name}"])
    table = next((entries[name] for name in TABLES if name in entries), None)
    V = table.shape[0] if table else 0
    bias = next((values(entries[name]) for name in BIASES if name in entries), np.zeros(V, np.float32))
    shapes = {"dense.weight": (C, C), "dense.bias": (C,), "norm.weight": (C,), "norm.bias": (C,)}
    odd = [name for name, shape in shapes.items() if name not in found or found[name].shape != shape]
    if odd or table is None or bias.shape != (V,):
        hint = "the head of a masked language model: a dense layer, a norm, a bias"
        raise ModelError(f"{folder}: {', '.join(odd) or 'the table or its bias'} is missing or odd", hint=hint)
    for name in DECODERS:
        if name in entries and not np.array_equal(values(entries[name]), values(table)):
            hint = "refembed keeps heads whose matrix is the table of token embeddings"
            raise ModelError(f"{folder}: {name} is not the table of token embeddings", hint=hint)
    return {name: found[name] for name in shapes} | {"bias": bias}


def values(entry: Entry) -> Array:
    """The numbers of a tensor, as float32."""
    return np.asarray(entry.values(), np.float32)
