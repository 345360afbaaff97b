"""An encoder for MTEB's tasks.

    import mteb
    from refembed.compat.mteb import Encoder
    mteb.evaluate(Encoder("model.gguf", prompts="model"), tasks)

Queries and documents of retrieval tasks get the prompts named "query" and "document", where there are any; texts of
other tasks get none, and neither do queries the instructions that a task brings. A text that is too long is cut, as
other models of MTEB do. Similarity is the cosine. Needs mteb.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.compat.common import InputValueError, Source, need
from refembed.embedder import Embedder
from refembed.similarity import cosine

need("mteb", "mteb", "mteb")
from mteb.models.model_meta import ModelMeta, ScoringFunction  # noqa: E402 - see the line above


class Encoder:
    """Texts to float32 vectors, by MTEB's EncoderProtocol.

    Arguments as of `refembed.compat.common.Source`; truncate is True here, and `load` goes to `Embedder.load`.
    """

    def __init__(
        self, model: str | Path | Embedder = "minilm", revision: str | None = None, *, device: str | None = None,
        pooling: str = "native", dimensions: int | None = None, truncate: bool = True,
        prompts: Mapping[str, str] | str | None = None, **load: Any,
    ) -> None:  # fmt: skip
        """revision, device: MTEB passes them; a file has one revision, and the CPU computes."""
        self.source = Source(
            model, pooling=pooling, dimensions=dimensions, truncate=truncate, prompts=prompts, load=load
        )
        self.mteb_model_meta = describe(self.source)

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *, task_metadata: Any = None, hf_split: str = "",
        hf_subset: str = "", prompt_type: Any = None, **kwargs: Any,
    ) -> F32:  # fmt: skip
        """Vectors (S, D) of the texts in all batches, in order.

        inputs       batches, each with its texts under "text"
        prompt_type  "query", "document", or None for texts that are neither
        """
        kind = "" if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise InputValueError(f"a batch of {', '.join(batch)}: this model reads texts only")
            texts += batch["text"]
        return self.source.vectors(texts, kind)

    def similarity(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> F32:
        """The cosine of every vector of one set (N, D) and every vector of another (M, D): (N, M)."""
        return np.asarray(cosine(np.atleast_2d(numbers(embeddings1)), np.atleast_2d(numbers(embeddings2))), np.float32)

    def similarity_pairwise(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> F32:
        """The cosine of the vectors at the same place of two sets (N, D): (N)."""
        a, b = (np.atleast_2d(numbers(x)) for x in (embeddings1, embeddings2))
        if a.shape != b.shape:
            raise InputValueError(f"similarity_pairwise: sets of shapes {a.shape} and {b.shape}")
        return np.array([cosine(x, y) for x, y in zip(a, b, strict=True)], np.float32)


def numbers(x: npt.ArrayLike) -> npt.NDArray[Any]:
    """Vectors as an array; a tensor as its numbers."""
    return np.asarray(x)


def describe(source: Source) -> ModelMeta:
    """What MTEB keeps of a model next to its results."""
    e = source.embedder
    name = e.info.name if "/" in e.info.name else f"refembed/{e.info.name.replace(' ', '-')}"
    return ModelMeta.create_empty(
        overwrites={
            "name": name, "revision": e.info.sha256, "n_parameters": e.info.n_params,
            "max_tokens": e.info.n_ctx, "embed_dim": source.dimensions or e.info.n_embd_out,
            "memory_usage_mb": e.info.file_size / 2**20, "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": bool(source.prompts), "framework": ["GGUF", "NumPy"],
        }
    )  # fmt: skip
