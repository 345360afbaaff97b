"""What `refembed rerank` does. Imported once the options are read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.cli.models import note_adapters, open_embedder, spell_model
from refembed.cli.show import decode, escape, note, print_json, table
from refembed.cli.texts import Texts
from refembed.embedder import Embedder
from refembed.pooling.heads import is_share, rank_pooling


def rank(
    query: str, documents: tuple[str, ...], file: str | None, model: str, top_n: int | None, score: str,
    all_labels: bool, caller: str, instruction: str | None, truncate: bool, numerics: dict[str, Any],
    lora: tuple[str, ...], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Print the documents by score; options as `refembed rerank --help` describes them."""
    texts = list(Texts(documents, file))
    embedder = open_embedder(model, numerics, lora)
    options: dict[str, Any] = {"all_labels": True, "caller": caller, "instruction": instruction, "truncate": truncate}
    scores = embedder.rerank(next(iter(Texts([query], None))), texts, **options)  # (N, R)
    describe(embedder, model, score, all_labels, quiet)
    shown = sigmoid(scores) if score == "sigmoid" else scores
    best = sorted(range(len(texts)), key=lambda i: (-shown[i, 0], i))[:top_n]
    labels = [embedder.info.labels[r] if embedder.info.labels else str(r) for r in range(scores.shape[1])]
    if as_json:
        print_json(answer(model, score, labels if all_labels else [], shown, texts, best))
        return
    heads = [f">{label}" for label in labels] if all_labels else [">score"]
    rows = [([f"{x:.7g}" for x in shown[i, : len(heads)].tolist()], i) for i in best]
    table([*heads, ">index", "document"], [(*cells, str(i), escape(texts[i], 80)) for cells, i in rows])


def describe(embedder: Embedder, model: str, score: str, all_labels: bool, quiet: bool) -> None:
    """Say on stderr what the scores are."""
    hp, info = embedder.model.hparams, embedder.info
    note(spell_model(model, info), quiet=quiet)
    note_adapters(embedder, quiet)
    kind = "shares of 1" if is_share(hp) else "raw outputs"
    several = f"{info.n_cls_out} labels" if info.n_cls_out > 1 else "one label"
    note(f"head on {rank_pooling(hp)}, {several}, {kind}, shown {score}, numerics {info.numerics}", quiet=quiet)
    if info.n_cls_out > 1 and not all_labels:
        of = f" ({escape(info.labels[0])})" if info.labels else ""
        note(f"note: of {info.n_cls_out} outputs the first is the score{of}; --all-labels shows all", quiet=quiet)
    if score == "sigmoid" and is_share(hp):
        note("warning: these scores are probabilities already, and --score sigmoid squeezes them into 0.5 to 0.73")


def sigmoid(x: F32) -> F32:
    """1 / (1 + e^-x), in double, without overflow."""
    small = np.exp(-np.abs(x.astype(np.float64)))  # e^-|x|
    return np.asarray(np.where(x < 0, small, 1) / (1 + small), np.float32)


def answer(
    model: str, score: str, labels: Sequence[str], shown: F32, texts: Sequence[str | bytes], best: Sequence[int]
) -> dict[str, Any]:
    """As llama-server answers /rerank, the documents with their scores; numbers read back to the same float32."""
    results = []
    for i in best:
        numbers = [float(digits) for digits in shown[i].astype(str).tolist()]
        entry: dict[str, Any] = {"index": i, "relevance_score": numbers[0], "document": decode(texts[i])}
        results.append(entry | ({"scores": dict(itertools.zip_longest(labels, numbers))} if labels else {}))
    return {"model": model, "score": score, "results": results}
