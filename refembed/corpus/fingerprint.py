"""What a vector's bits depend on besides its text, written down: the key of the cache, the passport of a corpus.

model files and adapters (SHA-256) ─┐
numerics and its switches           ├─► describe(embedder) ─► digest(...)
pooling, norm, dimensions           │
refembed, libraries, processor     ─┘
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from refembed._version import __version__
from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.hub.digests import digests_of
from refembed.kernels.numerics import spell_numerics
from refembed.model.published import OriginalModel

BITS = 2  # to be raised when a change of refembed between two releases gives some vector other bits

Record = dict[str, Any]  # JSON: strings, numbers, lists

known: WeakKeyDictionary[Embedder, Record] = WeakKeyDictionary()  # embedder -> its `files`


def describe(
    embedder: Embedder, *, pooling: str = "native", normalize: int | None = None, dimensions: int | None = None
) -> Record:
    """Everything besides the text that decides about a vector's bits, fit for JSON.

    pooling, normalize, dimensions  as Embedder.embed takes them; "native" and None are resolved
    Raises RequestError for options no vector could satisfy, and where bits depend on the other texts of the batch.
    """
    options = embedder.resolve_options(pooling, normalize, dimensions)
    cut = None if options.dimensions == embedder.width(options.pooling) else options.dimensions
    return engine(embedder) | options._replace(dimensions=cut)._asdict()


def engine(embedder: Embedder) -> Record:
    """The part that does not depend on the options of a call."""
    ops: Any = embedder.ops
    if ops.name == "ggml" and embedder.batch_tokens:
        raise RequestError(
            "texts that are computed together, as llama.cpp does, have bits that depend on their batch: "
            "such a vector cannot be kept for later",
            hint="n_ubatch=0; on the command line, none of llama-embedding's flags",
        )
    if embedder not in known:
        known[embedder] = files(embedder)
    original = isinstance(embedder.model, OriginalModel)
    return known[embedder] | {
        "numerics": spell_numerics(ops),
        "attention": "causal" if embedder.model.hparams.causal else "non-causal",
        "profile": repr(ops.profile) if ops.name == "ggml" else None,
        "semantics": "original" if original else "llama.cpp",
        "refembed": f"{__version__}, bits {BITS}",
        "machine": " ".join([machine(), *([ops.hardware] if ops.hardware else [])]),
    }


def files(embedder: Embedder) -> Record:
    """Model and adapters, by their contents; all shards."""
    adapters = [[digests_of(a.paths), a.scale] for a in embedder.adapters if a.scale]
    return {"model": digests_of(embedder.file.paths), "lora": adapters}


def machine() -> str:
    """Libraries and processor: what picks the order of a sum in `fast` and `exact`."""
    forced = [f"{k}={os.environ[k]}" for k in ("OPENBLAS_CORETYPE", "NUMBA_CPU_NAME") if k in os.environ]
    hashed = hashlib.sha256(" ".join(features()).encode()).hexdigest()[:12]
    return " ".join([platform.machine(), f"features {hashed}", f"numpy {np.__version__}", f"numba {numba()}", *forced])


@cache
def features() -> list[str]:
    """The processor's instruction sets as NumPy sees them."""
    for name in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        with contextlib.suppress(ImportError):
            found = getattr(importlib.import_module(name), "__cpu_features__", {})
            return sorted(feature for feature, there in found.items() if there)
    return []


@cache
def numba() -> str:
    """Numba's version, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("numba")
    except PackageNotFoundError:
        return "none"


def digest(record: Record) -> bytes:
    """32 bytes that stand for a record; two that are equal have the same, whatever the order of their keys."""
    canonical = json.dumps(record, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two records differ, a line each: `pooling: was 'mean', is 'cls'`."""
    names = [name for name in (*old, *(k for k in new if k not in old)) if old.get(name) != new.get(name)]
    return [f"{name}: was {brief(old.get(name))}, is {brief(new.get(name))}" for name in names]


def brief(value: Any) -> str:
    """A value in at most 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
