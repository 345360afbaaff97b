"""Writes down what llama.cpp answers, for machines that its wheel does not run on: token ids and pooled vectors.

expected/<model>.npz    texts, sha256 (N)               which text, and which bytes
                        vectors (N, D) float32          mean-pooled, not normalized, flash attention off
                        tokens-11, tokens-10, tokens-00 ids of all texts, end to end; the digits are add_special and
                        tokens-11-ends ... (N)          parse_special; where each text's ids end
                        about                           JSON: date, build, options, processor
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases import load_texts
from conformance.oracle import RECORDED, Live, Setting, digest
from conformance.toml import write_whole

MODELS = ("minilm-f32",)
OPTIONS = ((True, True), (True, False), (False, False))  # add_special, parse_special


def record(model: str, oracle: Live, environment: dict[str, str], date: str) -> Path:
    """Ask for every text and write the file."""
    texts = list(load_texts().values())
    arrays: dict[str, Any] = {
        "texts": np.array([t.id for t in texts]),
        "sha256": np.array([digest(t).hex() for t in texts]),
        "vectors": np.stack([oracle.vector(Setting(model), t) for t in texts]),
    }
    for add, parse in OPTIONS:
        ids = [oracle.tokens(model, t, add, parse) for t in texts]
        name = f"tokens-{int(add)}{int(parse)}"
        arrays[name] = np.array([i for one in ids for i in one], np.int32)
        arrays[f"{name}-ends"] = np.cumsum([len(one) for one in ids]).astype(np.int32)
    build = oracle.build()
    build["files"] = [{**f, "path": Path(f["path"]).name} for f in build["files"]]  # where it lay does not matter
    options = {"threads": 1, "flash_attn": False, "extra_buffer_types": False, "pooling": "mean", "normalize": -1}
    about = {"model": model, "date": date, "oracle": build, "options": options, "environment": environment}
    arrays["about"] = np.array(json.dumps(about))
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    path = RECORDED / f"{model}.npz"
    RECORDED.mkdir(exist_ok=True)
    write_whole(path, out.getvalue())
    return path
