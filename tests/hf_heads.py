"""Tiny folders with heads: a reranker that answers, a classifier, Dense modules, a T5 whose table has another name.

Each is one of the folders in tests/data/converter-models.json with some files changed, the same bytes on every machine.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hf_folders import pooling, safetensors, stored, weights, write_json
from tests.record_models import DATA, FILE, build

RECORDS = json.loads((DATA / FILE).read_text(encoding="utf-8"))
C = 48  # channels of every one of them


def headed(base: str, folder: Path, config: dict[str, Any], shapes: dict[str, Any], *, without: str = "-") -> Path:
    """The folder of a record with other settings and more tensors; those that begin with `without` go."""
    record: Any = copy.deepcopy(RECORDS[base])
    record["files"]["config.json"]["json"] |= config
    record["shapes"] = {n: s for n, s in record["shapes"].items() if not n.startswith(without)} | shapes
    return build(record, folder)


def words(folder: Path) -> None:
    """The tokens "yes" and "no", which a reranker answers with, are written into its vocabulary."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    first = 1 + max([*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])])
    tokenizer["added_tokens"] += [{"id": first + i, "content": t, **flags} for i, t in enumerate(("no", "yes"))]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "README.md").write_text("# Qwen3-Reranker-tiny\n")


def reranker(folder: Path, *, tied: bool = True) -> None:
    """Qwen3-Reranker; untied: its answers have rows of their own."""
    config = {
        "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": tied, "max_position_embeddings": 512,
    }  # fmt: skip
    shapes = {} if tied else {"lm_head.weight": [120, C]}
    renamed = {f"model.{name}": shape for name, shape in RECORDS["qwen3"]["shapes"].items()}
    headed("qwen3", folder, config, renamed | shapes, without="")
    words(folder)


def classifier(folder: Path, *, pool: str = "cls", labels: int = 3) -> None:
    """ModernBertForSequenceClassification."""
    names = {str(i): f"name {i}" for i in range(labels)} if labels != 2 else {"0": "LABEL_0", "1": "LABEL_1"}
    config = {
        "architectures": ["ModernBertForSequenceClassification"], "classifier_pooling": pool, "id2label": names,
        "label2id": {name: int(i) for i, name in names.items()},
    }  # fmt: skip
    shapes = {f"model.{name}": shape for name, shape in RECORDS["modern-bert"]["shapes"].items()}
    shapes |= {"head.dense.weight": [C, C], "head.norm.weight": [C]}
    shapes |= {"classifier.weight": [labels, C], "classifier.bias": [labels]}
    headed("modern-bert", folder, config, shapes, without="")


def roberta(folder: Path) -> None:
    """RobertaForSequenceClassification with two unnamed classes."""
    names = {"0": "LABEL_0", "1": "LABEL_1"}
    config = {"architectures": ["RobertaForSequenceClassification"], "id2label": names}
    shapes = {f"roberta.{name}": shape for name, shape in RECORDS["roberta"]["shapes"].items() if "pooler" not in name}
    shapes |= {"classifier.dense.weight": [C, C], "classifier.dense.bias": [C]}
    headed("roberta", folder, config, shapes | {"classifier.out_proj.weight": [2, C], "classifier.out_proj.bias": [2]},
           without="")  # fmt: skip


def dense(folder: Path, widths: tuple[int, ...] = (C, 64, C), activation: str = "linear.Identity") -> None:
    """EmbeddingGemma with its two Dense modules."""
    headed("gemma-embedding", folder, {}, {})
    modules(folder, *(("Dense", f"{i + 2}_Dense") for i in range(len(widths) - 1)))
    for i in range(len(widths) - 1):
        place, shape = folder / f"{i + 2}_Dense", (widths[i + 1], widths[i])
        facts = {"in_features": shape[1], "out_features": shape[0], "bias": False}
        write_json(place / "config.json", facts | {"activation_function": f"torch.nn.modules.{activation}"})
        data = stored(weights(place.name, shape), "F32")
        (place / "model.safetensors").write_bytes(safetensors({"linear.weight": ("F32", shape, data)}))


def modules(folder: Path, *more: tuple[str, str], modes: dict[str, Any] | None = None) -> None:
    """modules.json: Transformer, Pooling, those that are given, Normalize."""
    pooling(folder, **(modes or {"pooling_mode_mean_tokens": True}))
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), *more, ("Normalize", f"{len(more) + 2}_Normalize")]
    listed = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
              for i, (k, p) in enumerate(kinds)]  # fmt: skip
    write_json(folder / "modules.json", listed)


def t5_table(folder: Path) -> None:
    """T5EncoderModel whose table is encoder.embed_tokens alone."""
    headed("t5encoder", folder, {}, {"encoder.embed_tokens.weight": [120, C]}, without="shared.")


FOLDERS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {  # with what llama.cpp's converter is given
    "reranker-tied": (reranker, ()),
    "reranker-untied": (lambda folder: reranker(folder, tied=False), ()),
    "classifier-cls": (classifier, ()),
    "classifier-mean": (lambda folder: classifier(folder, pool="mean", labels=1), ()),
    "dense": (dense, ("--sentence-transformers-dense-modules",)),
    "t5-table": (t5_table, ()),
}
