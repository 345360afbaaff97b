"""sentence-transformers' `SentenceTransformer`, as far as it embeds, without PyTorch.

    from refembed.compat.sentence_transformers import SentenceTransformer
    model = SentenceTransformer("all-MiniLM-L6-v2.gguf")
    model.similarity(model.encode("a query"), model.encode(["one", "another"]))

`semantics` is "original" here: the model as published, whose numbers sentence-transformers gives; elsewhere in refembed
it is llama.cpp's. What differs: GGUF does not keep whether the published model has a Normalize module, so `normalize`
says so (True, as of most); prompts are those you give; `max_seq_length` is the model's n_ctx, since GGUF does not keep
the published limit; `similarity`, `tokenize` and token_embeddings give NumPy arrays. Where a text is cut, that is
logged. convert_to_tensor needs torch. Ignored: batch_size (it changes no bits), show_progress_bar, device, backend,
cache_folder, revision, trust_remote_code, token. A pool has as many processes as there are target devices named; while
it runs, all of `encode` goes through it. Training and saving are refused.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, I64
from refembed.compat.common import (
    PROMPT_NAMES,
    InputTypeError,
    InputValueError,
    StateError,
    UnsupportedError,
    checked_prompts,
    prompts_of,
    refused,
)
from refembed.compress import quantize
from refembed.embedder import Embedder
from refembed.pipeline.truncate import truncate
from refembed.pooling.normalize import normalize as normalize_rows
from refembed.similarity import cosine, dot, euclidean, manhattan

log = logging.getLogger(__name__)

SIMILARITIES: dict[str, Callable[[Any, Any], Any]] = {  # distances are negative: larger is always more alike
    "cosine": cosine,
    "dot": dot,
    "euclidean": lambda a, b: -np.asarray(euclidean(a, b)),
    "manhattan": lambda a, b: -np.asarray(manhattan(a, b)),
}
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
IGNORED = (
    "device", "backend", "cache_folder", "revision", "trust_remote_code", "local_files_only", "token", "use_auth_token",
    "model_kwargs", "processor_kwargs", "tokenizer_kwargs", "config_kwargs", "model_card_data",
)  # fmt: skip


class SentenceTransformer:
    """A model that encodes.

    model_name_or_path    a GGUF file, a folder as Hugging Face has it, or a name that refembed knows; an Embedder
    prompts               name -> what to put in front of a text; "model": what it was trained with
                          (`refembed.hub.prompts`)
    default_prompt_name   the prompt of an `encode` that names none
    truncate_dim          keep the first so many numbers of each vector
    similarity_fn_name    cosine, dot, euclidean, manhattan
    normalize             whether the published model ends in a Normalize module: its vectors then have length 1
    pooling               as in `Embedder.embed`
    options               for `Embedder.load`: numerics, semantics, lora ...; and what is ignored
    Raises GGUFError, ModelError, DownloadError, RequestError.
    """

    def __init__(
        self, model_name_or_path: str | Path | Embedder = "minilm", *, prompts: Mapping[str, str] | str | None = None,
        default_prompt_name: str | None = None, truncate_dim: int | None = None,
        similarity_fn_name: str | None = None, normalize: bool = True, pooling: str = "native", **options: Any,
    ) -> None:  # fmt: skip
        given = model_name_or_path
        load = {"semantics": "original"} | {k: v for k, v in options.items() if k not in IGNORED}
        self.embedder = given if isinstance(given, Embedder) else Embedder.load(given, **load)
        self.prompts = prompts_of(self.embedder, checked_prompts(prompts))
        self.default_prompt_name = default_prompt_name
        if default_prompt_name is not None and default_prompt_name not in self.prompts:
            raise InputValueError(f"default_prompt_name {default_prompt_name!r}", hint=f"one of {list(self.prompts)}")
        self.truncate_dim, self.normalize, self.pooling = truncate_dim, normalize, pooling
        self.similarity_fn_name = similarity_fn_name or "cosine"
        self.max_seq_length = self.embedder.info.n_ctx
        self.device = "cpu"

    def encode(
        self, inputs: str | Sequence[str], prompt_name: str | None = None, prompt: str | None = None,
        batch_size: int = 32, show_progress_bar: bool | None = None, output_value: str | None = "sentence_embedding",
        precision: str = "float32", convert_to_numpy: bool = True, convert_to_tensor: bool = False,
        device: Any = None, normalize_embeddings: bool = False, truncate_dim: int | None = None, pool: Any = None,
        chunk_size: int | None = None, *, sentences: str | Sequence[str] | None = None,
    ) -> Any:  # fmt: skip
        """Vectors of texts.

        inputs                one text or several; also under the older name `sentences`
        prompt, prompt_name   what stands in front of each text; a prompt goes over its name
        output_value          "sentence_embedding"; "token_embeddings": a list of (T, D), one vector a token, raw;
                              None: a list of dictionaries with both, and the token ids
        precision             float32, int8, uint8 (ranges of this very call), binary, ubinary: `quantized`
        convert_to_numpy      an array; else a list of vectors
        pool                  of `start_multi_process_pool`; it is used whether it is named here or not
        normalize_embeddings  to length 1 also after truncate_dim has cut
        returns               (S, D) float32; (D) for one text. No text: an empty array
        Raises RequestError (a ValueError too) for an argument that is none of these.
        """
        if pool is not None and self.embedder.running_pool() is None:
            raise StateError("encode: no pool of processes is running", hint="start_multi_process_pool() starts one")
        if isinstance(device, (list, tuple)):
            raise UnsupportedError(
                "encode: a list of devices", hint="start_multi_process_pool(['cpu'] * 4), then encode"
            )
        if precision not in PRECISIONS:
            raise InputValueError(f"precision {precision!r}", hint=f"one of {', '.join(PRECISIONS)}")
        if output_value not in ("sentence_embedding", "token_embeddings", None):
            raise InputValueError(f"output_value {output_value!r}", hint="sentence_embedding, token_embeddings or None")
        texts, alone = self.texts_of(inputs if sentences is None else sentences)
        ids = self.ids_of([self.prompt_of(prompt, prompt_name) + text for text in texts])
        if output_value != "sentence_embedding":
            rows = [self.outputs(tokens, output_value) for tokens in ids]
            return rows[0] if alone else rows
        found = self.vectors(ids, self.truncate_dim if truncate_dim is None else truncate_dim, normalize_embeddings)
        made: Any = quantized(found, precision) if len(ids) else np.array([], np.float64)
        if convert_to_tensor:
            made = tensor(made)
        elif not convert_to_numpy:
            made = list(made)
        return made[0] if alone else made

    def encode_query(self, inputs: str | Sequence[str], prompt_name: str | None = None, **options: Any) -> Any:
        """`encode` with the prompt named "query", if there is one."""
        return self.encode(inputs, self.prompt_named("query", prompt_name, options), **options)

    def encode_document(self, inputs: str | Sequence[str], prompt_name: str | None = None, **options: Any) -> Any:
        """`encode` with the prompt named "document", "passage" or "corpus", if there is one."""
        return self.encode(inputs, self.prompt_named("document", prompt_name, options), **options)

    def similarity(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> F32:
        """How alike every vector of one set (N, D) and every vector of another (M, D) are: (N, M) float32."""
        a, b = (np.atleast_2d(numbers(x)) for x in (embeddings1, embeddings2))
        return np.asarray(SIMILARITIES[self.similarity_fn_name](a, b), np.float32)

    def similarity_pairwise(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> F32:
        """How alike the vectors at the same place of two sets (N, D) are: (N) float32."""
        a, b = (np.atleast_2d(numbers(x)) for x in (embeddings1, embeddings2))
        if len(a) != len(b):
            raise InputValueError(f"similarity_pairwise: {len(a)} vectors and {len(b)}")
        measure = SIMILARITIES[self.similarity_fn_name]
        return np.array([measure(x, y) for x, y in zip(a, b, strict=True)], np.float32)

    def tokenize(self, texts: Sequence[str]) -> dict[str, I64]:
        """Token ids, padded to the longest text, and 1 where there is one: {"input_ids", "attention_mask"} (S, T)."""
        ids = self.ids_of(list(texts))
        pad = self.embedder.tokenizer.vocab.pad or 0
        T = max(map(len, ids), default=0)
        return {
            "input_ids": np.array([row + [pad] * (T - len(row)) for row in ids], np.int64).reshape(len(ids), T),
            "attention_mask": np.array([[1] * len(r) + [0] * (T - len(r)) for r in ids], np.int64).reshape(len(ids), T),
        }

    preprocess = tokenize

    def get_embedding_dimension(self) -> int:
        """D, after truncate_dim."""
        whole = self.embedder.info.n_embd_out
        return whole if self.truncate_dim is None else min(whole, self.truncate_dim)

    get_sentence_embedding_dimension = get_embedding_dimension

    def get_max_seq_length(self) -> int:
        """Tokens that are kept of a text."""
        return self.max_seq_length

    @contextlib.contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Another truncate_dim for a while."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    @property
    def tokenizer(self) -> Any:
        """refembed's tokenizer of the model."""
        return self.embedder.tokenizer

    @property
    def similarity_fn_name(self) -> str:
        """The name of what `similarity` computes."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: Any) -> None:
        self._similarity = str(getattr(name, "value", name))
        if self._similarity not in SIMILARITIES:
            raise InputValueError(f"similarity_fn_name {name!r}", hint=f"one of {', '.join(SIMILARITIES)}")

    def texts_of(self, inputs: str | Sequence[str]) -> tuple[list[str], bool]:
        """The texts, and whether there was one alone."""
        alone = isinstance(inputs, str)
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        for text in texts:
            if not isinstance(text, str):
                raise InputTypeError(f"encode takes texts; {type(text).__name__} is none")
        return texts, alone

    def prompt_of(self, prompt: str | None, name: str | None) -> str:
        """The prompt that a call asks for."""
        if prompt is not None:
            return prompt
        if name is not None and name not in self.prompts:
            raise InputValueError(
                f"prompt_name {name!r}: the prompts are {list(self.prompts)}", hint="prompts={name: text}"
            )
        chosen = self.default_prompt_name if name is None else name
        return "" if chosen is None else self.prompts[chosen]

    def prompt_named(self, kind: str, name: str | None, options: Mapping[str, Any]) -> str | None:
        """The name of the prompt for a query, or a document, unless the call has one."""
        if name is not None or options.get("prompt") is not None:
            return name
        return next((n for n in PROMPT_NAMES[kind] if n in self.prompts), None)

    def ids_of(self, texts: list[str]) -> list[list[int]]:
        """Token ids, at most max_seq_length of a text: its last special token stays. What is cut is logged."""
        whole = [self.embedder.tokenize(text, parse_special=True) for text in texts]
        limit, closes = min(self.max_seq_length, self.embedder.info.n_ctx), bool(self.embedder.tokenizer.back())
        cut = [truncate(ids, limit, keep_last=closes) for ids in whole]
        n = sum(len(a) < len(b) for a, b in zip(cut, whole, strict=True))
        if n:
            log.warning("%d of %d texts have more than %d tokens and were cut", n, len(texts), limit)
        return cut

    def vectors(self, ids: list[list[int]], dimensions: int | None, again: bool) -> F32:
        """Vectors (S, D): pooled, normalized where the model does that, cut, normalized again where asked."""
        width = self.embedder.info.n_embd_out
        norm = 2 if self.normalize or (again and dimensions is None) else -1
        found = self.embedder.embed(ids, pooling=self.pooling, normalize=norm)
        if isinstance(found, list):
            raise StateError(f"{self.embedder.info.path}: the file names no pooling", hint="pooling='mean' or 'last'")
        if dimensions is not None and dimensions < 1:
            raise InputValueError(f"truncate_dim {dimensions}: at least 1")
        if dimensions is None or dimensions >= width:
            return normalize_rows(found, 2) if again and norm != 2 else found
        cut = np.ascontiguousarray(found[:, :dimensions])
        return normalize_rows(cut, 2).astype(np.float32) if again else cut

    def outputs(self, ids: list[int], output_value: str | None) -> Any:
        """What one text comes to before and after pooling."""
        rows = self.embedder.vectors([ids], "none")[0]
        if output_value == "token_embeddings":
            return rows
        vector = self.vectors([ids], self.truncate_dim, False)[0]
        return {"token_embeddings": rows, "sentence_embedding": vector, "input_ids": np.array(ids, np.int64),
                "attention_mask": np.ones(len(ids), np.int64)}  # fmt: skip

    def start_multi_process_pool(self, target_devices: Sequence[str] | None = None) -> dict[str, Any]:
        """Let one process for each device named compute (`Embedder.start_pool`); None: one for each core."""
        self.embedder.start_pool(None if target_devices is None else len(target_devices))
        pool = self.embedder.running_pool()
        return {"processes": [] if pool is None else pool.pids}

    def stop_multi_process_pool(self, pool: Any = None) -> None:
        """End these processes."""
        self.embedder.stop_pool()

    def encode_multi_process(self, inputs: Sequence[str], pool: Any = None, **options: Any) -> Any:
        """`encode`, whose texts the running pool shares."""
        return self.encode(inputs, **options)

    fit = refused("SentenceTransformer.fit", "refembed runs models, it trains none")
    save = refused("SentenceTransformer.save", "`refembed convert` and `refembed quantize` write GGUF files")
    save_pretrained = refused("SentenceTransformer.save_pretrained", "`refembed convert` writes GGUF files")
    push_to_hub = refused("SentenceTransformer.push_to_hub", "refembed uploads nothing")


def quantized(x: F32, precision: str) -> npt.NDArray[Any]:
    """Vectors (S, D) in fewer bits: `refembed.compress.quantize`.

    int8, uint8      (S, D)        x between the least (0) and the largest (255) of its column in x; int8 is 128 less
    binary, ubinary  (S, D/8 up)   a bit a number, 1 where it is above 0, the first the highest; binary is 128 less
    """
    if precision == "float32":
        return x
    if precision in ("binary", "ubinary"):
        return quantize(x, precision)
    if len(x) < 2:
        hint = "encode several texts in one call, 100 and more"
        raise InputValueError(f"precision {precision!r}: the ranges of {len(x)} vector say nothing", hint=hint)
    if len(x) < 100:
        log.warning("precision %s: the ranges come from %d vectors; 100 and more are advised", precision, len(x))
    return quantize(x, precision)


def numbers(x: npt.ArrayLike) -> npt.NDArray[Any]:
    """Vectors as an array, PyTorch's included."""
    found = np.asarray([np.asarray(v) for v in x] if isinstance(x, (list, tuple)) else x)
    return found.astype(np.float32) if found.dtype.kind in "iu" else found


def tensor(x: npt.NDArray[Any]) -> Any:
    """PyTorch's tensor of an array, or one sentence."""
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError:
        raise UnsupportedError("convert_to_tensor needs torch: pip install torch", hint="or take the array") from None
    return torch.as_tensor(x)
