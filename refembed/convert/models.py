"""Checkpoints that are no BERT -> GGUF, as the tables of recipes.py say.

Mirrors llama.cpp's conversion/*.py: the same names, keys and values. Some weights are changed on the way, as there:

    Llama     rows of q and k: halves of a head become neighbors, as RoPE's pairs "norm" want them
    Gemma     norms grow by 1, which Gemma's RMS norm adds and llama.cpp's does not
              where scores are scaled by another width than a head's, the norm of queries makes up for it
    RoBERTa   the first rows of the positions go, which no text uses
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.convert.graph import (
    LAYER_KINDS,
    ROPE_DEFAULT,
    THETAS,
    check_graph,
    names_of,
    remarks,
    table_of,
    with_defaults,
)
from refembed.convert.modules import POOLING, RANK, Modules, read_modules
from refembed.convert.planned import OUTTYPES, Planned, note_dropped, read_labels, stored_type
from refembed.convert.recipes import ALWAYS, ARCHITECTURES, RECIPES, Recipe
from refembed.convert.rerank import LABELS, TEMPLATE, answer_ids, is_reranker
from refembed.convert.safetensors import Entry
from refembed.convert.tokenizers import VOCABS
from refembed.convert.weights import check_floats, check_place, open_weights
from refembed.convert.wordpiece import OTHER_SHAPE, read_json
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import quote

LAYERS_27B = 62  # of the one Gemma 3 whose scores llama.cpp scales by C/H

SIZES = {  # GGUF key -> what config.json may call it, in the order of the file
    "block_count": ("num_hidden_layers", "num_layers"),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "d_model"),
    "feed_forward_length": ("intermediate_size", "d_ff"),
    "attention.head_count": ("num_attention_heads", "num_heads"),
    "attention.head_count_kv": ("num_key_value_heads",),
}


@dataclass(frozen=True)
class Config:
    """config.json of a folder, and the recipe of its architecture."""

    folder: Path
    architecture: str  # Hugging Face's name of the class
    recipe: Recipe
    raw: dict[str, Any]  # with the library's defaults
    stem: str  # of RECIPES
    notes: list[str] = field(default_factory=list)  # what the file will lack, a sentence each
    answers: tuple[int, int] | None = None  # ids of "yes" and "no", of a Qwen3 reranker

    @property
    def path(self) -> Path:
        """Of the file, for errors."""
        return self.folder / "config.json"

    def size(self, *names: str, default: int = 0) -> int:
        """The first of these sizes that config.json states: a whole number above zero. 0: it must state one."""
        value = next((self.raw[n] for n in names if self.raw.get(n) is not None), default)
        if type(value) is not int or not 0 < value < 2**31:
            raise ModelError(f"{self.path}: {names[0]} is {quote(str(value))}, not a size", hint="is the file whole?")
        return value

    def number(self, *names: str) -> float | None:
        """The first of these numbers; None where there is none."""
        value = next((self.raw[n] for n in names if self.raw.get(n) is not None), None)
        if value is not None and (type(value) not in (int, float) or not 0 < value < 1e12):
            raise ModelError(f"{self.path}: {names[0]} is {quote(str(value))}", hint="a number above zero")
        return value

    def needed_number(self, name: str) -> float:
        """`number`, which must be there."""
        if (value := self.number(name)) is None:
            raise ModelError(f"{self.path}: no {name}", hint="a number above zero")
        return float(value)

    @property
    def classifies(self) -> bool:
        """Whether there is a head that scores."""
        return self.architecture.endswith("ForSequenceClassification")

    @property
    def gated(self) -> bool:
        """Whether a T5 has a gated feed-forward part."""
        return str(self.raw.get("feed_forward_proj")).startswith("gated")

    @property
    def thetas(self) -> tuple[float | None, float | None]:
        """RoPE's base, of layers that see all and of layers with a window, whichever way config.json spells them."""
        spelled = "rope_parameters" if self.raw.get("rope_parameters") else "rope_scaling"
        found = table_of(self.path, self.raw, spelled)
        parts = [table_of(self.path, found, kind) for kind in LAYER_KINDS]
        usual, usual_local = THETAS.get(self.stem, ROPE_DEFAULT)
        theta = parts[0].get("rope_theta") or found.get("rope_theta") or self.number("global_rope_theta", "rope_theta")
        local = parts[1].get("rope_theta") or self.number("local_rope_theta", "rope_local_base_freq")
        for value in (theta, local):
            if value is not None and (type(value) not in (int, float) or not 0 < value < 1e12):
                raise ModelError(f"{self.path}: rope_theta is {quote(str(value))}", hint="a number above zero")
        return theta or usual, local or usual_local

    @property
    def query_scale(self) -> float:
        """What Gemma's norm of queries is multiplied by: llama.cpp scales scores by the width of a head, and by C/H in
        the model of 62 layers; config.json may ask for another width.
        """
        sizes = self.sizes
        width = sizes["C"] / sizes["H"] if self.size(*SIZES["block_count"]) == LAYERS_27B else sizes["D"]
        asked = self.number("query_pre_attn_scalar") or width
        return 1.0 if abs(asked / width - 1) < 1e-6 else float((width / asked) ** 0.5)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names; () where nothing is classified and nothing is named."""
        return read_labels(self.path, self.raw, classifies=self.classifies)

    @property
    def sizes(self) -> dict[str, int]:
        """The letters of rows."""
        C, H = self.size(*SIZES["embedding_length"]), self.size(*SIZES["attention.head_count"])
        D = self.size("head_dim", "d_kv", default=256 if self.recipe.arch.startswith("gemma") else C // H)
        F, K = self.size(*SIZES["feed_forward_length"]), self.size("num_key_value_heads", default=H)
        P = self.size(*SIZES["context_length"], default=512)
        sizes = {"C": C, "H": H, "D": D, "HD": H * D, "KD": K * D, "F": F, "2F": 2 * F, "3C": 3 * C, "P": P, "K": K}
        sizes |= {"V": self.size("vocab_size"), "types": self.size("type_vocab_size", default=2)}
        sizes |= {"buckets": self.size("relative_attention_num_buckets", default=32), "R": len(self.labels) or 1}
        return sizes

    @property
    def first_position(self) -> int:
        """RoBERTa counts places from here; its tables of positions have as many rows that no text uses."""
        pad = self.raw.get("pad_token_id")
        if type(pad) is not int or not 0 <= pad < self.size("max_position_embeddings") - 1:
            hint = "RoBERTa counts places from it: the first token stands at pad_token_id + 1"
            raise ModelError(f"{self.path}: pad_token_id is {quote(str(pad))}", hint=hint)
        return pad + 1


def knows(folder: Path) -> bool:
    """Whether the folder's architecture is one of these."""
    names = read_json(folder / "config.json", required=True).get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]) in ARCHITECTURES


def prepare(
    folder: Path, outtype: str, notes: list[str], name: str | None
) -> tuple[str, list[Planned], Callable[[GGUFWriter], None]]:
    """`general.architecture`, the tensors to write, and what adds the keys. ModelError for what is not whole."""
    config = read_config(folder, notes, name)
    arch, keeps_dense = config.recipe.arch, "dense" in config.recipe.extras
    width = config.sizes["C"]
    modules = read_modules(
        folder, config.architecture, keeps_dense=keeps_dense, width=width, notes=notes, answers=config.answers
    )
    plan = plan_dense(modules, outtype) + plan_tensors(config, open_weights(folder, notes), outtype)

    def add(writer: GGUFWriter) -> None:
        (add_t5_keys if arch == "t5encoder" else add_keys)(writer, config, modules, outtype)
        writer.add("general.quantization_version", 2, "UINT32")
        try:
            add_tokenizer(writer, config)
        except OTHER_SHAPE as e:
            found = f"{folder}: tokenizer.json or a file next to it is not as `transformers` writes it: {e!r}"
            raise ModelError(found, hint="save the tokenizer again with save_pretrained") from None

    return arch, plan, add


def read_config(folder: Path, notes: list[str], name: str | None) -> Config:
    """config.json, with the library's defaults. ModelError for another graph than llama.cpp's."""
    path = folder / "config.json"
    raw = read_json(path, required=True)
    architecture = str(raw["architectures"][0])
    stem = ARCHITECTURES[architecture]
    check_graph(path, stem, raw, classifies=architecture.endswith("ForSequenceClassification"))
    notes += remarks(raw, architecture)
    if "pad_token_id" in raw and raw["pad_token_id"] is None and RECIPES[stem].arch == "bert":
        raise ModelError(f"{path}: pad_token_id is null", hint="RoBERTa counts places from it")
    answers = answer_ids(folder, notes) if stem == "Qwen3" and is_reranker(folder, raw, name) else None
    config = Config(folder, architecture, RECIPES[stem], with_defaults(stem, raw), stem, notes, answers)
    if stem == "T5Encoder":
        notes.append(
            "tokens look back only, as llama.cpp runs T5's encoder; `--semantics original` lets them see the whole "
            "text, as published (docs/differences.md)"
        )
    if stem.startswith("Gemma3") and config.query_scale != 1:
        notes.append(
            f"query_pre_attn_scalar is {config.raw['query_pre_attn_scalar']}, and llama.cpp scales scores by the width "
            f"of a head: attn_q_norm is multiplied by {config.query_scale:.6g} to make up for it"
        )
    return config


def plan_dense(modules: Modules, outtype: str) -> list[Planned]:
    """The matrices behind pooling, which stand first."""
    kind = OUTTYPES[outtype][0]
    return [Planned(f"{d.name}.weight", d.entry, stored_type(d.name, d.entry.shape, kind)) for d in modules.dense]


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
        row = rows.get(stem)
        if row is None or kind not in ("weight", "bias"):
            hint = f"{config.architecture} has none of that name that refembed knows"
            raise ModelError(f"{config.folder}: tensor {quote(entry.name)}", hint=hint)
        target, letters = f"{row[0].format(number)}.{kind}", row[1].split()
        stored = tuple(sizes[x] for x in letters)[: 1 if kind == "bias" else None]
        check_place(entry, stored, target, plan[target].entry if target in plan else None, config.folder)
        if config.answers and row[0] == ("token_embd" if config.raw.get("tie_word_embeddings") else "output"):
            answers = with_change(entry, (2, stored[1]), "yes and no", config)
            plan["cls.output.weight"] = planned("cls.output.weight", answers, outtype)
            if row[0] == "output":
                continue
        if row[3] in CHANGES:
            offset = config.first_position if row[3] == "used-positions" else 0
            entry = with_change(entry, (stored[0] - offset, *stored[1:]), row[3], config)
        plan[target] = planned(target, entry, outtype)
    check_complete(config, set(plan))
    note_dropped(config.notes, dropped)
    return list(plan.values())


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
        if name.startswith(unneeded) or name.endswith(".rotary_emb.inv_freq") or (tied and name == "lm_head.weight"):
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


def check_complete(config: Config, found: set[str]) -> None:
    """ModelError where weights of such a model are missing, or some are there that it does not have."""
    n = config.size(*SIZES["block_count"])
    wanted, allowed = set(), set()
    for name, _, _, where in config.recipe.rows:
        layers = {"first": range(1), "rest": range(1, n)}.get(where, range(n)) if "{}" in name else range(1)
        bias = config.recipe.biases.get(name.rsplit(".", 1)[-1], "")
        kinds = [".weight"] + [".bias"] * (bias == ALWAYS or config.raw.get(bias) is True)
        names = {name.format(i) + kind for i in layers for kind in kinds}
        if not (where == "gated" and not config.gated) and not (where == "head" and not config.classifies):
            allowed |= names
            wanted |= names if where != "?" else set()
    if config.answers:
        wanted.add("cls.output.weight")
    for kind, names in (("missing", wanted - found), ("unexpected", found - wanted - allowed)):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ModelError(f"{config.folder}: {kind} tensors: {listed}", hint=f"config.json says {n} layers")


def add_keys(writer: GGUFWriter, config: Config, modules: Modules, outtype: str) -> None:
    """`{arch}.*`, in the order of llama.cpp's converter."""
    arch = config.recipe.arch
    theta, theta_swa = (None, None) if arch == "bert" else config.thetas
    for key, names in SIZES.items():
        if key != "attention.head_count_kv" or any(config.raw.get(n) is not None for n in names):
            offset = config.first_position if arch == "bert" and key == "context_length" else 0
            writer.add(f"{arch}.{key}", config.size(*names) - offset, "UINT32")
    if config.raw.get("is_causal") is False:
        writer.add(f"{arch}.attention.causal", False, "BOOL")
    for key, value in (
        ("rope.freq_base", theta),
        ("rope.freq_base_swa", theta_swa),
        ("attention.layer_norm_rms_epsilon", config.number("rms_norm_eps", "norm_eps")),
        ("attention.layer_norm_epsilon", config.number("layer_norm_eps", *(["norm_eps"] * (arch == "modern-bert")))),
    ):
        if value is not None:
            writer.add(f"{arch}.{key}", float(value), "FLOAT32")
    if config.raw.get("head_dim") is not None:
        add_head_width(writer, config)
    writer.add("general.file_type", OUTTYPES[outtype][1], "UINT32")
    for extra in config.recipe.extras:
        (add_modules(writer, config, modules, extra) if extra in MODULES else EXTRAS[extra](writer, config))


def add_t5_keys(writer: GGUFWriter, config: Config, modules: Modules, outtype: str) -> None:
    """The same for T5, whose converter asks for them in another order. attention.causal is not among them."""
    arch, eps = config.recipe.arch, config.number("layer_norm_epsilon")
    writer.add(f"{arch}.context_length", config.sizes["P"], "UINT32")
    for key in ("embedding_length", "feed_forward_length", "block_count", "attention.head_count"):
        writer.add(f"{arch}.{key}", config.size(*SIZES[key]), "UINT32")
    add_head_width(writer, config)
    writer.add(f"{arch}.attention.layer_norm_epsilon", eps or 1e-6, "FLOAT32")
    writer.add(f"{arch}.attention.relative_buckets_count", config.sizes["buckets"], "UINT32")
    writer.add(f"{arch}.attention.layer_norm_rms_epsilon", eps or 1e-6, "FLOAT32")
    writer.add("general.file_type", OUTTYPES[outtype][1], "UINT32")
    add_modules(writer, config, modules, "pooling")  # which llama.cpp's converter leaves out, and llama.cpp reads


def add_head_width(writer: GGUFWriter, config: Config) -> None:
    """The width of a head of keys, and of values."""
    for part in ("key", "value"):
        writer.add(f"{config.recipe.arch}.attention.{part}_length", config.sizes["D"], "UINT32")


def add_default_width(writer: GGUFWriter, config: Config) -> None:
    """The same where config.json is silent: Gemma's 256."""
    if config.raw.get("head_dim") is None:
        add_head_width(writer, config)


MODULES = ("pooling", "dense")


def add_modules(writer: GGUFWriter, config: Config, modules: Modules, what: str) -> None:
    """What modules.json says, and what a classifier of ModernBERT stands on."""
    arch = config.recipe.arch
    if what == "dense":
        for dense in modules.dense:
            for part, size in zip(("in", "out"), reversed(dense.entry.shape), strict=True):
                writer.add(f"{arch}.{dense.name}_feat_{part}", size, "UINT32")
        return
    if modules.pooling and not config.answers:
        writer.add(f"{arch}.pooling_type", modules.pooling, "UINT32")
    if under := POOLING.get(str(config.raw.get("classifier_pooling"))):
        writer.add(f"{arch}.classifier.pooling_type", under, "UINT32")


def add_labels(writer: GGUFWriter, config: Config) -> None:
    """What a classifier's outputs stand for."""
    if config.labels:
        writer.add(f"{config.recipe.arch}.classifier.output_labels", config.labels, "ARRAY[STRING]")


def add_rerank(writer: GGUFWriter, config: Config) -> None:
    """What makes a Qwen3 a reranker: two labels, and the words around a query and a document."""
    if config.answers:
        writer.add("qwen3.pooling_type", RANK, "UINT32")
        writer.add("qwen3.classifier.output_labels", LABELS, "ARRAY[STRING]")
        writer.add("tokenizer.chat_template.rerank", TEMPLATE, "STRING")
        writer.add("tokenizer.chat_templates", ["rerank"], "ARRAY[STRING]")


def add_local_window(writer: GGUFWriter, config: Config) -> None:
    """ModernBERT's window, and how often a layer has none."""
    writer.add("modern-bert.attention.sliding_window", config.size("local_attention", default=128), "UINT32")
    kinds = names_of(config.path, config.raw, "layer_types")
    every = config.raw.get("global_attn_every_n_layers")
    if every is None and kinds is not None:
        dense = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
        every = dense[1] if len(dense) > 1 else len(kinds)
        if dense != list(range(0, len(kinds), every)):
            raise ModelError(f"{config.path}: layer_types follow no period", hint="GGUF keeps a period alone")
        every = None if every == 3 else every  # which llama.cpp takes for granted
    if every is not None:
        writer.add("modern-bert.attention.sliding_window_pattern", every, "UINT32")


def key(name: str, kind: str, value: Callable[[Config], Any]) -> Callable[[GGUFWriter, Config], None]:
    """What adds one key."""
    return lambda writer, config: writer.add(f"{config.recipe.arch}.{name}", value(config), kind)


EXTRAS: dict[str, Callable[[GGUFWriter, Config], None]] = {
    "causal": key("attention.causal", "BOOL", lambda c: False),
    "labels": add_labels,
    "rerank": add_rerank,
    "local-window": add_local_window,
    "gemma": add_default_width,
    "window": key("attention.sliding_window", "UINT32", lambda c: c.size("sliding_window")),
    "logit-scale": key("logit_scale", "FLOAT32", lambda c: c.needed_number("logit_scale")),
    "unscaled": key("rope.scaling.type", "STRING", lambda c: "none"),
    "vocab": key("vocab_size", "UINT32", lambda c: c.size("vocab_size")),
    "rope-dims": key("rope.dimension_count", "UINT32", lambda c: c.sizes["D"]),
    "activation": key("hidden_activation", "STRING", lambda c: str(c.raw.get("hidden_activation") or "gelu")),
}


def add_tokenizer(writer: GGUFWriter, config: Config) -> None:
    """`tokenizer.ggml.*`."""
    for name, flag in config.recipe.tokenizer.items():
        writer.add(f"tokenizer.ggml.{name}", flag, "BOOL")
    for kind in config.recipe.vocabs:
        if VOCABS[kind].there(config.folder):
            VOCABS[kind].add(writer, config.folder, config.sizes["V"], config.recipe.pre)
            break
    else:
        files = " or ".join(name for kind in config.recipe.vocabs for name in VOCABS[kind].files)
        hint = "is the folder whole?"
        if (config.folder / "vocab.json").is_file() and (config.folder / "merges.txt").is_file():
            hint = (
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of `transformers` writes tokenizer.json"
            )
        raise ModelError(f"{config.folder}: no {files}", hint=hint)
    if config.recipe.arch == "bert":
        writer.add("tokenizer.ggml.token_type_count", config.sizes["types"], "UINT32")
