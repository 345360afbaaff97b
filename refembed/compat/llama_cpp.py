"""llama-cpp-python's `Llama`, as far as it embeds (llama_cpp/llama.py of 0.3.36).

    from refembed.compat.llama_cpp import Llama
    llm = Llama(model_path="model.gguf", embedding=True)
    llm.create_embedding(["Hello, world!"])["data"][0]["embedding"]

As there: vectors are raw unless `normalize` is given, a text is cut to n_batch tokens (512) unless `truncate` is
False, and special tokens that are spelled out in a text stay text. Two things differ. A reranker (pooling_type 4) gives
its scores, where llama-cpp-python reads n_embd numbers from beyond them. n_batch is never more than the model reads;
there llama.cpp may abort. Arguments that would change the numbers and cannot be had (kv_overrides, rope_*, yarn_*,
attention_type) are errors; those that would not (GPU layers, threads, mmap, sampling, caches, chat formats) are
ignored. lora_path, lora_scale and flash_attn are honored, the last for numerics "ggml". Writing text is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refembed.compat.common import (
    InputTypeError,
    InputValueError,
    StateError,
    UnsupportedError,
    metadata_text,
    refused,
    token_or_null,
)
from refembed.embedder import Embedder
from refembed.pipeline.truncate import truncate as truncate_ids
from refembed.pooling.poolers import POOLING_TYPES

LLAMA_POOLING_TYPE_UNSPECIFIED = -1
LLAMA_POOLING_TYPE_NONE = 0
LLAMA_POOLING_TYPE_MEAN = 1
LLAMA_POOLING_TYPE_CLS = 2
LLAMA_POOLING_TYPE_LAST = 3
LLAMA_POOLING_TYPE_RANK = 4

# Arguments that would change the numbers -> the one value at which they do not
FIXED: dict[str, Any] = {
    "kv_overrides": None, "rope_scaling_type": -1, "attention_type": -1, "rope_freq_base": 0.0, "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0, "yarn_attn_factor": 1.0, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "yarn_orig_ctx": 0,
    "lora_base": None, "tokenizer": None, "type_k": None, "type_v": None,
}  # fmt: skip
# Arguments that make no difference to an embedding
IGNORED = (
    "n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "vocab_only", "use_mmap", "use_mlock", "seed",
    "n_threads", "n_threads_batch", "logits_all", "offload_kqv", "op_offload", "swa_full", "no_perf",
    "last_n_tokens_size", "numa", "chat_format", "chat_handler", "draft_model", "spm_infill", "verbose",
)  # fmt: skip


class Llama:
    """A model that embeds.

    model_path    a GGUF file, or a name that refembed knows
    embedding     must be True for it to embed
    n_ctx         0: what the model was trained for
    n_batch       the longest text, in tokens, if not n_ctx is less
    pooling_type  LLAMA_POOLING_TYPE_...; -1: what the file says
    numerics      as `Embedder.load`; "ggml" has llama-cpp-python's own bits: texts of one call run together there, and
                  so here, in pieces of n_batch and n_ubatch tokens. Elsewhere n_ubatch does nothing
    options       llama-cpp-python's other arguments: see the module
    Raises GGUFError, ModelError, DownloadError, RequestError.
    """

    def __init__(
        self, model_path: str | Path, *, embedding: bool = False, n_ctx: int = 512, n_batch: int = 512,
        n_ubatch: int = 512, pooling_type: int = -1, flash_attn: bool = False, lora_path: str | None = None,
        lora_scale: float = 1.0, numerics: str = "auto", **options: Any,
    ) -> None:  # fmt: skip
        check_options(options, pooling_type)
        lora = [f"{lora_path}:{lora_scale}"] if lora_path else []
        self.model_path, self.embedding = str(model_path), embedding
        together = min(n_ctx or n_batch, n_batch, n_ubatch)
        self.embedder = Embedder.load(
            model_path, numerics=numerics, flash_attn=flash_attn, lora=lora, n_ubatch=together
        )
        info = self.embedder.info
        self._n_ctx = n_ctx or info.n_ctx
        self.n_batch = min(self._n_ctx, n_batch, info.n_ctx)
        own = next(number for number, name in POOLING_TYPES.items() if name == info.pooling)
        self._pooling_type = own if pooling_type == LLAMA_POOLING_TYPE_UNSPECIFIED else pooling_type

    @classmethod
    def from_pretrained(cls, repo_id: str, filename: str | None, **options: Any) -> Llama:
        """A file of a Hugging Face repository, fetched once (`refembed[hub]`). Patterns in filename are refused."""
        if filename is not None and any(c in filename for c in "*?["):
            raise UnsupportedError(f"from_pretrained: filename {filename!r} is a pattern; name one file")
        return cls(f"{repo_id}:{filename}" if filename else repo_id, **options)

    def create_embedding(self, input: str | list[str], model: str | None = None) -> dict[str, Any]:
        """Vectors in OpenAI's form: {"object", "data": [{"object", "embedding", "index"}], "model", "usage"}."""
        embeddings, count = self.embed(input if isinstance(input, list) else [input], return_count=True)
        return {
            "object": "list",
            "data": [{"object": "embedding", "embedding": e, "index": i} for i, e in enumerate(embeddings)],
            "model": self.model_path if model is None else model,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }

    def embed(
        self, input: str | list[str], normalize: bool = False, truncate: bool = True, return_count: bool = False
    ) -> Any:
        """Vectors of texts.

        input         one text or a list
        normalize     to length 1; otherwise raw
        truncate      keep the first n_batch tokens of a longer text (its closing special token goes too), else refuse
        returns       a list of D numbers, or a list of such for a list of texts; T such lists a text where nothing is
                      pooled; with return_count that and the number of tokens
        Raises RequestError: a RuntimeError too without embedding=True, a ValueError too for a text that is too long.
        """
        if not self.embedding:
            raise StateError("Llama model must be created with embedding=True to call this method")
        ids = [self.ids_of(text, truncate) for text in ([input] if isinstance(input, str) else input)]
        how = POOLING_TYPES[self._pooling_type]
        rows = self.embedder.embed(ids, pooling=how, normalize=2 if normalize else -1)
        found = [row.tolist() for row in rows]
        output = found[0] if isinstance(input, str) else found
        return (output, sum(map(len, ids))) if return_count else output

    def ids_of(self, text: str, truncate: bool) -> list[int]:
        """Token ids of a text, not too many."""
        if not isinstance(text, str):
            raise InputTypeError(f"embed takes a string or a list of strings, not {type(text).__name__}")
        ids = self.tokenize(text.encode())
        ids = truncate_ids(ids, self.n_batch, keep_last=False) if truncate else ids
        if len(ids) > self.n_batch:
            raise InputValueError(f"Requested tokens ({len(ids)}) exceed batch size of {self.n_batch}")
        return ids

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids; add_bos: with the model's special tokens; special: `[SEP]` in the text is that token."""
        return self.embedder.tokenize(text, add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The text of token ids, piece by piece; control tokens only with special. prev_tokens is ignored, as there."""
        pieces = b"".join(self.embedder.tokenizer.piece(token, special) for token in tokens)
        return pieces[1:] if tokens and tokens[0] == self.token_bos() and pieces.startswith(b" ") else pieces

    def n_ctx(self) -> int:
        """Tokens of the context."""
        return self._n_ctx

    def n_embd(self) -> int:
        """{arch}.embedding_length."""
        return self.embedder.info.n_embd

    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return self.embedder.info.n_vocab

    def pooling_type(self) -> int:
        """LLAMA_POOLING_TYPE_..."""
        return self._pooling_type

    def token_bos(self) -> int:
        """BOS, -1 where there is none."""
        return token_or_null(self.embedder.tokenizer.vocab.bos)

    def token_eos(self) -> int:
        """EOS, -1 where there is none."""
        return token_or_null(self.embedder.tokenizer.vocab.eos)

    @property
    def metadata(self) -> dict[str, str]:
        """The keys of the GGUF file that are no arrays, as text."""
        return metadata_text(self.embedder)

    def tokenizer(self) -> LlamaTokenizer:
        """Encoding and decoding str."""
        return LlamaTokenizer(self)

    def reset(self) -> None:
        """Nothing is kept between calls."""

    def set_seed(self, seed: int) -> None:
        """Nothing is drawn."""

    def set_cache(self, cache: object) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing has to be freed."""

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Raises UnsupportedError."""
        raise UnsupportedError("Llama(...)(prompt): refembed makes embeddings, it writes no text")

    create_completion = refused("Llama.create_completion")
    create_chat_completion = refused("Llama.create_chat_completion")
    create_chat_completion_openai_v1 = refused("Llama.create_chat_completion_openai_v1")
    generate = refused("Llama.generate")
    eval = refused("Llama.eval")
    sample = refused("Llama.sample")
    save_state = refused("Llama.save_state")
    load_state = refused("Llama.load_state")
    token_nl = refused("Llama.token_nl")
    logits_to_logprobs = refused("Llama.logits_to_logprobs")
    longest_token_prefix = refused("Llama.longest_token_prefix")


class LlamaTokenizer:
    """llama-cpp-python's tokenizer: str for bytes, special tokens parsed."""

    def __init__(self, llama: Llama) -> None:
        self.llama = llama

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        """Token ids of a text."""
        return self.llama.tokenize(text.encode(errors="ignore"), add_bos, special)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        return self.llama.detokenize(tokens).decode(errors="ignore")


def check_options(options: dict[str, Any], pooling_type: int) -> None:
    """Refuse what would change the numbers, and what is unknown."""
    if pooling_type not in POOLING_TYPES:
        raise InputValueError(f"pooling_type {pooling_type!r}", hint=f"one of {', '.join(map(str, POOLING_TYPES))}")
    for name, value in options.items():
        if name in FIXED and value not in (None, FIXED[name]):
            raise UnsupportedError(f"{name}={value!r} would change the numbers; refembed has only {FIXED[name]!r}")
        if name not in FIXED and name not in IGNORED:
            raise InputTypeError(f"Llama() got an unexpected keyword argument {name!r}")
