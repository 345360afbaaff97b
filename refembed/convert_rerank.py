"""Qwen3-Reranker: a language model that answers "yes" or "no", made into a classifier of two labels.

    logits of the last token ─► rows "yes" and "no" alone ─► softmax ─► P(yes)

No class says that a checkpoint is one. Mirrors Qwen3Model of llama.cpp's conversion/qwen.py: it is one where the
heading of README.md, the folder or `_name_or_path` in config.json has its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refembed.convert_vocab import read_json
from refembed.errors import ModelError

NAMES = ("qwen3-reranker", "qwen3-vl-reranker")
LABELS = ("yes", "no")
# llama.cpp's template, with the words of the model card
TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def is_reranker(folder: Path, raw: dict[str, Any], name: str | None) -> bool:
    """Whether a Qwen3 is a reranker, by its model card, its folder, its config.json, or the name it was asked for."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        card = ""
    hints = (folder.resolve().name, str(raw.get("_name_or_path", "")), name or "")
    return any(f"# {one}" in card or any(one in hint.lower() for hint in hints) for one in NAMES)


def answer_ids(folder: Path) -> tuple[int, int]:
    """The ids of "yes" and "no". ModelError where tokenizer.json does not have both."""
    path = folder / "tokenizer.json"
    model = read_json(path).get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids: list[int] = []
    for label in LABELS:
        i = vocab.get(label) if isinstance(vocab, dict) else None
        if type(i) is not int or i < 0:
            hint = "a Qwen3 reranker answers with one of two tokens; if this is none, rename the folder or its heading"
            raise ModelError(f"{path}: no token {label!r}", hint=hint)
        ids.append(i)
    return ids[0], ids[1]
