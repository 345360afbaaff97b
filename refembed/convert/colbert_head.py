"""ColBERT heads of BERT and ModernBERT families -> keys `refembed.multi_vector.*` (`refembed convert --heads`).

    saved by                   the linear layer                        how texts are read
    PyLate                     modules of type pylate.models.Dense     config_sentence_transformers.json
    sentence-transformers 6    modules Dense, of token_embeddings      its prompts, MultiVectorMask, query_expansion
    Stanford's colbert-ai      linear.weight next to bert.*            artifact.metadata

    key in refembed.multi_vector          type
    kind                                  STRING, "colbert"
    weight (D C), bias (D)                ARRAY[FLOAT32], in order of rows
    query_token_id, document_token_id     UINT32, the marker behind the first token; absent: none
    query_length, document_length         UINT32, most tokens of a text, all counted; absent: as many as the model reads
    expansion_length, expansion_token_id  UINT32, a query is filled up to so many tokens with this one; absent: is not
    expansion_attended                    BOOL, whether other tokens see these
    skiplist                              ARRAY[UINT32], tokens without a vector in documents; absent: none

Dense modules without an activation, one after the other, with residuals or without, are one matrix: their product,
computed in double. A word of the skiplist that is no token is left out, as sentence-transformers has it; PyLate leaves
out the unknown token's vectors in its place.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.convert.modules import IDENTITY
from refembed.convert.safetensors import SafetensorsFile
from refembed.convert.weights import open_weights
from refembed.convert.wordpiece import OTHER_SHAPE, load_json, read_json, special_names
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import quote

Array = npt.NDArray[Any]

STANFORD, LINEAR = "HF_ColBERT", "linear.weight"  # a class of config.json, a tensor next to the model's
ARCHITECTURES = ("bert", "modern-bert")
SETTINGS = "config_sentence_transformers.json"
QUERY_LENGTH, DOCUMENT_LENGTH = 32, 180  # PyLate's own, where a folder is silent
KINDS = ("Transformer", "Dense", "MultiVectorMask", "Normalize")


@dataclass(frozen=True)
class Rules:
    """How texts are read. Lengths: None for as many tokens as the model reads."""

    query: str  # the marker, "" for none
    document: str
    query_length: int | None
    document_length: int | None
    expansion_length: int | None  # None: a query is not filled up
    expansion: str | None  # the token; None: [MASK], else the end of a text
    attended: bool
    skiplist: tuple[str, ...]


def colbert_module(folder: Path) -> str:
    """The module, or the class, that says that the folder is a ColBERT model; "" where none does."""
    config = load_json(folder / "config.json")
    names = config.get("architectures") if isinstance(config, dict) else None
    if isinstance(names, list) and names[:1] == [STANFORD]:
        return STANFORD
    kinds = (kind for kind, _ in listed(folder))
    return next((k for k in kinds if k.startswith("pylate.") or k.endswith(".MultiVectorMask")), "")


def listed(folder: Path) -> list[tuple[str, str]]:
    """Type and folder of each module; [] where there is no modules.json."""
    modules = load_json(folder / "modules.json")
    found = [m for m in modules if isinstance(m, dict)] if isinstance(modules, list) else []
    return [(str(m.get("type", "")), str(m.get("path", ""))) for m in found]


def add_colbert(writer: GGUFWriter, folder: Path, arch: str) -> None:
    """Add the keys. ModelError for a head that is not whole, or reads texts as refembed does not.

    arch  general.architecture
    """
    if arch not in ARCHITECTURES:
        raise ModelError(
            f"{folder}: a ColBERT head of {arch}", hint=f"--heads keeps those of {', '.join(ARCHITECTURES)}"
        )
    config = read_json(folder / "config.json", required=True)
    C, V = config.get("hidden_size", config.get("dim", 768)), config.get("vocab_size", 0)
    weight, bias = projection(folder, C)
    rules, ids = rules_of(folder), token_ids(folder)
    add: dict[str, tuple[Any, str]] = {"kind": ("colbert", "STRING")} | {
        name: (np.ascontiguousarray(x, np.float32).reshape(-1), "ARRAY[FLOAT32]")
        for name, x in (("weight", weight), ("bias", bias))
    }  # fmt: skip
    for name, marker in (("query", rules.query), ("document", rules.document)):
        if marker:
            add[f"{name}_token_id"] = (marker_id(folder, ids, marker, V), "UINT32")
    for name, length in (("query_length", rules.query_length), ("document_length", rules.document_length)):
        if length is not None:
            add[name] = (whole(folder, name, length), "UINT32")
    if rules.expansion_length is not None:
        add["expansion_length"] = (whole(folder, "the length of queries", rules.expansion_length), "UINT32")
        add["expansion_token_id"] = (expansion_id(folder, ids, rules.expansion), "UINT32")
        add["expansion_attended"] = (rules.attended, "BOOL")
    if skipped := [ids[word] for word in rules.skiplist if word in ids]:
        add["skiplist"] = (skipped, "ARRAY[UINT32]")
    if not all(np.isfinite(x).all() for x in (weight, bias)):
        raise ModelError(f"{folder}: the linear layer of the head has NaN or infinity", hint="the weights are damaged")
    for name, (value, kind) in add.items():
        writer.add(f"refembed.multi_vector.{name}", value, kind)


# --- the linear layer ---


def projection(folder: Path, C: int) -> tuple[Array, Array]:
    """All Dense modules as one: weight (D, C) and bias (D), in double."""
    if colbert_module(folder) == STANFORD:
        found = next((e for e in open_weights(folder, []) if e.name == LINEAR), None)
        if found is None or len(found.shape) != 2 or found.shape[1] != C:
            shape = list(found.shape) if found else "not there"
            raise ModelError(f"{folder}: {LINEAR} is {shape}, not (n, {C})", hint="are these files of one model?")
        return np.asarray(found.values(), np.float64), np.zeros(found.shape[0])
    layers = [folder / path for kind, path in listed(folder) if kind.rpartition(".")[2] == "Dense"]
    if not layers:
        raise ModelError(f"{folder}: a ColBERT model without a Dense module", hint="save the model again")
    weight, bias = np.eye(C), np.zeros(C)
    for layer in layers:
        w, b = dense(layer, len(bias))
        weight, bias = w @ weight, w @ bias + b
    return weight, bias


def dense(folder: Path, width: int) -> tuple[Array, Array]:
    """Weight (D, width) and bias (D) of a Dense module of tokens, its residual included."""
    settings = read_json(folder / "config.json", required=True)
    activation = str(settings.get("activation_function", "torch.nn.modules.linear.Identity"))
    if activation.rpartition(".")[2] not in IDENTITY:
        hint = "--heads keeps Dense modules without one (Identity)"
        raise ModelError(f"{folder}: activation_function is {quote(activation)}", hint=hint)
    if settings.get("module_input_name") not in (None, "token_embeddings"):
        found = f"{folder}: module_input_name is {quote(str(settings['module_input_name']))}"
        raise ModelError(found, hint="--heads keeps Dense modules of token_embeddings")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"{folder}: no model.safetensors of the Dense module", hint="save the model again")
    tensors = {name: np.asarray(entry.values(), np.float64) for name, entry in SafetensorsFile(path).items()}
    weight = tensors.pop("linear.weight", np.empty((0, 0)))
    bias = tensors.pop("linear.bias", np.zeros(len(weight)))
    residual = bool(settings.get("use_residual", False))
    more = tensors.pop("residual.weight", np.eye(len(weight))) if residual else np.zeros_like(weight)
    if (
        tensors
        or not len(weight)
        or weight.shape[1] != width
        or bias.shape != weight.shape[:1]
        or more.shape != weight.shape
    ):
        shapes = {name: list(entry.shape) for name, entry in SafetensorsFile(path).items()}
        found = f"{path}: {shapes}, not a linear.weight (n, {width}) and what belongs to it"
        raise ModelError(found, hint="are these files of one model?")
    return weight + more, bias


# --- how texts are read ---


def rules_of(folder: Path) -> Rules:
    """What the folder says. ModelError for what refembed does not do."""
    module = colbert_module(folder)
    if module == STANFORD:
        return stanford_rules(folder)
    settings = read_json(folder / SETTINGS)
    kinds = [kind.rpartition(".")[2] for kind, _ in listed(folder)]
    if other := [kind for kind in kinds if kind not in KINDS]:
        raise ModelError(
            f"{folder / 'modules.json'}: a module of type {quote(other[0])}", hint=f"--heads knows {', '.join(KINDS)}"
        )
    if "MultiVectorMask" in kinds:
        return sentence_transformers_rules(folder, settings, kinds)
    prompts = settings.get("prompts") or {}
    if prompts.get(settings.get("default_prompt_name")):
        hint = "texts begin with a marker alone"
        raise ModelError(
            f"{folder / SETTINGS}: default_prompt_name {quote(str(settings['default_prompt_name']))}", hint=hint
        )

    def value(key: str, default: Any) -> Any:
        return default if settings.get(key) is None else settings[key]

    length = value("query_length", QUERY_LENGTH)
    expands = value("do_query_expansion", True)
    return Rules(
        value("query_prefix", "[Q] "), value("document_prefix", "[D] "), length,
        value("document_length", DOCUMENT_LENGTH), length if expands else None, None,
        expands and value("attend_to_expansion_tokens", False), tuple(value("skiplist_words", string.punctuation)),
    )  # fmt: skip


def sentence_transformers_rules(folder: Path, settings: dict[str, Any], kinds: list[str]) -> Rules:
    """Those of a MultiVectorEncoder, whose markers are prompts."""
    places = dict(zip(kinds, (folder / path for _, path in listed(folder)), strict=True))
    mask = read_json(places["MultiVectorMask"] / "config.json", required=True)
    if mask.get("keep_only_token_ids") or mask.get("skiplist_tasks", ["document"]) != ["document"]:
        hint = "--heads keeps skiplists of documents, and nothing else of it"
        raise ModelError(f"{places['MultiVectorMask']}: tokens are chosen otherwise", hint=hint)
    if "Normalize" not in kinds:
        raise ModelError(
            f"{folder}: vectors are not normalized", hint="--heads keeps heads whose vectors have length 1"
        )
    model = read_json(places["Transformer"] / "sentence_bert_config.json")
    expansion, prompts = model.get("query_expansion") or {}, settings.get("prompts") or {}
    fixed = expansion.get("strategy") == "fixed"
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return Rules(
        prompts.get("query") or "", document, expansion["length"] if fixed else model.get("query_length"),
        model.get("document_length"), expansion.get("length"), expansion.get("token"),
        bool(expansion.get("attend", False)), tuple(mask.get("skiplist_words") or ()),
    )  # fmt: skip


def stanford_rules(folder: Path) -> Rules:
    """Those of artifact.metadata; the usual ones where it is silent."""
    settings = read_json(folder / "artifact.metadata")
    length = settings.get("query_maxlen") or QUERY_LENGTH
    return Rules(
        settings.get("query_token_id") or "[unused0]", settings.get("doc_token_id") or "[unused1]", length,
        settings.get("doc_maxlen"), length, None, bool(settings.get("attend_to_mask_tokens")),
        tuple(string.punctuation) if settings.get("mask_punctuation", True) else (),
    )  # fmt: skip


# --- tokens ---


def token_ids(folder: Path) -> dict[str, int]:
    """Token -> id, of tokenizer.json; added tokens count first."""
    tokenizer = read_json(folder / "tokenizer.json", required=True)
    try:
        vocab = tokenizer["model"]["vocab"]
        pairs = vocab.items() if isinstance(vocab, dict) else ((piece, i) for i, (piece, _) in enumerate(vocab))
        return dict(pairs) | {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    except OTHER_SHAPE as e:
        found = f"{folder}: tokenizer.json is not as `transformers` writes it: {e!r}"
        raise ModelError(found, hint="save the tokenizer again with save_pretrained") from None


def marker_id(folder: Path, ids: dict[str, int], marker: str, V: int) -> int:
    """The token that a marker is, with the space behind it or without."""
    found = next((ids[word] for word in (marker, marker.rstrip()) if word in ids), None)
    if found is None or found >= V:
        hint = "--heads keeps markers that are one token; other prompts can be put in front of texts by hand"
        raise ModelError(f"{folder}: texts begin with {marker!r}, which is no token of the model", hint=hint)
    return found


def expansion_id(folder: Path, ids: dict[str, int], token: str | None) -> int:
    """What queries are filled up with: the token that is named, else [MASK], else the end of a text."""
    names = special_names(read_json(folder / "special_tokens_map.json"))
    names |= special_names(read_json(folder / "tokenizer_config.json"))
    wanted = [token] if token else [names[name] for name in ("mask", "eos", "pad") if name in names]
    found = next((ids[word] for word in wanted if word in ids), None)
    if found is None:
        hint = "tokenizer_config.json names mask_token"
        raise ModelError(f"{folder}: no token that queries could be filled up with", hint=hint)
    return found


def whole(folder: Path, name: str, value: Any) -> int:
    """A length, checked."""
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ModelError(f"{folder}: {name} is {quote(str(value))}, not a length", hint="a whole number above 0")
    return value
