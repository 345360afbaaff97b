"""A small BERT with random weights: every tensor the architecture reads, odd sizes, a few dozen word pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from refembed.gguf import GGUFWriter
from refembed.model.bert import Weights
from refembed.model.weights import declared

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "hello",
    "world",
    "embed",
    "ding",
    "s",
    "ed",
    "ing",
    ",",
    ".",
    "!",
    "?",
    "1",
    "2",
    "3",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "k",
    "l",
    "m",
    "n",
    "o",
    "p",
    "q",
    "r",
    "t",
    "u",
    "v",
    "w",
    "x",
    "y",
    "z",
]
VOCAB = SPECIAL + ["▁" + w for w in WORDS] + [w for w in WORDS if w.isalpha()]


def tiny_bert(
    path: Path,
    *,
    seed: int = 0,
    C: int = 32,
    F: int = 48,
    n_head: int = 4,
    n_layer: int = 2,
    P: int = 64,
    fused_qkv: bool = False,
    biases: bool = True,
    token_types: bool = True,
    pooling: int | None = 1,
    eps: float = 1e-12,
) -> Path:
    """Write the model and return its path. `biases`, `token_types`, `fused_qkv` choose among the optional tensors."""
    rng = np.random.default_rng(seed)
    w = GGUFWriter("bert")
    for key, value in (
        ("block_count", n_layer),
        ("context_length", P),
        ("embedding_length", C),
        ("feed_forward_length", F),
        ("attention.head_count", n_head),
    ):
        w.add(f"bert.{key}", value, "UINT32")
    w.add("general.name", "tiny", "STRING")
    w.add("bert.attention.layer_norm_epsilon", eps, "FLOAT32")
    w.add("bert.attention.causal", False, "BOOL")
    if pooling is not None:
        w.add("bert.pooling_type", pooling, "UINT32")
    w.add("tokenizer.ggml.model", "bert", "STRING")
    w.add("tokenizer.ggml.token_type_count", 2, "UINT32")
    w.add("tokenizer.ggml.tokens", [t.encode() for t in VOCAB], "ARRAY[STRING]")
    w.add("tokenizer.ggml.token_type", [3] * len(SPECIAL) + [1] * (len(VOCAB) - len(SPECIAL)), "ARRAY[INT32]")
    for name, i in (("padding", 0), ("unknown", 1), ("bos", 2), ("seperator", 3), ("mask", 4)):
        w.add(f"tokenizer.ggml.{name}_token_id", i, "UINT32")
    sizes = {"V": len(VOCAB), "C": C, "P": P, "F": F, "3C": 3 * C, "types": 2, "R": 1}
    for name, letters, presence in declared(Weights, n_layer):
        optional = presence == "optional"
        if name.startswith("cls") or ((".attn_qkv." in name) != fused_qkv and ".attn_q" in name):
            continue
        if fused_qkv and (".attn_k." in name or ".attn_v." in name):
            continue
        if (optional and name.endswith(".bias") and not biases) or (name.startswith("token_types") and not token_types):
            continue
        shape = tuple(sizes[s] for s in letters.split())
        scale = 1.0 if "embd" in name or "norm" in name else 1.5 / np.sqrt(shape[-1])
        x = rng.standard_normal(shape) * scale + (1.0 if name.endswith("norm.weight") else 0.0)
        w.add_tensor(name, x.astype(np.float32), shape, "F32")
    return w.write(path) or path
