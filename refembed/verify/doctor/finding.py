"""What checks work on (a model file), and what they give (findings)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from refembed.errors import RefembedError
from refembed.gguf import GGUFFile
from refembed.hub.prompts import is_called, names
from refembed.model import Model, load_model
from refembed.model.hparams import POOLING_NAMES
from refembed.tokenizer import Tokenizer, load_tokenizer

ENCODERS = (
    "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "modern-bert", "neo-bert", "eurobert",
    "t5encoder", "gemma-embedding", "gemma-embedding2", "llama-embed", "llada-moe",
)  # fmt: skip


EMBEDDERS = ("embed", "e5", "bge", "gte", "sentence", "nomic", "jina", "minilm", "arctic")  # in names of models


SEE_ALL = {  # names as `hub.prompts` spells them -> architectures, and who says that such a model sees the whole text
    "gte-qwen2-7b-instruct": (("qwen2",), "https://huggingface.co/Alibaba-NLP/gte-Qwen2-7B-instruct/discussions/30"),
    "giga-embeddings-instruct-3b-0826": (("qwen3",), "https://github.com/sgl-project/sglang/pull/35531"),
    "giga-embeddings-instruct-10b-a1.8b-0826": (("deepseek2",), "https://github.com/sgl-project/sglang/pull/35532"),
    "kalm-embedding-multilingual-mini-instruct-v2": (
        ("qwen2",), "https://huggingface.co/HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v2",
    ),
    "kalm-embedding-multilingual-mini-instruct-v2.5": (
        ("qwen2",), "https://huggingface.co/KaLM-Embedding/KaLM-embedding-multilingual-mini-instruct-v2.5",
    ),
}  # fmt: skip
EMBEDDING_GEMMA = "embedding-?gemma-300m(-qat-q[48]-0(-unquantized)?)?"
STORED_AS = {  # names -> what they are stored as by mistake, what they are, and who met such a file
    "kalm-embedding-gemma3-12b-2511": ("gemma3", "gemma-embedding", "https://github.com/ollama/ollama/issues/13571"),
    EMBEDDING_GEMMA: ("gemma3", "gemma-embedding", "https://github.com/ggml-org/llama.cpp/pull/15798"),
}
NO_DENSE = ("kalm-embedding-gemma3-12b-2511", "harrier-oss-v1-(270m|27b)")  # unlike others that are gemma-embedding
COLBERT = "lfm2(.5)?-colbert-350m"  # has one dense layer, for every token


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed."""

    severity: str  # one of SEVERITIES
    check: str  # which check found it: "pooling"
    says: str  # what is there
    do: str  # what to do about it
    where: str = ""  # the key or tensor


class ModelFile:
    """A file, and what can be loaded of it; what cannot is None, and `trouble` says why."""

    def __init__(self, f: GGUFFile) -> None:
        self.f, self.md, self.tensors = f, f.metadata, f.tensors
        self.arch = f.metadata.string("general.architecture", "")
        self.name = f.metadata.string("general.name", f.path.stem)
        self.trouble: list[RefembedError] = []

    @cached_property
    def model(self) -> Model | None:
        try:
            return load_model(self.f)
        except RefembedError as e:
            self.trouble.append(e)
            return None

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer."""
        try:
            return load_tokenizer(self.f)
        except RefembedError as e:
            self.trouble.append(e)
            return None

    @property
    def is_encoder(self) -> bool:
        """Whether tokens see what comes behind them, by the architecture."""
        return self.arch in ENCODERS

    @property
    def pooling(self) -> str | None:
        """{arch}.pooling_type by name; None where it is absent or unspecified."""
        number = self.md.of_type(f"{self.arch}.pooling_type", int)
        return None if number is None else POOLING_NAMES.get(number)

    @property
    def said_to_see_all(self) -> str:
        """Who says that a model of this name was trained with tokens that see what follows them; "" where it is none.

        A language model's architecture looks back unless the file says otherwise, and converters may not know.
        """
        for pattern, (architectures, source) in SEE_ALL.items():
            if self.arch in architectures and self.is_called(pattern):
                return source
        return ""

    def is_called(self, pattern: str) -> bool:
        """Whether the file has a model's name, as `hub.prompts` spells it."""
        return any(is_called(name, pattern) for name in names(self.f))

    @property
    def calls_itself_embedder(self) -> bool:
        """Whether the name says so."""
        name = self.name.lower()
        return any(part in name for part in EMBEDDERS) or "rerank" in name


Check = Callable[[ModelFile], Iterator[Finding]]
