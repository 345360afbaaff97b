"""Architectures that `convert` knows beside BERT, as tables: decoders, ModernBERT, EuroBERT, RoBERTa, T5's encoder.

Mirrors llama.cpp's conversion/*.py: the same names, keys and values. Some weights are changed on the way, as there:

    Llama     rows of q and k: halves of a head become neighbours, as RoPE's pairs "norm" want them
    Gemma     norms grow by 1, which Gemma's RMS norm adds and llama.cpp's does not
    RoBERTa   the first rows of the positions go, which no text uses
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.convert import OUTTYPES, POOLING, Planned, open_weights, read_pooling, stored_type
from refembed.convert_tokenizers import VOCABS
from refembed.convert_vocab import read_json
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import shown
from refembed.safetensors import Entry

Row: TypeAlias = (
    "tuple[str, str, str, str]"  # GGUF name, shape, Hugging Face's name, words of CHANGES and "?": optional
)


@dataclass(frozen=True)
class Recipe:
    """How the checkpoints of an architecture become a file."""

    arch: str  # general.architecture
    rows: tuple[Row, ...]
    layers: str = "layers."  # names of layers begin so
    prefixes: tuple[str, ...] = ("model.",)
    dropped: tuple[str, ...] = ()
    vocabs: tuple[str, ...] = ("bpe",)  # of convert_tokenizers.VOCABS, the first that the folder has files for
    pre: str = ""  # tokenizer.ggml.pre where the tokenizer cuts as GPT-2 does
    extras: tuple[str, ...] = ()  # of EXTRAS, in order
    tokenizer: dict[str, Any] = field(default_factory=dict)  # tokenizer.ggml.* that stand first


NORMS: tuple[Row, ...] = (
    ("blk.{}.attn_norm", "C", "{}.input_layernorm", ""),
    ("blk.{}.ffn_norm", "C", "{}.post_attention_layernorm", ""),
)
DECODER: tuple[Row, ...] = (
    ("token_embd", "V C", "embed_tokens", ""),
    ("output_norm", "C", "norm", ""),
    ("blk.{}.attn_q", "HD C", "{}.self_attn.q_proj", ""),
    ("blk.{}.attn_k", "KD C", "{}.self_attn.k_proj", ""),
    ("blk.{}.attn_v", "KD C", "{}.self_attn.v_proj", ""),
    ("blk.{}.attn_output", "C HD", "{}.self_attn.o_proj", ""),
    ("blk.{}.ffn_gate", "F C", "{}.mlp.gate_proj", ""),
    ("blk.{}.ffn_up", "F C", "{}.mlp.up_proj", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.down_proj", ""),
)
HEAD: tuple[Row, ...] = (("output", "V C", "lm_head", "?"),)
HEAD_NORMS: tuple[Row, ...] = (
    ("blk.{}.attn_q_norm", "D", "{}.self_attn.q_norm", ""),
    ("blk.{}.attn_k_norm", "D", "{}.self_attn.k_norm", ""),
)
GEMMA_NORMS: tuple[Row, ...] = (
    ("blk.{}.attn_norm", "C", "{}.input_layernorm", ""),
    ("blk.{}.post_attention_norm", "C", "{}.post_attention_layernorm", ""),
    ("blk.{}.ffn_norm", "C", "{}.pre_feedforward_layernorm", ""),
    ("blk.{}.post_ffw_norm", "C", "{}.post_feedforward_layernorm", ""),
)


def changed(rows: tuple[Row, ...], **changes: str) -> tuple[Row, ...]:
    """Rows with a change for some, by the last part of their GGUF name."""
    return tuple((a, shape, b, changes.get(a.rsplit(".", 1)[-1], how)) for a, shape, b, how in rows)


LLAMA = changed(DECODER, attn_q="turn-q", attn_k="turn-k") + NORMS + HEAD
GEMMA = tuple((a, s, b, "+1" if a.endswith("norm") else how) for a, s, b, how in DECODER + HEAD_NORMS + GEMMA_NORMS)
GEMMA = changed(GEMMA, token_embd="known-tokens")
MODERN_BERT: tuple[Row, ...] = (
    ("token_embd", "V C", "embeddings.tok_embeddings", ""),
    ("token_embd_norm", "C", "embeddings.norm", ""),
    ("output_norm", "C", "final_norm", ""),
    ("blk.{}.attn_norm", "C", "{}.attn_norm", "?"),  # layer 0 has none
    ("blk.{}.attn_qkv", "3C C", "{}.attn.Wqkv", ""),
    ("blk.{}.attn_output", "C C", "{}.attn.Wo", ""),
    ("blk.{}.ffn_norm", "C", "{}.mlp_norm", ""),
    ("blk.{}.ffn_up", "2F C", "{}.mlp.Wi", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.Wo", ""),
)
ROBERTA: tuple[Row, ...] = (
    ("token_embd", "V C", "embeddings.word_embeddings", ""),
    ("token_types", "types C", "embeddings.token_type_embeddings", ""),
    ("position_embd", "P C", "embeddings.position_embeddings", "used-positions"),
    ("token_embd_norm", "C", "embeddings.LayerNorm", ""),
    ("blk.{}.attn_q", "C C", "{}.attention.self.query", ""),
    ("blk.{}.attn_k", "C C", "{}.attention.self.key", ""),
    ("blk.{}.attn_v", "C C", "{}.attention.self.value", ""),
    ("blk.{}.attn_output", "C C", "{}.attention.output.dense", ""),
    ("blk.{}.attn_output_norm", "C", "{}.attention.output.LayerNorm", ""),
    ("blk.{}.ffn_up", "F C", "{}.intermediate.dense", ""),
    ("blk.{}.ffn_down", "C F", "{}.output.dense", ""),
    ("blk.{}.layer_output_norm", "C", "{}.output.LayerNorm", ""),
    ("cls", "C C", "classifier.dense", "?"),
    ("cls.output", "R C", "classifier.out_proj", "?"),
)
T5: tuple[Row, ...] = (
    ("token_embd", "V C", "shared", ""),
    ("enc.output_norm", "C", "encoder.final_layer_norm", ""),
    ("enc.blk.{}.attn_norm", "C", "{}.layer.0.layer_norm", ""),
    ("enc.blk.{}.attn_rel_b", "buckets H", "{}.layer.0.SelfAttention.relative_attention_bias", "?"),  # layer 0's
    ("enc.blk.{}.attn_q", "HD C", "{}.layer.0.SelfAttention.q", ""),
    ("enc.blk.{}.attn_k", "HD C", "{}.layer.0.SelfAttention.k", ""),
    ("enc.blk.{}.attn_v", "HD C", "{}.layer.0.SelfAttention.v", ""),
    ("enc.blk.{}.attn_o", "C HD", "{}.layer.0.SelfAttention.o", ""),
    ("enc.blk.{}.ffn_norm", "C", "{}.layer.1.layer_norm", ""),
    ("enc.blk.{}.ffn_gate", "F C", "{}.layer.1.DenseReluDense.wi_0", "?"),
    ("enc.blk.{}.ffn_up", "F C", "{}.layer.1.DenseReluDense.wi|wi_1", ""),
    ("enc.blk.{}.ffn_down", "C F", "{}.layer.1.DenseReluDense.wo", ""),
)

ENCODER = ("causal", "pooling")
BERT_DROPPED = ("embeddings.position_ids", "pooler.dense.", "lm_head.", "head.", "decoder.")
RECIPES: dict[str, Recipe] = {
    "Qwen2": Recipe("qwen2", DECODER + NORMS + HEAD, extras=("pooling",)),
    "Qwen3": Recipe("qwen3", DECODER + HEAD_NORMS + NORMS + HEAD, extras=("pooling",)),
    "Llama": Recipe("llama", LLAMA, vocabs=("spm", "bpe"), extras=("vocab", "rope-dims")),
    "Gemma3Text": Recipe("gemma-embedding", GEMMA, vocabs=("gemma", "bpe"), extras=("gemma", "window", "pooling")),
    "Gemma3": Recipe("gemma3", GEMMA, dropped=("lm_head.",), vocabs=("gemma", "bpe"), extras=("gemma", "window")),
    "EuroBert": Recipe("eurobert", DECODER + NORMS, dropped=("lm_head.",), tokenizer={"add_bos_token": False},
                       extras=("causal", "unscaled", "pooling")),
    "ModernBert": Recipe("modern-bert", MODERN_BERT, dropped=("head.", "decoder."), pre="modern-bert",
                         tokenizer={"add_bos_token": True, "add_eos_token": True, "add_sep_token": True},
                         extras=(*ENCODER, "local-window", "unscaled", "vocab", "activation")),
    "Roberta": Recipe("bert", ROBERTA, "encoder.layer.", ("roberta.",), BERT_DROPPED, pre="roberta-bpe",
                      extras=(*ENCODER, "labels")),
    "XLMRoberta": Recipe("bert", ROBERTA, "encoder.layer.", ("roberta.",), BERT_DROPPED, ("unigram", "xlm-roberta"),
                         extras=(*ENCODER, "labels")),
    "T5Encoder": Recipe("t5encoder", T5, "encoder.block.", (), ("encoder.embed_tokens.",), ("spiece", "unigram")),
}  # fmt: skip
CLASSES = {
    "Qwen2": ("Model", "ForCausalLM"), "Qwen3": ("Model", "ForCausalLM"), "Llama": ("Model", "ForCausalLM"),
    "Gemma3Text": ("Model",), "Gemma3": ("ForCausalLM",), "EuroBert": ("Model",),
    "ModernBert": ("Model", "ForMaskedLM"), "Roberta": ("Model", "ForSequenceClassification"),
    "XLMRoberta": ("Model", "ForSequenceClassification"), "T5Encoder": ("Model",),
}  # fmt: skip
ARCHITECTURES = {stem + end: stem for stem, ends in CLASSES.items() for end in ends}

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
    raw: dict[str, Any]

    @property
    def path(self) -> Path:
        """Of the file, for errors."""
        return self.folder / "config.json"

    def size(self, *names: str, default: int = 0) -> int:
        """The first of these sizes that config.json states: a whole number above zero. 0: it must state one."""
        value = next((self.raw[n] for n in names if self.raw.get(n) is not None), default)
        if type(value) is not int or not 0 < value < 2**31:
            raise ModelError(f"{self.path}: {names[0]} is {shown(str(value))}, not a size", hint="is the file whole?")
        return value

    def number(self, *names: str) -> float | None:
        """The first of these numbers; None where there is none."""
        value = next((self.raw[n] for n in names if self.raw.get(n) is not None), None)
        if value is not None and (type(value) not in (int, float) or not 0 < value < 1e12):
            raise ModelError(f"{self.path}: {names[0]} is {shown(str(value))}", hint="a number above zero")
        return value

    @property
    def rope(self) -> dict[str, Any]:
        """RoPE's settings of layers that see all, whichever way config.json spells them."""
        found = self.raw.get("rope_parameters") or self.raw.get("rope_scaling") or {}
        found = found.get("full_attention") or found if isinstance(found, dict) else found
        if not isinstance(found, dict) or not isinstance(self.raw.get("rope_parameters") or {}, dict):
            raise ModelError(f"{self.path}: rope_parameters is {shown(str(found))}", hint="is the file whole?")
        theta = self.number("global_rope_theta", "rope_theta")
        return {"rope_theta": theta, "rope_type": found.get("type", "default")} | found

    @property
    def sizes(self) -> dict[str, int]:
        """The letters of rows."""
        C, H = self.size(*SIZES["embedding_length"]), self.size(*SIZES["attention.head_count"])
        D = self.size("head_dim", "d_kv", default=256 if self.recipe.arch.startswith("gemma") else C // H)
        F, K = self.size(*SIZES["feed_forward_length"]), self.size("num_key_value_heads", default=H)
        P = self.size(*SIZES["context_length"], default=512)
        sizes = {"C": C, "H": H, "D": D, "HD": H * D, "KD": K * D, "F": F, "2F": 2 * F, "3C": 3 * C, "P": P, "K": K}
        sizes |= {"V": self.size("vocab_size"), "types": self.size("type_vocab_size", default=2)}
        sizes |= {"buckets": self.size("relative_attention_num_buckets", default=32), "R": len(labels(self.raw)) or 1}
        return sizes

    @property
    def first_position(self) -> int:
        """RoBERTa counts places from here; its tables of positions have as many rows that no text uses."""
        pad = self.raw.get("pad_token_id")
        return pad + 1 if type(pad) is int and pad >= 0 else 0


def knows(folder: Path) -> bool:
    """Whether the folder's architecture is one of these."""
    names = read_json(folder / "config.json", required=True).get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]) in ARCHITECTURES


def prepare(folder: Path, outtype: str) -> tuple[str, list[Planned], Callable[[GGUFWriter], None]]:
    """`general.architecture`, the tensors to write, and what adds the keys. ModelError for what is not whole."""
    raw = read_json(folder / "config.json", required=True)
    architecture = str(raw["architectures"][0])
    config = Config(folder, architecture, RECIPES[ARCHITECTURES[architecture]], raw)
    check(config)
    plan = plan_tensors(config, open_weights(folder), outtype)

    def add(writer: GGUFWriter) -> None:
        (add_t5_keys if config.recipe.arch == "t5encoder" else add_keys)(writer, config, outtype)
        writer.add("general.quantization_version", 2, "UINT32")
        try:
            add_tokenizer(writer, config)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as e:  # JSON of another shape
            found = f"{folder}: tokenizer.json or a file beside it is not as `transformers` writes it: {e!r}"
            raise ModelError(found, hint="save the tokenizer again with save_pretrained") from None

    return config.recipe.arch, plan, add


def check(config: Config) -> None:
    """Refuse what llama.cpp's graph of the architecture does not compute."""
    scaled = config.rope["rope_type"]
    if scaled not in ("default", None):
        hint = "refembed converts models without RoPE scaling; llama.cpp's converter takes more"
        raise ModelError(f"{config.path}: rope_type is {shown(str(scaled))}", hint=hint)
    layers = config.raw.get("layer_types")
    if config.recipe.arch in ("gemma3", "gemma-embedding") and isinstance(layers, list):
        wanted = ["full_attention" if il % 6 == 5 else "sliding_attention" for il in range(len(layers))]
        if layers != wanted:
            hint = "llama.cpp gives every sixth layer no window, and its converter writes nothing else"
            raise ModelError(f"{config.path}: layer_types are not those of Gemma 3", hint=hint)


Change: TypeAlias = "Callable[[Any, Config], Any]"


def turned(x: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of q or k: channel i and i + D/2 of each head become neighbours."""
    return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


CHANGES: dict[str, Change] = {
    "turn-q": lambda x, c: turned(x, c.sizes["H"]),
    "turn-k": lambda x, c: turned(x, c.sizes["K"]),
    "+1": lambda x, c: x + x.dtype.type(1),
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
    recipe, sizes = config.recipe, config.sizes
    rows = {name: row for row in recipe.rows for name in spellings(row[2])}
    plan: dict[str, Planned] = {}
    tied = config.raw.get("tie_word_embeddings", False)
    for entry in entries:
        name = next((entry.name.removeprefix(p) for p in recipe.prefixes if entry.name.startswith(p)), entry.name)
        if name.startswith(recipe.dropped) or (tied and name == "lm_head.weight"):
            continue
        stem, _, kind = name.rpartition(".")
        layer = re.match(re.escape(recipe.layers) + r"(\d+)(\..*)", stem)
        number, stem = (layer[1], "{}" + layer[2]) if layer else ("", stem)
        row = rows.get(stem)
        if row is None or kind not in ("weight", "bias"):
            hint = f"{config.architecture} has none of that name that refembed knows"
            raise ModelError(f"{config.folder}: tensor {shown(entry.name)}", hint=hint)
        target, letters = f"{row[0].format(number)}.{kind}", row[1].split()
        shape = tuple(sizes[x] for x in letters)[: 1 if kind == "bias" else None]
        offset = config.first_position if row[3] == "used-positions" else 0
        stored = (shape[0], *shape[1:])
        shape = (shape[0] - offset, *shape[1:])
        if entry.shape != stored:
            found = f"tensor {shown(entry.name)} is {list(entry.shape)}, config.json says {list(stored)}"
            raise ModelError(f"{config.folder}: {found}", hint="are these files of one model?")
        if row[3] in CHANGES:
            entry = with_change(entry, shape, row[3], config)
        plan[target] = Planned(target, entry, stored_type(target, shape, OUTTYPES[outtype][0]))
    check_complete(config, set(plan))
    return list(plan.values())


def with_change(entry: Entry, shape: tuple[int, ...], how: str, config: Config) -> Entry:
    """The entry, changed."""
    whole = entry.shape
    return Changed(entry.name, entry.dtype, shape, entry.raw, lambda x: CHANGES[how](x.reshape(whole), config))


def spellings(name: str) -> list[str]:
    """`a.wi|wi_1` is `a.wi` or `a.wi_1`."""
    stem, dot, last = name.rpartition(".")
    return [stem + dot + part for part in last.split("|")]


def check_complete(config: Config, found: set[str]) -> None:
    """ModelError where weights of such a model are missing."""
    n = config.size(*SIZES["block_count"])
    wanted = [a.format(i) + ".weight" for a, _, _, how in config.recipe.rows if how != "?"
              for i in (range(n) if "{}" in a else range(1))]  # fmt: skip
    missing = [name for name in wanted if name not in found]
    beyond = [name for name in found if (m := re.match(r"(?:enc\.)?blk\.(\d+)\.", name)) and int(m[1]) >= n]
    for kind, names in (("missing", missing), ("unexpected", sorted(beyond))):
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ModelError(f"{config.folder}: {kind} tensors: {listed}", hint=f"config.json says {n} layers")


def labels(raw: dict[str, Any]) -> tuple[str, ...]:
    """A classifier's labels by number; () where `transformers` made them up."""
    named = raw.get("id2label")
    if not isinstance(named, dict) or not all(str(i).isdigit() for i in named):
        return ()
    ordered = tuple(str(named[i]) for i in sorted(named, key=int))
    return () if len(ordered) == 2 and ordered[0] == "LABEL_0" else ordered


def add_keys(writer: GGUFWriter, config: Config, outtype: str) -> None:
    """`{arch}.*`, in the order of llama.cpp's converter."""
    arch, rope = config.recipe.arch, config.rope
    swa = (config.raw.get("rope_parameters") or {}).get("sliding_attention") or {}
    for key, names in SIZES.items():
        if key != "attention.head_count_kv" or any(config.raw.get(n) is not None for n in names):
            offset = config.first_position if arch == "bert" and key == "context_length" else 0
            writer.add(f"{arch}.{key}", config.size(*names) - offset, "UINT32")
    if config.raw.get("is_causal") is False:
        writer.add(f"{arch}.attention.causal", False, "BOOL")
    for key, value in (
        ("rope.freq_base", rope.get("rope_theta")),
        ("rope.freq_base_swa", swa.get("rope_theta") or config.number("local_rope_theta", "rope_local_base_freq")),
        ("attention.layer_norm_rms_epsilon", config.number("rms_norm_eps", "norm_eps")),
        ("attention.layer_norm_epsilon", config.number("layer_norm_eps", *(["norm_eps"] * (arch == "modern-bert")))),
    ):
        if value is not None:
            writer.add(f"{arch}.{key}", float(value), "FLOAT32")
    if config.raw.get("head_dim") is not None:
        add_head_width(writer, config)
    writer.add("general.file_type", OUTTYPES[outtype][1], "UINT32")
    for extra in config.recipe.extras:
        EXTRAS[extra](writer, config)


def add_t5_keys(writer: GGUFWriter, config: Config, outtype: str) -> None:
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


def add_head_width(writer: GGUFWriter, config: Config) -> None:
    """The width of a head of keys, and of values."""
    for part in ("key", "value"):
        writer.add(f"{config.recipe.arch}.attention.{part}_length", config.sizes["D"], "UINT32")


def add_default_width(writer: GGUFWriter, config: Config) -> None:
    """The same where config.json is silent: Gemma's 256."""
    if config.raw.get("head_dim") is None:
        add_head_width(writer, config)


def add_pooling(writer: GGUFWriter, config: Config) -> None:
    """What 1_Pooling says, and what a classifier of ModernBERT stands on."""
    if pooling := read_pooling(config.folder):
        writer.add(f"{config.recipe.arch}.pooling_type", pooling, "UINT32")
    if under := POOLING.get(str(config.raw.get("classifier_pooling"))):
        writer.add(f"{config.recipe.arch}.classifier.pooling_type", under, "UINT32")


def add_labels(writer: GGUFWriter, config: Config) -> None:
    """What a classifier's outputs stand for."""
    if "Classification" in config.architecture and (found := labels(config.raw)):
        writer.add(f"{config.recipe.arch}.classifier.output_labels", found, "ARRAY[STRING]")


def add_local_window(writer: GGUFWriter, config: Config) -> None:
    """ModernBERT's window, and how often a layer has none."""
    writer.add("modern-bert.attention.sliding_window", config.size("local_attention", default=128), "UINT32")
    kinds = config.raw.get("layer_types")
    every = config.raw.get("global_attn_every_n_layers")
    if every is None and isinstance(kinds, list):
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
    "pooling": add_pooling,
    "labels": add_labels,
    "local-window": add_local_window,
    "gemma": add_default_width,
    "window": key("attention.sliding_window", "UINT32", lambda c: c.size("sliding_window")),
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
