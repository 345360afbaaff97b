"""Tiny Hugging Face folders, the same bytes on every machine: what llama.cpp's own converter was given, and ours is."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = "the a cat dog sat on mat hello world embed ##ding s ##s ##ed ##ing , . ! ? é 漢 [unused0] d"
PIECES = SPECIAL + TEXT.split()


def weights(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Numbers in [-0.5, 0.5) that depend on the tensor's name and nothing else: a multiplicative hash of the index."""
    seed = sum((i + 1) * c for i, c in enumerate(name.encode()))
    n = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(seed << 20)
    return ((n * np.uint64(2654435761) % np.uint64(2**32)) / 2.0**32 - 0.5).astype(np.float32).reshape(shape)


def stored(values: npt.NDArray[Any], dtype: str) -> bytes:
    """As a safetensors file holds them. BF16 is cut off, not rounded: any bits will do."""
    if dtype == "BF16" and values.dtype == np.float32:
        return (values.view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}[dtype]).tobytes()


def safetensors(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """The bytes of a safetensors file: name -> (dtype, shape, data)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(raw)]}
        end += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(raw for _, _, raw in tensors.values())


def bert_shapes(C: int, F: int, L: int, V: int, P: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a BertModel, without heads."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (V, C),
        "embeddings.position_embeddings.weight": (P, C),
        "embeddings.token_type_embeddings.weight": (2, C),
        "embeddings.LayerNorm.weight": (C,),
        "embeddings.LayerNorm.bias": (C,),
        "pooler.dense.weight": (C, C),
        "pooler.dense.bias": (C,),
    }
    for i in range(L):
        layer = f"encoder.layer.{i}."
        for part, rows, width in (
            ("attention.self.query", C, C),
            ("attention.self.key", C, C),
            ("attention.self.value", C, C),
            ("attention.output.dense", C, C),
            ("intermediate.dense", F, C),
            ("output.dense", C, F),
        ):
            shapes |= {f"{layer}{part}.weight": (rows, width), f"{layer}{part}.bias": (rows,)}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}{part}.weight": (C,), f"{layer}{part}.bias": (C,)}
    return shapes


def distilbert_shapes(C: int, F: int, L: int, V: int, P: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a DistilBertModel, without heads."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (V, C),
        "embeddings.position_embeddings.weight": (P, C),
        "embeddings.LayerNorm.weight": (C,),
        "embeddings.LayerNorm.bias": (C,),
    }
    for i in range(L):
        layer = f"transformer.layer.{i}."
        for part, rows, width in (
            ("attention.q_lin", C, C),
            ("attention.k_lin", C, C),
            ("attention.v_lin", C, C),
            ("attention.out_lin", C, C),
            ("ffn.lin1", F, C),
            ("ffn.lin2", C, F),
        ):
            shapes |= {f"{layer}{part}.weight": (rows, width), f"{layer}{part}.bias": (rows,)}
        for part in ("sa_layer_norm", "output_layer_norm"):
            shapes |= {f"{layer}{part}.weight": (C,), f"{layer}{part}.bias": (C,)}
    return shapes


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8", newline="\n")


def write_weights(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: str,
    *,
    shards: int = 1,
    extra: dict[str, Any] | None = None,
) -> None:
    """model.safetensors, or its shards and their index. `extra` holds integer tensors."""
    tensors = {name: (dtype, shape, stored(weights(name, shape), dtype)) for name, shape in shapes.items()}
    for name, values in (extra or {}).items():
        tensors[name] = ("I64", values.shape, stored(values, "I64"))
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors))
        return
    names, places = list(tensors), {}
    for k in range(shards):
        part = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        mine = names[k::shards]
        (folder / part).write_bytes(safetensors({name: tensors[name] for name in mine}))
        places |= dict.fromkeys(mine, part)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def tokenizer_json(pieces: list[str], *, lowercase: bool = True, strip_accents: bool | None = None) -> dict[str, Any]:
    """The tokenizer.json of a BERT."""

    def token(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    def part(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    ids = {t: pieces.index(t) for t in SPECIAL}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": t, **flags} for t, i in ids.items()],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": strip_accents,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), part("A", 0), token("[SEP]")],
            "pair": [token("[CLS]"), part("A", 0), token("[SEP]"), part("B", 1), token("[SEP]")],
            "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {t: i for i, t in enumerate(pieces)},
        },
    }


NAMES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
SETTINGS = {f"{k}_token": v for k, v in NAMES.items()} | {"tokenizer_class": "BertTokenizer", "do_lower_case": True}


def bert_config(C: int, F: int, L: int, V: int, P: int, **more: Any) -> dict[str, Any]:
    """config.json of a BERT of four heads."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": C,
        "intermediate_size": F,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": P,
        "num_attention_heads": 4,
        "num_hidden_layers": L,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": V,
    } | more


def pooling(folder: Path, **modes: Any) -> None:
    """modules.json and 1_Pooling as sentence-transformers writes them."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | modes)


SIZES = (32, 64, 1, len(PIECES), 16)  # C, F, layers, V, P


def small(folder: Path, **config: Any) -> Path:
    """A sound folder of one layer; `config` goes over its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", bert_config(*SIZES, **config))
    write_weights(folder, bert_shapes(*SIZES), "F32")
    write_json(folder / "tokenizer.json", tokenizer_json(PIECES))
    write_json(folder / "tokenizer_config.json", SETTINGS)
    return folder


def tiny(folder: Path) -> None:
    """A sentence-transformers model: F32, mean pooling, a model card, and tensors that are dropped."""
    sizes = (32, 64, 2, len(PIECES), 16)
    shapes = bert_shapes(*sizes)
    write_json(folder / "config.json", bert_config(*sizes))
    write_weights(folder, shapes, "F32", extra={"embeddings.position_ids": np.arange(16)[None]})
    write_json(folder / "tokenizer.json", tokenizer_json(PIECES))
    write_json(folder / "tokenizer_config.json", SETTINGS)
    pooling(folder, pooling_mode_mean_tokens=True)
    card = (
        "---\nlicense: mit\nlanguage:\n- en\n- no\ntags:\n- tiny\ndatasets:\n- org/some-data\nbase_model: org/base-7b\n"
    )
    card += "---\n"
    (folder / "README.md").write_text(card + "# Tiny\n", encoding="utf-8", newline="\n")


def reranker(folder: Path) -> None:
    """A cross-encoder: BF16, two shards, a prefix, gamma and beta, cased, a gap and additions in the vocabulary."""
    sizes = (32, 64, 1, len(PIECES) + 4, 16)
    shapes = bert_shapes(*sizes)
    shapes = {f"bert.{name}": shape for name, shape in shapes.items()}
    for new, old in (("gamma", "weight"), ("beta", "bias")):
        shapes = {n.replace(f"LayerNorm.{old}", f"LayerNorm.{new}"): shape for n, shape in shapes.items()}
    shapes |= {"classifier.weight": (1, 32), "classifier.bias": (1,)}
    more = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    write_json(folder / "config.json", bert_config(*sizes, **more))
    write_weights(folder, shapes, "BF16", shards=2)
    tokenizer = tokenizer_json(PIECES, lowercase=False, strip_accents=False)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    tokenizer["added_tokens"] += [
        {"id": len(PIECES), "content": "my▁word", **flags},
        {"id": len(PIECES) + 1, "content": "<|hint|>", **flags},
    ]
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", SETTINGS | {"do_lower_case": False})
    pooling(folder, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)


def masked(folder: Path) -> None:
    """A checkpoint of masked language modeling with nothing but vocab.txt: F16, no pooling, sparse config.json."""
    sizes = (32, 64, 1, len(PIECES), 16)
    shapes = {f"bert.{name}": shape for name, shape in bert_shapes(*sizes).items()}
    V, C = len(PIECES), 32
    shapes |= {"cls.predictions.bias": (V,), "cls.predictions.transform.dense.weight": (C, C)}
    shapes |= {"cls.seq_relationship.weight": (2, C)}
    config = bert_config(*sizes, architectures=["BertForMaskedLM"])
    for key in ("hidden_act", "layer_norm_eps", "type_vocab_size", "pad_token_id"):
        del config[key]
    write_json(folder / "config.json", config)
    write_weights(folder, shapes, "F16")
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8", newline="\n")
    write_json(folder / "tokenizer_config.json", SETTINGS)


def odd(folder: Path) -> None:
    """Rows that are no whole blocks of 32, three named labels, last-token pooling given as a word."""
    sizes = (24, 40, 1, len(PIECES), 9)
    shapes = bert_shapes(*sizes) | {"classifier.weight": (3, 24), "classifier.bias": (3,)}
    labels = {"2": "third", "0": "first", "1": "second"}
    more = {"architectures": ["BertForSequenceClassification"], "id2label": labels, "layer_norm_eps": 1e-5}
    write_json(folder / "config.json", bert_config(*sizes, **more))
    write_weights(folder, shapes, "F32")
    write_json(folder / "tokenizer.json", tokenizer_json(PIECES, strip_accents=True))
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True})
    pooling(folder, pooling_mode="lasttoken")


def distil(folder: Path) -> None:
    """A DistilBERT that sorts into two named classes."""
    sizes = (32, 64, 2, len(PIECES), 16)
    shapes = {f"distilbert.{name}": shape for name, shape in distilbert_shapes(*sizes).items()}
    shapes |= {"pre_classifier.weight": (32, 32), "pre_classifier.bias": (32,)}
    shapes |= {"classifier.weight": (2, 32), "classifier.bias": (2,)}
    C, F, L, V, P = sizes
    config = {
        "architectures": ["DistilBertForSequenceClassification"],
        "model_type": "distilbert",
        "activation": "gelu",
        "dim": C,
        "hidden_dim": F,
        "id2label": {"0": "NEGATIVE", "1": "POSITIVE"},
        "max_position_embeddings": P,
        "n_heads": 4,
        "n_layers": L,
        "pad_token_id": 0,
        "vocab_size": V,
    }
    write_json(folder / "config.json", config)
    write_weights(folder, shapes, "F32")
    write_json(folder / "tokenizer.json", tokenizer_json(PIECES))
    write_json(folder / "tokenizer_config.json", SETTINGS)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "tiny-bert-v1": tiny,
    "tiny-reranker": reranker,
    "masked": masked,
    "odd-small": odd,
    "distil": distil,
}


def build(name: str, parent: Path) -> Path:
    """Write the folder of that name below `parent`; converters make `general.name` out of the folder's."""
    folder = parent / name
    folder.mkdir(parents=True)
    FOLDERS[name](folder)
    return folder
