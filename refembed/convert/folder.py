"""Hugging Face folder -> GGUF. Here BERT and DistilBERT, with their heads; models.py has the others.

    config.json ─► {arch}.* keys          *.safetensors ─► tensors, renamed and stored as `outtype`
    modules.json, 1_Pooling ─► pooling    tokenizer.json or vocab.txt ─► tokenizer.ggml.* (wordpiece.py)

Mirrors convert_hf_to_gguf.py (llama.cpp: conversion/base.py and bert.py), and writes the file that it writes: the same
names, types, values and bytes in the same order. tests/data says what it wrote. Two things are meant to differ: keys of
special tokens that it leaves out (wordpiece.py), and a head of two unnamed classes, of which it makes a file that
llama.cpp cannot load.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from refembed.convert import models
from refembed.convert.adapters import tasks_of, write_adapters
from refembed.convert.colbert_head import LINEAR, STANFORD
from refembed.convert.families import ARCHITECTURES as OTHERS
from refembed.convert.graph import check_graph, remarks
from refembed.convert.modules import read_modules
from refembed.convert.own_heads import add_heads, module_of_head, there
from refembed.convert.planned import OUTTYPES, Planned, note_dropped, read_labels, stored_type
from refembed.convert.quantize import quantize_file
from refembed.convert.quantize_mix import canonical
from refembed.convert.safetensors import Entry
from refembed.convert.weights import QUANTIZED, check_floats, check_model, check_place, open_weights, unknown_tensor
from refembed.convert.wordpiece import add_vocab, check_card, read_json, read_vocab, warn_lowered
from refembed.errors import ModelError, RequestError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import quote

log = logging.getLogger("refembed.convert")

Progress: TypeAlias = Callable[[str, int, int], None]  # what is being done, how far, of how much; in bytes
Say: TypeAlias = Callable[[str], None]  # is given a sentence about what the file lacks


@dataclass(frozen=True)
class Family:
    """Models whose checkpoints are built alike."""

    stem: str  # of its classes' names: "Bert" of BertModel
    prefix: str  # of tensor names, where a head stands next to the model
    layers: str  # the layers' names begin so
    keys: dict[str, str]  # what GGUF calls a size -> what config.json calls it
    defaults: dict[str, Any]  # what config.json leaves out, the library's own defaults
    dropped: tuple[str, ...]  # tensors of heads that embeddings do not need
    column: int  # of TENSORS


BERT = Family(
    stem="Bert",
    prefix="bert.",
    layers="encoder.layer.",
    keys={
        "block_count": "num_hidden_layers",
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
    },
    defaults={
        "num_hidden_layers": 12,
        "max_position_embeddings": 512,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "vocab_size": 30522,
        "pad_token_id": 0,
        "hidden_act": "gelu",
    },
    dropped=("embeddings.position_ids", "pooler.dense.", "cls.predictions", "cls.seq_relationship"),
    column=2,
)
DISTILBERT = Family(
    stem="DistilBert",
    prefix="distilbert.",
    layers="transformer.layer.",
    keys={
        "block_count": "n_layers",
        "context_length": "max_position_embeddings",
        "embedding_length": "dim",
        "feed_forward_length": "hidden_dim",
        "attention.head_count": "n_heads",
    },
    defaults={
        "n_layers": 6,
        "max_position_embeddings": 512,
        "dim": 768,
        "hidden_dim": 3072,
        "n_heads": 12,
        "layer_norm_eps": 1e-12,  # in the code, in no configuration
        "type_vocab_size": 1,
        "vocab_size": 30522,
        "pad_token_id": 0,
        "activation": "gelu",
    },
    dropped=("embeddings.position_ids", "vocab_"),
    column=3,
)
NOT_ALONE = {  # classes whose weights are no model of their own, and what to convert
    "JinaEmbeddingsV5Model": "its weights need the LoRA adapter of a task, in adapters/; convert a repository that has "
    "one merged, jinaai/jina-embeddings-v5-text-small-retrieval for one",
}
KNOWN_BEST = ("BertModel", "XLMRobertaModel", "ModernBertModel", "Qwen3Model")
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification")
HEAD_NOTES = {  # how llama.cpp computes another score than `transformers`: docs/differences.md
    "Bert": "scores are not those of `transformers`: llama.cpp's converter drops pooler.dense, and so does this one "
    "(docs/differences.md)",
    "DistilBert": "scores are not those of `transformers`: llama.cpp has tanh behind pre_classifier, not ReLU "
    "(docs/differences.md)",
}
ARCHITECTURES = {kind + head: family for kind, family in (("Bert", BERT), ("DistilBert", DISTILBERT)) for head in HEADS}
ARCHITECTURES[STANFORD] = BERT

# C embedding_length, F feed_forward_length, V tokens, P context_length, S segment types, R labels
TENSORS = (
    # GGUF name,            shape,      BERT (in encoder.layer: {})             DistilBERT (in transformer.layer: {})
    ("token_embd",          ("V", "C"), "embeddings.word_embeddings",           "embeddings.word_embeddings"),
    ("token_types",         ("S", "C"), "embeddings.token_type_embeddings",     ""),
    ("position_embd",       ("P", "C"), "embeddings.position_embeddings",       "embeddings.position_embeddings"),
    ("token_embd_norm",     ("C",),     "embeddings.LayerNorm",                 "embeddings.LayerNorm"),
    ("blk.{}.attn_q",       ("C", "C"), "{}.attention.self.query",              "{}.attention.q_lin"),
    ("blk.{}.attn_k",       ("C", "C"), "{}.attention.self.key",                "{}.attention.k_lin"),
    ("blk.{}.attn_v",       ("C", "C"), "{}.attention.self.value",              "{}.attention.v_lin"),
    ("blk.{}.attn_output",  ("C", "C"), "{}.attention.output.dense",            "{}.attention.out_lin"),
    ("blk.{}.attn_output_norm", ("C",), "{}.attention.output.LayerNorm",        "{}.sa_layer_norm"),
    ("blk.{}.ffn_up",       ("F", "C"), "{}.intermediate.dense",                "{}.ffn.lin1"),
    ("blk.{}.ffn_down",     ("C", "F"), "{}.output.dense",                      "{}.ffn.lin2"),
    ("blk.{}.layer_output_norm", ("C",), "{}.output.LayerNorm",                 "{}.output_layer_norm"),
    ("cls",                 ("C", "C"), "",                                     "pre_classifier"),
    ("cls.output",          ("R", "C"), "classifier",                           "classifier"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """config.json, checked."""

    folder: Path
    architecture: str  # Hugging Face's name of the class: "BertModel"
    family: Family
    raw: dict[str, Any]  # with the family's defaults
    labels: tuple[str, ...]  # of the classes, () where nothing is classified
    notes: list[str]  # what the file will lack, a sentence each

    def size(self, key: str) -> int:
        """A size that config.json states, e.g. "hidden_size": a whole number above zero."""
        value = self.raw.get(key)
        if type(value) is not int or not 0 < value < 2**31:
            found = f"{key} is {quote(str(value))}, not a size"
            raise ModelError(f"{self.folder / 'config.json'}: {found}", hint="is the file whole?")
        return value

    @property
    def sizes(self) -> dict[str, int]:
        """The letters of TENSORS."""
        keys = self.family.keys
        return {
            "C": self.size(keys["embedding_length"]),
            "F": self.size(keys["feed_forward_length"]),
            "P": self.size(keys["context_length"]),
            "V": self.size("vocab_size"),
            "S": self.size("type_vocab_size"),
            "R": len(self.labels),
        }


def convert(
    folder: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    outtype: str = "f32",
    name: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    heads: bool = False,
    adapters: bool = False,
) -> Path:
    """Convert a model that Hugging Face's `transformers` or sentence-transformers saved. Returns out_path.

    folder    config.json, safetensors, and tokenizer.json, vocab.txt, tokenizer.model, spiece.model or
              sentencepiece.bpe.model, as the kind has it; modules.json and 1_Pooling where there are any
    outtype   "f32", "f16", "bf16" or "q8_0": how matrices are stored; vectors, positions and segments stay F32.
              Or a type of quantize.py, "q4_k_m" for example: the file that llama-quantize makes of the one in F32
    name      GGUF `general.name`; the model card, config.json or the folder say it otherwise
    progress  called with ("converting", bytes of weights done, bytes in all)
    say       called with a sentence for each thing of the folder that the file lacks; None: a warning in the log
    heads     keep heads that llama.cpp has no place for, under keys of refembed's own (`own_heads.py`)
    adapters  write the LoRA adapters that a checkpoint has for its tasks next to out_path (`adapters.py`)

    ModelError where the folder holds no whole model of ARCHITECTURES, RequestError where the file cannot be written.
    The weights pass through memory one tensor at a time, and the file is written whole or not at all.

    >>> from refembed import hub, open_gguf
    >>> from refembed.convert import convert
    >>> f = open_gguf(convert(hub.source_folder("minilm"), "minilm-f16.gguf", outtype="f16", say=print))
    left out, as llama.cpp has no place for them: embeddings.position_ids, pooler.dense
    >>> f.tensors["token_embd.weight"].type.name, f.tensors["token_embd_norm.weight"].type.name
    ('F16', 'F32')
    """
    source, outtype, notes = Path(folder), outtype.lower(), list[str]()
    check_model(source)
    if outtype not in OUTTYPES:
        return convert_and_quantize(source, Path(out_path), outtype, name, progress, say, heads, adapters)
    if (module := module_of_head(source)) and not heads:
        hint = "convert(..., heads=True), `refembed convert --heads`, keeps the head that makes its vectors"
        where = source / ("config.json" if module == STANFORD else "modules.json")
        raise ModelError(f"{where}: a module of type {quote(module)}", hint=hint)
    arch, plan, add_keys = prepare(source, outtype, notes, name)
    writer = GGUFWriter(None)
    add_general(writer, source, name, plan, arch)
    add_keys(writer)
    if heads:
        add_heads(writer, source, arch)
    elif bge := [name for name in there(source) if name.endswith(".pt")]:
        notes.append(f"left out: {' and '.join(bge)}; --heads keeps sparse and many vectors")
    warn_lowered(source)
    add_weights(writer, plan, progress)
    written = writer.write(out_path)
    if arch == "jina-bert-v3":
        notes.append(adapters_note(source, written if adapters else None))
    for note in notes:
        (say or log.warning)(note)
    return written


def add_weights(writer: GGUFWriter, plan: Sequence[Planned], progress: Progress | None) -> None:
    """Each tensor, whose numbers are made when it is written."""
    total, done = sum(p.entry.raw.nbytes for p in plan), 0

    def data_of(planned: Planned) -> Callable[[], Any]:
        def data() -> Any:
            nonlocal done
            numbers = planned.data()
            done += planned.entry.raw.nbytes
            if progress:
                progress("converting", done, total)
            return numbers

        return data

    if progress:
        progress("converting", 0, total)
    for p in plan:
        writer.add_tensor(p.name, data_of(p), p.entry.shape, p.type)


def adapters_note(folder: Path, model: Path | None) -> str:
    """One sentence about a checkpoint's adapters, which are written if there is a model to write them next to."""
    if model is None:
        return f"left out: LoRA adapters for {', '.join(tasks_of(folder))}; `refembed convert` writes each to a file"
    return f"LoRA adapters, next to the model: {', '.join(path.name for path in write_adapters(folder, model))}"


def prepare(
    folder: Path, outtype: str, notes: list[str], name: str | None
) -> tuple[str, list[Planned], Callable[[GGUFWriter], None]]:
    """`general.architecture`, the tensors to write, and what adds the keys. What the file will lack goes into notes."""
    if models.knows(folder):
        return models.prepare(folder, outtype, notes, name)
    config = read_config(folder, notes)

    def add_keys(writer: GGUFWriter) -> None:
        add_parameters(writer, config, outtype)
        vocab = read_vocab(folder, config.raw)
        writer.add("tokenizer.ggml.token_type_count", config.size("type_vocab_size"), "UINT32")
        add_vocab(writer, vocab)

    return "bert", plan_tensors(config, open_weights(folder, notes), outtype), add_keys


def convert_and_quantize(
    folder: Path, out_path: Path, outtype: str, name: str | None, progress: Progress | None, say: Say | None,
    heads: bool, adapters: bool,
) -> Path:  # fmt: skip
    """Convert to F32, in the folder of the output, and quantize that."""
    canonical(outtype)
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".refembed-", dir=out_path.parent)
    except OSError as e:
        hint = "check the folder and the disk"
        raise RequestError(f"{out_path} cannot be written: {e.strerror or e}", hint=hint) from None
    with scratch as work:
        full = convert(
            folder, Path(work) / out_path.name, outtype="f32", name=name, progress=progress, say=say, heads=heads,
            adapters=adapters,
        )  # fmt: skip
        quantize_file(full, out_path, outtype, progress=progress)
        for adapter in full.parent.glob("lora-*"):
            adapter.replace(out_path.with_name(adapter.name))
    return out_path


def read_config(folder: Path, notes: list[str]) -> Config:
    """config.json, with what `transformers` adds where it is silent. ModelError for what refembed cannot convert."""
    path = folder / "config.json"
    raw = read_json(path, required=True)
    names = raw.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else "unknown"
    if architecture == "unknown":
        hint = 'the class that `transformers` opens it with: "architectures": ["BertModel"]'
        raise ModelError(f"{path}: no architectures", hint=hint)
    if architecture not in ARCHITECTURES:
        known = (*ARCHITECTURES, *OTHERS)
        near = difflib.get_close_matches(architecture, known, 3, 0.9) or KNOWN_BEST
        hint = f"refembed converts {', '.join(near)} and others, {len(known)} classes: docs/command-line.md"
        hint = NOT_ALONE.get(architecture, hint)
        raise ModelError(f"{path}: architecture {quote(architecture)}", hint=hint)
    family = ARCHITECTURES[architecture]
    raw = family.defaults | {key: value for key, value in raw.items() if value is not None}
    check_graph(path, family.stem, raw)
    notes += remarks(raw, architecture)
    labels = read_labels(path, raw, classifies="Classification" in architecture)
    if architecture.endswith("ForSequenceClassification"):
        notes.append(HEAD_NOTES[family.stem])
    return Config(folder, architecture, family, raw, labels, notes)


def plan_tensors(config: Config, entries: list[Entry], outtype: str) -> list[Planned]:
    """What becomes of each tensor. ModelError if one is unknown, missing, or not of the size config.json states."""
    sizes, family = config.sizes, config.family
    plan: dict[str, Planned] = {}
    rows = {row[family.column]: row for row in TENSORS if row[family.column]}
    dropped = []
    for entry in entries:
        name = entry.name.removeprefix(family.prefix)
        if (name, config.architecture) == (LINEAR, STANFORD):  # colbert_head.py keeps it
            continue
        if name.startswith(family.dropped):
            dropped.append(entry.name)
            continue
        if not entry.name.endswith(QUANTIZED):
            check_floats(entry, config.folder)
        stem, _, kind = name.rpartition(".")
        kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
        layer = re.match(re.escape(family.layers) + r"(\d+)(\..*)", stem)
        number, stem = (layer[1], "{}" + layer[2]) if layer else ("", stem)
        row = rows.get(stem)
        if row is None or kind not in ("weight", "bias"):
            raise unknown_tensor(entry, config.folder, config.architecture)
        target = row[0].format(number) + "." + kind
        shape = tuple(sizes[letter] for letter in row[1])[: 1 if kind == "bias" else None]
        check_place(entry, shape, target, plan[target].entry if target in plan else None, config.folder)
        plan[target] = Planned(target, entry, stored_type(target, shape, OUTTYPES[outtype][0]))
    check_complete(config, set(plan))
    note_dropped(config.notes, dropped)
    return list(plan.values())


def check_complete(config: Config, found: set[str]) -> None:
    """ModelError where tensors of such a model are missing, or some are there that it does not have."""
    layers, classifies = config.size(config.family.keys["block_count"]), "Classification" in config.architecture
    wanted = set()
    for row in TENSORS:
        if row[config.family.column] and (classifies or not row[0].startswith("cls")):
            blocks = range(layers) if "{}" in row[0] else range(1)
            wanted |= {row[0].format(i) + kind for i in blocks for kind in (".weight", ".bias")}
    wanted -= {name + ".bias" for name in ("token_embd", "token_types", "position_embd")}
    for kind, names in (("missing", wanted - found), ("unexpected", found - wanted)):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            hint = f"{config.architecture} with {layers} layers has {len(wanted)} tensors"
            raise ModelError(f"{config.folder}: {kind} tensors: {listed}", hint=hint)


def add_general(writer: GGUFWriter, folder: Path, name: str | None, plan: list[Planned], arch: str = "bert") -> None:
    """`general.*`: what gguf-py makes of the model card, config.json and the folder's name."""
    import gguf

    count = sum(math.prod(p.entry.shape) for p in plan)
    check_card(folder)
    try:
        card = gguf.Metadata.load(None, folder.resolve(), name, count)
    except Exception as e:  # gguf-py checks nothing, and a model card may hold anything
        raise ModelError(f"{folder}: README.md or config.json: {e}", hint="correct or remove the model card") from None
    card.name = card.name or folder.resolve().name
    routed = [
        p.entry.shape for p in plan if "_exps." in p.name and len(p.entry.shape) > 2
    ]  # (X, ...): one expert of each counts
    one = sum(math.prod(shape[1:]) for shape in routed)
    n_expert = routed[0][0] if routed else 0
    card.size_label = card.size_label or gguf.size_label(count, count - n_expert * one, one, n_expert)
    notes = gguf.GGUFWriter(None, arch)  # never writes: it is the list that set_gguf_meta_model adds to
    notes.add_type(gguf.GGUFType.MODEL)
    card.set_gguf_meta_model(notes)
    for key, item in notes.kv_data[0].items():
        kind = item.type.name if item.sub_type is None else f"ARRAY[{item.sub_type.name}]"
        writer.add(key, item.value, "ARRAY[STRING]" if isinstance(item.value, list) else kind)


def add_parameters(writer: GGUFWriter, config: Config, outtype: str) -> None:
    """`bert.*` and what stands among them."""

    def eps() -> None:
        value = config.raw["layer_norm_eps"]
        if not isinstance(value, float) or not 0 < value < 1:
            found = f"layer_norm_eps is {quote(str(value))}"
            raise ModelError(f"{config.folder / 'config.json'}: {found}", hint="a small number, such as 1e-12")
        writer.add("bert.attention.layer_norm_epsilon", value, "FLOAT32")

    if config.family is DISTILBERT:
        eps()
    for key, word in config.family.keys.items():
        writer.add(f"bert.{key}", config.size(word), "UINT32")
    if config.family is BERT:
        eps()
    writer.add("general.file_type", OUTTYPES[outtype][1], "UINT32")
    writer.add("bert.attention.causal", False, "BOOL")
    width = config.sizes["C"]
    modules = read_modules(config.folder, config.architecture, keeps_dense=False, width=width, notes=config.notes)
    if modules.pooling:
        writer.add("bert.pooling_type", modules.pooling, "UINT32")
    if config.labels:
        writer.add("bert.classifier.output_labels", config.labels, "ARRAY[STRING]")
    writer.add("general.quantization_version", 2, "UINT32")
