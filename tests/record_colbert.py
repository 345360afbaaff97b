"""Records what PyLate makes of tiny ColBERT models: tests/data/colbert.json.

    python -m venv V && V/bin/pip install pylate==1.6.0 torch==2.13.0
    V/bin/python -m tests.record_colbert

PyLate needs older versions of sentence-transformers and transformers than the extra `peers` has, so it has a virtual
environment of its own. It saves each model; then its weights become those that follow from their names, and PyLate
loads it again, in float64, and encodes.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.colbert_folders import DATA, DOCUMENTS, QUERIES, bert, build, modern_bert, stanford, take

PACKAGES = ("pylate", "sentence-transformers", "transformers", "torch")
LENGTHS = {"query_length": 14, "document_length": 20}


def pylate(base: Callable[[Path], Path], more: Callable[[Any], None] = lambda model: None, **options: Any) -> Any:
    """What saves a model with these options."""

    def save(folder: Path) -> None:
        from pylate import models

        plain = base(folder.with_name(f"{folder.name}-base"))
        model = models.ColBERT(str(plain), embedding_size=12, device="cpu", **LENGTHS | options)
        more(model)
        model.save(str(folder))

    return save


def two_layers(model: Any) -> None:
    """Another Dense module behind the first, with residuals of both kinds."""
    from pylate import models

    model[1] = models.Dense(32, 32, bias=False, use_residual=True)
    model.append(models.Dense(32, 8, bias=True, use_residual=True))


MODELS: dict[str, Callable[[Path], Any]] = {
    "bert": pylate(bert),
    "bert-attended": pylate(
        bert, bias=True, query_prefix="[unused0]", document_prefix="", attend_to_expansion_tokens=True,
        skiplist_words=["the", "."],
    ),
    "bert-not-expanded": pylate(bert, two_layers, do_query_expansion=False, skiplist_words=[]),
    "modern-bert": pylate(modern_bert, query_length=24),
    "stanford": stanford,
}  # fmt: skip


def rounded(vectors: Any) -> list[list[float]]:
    """Nine digits are enough for bounds above 1e-8."""
    return [[float(f"{x:.9g}") for x in row] for row in vectors.tolist()]


def main() -> None:
    from pylate import models

    found: dict[str, Any] = {"provenance": {name: importlib.metadata.version(name) for name in PACKAGES}}
    with tempfile.TemporaryDirectory() as scratch:
        for name, save in MODELS.items():
            saved = Path(scratch) / f"{name}-saved"
            save(saved)
            record = take(saved)
            record["files"].pop("README.md", None)
            model = models.ColBERT(str(build(record, Path(scratch) / name)), device="cpu").double()
            vectors = {
                "queries": [rounded(v) for v in model.encode(QUERIES, is_query=True)],
                "documents": [rounded(v) for v in model.encode(DOCUMENTS, is_query=False)],
            }
            found[name] = record | vectors
    lines = (f" {json.dumps(name)}: {json.dumps(record, ensure_ascii=False)}" for name, record in found.items())
    DATA.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
