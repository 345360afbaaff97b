"""Checkpoints that are no BERT -> GGUF, as the tables of recipes.py say.

Mirrors llama.cpp's conversion/*.py: the same names, keys and values. Some weights are changed on the way, as there:

    Llama     rows of q and k: halves of a head become neighbors, as RoPE's pairs "norm" want them
    Gemma     norms grow by 1, which Gemma's RMS norm adds and llama.cpp's does not
              where scores are scaled by another width than a head's, the norm of queries makes up for it
    RoBERTa   the first rows of the positions go, which no text uses
    GPT-2     matrices stand columns first
    NeoX      queries of all heads come first, then keys, then values, not head by head; BLOOM's and Falcon's, too
    experts   the matrices of all experts of a layer become one tensor
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from refembed.convert.config import SIZES, Config
from refembed.convert.families import ARCHITECTURES, CHECKPOINTS, RECIPES, stem_of
from refembed.convert.graph import check_graph, names_of, remarks, with_defaults
from refembed.convert.modules import POOLING, RANK, Modules, read_modules
from refembed.convert.mxfp4 import MXFP4_FILE, is_packed
from refembed.convert.planned import OUTTYPES, Planned, stored_type
from refembed.convert.recipes import NESTED, Key
from refembed.convert.rerank import LABELS, TEMPLATE, answer_ids, is_reranker
from refembed.convert.rope import long_magnitude, plan_rope
from refembed.convert.scaling import remarks_on, scaling_keys, table_of
from refembed.convert.tensors import plan_tensors
from refembed.convert.tokenizers import VOCABS
from refembed.convert.weights import open_weights
from refembed.convert.wordpiece import OTHER_SHAPE, is_wordpiece, read_json
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter


def knows(folder: Path) -> bool:
    """Whether the folder's architecture is one of these."""
    names = read_json(folder / "config.json", required=True).get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]) in ARCHITECTURES


def prepare(
    folder: Path, outtype: str, notes: list[str], name: str | None
) -> tuple[str, list[Planned], Callable[[GGUFWriter], None]]:
    """`general.architecture`, the tensors to write, and what adds the keys. ModelError for what is not whole."""
    config = read_config(folder, notes, name)
    config = replace(config, file_type=MXFP4_FILE if is_packed(config) else OUTTYPES[outtype][1])
    arch, keeps_dense = config.recipe.arch, "dense" in config.recipe.extras
    width = config.sizes["C"]
    modules = read_modules(
        folder, config.architecture, keeps_dense=keeps_dense, width=width, notes=notes, answers=config.answers,
        own=OWN_MODULES if config.recipe.parametrized else (),
    )  # fmt: skip
    plan = plan_dense(modules, outtype) + plan_rope(config)
    plan += config.recipe.made(config) if config.recipe.made else []
    plan += plan_tensors(config, open_weights(folder, notes), outtype)

    def add(writer: GGUFWriter) -> None:
        (add_t5_keys if arch == "t5encoder" else add_keys)(writer, config, modules)
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
    stem = stem_of(architecture, raw)
    if stem in NESTED or (stem in CHECKPOINTS and CHECKPOINTS[stem].nested):
        raw = raw | table_of(path, raw, "text_config")
    if stem in CHECKPOINTS and (instead := CHECKPOINTS[stem].instead):
        stem = instead(raw)
    check_graph(path, stem, raw, classifies=architecture.endswith("ForSequenceClassification"))
    notes += remarks(raw, architecture)
    if stem in CHECKPOINTS and CHECKPOINTS[stem].remark and raw.get("is_causal") is not False:
        notes.append(CHECKPOINTS[stem].remark)
    if "pad_token_id" in raw and raw["pad_token_id"] is None and RECIPES[stem].arch in SHIFTED:
        raise ModelError(f"{path}: pad_token_id is null", hint="RoBERTa counts places from it")
    answers = answer_ids(folder, notes) if stem in RERANKERS and is_reranker(folder, raw, name) else None
    config = Config(folder, architecture, RECIPES[stem], with_defaults(stem, raw), stem, notes, answers)
    notes += remarks_on(config)
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
    names = [f"{dense.name}.weight" for dense in modules.dense]
    return [
        Planned(name, dense.entry, stored_type(name, dense.entry.shape, kind))
        for name, dense in zip(names, modules.dense, strict=True)
    ]


def add_keys(writer: GGUFWriter, config: Config, modules: Modules) -> None:
    """`{arch}.*`, in the order of llama.cpp's converter."""
    if (length := long_magnitude(config)) is not None:
        writer.add(f"{config.recipe.arch}.rope.scaling.attn_factor", length, "FLOAT32")
    if config.recipe.keys:
        add_own(writer, config, config.recipe.keys)
    else:
        add_usual(writer, config)
    add_own(writer, config, config.recipe.more_keys)
    for extra in config.recipe.extras:
        (add_modules(writer, config, modules, extra) if extra in MODULES else EXTRAS[extra](writer, config))
    if config.stem in CHECKPOINTS and "pooling" not in config.recipe.extras:
        add_modules(writer, config, modules, "pooling")  # which llama.cpp's converter leaves out, and llama.cpp reads


def add_own(writer: GGUFWriter, config: Config, keys: tuple[Key, ...]) -> None:
    """Keys of one architecture. A later value takes the place of an earlier one, as in gguf-py."""
    for name, kind, value in keys:
        if (found := value(config)) is not None:
            full = name if name.startswith(("general.", "tokenizer.", "diffusion.")) else f"{config.recipe.arch}.{name}"
            writer.add(full, found, kind, replace=True)


def add_usual(writer: GGUFWriter, config: Config) -> None:
    """Those that most architectures have."""
    arch = config.recipe.arch
    theta, theta_swa = (None, None) if arch == "bert" else config.thetas
    for key, names in SIZES.items():
        said = any(config.raw.get(n) is not None for n in names)
        if key == "feed_forward_length" and isinstance(config.raw.get(names[0]), list):
            writer.add(f"{arch}.{key}", [config.sizes["F"]] * config.layers, "ARRAY[INT32]")
        elif said or (key != "attention.head_count_kv" and (key != "feed_forward_length" or config.recipe.dense)):
            offset = config.first_position if arch in SHIFTED and key == "context_length" else 0
            default = config.width if key == "feed_forward_length" else 0
            writer.add(f"{arch}.{key}", config.size(*names, default=default) - offset, "UINT32")
    if config.raw.get("is_causal") is False:
        writer.add(f"{arch}.attention.causal", False, "BOOL")
    for key, value, kind in scaling_keys(config):
        writer.add(f"{arch}.{key}", value, kind)
    if config.sections:
        writer.add(f"{arch}.rope.dimension_sections", config.sections, "ARRAY[INT32]")
    for key, value in (
        ("rope.freq_base", theta),
        ("rope.freq_base_swa", theta_swa),
        ("attention.layer_norm_rms_epsilon", config.number("rms_norm_eps", "norm_eps")),
        ("attention.layer_norm_epsilon", config.number(*EPSILONS, *(["norm_eps"] * (arch == "modern-bert")))),
    ):
        if value is not None:
            writer.add(f"{arch}.{key}", float(value), "FLOAT32")
    if config.experts:
        writer.add(f"{arch}.expert_count", config.experts, "UINT32")
        if "top-k" not in config.recipe.extras:
            writer.add(f"{arch}.expert_used_count", config.size("num_experts_per_tok", "top_k_experts"), "UINT32")
    elif config.raw.get("num_local_experts") == 0:  # Granite 4 without experts says so
        writer.add(f"{arch}.expert_count", 0, "UINT32")
        writer.add(f"{arch}.expert_used_count", 0, "UINT32")
    for key, name in (("expert_group_count", "n_group"), ("expert_group_used_count", "topk_group")):
        if config.raw.get(name) is not None:
            writer.add(f"{arch}.{key}", config.size(name), "UINT32")
    if (gating := GATINGS.get(str(config.raw.get("scoring_func")))) is not None:
        writer.add(f"{arch}.expert_gating_func", gating, "UINT32")
    if config.raw.get("head_dim") is not None and config.recipe.head_width:
        add_head_width(writer, config)
    writer.add("general.file_type", config.file_type, "UINT32")


def add_t5_keys(writer: GGUFWriter, config: Config, modules: Modules) -> None:
    """The same for T5, whose converter asks for them in another order. attention.causal is not among them."""
    arch, eps = config.recipe.arch, config.number("layer_norm_epsilon")
    writer.add(f"{arch}.context_length", config.sizes["P"], "UINT32")
    for key in ("embedding_length", "feed_forward_length", "block_count", "attention.head_count"):
        writer.add(f"{arch}.{key}", config.size(*SIZES[key]), "UINT32")
    add_head_width(writer, config)
    writer.add(f"{arch}.attention.layer_norm_epsilon", eps or 1e-6, "FLOAT32")
    writer.add(f"{arch}.attention.relative_buckets_count", config.sizes["buckets"], "UINT32")
    writer.add(f"{arch}.attention.layer_norm_rms_epsilon", eps or 1e-6, "FLOAT32")
    writer.add("general.file_type", config.file_type, "UINT32")
    add_modules(writer, config, modules, "pooling")  # which llama.cpp's converter leaves out, and llama.cpp reads


def add_head_width(writer: GGUFWriter, config: Config) -> None:
    """The width of a head of keys, and of values."""
    for part in ("key", "value"):
        writer.add(f"{config.recipe.arch}.attention.{part}_length", config.sizes["D"], "UINT32")


def add_default_width(writer: GGUFWriter, config: Config) -> None:
    """The same where config.json is silent: Gemma's 256."""
    if config.raw.get("head_dim") is None:
        add_head_width(writer, config)


GATINGS = {"softmax": 1, "sigmoid": 2}  # enum llama_expert_gating_func_type
SHIFTED = ("bert", "jina-bert-v3")  # whose positions begin behind pad_token_id
TYPED = ("bert", "jina-bert-v2", "jina-bert-v3", "neo-bert", "nomic-bert", "nomic-bert-moe")  # say their segments
OWN_MODULES = ("custom_st.Transformer",)  # which chooses an adapter by a text's task, and none where none is named
RERANKERS = ("Qwen3", "Qwen3VL")
EPSILONS = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
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
        writer.add(f"{arch}.pooling_type", modules.pooling, "UINT32", replace=True)
    if under := POOLING.get(str(config.raw.get("classifier_pooling"))):
        writer.add(f"{arch}.classifier.pooling_type", under, "UINT32")


def add_labels(writer: GGUFWriter, config: Config) -> None:
    """What a classifier's outputs stand for."""
    if config.labels:
        writer.add(f"{config.recipe.arch}.classifier.output_labels", config.labels, "ARRAY[STRING]")


def check_sections(writer: GGUFWriter, config: Config) -> None:
    """ModelError where config.json does not say which pairs M-RoPE turns by what; llama.cpp refuses such a file."""
    if not config.sections:
        raise ModelError(f"{config.path}: no mrope_section in rope_parameters", hint="is the file whole?")


def add_rerank(writer: GGUFWriter, config: Config) -> None:
    """What makes a Qwen3 a reranker: two labels, and the words around a query and a document."""
    if config.answers:
        writer.add(f"{config.recipe.arch}.pooling_type", RANK, "UINT32")
        writer.add(f"{config.recipe.arch}.classifier.output_labels", LABELS, "ARRAY[STRING]")
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
    "expert-width": key("expert_feed_forward_length", "UINT32", lambda c: c.sizes["exp"]),
    "shared-width": key("expert_shared_feed_forward_length", "UINT32", lambda c: c.sizes["shexp"]),
    "every-n": key("moe_every_n_layers", "UINT32", lambda c: c.size("moe_every_n_layers")),
    "top-k": key("expert_used_count", "UINT32", lambda c: c.size("moe_top_k")),
    "sections": check_sections,
    "deepstack": key("n_deepstack_layers", "UINT32", lambda c: c.deepstack_layers),
    "activation": key("hidden_activation", "STRING", lambda c: str(c.raw.get("hidden_activation") or "gelu")),
}


def add_tokenizer(writer: GGUFWriter, config: Config) -> None:
    """`tokenizer.ggml.*`."""
    for name, flag in config.recipe.tokenizer.items():
        writer.add(f"tokenizer.ggml.{name}", flag, "BOOL")
    typed = config.recipe.arch in TYPED
    first = typed and is_wordpiece(config.folder)
    if first:
        writer.add("tokenizer.ggml.token_type_count", config.sizes["types"], "UINT32")
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
    if typed and not first:
        writer.add("tokenizer.ggml.token_type_count", config.sizes["types"], "UINT32")
