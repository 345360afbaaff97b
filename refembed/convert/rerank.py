"""Qwen3-Reranker: a language model that answers "yes" or "no", made into a classifier of two labels.

    logits of the last token ─► rows "yes" and "no" alone ─► softmax ─► P(yes)

No class says that a checkpoint is one. Mirrors Qwen3Model of llama.cpp's conversion/qwen.py: it is one where the
heading of README.md, the folder or `_name_or_path` in config.json has its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refembed.convert.wordpiece import read_json, special_names
from refembed.errors import ModelError

NAMES = ("qwen3-reranker", "qwen3-vl-reranker")
LABELS = ("yes", "no")
UNKNOWN = "<|endoftext|>"  # Qwen's unknown token, where the folder names none
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


def answer_ids(folder: Path, notes: list[str]) -> tuple[int, int]:
    """The ids of "yes" and "no" in tokenizer.json; of a word that it lacks, the unknown token's, as in `transformers`.

    ModelError where there is neither.
    """
    path = folder / "tokenizer.json"
    tokenizer = read_json(path)
    ids = token_ids(tokenizer)
    settings = read_json(folder / "tokenizer_config.json")
    unknown = special_names(settings).get("unk") or UNKNOWN
    for label in LABELS:
        if label not in ids and unknown not in ids:
            hint = "a Qwen3 reranker answers with one of two tokens; if this is none, rename the folder or its heading"
            raise ModelError(f"{path}: no token {label!r}", hint=hint)
        if label not in ids:
            notes.append(f"tokenizer.json has no token {label!r}: the score is that of {unknown!r}, and says nothing")
    yes, no = (ids.get(label, ids.get(unknown, 0)) for label in LABELS)
    return yes, no


def token_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Token -> id, added ones too. What is no id is left out."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    found = dict(vocab) if isinstance(vocab, dict) else {}
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict):
            found[str(token.get("content"))] = token.get("id")
    return {token: i for token, i in found.items() if type(i) is int and i >= 0}
