"""Tiny ColBERT models: BERT, ModernBERT and Stanford's folders to begin with, and the folders that records hold.

The folders of tests/data/colbert.json are as PyLate saved them, with weights that follow from their names
(hf_folders.weights), so that tests need no PyTorch.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np

from tests.hf_folders import (
    PIECES,
    SETTINGS,
    SPECIAL,
    bert_config,
    bert_shapes,
    safetensors,
    stored,
    tokenizer_json,
    weights,
    write_json,
    write_weights,
)

DATA = Path(__file__).parent / "data" / "colbert.json"
WORDS = [*PIECES, *(c for c in string.punctuation if c not in PIECES), "[unused1]"]
C = 32
SIZES = (C, 64, 2, len(WORDS), 40)  # C, F, layers, V, P

QUERIES = ["the cat sat", "hello world !", "", "a dog embed ing on the mat , sat hello the cat world a dog"]
DOCUMENTS = ["the cat , the dog . a mat !", "hello", "a strange word : world ; embedding"]


def bert(folder: Path) -> Path:
    """A BertModel and its tokenizer, nothing else."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", bert_config(*SIZES))
    write_weights(folder, bert_shapes(*SIZES), "F32")
    write_json(folder / "tokenizer.json", tokenizer_json(WORDS))
    write_json(folder / "tokenizer_config.json", SETTINGS | {"model_max_length": SIZES[4]})
    return folder


def stanford(folder: Path, **metadata: Any) -> Path:
    """The same as Stanford's colbert-ai saves it: HF_ColBERT, linear.weight, artifact.metadata."""
    bert(folder)
    write_json(folder / "config.json", bert_config(*SIZES, architectures=["HF_ColBERT"]))
    shapes = {f"bert.{name}": shape for name, shape in bert_shapes(*SIZES).items()}
    write_weights(folder, shapes | {"linear.weight": (12, C)}, "F32")
    facts = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 14, "doc_maxlen": 30}
    write_json(folder / "artifact.metadata", facts | metadata)
    return folder


def alphabet() -> list[str]:
    """GPT-2's characters for the 256 bytes, in the order of bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(others)) for b in range(256)]


def modern_bert(folder: Path, local_attention: int = 8) -> Path:
    """A ModernBertModel of four layers, two of three with a window, and a byte-level tokenizer."""
    folder.mkdir(parents=True)
    names = alphabet()
    merged = {"th": 256, "ca": 257, "at": 258}
    first = 259
    vocab = {c: i for i, c in enumerate(names)} | merged | {t: first + i for i, t in enumerate(SPECIAL)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = tokenizer_json(SPECIAL)
    tokenizer |= {
        "normalizer": None,
        "added_tokens": [{"id": vocab[t], "content": t, **flags} for t in SPECIAL],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": [["t", "h"], ["c", "a"], ["a", "t"]],
        },
    }  # fmt: skip
    for token in tokenizer["post_processor"]["special_tokens"].values():
        token["ids"] = [vocab[token["id"]]]
    write_json(folder / "tokenizer.json", tokenizer)
    settings = {key: value for key, value in SETTINGS.items() if key.endswith("_token")}
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    F, L, V = 48, 4, len(vocab)
    kinds = ["full_attention" if i % 3 == 0 else "sliding_attention" for i in range(L)]
    config = {
        "architectures": ["ModernBertModel"], "model_type": "modernbert", "vocab_size": V, "hidden_size": C,
        "intermediate_size": F, "num_hidden_layers": L, "num_attention_heads": 4, "max_position_embeddings": 64,
        "local_attention": local_attention, "global_attn_every_n_layers": 3, "layer_types": kinds,
        "hidden_activation": "gelu", "norm_eps": 1e-5, "norm_bias": False, "attention_bias": False, "mlp_bias": False,
        "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
        "pad_token_id": vocab["[PAD]"], "cls_token_id": vocab["[CLS]"], "sep_token_id": vocab["[SEP]"],
        "bos_token_id": vocab["[CLS]"], "eos_token_id": vocab["[SEP]"],
    }  # fmt: skip
    write_json(folder / "config.json", config)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.tok_embeddings.weight": (V, C), "embeddings.norm.weight": (C,), "final_norm.weight": (C,),
    }  # fmt: skip
    for i in range(L):
        layer = {"attn.Wqkv": (3 * C, C), "attn.Wo": (C, C), "mlp_norm": (C,), "mlp.Wi": (2 * F, C), "mlp.Wo": (C, F)}
        layer |= {"attn_norm": (C,)} if i else {}
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    write_weights(folder, shapes, "F32")
    return folder


# --- records ---


def take(folder: Path) -> dict[str, Any]:
    """The record of a folder: its JSON files, and the shapes of its tensors."""
    files, shapes = {}, {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            head = path.read_bytes()
            header = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])
            shapes[name] = {t: facts["shape"] for t, facts in header.items() if t != "__metadata__"}
        elif path.suffix in (".json", ".metadata"):
            files[name] = json.loads(path.read_text(encoding="utf-8"))
    return {"files": files, "shapes": shapes}


def build(record: dict[str, Any], folder: Path) -> Path:
    """The folder of a record."""
    for name, content in record["files"].items():
        write_json(folder / name, content)
    for name, shapes in record["shapes"].items():
        tensors = {
            t: ("F32", tuple(shape), stored(weights(f"{name} {t}", tuple(shape)), "F32")) for t, shape in shapes.items()
        }
        (folder / name).write_bytes(safetensors(tensors))
    return folder


def records() -> dict[str, Any]:
    """Name -> record, with the vectors that PyLate made."""
    found: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return found


def numbers(rows: list[list[float]]) -> Any:
    """Recorded vectors."""
    return np.array(rows, np.float64)
