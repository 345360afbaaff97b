"""What a model's file says that no vector needs: for `/props` and `/v1/models`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refembed.embedder import Embedder


# tokenizer.ggml.model -> enum llama_vocab_type
VOCAB_TYPES = {"no_vocab": 0, "llama": 1, "gpt2": 2, "bert": 3, "t5": 4, "rwkv": 5, "plamo2": 6}


# general.file_type (enum llama_ftype) -> llama.cpp's word for it: src/llama-model-loader.cpp
FILE_TYPES = {
    0: "all F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K - Medium",
    11: "Q3_K - Small", 12: "Q3_K - Medium", 13: "Q3_K - Large", 14: "Q4_K - Small", 15: "Q4_K - Medium",
    16: "Q5_K - Small", 17: "Q5_K - Medium", 18: "Q6_K", 19: "IQ2_XXS - 2.0625 bpw", 20: "IQ2_XS - 2.3125 bpw",
    21: "Q2_K - Small", 22: "IQ3_XS - 3.3 bpw", 23: "IQ3_XXS - 3.0625 bpw", 24: "IQ1_S - 1.5625 bpw",
    25: "IQ4_NL - 4.5 bpw", 26: "IQ3_S - 3.4375 bpw", 27: "IQ3_S mix - 3.66 bpw", 28: "IQ2_S - 2.5 bpw",
    29: "IQ2_M - 2.7 bpw", 30: "IQ4_XS - 4.25 bpw", 31: "IQ1_M - 1.75 bpw", 32: "BF16",
    36: "TQ1_0 - 1.69 bpw ternary", 37: "TQ2_0 - 2.06 bpw ternary", 38: "MXFP4 MoE", 39: "NVFP4", 40: "Q1_0",
    41: "Q2_0",
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What a model's file says that no vector needs."""

    vocab_type: int
    n_params: int
    size: int  # bytes of all tensors
    file_type: str
    bos: str
    eos: str
    chat_template: str
    causal: bool  # {arch}.attention.causal; llama.cpp takes true where the key is absent
    modified: float  # seconds since 1970

    @classmethod
    def of(cls, embedder: Embedder) -> Facts:
        info, tokenizer = embedder.info, embedder.tokenizer
        f = embedder.file
        kind = f.metadata.of_type("general.file_type", int)
        bos, eos = (
            "" if i is None else tokenizer.piece(i).decode(errors="replace")
            for i in (tokenizer.vocab.bos, tokenizer.vocab.eos)
        )
        template = f.metadata.of_type("tokenizer.chat_template", str)
        return cls(
            VOCAB_TYPES.get(info.tokenizer, 0),
            sum(math.prod(t.shape) for t in f.tensors.values()),
            sum(t.nbytes for t in f.tensors.values()),
            guessed(info.quant_types) if kind is None else FILE_TYPES.get(kind, "unknown, may not work"),
            bos,
            eos,
            template or "",
            f.metadata.flag(f"{info.architecture}.attention.causal", True),
            info.path.stat().st_mtime,
        )


def guessed(types: dict[str, int]) -> str:
    """The file type of a file that names none: after the type most tensors have, F32 only where there is no other."""
    names = [name for name in types if name != "F32"]
    return f"(guessed) {names[0] if names else 'all F32'}"
