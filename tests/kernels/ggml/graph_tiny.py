"""Small models with random weights and no vocabulary, one for each kind of attention that real graphs have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from refembed.kernels.ops import AttentionMask

C, F, V = 64, 96, 50  # channels, width of the feed-forward part, tokens

CACHE = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")  # norms of a block, without bias
JINA = ("attn_output_norm", "layer_output_norm")  # with bias

# architecture: metadata behind "<arch>.", and the mask of each of its two layers
MODELS = {
    "gemma2": (  # a cache, grouped heads, a soft cap, a window in every other layer
        {"attention.head_count_kv": 2, "attention.sliding_window": 24, "attn_logit_softcapping": 5.0},
        (AttentionMask(causal=True, window=24), AttentionMask(causal=True)),
    ),
    "jina-bert-v2": ({"attention.causal": False}, (AttentionMask(max_bias=8.0),) * 2),  # ALiBi
    "modern-bert": (  # a symmetric window in the second layer
        {"attention.causal": False, "attention.sliding_window": 16, "attention.sliding_window_pattern": 3},
        (AttentionMask(), AttentionMask(window=16, kind="symmetric")),
    ),
}


def shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """Every tensor the architecture reads."""
    kv = C // 2 if arch == "gemma2" else C
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (V, C)}
    if arch == "jina-bert-v2":
        found |= {"token_types.weight": (1, C), "token_embd_norm.weight": (C,), "token_embd_norm.bias": (C,)}
    elif arch == "modern-bert":
        found |= {"token_embd_norm.weight": (C,), "output_norm.weight": (C,)}
    else:
        found |= {"output_norm.weight": (C,)}
    for i in range(2):
        b = f"blk.{i}."
        found |= {b + "attn_output.weight": (C, C), b + "ffn_down.weight": (C, F)}
        if arch == "modern-bert":
            found |= {b + "attn_qkv.weight": (3 * C, C), b + "ffn_up.weight": (2 * F, C), b + "ffn_norm.weight": (C,)}
            found |= {b + "attn_norm.weight": (C,)} if i else {}
            continue
        found |= {b + f"attn_{x}.weight": (C if x == "q" else kv, C) for x in "qkv"}
        found |= {b + "ffn_gate.weight": (F, C), b + "ffn_up.weight": (F, C)}
        if arch == "gemma2":
            found |= {b + f"{norm}.weight": (C,) for norm in CACHE}
        else:
            found |= {b + f"{norm}.{part}": (C,) for norm in JINA for part in ("weight", "bias")}
            found |= {b + "attn_output.bias": (C,), b + "ffn_down.bias": (C,)}
            found |= {b + f"attn_{x}.bias": (C,) for x in "qkv"}
    return found


def tiny(path: Path, arch: str) -> Path:
    """Write the model: 2 layers, 4 heads of 16, a context of 1024."""
    rng = np.random.default_rng(7)
    w = GGUFWriter(path, arch)
    common = {"context_length": 1024, "embedding_length": C, "block_count": 2, "feed_forward_length": F}
    common |= {"attention.head_count": 4, "attention.layer_norm_epsilon": 1e-6, "vocab_size": V}
    common |= {"attention.layer_norm_rms_epsilon": 1e-6}
    for key, value in {**common, **MODELS[arch][0]}.items():
        add = {bool: w.add_bool, int: w.add_uint32, float: w.add_float32}[type(value)]
        add(f"{arch}.{key}", value)
    w.add_string("tokenizer.ggml.model", "no_vocab")
    w.add_uint32("tokenizer.ggml.token_type_count", 1)
    for name, shape in shapes(arch).items():
        x = rng.standard_normal(shape).astype(np.float32)
        w.add_tensor(name, 1 + x / 8 if "norm.weight" in name else x / 4)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path
